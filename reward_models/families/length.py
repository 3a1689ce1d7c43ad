"""The family `length`: how long the answer is, in characters, words or tokens.

characters   Unicode code points
words        runs of letters and digits; every letter in scripts without spaces (Han, kana, Thai, …)
tokens       of the tokenizer under `path`; no special tokens

Longer is higher. A unit holds more text in some languages than in others, so compare within a
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
        needs_path = values.get("unit") == "tokens"
        has_path = values.get("path") is not None
        if needs_path and not has_path:
            return [f"{key}.path: missing; name the directory of a tokenizer"]
        if has_path and not needs_path:
            return [f"{key}.path: only unit: tokens has a tokenizer"]
        return []


def prepare(settings: Settings) -> Callable[[Sequence[Item]], Scores]:
    """Raises: UserError if there is no tokenizer under `path`."""
    if settings.unit == "tokens":
        return _token_counter(settings)
    measure: Callable[[str], int] = len if settings.unit == "characters" else _n_words
    return lambda items: Scores([float(measure(item.response)) for item in items])


def _n_words(text: str) -> int:
    return len(scripts.words(text))


def _token_counter(settings: Settings) -> Callable[[Sequence[Item]], Scores]:
    tokenizer = opening.tokenizer(str(settings.path), settings.revision)

    def run(items: Sequence[Item]) -> Scores:
        if not items:
            return Scores([])
        texts = [item.response for item in items]
        all_ids = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        return Scores([float(len(ids)) for ids in all_ids])

    return run
