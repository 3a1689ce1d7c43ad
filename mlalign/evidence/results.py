"""Sections of measured values: results by language, breakdown and rounds.

Each is a pure function of the content; None without data.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mlalign.evidence import figures, headline
from mlalign.evidence.cells import cell, changed_cell, lang_cell, tabled, value_cell
from mlalign.evidence.collect import MANY_COLUMNS
from mlalign.evidence.text import is_language, is_share, language, metric_name
from mlalign.methods.metrics import AVERAGE, GAP, SUMMARIES, WORST

Section = dict[str, Any]
Key = tuple[str, str]  # metric, by
Tables = Mapping[Key, headline.Table]
OPEN = 3  # tables of results that are not folded, and have pictures


def results(content: Mapping, digits: int) -> Section | None:
    """All averages in one table; then a table per metric.

    That has languages down, models across with intervals, and the change. Paired gains over the
    baseline stand in the change of their metric, and have no tables of their own.
    """
    all_tables = headline.tables(content)
    per_metric: dict[str, list[Key]] = {}
    for key in all_tables:
        if not _is_gain_of_another(key, all_tables):
            per_metric.setdefault(key[0], []).append(key)
    if not per_metric:
        return None

    tables: list[dict[str, Any]] = []
    averages: list[list[dict]] = []
    for metric in _leading_first(content, per_metric):
        keys = per_metric[metric]
        if len(keys) > MANY_COLUMNS:
            tables.append(_by_column(content, keys, all_tables, digits))
            continue
        for key in keys:
            pictures = len(tables) < OPEN
            tables.append(_by_language(content, key, all_tables, digits, pictures=pictures))
            line = _averages(content, key, all_tables, digits)
            if line:
                averages.append(line)
    head = ["metric", "before", "after", "change", "lowest language after"]
    return {
        "averages": tabled(head, averages) if len(averages) > OPEN else None,
        "first": tables[:OPEN],
        "rest": tables[OPEN:],
    }


def _is_gain_of_another(key: Key, all_tables: Tables) -> bool:
    metric, by = key
    if not metric.endswith("_over_baseline"):
        return False
    return (metric.removesuffix("_over_baseline"), by) in all_tables


def _leading_first(content: Mapping, metrics: Iterable[str]) -> list[str]:
    leading = [metric for metric, _ in headline.leading(content)]

    def rank(metric: str) -> int:
        return leading.index(metric) if metric in leading else len(leading)

    return sorted(metrics, key=rank)


def evaluations(content: Mapping, digits: int) -> Section | None:
    """The headline numbers of all evaluations, models across; native and translated rows apart."""
    lines: dict[tuple[str, str, str], dict[str, Mapping]] = {}
    models: list[str] = []
    for row in content.get("headlines") or []:
        key = (row["evaluation"], row["origin"], row["metric"])
        lines.setdefault(key, {})[row["model"]] = row
    for by_model in lines.values():
        models += [model for model in by_model if model not in models]

    rows: list[list[Any]] = []
    for (evaluation, origin, metric), by_model in lines.items():
        line = [
            cell(evaluation, evaluation),
            headline.origin_name(origin),
            metric_name(metric),
        ]
        line += [value_cell(by_model.get(model), digits) for model in models]
        rows.append(line)
    table = tabled(["evaluation", "texts", "metric", *models], rows)
    return {"table": table} if table else None


def _averages(
    content: Mapping,
    key: Key,
    all_tables: Tables,
    digits: int,
) -> list[dict] | None:
    """The line of a metric among the averages; None without an average."""
    table = all_tables[key]
    before, after = headline.before_and_after(content, table)
    old = table[before].get(AVERAGE) if before else None
    new = table[after].get(AVERAGE)
    if new is None:
        return None
    gain = _gains(key, all_tables, after).get(AVERAGE)
    name = metric_name(*key)
    return [
        cell(name, name),
        value_cell(old, digits),
        value_cell(new, digits),
        changed_cell(old, new, gain, key[0], digits),
        value_cell(table[after].get(WORST), digits),
    ]


def _gains(key: Key, all_tables: Tables, step: str) -> Mapping[str, Mapping]:
    """language -> row of the paired difference to the baseline that belongs to a metric."""
    table = all_tables.get(headline.gain_of(key), {})
    return table.get(step, {})


def _by_language(
    content: Mapping,
    key: Key,
    all_tables: Tables,
    digits: int,
    *,
    pictures: bool,
) -> dict[str, Any]:
    """Languages down, models across, then the change and a picture of each line."""
    metric, table = key[0], all_tables[key]
    before, after = headline.before_and_after(content, table)
    gains = _gains(key, all_tables, after)
    spread = _spread(table)

    def line(code: str) -> list[dict]:
        old = table[before].get(code) if before else None
        new = table[after].get(code)
        cells = [lang_cell(code)]
        cells += [value_cell(rows.get(code), digits) for rows in table.values()]
        if before:
            gain = None if code in (WORST, GAP) else gains.get(code)
            cells.append(changed_cell(old, new, gain, metric, digits))
        if pictures:
            picture = _picture(code, old, new, metric, spread)
            cells.append(cell("", picture=picture))
        return cells

    head = ["language"]
    head += [headline.label_of(content, step) for step in table]
    if before:
        head.append("change")
    if pictures:
        head.append(_span(metric, spread, digits))

    top, languages = _codes(table)
    return {"name": metric_name(*key), "table": tabled(head, map(line, languages), map(line, top))}


def _codes(table: headline.Table) -> tuple[list[str], list[str]]:
    """Summaries and groups, which stay on top; languages in the order of their names."""
    codes = {code for rows in table.values() for code in rows}
    summaries = [code for code in SUMMARIES if code in codes]
    languages = sorted(filter(is_language, codes), key=language)
    groups = sorted(codes - set(summaries) - set(languages))
    return summaries + groups, languages


def _spread(table: headline.Table) -> tuple[float, float]:
    """The range of all values and bounds, without gaps to English."""
    intervals = []
    for rows in table.values():
        intervals += [headline.bounds(row) for code, row in rows.items() if code != GAP]
    return figures.domain(intervals)


def _picture(
    code: str,
    old: Mapping | None,
    new: Mapping | None,
    metric: str,
    spread: tuple[float, float],
) -> str:
    if code == GAP:
        return ""
    reference = headline.reference(metric)
    return figures.strip(headline.bounds(old), headline.bounds(new), spread, reference)


def _span(metric: str, spread: tuple[float, float], digits: int) -> str:
    """The heading of the pictures: from where to where they go."""
    low, high = spread
    if is_share(metric):
        low, high = max(low, 0), min(high, 1)
    form = headline.axis(metric, digits)
    return f"{form(low)} … {form(high)}"


def _by_column(
    content: Mapping,
    keys: Sequence[Key],
    all_tables: Tables,
    digits: int,
) -> dict[str, Any]:
    """A line for each score column: average, lowest language and gap to English."""
    lines: list[list[dict]] = []
    for key in keys:
        table, column = all_tables[key], key[1]
        _, after = headline.before_and_after(content, table)
        rows = table[after]
        values = [value_cell(rows.get(code), digits) for code in (AVERAGE, WORST, GAP)]
        lines.append([cell(column, column), *values])
    head = ["score column", "average", "lowest", "gap to English"]
    return {"name": metric_name(keys[0][0]), "table": tabled(head, lines)}


def breakdown(content: Mapping, digits: int) -> Section | None:
    """Averages by script, resource tier, origin and metadata: a table for each, models across."""
    parts: dict[str, dict[tuple[str, str, str], dict[str, Mapping]]] = {}
    for row in content["breakdown"]:
        lines = parts.setdefault(row["part"], {})
        key = (row["metric"], row["by"], row["member"])
        lines.setdefault(key, {})[row["step"]] = row

    steps = [entry["step"] for entry in content["evaluations"]]
    steps += [row["step"] for row in content["breakdown"]]
    tables = []
    for part, lines in parts.items():
        measured = {step for by_step in lines.values() for step in by_step}
        used = [step for step in dict.fromkeys(steps) if step in measured]
        labels = [headline.label_of(content, step) for step in used]
        rows = []
        for (metric, by, member), by_step in lines.items():
            name = metric_name(metric, by)
            member_cell = cell(member, int(member) if member.isdecimal() else member)
            values = [value_cell(by_step.get(step), digits) for step in used]
            rows.append([cell(name, name), member_cell, *values])
        table = tabled(["metric", part, *labels], rows)
        tables.append({"name": part, "table": table})
    return {"tables": tables} if tables else None


def rounds(content: Mapping, digits: int) -> Section | None:
    """Round by round: the averages of the leading metrics, and what the guards decided."""
    in_rounds = [entry for entry in content["evaluations"] if entry["round"] is not None]
    if not in_rounds and not any(step["round"] for step in content["steps"]):
        return None
    decisions = []
    for guard in content["decisions"]:
        for candidate in guard["candidates"]:
            decisions.append([guard["step"], candidate["candidate"], candidate["decision"]])
    skipped = [step["step"] for step in content["steps"] if step["status"] == "skipped"]
    return {
        "plots": _round_plots(content, _round_labels(content, in_rounds), digits),
        "guards": content["decisions"],
        "decisions": tabled(["guard", "candidate", "decision"], decisions),
        "skipped": skipped,
    }


def _round_labels(content: Mapping, in_rounds: Sequence[Mapping]) -> dict[str, str]:
    """Step of an evaluation -> its label, from the start to the last round."""
    labels = {}
    before = [entry for entry in content["evaluations"] if entry["round"] is None]
    for entry in before[:1]:
        labels[entry["step"]] = f"start: {entry['model']}"
    for entry in in_rounds:
        labels[entry["step"]] = f"round {entry['round']}: {entry['model']}"
    return labels


def _round_plots(
    content: Mapping,
    labels: Mapping[str, str],
    digits: int,
) -> list[dict[str, Any]]:
    """A plot for each leading metric that two rounds have, or a round and the start."""
    plots = []
    averages = headline.averages(content, headline.leading(content))
    for key, rows in averages.items():
        lines = []
        for step, label in labels.items():
            if step in rows:
                interval = headline.bounds(rows[step])
                lines.append({"label": label, "before": None, "after": interval})
        if len(lines) > 1:
            title = f"{metric_name(*key)}, average over languages, by round"
            axis = headline.axis(key[0], digits)
            svg = figures.languages_plot(lines, title, axis)
            plots.append({"name": metric_name(key[0]), "svg": svg})
    return plots
