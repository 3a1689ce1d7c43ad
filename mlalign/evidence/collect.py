"""The artifacts of a run -> the content of its report, one JSON-able value; no row is opened here.

Reads the manifests, `config.yaml`, `log_history.json` and the tables (`metrics.json` and those
beside it) of all steps. Absolute paths are cut to their last part. Steps go by this run's names,
whatever they were called where they were computed.
"""

import dataclasses
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from mlalign.core.store import Artifact, has, read_json
from mlalign.evidence.text import public
from mlalign.methods.metrics import AVERAGE, COLUMNS

FROM_MANIFEST = (
    "stage",
    "stage_version",
    "status",
    "skipped_because",
    "fingerprint",
    "content_digest",
    "seed",
    "git_commit",
    "rows_by_language",
    "dropped",
    "sums",
    "device",
    "ranks",
)
ROUND = re.compile(r"\.r(\d+)(?:\[|$)")
HEADER_LINE = re.compile(r"(Paper|Question|Command|Expected|Deviations)\s+(.+)")
NOT_CURVES = ("step", "epoch", "total_flos", "num_tokens", "num_input_tokens_seen")
CURVE_POINTS = 240
# With more score columns than this, a metric is one table with a line for each of them.
MANY_COLUMNS = 4


@dataclasses.dataclass(frozen=True)
class Step:
    """A finished step: its name in this run, its artifact and the manifest."""

    name: str
    artifact: Artifact
    manifest: Mapping[str, Any]

    @property
    def path(self) -> Path:
        return self.artifact.path

    @property
    def done(self) -> bool:
        return self.manifest["status"] != "skipped"

    @property
    def round(self) -> int | None:
        match = ROUND.search(self.name)
        return int(match[1]) if match else None

    @property
    def is_measured(self) -> bool:
        """Whether the step made tables of metrics."""
        return self.manifest["kind"] == "metrics" and self.done


class Steps(dict[str, Step]):
    """The steps of a run by name, in the order in which they could run."""

    def __init__(self, artifacts: Iterable[Artifact]):
        super().__init__()
        self._by_fingerprint: dict[str, str] = {}
        for artifact in artifacts:
            name = artifact.step or artifact.path.name
            self[name] = Step(name, artifact, artifact.manifest)
        for step in self.values():
            self._by_fingerprint.setdefault(step.manifest["fingerprint"], step.name)

    def inputs(self, name: str, slot: str | None = None) -> list[str]:
        """The steps of this run in a slot (or in any slot) of a step, each once."""
        names = []
        for filled, values in self[name].manifest["inputs"].items():
            if slot not in (None, filled):
                continue
            for value in values if isinstance(values, list) else [values]:
                names.append(self._by_fingerprint.get(value.get("fingerprint", "")))
        return list(dict.fromkeys(name for name in names if name is not None))

    def tables(self) -> dict[str, Any]:
        """Step -> its tables of metrics."""
        measured_steps = [step for step in self.values() if step.is_measured]
        return {step.name: read_json(step.path / "metrics.json") for step in measured_steps}


