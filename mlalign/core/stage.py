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

Stopped = stopping.Stopped
# Exit status of a step that saved its state because it was asked to stop (EX_TEMPFAIL).
STOPPED = 75
NOTHING_TO_DO = 3  # exit status of beginning a step whose artifact is complete


class Inputs:
    """The resolved inputs of one step.

    A slot holds an artifact, an external model, a scorer's settings, or a list of those.
    """

    def __init__(self, store: Store, slots: Mapping[str, Any]):
        self._store = store
        self._slots = slots

    def __contains__(self, slot: str) -> bool:
        return self._slots.get(slot) not in (None, [])

    def all(self, slot: str) -> list[Artifact | dict]:
        """Everything in a slot: an Artifact for a step, a dictionary for something external."""
        return [self.opened(value) for value in _as_list(self._slots.get(slot) or [])]

    def artifact(self, slot: str) -> Artifact:
        return self.artifacts(slot)[0]

    def artifacts(self, slot: str) -> list[Artifact]:
        """The artifacts in a slot, without those of skipped steps."""
        artifacts = []
        for value in self.all(slot):
            artifact = value if isinstance(value, Artifact) else Artifact(Path(value["path"]))
            if not (artifact.path / MANIFEST).exists() or not artifact.skipped:
                artifacts.append(artifact)
        return artifacts

    def rows(self, slot: str) -> Path:
        return self.artifact(slot).path

    def model(self, slot: str) -> Model:
        """The model in a slot; a `select` artifact stands for what it selected."""
        return self.models(slot)[0]

    def models(self, slot: str) -> list[Model]:
        return [self._model(value) for value in self.all(slot)]

    def scorers(self, slot: str) -> list[dict]:
        """Scorer settings, `{family, name, …}`; a reward model's family is `classifier`.

        Models that settings name (`{step: policy}` in the recipe) become their paths.
        """
        return [self._scorer(value) for value in self.all(slot)]

    def sources(self) -> list[dict]:
        """The original sources (`source`, `licence`, …) of the rows and scores in all slots.

        Each source is listed once.
        """
        sources: list[dict] = []
        for slot in self._slots:
            for value in self.all(slot):
                for source in _sources_of(value):
                    if source not in sources:
                        sources.append(source)
        return sources

    def opened(self, value: Mapping) -> Artifact | dict:
        """A resolved input as an Artifact, or as a dictionary if it is external."""
        if "artifact" in value:
            name = value.get("name") or value["step"]
            return Artifact(self._store.root / value["artifact"], name, value.get("binding", {}))
        return dict(value)

    def _scorer(self, value: Artifact | dict) -> dict:
        if isinstance(value, Artifact):
            return self._classifier(value)

        settings = _with_commits(value)
        if "family" not in settings:  # a model directory instead of a step
            name = settings.get("step") or Path(settings["path"]).name
            settings = {"family": "classifier", "name": name, **settings}
        scorer = {"name": settings["family"].rpartition(":")[2]}
        for key, setting in settings.items():
            if key != "step":
                scorer[key] = with_models(setting, self._path_of)
        return scorer

    def _classifier(self, artifact: Artifact) -> dict:
        """The scorer settings of a step's reward model."""
        model = self._model(artifact)
        settings = {"family": "classifier", "name": artifact.step, "path": model.path}
        if model.base:
            settings["base"] = model.base.path
        return {**settings, **artifact.binding}

    def _path_of(self, value: Mapping) -> str:
        return self._model(self.opened(value)).path

    def _model(self, value: Artifact | dict) -> Model:
        if isinstance(value, Artifact):
            value = selected(value)
        if isinstance(value, dict):
            return external_model(value)
        return _of_artifact(value)


def _as_list(value: Any) -> list:
    return value if isinstance(value, list) else [value]


def _sources_of(value: Artifact | dict) -> list[dict]:
    """The sources that the manifest of an artifact of rows or scores lists."""
    path = value.path if isinstance(value, Artifact) else Path(str(value.get("path", "")))
    if not (path / MANIFEST).is_file():
        return []
    manifest = read_manifest(path)
    if manifest["kind"] not in ("rows", "scores"):
        return []
    return manifest.get("sources", [])


def _of_artifact(artifact: Artifact) -> Model:
    """The model in an artifact; the base of an adapter has the commit that it was trained on."""
    manifest = artifact.manifest
    model = local_model(artifact.path / "model", identity=manifest["content_digest"])
    if model.base is None or Path(model.base.path).is_dir():
        return model

    commit = _recorded_commit(manifest, model.base.path)
    base = dataclasses.replace(model.base, revision=commit)
    return dataclasses.replace(model, base=base)


