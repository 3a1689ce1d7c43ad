"""The family `random`: a score in [0, 1) that knows nothing, drawn with a seed.

What a real one must beat.

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
        return (
            item.id
            if settings.per == "answer"
            else rows.to_json([item.prompt, readable(item.answer)])
        )

    return lambda items: Scores(
        [rows.seed_of(f"{drawn_from(item)}:{settings.seed}") / 2**31 for item in items]
    )
