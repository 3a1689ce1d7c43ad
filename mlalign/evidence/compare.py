"""Several runs on one page:  mlalign compare RUN RUN … [root=.] [output=compare.html] [title=…] [digits=3]

Reads `report/report.json` of each run (a name under `root`, or the path of a run or of a report); writes one self-contained HTML file
and prints the averages. Each run keeps its own intervals: runs are not paired, so none is given for a difference.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlalign.core.errors import UserError, nearest
from mlalign.core.store import read_json
from mlalign.core.terminal import say
from mlalign.evidence import cells, figures, headline
from mlalign.evidence.text import change, is_language, language, metric_name, number, seconds
from mlalign.methods.metrics import SUMMARIES

OPTIONS = ("root", "output", "title", "digits")


def compare(arguments: Sequence[str]) -> int:
    """The command `mlalign compare`; returns the exit status."""
    options = dict(a.split("=", 1) for a in arguments if "=" in a)
    named = [a for a in arguments if "=" not in a]
    errors = [f"{key}: unknown key{nearest(key, OPTIONS)}" for key in options if key not in OPTIONS]
    if not options.get("digits", "3").isdecimal():
        errors.append(f"digits: {options['digits']!r} is no number")
    if len(named) < 2:
        errors.append("compare: name two runs or more, as in `mlalign compare RUN RUN`")
    runs = _read(named, Path(options.get("root", ".")).expanduser(), errors)
    if errors:
        raise UserError(*errors)
    path, digits = Path(options.get("output", "compare.html")).expanduser(), int(options.get("digits", "3"))
    path.write_text(page(runs, options.get("title") or " · ".join(runs), digits), encoding="utf-8")
    say(f"{summary(runs, digits)}\n\n{path}")
    return 0


def _read(named: Sequence[str], root: Path, errors: list[str]) -> dict[str, dict[str, Any]]:
    """The content of each run's report under the run's name, numbered where two share one."""
    runs: dict[str, dict[str, Any]] = {}
    for name in named:
        content = _content(name, root, errors)
        if content is not None:
            label = str(content["run"].get("name") or Path(name).name)
            same = sum(r["run"].get("name") == label for r in runs.values())
            runs[f"{label} ({same + 1})" if same else label] = content
    return runs


def _content(name: str, root: Path, errors: list[str]) -> dict[str, Any] | None:
    places = [
        Path(name).expanduser() / "report.json",
        Path(name).expanduser() / "report" / "report.json",
        root / "runs" / name / "report" / "report.json",
    ]
    path = next((p for p in places if p.is_file()), None)
    if path is None:
        known = [p.parent.name for p in (root / "runs").glob("*/report")]
        errors.append(f"{name}: there is no report of such a run here or under {root / 'runs'}{nearest(Path(name).name, known)}")
        return None
    content = read_json(path)
    if "evaluations" not in content:
        errors.append(f"{name}: its report was made by an earlier version; make it again with `mlalign run … force=report`")
        return None
    return content


def page(runs: Mapping[str, Mapping], title: str, digits: int) -> str:
    from mlalign.evidence import html

    keys = _keys(runs)
    leading = list(dict.fromkeys(k for content in runs.values() for k in headline.leading(content)))[:3]
    return html.render(
        "compare.html", title=title, runs=runs, plots=[_plot(runs, key, digits) for key in leading],
        tables=[{"name": metric_name(*key), "table": _by_language(runs, key, digits)} for key in keys],
        overview=_overview(runs, leading, digits), settings=_differing(runs), open=len(leading),
        packages=_table({name: content["packages"] for name, content in runs.items()}, "package"),
    )  # fmt: skip


def summary(runs: Mapping[str, Mapping], digits: int) -> str:
    """The averages as plain text."""
    lines = []
    for metric, by in _keys(runs):
        each = [(name, _after(content, (metric, by)).get("avg")) for name, content in runs.items()]
        lines += [f"{metric_name(metric, by)}: " + ", ".join(f"{n} {number(r['value'] if r else None, metric, digits)}" for n, r in each)]
    return "\n".join(lines)


def _keys(runs: Mapping[str, Mapping]) -> list[tuple[str, str]]:
    """(metric, by) of all runs, the leading ones first."""
    first = [k for content in runs.values() for k in headline.leading(content)]
    return list(dict.fromkeys([*first, *(k for content in runs.values() for k in headline.tables(content))]))


def _after(content: Mapping, key: tuple[str, str]) -> Mapping[str, Mapping]:
    """What a run came to: language -> row, of the evaluation that the run's own report shows as its result."""
    table = headline.tables(content).get(key)
    return table[headline.before_and_after(content, table)[1]] if table else {}


