"""Multiple choice in many scripts, and decimal digits of every script that Unicode has."""

import re
import sys
import unicodedata

import pytest

import reward_models
from mlalign.core.errors import UserError
from reward_models import Item
from reward_models.families.verifier import verify

ZEROS = [chr(c) for c in range(sys.maxunicode + 1) if unicodedata.decimal(chr(c), None) == 0]


def written(number, zero):
    return re.sub(r"\d", lambda m: chr(ord(zero) + int(m[0])), number)


def test_unicode_has_many_decimal_scripts():
    assert len(ZEROS) >= 60


@pytest.mark.parametrize("zero", ZEROS, ids=unicodedata.name)
def test_native_digits(zero):
    assert verify(f"… = {written('407', zero)} .", "407", "numeric") == 1.0
    assert (
        verify(
            f"{written('1', zero)}, {written('2', zero)}: {written('-36.5', zero)}",
            "-36.5",
            "numeric",
        )
        == 1.0
    )
    assert verify(written("408", zero), "407", "numeric") == 0.0
    assert (
        verify(f"({written('2', zero)})", "2", "multiple_choice", {"1": "one", "2": "two"}) == 1.0
    )
    assert (
        verify(
            written("2", zero),
            written("2", zero),
            "multiple_choice",
            {written(str(n), zero): "x" for n in (1, 2)},
        )
        == 1.0
    )


CITIES = ["Paris", "London", "Rome", "Berlin"]
ARABIC = {"أ": "باريس", "ب": "لندن", "ج": "روما", "د": "برلين"}
HINDI = {"क": "पेरिस", "ख": "लंदन", "ग": "रोम"}
CHOICES = [
    *[
        (text, "B", CITIES, True)
        for text in (
            "B",
            "b",
            "(B)",
            "(b)",
            "[B]",
            "**B**",
            "B.",
            "B)",
            "B. London",
            "B: London",
            "The answer is B",
            "The answer is B.",
            "The answer is (B), of course.",
            "I choose B",
            "B) London because (A) is not",
            "London",
            "It is London.",
            "A dog bites; London it is.",
            "A) no\nB) yes\nAnswer: B",
            "B\n\nLondon is a capital.",
            "The city of London (UK).",
            r"so \boxed{B}. Not C.",
            r"\boxed{\text{B}}",
            r"\boxed{London}",
        )
    ],
    *[
        (text, "B", CITIES, True)
        for text in (
            "答案是B。",
            "答案是（B）",
            "答えはＢです",
            "답은 B입니다",
            "Đáp án là B",
            "Jibu ni B kwa sababu",
            "Cevap B'dir",
            "الإجابة: B",
        )
    ],
    *[
        (text, "B", CITIES, False)
        for text in (
            "",
            "C",
            "I do not know",
            "Paris or London",
            "The answer is C, not London",
            "A",
            "Blondon",
        )
    ],
    ("A dog bites; London it is.", "A", CITIES, False),
    ("It is London.", "London", CITIES, True),
    ("(C)", "London", CITIES, False),
    *[
        (text, "ب", ARABIC, True)
        for text in ("ب", "(ب)", "ب) لندن", "الجواب: ب", "الجواب هو ب.", "لندن")
    ],
    ("د", "ب", ARABIC, False),
    ("الجواب هو ا", "أ", ARABIC, True),
    *[(text, "ख", HINDI, True) for text in ("ख", "उत्तर: (ख)", "ख. लंदन", "लंदन", "सही उत्तर ख है।")],
    ("सही उत्तर क है।", "ख", HINDI, False),
    ("В этом случае ответ Б.", "Б", {"А": "раз", "Б": "два", "В": "три"}, True),
    ("คำตอบคือ ข", "ข", {"ก": "x", "ข": "y"}, True),
    ("คำตอบคือ (ก)", "ข", {"ก": "x", "ข": "y"}, False),
    ("答え：イ", "イ", {"ア": "x", "イ": "y"}, True),
    ("答案是甲。", "甲", {"甲": "x", "乙": "y"}, True),
    ("정답은 나", "나", {"가": "x", "나": "y"}, True),
    ("The answer is B", "B", None, True),
    ("The answer is C", "B", None, False),
    ("सही: (ख)", "ख", None, True),
    ("2", "2", None, True),
    ("3", "2", None, False),
]


@pytest.mark.parametrize(("response", "answer", "options", "right"), CHOICES)
def test_multiple_choice(response, answer, options, right):
    assert verify(response, answer, "multiple_choice", options) == float(right)


def test_the_row_brings_the_options():
    verifier = reward_models.open_scorer({"family": "verifier"})
    reference = {"answer": "B", "match": "multiple_choice", "options": CITIES}
    rows = [
        {"prompt": "?", "responses": ["(B)", "Rome", "no idea"], "reference": reference},
        {"prompt": "?", "response": "B"},
    ]
    assert verifier.score(rows) == [1.0, 0.0, 0.0, None]
    with pytest.raises(
        UserError,
        match=(
            "the answer 'E' of its reference is neither the label nor the text of one of its"
            " options"
        ),
    ):
        verifier.score(
            [{"prompt": "?", "response": "E", "reference": {**reference, "answer": "E"}}]
        )
    with pytest.raises(UserError, match="did you mean 'multiple_choice'"):
        verifier.score_items(
            [Item("x", [], "E", reference='{"answer": "A", "match": "multiple_choise"}')]
        )
