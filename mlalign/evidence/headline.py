"""The metrics that lead a report: which they are, what is compared, and their values as text.

Pure functions of the collected content.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mlalign.evidence import figures
from mlalign.evidence.text import (
    is_language,
    is_share,
    language,
    number,
    parted,
    source_of,
)
from mlalign.methods.metrics import AVERAGE

# Metrics that a run is about, most telling first. Of the last one that a run has, several score
# columns may be shown.
LEADING = ("win_rate", "accuracy", "adherence", "reward_accuracy", "selected_accuracy", "tokens")
CHANCE = ("win_rate", "win_rate_lc", "reward_accuracy")
MANY = 24  # more languages than this are drawn as columns

Table = dict[str, dict[str, Mapping]]  # step -> language (or avg, worst, …) -> row
Key = tuple[str, str]  # metric, by


def reference(metric: str) -> float | None:
    """The value that says nothing: no gain, or chance."""
    _, over = parted(metric)
    if over:
        return 0.0
    return 0.5 if metric in CHANCE else None


def tables(content: Mapping) -> dict[Key, Table]:
    """(metric, by) -> its rows by step and language, the steps of baselines first."""
    steps = [entry["step"] for entry in content["evaluations"]]

    def order(row: Mapping) -> int:
        return steps.index(row["step"]) if row["step"] in steps else len(steps)

    all_tables: dict[Key, Table] = {}
    for row in sorted(content["metrics"], key=order):
        key = (row["metric"], by_of(content, row))
        table = all_tables.setdefault(key, {})
        of_step = table.setdefault(row["step"], {})
        of_step[row["language"]] = row
    return all_tables


def by_of(content: Mapping, row: Mapping) -> str:
    """The score column that a row was measured by, with the evaluation that it is from.

    So the numbers of one evaluation are in no table of another.
    """
    evaluation = (content.get("evaluation_of") or {}).get(row["step"])
    return " on ".join(filter(None, (row["by"], evaluation)))


def before_and_after(content: Mapping, table: Table) -> tuple[str | None, str]:
    """The steps to compare.

    After: the evaluation of the model that was selected, else the last. Before: that of its
    baseline, else the first.
    """
    entries = {entry["step"]: entry for entry in content["evaluations"]}
    steps = list(table)
    after = steps[-1]
    if content["decisions"]:
        selected = content["decisions"][-1]["selected"]
        models = {step: entry["model"] for step, entry in entries.items()}
        of_selected = [step for step in steps if models.get(step) == selected]
        after = of_selected[0] if of_selected else after

    baseline = entries.get(after, {}).get("baseline")
    before = baseline if baseline in table else steps[0]
    return (None if before == after else before), after


def label_of(content: Mapping, step: str) -> str:
    """What a column of results is called: the model that was evaluated, else the step."""
    models = [entry["model"] for entry in content["evaluations"]]
    for entry in content["evaluations"]:
        if entry["step"] == step and models.count(entry["model"]) == 1:
            return entry["model"]
    return step


def leading(content: Mapping) -> list[Key]:
    """The (metric, by) of the three metrics that the first screen shows."""

    def rank(key: Key) -> int:
        return LEADING.index(key[0]) if key[0] in LEADING else len(LEADING)

    all_tables = tables(content)
    first_of: dict[str, Key] = {}
    for key in reversed(sorted(all_tables, key=rank)):
        metric = key[0]
        _, over = parted(metric)
        has_average = any(AVERAGE in rows for rows in all_tables[key].values())
        if has_average and not over:
            first_of[metric] = key
    return list(reversed(first_of.values()))[:3]


def sources(content: Mapping) -> list[tuple[str, Mapping]]:
    """(what a reward model was trained on, its average row), best first.

    Empty unless a run compares several, and measures nothing that comes before.
    """
    all_tables = tables(content)
    keys = [key for key in all_tables if key[0] == "reward_accuracy"]
    if len(keys) < 2 or leading(content)[0][0] != "reward_accuracy":
        return []
    ranked = []
    for key in keys:
        _, after = before_and_after(content, all_tables[key])
        row = all_tables[key][after][AVERAGE]
        if row["value"] is not None:
            ranked.append((source_of(key[1]), row))
    return sorted(ranked, key=lambda pair: -pair[1]["value"])


def origin_name(origin: str) -> str:
    """`machine translated` for `machine_translated`."""
    return origin.replace("_", " ")


def confidence(content: Mapping) -> str:
    """`95%`, as the evaluations were configured."""
    levels = {settings["config"].get("confidence") for settings in content["settings"]}
    texts = [f"{100 * level:g}%" for level in sorted(levels - {None})]
    return " or ".join(texts) or "95%"


def asked(content: Mapping) -> str:
    """What went in: models from outside, data and the number of languages."""
    models: list[str] = []
    for entry in content["external"]:
        if entry["slot"] == "model" and entry.get("path"):
            models.append(str(entry["path"]))
    data = [str(source.get("source") or "") for source in content["sources"]]
    codes = {row["language"] for row in content["metrics"]}
    n_languages = sum(map(is_language, codes))
    parts = {
        "model": ", ".join(dict.fromkeys(models)),
        "data": ", ".join(dict.fromkeys(filter(None, data))),
        "languages": str(n_languages or ""),
    }
    return " · ".join(f"{name}: {value}" for name, value in parts.items() if value)


def difference(old: Mapping, new: Mapping, paired: Mapping | None) -> float:
    """The paired difference where there is one, else that of the averages.

    The two may differ: the paired one is over the items in which both have a value.
    """
    if paired and paired["value"] is not None:
        return paired["value"]
    return new["value"] - old["value"]


def gain_of(key: Key) -> Key:
    """The paired difference to the baseline that belongs to a metric."""
    metric, by = key
    return f"{metric}_over_baseline", by


def arrow(gain: float) -> str:
    if gain > 0:
        return "▲ "
    return "▼ " if gain < 0 else ""


def interval(row: Mapping, digits: int) -> str:
    """`95% interval`: the bounds of a row as text, empty without bounds."""
    if row["low"] is None or row["high"] is None:
        return ""
    metric = row["metric"]
    texts = [number(row[bound], metric, digits) for bound in ("low", "high")]
    return " to ".join(text.removesuffix(" pp") for text in texts)


def axis(metric: str, digits: int) -> Callable[[float], str]:
    """How the marks of an axis are written: whole percents for shares."""
    decimals = 2 if is_share(metric) else digits
    return lambda value: number(value, metric, decimals)


def plot_rows(before: Mapping[str, Mapping], after: Mapping[str, Mapping]) -> list[dict[str, Any]]:
    """Languages as figures take them, lowest first."""
    values = {}
    for code, row in after.items():
        if is_language(code) and row["value"] is not None:
            values[code] = row["value"]
    rows = []
    for code in sorted(values, key=lambda code: (values[code], code)):
        old, new = bounds(before.get(code)), bounds(after[code])
        rows.append({"label": language(code), "before": old, "after": new})
    return rows


def bounds(row: Mapping | None) -> figures.Interval | None:
    if row is None or row["value"] is None:
        return None
    return row["value"], row["low"], row["high"]


def averages(content: Mapping, keys: Sequence[Key]) -> dict[Key, dict[str, Mapping]]:
    """(metric, by) -> step -> the row of the average."""
    all_tables = tables(content)
    averages: dict[Key, dict[str, Mapping]] = {}
    for key in keys:
        averages[key] = {}
        for step, rows in all_tables.get(key, {}).items():
            if AVERAGE in rows:
                averages[key][step] = rows[AVERAGE]
    return averages
