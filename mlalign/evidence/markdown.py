"""The report as Markdown: the same content without figures and samples, every cell escaped."""

import html
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mlalign.evidence import headline
from mlalign.evidence.collect import MANY_COLUMNS
from mlalign.methods.metrics import SUMMARIES

HIDDEN = re.compile(
    "[\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff]"
)  # invisible, or able to turn the text around


def page(content: Mapping[str, Any], title: str, digits: int) -> str:
    """The report as Markdown."""
    run = content["run"]
    parts = [f"# {cell(title)}"]
    if run.get("recipe"):
        parts.append(f"Recipe: {cell(run['recipe'])}")
    sections = {
        "Warnings": [
            grid(["step", "warning"], [(w["step"], w["what"]) for w in content["warnings"]])
        ],
        "Evaluations": [_evaluations(content.get("headlines") or [], digits)],
        "Results": _results(content, digits),
        "Reward transfer": [_matrix(m, digits) for m in content["matrices"]],
        "Not computed": [
            grid(["step", "what"], [(n["step"], n["what"]) for n in content["not_computed"]])
        ],
        "Decisions": [_decision(d) for d in content["decisions"]],
        "Rows by language": _rows_by_language(content["steps"]),
        "Dropped": _counts(content["steps"], "dropped", "reason"),
        "Other counts": _counts(content["steps"], "sums", "what"),
        "Steps": _steps(content["steps"]),
        "Sources": _sources(content["sources"], content["external"]),
        "Packages": [grid(["package", "version"], list(content["packages"].items()))],
        "Times": [grid(["step", "seconds"], [(t["step"], t["seconds"]) for t in content["times"]])],
    }
    for heading, blocks in sections.items():
        if any(blocks):
            parts += [f"## {heading}", *filter(None, blocks)]
    return "\n\n".join(parts) + "\n"


def cell(value: Any) -> str:
    """Any value as harmless text on one line: no markup, no link, no end of a table cell."""
    text = html.escape(" ".join(HIDDEN.sub("", str(value)).split()), quote=False)
    text = re.sub(r"([\\`*\[\]|~])", r"\\\1", text)
    return re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", text).replace("://", "&#58;//")


def grid(header: Sequence[Any], body: Sequence[Sequence[Any]]) -> str:
    """A Markdown table of escaped cells; None is left empty; empty text if there are no rows."""
    if not body:
        return ""
    lines = [header, ["---"] * len(header), *body]
    return "\n".join(
        "| " + " | ".join("" if v is None else cell(v) for v in line) + " |" for line in lines
    )


def _evaluations(headlines: Sequence[Mapping], digits: int) -> str:
    """The headline numbers of all evaluations; native and translated rows apart."""
    body = [
        [row["evaluation"], row["origin"], row["metric"], row["model"], _interval(row, digits)]
        for row in headlines
    ]
    return grid(["evaluation", "texts", "metric", "model", "average over languages"], body)


def _results(content: Mapping, digits: int) -> list[str]:
    """One table per metric: languages down, steps across, the change from the first step to the
    last.

    A metric with many score columns is one table, with a line for each of them.
    """
    found: dict[str, dict[str, list[Mapping]]] = {}
    for row in content["metrics"]:
        found.setdefault(row["metric"], {}).setdefault(headline.by_of(content, row), []).append(row)
    blocks = []
    for metric, columns in found.items():
        if len(columns) > MANY_COLUMNS:
            blocks += [f"### {cell(metric)}", _by_column(columns, digits)]
            continue
        for by, rows in columns.items():
            blocks += [
                f"### {cell(metric)}" + (f" by {cell(by)}" if by else ""),
                _by_language(rows, digits),
            ]
    return blocks


def _by_language(rows: Sequence[Mapping], digits: int) -> str:
    steps = list(dict.fromkeys(r["step"] for r in rows))
    at = {(r["language"], r["step"]): r for r in rows}
    languages = {r["language"] for r in rows}
    change = ["change"] if len(steps) > 1 else []
    body = []
    for lang in [*(s for s in SUMMARIES if s in languages), *sorted(languages - set(SUMMARIES))]:
        line = [_interval(at.get((lang, s)), digits) for s in steps]
        body.append(
            [
                lang,
                *line,
                *(
                    _change(at.get((lang, steps[0])), at.get((lang, steps[-1])), digits)
                    for _ in change
                ),
            ]
        )
    return grid(["language", *steps, *change], body)


