"""Choose one of several models on evidence, and say whether a loop should stop.

Reads models (slot `candidates`, oldest first) and metrics (slot `evidence`, in the same order: the
last metrics belong to the last model; in a first round the earlier ones may have none). Writes
`selected.json`: `artifact`, `step` and `binding` of the chosen model (`external` for one that no
step made), `stop` and `why`. The manifest's `decisions` has the figures.

Going from old to new, a model takes the lead if the average of its metric rises by at least
`min_gain` and no language falls by more than `max_drop_worst`. A model without evidence leads only
until one with evidence comes. `stop` is true unless the newest leads.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlalign.core import kinds
from mlalign.core.errors import UserError, nearest
from mlalign.core.schema import what
from mlalign.core.stage import Inputs, Output
from mlalign.core.store import Artifact, has, read_json, write_json
from mlalign.methods.metrics import SUMMARIES

VERSION = 1
KIND = "model"
SLOTS = {"candidates": "any*", "evidence": "any*"}
SHARDED = None
DISTRIBUTED = False
CHOOSES = "candidates"


@dataclasses.dataclass
class Config:
    metric: str = what("accuracy", "metric to compare (higher is better), as in metrics.csv")
    by: str | None = what(None, "score column of that metric, where it was computed from several")
    average: str = what(
        "avg", "what decides: avg (over the languages that count), worst, or a language"
    )
    min_gain: float = what(0.0, "a newer model must raise the metric by at least this")
    max_drop_worst: float | None = what(
        None, "no language may fall by more than this; null: no such limit"
    )
    languages: list[str] = what(
        [], "languages that count, for the average and the limit; none named: all"
    )


@dataclasses.dataclass(frozen=True)
class Evidence:
    """The value that decides, and the value of each language that counts."""

    value: float
    by_language: dict[str, float]


def misfits(cfg: Config, inputs: kinds.Inputs) -> list[str]:
    metrics = kinds.columns_of(inputs.get("evidence", ()))
    if not metrics:
        return []
    return kinds.missing_columns({"metric": cfg.metric}, metrics, "evaluations")


def run(cfg: Config, inputs: Inputs, out: Output) -> None:
    candidates = [candidate for candidate in inputs.all("candidates") if not _is_empty(candidate)]
    evidence = [_evidence(cfg, artifact) for artifact in inputs.artifacts("evidence")]
    n_without = len(candidates) - len(evidence)
    if not candidates or n_without < 0:
        raise UserError(
            f"{out.step or 'select'}: {len(evidence)} metrics for {len(candidates)} candidates;"
            " give each its own"
        )

    known: list[Evidence | None] = [*[None] * n_without, *evidence]
    leader, decisions = decide(known, cfg.min_gain, cfg.max_drop_worst)
    stop = leader != len(candidates) - 1
    names = [_name(candidate) for candidate in candidates]
    phrases, table = [], []
    for name, own, decision in zip(names, known, decisions, strict=True):
        phrases.append(f"{name} {decision}")
        value = own.value if own else None
        table.append({"candidate": name, "value": value, "decision": decision})

    why = f"{_label(cfg)}: {'; '.join(phrases)}"
    selected = {**_pointer(candidates[leader]), "stop": stop, "why": why}
    write_json(out.path / "selected.json", selected)
    out.note(decisions=table, selected=names[leader], stop=stop)


def decide(
    known: Sequence[Evidence | None],
    min_gain: float,
    max_drop: float | None,
) -> tuple[int, list[str]]:
    """(the index of the leader, a phrase about each candidate)."""
    leader = 0
    decisions = []
    for index, new in enumerate(known):
        objection = None
        if index > 0:
            objection = _objection(known[leader], new, min_gain, max_drop)
        if objection is None:
            leader = index
        value = "without evidence" if new is None else f"at {new.value:.4f}"
        decisions.append(f"{value}: {objection or 'takes the lead'}")
    return leader, decisions


def _objection(
    old: Evidence | None,
    new: Evidence | None,
    min_gain: float,
    max_drop: float | None,
) -> str | None:
    """Why `new` does not take the lead from `old`, or None if it does.

    Differences below 1e-9 are rounding.
    """
    if old is None:
        return None
    if new is None:
        return "cannot take the lead from one with evidence"
    gain = round(new.value - old.value, 9)
    if gain < min_gain:
        return f"gains {gain:+.4f}, less than {min_gain}"

    falls = {}
    for language, value in sorted(new.by_language.items()):
        if language in old.by_language:
            falls[language] = round(old.by_language[language] - value, 9)
    if max_drop is None or not falls:
        return None
    worst = max(falls, key=lambda language: falls[language])
    if falls[worst] > max_drop:
        return f"falls by {falls[worst]:.4f} in {worst}, more than {max_drop}"
    return None


def _evidence(cfg: Config, artifact: Artifact) -> Evidence:
    """What the metrics say.

    Raises: UserError if the metric or a language is missing, or several score columns have it.
    """
    name = _name(artifact)
    values = _values(cfg, read_json(artifact.path / "metrics.json")["rows"], name)
    languages = cfg.languages or [language for language in values if language not in SUMMARIES]
    missing = [language for language in languages if language not in values]
    if missing:
        no_metric = f"languages: {name} has no {cfg.metric}"
        messages = [f"{no_metric} in {lang!r}{nearest(lang, values)}" for lang in missing]
        raise UserError(*messages)

    by_language = {language: values[language] for language in languages}
    values["avg"] = sum(by_language.values()) / len(by_language)
    values["worst"] = min(by_language.values())
    if cfg.average not in values:
        raise UserError(
            f"average: {name} has no {cfg.metric} in {cfg.average!r}{nearest(cfg.average, values)}"
        )
    return Evidence(values[cfg.average], by_language)


def _values(
    cfg: Config,
    table: Sequence[dict],
    name: str,
) -> dict[str, float]:
    """language -> value of the metric."""
    rows = [row for row in table if row["metric"] == cfg.metric]
    if cfg.by is not None:
        rows = [row for row in rows if row["by"] == cfg.by]
    if not rows:
        metrics = {row["metric"] for row in table}
        raise UserError(f"metric: {name} has no {_label(cfg)}{nearest(cfg.metric, metrics)}")
    columns = {row["by"] for row in rows}
    if len(columns) > 1:
        raise UserError(
            f"by: {name} has {cfg.metric} for several score columns, choose one"
            f"{nearest('', columns)}"
        )
    return {row["language"]: row["value"] for row in rows}


def _is_empty(candidate: Artifact | dict) -> bool:
    """Whether a step was skipped and made nothing; a skipped guard still passes a model on."""
    if not isinstance(candidate, Artifact):
        return False
    return candidate.skipped and not has(candidate.path, "selected.json")


def _pointer(candidate: Artifact | dict) -> dict[str, Any]:
    if isinstance(candidate, Artifact):
        return {
            "artifact": candidate.path.name,
            "step": candidate.step,
            "binding": candidate.binding,
        }
    return {"external": candidate}


def _name(candidate: Artifact | dict) -> str:
    if isinstance(candidate, Artifact):
        return candidate.step or candidate.path.name
    return Path(candidate["path"]).name


def _label(cfg: Config) -> str:
    return f"{cfg.metric} by {cfg.by}" if cfg.by else cfg.metric
