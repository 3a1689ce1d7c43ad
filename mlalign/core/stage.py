"""What a stage declares, what it receives and what it writes to.

A stage is one module in `mlalign/stages/`. Other modules never ask for its name: they read what it
declares. Declarations import nothing heavy. Every stage has

    VERSION: int                     raised when its meaning changes
    KIND: str                        what it writes: rows | model | scores | metrics | report
    SLOTS: dict[str, str]            input slot -> "rows", "model", "scorer" or "any";
                                     "?" after it: optional, "*": several
    SHARDED: str | None              the slot whose shards it works through, one output shard each
    DISTRIBUTED: bool                may run as several ranks under torchrun
    Config: dataclass                its configuration (mlalign.core.schema)
    run(cfg, inputs, out) -> None    reads `inputs`, writes below `out.path`, imports what is heavy;
                                     returns when complete, raises Stopped if asked to stop

and may have, for the plan

    NAMED: tuple[str, ...]           slots of several whose steps' names change the result
    DIFFERS_FROM: dict[str, str]     slots that are left out where they hold the same as another
    CHOOSES: str                     the slot of models of which it chooses one, in `selected.json`
    identity(cfg, digest) -> dict    what a fingerprint needs beyond the configuration
    packages(cfg) -> list[str]       the packages that `run` will import
    imports(cfg, inputs) -> list     the modules among them that take seconds to import
    downloads(cfg) -> list[Need]     what it opens on the hub beside its inputs (core/downloads.py)
    accepts, gives, misfits, rows_to_come     what steps give each other (core/kinds.py)

for the planner, which estimates memory and time of

    WORK = "training"      by TrainConfig, the slots `model`, `rows` and `reference`, and
                           `objective(cfg) -> Objective` (models/training/config.py)
    WORK = "generation"    by `engine`, `n` and `split` of the configuration; slots `model`, `rows`
    WORK = "scoring"       by `dtype`, `device_batch_tokens` and `split`; slots `rows`, `scorers`

and for those who look at results

    ALARMS: tuple[Alarm, ...]        counts that deserve a warning (core/alarms.py)
    by_item(cfg, inputs, metric, by) what each item adds to a metric, so that a sweep can compare
                                     variants pair by pair (methods/metrics)

A stage of KIND metrics names its metrics in `gives`; without it they are known only when it has
run. One that makes rows by comparing scores notes the name of the column as `score`. A field of
`Config` may say where its value comes from if a person gives none: with `texts=` from a folder of
`conf/`, with `data_list=` from a list of the data file, where the stage runs alone. Both are
functions of the settings around the field.
"""

import dataclasses
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mlalign.core import stopping
from mlalign.core.model import Model, commit_of, local_model, with_models
from mlalign.core.store import (
    MANIFEST,
    Artifact,
    Store,
    Tally,
    has,
    read_json,
    read_manifest,
    write_json,
)

STOPPED = (
    75  # exit status of a step that saved its state because it was asked to stop (EX_TEMPFAIL)
)
Stopped = stopping.Stopped
NOTHING_TO_DO = 3  # exit status of beginning a step whose artifact is complete


