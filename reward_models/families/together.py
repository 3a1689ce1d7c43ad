"""A scorer that uses others."""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from reward_models.items import Item, Scores

if TYPE_CHECKING:
    from reward_models import Scorer


class Together:
    """A scorer made of others: `run` turns items into scores; `close` closes all of them."""

    def __init__(self, scorers: Iterable["Scorer"], run: Callable[[Sequence[Item]], Scores]):
        self._scorers = tuple(scorers)
        self._run = run

    def __call__(self, items: Sequence[Item]) -> Scores:
        return self._run(items)

    def close(self) -> None:
        for scorer in self._scorers:
            scorer.close()
