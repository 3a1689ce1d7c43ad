"""Functions of the last axis of an array of sums (... x K -> ...); 0 / 0 gives nan."""

import numpy as np


def divided(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a / b; nan where b is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        quotient = a / b
    return np.where(b == 0, np.nan, quotient)


def ratio(sums: np.ndarray) -> np.ndarray:
    """s0 / s1: a mean, if s1 counts what s0 adds up."""
    return divided(sums[..., 0], sums[..., 1])


def _two_ratios(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """s0 / s1 and s2 / s3."""
    first = ratio(sums)
    second = divided(sums[..., 2], sums[..., 3])
    return first, second


def harmonic(sums: np.ndarray) -> np.ndarray:
    """The harmonic mean of s0 / s1 and s2 / s3.

    It is 0 where the first ratio is 0, even if the second is undefined.
    """
    a, b = _two_ratios(sums)
    mean = divided(2 * a * b, a + b)
    return np.where(a == 0, 0.0, mean)


def ratio_of_ratios(sums: np.ndarray) -> np.ndarray:
    """(s0 / s1) / (s2 / s3)."""
    numerator, denominator = _two_ratios(sums)
    return divided(numerator, denominator)


def kappa(sums: np.ndarray) -> np.ndarray:
    """Cohen's kappa (Cohen 1960) of m x m counts, given row by row: (p_o - p_e) / (1 - p_e).

    p_o is the share on the diagonal, p_e what two independent raters with these margins would
    share. nan where p_e is 1: both raters always say the same, and there is nothing to agree on.
    """
    m = round(sums.shape[-1] ** 0.5)
    table = sums.reshape(*sums.shape[:-1], m, m)
    total = table.sum(axis=(-2, -1))

    # p_o = sum_i n_ii / n
    on_diagonal = np.trace(table, axis1=-2, axis2=-1)
    observed = divided(on_diagonal, total)

    # p_e = sum_i n_i. n_.i / n^2
    rows = table.sum(axis=-1)
    columns = table.sum(axis=-2)
    expected = divided((rows * columns).sum(axis=-1), total**2)

    value = divided(observed - expected, 1 - expected)
    return np.where(expected > 1 - 1e-12, np.nan, value)