class Inputs:
    """The resolved inputs of one step: slot -> artifact, external model, scorer settings, or a list
    of those.
    """

    def __init__(self, store: Store, slots: Mapping[str, Any]):
        self._store, self._slots = store, slots

    def __contains__(self, slot: str) -> bool:
        return self._slots.get(slot) not in (None, [])

    def all(self, slot: str) -> list[Artifact | dict]:
        """Everything in a slot: an Artifact for a step, a dictionary for something external."""
        value = self._slots.get(slot) or []
        return [self.opened(v) for v in (value if isinstance(value, list) else [value])]

    def artifact(self, slot: str) -> Artifact:
        return self.artifacts(slot)[0]

    def artifacts(self, slot: str) -> list[Artifact]:
        """The artifacts in a slot, without those of skipped steps."""
        found = [
            a if isinstance(a, Artifact) else Artifact(Path(a["path"])) for a in self.all(slot)
        ]
        return [a for a in found if not (a.path / MANIFEST).exists() or not a.skipped]

    def rows(self, slot: str) -> Path:
        return self.artifact(slot).path

    def model(self, slot: str) -> Model:
        """The model in a slot; a `select` artifact stands for what it selected."""
        return self.models(slot)[0]

    def models(self, slot: str) -> list[Model]:
        return [self._model(v) for v in self.all(slot)]

    def scorers(self, slot: str) -> list[dict]:
        """Scorer settings: `{"family", "name", …}`; a reward model becomes
        `{"family": "classifier", "path", "name"}`.

        Models that settings name (`{step: policy}` in the recipe) become their paths.
        """
        return [self._scorer(v) for v in self.all(slot)]

    def sources(self) -> list[dict]:
        """Where the rows and scores of all slots came from in the end (`source`, `licence`, …),
        each source once.
        """
        given = [value for slot in self._slots for value in self.all(slot)]
        paths = [
            value.path if isinstance(value, Artifact) else Path(str(value.get("path", "")))
            for value in given
        ]
        manifests = [read_manifest(p) for p in paths if (p / MANIFEST).is_file()]
        told = [
            s for m in manifests if m["kind"] in ("rows", "scores") for s in m.get("sources", [])
        ]
        return [source for i, source in enumerate(told) if source not in told[:i]]

    def opened(self, value: Mapping) -> Artifact | dict:
        """What a resolved input stands for: an Artifact for a step, a dictionary for something
        external.
        """
        if "artifact" in value:
            name = value.get("name") or value["step"]
            return Artifact(self._store.root / value["artifact"], name, value.get("binding", {}))
        return dict(value)

    def _scorer(self, value: Artifact | dict) -> dict:
        if isinstance(value, Artifact):
            model = self._model(value)
            base = {"base": model.base.path} if model.base else {}
            return {
                "family": "classifier",
                "name": value.step,
                "path": model.path,
                **base,
                **value.binding,
            }
        settings = {key: _at_their_commits(v) for key, v in value.items()} | _commits(value)
        if "family" not in settings:  # a model directory in the place of a step
            name = settings.get("step") or Path(settings["path"]).name
            settings = {"family": "classifier", "name": name, **settings}
        own = {
            k: with_models(v, lambda model: self._model(self.opened(model)).path)
            for k, v in settings.items()
            if k != "step"
        }
        return {"name": settings["family"].rpartition(":")[2], **own}

    def _model(self, value: Artifact | dict) -> Model:
        if isinstance(value, dict):
            return external_model(value)
        value = selected(value)
        if isinstance(value, dict):
            return external_model(value)
        return _of_artifact(value)


def _of_artifact(artifact: Artifact) -> Model:
    """The model in an artifact; an adapter's base on the hub at the commit that it was trained on."""
    manifest = artifact.manifest
    model = local_model(artifact.path / "model", identity=manifest["content_digest"])
    if model.base is None or Path(model.base.path).is_dir():
        return model
    recorded = [
        v
        for value in manifest["inputs"].values()
        for v in (value if isinstance(value, list) else [value])
    ]
    commits = [commit_of(v.get("identity")) for v in recorded if v.get("path") == model.base.path]
    return dataclasses.replace(
        model, base=dataclasses.replace(model.base, revision=next(iter(commits), None))
    )


def _at_their_commits(settings: Any) -> Any:
    """A scorer's settings in which models on the hub have the commit that the plan found, wherever
    the branch has moved since.
    """
    if isinstance(settings, list):
        return [_at_their_commits(value) for value in settings]
    if not isinstance(settings, Mapping):
        return settings
    return {key: _at_their_commits(value) for key, value in settings.items()} | _commits(settings)


def _commits(settings: Mapping) -> dict[str, str]:
    """The revisions of the models that a scorer's own settings name."""
    inner = {"path": "revision", "reference": "reference_revision"}
    named = {
        name: settings[key]["identity"]
        for key, name in inner.items()
        if _has_identity(settings.get(key))
    }
    named |= (
        {"revision": settings["identity"]}
        if isinstance(settings.get("path"), str) and "identity" in settings
        else {}
    )
    return {name: commit for name, value in named.items() if (commit := commit_of(value))}


