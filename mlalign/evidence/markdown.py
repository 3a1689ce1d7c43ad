"""The report as Markdown: the same content without figures and samples, every cell escaped."""

import html
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mlalign.evidence import headline
from mlalign.evidence.collect import MANY_COLUMNS
from mlalign.methods.metrics import SUMMARIES

# Characters that are invisible, or able to turn the text around.
HIDDEN = re.compile("[\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff]")


def page(content: Mapping[str, Any], title: str, digits: int) -> str:
    """The report as Markdown."""
    run = content["run"]
    parts = [f"# {cell(title)}"]
    if run.get("recipe"):
        parts.append(f"Recipe: {cell(run['recipe'])}")
    sections = {
        "Warnings": [_table(content["warnings"], {"step": "step", "warning": "what"})],
        "Evaluations": [_evaluations(content.get("headlines") or [], digits)],
        "Results": _results(content, digits),
        "Reward transfer": [_matrix(matrix, digits) for matrix in content["matrices"]],
        "Not computed": [_table(content["not_computed"], {"step": "step", "what": "what"})],
        "Decisions": [_decision(decision) for decision in content["decisions"]],
        "Rows by language": [_rows_by_language(content["steps"])],
        "Dropped": [_counts(content["steps"], "dropped", "reason")],
        "Other counts": [_counts(content["steps"], "sums", "what")],
        "Steps": _steps(content["steps"]),
        "Sources": [_sources(content["sources"]), _external(content["external"])],
        "Packages": [grid(["package", "version"], list(content["packages"].items()))],
        "Times": [_table(content["times"], {"step": "step", "seconds": "seconds"})],
    }
    for heading, blocks in sections.items():
        if any(blocks):
            parts += [f"## {heading}", *filter(None, blocks)]
    return "\n\n".join(parts) + "\n"


def cell(value: Any) -> str:
    """Any value as harmless text on one line: no markup, no link, no end of a table cell."""
    visible = HIDDEN.sub("", str(value))
    one_line = " ".join(visible.split())
    text = html.escape(one_line, quote=False)
    text = re.sub(r"([\\`*\[\]|~])", r"\\\1", text)
    return re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", text).replace("://", "&#58;//")


def grid(header: Sequence[Any], body: Sequence[Sequence[Any]]) -> str:
    """A Markdown table of escaped cells; None is left empty; empty text if there are no rows."""
    if not body:
        return ""
    lines = []
    for row in [header, ["---"] * len(header), *body]:
        cells = ["" if value is None else cell(value) for value in row]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _table(entries: Sequence[Mapping], keys: Mapping[str, str]) -> str:
    """One line for each entry; `keys` are heading -> key of the entry."""
    body = []
    for entry in entries:
        body.append([entry[key] for key in keys.values()])
    return grid(list(keys), body)


def _evaluations(headlines: Sequence[Mapping], digits: int) -> str:
    """The headline numbers of all evaluations; native and translated rows apart."""
    body = []
    for row in headlines:
        names = [row[key] for key in ("evaluation", "origin", "metric", "model")]
        body.append([*names, _interval(row, digits)])
    return grid(["evaluation", "texts", "metric", "model", "average over languages"], body)


def _results(content: Mapping, digits: int) -> list[str]:
    """One table per metric: languages down, steps across, the change from first to last step.

    A metric with many score columns is one table, with a line for each of them.
    """
    by_metric: dict[str, dict[str, list[Mapping]]] = {}
    for row in content["metrics"]:
        columns = by_metric.setdefault(row["metric"], {})
        columns.setdefault(headline.by_of(content, row), []).append(row)

    blocks = []
    for metric, columns in by_metric.items():
        if len(columns) > MANY_COLUMNS:
            blocks += [f"### {cell(metric)}", _by_column(columns, digits)]
            continue
        for column, rows in columns.items():
            by = f" by {cell(column)}" if column else ""
            blocks += [f"### {cell(metric)}{by}", _by_language(rows, digits)]
    return blocks


