"""Intervals hold the truth 95 times in 100, on synthetic policies with a known one.

Prompts come in groups (one item in every language). In a group all answers share a shift of
quality, so they are not independent; an answer scores quality + PER_TOKEN * length, so that longer
answers win. All numbers are standard deviations of quality.
"""

from collections import Counter
from math import sqrt
from statistics import NormalDist

import numpy as np
import pytest

from mlalign.methods.metrics import accuracy, bootstrap, ratios, table, win_rate
from mlalign.methods.metrics.bootstrap import Draws, Estimate, Observed

TRIALS = 500  # a coverage of 0.95 is told with a standard error of 0.01
LANGUAGES = ("eng_Latn", "hin_Deva", "swh_Latn")
ADVANTAGE, GROUP, PER_TOKEN, LONGER, LENGTH = (
    0.3,
    0.7,
    0.05,
    4.0,
    10.0,
)  # LONGER: our mean length less theirs; LENGTH: its deviation
NOISE_OF_SCORE = sqrt(2 + 2 * (PER_TOKEN * LENGTH) ** 2 + GROUP**2)
RAW = NormalDist().cdf(
    (ADVANTAGE + PER_TOKEN * LONGER) / NOISE_OF_SCORE
)  # P(our score is higher), every language


def world(
    rng: np.random.Generator, n_groups: int, n_answers: int
) -> tuple[list[str], list[str], tuple, tuple]:
    """language, group, (our scores, theirs), (our lengths, theirs): prompts x answers."""
    size = (len(LANGUAGES) * n_groups, n_answers)
    shift = np.tile(rng.normal(0, GROUP, n_groups), len(LANGUAGES))[:, None]
    lengths = tuple(rng.normal(50 + extra, LENGTH, size) for extra in (LONGER, 0.0))
    scores = (
        ADVANTAGE + shift + rng.normal(size=size) + PER_TOKEN * lengths[0],
        rng.normal(size=size) + PER_TOKEN * lengths[1],
    )
    groups = [f"g{i:04}" for i in range(n_groups)]
    return [lang for lang in LANGUAGES for _ in groups], groups * len(LANGUAGES), scores, lengths


def wins(language: list[str], group: list[str], scores: tuple, draws: Draws) -> Estimate:
    return bootstrap.estimate(
        Observed(language, group, accuracy.mean_columns(win_rate.raw(*scores))), draws
    )


def covered(found: Estimate, truth: float, language: str) -> bool:
    rows = {r["language"]: r for r in table.summarise("m", "", found, "none", 0.95)}
    return rows[language]["low"] <= truth <= rows[language]["high"]


def judged(rng: np.random.Generator, n_groups: int) -> np.ndarray:
    """Verdicts right or wrong on items in one language and in English, as 2 x 2 tables: right in
    0.8, agreeing by a shared difficulty.
    """
    easy = rng.random(n_groups) < 0.5
    p = np.where(easy, 0.95, 0.65)
    a, b = (rng.random(n_groups) < p for _ in range(2))
    return np.stack([a & b, a & ~b, ~a & b, ~a & ~b], 1).astype(float)


def kappa_truth() -> float:
    cells = np.mean([[p * p, p * (1 - p), (1 - p) * p, (1 - p) ** 2] for p in (0.95, 0.65)], 0)
    return float(ratios.kappa(cells))


def length_controlled_truth() -> float:
    """What `length_controlled` gives for infinitely many prompts: fitted to P(win) at each
    difference of length d ~ N(LONGER, 2 LENGTH^2).
    """
    deviation, noise = sqrt(2) * LENGTH, sqrt(2 + GROUP**2)
    d = LONGER + deviation * np.linspace(-5, 5, 4001)
    weight = np.exp(-0.5 * ((d - LONGER) / deviation) ** 2)
    weight *= 1e6 / weight.sum()  # so many prompts that the ridge counts for nothing
    p = np.array([NormalDist().cdf(z) for z in (ADVANTAGE + PER_TOKEN * d) / noise])
    return float(
        win_rate.length_controlled((weight * p)[None], weight[None], np.tanh(d / deviation))[0]
    )


@pytest.mark.long
@pytest.mark.parametrize("n_groups", [30, 100])
def test_win_rates_cover(n_groups):
    """Raw and length-controlled, of a language and of the average; the paired difference of two
    policies.
    """
    lc_truth, times = length_controlled_truth(), Counter()
    worse = NormalDist().cdf(
        (ADVANTAGE - 0.2 + PER_TOKEN * LONGER) / NOISE_OF_SCORE
    )  # of a policy 0.2 below ours
    for trial in range(TRIALS):
        rng = np.random.default_rng([n_groups, trial])
        language, group, (ours, theirs), lengths = world(rng, n_groups, 3)
        draws = bootstrap.draw(group, 400, trial)
        raw, other = (
            wins(language, group, (ours, theirs), draws),
            wins(language, group, (ours - 0.2, theirs), draws),
        )
        controlled = win_rate.length_controlled_estimate(
            language, group, (ours, theirs), lengths, draws
        )
        times["raw"] += covered(raw, RAW, "swh_Latn")
        times["raw, average"] += covered(raw, RAW, "avg")
        times["length-controlled"] += covered(controlled, lc_truth, "swh_Latn")
        times["length-controlled, average"] += covered(controlled, lc_truth, "avg")
        times["paired difference"] += covered(bootstrap.difference(raw, other), RAW - worse, "avg")
    assert {name: 0.93 <= n / TRIALS <= 0.97 for name, n in times.items()} == dict.fromkeys(
        times, True
    ), times


@pytest.mark.long
def test_kappa_covers():
    """Of 400 items; with 100, where few are wrong in both languages, it is 0.93, and with 30 only
    0.86.
    """
    held, n = 0, 400
    group = [f"g{i:03}" for i in range(n)]
    for trial in range(TRIALS):
        agreement = Observed(["eng_Latn"] * n, group, judged(np.random.default_rng([1, trial]), n))
        held += covered(
            bootstrap.estimate(agreement, bootstrap.draw(group, 300, trial), ratios.kappa),
            kappa_truth(),
            "eng_Latn",
        )
    assert 0.93 <= held / TRIALS <= 0.97


@pytest.mark.slow
def test_intervals_that_ignore_groups_do_not_cover():
    """Every answer as a group of its own: far too narrow where groups share their luck."""
    missed = 0
    for trial in range(100):
        language, group, (ours, theirs), _ = world(np.random.default_rng([0, trial]), 60, 8)
        alone = [f"{g}{k}" for k, g in enumerate(group)]
        missed += not covered(
            wins(language, alone, (ours, theirs), bootstrap.draw(alone, 200, trial)), RAW, "avg"
        )
    assert missed > 15