def _has_identity(value: Any) -> bool:
    return isinstance(value, Mapping) and "identity" in value


def selected(artifact: Artifact) -> Artifact | dict:
    """Follow `selected.json` of `select` artifacts to the artifact, or the external model, that
    they chose.
    """
    while has(artifact.path, "selected.json"):
        chosen = read_json(artifact.path / "selected.json")
        if "external" in chosen:
            return chosen["external"]
        artifact = Artifact(
            artifact.path.parent / chosen["artifact"], chosen["step"], chosen.get("binding", {})
        )
    return artifact


def external_model(value: Mapping) -> Model:
    """`{path, revision, identity}` of a recipe; `path` is a directory, an artifact, a run's step,
    or a hub id.
    """
    path = Path(value["path"]).expanduser()
    identity = value.get("identity", str(path))
    commit = commit_of(identity)
    if commit:  # what the plan found, wherever the branch has moved since
        return Model(value["path"], identity, commit)
    if has(path, "selected.json") or (path / "model").is_dir():
        chosen = selected(Artifact(path.resolve()))
        if isinstance(chosen, dict):
            return external_model(chosen)
        path = chosen.path / "model"
    if path.is_dir():
        return local_model(path, identity)
    return Model(value["path"], identity, value.get("revision"))


def own_file(partial: Path, part: tuple[int, int], name: str) -> Path:
    """`NAME` in the partial artifact, or `parts/I.NAME` for the I-th of several tasks that share
    its shards.
    """
    if part[1] == 1:
        return partial / name
    (partial / "parts").mkdir(exist_ok=True)
    return partial / "parts" / f"{part[0]}.{name}"


class Output:
    """Where a step writes: `path` (the partial artifact), counts, progress, and notes for the
    manifest.
    """

    def __init__(
        self,
        path: Path,
        store: Store,
        step: str = "",
        part: tuple[int, int] = (0, 1),
        run: Mapping | None = None,
    ):
        self.path, self.store, self.step, self.part, self.run = (
            path,
            store,
            step,
            part,
            dict(run or {}),
        )
        self.tally = Tally()
        self.notes: dict[str, Any] = {}
        # Raises UserError if the step's inputs were changed since it began: called before work is
        # kept that a later try would trust.
        self.check_inputs: Callable[[], None] = lambda: None
        self._written = 0.0

    @property
    def is_main(self) -> bool:
        """True on the one rank that writes files."""
        return os.environ.get("RANK", "0") == "0"

    @property
    def checkpoints(self) -> Path:
        """Where trainers keep what they need to resume; not part of the finished artifact."""
        return self.path / "checkpoints"

    def progress(self, done: int, total: int | None, unit: str, *, force: bool = False) -> None:
        """Tell `mlalign status` how far this step is (at most once a second); `total` is None where
        nobody knows it yet.
        """
        now = time.monotonic()
        if self.is_main and (force or now - self._written >= 1 or done == total):
            self._written = now
            languages = dict(self.tally.rows)
            write_json(
                self.own("progress.json"),
                {
                    "done": done,
                    "total": total,
                    "unit": unit,
                    "by_language": languages,
                    "time": time.time(),
                },
            )

    def should_stop(self) -> bool:
        """Whether the run was asked to stop, or the array task that this is (files named STOP in
        the partial artifact).
        """
        stopping.stage_looks.set()
        return (self.path / "STOP").exists() or self.own("STOP").exists()

    def own(self, name: str) -> Path:
        """Where a file of this name is told apart from those of the other tasks of an array."""
        return own_file(self.path, self.part, name)

    def warn(self, message: str) -> None:
        """Something that a person must know before the results: the manifest keeps it, and run,
        status and report show it first.
        """
        warnings = self.notes.setdefault("warnings", [])
        if message not in warnings:
            warnings.append(message)

    def note(self, **values: Any) -> None:
        """Add keys to the manifest."""
        self.notes.update(values)
