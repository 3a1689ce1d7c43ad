"""The first screen: three numbers, one sentence and one picture.

Pure functions of the collected content.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from mlalign.evidence import figures, headline
from mlalign.evidence.text import change, is_language, language, metric_name, number
from mlalign.methods.metrics import AVERAGE, WORST


def numbers(content: Mapping, digits: int) -> list[dict[str, Any]]:
    """Three tiles: the average of a leading metric, what it was before, the lowest language."""
    ranked = headline.sources(content)
    if ranked:
        return _transfer_tiles(content, ranked, digits)
    tiles = _evaluation_tiles(content, digits)
    all_tables = headline.tables(content)
    steps_of_evaluations = set(content.get("evaluation_of") or {})
    for key in headline.leading(content):
        is_held_out = steps_of_evaluations.isdisjoint(all_tables[key])
        if is_held_out:
            tiles.append(_tile(content, key, all_tables, digits))
    return tiles[:3]


def _evaluation_tiles(content: Mapping, digits: int) -> list[dict[str, Any]]:
    """A tile for each headline number of the last model, with the change from the first."""
    lines: dict[tuple[str, str, str], list[Mapping]] = {}
    for row in content.get("headlines") or []:
        key = (row["evaluation"], row["metric"], row["origin"])
        lines.setdefault(key, []).append(row)
    tiles = []
    for (evaluation, metric, origin), rows in lines.items():
        first, last = rows[0], rows[-1]
        tile = {
            "name": metric_name(metric),
            "by": "",
            "of": f"{evaluation}, {headline.origin_name(origin)}, of {last['model']}",
            "value": number(last["value"], metric, digits),
            "interval": headline.interval(last, digits),
        }
        if first is not last and None not in (first["value"], last["value"]):
            gain = last["value"] - first["value"]
            tile["change"] = headline.arrow(gain) + change(gain, metric, digits)
            tile["before"] = f"from {number(first['value'], metric, digits)} ({first['model']})"
        tiles.append(tile)
    return tiles


def _transfer_tiles(
    content: Mapping,
    ranked: Sequence[tuple[str, Mapping]],
    digits: int,
) -> list[dict[str, Any]]:
    """The best and the lowest reward model, and how they judge languages not trained on."""
    shown = {
        "Best reward model, average over languages": ranked[0],
        "Lowest reward model": ranked[-1],
    }
    tiles = []
    for name, (source, row) in shown.items():
        tile = {
            "name": name,
            "by": "",
            "of": f"trained on {language(source)}",
            "value": number(row["value"], row["metric"], digits),
            "interval": headline.interval(row, digits),
        }
        tiles.append(tile)

    own, others = _own_and_others(content)
    if own and others:
        own_mean = number(sum(own) / len(own), "reward_accuracy", digits)
        tile = {
            "name": "On the other languages",
            "by": "mean of all pairs",
            "of": "",
            "value": number(sum(others) / len(others), "reward_accuracy", digits),
            "interval": "",
            "worst": f"{own_mean} on the language trained on",
        }
        tiles.append(tile)
    return tiles


def _own_and_others(content: Mapping) -> tuple[list[float], list[float]]:
    """Reward accuracies on the language trained on, and on the others."""
    own: list[float] = []
    others: list[float] = []
    matrices = [m for m in content["matrices"] if m["metric"] == "reward_accuracy"]
    for matrix in matrices[:1]:
        for source, values in zip(matrix["sources"], matrix["values"], strict=True):
            for target, value in zip(matrix["targets"], values, strict=True):
                accuracies = own if source == target else others
                if value is not None:
                    accuracies.append(value)
    return own, others


def _tile(
    content: Mapping,
    key: headline.Key,
    all_tables: Mapping[headline.Key, headline.Table],
    digits: int,
) -> dict[str, Any]:
    metric, by = key
    table = all_tables[key]
    before, after = headline.before_and_after(content, table)
    average, worst = table[after][AVERAGE], table[after].get(WORST)
    tile = {
        "name": metric_name(metric),
        "by": by,
        "of": f"of {headline.label_of(content, after)}",
        "value": number(average["value"], metric, digits),
        "interval": headline.interval(average, digits),
    }
    old = table[before].get(AVERAGE) if before else None
    if before and old and None not in (old["value"], average["value"]):
        paired = all_tables.get(headline.gain_of(key), {}).get(after, {}).get(AVERAGE)
        gain = headline.difference(old, average, paired)
        tile["change"] = headline.arrow(gain) + change(gain, metric, digits)
        if paired and headline.interval(paired, digits):
            tile["change"] += f" ({headline.interval(paired, digits)})"
        old_value = number(old["value"], metric, digits)
        tile["before"] = f"from {old_value} ({headline.label_of(content, before)})"
    if worst:
        value = number(worst["value"], metric, digits)
        tile["worst"] = f"lowest: {language(worst['which'])} {value}"
    return tile


def verdict(content: Mapping) -> str:
    """In how many languages the leading metric is better, and what a guard selected."""
    ranked = headline.sources(content)
    sentences = [_transferred(ranked) if ranked else _by_languages(content)]
    if content["decisions"]:
        selected = content["decisions"][-1]["selected"]
        sentences.append(f"Selected in the end: “{selected}”.")
    return " ".join(filter(None, sentences))


def _transferred(ranked: Sequence[tuple[str, Mapping]]) -> str:
    lows = [row["low"] for _, row in ranked]
    n_above = sum(low is not None and low > 0.5 for low in lows)
    return (
        f"{n_above} of {len(ranked)} reward models are above chance on average: the whole interval"
        " lies above 50%."
    )


def _by_languages(content: Mapping) -> str:
    keys = headline.leading(content)
    if not keys:
        return ""
    metric = keys[0][0]
    table = headline.tables(content)[keys[0]]
    before, after = headline.before_and_after(content, table)
    line = headline.reference(metric)
    if line is not None:
        wins = "wins" if metric == "win_rate" else "is above chance"
        return _against(table[after], line, headline.label_of(content, after), wins)
    if before:
        return _moved(table[before], table[after], metric)
    return ""


def _against(
    rows: Mapping[str, Mapping],
    line: float,
    model: str,
    wins: str,
) -> str:
    """In how many languages the whole interval lies above the line, and below it."""
    n, n_above, n_below = 0, 0, 0
    for code, row in rows.items():
        if is_language(code) and row["low"] is not None:
            n += 1
            n_above += row["low"] > line
            n_below += row["high"] < line
    if n == 0:
        return ""
    text = f"“{model}” {wins} in {n_above} of {n} languages: the whole interval lies above"
    text += f" {line:.0%}."
    if n_below:
        text += f" It lies below in {n_below}."
    n_undecided = n - n_above - n_below
    if n_undecided:
        text += f" {n_undecided} are undecided."
    return text


def _moved(
    before: Mapping[str, Mapping],
    after: Mapping[str, Mapping],
    metric: str,
) -> str:
    """In how many languages the value is higher than before, and lower."""
    n_shared, n_higher = 0, 0
    lower = []
    for code in after:
        if code not in before or not is_language(code):
            continue
        old, new = before[code]["value"], after[code]["value"]
        if old is None or new is None:
            continue
        n_shared += 1
        n_higher += new > old
        if new < old:
            lower.append(language(code))
    names = f": {', '.join(lower)}" if 0 < len(lower) <= 5 else ""
    return (
        f"{metric_name(metric)}: higher than before in {n_higher} of {n_shared} languages, lower in"
        f" {len(lower)}{names}."
    )


def picture(content: Mapping, digits: int) -> dict[str, Any] | None:
    """A leading metric by language, sorted by the value after.

    The first one that has a before and an after, else the first.
    """
    ranked = headline.sources(content)
    if ranked:
        return _picture_of_sources(ranked, digits)
    keys = headline.leading(content)
    if not keys:
        return None
    all_tables = headline.tables(content)
    compared = [key for key in keys if headline.before_and_after(content, all_tables[key])[0]]
    key = compared[0] if compared else keys[0]
    metric, table = key[0], all_tables[key]
    before, after = headline.before_and_after(content, table)
    rows = headline.plot_rows(table.get(before or "", {}), table[after])
    if not rows:
        return None
    if len(rows) <= headline.MANY:
        rows.reverse()
    old = headline.label_of(content, before) if before else None
    name = f"{metric_name(metric)} by language"
    return _drawn(rows, metric, digits, old, headline.label_of(content, after), name)


def _picture_of_sources(ranked: Sequence[tuple[str, Mapping]], digits: int) -> dict[str, Any]:
    rows = []
    for source, row in ranked:
        rows.append({"label": language(source), "before": None, "after": headline.bounds(row)})
    if len(rows) > headline.MANY:
        rows.reverse()
    name = "Average of each reward model"
    return _drawn(rows, "reward_accuracy", digits, None, "reward models", name)


def _drawn(
    rows: Sequence[Mapping],
    metric: str,
    digits: int,
    before: str | None,
    after: str,
    name: str,
) -> dict[str, Any]:
    """The figure with its legend. `rows` are as figures take them."""

    def value(row: Mapping) -> float:
        return row["after"][0]

    def end(row: Mapping) -> str:
        return f"{row['label']} {number(value(row), metric, digits)}"

    ends = f"from {end(min(rows, key=value))} to {end(max(rows, key=value))}"
    line = headline.reference(metric)
    is_many = len(rows) > headline.MANY
    draw = figures.ranks_plot if is_many else figures.languages_plot
    return {
        "name": name,
        "svg": draw(rows, f"{name}, {ends}", headline.axis(metric, digits), line),
        "ends": ends,
        "many": is_many,
        "line": "" if line is None else f"dashed line: {number(line, metric, 2)}",
        "before": before,
        "after": after,
    }
