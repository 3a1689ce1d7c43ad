"""Translation metrics against the formulas of their papers written out here, and which references
and tokenizers are taken.
"""

import math
import random
import subprocess
import sys
from collections import Counter

import pytest

import reward_models
from mlalign.core.errors import UserError
from reward_models import Item
from reward_models.families.translation import references, tokenizer_for

PAIRS = [
    ("The cat sat on the mat.", "The cat is sitting on the mat."),
    ("Das ist ein Test.", "Das ist ein Test."),
    ("En büyük sayı 9 olur.", "En küçük sayı 3 olur."),
    ("completely different", "nothing in common here"),
    ("a", "the cat"),
]


def chrf(hypothesis, reference, order=6, beta=2.0):
    """Popovic 2015: F_beta of the mean precision and recall of character n-grams, spaces left out."""
    precisions, recalls = [], []
    h, r = "".join(hypothesis.split()), "".join(reference.split())
    for n in range(1, order + 1):
        a, b = (Counter(t[i : i + n] for i in range(len(t) - n + 1)) for t in (h, r))
        if a and b:
            common = (a & b).total()
            precisions.append(common / a.total())
            recalls.append(common / b.total())
    if not precisions:
        return 0.0
    p, q = sum(precisions) / len(precisions), sum(recalls) / len(recalls)
    return 100 * (1 + beta**2) * p * q / (beta**2 * p + q) if p + q else 0.0


def bleu(hypothesis, reference):
    """Papineni et al. 2002 on tokens, orders up to 4 that the sentence has, zero counts halved in
    turn (exponential smoothing).
    """
    logs, smooth = [], 1.0
    for n in range(1, min(4, len(hypothesis)) + 1):
        a, b = (
            Counter(tuple(t[i : i + n]) for i in range(len(t) - n + 1))
            for t in (hypothesis, reference)
        )
        common = (a & b).total()
        if common == 0:
            smooth *= 2
        logs.append(math.log(common / a.total() if common else 1 / (smooth * a.total())))
    brevity = (
        1.0 if len(hypothesis) >= len(reference) else math.exp(1 - len(reference) / len(hypothesis))
    )
    return 100 * brevity * math.exp(sum(logs) / len(logs))


def items(pairs=PAIRS, language="eng_Latn"):
    return [
        Item(str(i), [], hypothesis, language, reference)
        for i, (hypothesis, reference) in enumerate(pairs)
    ]


def opened(**told):
    return reward_models.open_scorer({"family": "translation", **told}).score_items


def test_chrf():
    assert opened()(items()).values == pytest.approx([chrf(h, r) for h, r in PAIRS], abs=1e-6)
    assert opened()(items()).values[1] == pytest.approx(100)
    assert opened(metric="chrf++")(items()).values[0] != opened()(items()).values[0]


def test_bleu():
    pairs = [
        (" ".join(h), " ".join(r))
        for h, r in (("abcdefg", "abcxefg"), ("abcd", "abcdefg"), ("abab", "baba"))
    ]
    told = opened(metric="bleu")(items(pairs)).values
    assert told == pytest.approx([bleu(h.split(), r.split()) for h, r in pairs], abs=1e-6)


def test_bleu_of_scripts_without_spaces_is_not_of_one_word():
    pairs = [("最大的数字是九。", "最大的数字是三。")]
    expected = bleu(list(pairs[0][0]), list(pairs[0][1]))
    assert opened(metric="bleu")(items(pairs, "cmn_Hans")).values[0] == pytest.approx(
        expected, abs=1e-6
    )
    thai = [("ตัวเลขที่ใหญ่ที่สุดคือเก้า", "ตัวเลขที่ใหญ่ที่สุดคือสาม")]
    assert (
        opened(metric="bleu")(items(thai, "tha_Thai")).values[0]
        > 50
        > opened(metric="bleu", tokenize="13a")(items(thai, "tha_Thai")).values[0]
    )
    told = {
        "cmn_Hant": "zh",
        "jpn_Jpan": "char",
        "lao_Laoo": "char",
        "mya_Mymr": "char",
        "kor_Kore": "13a",
        "swh_Latn": "13a",
        None: "13a",
    }
    assert {code: tokenizer_for(code) for code in told} == told


def test_references():
    assert (
        references("a text") == ["a text"] and references("42") == ["42"] and references(None) == []
    )
    assert (
        references('{"text": "a", "match": "x"}')
        == references('{"answer": "a"}')
        == references('["a"]')
        == ["a"]
    )
    several = Item("i", [], PAIRS[0][0], "eng_Latn", '["nothing alike", "The cat sat on the mat."]')
    found = opened()([several, Item("j", [], "x", "eng_Latn")])
    assert found.values == [pytest.approx(100), None] and found.flags["no_reference"] == [
        False,
        True,
    ]


def test_a_score_depends_on_its_item_alone():
    many = items(PAIRS * 5)
    for metric in ("chrf", "chrf++", "bleu"):
        score = opened(metric=metric)
        together = score(many).values
        assert [score([item]).values[0] for item in many] == together
        order = random.Random(0).sample(range(len(many)), len(many))
        assert score([many[i] for i in order]).values == [together[i] for i in order]


def test_what_is_refused():
    with pytest.raises(UserError, match="sacrebleu has no 'char_'; did you mean 'char'"):
        opened(metric="bleu", tokenize="char_")
    with pytest.raises(UserError, match="did you mean 'chrf'"):
        opened(metric="chr")


@pytest.mark.slow
def test_a_missing_package_is_named():
    code = (
        "import sys; sys.modules['sacrebleu'] = None; import reward_models;"
        " reward_models.open_scorer({'family': 'translation'})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], text=True, capture_output=True, timeout=120, check=False
    )
    assert "needs the package: pip install sacrebleu" in done.stderr
