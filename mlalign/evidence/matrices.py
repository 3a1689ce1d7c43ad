"""Sections that are matrices of languages: reward transfer, consistency, language confusion.

A small matrix is a table with its numbers, a large one a picture; both state their range.
A section is None if there is nothing to show.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from mlalign.evidence import figures, headline
from mlalign.evidence.cells import cell, lang_cell, tabled
from mlalign.evidence.text import language, metric_name, number

Section = dict[str, Any]
Matrix = Sequence[Sequence[float | None]]
SMALL_MATRIX = 16  # columns that fit as a table with numbers
UNKNOWN = "unknown"  # stands for a language that was not detected


def transfer(content: Mapping, digits: int) -> Section | None:
    """The source x target matrices.

    One source is drawn as a plot with intervals, few as a table with numbers, many as a picture.
    """
    if not content["matrices"]:
        return None
    matrices = []
    for index, matrix in enumerate(content["matrices"]):
        matrices.append(_matrix(content, matrix, index, digits))
    return {"matrices": matrices}


def _matrix(
    content: Mapping,
    matrix: Mapping,
    index: int,
    digits: int,
) -> dict[str, Any]:
    metric = matrix["metric"]
    values, sources, targets = matrix["values"], matrix["sources"], matrix["targets"]
    shown: dict[str, Any] = {
        "name": metric_name(metric),
        "step": matrix["step"],
        "sources": len(sources),
        "targets": len(targets),
    }
    if len(sources) == 1:
        plot = _one_source(content, matrix, digits)
        return {**shown, "plot": plot, "source": sources[0]}

    name = f"matrix-{index}"
    spread = _spread(_known(values))
    shown |= heat(values, sources, targets, metric, name, digits, spread)
    shown["means"] = _means(values, sources, targets, metric, digits)
    return shown


def _one_source(content: Mapping, matrix: Mapping, digits: int) -> Any:
    step, metric = matrix["step"], matrix["metric"]
    rows = {}
    for row in content["metrics"]:
        if row["step"] == step and row["metric"] == metric:
            rows[row["language"]] = row

    lines = headline.plot_rows({}, rows)
    draw = figures.ranks_plot
    if len(lines) <= headline.MANY:
        draw = figures.languages_plot
        lines = lines[::-1]
    axis = headline.axis(metric, digits)
    return draw(lines, metric_name(metric), axis, headline.reference(metric))


def _known(values: Matrix) -> list[float]:
    known: list[float] = []
    for row in values:
        known += [value for value in row if value is not None]
    return known


def _spread(values: Sequence[float]) -> tuple[float, float]:
    return min(values), max(values)


def heat(
    values: Matrix,
    sources: Sequence[str],
    targets: Sequence[str],
    metric: str,
    name: str,
    digits: int,
    spread: tuple[float, float],
    power: float = 1.0,
) -> dict[str, Any]:
    """A matrix shaded over the range `spread`: with numbers if it is small, else as a picture.

    A picture comes with `data`, from which the page's script tells the cell under the pointer.
    """
    low, high = spread
    legend = figures.legend_numbers(low, high, power, metric, digits)
    shown: dict[str, Any] = {"legend": legend, "rows": sources, "columns": targets}
    shades = []
    for row in values:
        shades.append([figures.shade(value, low, high, power) for value in row])

    if len(targets) <= SMALL_MATRIX:
        shown["cells"] = []
        for source, row, row_shades in zip(sources, values, shades, strict=True):
            cells = _shaded(row, row_shades, metric, digits)
            shown["cells"].append((source, cells))
        return shown

    size = f"{len(sources)} by {len(targets)}"
    extent = f"from {number(low, metric, digits)} to {number(high, metric, digits)}"
    title = f"{metric_name(metric)}: {size}, {extent}"
    shown["heat"] = figures.heat(shades, title, name)
    shown["data"] = {
        "rows": list(map(language, sources)),
        "columns": list(map(language, targets)),
        "values": values,
    }
    shown["id"] = name
    return shown


def _shaded(
    values: Sequence[float | None],
    shades: Sequence[int | None],
    metric: str,
    digits: int,
) -> list[dict[str, Any]]:
    cells = []
    for value, shade in zip(values, shades, strict=True):
        text = "" if value is None else number(value, metric, digits)
        cells.append(cell(text, shade=shade))
    return cells


def _means(
    values: Matrix,
    sources: Sequence[str],
    targets: Sequence[str],
    metric: str,
    digits: int,
) -> dict[str, Any] | None:
    """The mean of each language's row and of its column."""
    columns = zip(*values, strict=True)
    of_source = dict(zip(sources, values, strict=True))
    of_target = dict(zip(targets, columns, strict=True))

    rows = []
    for code in dict.fromkeys([*sources, *targets]):
        as_source = _mean(of_source.get(code, ()), metric, digits)
        as_target = _mean(of_target.get(code, ()), metric, digits)
        rows.append([lang_cell(code), as_source, as_target])
    return tabled(["language", "mean as source", "mean as target"], rows)