def _recorded_commit(manifest: Mapping, path: str) -> str | None:
    """The commit of a manifest's input with this path or hub id; None if there is no such input."""
    for slot in manifest["inputs"].values():
        for value in _as_list(slot):
            if value.get("path") == path:
                return commit_of(value.get("identity"))
    return None


def _with_commits(settings: Any) -> Any:
    """A scorer's settings, in which models on the hub have the commit that the plan recorded.

    The branch may have moved since.
    """
    if isinstance(settings, list):
        return [_with_commits(value) for value in settings]
    if not isinstance(settings, Mapping):
        return settings
    pinned = {key: _with_commits(value) for key, value in settings.items()}
    return pinned | _commits(settings)


def _commits(settings: Mapping) -> dict[str, str]:
    """The revisions of the models that a scorer's own settings name: setting -> commit."""
    identities = {}
    for key, revision in (("path", "revision"), ("reference", "reference_revision")):
        model = settings.get(key)
        if isinstance(model, Mapping) and "identity" in model:
            identities[revision] = model["identity"]
    if isinstance(settings.get("path"), str) and "identity" in settings:
        identities["revision"] = settings["identity"]

    commits = {}
    for revision, identity in identities.items():
        commit = commit_of(identity)
        if commit:
            commits[revision] = commit
    return commits


def selected(artifact: Artifact) -> Artifact | dict:
    """The artifact or external model that `select` artifacts chose, following `selected.json`."""
    while has(artifact.path, "selected.json"):
        chosen = read_json(artifact.path / "selected.json")
        if "external" in chosen:
            return chosen["external"]
        path = artifact.path.parent / chosen["artifact"]
        artifact = Artifact(path, chosen["step"], chosen.get("binding", {}))
    return artifact


def external_model(value: Mapping) -> Model:
    """The model of `{path, revision, identity}` in a recipe.

    `path` is a directory, an artifact, a run's step, or a hub id.
    """
    path = Path(value["path"]).expanduser()
    identity = value.get("identity", str(path))
    commit = commit_of(identity)
    if commit:  # recorded by the plan; the branch may have moved since
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
    """`NAME` in the partial artifact, or `parts/I.NAME` for task I of N (`part` is (I, N))."""
    index, n_tasks = part
    if n_tasks == 1:
        return partial / name
    (partial / "parts").mkdir(exist_ok=True)
    return partial / "parts" / f"{index}.{name}"


class Output:
    """Where a step writes: files (`path` is the partial artifact), counts, progress and notes."""

    def __init__(
        self,
        path: Path,
        store: Store,
        step: str = "",
        part: tuple[int, int] = (0, 1),
        run: Mapping | None = None,
    ):
        self.path = path
        self.store = store
        self.step = step
        self.part = part
        self.run = dict(run or {})
        self.tally = Tally()
        self.notes: dict[str, Any] = {}  # further keys of the manifest
        # Called before work is kept that a later try would trust. Raises UserError if the step's
        # inputs were changed since it began.
        self.check_inputs: Callable[[], None] = lambda: None
        self._last_progress_s = 0.0

    @property
    def is_main(self) -> bool:
        """True on the one rank that writes files."""
        return os.environ.get("RANK", "0") == "0"

    @property
    def checkpoints(self) -> Path:
        """Where trainers keep what they need to resume; not part of the finished artifact."""
        return self.path / "checkpoints"

    def progress(self, done: int, total: int | None, unit: str, *, force: bool = False) -> None:
        """Write for `mlalign status` how far this step is, at most once a second.

        `total` is None if it is not known yet.
        """
        if not self.is_main:
            return
        now = time.monotonic()
        is_due = now - self._last_progress_s >= 1 or done == total
        if not force and not is_due:
            return

        self._last_progress_s = now
        progress = {
            "done": done,
            "total": total,
            "unit": unit,
            "by_language": dict(self.tally.rows),
            "time": time.time(),
        }
        write_json(self.own("progress.json"), progress)

    def should_stop(self) -> bool:
        """Whether the run, or this task of an array, was asked to stop by a file named STOP."""
        stopping.stage_looks.set()
        return (self.path / "STOP").exists() or self.own("STOP").exists()

    def own(self, name: str) -> Path:
        """The path of a file that each task of an array has for itself."""
        return own_file(self.path, self.part, name)

    def warn(self, message: str) -> None:
        """Record something that a person must know before the results.

        The manifest keeps it; run, status and report show it first.
        """
        warnings = self.notes.setdefault("warnings", [])
        if message not in warnings:
            warnings.append(message)

    def note(self, **values: Any) -> None:
        """Add keys to the manifest."""
        self.notes.update(values)
