"""The variants of a sweep as tables and figures: all of them, by language, by setting.

Pure functions of the content that `mlalign.sweep.results` collects.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from mlalign.evidence import curves, figures, headline, matrices
from mlalign.evidence.cells import cell, lang_cell, tabled, value_cell
from mlalign.evidence.text import change, language, metric_name, number
from mlalign.methods.metrics import AVERAGE, WORST

LEVELS = 12  # a number with more values than this is drawn as a cloud of points
TABLES = 3  # metrics beside the chosen one in the first table
ACROSS = 16  # columns of a table with intervals
Rows = dict[tuple[str, str], dict[str, Mapping]]


# ---------------------------------------------------------------------------------------- reading


def tables(variant: Mapping) -> Rows:
    """(metric, by) -> language -> row, of one variant."""
    by_metric: Rows = {}
    for row in variant["rows"]:
        key = (row["metric"], row["by"] or "")
        by_metric.setdefault(key, {})[row["language"]] = row
    return by_metric


def rows_of(variant: Mapping, content: Mapping) -> dict[str, Mapping]:
    """language -> row of the chosen metric."""
    chosen = (content["metric"], content["by"])
    return tables(variant).get(chosen, {})


def average(variant: Mapping, content: Mapping) -> float | None:
    """The average of the chosen metric over languages; None if it was not measured."""
    row = rows_of(variant, content).get(AVERAGE)
    return row["value"] if row else None


def measured(content: Mapping) -> list[Mapping]:
    """The variants that have the metric, best first."""
    variants = content["variants"]
    return [variant for variant in variants if average(variant, content) is not None]


def complete(content: Mapping) -> list[Mapping]:
    """The variants to compare: the complete ones, or all measured ones if none is complete."""
    variants = measured(content)
    finished = [variant for variant in variants if not is_unfinished(variant)]
    return finished or variants


def is_unfinished(variant: Mapping) -> bool:
    return variant["state"] != "done"


def effects(content: Mapping) -> list[Mapping]:
    return (content["statistics"] or {}).get("effects", [])


def behind_best(content: Mapping) -> dict[str, Mapping]:
    """Name of a variant -> how far it is behind the best one, with an interval."""
    rows = (content["statistics"] or {}).get("behind") or []
    return {row["variant"]: row for row in rows}


def heads(content: Mapping) -> list[str]:
    """The swept keys, each by its last part if that is unique."""
    shorts = [_last_part(key) for key in content["keys"]]
    pairs = zip(content["keys"], shorts, strict=True)
    return [short if shorts.count(short) == 1 else key for key, short in pairs]


def _last_part(key: str) -> str:
    return key.rpartition(".")[2]


def text(value: Any) -> str:
    """A setting as a person reads it."""
    if isinstance(value, list):
        return ", ".join(map(text, value))
    if isinstance(value, float):
        return f"{value:.6g}"
    return language(value) if isinstance(value, str) else str(value)


def name(values: Mapping[str, Any]) -> str:
    """`beta 0.05, source_language English`."""
    return ", ".join(f"{_last_part(key)} {text(value)}" for key, value in values.items())


def bare(values: Mapping[str, Any]) -> str:
    """`0.05 · English`."""
    return " · ".join(map(text, values.values()))


def is_cloud(effect: Mapping) -> bool:
    """Whether a key has so many numbers that they are drawn as points, not averaged."""
    values = [level["value"] for level in effect["levels"]]
    if len(values) <= LEVELS:
        return False
    return all(isinstance(value, int | float) for value in values)


def change_bounds(row: Mapping, metric: str, digits: int) -> str:
    """The interval of a difference as text, empty without one."""
    if row["low"] is None:
        return ""
    bounds = [change(row[bound], metric, digits) for bound in ("low", "high")]
    return " to ".join(bound.removesuffix(" pp") for bound in bounds)


def with_bounds(value: str, bounds: str) -> str:
    return f"{value} ({bounds})" if bounds else value


def value_with_bounds(row: Mapping | None, digits: int) -> str:
    """`55.0% (52.0% to 58.0%)`, empty without a value."""
    if row is None or row["value"] is None:
        return ""
    value = number(row["value"], row["metric"], digits)
    return with_bounds(value, headline.interval(row, digits))


# ----------------------------------------------------------------------------------------- tables


def _setting(value: Any) -> dict[str, Any]:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return cell(text(value), value if is_number else text(value))


def all_variants(content: Mapping, digits: int) -> dict[str, Any] | None:
    """Settings, average, distance to the best, lowest language and a few further metrics."""
    chosen = (content["metric"], content["by"])
    keys = [tuple(key) for key in content["metrics"][1:]]
    others = [key for key in keys if key[0] in headline.LEADING][:TABLES]
    with_state = any(map(is_unfinished, content["variants"]))
    behind = behind_best(content)

    rows = []
    for variant in content["variants"]:
        by_metric = tables(variant)
        own = by_metric.get(chosen, {})
        row = [_setting(variant["values"][key]) for key in content["keys"]]
        if with_state:
            row.append(variant["state"])
        row.append(value_cell(own.get(AVERAGE), digits))
        distance = behind.get(variant["variant"])
        row.append(_behind_cell(distance, content["metric"], digits))
        row.append(value_cell(own.get(WORST), digits))
        for key in others:
            other = by_metric.get(key, {}).get(AVERAGE)
            row.append(value_cell(other, digits))
        rows.append(row)

    head = heads(content)
    if with_state:
        head.append("state")
    head += [metric_name(*chosen), "behind the best", "lowest language"]
    head += [metric_name(*key) for key in others]
    return tabled(head, rows)


def _behind_cell(
    row: Mapping | None,
    metric: str,
    digits: int,
) -> dict[str, Any]:
    if row is None:
        return cell("")
    value = row["value"]
    note = change_bounds(row, metric, digits)
    return cell(change(value, metric, digits), value, note=note)


def by_language(content: Mapping, digits: int) -> dict[str, Any] | None:
    """Variants x languages with shaded cells."""
    codes = content["languages"]
    labels, values = [], []
    for variant in measured(content):
        rows = rows_of(variant, content)
        labels.append(bare(variant["values"]))
        values.append([rows[code]["value"] if code in rows else None for code in codes])

    known: list[float] = []
    for row in values:
        known += [value for value in row if value is not None]
    if not known:
        return None
    spread = (min(known), max(known))
    metric = content["metric"]
    return matrices.heat(values, labels, codes, metric, "by-language", digits, spread)


def intervals(content: Mapping, digits: int) -> dict[str, Any] | None:
    """Variants and languages with intervals; the longer side goes down."""
    variants, codes = measured(content), content["languages"]
    languages_across = len(codes) <= min(len(variants), ACROSS)
    if not languages_across:
        variants = variants[:ACROSS]
    labels = [bare(variant["values"]) for variant in variants]
    by_variant = [rows_of(variant, content) for variant in variants]

    rows: list[list[Any]] = []
    if languages_across:
        head = [" · ".join(heads(content)), "average", *map(language, codes)]
        for label, by_code in zip(labels, by_variant, strict=True):
            values = [value_cell(by_code.get(code), digits) for code in (AVERAGE, *codes)]
            rows.append([label, *values])
        return tabled(head, rows)

    for code in codes:
        values = [value_cell(by_code.get(code), digits) for by_code in by_variant]
        rows.append([lang_cell(code), *values])
    return tabled(["language", *labels], rows)


def lost(content: Mapping) -> dict[str, Any] | None:
    """The variants that are not complete, and why."""
    rows = []
    for variant in filter(is_unfinished, content["variants"]):
        reason = variant["why"].partition("\n")[0]
        rows.append([name(variant["values"]), variant["state"], reason])
    return tabled(["variant", "state", "why"], rows)


# ---------------------------------------------------------------------------------------- effects


def mean_bounds(level: Mapping, content: Mapping, digits: int) -> str:
    """The interval of a level's mean as text, empty without one."""
    if level["low"] is None:
        return ""
    metric = content["metric"]
    bounds = [number(level[bound], metric, digits) for bound in ("low", "high")]
    return " to ".join(bounds)


