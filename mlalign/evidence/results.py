"""Sections of measured values: results by language, breakdown and rounds; pure functions of the
content, None without data.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from mlalign.evidence import figures, headline
from mlalign.evidence.cells import cell, changed_cell, lang_cell, tabled, value_cell
from mlalign.evidence.collect import MANY_COLUMNS
from mlalign.evidence.text import is_language, is_share, language, metric_name
from mlalign.methods.metrics import AVERAGE, GAP, SUMMARIES, WORST

Section = dict[str, Any]
OPEN = 3  # tables of results that are not folded, and have pictures


def results(content: Mapping, digits: int) -> Section | None:
    """All averages in one table; then a table per metric: languages down, models across with
    intervals, and the change.

    Paired gains over the baseline stand in the change of their metric, not in tables of their own.
    """
    found = headline.tables(content)
    shown = [key for key in found if not _told_elsewhere(key, found)]
    if not shown:
        return None
    per_metric: dict[str, list[tuple[str, str]]] = {}
    for key in shown:
        per_metric.setdefault(key[0], []).append(key)
    first = [k[0] for k in headline.leading(content)]
    ordered = sorted(per_metric, key=lambda m: first.index(m) if m in first else len(first))
    tables: list[dict[str, Any]] = []
    for metric in ordered:
        keys = per_metric[metric]
        if len(keys) > MANY_COLUMNS:
            tables.append(
                _by_column(content, metric, [found[k] for k in keys], [k[1] for k in keys], digits)
            )
        else:
            tables += [
                _by_language(content, key, found, digits, pictures=len(tables) + i < OPEN)
                for i, key in enumerate(keys)
            ]
    averages = [
        line
        for m in ordered
        if len(per_metric[m]) <= MANY_COLUMNS
        for key in per_metric[m]
        if (line := _averages(content, key, found, digits))
    ]
    head = ["metric", "before", "after", "change", "lowest language after"]
    return {
        "averages": tabled(head, averages) if len(averages) > OPEN else None,
        "first": tables[:OPEN],
        "rest": tables[OPEN:],
    }


def evaluations(content: Mapping, digits: int) -> Section | None:
    """The headline numbers of all evaluations, models across; native and translated rows apart."""
    lines: dict[tuple[str, str, str], dict[str, Mapping]] = {}
    for row in content.get("headlines") or []:
        lines.setdefault((row["evaluation"], row["origin"], row["metric"]), {})[row["model"]] = row
    models = list(dict.fromkeys(model for found in lines.values() for model in found))
    rows = []
    for (evaluation, origin, metric), found in lines.items():
        values = [value_cell(found.get(model), digits) for model in models]
        rows.append(
            [
                cell(evaluation, evaluation),
                headline.origin_name(origin),
                metric_name(metric),
                *values,
            ]
        )
    table = tabled(["evaluation", "texts", "metric", *models], rows)
    return {"table": table} if table else None


def _told_elsewhere(key: tuple[str, str], found: Mapping) -> bool:
    return (
        key[0].endswith("_over_baseline")
        and (key[0].removesuffix("_over_baseline"), key[1]) in found
    )


def _averages(
    content: Mapping, key: tuple[str, str], found: Mapping, digits: int
) -> list[dict] | None:
    table = found[key]
    before, after = headline.before_and_after(content, table)
    old, new = table[before].get(AVERAGE) if before else None, table[after].get(AVERAGE)
    if new is None:
        return None
    gain = found.get(headline.gain_of(key), {}).get(after, {}).get(AVERAGE)
    name, worst = metric_name(*key), table[after].get(WORST)
    changed = changed_cell(old, new, gain, key[0], digits)
    return [
        cell(name, name),
        value_cell(old, digits),
        value_cell(new, digits),
        changed,
        value_cell(worst, digits),
    ]


def _by_language(
    content: Mapping, key: tuple[str, str], found: Mapping, digits: int, *, pictures: bool
) -> dict[str, Any]:
    table = found[key]
    before, after = headline.before_and_after(content, table)
    gains = found.get(headline.gain_of(key), {}).get(after, {})
    codes = list(dict.fromkeys(code for rows in table.values() for code in rows))
    spread = figures.domain(
        [headline.bounds(r) for rows in table.values() for c, r in rows.items() if c != GAP]
    )

    def line(code: str) -> list[dict]:
        old, new = table[before].get(code) if before else None, table[after].get(code)
        values = [value_cell(rows.get(code), digits) for rows in table.values()]
        if before:
            values.append(
                changed_cell(
                    old, new, gains.get(code) if code not in (WORST, GAP) else None, key[0], digits
                )
            )
        drawn = (
            figures.strip(
                headline.bounds(old), headline.bounds(new), spread, headline.reference(key[0])
            )
            if code != GAP
            else ""
        )
        return [lang_cell(code), *values, *([cell("", picture=drawn)] if pictures else [])]

    names = [headline.label_of(content, step) for step in table]
    ends = [min(max(v, 0), 1) for v in spread] if is_share(key[0]) else spread
    span = " … ".join(map(headline.axis(key[0], digits), ends))
    head = ["language", *names, *(["change"] if before else []), *([span] if pictures else [])]
    top = [c for c in SUMMARIES if c in codes] + sorted(
        c for c in codes if c not in SUMMARIES and not is_language(c)
    )
    out = tabled(
        head,
        [line(c) for c in sorted((c for c in codes if is_language(c)), key=language)],
        [line(c) for c in top],
    )
    return {"name": metric_name(*key), "table": out}


def _by_column(
    content: Mapping,
    metric: str,
    tables: Sequence[headline.Table],
    columns: Sequence[str],
    digits: int,
) -> dict[str, Any]:
    """One line for each score column: the average over languages, the lowest language and the gap
    to English.
    """
    rows = []
    for table, column in zip(tables, columns, strict=True):
        told = table[headline.before_and_after(content, table)[1]]
        rows.append(
            [
                cell(column, column),
                *(value_cell(told.get(s), digits) for s in (AVERAGE, WORST, GAP)),
            ]
        )
    return {
        "name": metric_name(metric),
        "table": tabled(["score column", "average", "lowest", "gap to English"], rows),
    }


def breakdown(content: Mapping, digits: int) -> Section | None:
    """Averages by script, resource tier, origin and what metadata tells: a table for each part,
    models across.
    """
    parts: dict[str, dict[tuple[str, str, str], dict[str, Mapping]]] = {}
    for row in content["breakdown"]:
        parts.setdefault(row["part"], {}).setdefault((row["metric"], row["by"], row["member"]), {})[
            row["step"]
        ] = row
    steps = list(
        dict.fromkeys(
            [e["step"] for e in content["evaluations"]] + [r["step"] for r in content["breakdown"]]
        )
    )
    tables = []
    for part, rows in parts.items():
        used = [s for s in steps if any(s in found for found in rows.values())]
        lines = []
        for (metric, by, member), found in rows.items():
            name = metric_name(metric, by)
            at = cell(member, int(member) if member.isdecimal() else member)
            lines.append([cell(name, name), at, *(value_cell(found.get(s), digits) for s in used)])
        tables.append(
            {
                "name": part,
                "table": tabled(
                    ["metric", part, *(headline.label_of(content, s) for s in used)], lines
                ),
            }
        )
    return {"tables": tables} if tables else None


def rounds(content: Mapping, digits: int) -> Section | None:
    """Round by round: the averages of the leading metrics, and what the guards decided."""
    told = [e for e in content["evaluations"] if e["round"] is not None]
    if not told and not any(s["round"] for s in content["steps"]):
        return None
    start = [e for e in content["evaluations"] if e["round"] is None]
    order = [
        *((e["step"], f"start: {e['model']}") for e in start[:1]),
        *((e["step"], f"round {e['round']}: {e['model']}") for e in told),
    ]
    plots = []
    for key, rows in headline.averages(content, headline.leading(content)).items():
        lines = [
            {"label": label, "before": None, "after": headline.bounds(rows[step])}
            for step, label in order
            if step in rows
        ]
        if len(lines) > 1:
            title = f"{metric_name(*key)}, average over languages, by round"
            plots.append(
                {
                    "name": metric_name(key[0]),
                    "svg": figures.languages_plot(lines, title, headline.axis(key[0], digits)),
                }
            )
    decisions = tabled(
        ["guard", "candidate", "decision"],
        [
            [d["step"], c["candidate"], c["decision"]]
            for d in content["decisions"]
            for c in d["candidates"]
        ],
    )
    skipped = [s["step"] for s in content["steps"] if s["status"] == "skipped"]
    return {
        "plots": plots,
        "guards": content["decisions"],
        "decisions": decisions,
        "skipped": skipped,
    }
