"""Language confusion: is an answer, each line and each word of it in the requested language?

Rates of the Language Confusion Benchmark (Marchisio et al. 2024, "Understanding and Mitigating
Language Confusion in LLMs", section 3.3; for-ai/language-confusion, compute_metrics.py), over
answers that have a line long enough to be identified:

    line_pass (LPR)   share without a line in another language
    word_pass (WPR)   among those, share without a foreign word; undefined in Latin script
    lcpr              harmonic mean of the two; undefined where WPR is

The scorer `reward_models/code_switch.py` decides which lines and words are foreign.

Concept and language, after CoCo-CoLa (Rahmati et al. 2025; elnazrahmati/CoCo-CoLa): among right
answers in the requested language or in English, the share in the requested language, A_l / (A_l +
A_en). The paper matches strings with each language's reference, on items where the two references
differ. Here a score says whether an answer is right, and the scorer says in which language it is.

All arrays are I x n; functions called `…_columns` return what those of `accuracy` do.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from mlalign.core import languages
from mlalign.methods.metrics.accuracy import kept, sum_columns

# In the place of a language: there was nothing to identify, or the identifier does not know it.
UNKNOWN = "unknown"


def where_known(
    language: Sequence[str],
    verdicts: np.ndarray,
    present: np.ndarray,
) -> np.ndarray:
    """The verdicts, nan in languages where fewer than half of the answers have one.

    language: I; verdicts: I x n; present: I x n, whether there is an answer. Returns I x n.

    In a language that the identifier does not know, answers in another script still get a 0. Those
    alone would make a share of 0.
    """
    n_known = (~np.isnan(verdicts)).sum(axis=1)
    n_unknown = present.sum(axis=1) - n_known
    surplus = (n_known - n_unknown).tolist()
    balance: Counter[str] = Counter()
    for code, item_surplus in zip(language, surplus, strict=True):
        balance[code] += item_surplus
    is_known = np.array([balance[code] >= 0 for code in language], bool)
    return kept(verdicts, is_known)


def line_columns(line_pass: np.ndarray) -> np.ndarray:
    """LPR. I x 2 for `ratio`."""
    return _share_columns(line_pass)


def word_columns(line_pass: np.ndarray, word_pass: np.ndarray) -> np.ndarray:
    """WPR, over the answers that pass by line. I x 2 for `ratio`."""
    passing = np.where(line_pass == 1, word_pass, np.nan)
    return _share_columns(passing)


def _share_columns(values: np.ndarray) -> np.ndarray:
    weights = np.ones_like(values)
    return sum_columns(values, weights)


def has_words(language: str) -> bool:
    """Whether foreign words show by their script: in every language that is not in Latin script."""
    return languages.script(language) != "Latn"


def lcpr_columns(
    language: Sequence[str],
    line_pass: np.ndarray,
    word_pass: np.ndarray,
) -> np.ndarray:
    """LCPR. I x 4 for `harmonic`; nan in Latin script, and 0 where no answer passes by line."""
    lines = line_columns(line_pass)
    words = word_columns(line_pass, word_pass)
    may_have_words = np.array([has_words(code) for code in language], bool)
    has_lines = ~np.isnan(lines[:, 0])
    columns = np.concatenate([lines, words], axis=1)
    columns = np.nan_to_num(columns)
    return kept(columns, may_have_words & has_lines)


def split_columns(right: np.ndarray, in_language: np.ndarray) -> dict[str, np.ndarray]:
    """Shares of answers that are right or wrong, in the requested language or elsewhere.

    Each is I x 2 for `ratio`. The four shares add up to 1.
    """
    wrong = 1 - right
    elsewhere = 1 - in_language
    return {
        "right_in_language": _share_columns(right * in_language),
        "right_elsewhere": _share_columns(right * elsewhere),
        "wrong_in_language": _share_columns(wrong * in_language),
        "wrong_elsewhere": _share_columns(wrong * elsewhere),
    }


def adherence_of_right_columns(right: np.ndarray, in_language: np.ndarray) -> np.ndarray:
    """P(in the requested language | right). I x 2 for `ratio`."""
    counted = np.where(np.isnan(in_language), np.nan, right)
    return sum_columns(right * in_language, counted)


def coco_cola_columns(
    language: Sequence[str],
    right: np.ndarray,
    in_language: np.ndarray,
    detected: np.ndarray,
    english: str,
) -> np.ndarray:
    """Right in the requested language, over that plus right in English. I x 2 for `ratio`.

    detected: I x n language codes; english: its code. nan for prompts in English.
    """
    in_english = (detected == english) & (in_language == 0)
    right_in_language = right * in_language
    right_in_english = right * in_english
    # A_l / (A_l + A_en)
    columns = sum_columns(right_in_language, right_in_language + right_in_english)
    is_foreign = np.array([code != english for code in language], bool)
    return kept(columns, is_foreign)


def matrix(language: Sequence[str], detected: np.ndarray, present: np.ndarray) -> dict[str, Any]:
    """`counts[i][j]` answers were requested in `asked[i]` and are in `detected[j]`.

    language: I, as requested; detected: I x n codes, None for unknown; present: I x n, whether
    there is an answer.
    """
    counts: Counter[tuple[str, str]] = Counter()
    for requested, codes, is_answer in zip(language, detected, present, strict=True):
        for code in codes[is_answer.astype(bool)]:
            counts[requested, code or UNKNOWN] += 1

    rows = sorted({requested for requested, _ in counts})

    def place(code: str) -> tuple[bool, bool, str]:
        """The requested languages first, in the order of the rows, and `unknown` last."""
        return code == UNKNOWN, code not in rows, code

    columns = sorted({code for _, code in counts}, key=place)
    table = []
    for requested in rows:
        table.append([counts[requested, code] for code in columns])
    return {"asked": rows, "detected": columns, "counts": table}
