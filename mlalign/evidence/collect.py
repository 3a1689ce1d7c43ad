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
MANY_COLUMNS = (
    4  # score columns of one metric beyond which each is a line of a table, not a table of its own
)


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
        found = ROUND.search(self.name)
        return int(found[1]) if found else None


class Steps(dict[str, Step]):
    """The steps of a run by name, in the order in which they could run."""

    def __init__(self, artifacts: Iterable[Artifact]):
        steps = (Step(a.step or a.path.name, a, a.manifest) for a in artifacts)
        super().__init__({s.name: s for s in steps})
        self._by_print: dict[str, str] = {}
        for step in self.values():
            self._by_print.setdefault(step.manifest["fingerprint"], step.name)

    def inputs(self, name: str, slot: str | None = None) -> list[str]:
        """The steps of this run that stand in a slot (or in any slot) of a step, each once."""
        slots = self[name].manifest["inputs"]
        values = [
            v
            for s, value in slots.items()
            if slot in (None, s)
            for v in (value if isinstance(value, list) else [value])
        ]
        names = (self._by_print.get(v.get("fingerprint", "")) for v in values)
        return list(dict.fromkeys(n for n in names if n is not None))


def gather(steps: Steps, run: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a report but for what stands in rows."""
    told = {name: s.manifest for name, s in steps.items()}
    tables = {
        s.name: read_json(s.path / "metrics.json")
        for s in steps.values()
        if s.manifest["kind"] == "metrics" and s.done
    }
    content = {
        "run": {k: run.get(k) for k in ("name", "recipe")},
        "about": about(run),
        "warnings": [
            {"step": name, "what": text}
            for name, m in told.items()
            for text in m.get("warnings") or []
        ],
        **measured(steps),
        "headlines": headlines(steps),
        "matrices": [
            {"step": name, **table["matrix"]}
            for name, table in tables.items()
            if table["matrix"].get("sources")
        ],
        "breakdown": [r for name in tables for r in _breakdown(steps[name])],
        "confusion": [
            {"step": name, **found}
            for name in tables
            if (found := _beside(steps[name], "confusion"))
        ],
        "consistency": [
            {
                "step": name,
                "languages": found["languages"],
                "values": found["values"],
                "by": found["by"],
            }
            for name in tables
            if (found := _beside(steps[name], "consistency"))
        ],
        "not_computed": [
            {"step": name, "what": text}
            for name, m in told.items()
            for text in m.get("not_computed") or []
        ],
        "steps": [_step(steps, s) for s in steps.values()],
        "sources": _unique(source for m in told.values() for source in m.get("sources") or []),
        "external": [e for name, m in told.items() for e in _external(name, m)],
        "packages": _packages(m["packages"] for m in told.values()),
        "curves": [c for s in steps.values() if (c := _curves(s))],
        "settings": [
            {"step": s.name, "config": config} for s in steps.values() if (config := _settings(s))
        ],
        "times": [{"step": name, **_times(m)} for name, m in told.items()],
    }
    return public(content)


def measured(steps: Steps) -> dict[str, Any]:
    """What was measured: the evaluations, their tables, and what guards decided on them."""
    tables = {
        s.name: read_json(s.path / "metrics.json")
        for s in steps.values()
        if s.manifest["kind"] == "metrics" and s.done
    }
    return {
        "evaluations": evaluations(steps),
        "evaluation_of": {
            name: told["name"] for name, step in steps.items() if (told := evaluation_of(step))
        },
        "metrics": [
            {"step": name, **row} for name, table in tables.items() for row in table["rows"]
        ],
        "decisions": [
            _decided(name, s.manifest) for name, s in steps.items() if "decisions" in s.manifest
        ],
    }


def about(run: Mapping[str, Any]) -> dict[str, str]:
    """What a recipe says of itself in its header: `title` and the lines that begin with Paper,
    Question, Expected and so on.

    The header comes with the run (`about`).
    """
    lines = [line.strip("# ").rstrip() for line in run.get("about", "").splitlines()]
    told = {
        "title": lines[0] if lines else "",
        **dict.fromkeys(("paper", "question", "expected", "deviations"), ""),
    }
    return told | {
        found[1].lower(): found[2] for line in lines if (found := HEADER_LINE.fullmatch(line))
    }


def evaluations(steps: Steps) -> list[dict[str, Any]]:
    """Every evaluation of a model: the steps of its answers and their scores (none where a harness
    asked it), the step of the model, and the evaluation of its baseline.

    Evaluations of a baseline come first, the others in the order of the steps.
    """
    found: list[dict[str, Any]] = []
    for step in steps.values():
        if step.manifest["kind"] != "metrics" or not step.done:
            continue
        answers = steps.inputs(step.name, "rows")
        models = [m for a in answers for m in steps.inputs(a, "model")] or steps.inputs(
            step.name, "model"
        )
        if answers and step.artifact.binding and not models:
            models = [_model_of(step)]  # one from outside
        if not models:
            continue
        entry: dict[str, Any] = {
            "step": step.name,
            "answers": answers,
            "scores": steps.inputs(step.name, "scores"),
            "model": models[0],
        }
        found.append(
            {**entry, "round": step.round, "baseline": steps.inputs(step.name, "baseline")}
        )
    by_answers = {tuple(e["answers"]): e["step"] for e in found if e["answers"]}
    found = [{**e, "baseline": by_answers.get(tuple(e["baseline"]))} for e in found]
    baselines = {e["baseline"] for e in found}
    return sorted(found, key=lambda e: e["step"] not in baselines)


def evaluation_of(step: Step) -> dict[str, Any]:
    """The evaluation that a step's tables are from: its name, origin and headline; empty for
    held-out rows.
    """
    if step.manifest["kind"] != "metrics" or not step.done:
        return {}
    return _settings(step).get("evaluation") or {}


def headlines(steps: Steps) -> list[dict[str, Any]]:
    """The numbers that lead the report: averages over languages of each evaluation's headline
    metrics.

    Where its rows are of several origins, each has an average of its own: native and translated
    rows are never in one.
    """
    found: list[dict[str, Any]] = []
    for step in steps.values():
        evaluation = evaluation_of(step)
        if not evaluation:
            continue
        for metric in evaluation["headline"]:
            for origin, row in _averages_of(step, metric, evaluation["origin"]):
                found.append(
                    {
                        "evaluation": evaluation["name"],
                        "origin": origin,
                        "model": _model_of(step),
                        "step": step.name,
                        **row,
                    }
                )
    return found


def of_one_evaluation(content: Mapping) -> list[dict[str, Any]]:
    """The evaluations of models on the same prompts: the data's held-out ones, else those of the
    first evaluation.
    """
    by_name: dict[str, list[dict[str, Any]]] = {}
    for entry in content["evaluations"]:
        by_name.setdefault(content["evaluation_of"].get(entry["step"], ""), []).append(entry)
    return by_name.get("") or next(iter(by_name.values()), [])


def _averages_of(step: Step, metric: str, origin: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(origin, row of the average) of a metric: one, or one for each origin that the rows have."""
    by_origin = [
        row
        for row in _beside(step, "breakdown").get("rows", [])
        if (row["part"], row["metric"], row["language"]) == ("origin", metric, AVERAGE)
    ]
    if len(by_origin) > 1:
        for row in by_origin:
            yield (
                row["member"],
                {"which": "", **{name: row[name] for name in COLUMNS if name in row}},
            )
        return
    for row in read_json(step.path / "metrics.json")["rows"]:
        if (row["metric"], row["language"]) == (metric, AVERAGE):
            yield origin, {name: row[name] for name in COLUMNS}


def _model_of(step: Step) -> str:
    """What is measured: the policy or reward model that the step is for, and the round."""
    name = ", ".join(map(str, step.artifact.binding.values())) or step.name
    return name if step.round is None else f"{name}, round {step.round}"


def _beside(step: Step, name: str) -> dict[str, Any]:
    """A further table of an evaluation; empty where it has none."""
    return read_json(step.path / f"{name}.json") if has(step.path, f"{name}.json") else {}


def _breakdown(step: Step) -> Iterator[dict[str, Any]]:
    """The averages of an evaluation's breakdown, without metrics of so many score columns that
    nobody could read them.
    """
    rows = [r for r in _beside(step, "breakdown").get("rows", []) if r["language"] == AVERAGE]
    columns: dict[str, set[str]] = {}
    for row in rows:
        columns.setdefault(row["metric"], set()).add(row["by"])
    yield from (
        {"step": step.name, "which": "", **r}
        for r in rows
        if len(columns[r["metric"]]) <= MANY_COLUMNS
    )


def _decided(name: str, manifest: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "step": name,
        "selected": manifest["selected"],
        "stop": manifest["stop"],
        "candidates": manifest["decisions"],
    }


def _step(steps: Steps, step: Step) -> dict[str, Any]:
    told = {k: step.manifest[k] for k in FROM_MANIFEST if step.manifest.get(k) is not None}
    return {"step": step.name, "round": step.round, "inputs": steps.inputs(step.name), **told}


def _external(name: str, manifest: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The inputs of a step that no step made: models, data and scorers from outside."""
    for slot, values in manifest["inputs"].items():
        for value in values if isinstance(values, list) else [values]:
            if "fingerprint" not in value:
                yield {"step": name, "slot": slot, **value}


def _times(manifest: Mapping[str, Any]) -> dict[str, float]:
    started, finished = manifest["started"], manifest["finished"]
    return {"started": started, "finished": finished, "seconds": round(finished - started, 1)}


def _settings(step: Step) -> dict[str, Any]:
    """The configuration that a step ran with; paths below it are cut, so that a report names no
    machine.
    """
    path = step.path / "config.yaml"
    return (
        yaml.safe_load(path.read_text(encoding="utf-8")).get("config") or {}
        if path.is_file()
        else {}
    )


def _curves(step: Step) -> dict[str, Any] | None:
    """What a training step logged: name -> [[step, value], …], thinned to at most CURVE_POINTS
    means of neighbours.
    """
    path = step.path / "log_history.json"
    if not has(step.path, path.name):
        return None
    series: dict[str, list[tuple[float, float]]] = {}
    for i, entry in enumerate(read_json(path)):
        for name, value in entry.items():  # type: ignore[attr-defined]  # a list of dictionaries
            if name not in NOT_CURVES and isinstance(value, int | float) and math.isfinite(value):
                series.setdefault(name, []).append((entry.get("step", i), value))  # type: ignore[attr-defined]
    return {
        "step": step.name,
        "series": {name: _thinned(points) for name, points in series.items() if len(points) > 1},
    }


def _thinned(points: Sequence[tuple[float, float]]) -> list[list[float]]:
    size = -(-len(points) // CURVE_POINTS)
    chunks = (points[i : i + size] for i in range(0, len(points), size))
    return [[c[len(c) // 2][0], float(f"{sum(y for _, y in c) / len(c):.6g}")] for c in chunks]


def _unique(values: Iterable[dict]) -> list[dict]:
    found: list[dict] = []
    for value in values:
        if value not in found:
            found.append(value)
    return found


def _packages(found: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """package -> its version; several if the steps did not agree."""
    versions: dict[str, set[str]] = {}
    for packages in found:
        for name, version in packages.items():
            versions.setdefault(name, set()).add(version)
    return {name: ", ".join(sorted(v)) for name, v in sorted(versions.items())}
