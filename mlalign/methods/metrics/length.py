"""Lengths that can be compared across languages.

A text of the same content takes more bytes in one language than in another: its byte premium over English (Arnett, Chang & Bergen
2024, "A Bit of a Problem: Measurement Disparities in Dataset Sizes Across Languages"). It is estimated here as there, from parallel
text: the bytes of prompts over the bytes of the same prompts in English, so that no table is needed and every language has one that
is measured on the text at hand. Answers are not used: that one of them is long in one language is what is to be measured.
"""

from collections.abc import Sequence

import numpy as np

from mlalign.methods.metrics.accuracy import sum_columns


def premium_columns(prompt_bytes: np.ndarray, counterpart: np.ndarray) -> np.ndarray:
    """Bytes of a prompt, and of its counterpart in English. I, I (indices) -> I x 2 for `ratio`; nan without a counterpart."""
    english = np.where(counterpart < 0, np.nan, prompt_bytes[counterpart])
    both = np.stack([prompt_bytes, english], 1)
    return np.where(np.isnan(both).any(1)[:, None], np.nan, both)


def content_columns(language: Sequence[str], answer_bytes: np.ndarray, premium: np.ndarray) -> np.ndarray:
    """The length of answers in bytes of English: mean bytes over the byte premium. I x n, I x 2 -> I x 4 for `ratio_of_ratios`.

    A prompt without counterpart (native ones have none) counts too; languages without any are nan.
    """
    sums = sum_columns(answer_bytes, np.ones_like(answer_bytes))
    paired = ~np.isnan(premium[:, 0])
    known = {lang for lang, p in zip(language, paired, strict=True) if p}
    keep = np.array([lang in known for lang in language], bool) & ~np.isnan(sums[:, 0])
    return np.where(keep[:, None], np.nan_to_num(np.concatenate([sums, premium], 1)), np.nan)
