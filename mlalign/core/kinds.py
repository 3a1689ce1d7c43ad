"""What steps give each other, known before anything runs: kinds and numbers of rows, and score
columns.

A stage may declare

    accepts(cfg) -> dict[str, tuple[str, ...]]    input slot -> the kinds of rows that it reads
    gives(cfg, inputs) -> Gives                   what the step will write
    misfits(cfg, inputs) -> list[str]             what cannot work with these inputs; each message
                                                  begins with its key (of the configuration, or
                                                  `inputs.SLOT`)
    rows_to_come(cfg, n_read, split, languages) -> Count | None
                                                  the most rows of a split and languages that it
                                                  will write if its slot `rows` has `n_read` of them

where `inputs` holds what is known of each slot. A plan refuses what is certainly wrong. The step
itself checks what the plan cannot know.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from mlalign.core.errors import nearest


@dataclasses.dataclass(frozen=True)
class Gives:
    """What a step or an external input holds.

    `rows`: the kind of its rows (`scores` for scores); None if it has none, or if it is not known.
    `columns`: its score columns; None if they are not known. `name`: what messages call it.
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
    if not hasattr(module, "gives"):
        return Gives()
    return module.gives(cfg, inputs)


def problems(module: ModuleType, stage: str, cfg: Any, inputs: Inputs, key: str) -> list[str]:
    """A message for all that is certainly wrong with a step's inputs."""
    messages = []
    accepted: Mapping[str, tuple[str, ...]] = {}
    if hasattr(module, "accepts"):
        accepted = module.accepts(cfg)
    for slot, kinds in accepted.items():
        for source in inputs.get(slot, ()):
            if source.rows is not None and source.rows not in kinds:
                messages.append(
                    f"{key}.inputs.{slot}: {source.name} gives {source.rows} rows;"
                    f" {stage} reads {' or '.join(kinds)} rows here"
                )
    if messages or not hasattr(module, "misfits"):
        return messages

    for misfit in module.misfits(cfg, inputs):
        section = key if misfit.startswith("inputs.") else f"{key}.config"
        messages.append(f"{section}.{misfit}")
    return messages


def columns_of(sources: Iterable[Gives]) -> set[str] | None:
    """All score columns of a slot; None if those of any source are not known."""
    columns: set[str] = set()
    for source in sources:
        if source.columns is None:
            return None
        columns.update(source.columns)
    return columns


def missing_columns(
    wanted: Mapping[str, str],
    columns: Iterable[str],
    where: str = "the scores",
) -> list[str]:
    """A message for each key whose column (key -> column) does not exist.

    A scorer may add columns under its own name, such as `judge.confidence` of `judge`.
    """
    columns = list(columns)
    messages = []
    for key, name in wanted.items():
        exists = any(name == column or name.startswith(f"{column}.") for column in columns)
        if not exists:
            messages.append(f"{key}: {where} have no column {name!r}{nearest(name, columns)}")
    return messages


def of_external(value: Mapping[str, Any]) -> Gives:
    """What is known of an external input: of a rows artifact, the kind of its rows."""
    from mlalign.core import rows

    path = value.get("path")
    family = str(value.get("family") or "").rpartition(":")[2]
    name = str(value.get("name") or family or Path(str(path)).name)
    if not path:
        return Gives(name=name)

    artifact = Path(str(path)).expanduser()
    folder = artifact / "rows"
    if not folder.is_dir() or not any(folder.iterdir()):
        return Gives(name=name)
    return Gives(rows.kind_of(artifact), None, name)
