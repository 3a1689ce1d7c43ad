"""Scores for answers, in any language: anything that turns (messages, language) into numbers.

    import reward_models
    scorer = reward_models.load("path/to/a/reward/model")
    scores = scorer.score([{"prompt": "How much is 2 + 2?", "response": "The sum is 4."}])

Importing this package imports nothing heavy. It needs transformers and light libraries, never a
trainer.

A family is a module with `Settings` (a dataclass) and `prepare(settings)`, which returns a function
from items to `Scores`; what holds memory or processes has a `close()` too. Where some items cannot
be scored, it has `acceptor(settings)`, which tells without opening a model; `REPORTS` names columns
and flags that it always writes.
"""

import dataclasses
import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlalign.core.errors import UserError, nearest
from reward_models import card, settings
from reward_models.families import function
from reward_models.items import Item, Scores, of_row

__all__ = ["FAMILIES", "Item", "Scorer", "Scores", "load", "open_scorer", "problems", "settings_of"]

# family -> the module that implements it
FAMILIES = {
    "classifier": "reward_models.families.classifier",
    "language_adherence": "reward_models.families.adherence",
    "length": "reward_models.families.length",
    "verifier": "reward_models.families.verifier",
    "composite": "reward_models.families.composite",
    "ensemble": "reward_models.families.ensemble",
    "implicit": "reward_models.families.implicit",
    "likelihood": "reward_models.families.likelihood",
    "repetition": "reward_models.families.repetition",
    "translation": "reward_models.families.translation",
    "guarded": "reward_models.families.guarded",
    "judge": "reward_models.families.judge",
    "random": "reward_models.families.control",
}


def family(name: str) -> Any:
    """What implements a family: its module, or what a function of a person's own is made into.

    Raises: UserError for a function that cannot be used.
    """
    return (
        function.load(name)
        if function.is_function(name)
        else importlib.import_module(FAMILIES[name])
    )


@dataclasses.dataclass(frozen=True)
class Scorer:
    """An opened scorer.

    A score is a pure function of its item: batch, order and neighbours do not change it.
    """

    name: str
    family: str
    score_items: Callable[[Sequence[Item]], Scores]

    def score(self, rows: Sequence[Mapping]) -> list[float | None]:
        """One number per response, in order; None where the scorer cannot say.

        A row has `prompt` and `response`, `prompt` and `responses`, `messages`, or `chosen` and
        `rejected`; strings or chat messages. Rows of several responses give several numbers.
        Raises: UserError naming the row.
        """
        items = [item for i, row in enumerate(rows) for item in of_row(row, f"row {i}")]
        return self.score_items(items).values

    def close(self) -> None:
        """Give back what the scorer holds: memory, engines, processes. `with` does so at its end."""
        getattr(self.score_items, "close", lambda: None)()

    def __enter__(self) -> "Scorer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def load(path: str | Path, **options: Any) -> Scorer:
    """The scorer in a model directory or under a hub id; its family is what `card.yaml` there says,
    else `classifier`.

    `options` are the family's settings. Raises: UserError.
    """
    return open_scorer(settings_of(path, **options))


def settings_of(path: str | Path, **options: Any) -> dict[str, Any]:
    """What `open_scorer` takes for a model: `{"family", "path", …}`, the family from its card.

    Raises: UserError.
    """
    told = card.read(path, options.get("revision"))
    if told and function.is_function(told.family):
        raise UserError(
            f"{path}: its {card.FILE} names code ({told.family!r}), which is not run; give the"
            " family yourself"
        )
    return {"family": told.family if told else "classifier", **options, "path": str(path)}


def open_scorer(told: Mapping) -> Scorer:
    """The scorer that `{"family": …, "name": …, settings of the family}` describes.

    Raises: UserError with every mistake.
    """
    found = problems(told)
    if found:
        raise UserError(*found)
    module = family(told["family"])
    return Scorer(
        str(settings.name_of(told)), told["family"], module.prepare(module.Settings(**_own(told)))
    )


def acceptor(told: Mapping) -> Callable[[Sequence[Item]], None] | None:
    """What raises a UserError for items that the scorer would refuse, without its model; None where
    it takes all. Raises: UserError.
    """
    if found := problems(told):
        raise UserError(*found)
    module = family(told["family"])
    make = getattr(module, "acceptor", None)
    return make(module.Settings(**_own(told))) if make else None


def reports(told: Mapping) -> tuple[str, ...]:
    """Columns and flags that the scorer is known to write beside its scores."""
    return getattr(family(told["family"]), "REPORTS", ())


def source_of(told: Mapping) -> dict[str, str]:
    """What a person's function that stands for a family adds to the identity of its scorer; else
    nothing.
    """
    return function.source(told)


def files_of(told: Mapping) -> list[Path]:
    """The files that `source_of` is the digest of."""
    return function.files(told)


def problems(told: Mapping, key: str = "scorer") -> list[str]:
    """What is wrong with a scorer's settings, as messages; imports nothing heavy and opens nothing."""
    name = told.get("family")
    if name is None:
        return [f"{key}: {dict(told)} has no family{nearest(str(told.get('name', '')), FAMILIES)}"]
    if not isinstance(name, str):
        return [f"{key}.family: expected a name{nearest('', FAMILIES)}"]
    if function.is_function(name):
        try:
            own = function.load(name, f"{key}.family")
        except UserError as error:
            return error.messages
        return settings.problems(own.Settings, _own(told), key)
    if name not in FAMILIES:
        return [f"{key}: unknown family {name!r}{nearest(name, FAMILIES)}"]
    return settings.problems(family(name).Settings, _own(told), key)


def _own(told: Mapping) -> dict:
    return {k: v for k, v in told.items() if k not in ("family", "name")}