def gather(steps: Steps, run: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a report but for what stands in rows."""
    content = {
        "run": {key: run.get(key) for key in ("name", "recipe")},
        "about": about(run),
        "warnings": _notes(steps, "warnings"),
        **measured(steps),
        "headlines": headlines(steps),
        **_tables(steps),
        "not_computed": _notes(steps, "not_computed"),
        "steps": [_step(steps, step) for step in steps.values()],
        "sources": _sources(steps),
        "external": _external(steps),
        "packages": _packages(steps),
        **_logs(steps),
        "times": [_times(step) for step in steps.values()],
    }
    return public(content)


def measured(steps: Steps) -> dict[str, Any]:
    """What was measured: the evaluations, their tables, and what guards decided on them."""
    evaluation_names = {}
    decisions = []
    for name, step in steps.items():
        evaluation = evaluation_of(step)
        if evaluation:
            evaluation_names[name] = evaluation["name"]
        if "decisions" in step.manifest:
            decisions.append(_decided(name, step.manifest))
    metrics = []
    for name, table in steps.tables().items():
        metrics += [{"step": name, **row} for row in table["rows"]]
    return {
        "evaluations": evaluations(steps),
        "evaluation_of": evaluation_names,
        "metrics": metrics,
        "decisions": decisions,
    }


def _tables(steps: Steps) -> dict[str, list[dict[str, Any]]]:
    """The tables beside the main one."""
    matrices, breakdown, confusion, consistency = [], [], [], []
    for name, table in steps.tables().items():
        if table["matrix"].get("sources"):
            matrices.append({"step": name, **table["matrix"]})
        breakdown += _breakdown(steps[name])
        asked_and_detected = _beside(steps[name], "confusion")
        if asked_and_detected:
            confusion.append({"step": name, **asked_and_detected})
        agreement = _beside(steps[name], "consistency")
        if agreement:
            shown = {key: agreement[key] for key in ("languages", "values", "by")}
            consistency.append({"step": name, **shown})
    return {
        "matrices": matrices,
        "breakdown": breakdown,
        "confusion": confusion,
        "consistency": consistency,
    }


def _logs(steps: Steps) -> dict[str, list[dict[str, Any]]]:
    """The curves of training, and the configuration that each step ran with."""
    curves, settings = [], []
    for step in steps.values():
        of_step = _curves(step)
        if of_step:
            curves.append(of_step)
        config = _settings(step)
        if config:
            settings.append({"step": step.name, "config": config})
    return {"curves": curves, "settings": settings}


def _notes(steps: Steps, key: str) -> list[dict[str, str]]:
    """The messages under one key of the manifests."""
    notes = []
    for name, step in steps.items():
        for text in step.manifest.get(key) or []:
            notes.append({"step": name, "what": text})
    return notes


def about(run: Mapping[str, Any]) -> dict[str, str]:
    """What a recipe says of itself in its header, which comes with the run (`about`).

    `title`, and the lines that begin with Paper, Question, Expected and so on.
    """
    text = run.get("about", "")
    lines = [line.strip("# ").rstrip() for line in text.splitlines()]
    header = {"title": lines[0] if lines else ""}
    header |= dict.fromkeys(("paper", "question", "expected", "deviations"), "")
    for line in lines:
        match = HEADER_LINE.fullmatch(line)
        if match:
            header[match[1].lower()] = match[2]
    return header


def evaluations(steps: Steps) -> list[dict[str, Any]]:
    """Every evaluation of a model, those of a baseline first, else in the order of the steps.

    Each has the steps of its answers and their scores (none where a harness asked the model), the
    step of the model, and the evaluation of its baseline.
    """
    entries: list[dict[str, Any]] = []
    for step in steps.values():
        model = _evaluated(steps, step) if step.is_measured else None
        if model is not None:
            entry: dict[str, Any] = {
                "step": step.name,
                "answers": steps.inputs(step.name, "rows"),
                "scores": steps.inputs(step.name, "scores"),
                "model": model,
                "round": step.round,
                "baseline": steps.inputs(step.name, "baseline"),
            }
            entries.append(entry)

    by_answers: dict[tuple[str, ...], str] = {}
    for entry in entries:
        if entry["answers"]:
            by_answers[tuple(entry["answers"])] = entry["step"]
    for entry in entries:
        entry["baseline"] = by_answers.get(tuple(entry["baseline"]))
    baselines = {entry["baseline"] for entry in entries}
    return sorted(entries, key=lambda entry: entry["step"] not in baselines)


def _evaluated(steps: Steps, step: Step) -> str | None:
    """The model that an evaluation is of; None if it is of none."""
    answers = steps.inputs(step.name, "rows")
    for name in answers:
        models = steps.inputs(name, "model")
        if models:
            return models[0]
    models = steps.inputs(step.name, "model")
    if models:
        return models[0]
    if answers and step.artifact.binding:
        return _model_of(step)  # a model from outside
    return None


def evaluation_of(step: Step) -> dict[str, Any]:
    """Name, origin and headline of a step's evaluation; empty for held-out rows."""
    if not step.is_measured:
        return {}
    return _settings(step).get("evaluation") or {}


def headlines(steps: Steps) -> list[dict[str, Any]]:
    """The numbers that lead the report: averages over languages of the headline metrics.

    Where an evaluation has rows of several origins, each origin has an average of its own, so that
    native and translated rows are never in one.
    """
    entries: list[dict[str, Any]] = []
    for step in steps.values():
        evaluation = evaluation_of(step)
        if not evaluation:
            continue
        for metric in evaluation["headline"]:
            for origin, row in _averages_of(step, metric, evaluation["origin"]):
                entry = {
                    "evaluation": evaluation["name"],
                    "origin": origin,
                    "model": _model_of(step),
                    "step": step.name,
                    **row,
                }
                entries.append(entry)
    return entries


def of_one_evaluation(content: Mapping) -> list[dict[str, Any]]:
    """The evaluations of models on the same prompts.

    Those on held-out rows of the data, else those of the first evaluation.
    """
    by_name: dict[str, list[dict[str, Any]]] = {}
    for entry in content["evaluations"]:
        name = content["evaluation_of"].get(entry["step"], "")
        by_name.setdefault(name, []).append(entry)
    return by_name.get("") or next(iter(by_name.values()), [])


def _averages_of(
    step: Step,
    metric: str,
    origin: str,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(origin, row of the average) of a metric: one, or one for each origin that the rows have."""
    by_origin = []
    for row in _beside(step, "breakdown").get("rows", []):
        if (row["part"], row["metric"], row["language"]) == ("origin", metric, AVERAGE):
            by_origin.append(row)
    if len(by_origin) > 1:
        for row in by_origin:
            columns = {name: row[name] for name in COLUMNS if name in row}
            yield row["member"], {"which": "", **columns}
        return

    for row in read_json(step.path / "metrics.json")["rows"]:
        if (row["metric"], row["language"]) == (metric, AVERAGE):
            yield origin, {name: row[name] for name in COLUMNS}


def _model_of(step: Step) -> str:
    """What is measured: the policy or reward model that the step is for, and the round."""
    binding = step.artifact.binding.values()
    name = ", ".join(map(str, binding)) or step.name
    return name if step.round is None else f"{name}, round {step.round}"


def _beside(step: Step, name: str) -> dict[str, Any]:
    """A further table of an evaluation; empty where it has none."""
    if not has(step.path, f"{name}.json"):
        return {}
    return read_json(step.path / f"{name}.json")


def _breakdown(step: Step) -> list[dict[str, Any]]:
    """The averages of an evaluation's breakdown.

    Metrics of more score columns than anybody could read are left out.
    """
    rows = _beside(step, "breakdown").get("rows", [])
    averages = [row for row in rows if row["language"] == AVERAGE]
    columns: dict[str, set[str]] = {}
    for row in averages:
        columns.setdefault(row["metric"], set()).add(row["by"])
    shown = [row for row in averages if len(columns[row["metric"]]) <= MANY_COLUMNS]
    return [{"step": step.name, "which": "", **row} for row in shown]


def _decided(name: str, manifest: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "step": name,
        "selected": manifest["selected"],
        "stop": manifest["stop"],
        "candidates": manifest["decisions"],
    }


def _step(steps: Steps, step: Step) -> dict[str, Any]:
    entry = {"step": step.name, "round": step.round, "inputs": steps.inputs(step.name)}
    for key in FROM_MANIFEST:
        if step.manifest.get(key) is not None:
            entry[key] = step.manifest[key]
    return entry


def _sources(steps: Steps) -> list[dict[str, Any]]:
    """The sources of data that the steps name, each once."""
    sources: list[dict[str, Any]] = []
    for step in steps.values():
        for source in step.manifest.get("sources") or []:
            if source not in sources:
                sources.append(source)
    return sources


def _external(steps: Steps) -> list[dict[str, Any]]:
    """The inputs that no step made: models, data and scorers from outside."""
    external = []
    for name, step in steps.items():
        for slot, values in step.manifest["inputs"].items():
            for value in values if isinstance(values, list) else [values]:
                if "fingerprint" not in value:
                    external.append({"step": name, "slot": slot, **value})
    return external


def _times(step: Step) -> dict[str, Any]:
    started, finished = step.manifest["started"], step.manifest["finished"]
    return {
        "step": step.name,
        "started": started,
        "finished": finished,
        "seconds": round(finished - started, 1),
    }


def _settings(step: Step) -> dict[str, Any]:
    """The configuration that a step ran with."""
    path = step.path / "config.yaml"
    if not path.is_file():
        return {}
    return yaml.safe_load(path.read_text(encoding="utf-8")).get("config") or {}


def _curves(step: Step) -> dict[str, Any] | None:
    """What a training step logged: name -> [[step, value], …].

    Thinned to at most CURVE_POINTS means of neighbours.
    """
    path = step.path / "log_history.json"
    if not has(step.path, path.name):
        return None
    log: Any = read_json(path)
    series: dict[str, list[tuple[float, float]]] = {}
    for number, entry in enumerate(log):
        for name, value in entry.items():
            is_number = isinstance(value, int | float) and math.isfinite(value)
            if is_number and name not in NOT_CURVES:
                point = (entry.get("step", number), value)
                series.setdefault(name, []).append(point)
    curves = {}
    for name, points in series.items():
        if len(points) > 1:
            curves[name] = _thinned(points)
    return {"step": step.name, "series": curves}


def _thinned(points: Sequence[tuple[float, float]]) -> list[list[float]]:
    size = math.ceil(len(points) / CURVE_POINTS)
    thinned = []
    for start in range(0, len(points), size):
        chunk = points[start : start + size]
        middle, _ = chunk[len(chunk) // 2]
        mean = sum(value for _, value in chunk) / len(chunk)
        thinned.append([middle, float(f"{mean:.6g}")])
    return thinned


def _packages(steps: Steps) -> dict[str, str]:
    """package -> its version; several if the steps did not agree."""
    versions: dict[str, set[str]] = {}
    for step in steps.values():
        for name, version in step.manifest["packages"].items():
            versions.setdefault(name, set()).add(version)
    return {name: ", ".join(sorted(versions[name])) for name in sorted(versions)}
