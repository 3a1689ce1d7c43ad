"""The family `repetition`: does the answer repeat itself?

Higher is better: nothing repeated is 0 (`distinct`: 1).

An answer is a sequence of words (see `scripts.words`) of which n-grams are taken; where most of it
is in a script without spaces the units are letters, and n is `n_letters`.

repeated   minus the share of n-grams that occur more than once
distinct   distinct n-grams / n-grams, the distinct-n of Li et al. 2016
run        minus the longest stretch that is one block of at most `max_block` units again and again, as a share of all units

The three are also columns: `repeated_share`, `distinct_share`, `longest_run` (units in that
stretch, 0 if there is none). None and the flag `empty` for an answer without any word.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal

from reward_models.families import scripts
from reward_models.items import Item, Scores

REPORTS = ("empty", "repeated_share", "distinct_share", "longest_run")


@dataclasses.dataclass(frozen=True)
class Settings:
    measure: Literal["repeated", "distinct", "run"] = "repeated"
    n: int = 3  # words in an n-gram
    n_letters: int = 6  # letters in an n-gram, in scripts without spaces
    max_block: int = 32


@dataclasses.dataclass(frozen=True)
class Repetition:
    """Of one answer; `run` is in units, the others are shares of its n-grams."""

    repeated: float
    distinct: float
    run: int
    units: int

    def value(self, measure: str) -> float:
        return {
            "repeated": -self.repeated,
            "distinct": self.distinct,
            "run": -self.run / self.units,
        }[measure] + 0.0


def prepare(settings: Settings) -> Callable[[Sequence[Item]], Scores]:
    def run(items: Sequence[Item]) -> Scores:
        found = [measure(item.response, settings) for item in items]
        return Scores(
            [f.value(settings.measure) if f else None for f in found],
            {"empty": [f is None for f in found]},
            {
                "repeated_share": [f.repeated if f else None for f in found],
                "distinct_share": [f.distinct if f else None for f in found],
                "longest_run": [float(f.run) if f else None for f in found],
            },
        )

    return run


def measure(text: str, settings: Settings) -> Repetition | None:
    """How much a text repeats itself; None without words.

    One with fewer than n words has no n-gram that could repeat.
    """
    units = scripts.words(text.casefold())
    if not units:
        return None
    script = (scripts.dominant(text) or ("", 0.0))[0]
    n = settings.n_letters if script in scripts.SPACELESS else settings.n
    grams = Counter(tuple(units[i : i + n]) for i in range(len(units) - n + 1))
    total = grams.total() or 1
    repeated = sum(count for count in grams.values() if count > 1)
    return Repetition(
        repeated / total,
        len(grams) / total if grams else 1.0,
        longest_run(units, settings.max_block),
        len(units),
    )


def longest_run(units: Sequence[str], max_block: int) -> int:
    """Units in the longest stretch that is one block of at most `max_block` units twice or more in
    a row; 0 if there is none.

    A stretch of period p and length at least 2p; a last, incomplete block counts. O(len(units) *
    max_block).
    """
    longest = 0
    for period in range(1, min(max_block, len(units) // 2) + 1):
        same = 0
        for i in range(period, len(units)):
            same = same + 1 if units[i] == units[i - period] else 0
            if same >= period:
                longest = max(longest, same + period)
    return longest
