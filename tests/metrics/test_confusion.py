import unicodedata

import numpy as np
import pytest

from mlalign.methods.metrics import confusion, ratios
from reward_models.families import adherence
from reward_models.items import Item

NAN = np.nan

# language -> answers; languages whose script alone tells them apart, so that a line's language can
# be told by hand
THAI, GREEK, KOREAN = (
    "นี่คือประโยคภาษาไทย",
    "αυτή είναι μια ελληνική πρόταση εδώ",
    "이것은 한국어로 쓴 문장 하나 입니다",
)
TEXTS = {
    "tha_Thai": [THAI, f"{THAI}\n{GREEK}", f"{THAI} really {THAI}", GREEK, f"{THAI} NASA", "1 2 3"],
    "ell_Grek": [GREEK, f"{GREEK}\n{GREEK} however", f"{GREEK}\n{KOREAN}", "ναι"],
}


def script(letter: str) -> str:
    return unicodedata.name(letter).split()[0]


def benchmark(language: str, texts: list[str]) -> tuple[float, float, float]:
    """LPR, WPR and LCPR as `compute_metrics.py` of the benchmark has them, with scripts in the
    place of fastText and its word list.
    """
    own = {"tha_Thai": "THAI", "ell_Grek": "GREEK"}[language]
    judged = line_errors = word_errors = 0
    for text in texts:
        lines = []
        for line in text.split("\n"):
            letters = [c for c in line if c.isalpha()]
            n_words = (
                len(letters)
                if own == "THAI" and letters and script(letters[0]) == "THAI"
                else len(line.split())
            )
            if n_words >= 5 and letters:
                lines.append((line, letters))
        if not lines:
            continue
        judged += 1
        if any(2 * sum(script(c) == own for c in letters) < len(letters) for _, letters in lines):
            line_errors += 1
        elif any(
            w.isascii() and w.islower() and len(w) > 3 for line, _ in lines for w in line.split()
        ):
            word_errors += 1
    lpr, wpr = 1 - line_errors / judged, 1 - word_errors / (judged - line_errors)
    return lpr, wpr, 2 * lpr * wpr / (lpr + wpr)


@pytest.mark.parametrize("language", TEXTS)
@pytest.mark.slow
def test_rates_against_the_benchmark_computed_from_the_texts(language):
    texts = TEXTS[language]
    score = adherence.prepare(adherence.Settings(level="word"))
    scores = score([Item(str(i), [], text, language) for i, text in enumerate(texts)])
    lines, words = (
        np.array([[NAN if v is None else v] for v in scores.columns[c]])
        for c in ("line_pass", "word_pass")
    )
    found = [
        ratios.ratio(np.nansum(confusion.line_columns(lines), 0)),
        ratios.ratio(np.nansum(confusion.word_columns(lines, words), 0)),
        ratios.harmonic(
            np.nansum(confusion.lcpr_columns([language] * len(texts), lines, words), 0)
        ),
    ]
    assert found == pytest.approx(benchmark(language, texts))


def test_lcpr_by_hand():
    # Thai: 3 of 4 answers pass by line, 2 of these 3 by word; an answer that does not pass by line
    #     has no say on words
    lines, words = (
        np.array([[1.0, 1.0], [1.0, 0.0], [NAN, NAN]]),
        np.array([[1.0, 0.0], [1.0, 0.0], [1.0, NAN]]),
    )
    columns = confusion.lcpr_columns(["tha_Thai"] * 3, lines, words)
    assert columns == pytest.approx(np.array([[2, 2, 1, 2], [1, 2, 1, 1], [NAN] * 4]), nan_ok=True)
    assert ratios.harmonic(columns[:2].sum(0)) == pytest.approx(
        2 * (3 / 4) * (2 / 3) / (3 / 4 + 2 / 3)
    )
    assert np.isnan(confusion.lcpr_columns(["fra_Latn"] * 3, lines, words)).all()


def test_lcpr_is_zero_where_no_answer_passes_by_line():
    lines, words = np.array([[0.0], [0.0]]), np.full((2, 1), NAN)
    assert ratios.harmonic(confusion.lcpr_columns(["tha_Thai"] * 2, lines, words).sum(0)) == 0.0


def test_verdicts_of_languages_that_the_identifier_does_not_know():
    """`a` has verdicts on two of four answers, `b` on one of three."""
    verdicts = np.array([[1.0, NAN], [0.0, NAN], [0.0, NAN], [NAN, NAN]])
    present = np.array([[True, True], [True, True], [True, True], [True, False]])
    found = confusion.where_known(["a", "a", "b", "b"], verdicts, present)
    assert found == pytest.approx(
        np.array([[1, NAN], [0, NAN], [NAN, NAN], [NAN, NAN]]), nan_ok=True
    )


RIGHT = np.array([[1.0, 1.0, 0.0, 0.0], [1.0, NAN, 1.0, 1.0]])
ADHERING = np.array([[1.0, 0.0, 1.0, 0.0], [0.0, 1.0, NAN, 1.0]])
DETECTED = np.array([["swh", "eng_Latn", "swh", "fra"], ["fra", "swh", None, "swh"]], object)


def test_concept_and_language_by_hand():
    """Six answers have both: right and in it 2, right elsewhere 2, wrong in it 1, wrong elsewhere
    1.
    """
    shares = {
        name: float(ratios.ratio(c.sum(0)))
        for name, c in confusion.split_columns(RIGHT, ADHERING).items()
    }
    assert shares == pytest.approx(
        {
            "right_in_language": 2 / 6,
            "right_elsewhere": 2 / 6,
            "wrong_in_language": 1 / 6,
            "wrong_elsewhere": 1 / 6,
        }
    )
    assert ratios.ratio(
        confusion.adherence_of_right_columns(RIGHT, ADHERING).sum(0)
    ) == pytest.approx(2 / 4)


def test_coco_cola_is_own_over_own_and_english():
    """Right: 2 in Swahili, 1 in English, 1 in French (which counts in neither)."""
    columns = confusion.coco_cola_columns(["swh", "swh"], RIGHT, ADHERING, DETECTED, "eng_Latn")
    assert ratios.ratio(columns.sum(0)) == pytest.approx(2 / 3)
    assert np.isnan(
        confusion.coco_cola_columns(["eng_Latn"] * 2, RIGHT, ADHERING, DETECTED, "eng_Latn")
    ).all()


def test_matrix_by_hand():
    detected = np.array([["b", "b", None], ["a", "c", None]], object)
    present = np.array([[True, True, True], [True, True, False]])
    found = confusion.matrix(["b", "a"], detected, present)
    assert found == {
        "asked": ["a", "b"],
        "detected": ["a", "b", "c", "unknown"],
        "counts": [[1, 0, 1, 0], [0, 2, 0, 1]],
    }
