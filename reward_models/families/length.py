"""The family `length`: how long the answer is, in characters, words, or tokens of a given
tokenizer.

characters   Unicode code points
words        runs of letters and digits; in scripts without spaces (Han, kana, Thai, …) every letter by itself
tokens       of the tokenizer under `path`; no special tokens

Longer is higher. Each unit carries another amount of text in another language: compare within a
language, never across.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from mlalign.models import opening
from reward_models.families import scripts
from reward_models.items import Item, Scores


@dataclasses.dataclass(frozen=True)
class Settings:
    unit: Literal["characters", "words", "tokens"] = "characters"
    path: str | None = None  # of the tokenizer, for tokens: directory or hub id
    revision: str | None = None

    @staticmethod
    def problems(values: Mapping, key: str) -> list[str]:
        tokens = values.get("unit") == "tokens"
        if tokens == (values.get("path") is not None):
            return []
        return [
            f"{key}.path:"
            f" {'missing; name the directory of a tokenizer' if tokens else 'only unit: tokens has a tokenizer'}"
        ]


def prepare(settings: Settings) -> Callable[[Sequence[Item]], Scores]:
    """Raises: UserError if there is no tokenizer under `path`."""
    if settings.unit == "tokens":
        return _tokens(settings)
    measure: Callable[[str], int] = (
        len if settings.unit == "characters" else lambda text: len(scripts.words(text))
    )
    return lambda items: Scores([float(measure(item.response)) for item in items])


def _tokens(settings: Settings) -> Callable[[Sequence[Item]], Scores]:
    tokenizer = opening.tokenizer(str(settings.path), settings.revision)

    def run(items: Sequence[Item]) -> Scores:
        texts = [item.response for item in items]
        ids = (
            tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"] if texts else []
        )
        return Scores([float(len(x)) for x in ids])

    return run
