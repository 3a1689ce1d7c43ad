"""What the variants of a sweep came to: reads `runs/NAME/plan.json` and the store; writes `results.json`, `.csv`, `.md`, `.html`.

The tables are those that each variant's own evaluation wrote. Nothing is computed again but what needs several variants at once:
differences and main effects (`effects`).
"""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from mlalign.core import claims, shapes, stage, store
from mlalign.core.errors import UserError, nearest
from mlalign.core.terminal import say
from mlalign.evidence import collect, headline
from mlalign.evidence.text import METRICS, OVER, is_language, number, parted
from mlalign.methods.metrics import AVERAGE
from mlalign.recipes.plan import Plan
from mlalign.running.slurm import batch

Key = tuple[str, str]  # metric, score column
LOWER = ("reward_ties", "wrong_in_language", "wrong_elsewhere", "right_elsewhere", "truncated")  # the lower the better
NEITHER = ("tokens", "characters", "bytes", "content_bytes", "byte_premium", "tokens_per_character")
DIGITS = 3
PATIENCE_S = 600  # of one who waits for others to have written the results


@dataclasses.dataclass
class Outcome:
    """What one variant came to. `rows`: of each metric the table (language, avg, worst, … -> row) of the evaluation that counts."""

    label: str
    values: dict[str, Any]
    overrides: list[str]
    state: str  # done, failed, unfinished or pruned
    why: str
    rows: dict[Key, dict[str, Mapping]]
    evaluations: dict[Key, str]  # the artifact that the rows stand in
    trial: int | None = None


def outcome(run_dir: Path, the_store: store.Store, variant: Mapping[str, Any], artifacts: Mapping[str, str]) -> Outcome:
    """`variant`: an entry of `variants` in plan.json; `artifacts`: name of a step -> its artifact."""
    own = {step: artifacts[name] for step, name in variant["steps"].items()}
    rows, evaluations = measured(the_store, own)
    state, why = _state(run_dir, the_store, variant, artifacts)
    return Outcome(variant["label"], variant["values"], variant["overrides"], state, why, rows, evaluations, variant.get("trial"))


def measured(the_store: store.Store, artifacts: Mapping[str, str]) -> tuple[dict[Key, dict[str, Mapping]], dict[Key, str]]:
    """The result of each metric among the finished steps, and the artifact it stands in."""
    paths = {step: the_store.root / artifact for step, artifact in artifacts.items()}
    steps = collect.Steps(store.Artifact(path, step) for step, path in paths.items() if (path / "manifest.json").is_file())
    content = collect.measured(steps)
    rows, evaluations = {}, {}
    for key, table in headline.tables(content).items():
        step = headline.before_and_after(content, table)[1]
        rows[key], evaluations[key] = table[step], artifacts[step]
    return rows, evaluations


def _state(run_dir: Path, the_store: store.Store, variant: Mapping[str, Any], artifacts: Mapping[str, str]) -> tuple[str, str]:
    left = [n for n in variant["steps"].values() if not (the_store.root / artifacts[n] / "manifest.json").is_file()]
    if not left or variant.get("state"):
        return variant.get("state") or "done", variant.get("why") or ""
    for name in left:
        told = the_store.root / f"{artifacts[name]}.partial" / "outcome.json"
        if told.is_file() and (said := store.read_json(told, shapes.OUTCOME))["status"] != stage.STOPPED:
            return "failed", f"{name}: {said['message']}"
        if (page := batch.failed_file(run_dir / "slurm", name)).is_file():  # it could not say so itself
            return "failed", page.read_text(encoding="utf-8").partition("\n")[0]
    return "unfinished", f"waits for {left[0]}"


# ------------------------------------------------------------------------------------------------------------------- metrics


def check_metric(metric: str | None, direction: str | None, *, harness: bool = False) -> None:
    """Before anything runs: refuse a metric that no evaluation gives, or that is neither good nor bad.

    A harness (`lm_eval`) has metrics of its own: with one in the recipe, only what came out can tell.
    """
    if metric is None:
        return
    name = metric.partition(":")[0]
    known = [n + over for n in METRICS for over in ("", *OVER)]
    if not harness and name not in known:
        raise UserError(f"metric: no evaluation gives {name!r}{nearest(name, known)}")
    if direction is None and parted(name)[0] in NEITHER:
        raise UserError(f"metric: {name} is neither good nor bad; say direction=maximize or direction=minimize")


def choose(metric: str | None, found: Collection[Key]) -> Key:
    """The (metric, score column) that decides; without one asked for the first that a report leads with.

    Raises: UserError for one that is not there, with the nearest, or that stands there for several score columns.
    """
    if metric is None:
        ranked = sorted(found, key=lambda k: headline.LEADING.index(k[0]) if k[0] in headline.LEADING else len(headline.LEADING))
        if not ranked:
            raise UserError("metric: no variant has been evaluated")
        return ranked[0]
    name, _, by = metric.partition(":")
    same = [k for k in found if k[0] == name and by in ("", k[1])]
    if not same:
        raise UserError(f"metric: no variant has {metric!r}{nearest(metric, {x for k in found for x in (k[0], ':'.join(k))})}")
    if len(same) > 1:
        raise UserError(f"metric: {name} stands there for several score columns{nearest('', (':'.join(k) for k in same))}")
    return same[0]


def lower_is_better(metric: str, direction: str | None) -> bool:
    return direction == "minimize" if direction else parted(metric)[0] in LOWER


def average(the_store: store.Store, steps: Mapping[str, str], nodes: Mapping[str, Any], metric: str | None) -> Mapping | None:
    """The average of a metric of one variant, None where it was not measured."""
    rows, _ = measured(the_store, {step: nodes[name].artifact for step, name in steps.items()})
    try:
        return rows[choose(metric, rows)].get(AVERAGE)
    except UserError:
        return None


