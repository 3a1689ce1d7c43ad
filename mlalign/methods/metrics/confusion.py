"""Language confusion: is an answer, each line, each word of it in the language asked for; and is it right as well?

Rates of the Language Confusion Benchmark (Marchisio et al. 2024, "Understanding and Mitigating Language Confusion in LLMs", section 3.3;
for-ai/language-confusion, compute_metrics.py), over answers that have a line long enough to be identified:

    line_pass (LPR)   share without a line in another language
    word_pass (WPR)   among those, share without a foreign word; not defined for languages in Latin script
    lcpr              harmonic mean of the two; not defined where WPR is not

Which lines and words are foreign is a scorer's verdict (`reward_models/code_switch.py`), with an identifier of its own.

Concept and language, after CoCo-CoLa (Rahmati et al. 2025; elnazrahmati/CoCo-CoLa): the share of right answers that are in the language
asked for among those that are in it or in English, A_l / (A_l + A_en). There both accuracies are of string matches with each
language's reference, on items where the two references differ; here an answer is right by a score, and its language is the scorer's.

All arrays are I x n; returns as in `accuracy` (`…_columns`).
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from mlalign.core import languages
from mlalign.methods.metrics.accuracy import sum_columns

UNKNOWN = "unknown"  # in the place of a language: nothing to identify, or a language that the identifier does not know


def where_known(language: Sequence[str], verdicts: np.ndarray, present: np.ndarray) -> np.ndarray:
    """The verdicts, nan in languages where fewer than half of the answers have one. I, I x n, I x n (is there an answer) -> I x n.

    A language that the identifier does not know still gets 0 for answers in another script; these alone would be a share of 0.
    """
    balance: Counter[str] = Counter()
    for lang, known, n in zip(language, (~np.isnan(verdicts)).sum(1).tolist(), present.sum(1).tolist(), strict=True):
        balance[lang] += 2 * known - n
    keep = np.array([balance[lang] >= 0 for lang in language], bool)
    return np.where(keep[:, None], verdicts, np.nan)


def line_columns(line_pass: np.ndarray) -> np.ndarray:
    """LPR. I x 2 for `ratio`."""
    return sum_columns(line_pass, np.ones_like(line_pass))


def word_columns(line_pass: np.ndarray, word_pass: np.ndarray) -> np.ndarray:
    """WPR: of answers that pass by line. I x 2 for `ratio`."""
    among = np.where(line_pass == 1, word_pass, np.nan)
    return sum_columns(among, np.ones_like(among))


def has_words(language: str) -> bool:
    """Whether words are told apart by their script: not in languages in Latin script."""
    return languages.script(language) != "Latn"


def lcpr_columns(language: Sequence[str], line_pass: np.ndarray, word_pass: np.ndarray) -> np.ndarray:
    """LCPR. I x 4 for `harmonic`; nan for languages in Latin script. Where no answer passes by line it is 0."""
    lines, words = line_columns(line_pass), word_columns(line_pass, word_pass)
    keep = np.array([has_words(lang) for lang in language], bool) & ~np.isnan(lines[:, 0])
    return np.where(keep[:, None], np.nan_to_num(np.concatenate([lines, words], 1)), np.nan)


def split_columns(right: np.ndarray, in_language: np.ndarray) -> dict[str, np.ndarray]:
    """The shares of answers right or wrong and in the language asked for or elsewhere; they add up to 1. Each I x 2 for `ratio`."""
    wrong, elsewhere = 1 - right, 1 - in_language
    shares = {
        "right_in_language": right * in_language,
        "right_elsewhere": right * elsewhere,
        "wrong_in_language": wrong * in_language,
        "wrong_elsewhere": wrong * elsewhere,
    }
    return {name: sum_columns(share, np.ones_like(share)) for name, share in shares.items()}


def adherence_of_right_columns(right: np.ndarray, in_language: np.ndarray) -> np.ndarray:
    """P(in the language asked for | right). I x 2 for `ratio`."""
    return sum_columns(right * in_language, np.where(np.isnan(in_language), np.nan, right))


def coco_cola_columns(
    language: Sequence[str], right: np.ndarray, in_language: np.ndarray, detected: np.ndarray, english: str
) -> np.ndarray:
    """Right and in the language asked for, over that and right but in English. I x 2 for `ratio`; nan for English prompts."""
    instead = (detected == english) & (in_language == 0)
    own = right * in_language
    foreign = np.array([lang != english for lang in language], bool)
    return np.where(foreign[:, None], sum_columns(own, own + right * instead), np.nan)


def matrix(language: Sequence[str], detected: np.ndarray, present: np.ndarray) -> dict[str, Any]:
    """Counts of answers: `counts[i][j]` were asked for in `asked[i]` and are in `detected[j]`.

    language: I, what was asked for; detected: I x n, None where it could not be told; present: I x n, whether there is an answer.
    """
    counts: Counter[tuple[str, str]] = Counter()
    for asked, found, there in zip(language, detected, present, strict=True):
        counts.update((asked, f or UNKNOWN) for f, t in zip(found, there, strict=True) if t)
    rows = sorted({a for a, _ in counts})
    columns = sorted({f for _, f in counts}, key=lambda f: (f == UNKNOWN, f not in rows, f))
    return {"asked": rows, "detected": columns, "counts": [[counts[a, f] for f in columns] for a in rows]}