def _by_language(rows: Sequence[Mapping], digits: int) -> str:
    steps = list(dict.fromkeys(row["step"] for row in rows))
    row_at = {(row["language"], row["step"]): row for row in rows}
    codes = {row["language"] for row in rows}
    summaries = [code for code in SUMMARIES if code in codes]
    head = ["language", *steps]
    if len(steps) > 1:
        head.append("change")

    body = []
    for code in [*summaries, *sorted(codes - set(SUMMARIES))]:
        own = [row_at.get((code, step)) for step in steps]
        line: list[Any] = [code]
        line += [_interval(row, digits) for row in own]
        if len(steps) > 1:
            line.append(_change(own[0], own[-1], digits))
        body.append(line)
    return grid(head, body)


def _by_column(columns: Mapping[str, Sequence[Mapping]], digits: int) -> str:
    body = []
    for column, rows in columns.items():
        last_step = rows[-1]["step"]
        last = {row["language"]: row for row in rows if row["step"] == last_step}
        values = [_interval(last.get(code), digits) for code in SUMMARIES]
        body.append([column, *values])
    return grid(["score column", *SUMMARIES], body)


def _interval(row: Mapping | None, digits: int) -> str | None:
    if row is None or row["value"] is None:
        return None
    text = f"{row['value']:.{digits}f}"
    if row["low"] is not None:
        text += f" ({row['low']:.{digits}f} to {row['high']:.{digits}f})"
    if row["which"]:
        text += f", {row['which']}"
    return text


def _change(
    first: Mapping | None,
    last: Mapping | None,
    digits: int,
) -> str | None:
    if first is None or last is None or None in (first["value"], last["value"]):
        return None
    return f"{last['value'] - first['value']:+.{digits}f}"


def _matrix(matrix: Mapping, digits: int) -> str:
    body = []
    for source, values in zip(matrix["sources"], matrix["values"], strict=True):
        cells = [None if value is None else f"{value:.{digits}f}" for value in values]
        body.append([source, *cells])
    table = grid(["trained on", *matrix["targets"]], body)
    return f"{cell(matrix['metric'])}, {cell(matrix['step'])}\n\n{table}"


def _decision(decision: Mapping) -> str:
    selected = f"{cell(decision['step'])}: {cell(decision['selected'])} was selected"
    loop = "the loop stops" if decision["stop"] else "the loop goes on"
    keys = {"candidate": "candidate", "decision": "decision"}
    table = _table(decision["candidates"], keys)
    return f"{selected}; {loop}.\n\n{table}"


def _rows_by_language(steps: Sequence[Mapping]) -> str:
    counted = [step for step in steps if step.get("rows_by_language")]
    languages = {code for step in counted for code in step["rows_by_language"]}
    body = []
    for code in sorted(languages):
        counts = [step["rows_by_language"].get(code, 0) for step in counted]
        body.append([code, *counts])
    names = [step["step"] for step in counted]
    return grid(["language", *names], body)


def _counts(steps: Sequence[Mapping], key: str, label: str) -> str:
    body = []
    for step in steps:
        for name, by_language in step.get(key, {}).items():
            each = [f"{code} {_number(n)}" for code, n in sorted(by_language.items())]
            total = _number(sum(by_language.values()))
            body.append([step["step"], name, total, ", ".join(each)])
    return grid(["step", label, "number", "by language"], body)


def _number(value: float) -> str:
    return f"{value:.0f}" if float(value).is_integer() else f"{value:.3f}"


def _steps(steps: Sequence[Mapping]) -> list[str]:
    body = []
    commits = set()
    for step in steps:
        line = [
            step["step"],
            f"{step['stage']} v{step['stage_version']}",
            step.get("skipped_because") or step["status"],
            step["fingerprint"][:16],
            step.get("seed"),
        ]
        body.append(line)
        if step.get("git_commit"):
            commits.add(step["git_commit"])
    table = grid(["step", "stage", "status", "fingerprint", "seed"], body)
    if not commits:
        return [table]
    return [table, f"Code: {cell(', '.join(sorted(commits)))}"]


def _sources(sources: Sequence[Mapping]) -> str:
    keys = list(dict.fromkeys(key for source in sources for key in source))
    body = []
    for source in sources:
        body.append([source.get(key) for key in keys])
    return grid(keys, body)


def _external(external: Sequence[Mapping]) -> str:
    body = []
    for entry in external:
        line = [
            entry["step"],
            entry["slot"],
            entry.get("path") or entry.get("family"),
            entry.get("revision"),
            entry.get("identity"),
        ]
        body.append(line)
    return grid(["step", "input", "from outside", "revision", "identity"], body)
