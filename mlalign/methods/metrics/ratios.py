"""Functions of the last axis of an array of sums (... x K -> ...); 0 / 0 gives nan."""

import numpy as np


def _divided(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(b == 0, np.nan, a / b)


def ratio(sums: np.ndarray) -> np.ndarray:
    """s0 / s1: a mean, if s1 counts what s0 adds up."""
    return _divided(sums[..., 0], sums[..., 1])


def _two_ratios(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return ratio(sums), _divided(sums[..., 2], sums[..., 3])


def harmonic(sums: np.ndarray) -> np.ndarray:
    """The harmonic mean of s0 / s1 and s2 / s3.

    It is 0 where the first ratio is 0, even if the second is undefined.
    """
    a, b = _two_ratios(sums)
    return np.where(a == 0, 0.0, _divided(2 * a * b, a + b))


def ratio_of_ratios(sums: np.ndarray) -> np.ndarray:
    """(s0 / s1) / (s2 / s3)."""
    return _divided(*_two_ratios(sums))


def kappa(sums: np.ndarray) -> np.ndarray:
    """Cohen's kappa (Cohen 1960) of m x m counts, given row by row: (p_o - p_e) / (1 - p_e).

    p_o is the share on the diagonal, p_e what two independent raters with these margins would
    share. nan where p_e is 1: both raters always say the same, and there is nothing to agree on.
    """
    m = round(sums.shape[-1] ** 0.5)
    table = sums.reshape(*sums.shape[:-1], m, m)
    total = table.sum((-2, -1))
    observed = _divided(np.trace(table, axis1=-2, axis2=-1), total)
    expected = _divided((table.sum(-1) * table.sum(-2)).sum(-1), total**2)
    return np.where(expected > 1 - 1e-12, np.nan, _divided(observed - expected, 1 - expected))
