"""What came out of a sweep's variants.

Reads `runs/NAME/plan.json` and the store; writes `results.json`, `.csv`, `.md` and `.html`. The
tables are those that each variant's own evaluation wrote. Only what needs several variants at once
is computed here: differences and main effects (`effects`).
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
from mlalign.sweep.united import step_counts

Key = tuple[str, str]  # metric, score column
# Metrics of which a lower value is better.
LOWER = ("reward_ties", "wrong_in_language", "wrong_elsewhere", "right_elsewhere", "truncated")
# Metrics that are neither good nor bad.
NEITHER = (
    "tokens",
    "characters",
    "bytes",
    "content_bytes",
    "byte_premium",
    "tokens_per_character",
)
DIGITS = 3
PATIENCE_S = 600  # how long to wait for another process that writes the results


@dataclasses.dataclass
class Outcome:
    """What came out of one variant.

    `rows`: for each metric the table (language, avg, worst, … -> row) of the evaluation that
    counts.
    """

    label: str
    values: dict[str, Any]
    overrides: list[str]
    state: str  # done, failed, unfinished or pruned
    why: str
    rows: dict[Key, dict[str, Mapping]]
    evaluations: dict[Key, str]  # the artifact that has the rows
    trial: int | None = None


def outcome(
    run_dir: Path,
    the_store: store.Store,
    variant: Mapping[str, Any],
    artifacts: Mapping[str, str],
) -> Outcome:
    """`variant`: an entry of `variants` in plan.json; `artifacts`: name of a step -> its
    artifact."""
    artifact_of = {step: artifacts[name] for step, name in variant["steps"].items()}
    rows, evaluations = measured(the_store, artifact_of)
    state, why = _state(run_dir, the_store, variant, artifacts)
    return Outcome(
        label=variant["label"],
        values=variant["values"],
        overrides=variant["overrides"],
        state=state,
        why=why,
        rows=rows,
        evaluations=evaluations,
        trial=variant.get("trial"),
    )


def measured(
    the_store: store.Store,
    artifacts: Mapping[str, str],
) -> tuple[dict[Key, dict[str, Mapping]], dict[Key, str]]:
    """The result of each metric among the finished steps, and the artifact that has it."""
    finished = []
    for step, artifact in artifacts.items():
        path = the_store.root / artifact
        if (path / "manifest.json").is_file():
            finished.append(store.Artifact(path, step))

    content = collect.measured(collect.Steps(finished))
    rows, evaluations = {}, {}
    for key, table in headline.tables(content).items():
        step = headline.before_and_after(content, table)[1]
        rows[key] = table[step]
        evaluations[key] = artifacts[step]
    return rows, evaluations


def _state(
    run_dir: Path,
    the_store: store.Store,
    variant: Mapping[str, Any],
    artifacts: Mapping[str, str],
) -> tuple[str, str]:
    """(state of a variant, why it is so)."""
    unfinished = []
    for name in variant["steps"].values():
        if not (the_store.root / artifacts[name] / "manifest.json").is_file():
            unfinished.append(name)
    if not unfinished or variant.get("state"):
        return variant.get("state") or "done", variant.get("why") or ""

    for name in unfinished:
        path = the_store.root / f"{artifacts[name]}.partial" / "outcome.json"
        if path.is_file():
            outcome = store.read_json(path, shapes.OUTCOME)
            if outcome["status"] != stage.STOPPED:
                return "failed", f"{name}: {outcome['message']}"
        # A killed job leaves no outcome; its batch script says that it failed.
        failure = batch.failed_file(run_dir / "slurm", name)
        if failure.is_file():
            return "failed", failure.read_text(encoding="utf-8").partition("\n")[0]
    return "unfinished", f"waits for {unfinished[0]}"


# -------------------------------------------------- metrics


def check_metric(metric: str | None, direction: str | None, *, any_metric: bool = False) -> None:
    """Before anything runs: refuse a metric that no evaluation gives, or that is neither good nor
    bad.

    `any_metric`: a step has metrics whose names nobody knows before it runs.
    """
    if metric is None:
        return
    name = metric.partition(":")[0]
    names = [metric_name + over for metric_name in METRICS for over in ("", *OVER)]
    if not any_metric and name not in names:
        raise UserError(f"metric: no evaluation gives {name!r}{nearest(name, names)}")
    if direction is None and parted(name)[0] in NEITHER:
        mend = "say direction=maximize or direction=minimize"
        raise UserError(f"metric: {name} is neither good nor bad; {mend}")


def choose(metric: str | None, keys: Collection[Key]) -> Key:
    """The (metric, score column) that decides; by default the first that a report leads with.

    Raises: UserError for a metric that is not there, or that several score columns have.
    """
    if metric is None:
        if not keys:
            raise UserError("metric: no variant has been evaluated")
        return min(keys, key=_lead)
    name, _, by = metric.partition(":")
    matching = [key for key in keys if key[0] == name and by in ("", key[1])]
    if not matching:
        names = {spelling for key in keys for spelling in (key[0], ":".join(key))}
        raise UserError(f"metric: no variant has {metric!r}{nearest(metric, names)}")
    if len(matching) > 1:
        columns = nearest("", (":".join(key) for key in matching))
        raise UserError(f"metric: several score columns have {name}{columns}")
    return matching[0]


def _lead(key: Key) -> int:
    """The place of a metric among those that reports lead with; all others come after."""
    leading = headline.LEADING
    return leading.index(key[0]) if key[0] in leading else len(leading)


def lower_is_better(metric: str, direction: str | None) -> bool:
    return direction == "minimize" if direction else parted(metric)[0] in LOWER


def average(
    the_store: store.Store,
    steps: Mapping[str, str],
    nodes: Mapping[str, Any],
    metric: str | None,
) -> Mapping | None:
    """The average of a metric of one variant, None where it was not measured."""
    rows, _ = measured(the_store, {step: nodes[name].artifact for step, name in steps.items()})
    try:
        return rows[choose(metric, rows)].get(AVERAGE)
    except UserError:
        return None


def as_text(row: Mapping) -> str:
    """`71.2% (68.9% to 73.4%)`."""
    bounds = headline.interval(row, DIGITS)
    return number(row["value"], row["metric"], DIGITS) + (f" ({bounds})" if bounds else "")


# -------------------------------------------------- content


def content(
    run_dir: Path,
    the_store: store.Store,
    metric: str | None,
    direction: str | None,
) -> dict[str, Any]:
    """All that is shown of a sweep, as JSON types.

    Raises: UserError for a metric that no variant has, if variants have others.
    """
    from mlalign.sweep import effects

    plan = store.read_json(run_dir / "plan.json", shapes.PLAN)
    artifacts = {step["step"]: step["artifact"] for step in plan["steps"]}
    outcomes = [outcome(run_dir, the_store, v, artifacts) for v in plan["variants"]]
    keys = list(dict.fromkeys(key for o in outcomes for key in o.rows))
    if keys:
        key = choose(metric, keys)
    else:
        key = ((metric or headline.LEADING[0]).partition(":")[0], "")

    minimize = lower_is_better(key[0], direction)
    complete, others = _ranked(outcomes, key, minimize)
    languages = {code for o in outcomes for code in o.rows.get(key, {}) if is_language(code)}
    return {
        "name": plan["name"],
        "recipe": plan["recipe"],
        "kind": plan["kind"],
        "metric": key[0],
        "by": key[1],
        "direction": "minimize" if minimize else "maximize",
        "keys": list(plan["variants"][0]["values"]),
        "steps": step_counts(variant["steps"] for variant in plan["variants"]),
        "confidence": _confidence(the_store, complete, key),
        "best": complete[0].label if complete else None,
        "languages": sorted(languages),
        "metrics": [list(k) for k in _leading_first(key, keys)],
        "variants": [_variant(o) for o in [*complete, *others]],
        "statistics": effects.compute(complete, key, the_store) if complete else None,
    }


def _ranked(
    outcomes: Sequence[Outcome],
    key: Key,
    minimize: bool,
) -> tuple[list[Outcome], list[Outcome]]:
    """The variants that are done and have the metric, best first; then all others.

    An unfinished variant may have the metric from an earlier round, so it comes after those that
    are done. If no variant is done, all that have the metric count as done.
    """
    measured_ones = [o for o in outcomes if _value(o, key) is not None]
    measured_ones.sort(key=lambda o: _value(o, key) or 0.0, reverse=not minimize)
    complete = [o for o in measured_ones if o.state == "done"] or measured_ones
    others = [o for o in measured_ones if o not in complete]
    others += [o for o in outcomes if o not in measured_ones]
    return complete, others


def _value(o: Outcome, key: Key) -> float | None:
    row = o.rows.get(key, {}).get(AVERAGE)
    return None if row is None else row["value"]


def _leading_first(key: Key, keys: Sequence[Key]) -> list[Key]:
    return [key, *sorted((k for k in keys if k != key), key=_lead)]


def _variant(o: Outcome) -> dict[str, Any]:
    return {
        "variant": o.label,
        "values": o.values,
        "overrides": o.overrides,
        "state": o.state,
        "why": o.why,
        "trial": o.trial,
        "rows": [row for table in o.rows.values() for row in table.values()],
    }


def _confidence(the_store: store.Store, outcomes: Sequence[Outcome], key: Key) -> float:
    for o in outcomes:
        path = the_store.root / o.evaluations[key] / "config.yaml"
        if not path.is_file():
            continue
        config = yaml.safe_load(path.read_text(encoding="utf-8"))["config"]
        if "confidence" in config:
            return float(config["confidence"])
    return 0.95


def publish(
    run_dir: Path,
    the_store: store.Store,
    metric: str | None,
    direction: str | None,
) -> dict[str, Any]:
    """Write the results of a sweep beside its plan.json; returns their content.

    Processes that publish at the same time take turns, so the last one sees the most.
    """
    with claims.claim_in_turn(run_dir, "results", PATIENCE_S):
        results = collect.public(content(run_dir, the_store, metric, direction))
        _write(run_dir, results)
    return results


def _write(run_dir: Path, results: Mapping[str, Any]) -> None:
    from mlalign.evidence import sweep
    from mlalign.methods.metrics import table

    store.write_json(run_dir / "results.json", results)
    columns = ("variant", *results["keys"], "state", *table.COLUMNS, "step")
    lines = []
    for v in results["variants"]:
        about = {"variant": v["variant"], **v["values"], "state": v["state"]}
        lines += [{**about, **row} for row in v["rows"] or [{}]]
    texts = {
        "results.csv": table.to_csv(lines, columns),
        "results.md": sweep.markdown_page(results, DIGITS),
        "results.html": sweep.page(results, DIGITS),
    }
    for name, text in texts.items():
        temporary = run_dir / f"{name}.tmp"
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(run_dir / name)


def _is_evaluated(planned: Plan) -> bool:
    """Whether any step that measures is done."""
    for node in planned.nodes:
        manifest = planned.store.root / node.artifact / "manifest.json"
        if node.module.KIND == "metrics" and manifest.is_file():
            return True
    return False


def tell(planned: Plan, metric: str | None, direction: str | None) -> None:
    """Write the results so far and print the best of them."""
    results = publish(planned.run_dir, planned.store, metric, direction)
    if _is_evaluated(planned):
        say(summary(results, planned.run_dir))
        return
    page = planned.run_dir / "results.html"
    command = f"mlalign results name={planned.name} root={planned.root}"
    say(f"\nnothing is measured yet; results will be in {page}; to update them: {command}")


def summary(results: Mapping[str, Any], run_dir: Path) -> str:
    """The best of the results as text, and where all of them are."""
    from mlalign.evidence import sweep

    return f"\n{sweep.summary(results, DIGITS)}\n\nresults: {run_dir / 'results.html'}"