def _plot(runs: Mapping[str, Mapping], key: tuple[str, str], digits: int) -> dict[str, Any]:
    rows = [{"label": name, "before": None, "after": headline.bounds(_after(content, key).get("avg"))} for name, content in runs.items()]
    name = metric_name(*key)
    drawn = figures.languages_plot(rows, f"{name}: the average of each run", headline.axis(key[0], digits), headline.reference(key[0]))
    return {"name": name, "svg": drawn}


def _by_language(runs: Mapping[str, Mapping], key: tuple[str, str], digits: int) -> dict[str, Any] | None:
    each = [_after(content, key) for content in runs.values()]
    codes = list(dict.fromkeys(code for rows in each for code in rows))

    def line(code: str) -> list[Any]:
        values = [rows[code]["value"] for rows in each if code in rows and rows[code]["value"] is not None]
        spread = values[-1] - values[0] if len(each) == 2 else max(values, default=0) - min(values, default=0)
        last = cells.cell(change(spread, key[0], digits), spread) if len(values) > 1 else cells.cell("")
        return [cells.lang_cell(code), *(cells.value_cell(rows.get(code), digits) for rows in each), last]

    top = [c for c in SUMMARIES if c in codes] + [c for c in codes if c not in SUMMARIES and not is_language(c)]
    head = ["language", *runs, "second − first" if len(each) == 2 else "highest − lowest"]
    return cells.tabled(head, map(line, sorted(filter(is_language, codes), key=language)), map(line, top))


def _overview(runs: Mapping[str, Mapping], leading: Sequence[tuple[str, str]], digits: int) -> dict[str, Any] | None:
    rows = []
    for name, content in runs.items():
        took = sum(t["seconds"] for t in content["times"])
        values = [cells.value_cell(_after(content, key).get("avg"), digits) for key in leading]
        rows.append([name, content["run"].get("recipe"), headline.asked(content), *values, cells.cell(seconds(took), took)])
    return cells.tabled(["run", "recipe", "what went in", *(metric_name(*k) for k in leading), "time"], rows)


def _differing(runs: Mapping[str, Mapping]) -> dict[str, Any] | None:
    """The settings in which the runs differ: `step.key` down, runs across."""
    flat = {name: _flat({s["step"]: s["config"] for s in content["settings"]}) for name, content in runs.items()}
    return _table(flat, "setting")


def _table(values: Mapping[str, Mapping[str, Any]], what: str) -> dict[str, Any] | None:
    """Keys down and runs across, of the keys whose values are not all the same."""
    keys = list(dict.fromkeys(k for found in values.values() for k in found))
    rows = [
        [k, *(str(found.get(k, "–")) for found in values.values())] for k in keys if len({str(f.get(k, "–")) for f in values.values()}) > 1
    ]
    return cells.tabled([what, *values], rows)


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    plain = isinstance(value, list) and not any(isinstance(v, Mapping | list) for v in value)
    parts = value if isinstance(value, Mapping) else dict(enumerate(value)) if isinstance(value, list) and not plain else {}
    if not parts:
        return {prefix: ", ".join(map(str, value)) if plain else value}
    return {k: v for key, part in parts.items() for k, v in _flat(part, f"{prefix}.{key}" if prefix else str(key)).items()}