def _by_column(columns: Mapping[str, Sequence[Mapping]], digits: int) -> str:
    body = []
    for by, rows in columns.items():
        last = {r["language"]: r for r in rows if r["step"] == rows[-1]["step"]}
        body.append([by, *(_interval(last.get(s), digits) for s in SUMMARIES)])
    return grid(["score column", *SUMMARIES], body)


def _interval(row: Mapping | None, digits: int) -> str | None:
    if row is None or row["value"] is None:
        return None
    bounds = "" if row["low"] is None else f" ({row['low']:.{digits}f} to {row['high']:.{digits}f})"
    return f"{row['value']:.{digits}f}{bounds}" + (f", {row['which']}" if row["which"] else "")


def _change(first: Mapping | None, last: Mapping | None, digits: int) -> str | None:
    if first is None or last is None or None in (first["value"], last["value"]):
        return None
    return f"{last['value'] - first['value']:+.{digits}f}"


def _matrix(matrix: Mapping, digits: int) -> str:
    cells = [[None if v is None else f"{v:.{digits}f}" for v in line] for line in matrix["values"]]
    body = [[source, *line] for source, line in zip(matrix["sources"], cells, strict=True)]
    return f"{cell(matrix['metric'])}, {cell(matrix['step'])}\n\n" + grid(
        ["trained on", *matrix["targets"]], body
    )


def _decision(decision: Mapping) -> str:
    verdict = (
        f"{cell(decision['step'])}: {cell(decision['selected'])} was selected; the loop"
        f" {'stops' if decision['stop'] else 'goes on'}."
    )
    return f"{verdict}\n\n" + grid(
        ["candidate", "decision"], [(c["candidate"], c["decision"]) for c in decision["candidates"]]
    )


def _rows_by_language(steps: Sequence[Mapping]) -> list[str]:
    counted = [s for s in steps if s.get("rows_by_language")]
    languages = sorted({lang for s in counted for lang in s["rows_by_language"]})
    body = [[lang, *(s["rows_by_language"].get(lang, 0) for s in counted)] for lang in languages]
    return [grid(["language", *(s["step"] for s in counted)], body)]


def _counts(steps: Sequence[Mapping], key: str, label: str) -> list[str]:
    body = [
        (
            s["step"],
            name,
            _number(sum(by.values())),
            ", ".join(f"{lang} {_number(n)}" for lang, n in sorted(by.items())),
        )
        for s in steps
        for name, by in s.get(key, {}).items()
    ]
    return [grid(["step", label, "number", "by language"], body)]


def _number(value: float) -> str:
    return f"{value:.0f}" if float(value).is_integer() else f"{value:.3f}"


def _steps(steps: Sequence[Mapping]) -> list[str]:
    body = [
        (
            s["step"],
            f"{s['stage']} v{s['stage_version']}",
            s.get("skipped_because") or s["status"],
            s["fingerprint"][:16],
            s.get("seed"),
        )
        for s in steps
    ]
    commits = sorted({s["git_commit"] for s in steps if s.get("git_commit")})
    return [
        grid(["step", "stage", "status", "fingerprint", "seed"], body),
        f"Code: {cell(', '.join(commits))}" if commits else "",
    ]


def _sources(sources: Sequence[Mapping], external: Sequence[Mapping]) -> list[str]:
    keys = list(dict.fromkeys(k for s in sources for k in s))
    outside = [
        (
            e["step"],
            e["slot"],
            e.get("path") or e.get("family"),
            e.get("revision"),
            e.get("identity"),
        )
        for e in external
    ]
    return [
        grid(keys, [[s.get(k) for k in keys] for s in sources]),
        grid(["step", "input", "from outside", "revision", "identity"], outside),
    ]
