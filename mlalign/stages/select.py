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
    return (
        [] if not metrics else kinds.missing_columns({"metric": cfg.metric}, metrics, "evaluations")
    )


def run(cfg: Config, inputs: Inputs, out: Output) -> None:
    candidates = [c for c in inputs.all("candidates") if not _is_empty(c)]
    evidence = [_evidence(cfg, artifact) for artifact in inputs.artifacts("evidence")]
    if not candidates or len(evidence) > len(candidates):
        raise UserError(
            f"{out.step or 'select'}: {len(evidence)} metrics for {len(candidates)} candidates;"
            " give each its own"
        )
    known: list[Evidence | None] = [*[None] * (len(candidates) - len(evidence)), *evidence]
    leader, decisions = decide(known, cfg.min_gain, cfg.max_drop_worst)
    stop, names = leader != len(candidates) - 1, [_name(c) for c in candidates]
    why = f"{_label(cfg)}: " + "; ".join(
        f"{name} {text}" for name, text in zip(names, decisions, strict=True)
    )
    write_json(
        out.path / "selected.json", {**_pointer(candidates[leader]), "stop": stop, "why": why}
    )
    table = [
        {"candidate": n, "value": e and e.value, "decision": d}
        for n, e, d in zip(names, known, decisions, strict=True)
    ]
    out.note(decisions=table, selected=names[leader], stop=stop)


def decide(
    known: Sequence[Evidence | None], min_gain: float, max_drop: float | None
) -> tuple[int, list[str]]:
    """(the index of the leader, a phrase about each candidate)."""
    leader, decisions = 0, []
    for i, new in enumerate(known):
        objection = _objection(known[leader], new, min_gain, max_drop) if i else None
        leader = leader if objection else i
        value = "without evidence" if new is None else f"at {new.value:.4f}"
        decisions.append(f"{value}: {objection or 'takes the lead'}")
    return leader, decisions


def _objection(
    old: Evidence | None, new: Evidence | None, min_gain: float, max_drop: float | None
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
    falls = {
        lang: round(old.by_language[lang] - v, 9)
        for lang, v in sorted(new.by_language.items())
        if lang in old.by_language
    }
    worst = max(falls, key=lambda lang: falls[lang], default=None)
    if max_drop is not None and worst is not None and falls[worst] > max_drop:
        return f"falls by {falls[worst]:.4f} in {worst}, more than {max_drop}"
    return None


def _evidence(cfg: Config, artifact: Artifact) -> Evidence:
    """What the metrics say.

    Raises: UserError if the metric or a language is not there, or the metric stands there several
        times.
    """
    told, name = read_json(artifact.path / "metrics.json")["rows"], _name(artifact)
    rows = [r for r in told if r["metric"] == cfg.metric and cfg.by in (None, r["by"])]
    if not rows:
        raise UserError(
            f"metric: {name} has no {_label(cfg)}{nearest(cfg.metric, {r['metric'] for r in told})}"
        )
    if len(columns := {r["by"] for r in rows}) > 1:
        raise UserError(
            f"by: {name} has {cfg.metric} for several score columns, choose"
            f" one{nearest('', columns)}"
        )
    values = {r["language"]: r["value"] for r in rows}
    wanted = cfg.languages or [lang for lang in values if lang not in SUMMARIES]
    if missing := [lang for lang in wanted if lang not in values]:
        raise UserError(
            *(
                f"languages: {name} has no {cfg.metric} in {lang!r}{nearest(lang, values)}"
                for lang in missing
            )
        )
    each = {lang: values[lang] for lang in wanted}
    values |= {"avg": sum(each.values()) / len(each), "worst": min(each.values())}
    if cfg.average not in values:
        raise UserError(
            f"average: {name} has no {cfg.metric} in {cfg.average!r}{nearest(cfg.average, values)}"
        )
    return Evidence(values[cfg.average], each)


def _is_empty(candidate: Artifact | dict) -> bool:
    """A step that was skipped and made nothing; a skipped guard still passes a model on."""
    return (
        isinstance(candidate, Artifact)
        and candidate.skipped
        and not has(candidate.path, "selected.json")
    )


def _pointer(candidate: Artifact | dict) -> dict[str, Any]:
    if isinstance(candidate, Artifact):
        return {
            "artifact": candidate.path.name,
            "step": candidate.step,
            "binding": candidate.binding,
        }
    return {"external": candidate}


def _name(value: Artifact | dict) -> str:
    return (
        (value.step or value.path.name) if isinstance(value, Artifact) else Path(value["path"]).name
    )


def _label(cfg: Config) -> str:
    return f"{cfg.metric} by {cfg.by}" if cfg.by else cfg.metric
