"""Several runs on one page.

    mlalign compare RUN RUN … [root=.] [output=compare.html] [title=…] [digits=3]

Reads `report/report.json` of each run: a name under `root`, or the path of a run or of a report.
Writes one self-contained HTML file and prints the averages. Each run keeps its own intervals: runs
are not paired, so a difference between runs has none.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlalign.core.errors import UserError, nearest
from mlalign.core.store import read_json
from mlalign.core.terminal import say
from mlalign.evidence import cells, figures, headline
from mlalign.evidence.text import change, is_language, language, metric_name, number, seconds
from mlalign.methods.metrics import AVERAGE, SUMMARIES

OPTIONS = ("root", "output", "title", "digits")
MISSING = "–"
Runs = Mapping[str, Mapping[str, Any]]  # name -> content of its report
Key = tuple[str, str]  # metric, by


def compare(arguments: Sequence[str]) -> int:
    """The command `mlalign compare`; returns the exit status. Raises: UserError."""
    options = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    names = [argument for argument in arguments if "=" not in argument]
    digits = options.get("digits", "3")

    errors = [f"{key}: unknown key{nearest(key, OPTIONS)}" for key in options if key not in OPTIONS]
    if not digits.isdecimal():
        errors.append(f"digits: {digits!r} is not a number")
    if len(names) < 2:
        errors.append("compare: name two runs or more, as in `mlalign compare RUN RUN`")
    runs = _read(names, Path(options.get("root", ".")).expanduser(), errors)
    if errors:
        raise UserError(*errors)

    path = Path(options.get("output", "compare.html")).expanduser()
    title = options.get("title") or " · ".join(runs)
    path.write_text(page(runs, title, int(digits)), encoding="utf-8")
    say(f"{summary(runs, int(digits))}\n\n{path}")
    return 0


def _read(
    names: Sequence[str],
    root: Path,
    errors: list[str],
) -> dict[str, dict[str, Any]]:
    """The content of each run's report by the run's name; runs of one name are numbered."""
    runs: dict[str, dict[str, Any]] = {}
    for name in names:
        content = _content(name, root, errors)
        if content is None:
            continue
        label = str(content["run"].get("name") or Path(name).name)
        n_same = sum(run["run"].get("name") == label for run in runs.values())
        runs[f"{label} ({n_same + 1})" if n_same else label] = content
    return runs


def _content(
    name: str,
    root: Path,
    errors: list[str],
) -> dict[str, Any] | None:
    path_given = Path(name).expanduser()
    all_runs = root / "runs"
    places = [
        path_given / "report.json",
        path_given / "report" / "report.json",
        all_runs / name / "report" / "report.json",
    ]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        known = [report.parent.name for report in all_runs.glob("*/report")]
        similar = nearest(Path(name).name, known)
        errors.append(f"{name}: no report of such a run here or under {all_runs}{similar}")
        return None

    content = read_json(path)
    if "evaluations" not in content:
        remedy = "make it again with `mlalign run … force=report`"
        errors.append(f"{name}: its report was made by an earlier version; {remedy}")
        return None
    return content


def page(runs: Runs, title: str, digits: int) -> str:
    """The page as one self-contained HTML file."""
    from mlalign.evidence import html

    tables = []
    for key in _keys(runs):
        table = _by_language(runs, key, digits)
        tables.append({"name": metric_name(*key), "table": table})
    leading = _leading(runs)[:3]
    packages = {name: content["packages"] for name, content in runs.items()}
    return html.render(
        "compare.html",
        title=title,
        runs=runs,
        plots=[_plot(runs, key, digits) for key in leading],
        tables=tables,
        overview=_overview(runs, leading, digits),
        settings=_differing_settings(runs),
        open=len(leading),
        packages=_differing(packages, "package"),
    )


def summary(runs: Runs, digits: int) -> str:
    """The averages as plain text, a line per metric."""
    lines = []
    for metric, by in _keys(runs):
        values = []
        for name, content in runs.items():
            row = _result(content, (metric, by)).get(AVERAGE)
            values.append(f"{name} {number(row['value'] if row else None, metric, digits)}")
        lines.append(f"{metric_name(metric, by)}: {', '.join(values)}")
    return "\n".join(lines)


def _leading(runs: Runs) -> list[Key]:
    """The leading metrics of all runs."""
    return _unique(key for content in runs.values() for key in headline.leading(content))


def _keys(runs: Runs) -> list[Key]:
    """All metrics of all runs, the leading ones first."""
    every_key = (key for content in runs.values() for key in headline.tables(content))
    return _unique([*_leading(runs), *every_key])


def _unique(values: Any) -> list[Any]:
    return list(dict.fromkeys(values))


def _result(content: Mapping, key: Key) -> Mapping[str, Mapping]:
    """language -> row of the evaluation that the run's own report shows as its result."""
    table = headline.tables(content).get(key)
    if not table:
        return {}
    _, after = headline.before_and_after(content, table)
    return table[after]