def told(row: Mapping) -> str:
    """`71.2% (68.9% to 73.4%)`."""
    bounds = headline.interval(row, DIGITS)
    return number(row["value"], row["metric"], DIGITS) + (f" ({bounds})" if bounds else "")


# ------------------------------------------------------------------------------------------------------------------- content


def content(run_dir: Path, the_store: store.Store, metric: str | None, direction: str | None) -> dict[str, Any]:
    """All that is shown of a sweep, as JSON types.

    Raises: UserError for a metric that no variant has, though others are there.
    """
    from mlalign.sweep import effects

    told_ = store.read_json(run_dir / "plan.json", shapes.PLAN)
    artifacts = {s["step"]: s["artifact"] for s in told_["steps"]}
    outcomes = [outcome(run_dir, the_store, v, artifacts) for v in told_["variants"]]
    found = list(dict.fromkeys(k for o in outcomes for k in o.rows))
    key = choose(metric, found) if found else ((metric or headline.LEADING[0]).partition(":")[0], "")
    fewer = lower_is_better(key[0], direction)
    ranked = sorted((o for o in outcomes if _value(o, key) is not None), key=lambda o: _value(o, key) or 0.0, reverse=not fewer)
    complete = [o for o in ranked if o.state == "done"] or ranked
    ranked = [*complete, *(o for o in ranked if o not in complete)]  # what an incomplete one has, it may have of an earlier round
    statistics = effects.compute(complete, key, the_store) if complete else None
    uses = [name for v in told_["variants"] for name in v["steps"].values()]
    return {
        "name": told_["name"], "recipe": told_["recipe"], "kind": told_["kind"], "metric": key[0], "by": key[1],
        "direction": "minimize" if fewer else "maximize", "keys": list(told_["variants"][0]["values"]),
        "steps": {"in_all": len(uses), "different": len(set(uses)), "shared": sum(uses.count(n) > 1 for n in set(uses))},
        "confidence": _confidence(the_store, complete, key), "best": complete[0].label if complete else None,
        "languages": sorted({c for o in outcomes for c in o.rows.get(key, {}) if is_language(c)}),
        "metrics": [list(k) for k in _leading_first(key, found)],
        "variants": [_variant(o) for o in [*ranked, *(o for o in outcomes if o not in ranked)]],
        "statistics": statistics,
    }  # fmt: skip


def _value(o: Outcome, key: Key) -> float | None:
    row = o.rows.get(key, {}).get(AVERAGE)
    return None if row is None else row["value"]


def _leading_first(key: Key, found: Sequence[Key]) -> list[Key]:
    first = {m: i for i, m in enumerate(headline.LEADING)}
    return [key, *sorted((k for k in found if k != key), key=lambda k: first.get(k[0], len(first)))]


def _variant(o: Outcome) -> dict[str, Any]:
    rows = [row for table in o.rows.values() for row in table.values()]
    told_ = {"variant": o.label, "values": o.values, "overrides": o.overrides, "state": o.state, "why": o.why, "trial": o.trial}
    return {**told_, "rows": rows}


def _confidence(the_store: store.Store, outcomes: Sequence[Outcome], key: Key) -> float:
    for o in outcomes:
        path = the_store.root / o.evaluations[key] / "config.yaml"
        config = yaml.safe_load(path.read_text(encoding="utf-8"))["config"] if path.is_file() else {}
        if "confidence" in config:
            return float(config["confidence"])
    return 0.95


def publish(run_dir: Path, the_store: store.Store, metric: str | None, direction: str | None) -> dict[str, Any]:
    """Write the results of a sweep beside its plan.json; returns their content. Of several that do so at a time the last sees the most."""
    with claims.claim_in_turn(run_dir, "results", PATIENCE_S):
        found = collect.public(content(run_dir, the_store, metric, direction))
        _write(run_dir, found)
    return found


def _write(run_dir: Path, found: Mapping[str, Any]) -> None:
    from mlalign.evidence import sweep
    from mlalign.methods.metrics import table

    store.write_json(run_dir / "results.json", found)
    columns = ("variant", *(k for k in found["keys"]), "state", *table.COLUMNS, "step")
    lines = [{"variant": v["variant"], **v["values"], "state": v["state"], **row} for v in found["variants"] for row in v["rows"] or [{}]]
    for name, text in (
        ("results.csv", table.to_csv(lines, columns)), ("results.md", sweep.markdown_page(found, DIGITS)),
        ("results.html", sweep.page(found, DIGITS)),
    ):  # fmt: skip
        temporary = run_dir / f"{name}.tmp"
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(run_dir / name)


def _evaluated(planned: Plan) -> bool:
    done = (n for n in planned.nodes if n.module.KIND == "metrics")
    return any((planned.store.root / n.artifact / "manifest.json").is_file() for n in done)


def tell(planned: Plan, metric: str | None, direction: str | None) -> None:
    """Write the results that are there and print the best of them."""
    found = publish(planned.run_dir, planned.store, metric, direction)
    if not _evaluated(planned):
        again = f"mlalign results name={planned.name} root={planned.root}"
        page = planned.run_dir / "results.html"
        say(f"\nnothing is measured yet; results will stand in {page}; as far as they are: {again}")
        return
    say(summary(found, planned.run_dir))


def summary(found: Mapping[str, Any], run_dir: Path) -> str:
    """The best of the results as text, and where all of them are."""
    from mlalign.evidence import sweep

    return f"\n{sweep.summary(found, DIGITS)}\n\nresults: {run_dir / 'results.html'}"
