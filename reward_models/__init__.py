"""Scores for answers, in any language: anything that turns (messages, language) into numbers.

    import reward_models
    scorer = reward_models.load("path/to/a/reward/model")
    scores = scorer.score([{"prompt": "How much is 2 + 2?", "response": "The sum is 4."}])

Importing this package imports nothing heavy. It needs transformers and light libraries, never a
trainer.

A scorer is described by its spec: `{"family": …, "name": …, settings of the family}`. The name is
optional.

A family is a module with `Settings` (a dataclass) and `prepare(settings)`, which returns a function
from items to `Scores`; a function that holds memory or processes has a `close()` too. Where some
items cannot be scored, the module has `acceptor(settings)`, which finds them without opening a
model. `REPORTS` names columns and flags that it always writes.
"""

import dataclasses
import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlalign.core.errors import UserError, nearest
from reward_models import card, settings
from reward_models.families import function
from reward_models.items import Item, Scores, of_rows

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
    """The module of a family, or the same interface around a user's function.

    Raises: UserError for a function that cannot be used.
    """
    if function.is_function(name):
        return function.load(name)
    return importlib.import_module(FAMILIES[name])


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
        items = of_rows((f"row {i}", row) for i, row in enumerate(rows))
        return self.score_items(items).values

    def close(self) -> None:
        """Free memory, engines and processes of the scorer. `with` does so at its end."""
        close = getattr(self.score_items, "close", None)
        if close is not None:
            close()

    def __enter__(self) -> "Scorer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def load(path: str | Path, **options: Any) -> Scorer:
    """The scorer in a model directory or under a hub id.

    Its family is the one in its `card.yaml`, or else `classifier`. `options` are the family's
    settings. Raises: UserError.
    """
    return open_scorer(settings_of(path, **options))


def settings_of(path: str | Path, **options: Any) -> dict[str, Any]:
    """The spec of a model: `{"family", "path", …}`, with the family from its card.

    Raises: UserError.
    """
    model_card = card.read(path, options.get("revision"))
    family_name = model_card.family if model_card else "classifier"
    if function.is_function(family_name):
        raise UserError(
            f"{path}: its {card.FILE} names code ({family_name!r}), which is not run; give the"
            " family yourself"
        )
    return {"family": family_name, **options, "path": str(path)}


def open_scorer(spec: Mapping) -> Scorer:
    """The scorer of a spec. Raises: UserError with every mistake."""
    _check(spec)
    module = family(spec["family"])
    score_items = module.prepare(module.Settings(**_settings_in(spec)))
    return Scorer(str(settings.name_of(spec)), spec["family"], score_items)


def acceptor(spec: Mapping) -> Callable[[Sequence[Item]], None] | None:
    """A function that raises a UserError for items that the scorer would refuse.

    It does not open the model; None if the scorer takes all items. Raises: UserError.
    """
    _check(spec)
    module = family(spec["family"])
    make_acceptor = getattr(module, "acceptor", None)
    if make_acceptor is None:
        return None
    return make_acceptor(module.Settings(**_settings_in(spec)))


def reports(spec: Mapping) -> tuple[str, ...]:
    """Columns and flags that the scorer always writes beside its scores."""
    return getattr(family(spec["family"]), "REPORTS", ())


def source_of(spec: Mapping) -> dict[str, str]:
    """What a user's function adds to the identity of its scorer; nothing for other families."""
    return function.source(spec)


def files_of(spec: Mapping) -> list[Path]:
    """The files that `source_of` is the digest of."""
    return function.files(spec)


def problems(spec: Mapping, key: str = "scorer") -> list[str]:
    """What is wrong with a spec, as messages; imports nothing heavy and opens nothing."""
    name = spec.get("family")
    if name is None:
        hint = nearest(str(spec.get("name", "")), FAMILIES)
        return [f"{key}: {dict(spec)} has no family{hint}"]
    if not isinstance(name, str):
        return [f"{key}.family: expected a name{nearest('', FAMILIES)}"]
    if function.is_function(name):
        try:
            implementation = function.load(name, f"{key}.family")
        except UserError as error:
            return error.messages
        return settings.problems(implementation.Settings, _settings_in(spec), key)
    if name not in FAMILIES:
        return [f"{key}: unknown family {name!r}{nearest(name, FAMILIES)}"]
    return settings.problems(family(name).Settings, _settings_in(spec), key)


def _check(spec: Mapping) -> None:
    messages = problems(spec)
    if messages:
        raise UserError(*messages)


def _settings_in(spec: Mapping) -> dict:
    return {key: value for key, value in spec.items() if key not in ("family", "name")}
