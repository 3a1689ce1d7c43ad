"""The family `repetition`: does the answer repeat itself?

Higher is better: nothing repeated is 0 (`distinct`: 1).

The n-grams are of words (see `scripts.words`). Where most of the answer is in a script without
spaces, they are of letters, and n is `n_letters`.

repeated   minus the share of n-grams that occur more than once
distinct   distinct n-grams / n-grams, the distinct-n of Li et al. 2016
run        minus the longest stretch that repeats one block of at most `max_block` units, as a share
           of all units

The three are also columns: `repeated_share`, `distinct_share`, `longest_run` (units in that
stretch, 0 if there is none). The score is None with the flag `empty` if an answer has no word.
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
    """How much one answer of `units` units repeats itself.

    `run` is in units, `repeated` and `distinct` are shares of its n-grams.
    """

    repeated: float
    distinct: float
    run: int
    units: int

    def value(self, measure: str) -> float:
        values = {
            "repeated": -self.repeated,
            "distinct": self.distinct,
            "run": -self.run / self.units,
        }
        return values[measure] + 0.0  # turns -0.0 into 0.0


def prepare(settings: Settings) -> Callable[[Sequence[Item]], Scores]:
    def run(items: Sequence[Item]) -> Scores:
        values: list[float | None] = [None] * len(items)
        repeated: list[float | None] = [None] * len(items)
        distinct: list[float | None] = [None] * len(items)
        longest: list[float | None] = [None] * len(items)
        empty = [False] * len(items)
        for i, item in enumerate(items):
            repetition = measure(item.response, settings)
            if repetition is None:
                empty[i] = True
                continue
            values[i] = repetition.value(settings.measure)
            repeated[i] = repetition.repeated
            distinct[i] = repetition.distinct
            longest[i] = float(repetition.run)
        columns = {"repeated_share": repeated, "distinct_share": distinct, "longest_run": longest}
        return Scores(values, {"empty": empty}, columns)

    return run


def measure(text: str, settings: Settings) -> Repetition | None:
    """How much a text repeats itself; None without words.

    A text of fewer than n words has no n-gram that could repeat.
    """
    units = scripts.words(text.casefold())
    if not units:
        return None
    script, _ = scripts.dominant(text) or ("", 0.0)
    n = settings.n_letters if script in scripts.SPACELESS else settings.n
    run = longest_run(units, settings.max_block)

    grams = Counter(tuple(units[i : i + n]) for i in range(len(units) - n + 1))
    if not grams:
        return Repetition(0.0, 1.0, run, len(units))
    repeated = sum(count for count in grams.values() if count > 1)
    n_grams = grams.total()
    return Repetition(repeated / n_grams, len(grams) / n_grams, run, len(units))


def longest_run(units: Sequence[str], max_block: int) -> int:
    """Units in the longest stretch that repeats one block of at most `max_block` units; or 0.

    It is a stretch of period p and length at least 2p, so a last, incomplete block counts.
    Takes O(len(units) * max_block) steps.
    """
    longest = 0
    for period in range(1, min(max_block, len(units) // 2) + 1):
        n_same = 0
        for i in range(period, len(units)):
            n_same = n_same + 1 if units[i] == units[i - period] else 0
            if n_same >= period:
                longest = max(longest, n_same + period)
    return longest
