"""The family `random`: a score in [0, 1) drawn with a seed, which every real scorer must beat.

`per: answer` draws for every answer by its id; `per: text` for every text by its prompt, so that
equal answers to a prompt have equal scores, as a model's would.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal

from mlalign.core import rows
from reward_models.items import Item, Scores, readable


@dataclasses.dataclass(frozen=True)
class Settings:
    seed: int = 0
    per: Literal["answer", "text"] = "answer"  # what has a score of its own


def prepare(settings: Settings) -> Callable[[Sequence[Item]], Scores]:
    def drawn_from(item: Item) -> str:
        if settings.per == "answer":
            return item.id
        return rows.to_json([item.prompt, readable(item.answer)])

    def draw(item: Item) -> float:
        return rows.seed_of(f"{drawn_from(item)}:{settings.seed}") / 2**31

    return lambda items: Scores([draw(item) for item in items])
