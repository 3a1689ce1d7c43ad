"""Lengths that can be compared across languages.

The same content takes more bytes in one language than in another. The ratio to English is the
language's byte premium (Arnett, Chang & Bergen 2024, "A Bit of a Problem: Measurement Disparities
in Dataset Sizes Across Languages"). As in the paper it is estimated from parallel text: the bytes
of prompts over the bytes of the same prompts in English. So no table is needed, and every language
is measured on the text at hand. Answers are not used for the estimate, because their length is what
we want to measure.
"""

from collections.abc import Sequence

import numpy as np

from mlalign.methods.metrics.accuracy import sum_columns


def premium_columns(prompt_bytes: np.ndarray, counterpart: np.ndarray) -> np.ndarray:
    """Bytes of a prompt, and of its counterpart in English. I x 2 for `ratio`.

    prompt_bytes: I; counterpart: I indices. nan without a counterpart (-1).
    """
    english = np.where(counterpart < 0, np.nan, prompt_bytes[counterpart])
    both = np.stack([prompt_bytes, english], 1)
    return np.where(np.isnan(both).any(1)[:, None], np.nan, both)


def content_columns(
    language: Sequence[str],
    answer_bytes: np.ndarray,
    premium: np.ndarray,
) -> np.ndarray:
    """The length of answers in bytes of English: mean bytes over the byte premium.

    answer_bytes: I x n; premium: I x 2. Returns I x 4 for `ratio_of_ratios`. A prompt without a
    counterpart (native ones have none) counts too; languages without any counterpart are nan.
    """
    sums = sum_columns(answer_bytes, np.ones_like(answer_bytes))
    has_premium = ~np.isnan(premium[:, 0])
    known = {language[i] for i in np.flatnonzero(has_premium)}
    keep = np.array([code in known for code in language], bool) & ~np.isnan(sums[:, 0])
    columns = np.nan_to_num(np.concatenate([sums, premium], 1))
    return np.where(keep[:, None], columns, np.nan)
