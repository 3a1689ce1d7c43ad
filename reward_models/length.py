"""The family `length`: how long the response is, in characters (Unicode code points).

Characters of different scripts carry different amounts of text: compare within a language, never across languages.
"""

import dataclasses
from collections.abc import Callable, Sequence

from reward_models.items import Item, Scores


@dataclasses.dataclass(frozen=True)
class Settings:
    """No settings."""


def prepare(settings: Settings) -> Callable[[Sequence[Item]], Scores]:
    return lambda items: Scores([float(len(item.response)) for item in items])