def _plot(runs: Runs, key: Key, digits: int) -> dict[str, Any]:
    rows = []
    for name, content in runs.items():
        interval = headline.bounds(_result(content, key).get(AVERAGE))
        rows.append({"label": name, "before": None, "after": interval})

    metric, name = key[0], metric_name(*key)
    title, axis = f"{name}: the average of each run", headline.axis(metric, digits)
    svg = figures.languages_plot(rows, title, axis, headline.reference(metric))
    return {"name": name, "svg": svg}


def _by_language(
    runs: Runs,
    key: Key,
    digits: int,
) -> dict[str, Any] | None:
    """Languages x runs; the last column is how far the runs are apart."""
    results = [_result(content, key) for content in runs.values()]
    codes = _unique(code for rows in results for code in rows)

    def line(code: str) -> list[Any]:
        rows = [result.get(code) for result in results]
        values = [cells.value_cell(row, digits) for row in rows]
        return [cells.lang_cell(code), *values, _apart(rows, key[0], digits)]

    summaries = [code for code in SUMMARIES if code in codes]
    groups = [code for code in codes if code not in SUMMARIES and not is_language(code)]
    languages = sorted(filter(is_language, codes), key=language)
    apart = "second − first" if len(runs) == 2 else "highest − lowest"
    head = ["language", *runs, apart]
    return cells.tabled(head, map(line, languages), map(line, summaries + groups))


def _apart(
    rows: Sequence[Mapping | None],
    metric: str,
    digits: int,
) -> dict[str, Any]:
    """Second minus first of two runs, highest minus lowest of several."""
    values = [row["value"] for row in rows if row and row["value"] is not None]
    if len(values) < 2:
        return cells.cell("")
    difference = max(values) - min(values)
    if len(rows) == 2:
        difference = values[1] - values[0]
    return cells.cell(change(difference, metric, digits), difference)


def _overview(
    runs: Runs,
    leading: Sequence[Key],
    digits: int,
) -> dict[str, Any] | None:
    rows = []
    for name, content in runs.items():
        recipe = content["run"].get("recipe")
        inputs = headline.asked(content)
        results = [_result(content, key).get(AVERAGE) for key in leading]
        values = [cells.value_cell(row, digits) for row in results]
        total = sum(step["seconds"] for step in content["times"])
        time = cells.cell(seconds(total), total)
        rows.append([name, recipe, inputs, *values, time])
    names = [metric_name(*key) for key in leading]
    return cells.tabled(["run", "recipe", "what went in", *names, "time"], rows)


def _differing_settings(runs: Runs) -> dict[str, Any] | None:
    """The settings in which the runs differ: `step.key` down, runs across."""
    flat = {}
    for name, content in runs.items():
        flat[name] = _flat({step["step"]: step["config"] for step in content["settings"]})
    return _differing(flat, "setting")


def _differing(runs: Mapping[str, Mapping[str, Any]], what: str) -> dict[str, Any] | None:
    """Keys down and runs across, for the keys whose values are not all the same."""
    rows = []
    for key in _unique(key for settings in runs.values() for key in settings):
        values = [str(settings.get(key, MISSING)) for settings in runs.values()]
        if len(set(values)) > 1:
            rows.append([key, *values])
    return cells.tabled([what, *runs], rows)


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """`{a: {b: 1}, c: [2, 3]}` -> `{a.b: 1, c: "2, 3"}`; lists that nest are numbered."""
    if isinstance(value, list):
        if not any(isinstance(part, Mapping | list) for part in value):
            return {prefix: ", ".join(map(str, value))}
        value = dict(enumerate(value))
    if not isinstance(value, Mapping) or not value:
        return {prefix: value}

    flat: dict[str, Any] = {}
    for key, part in value.items():
        flat |= _flat(part, f"{prefix}.{key}" if prefix else str(key))
    return flat
