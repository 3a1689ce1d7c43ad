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

from mlalign.methods.metrics.accuracy import kept, sum_columns


def premium_columns(prompt_bytes: np.ndarray, counterpart: np.ndarray) -> np.ndarray:
    """Bytes of a prompt, and of its counterpart in English. I x 2 for `ratio`.

    prompt_bytes: I; counterpart: I indices. nan without a counterpart (-1).
    """
    in_english = np.where(counterpart < 0, np.nan, prompt_bytes[counterpart])
    columns = np.stack([prompt_bytes, in_english], axis=1)
    lacks_one = np.isnan(columns).any(axis=1)
    return kept(columns, ~lacks_one)


def content_columns(
    language: Sequence[str],
    answer_bytes: np.ndarray,
    premium: np.ndarray,
) -> np.ndarray:
    """The length of answers in bytes of English: mean bytes over the byte premium.

    answer_bytes: I x n; premium: I x 2. Returns I x 4 for `ratio_of_ratios`. A prompt without a
    counterpart (native ones have none) counts too; languages without any counterpart are nan.
    """
    n_answers = np.ones_like(answer_bytes)
    sums = sum_columns(answer_bytes, n_answers)
    has_premium = ~np.isnan(premium[:, 0])
    measurable = {language[i] for i in np.flatnonzero(has_premium)}
    is_measurable = np.array([code in measurable for code in language], bool)
    has_answer = ~np.isnan(sums[:, 0])

    columns = np.concatenate([sums, premium], axis=1)
    # A prompt without a counterpart adds nothing to the premium.
    columns = np.nan_to_num(columns)
    return kept(columns, is_measurable & has_answer)