def _mean(
    values: Sequence[float | None],
    metric: str,
    digits: int,
) -> dict[str, Any]:
    known = _known([values])
    if not known:
        return cell("")
    mean = sum(known) / len(known)
    return cell(number(mean, metric, digits), mean)


def consistency(content: Mapping, digits: int) -> Section | None:
    """How often two languages are right or wrong together.

    A languages x languages matrix of the first and of the last evaluation, on one scale.
    """
    several = [entry for entry in content["consistency"] if len(entry["languages"]) > 1]
    shown = _first_and_last(several)
    values = [_without_diagonal(entry["values"]) for entry in shown]
    known: list[float] = []
    for matrix in values:
        known += _known(matrix)
    if not known:
        return None

    matrices = []
    for i, (entry, matrix) in enumerate(zip(shown, values, strict=True)):
        codes, name = entry["languages"], f"consistency-{i}"
        drawn = heat(matrix, codes, codes, "consistency", name, digits, _spread(known))
        model = headline.label_of(content, entry["step"])
        matrices.append({"model": model, **drawn})
    return {"matrices": matrices}


def _first_and_last(entries: Sequence) -> Sequence:
    return entries if len(entries) < 2 else [entries[0], entries[-1]]


def _without_diagonal(values: Matrix) -> list[list[float | None]]:
    rows = []
    for i, row in enumerate(values):
        rows.append([None if i == j else value for j, value in enumerate(row)])
    return rows


def confusion(content: Mapping, digits: int) -> Section | None:
    """How often answers are in the requested language, and which languages came instead."""
    entries = _detected(content)
    if not entries:
        return None

    names = [headline.label_of(content, entry["step"]) for entry in entries]
    codes = dict.fromkeys(code for entry in entries for code in entry["asked"])
    rows = []
    for code in codes:
        right = [_right(entry, code) for entry in entries]
        others = _others(entries[-1], code)
        rows.append([lang_cell(code), *right, cell(others)])
    columns = [f"answered in it: {name}" for name in names]
    head = ["asked for", *columns, f"most frequent others: {names[-1]}"]

    matrices = []
    ends = _first_and_last(list(zip(names, entries, strict=True)))
    for i, (name, entry) in enumerate(ends):
        matrices.append({"model": name, **_crossed(entry, i, digits)})
    return {"table": tabled(head, rows), "matrices": matrices}


def _detected(content: Mapping) -> list[Mapping]:
    """The entries in which any language was detected, in the order of the evaluations."""
    steps = [evaluation["step"] for evaluation in content["evaluations"]]
    order = {step: i for i, step in enumerate(steps)}
    entries = [entry for entry in content["confusion"] if set(entry["detected"]) != {UNKNOWN}]
    return sorted(entries, key=lambda entry: order.get(entry["step"], len(order)))


def _shares(entry: Mapping, code: str) -> dict[str, float]:
    """Detected language -> its share of the answers that were asked for in `code`."""
    if code not in entry["asked"]:
        return {}
    counts = entry["counts"][entry["asked"].index(code)]
    total = sum(counts)
    pairs = zip(entry["detected"], counts, strict=True)
    return {detected: n / total for detected, n in pairs if n}


def _right(entry: Mapping, code: str) -> dict[str, Any]:
    shares = _shares(entry, code)
    if not shares:
        return cell("")
    share = shares.get(code, 0)
    return cell(f"{share:.1%}", share)


def _others(entry: Mapping, code: str) -> str:
    shares = _shares(entry, code)
    others = [(share, other) for other, share in shares.items() if other != code]
    largest = sorted(others, reverse=True)[:3]
    return ", ".join(f"{language(other)} {share:.1%}" for share, other in largest)


def _crossed(entry: Mapping, index: int, digits: int) -> dict[str, Any]:
    """Rows asked, columns answered, as shares of the row.

    Languages that nobody asked for share one column.
    """
    asked = entry["asked"]
    extra = [code for code in entry["detected"] if code not in asked and code != UNKNOWN]
    values = []
    for code in asked:
        shares = _shares(entry, code)
        row = [shares.get(other) for other in asked]
        if extra:
            row.append(sum(shares.get(other, 0) for other in extra) or None)
        values.append([*row, shares.get(UNKNOWN)])

    columns = [*asked, "other", UNKNOWN] if extra else [*asked, UNKNOWN]
    name = f"confusion-{index}"
    return heat(values, asked, columns, "adherence", name, digits, (0, 1), power=2)