def shift_bounds(level: Mapping, content: Mapping, digits: int) -> str:
    """The interval of a level's effect as text, empty without one."""
    bounds = {"low": level["effect_low"], "high": level["effect_high"]}
    return change_bounds(bounds, content["metric"], digits)


def mean_of(level: Mapping, content: Mapping, digits: int) -> str:
    mean = number(level["mean"], content["metric"], digits)
    return with_bounds(mean, mean_bounds(level, content, digits))


def shift_of(level: Mapping, content: Mapping, digits: int) -> str:
    shift = change(level["effect"], content["metric"], digits)
    return with_bounds(shift, shift_bounds(level, content, digits))


def effect_of(content: Mapping, effect: Mapping, digits: int) -> dict[str, Any]:
    """The main effect of a key: a mark with its interval per value.

    A key with many numbers has a point per variant instead, and no table.
    """
    metric, key, levels = content["metric"], effect["key"], effect["levels"]
    if is_cloud(effect):
        cloud = _cloud(content, key, digits)
        return {"key": _last_part(key), "svg": cloud, "table": None}

    marks, rows = [], []
    for level in levels:
        interval = (level["mean"], level["low"], level["high"])
        setting = text(level["value"])
        marks.append({"label": setting, "before": None, "after": interval})
        mean = number(level["mean"], metric, digits)
        bounds = mean_bounds(level, content, digits)
        mean_cell = cell(mean, level["mean"], note=bounds)
        shift = change(level["effect"], metric, digits)
        bounds = shift_bounds(level, content, digits)
        shift_cell = cell(shift, level["effect"], note=bounds)
        rows.append([_setting(level["value"]), mean_cell, shift_cell, level["n"]])

    title = f"{metric_name(metric)}: mean over the variants by {key}"
    svg = figures.languages_plot(marks, title, headline.axis(metric, digits))
    table = tabled([_last_part(key), "mean", "against all", "variants"], rows)
    return {"key": _last_part(key), "svg": svg, "table": table}


