"""What steps give each other, known before anything runs: kinds and numbers of rows, and score
columns.

A stage may declare

    accepts(cfg) -> dict[str, tuple[str, ...]]    input slot -> the kinds of rows that it reads
    gives(cfg, inputs) -> Gives                   what the step will write
    misfits(cfg, inputs) -> list[str]             what cannot work with these inputs, each with its
                                                  key (of the configuration, or `inputs.SLOT`)
    rows_to_come(cfg, n_read, split, languages) -> Count | None
                                                  the most rows of a split and languages that it
                                                  will write if its slot `rows` has `n_read` of them

where `inputs` holds what is known of each slot. A plan refuses what is certainly wrong, and leaves
what it cannot know to the step.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from mlalign.core.errors import nearest


@dataclasses.dataclass(frozen=True)
class Gives:
    """What a step or something external holds.

    `rows` is the kind of its rows (`scores` for scores), None if there are none or nobody knows.
    `columns` are the score columns, None where not known. `name` is what it is called here.
    """

    rows: str | None = None
    columns: tuple[str, ...] | None = None
    name: str = ""


Inputs = Mapping[str, Sequence[Gives]]


class Count(NamedTuple):
    """A number of rows; `exact` is False for an upper bound."""

    n: int
    exact: bool = True

    def times(self, factor: int) -> "Count":
        return Count(self.n * factor, self.exact)

    def text(self) -> str:
        return f"{self.n:,}" if self.exact else f"at most {self.n:,}"


def of_step(module: ModuleType, cfg: Any, inputs: Inputs) -> Gives:
    """What a step will write."""
    return module.gives(cfg, inputs) if hasattr(module, "gives") else Gives()


def problems(module: ModuleType, stage: str, cfg: Any, inputs: Inputs, key: str) -> list[str]:
    """What is certainly wrong with a step's inputs: rows of another kind, columns that will not be
    there.
    """
    accepted: Mapping[str, tuple[str, ...]] = (
        module.accepts(cfg) if hasattr(module, "accepts") else {}
    )
    found = []
    for slot, kinds in accepted.items():
        for given in inputs.get(slot, ()):
            if given.rows is not None and given.rows not in kinds:
                found.append(
                    f"{key}.inputs.{slot}: {given.name} gives {given.rows} rows; {stage} reads"
                    f" {' or '.join(kinds)} rows here"
                )
    if found or not hasattr(module, "misfits"):
        return found
    messages = module.misfits(cfg, inputs)
    return [f"{key}.{m}" if m.startswith("inputs.") else f"{key}.config.{m}" for m in messages]


def columns_of(given: Iterable[Gives]) -> set[str] | None:
    """All score columns of a slot; None if those of one are not known."""
    columns: set[str] = set()
    for one in given:
        if one.columns is None:
            return None
        columns.update(one.columns)
    return columns


def missing_columns(
    wanted: Mapping[str, str],
    columns: Iterable[str],
    where: str = "the scores",
) -> list[str]:
    """A message for each key that names a column which is not there.

    A scorer may add columns of its own below its name: `judge.confidence` of `judge`.
    """
    columns = list(columns)
    return [
        f"{key}: {where} have no column {name!r}{nearest(name, columns)}"
        for key, name in wanted.items()
        if not any(name == column or name.startswith(f"{column}.") for column in columns)
    ]


def of_external(value: Mapping[str, Any]) -> Gives:
    """What is known of something that no step of this recipe makes: a rows artifact says the kind
    of its rows.
    """
    from mlalign.core import rows

    path = value.get("path")
    family = str(value.get("family") or "").rpartition(":")[2]
    name = str(value.get("name") or family or Path(str(path)).name)
    place = Path(str(path)).expanduser() / "rows" if path else None
    if place is None or not place.is_dir() or not any(place.iterdir()):
        return Gives(name=name)
    return Gives(rows.kind_of(place.parent), None, name)