def _cloud(content: Mapping, key: str, digits: int) -> Any:
    metric = content["metric"]
    points = []
    for variant in measured(content):
        points.append(_point(variant, content, variant["values"][key]))
    title = f"{metric_name(metric)} by {key}, a point for each variant"
    log = _is_log([x for x, _, _ in points])
    axis = headline.axis(metric, digits)
    return curves.scatter(points, title, axis, log=log)


def _point(
    variant: Mapping,
    content: Mapping,
    x: float,
) -> tuple[float, Any, bool]:
    """(x, the variant's average, whether the mark is hollow)."""
    return x, average(variant, content), is_unfinished(variant)


def _is_log(values: Sequence[float]) -> bool:
    return min(values) > 0 and max(values) / min(values) >= 20


def crossed(content: Mapping, digits: int) -> dict[str, Any] | None:
    """Two keys against each other, if just two vary: this shows what main effects cannot."""
    levels = {}
    for effect in effects(content):
        levels[effect["key"]] = [level["value"] for level in effect["levels"]]
    if len(levels) != 2 or any(len(values) > ACROSS for values in levels.values()):
        return None

    down, across = sorted(levels, key=lambda key: -len(levels[key]))
    rows, columns = levels[down], levels[across]
    averages: dict[tuple[str, str], Any] = {}
    for variant in complete(content):
        settings = variant["values"]
        place = (text(settings[down]), text(settings[across]))
        averages[place] = average(variant, content)

    row_labels = list(map(text, rows))
    column_labels = list(map(text, columns))
    values = []
    for row in row_labels:
        values.append([averages.get((row, column)) for column in column_labels])
    spread = (min(averages.values()), max(averages.values()))
    metric = content["metric"]
    grid = matrices.heat(values, row_labels, column_labels, metric, "by-two", digits, spread)
    return {**grid, "down": _last_part(down), "across": _last_part(across)}


def history(content: Mapping, digits: int) -> Any:
    """The trials of a search in the order in which they ran; None for fewer than two."""
    trials = [variant for variant in measured(content) if variant.get("trial") is not None]
    if len(trials) < 2:
        return None

    points = sorted(_point(variant, content, variant["trial"]) for variant in trials)
    title = f"{metric_name(content['metric'])} by trial"
    axis = headline.axis(content["metric"], digits)
    better = min if content["direction"] == "minimize" else max
    return curves.scatter(points, title, axis, best=better, log=False)
