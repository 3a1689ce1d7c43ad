"""The results of a sweep or a search on one page.

Pure functions of the content that `mlalign.sweep.results` collects.
"""

from collections.abc import Mapping
from typing import Any

from mlalign.evidence import figures, headline, html, markdown, variants
from mlalign.evidence.text import change, language, metric_name, number
from mlalign.methods.metrics import AVERAGE, WORST


def page(content: Mapping[str, Any], digits: int) -> str:
    """The page as one self-contained HTML file."""
    top = {
        "numbers": _tiles(content, digits),
        "verdict": _verdict(content, digits),
        "picture": _picture(content, digits),
        "confidence": f"{100 * content['confidence']:g}%",
    }
    grid = variants.by_language(content, digits)
    data = {grid["id"]: grid["data"]} if grid and "data" in grid else {}
    effects = [variants.effect_of(content, e, digits) for e in variants.effects(content)]
    return html.render(
        "sweep.html",
        title=content["name"],
        content=content,
        top=top,
        metric=metric_name(content["metric"], content["by"]),
        keys=_keys(content),
        variants=variants.all_variants(content, digits),
        grid=grid,
        intervals=variants.intervals(content, digits),
        effects=effects,
        crossed=variants.crossed(content, digits),
        history=variants.history(content, digits),
        lost=variants.lost(content),
        data=data,
    )


def summary(content: Mapping[str, Any], digits: int) -> str:
    """The variants as plain text, best first."""
    table = _table(content, digits)
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = []
    for row in table:
        padded = [text.ljust(width) for text, width in zip(row, widths, strict=True)]
        lines.append("  ".join(padded).rstrip())
    return "\n".join([*lines, "", _verdict(content, digits)])


def markdown_page(content: Mapping[str, Any], digits: int) -> str:
    """The page as Markdown."""
    head, *rows = _table(content, digits)
    kind, recipe = content["kind"], markdown.cell(content["recipe"])
    parts = [
        f"# {markdown.cell(content['name'])}",
        f"{kind} of recipe {recipe}: {len(content['variants'])} variants",
        markdown.cell(_verdict(content, digits)),
        "## Variants",
        markdown.grid(head, rows),
        "## By language",
        _markdown_languages(content, digits),
    ]
    for effect in variants.effects(content):
        parts.append(f"## Main effect of {markdown.cell(effect['key'])}")
        parts.append(_markdown_effect(content, effect, digits))

    head = ["variant", "state", "why"]
    unfinished = filter(variants.is_unfinished, content["variants"])
    lost = [[variant[key] for key in head] for variant in unfinished]
    if lost:
        parts += ["## Not complete", markdown.grid(head, lost)]
    return "\n\n".join(filter(None, parts)) + "\n"


def _markdown_languages(content: Mapping, digits: int) -> str:
    codes = content["languages"]
    table = []
    for variant in content["variants"]:
        rows = variants.rows_of(variant, content)
        values = [variants.value_with_bounds(rows.get(code), digits) for code in codes]
        table.append([variant["variant"], *values])
    return markdown.grid(["variant", *codes], table)


def _markdown_effect(content: Mapping, effect: Mapping, digits: int) -> str:
    rows = []
    for level in effect["levels"]:
        mean = variants.mean_of(level, content, digits)
        shift = variants.shift_of(level, content, digits)
        rows.append([variants.text(level["value"]), mean, shift, level["n"]])
    return markdown.grid([effect["key"], "mean", "against all", "variants"], rows)


def _keys(content: Mapping) -> list[dict[str, Any]]:
    """Every swept key with its values; many numbers as their range."""
    keys = []
    for key, short in zip(content["keys"], variants.heads(content), strict=True):
        values = [variant["values"][key] for variant in content["variants"]]
        are_numbers = all(isinstance(value, int | float) for value in values)
        if are_numbers:
            values.sort()
        texts = list(dict.fromkeys(map(variants.text, values)))
        as_range = are_numbers and len(texts) > variants.LEVELS
        shown = f"{texts[0]} to {texts[-1]}" if as_range else ", ".join(texts)
        keys.append({"key": short, "values": shown})
    return keys


# ----------------------------------------------------------------------------------- first screen


def _tiles(content: Mapping, digits: int) -> list[dict[str, Any]]:
    """The best variant, its lead over the second, and the key that matters most."""
    ranked = variants.complete(content)
    if not ranked:
        return []

    metric, best = content["metric"], ranked[0]
    row = variants.rows_of(best, content)[AVERAGE]
    name = f"{metric_name(metric)}: best of {len(ranked)} variants"
    value = number(row["value"], metric, digits)
    interval = headline.interval(row, digits)
    settings = variants.name(best["values"])
    tiles = [_tile(name, value, interval, settings, by=content["by"])]
    if len(ranked) > 1:
        tiles.append(_lead(content, ranked[1], digits))

    comparable = [e for e in variants.effects(content) if not variants.is_cloud(e)]
    if comparable:
        tiles.append(_matters_most(max(comparable, key=_range), metric, digits))
    return tiles


def _tile(
    name: str,
    value: str,
    interval: str,
    below: str,
    *,
    by: str = "",
    of: str = "",
) -> dict[str, Any]:
    """A tile as the template takes it; `below` is the line under the number."""
    return {"name": name, "by": by, "of": of, "value": value, "interval": interval, "worst": below}


def _lead(content: Mapping, second: Mapping, digits: int) -> dict[str, Any]:
    """How far the best variant leads; the interval has the sign in which more is better."""
    metric = content["metric"]
    behind = content["statistics"]["behind"][0]
    lead = change(abs(behind["value"]), metric, digits)
    bounds = behind
    if content["direction"] == "maximize":
        bounds = {"low": _minus(behind["high"]), "high": _minus(behind["low"])}
    interval = variants.change_bounds(bounds, metric, digits)
    return _tile("Lead over the second", lead, interval, variants.name(second["values"]))


def _matters_most(effect: Mapping, metric: str, digits: int) -> dict[str, Any]:
    """The key whose values' means are furthest apart."""
    ranked = sorted(effect["levels"], key=lambda level: level["mean"])
    ends = []
    for level in (ranked[0], ranked[-1]):
        mean = number(level["mean"], metric, digits)
        ends.append(f"{variants.text(level['value'])} ({mean})")
    below = f"from {' to '.join(ends)}, means over variants"
    value = change(_range(effect), metric, digits)
    return _tile("Matters most", value, "", below, of=effect["key"].rpartition(".")[2])


def _minus(value: float | None) -> float | None:
    return None if value is None else 0.0 - value  # never minus zero


def _range(effect: Mapping) -> float:
    means = [level["mean"] for level in effect["levels"]]
    return max(means) - min(means)


def _verdict(content: Mapping, digits: int) -> str:
    """The best variant, and whether the others differ from it beyond their intervals."""
    ranked = variants.complete(content)
    if not ranked:
        return "No variant has been measured."

    row = variants.rows_of(ranked[0], content)[AVERAGE]
    metric = metric_name(content["metric"], content["by"])
    value = number(row["value"], content["metric"], digits)
    value = variants.with_bounds(value, headline.interval(row, digits))
    best = f"Best by {metric}: {variants.name(ranked[0]['values'])}, {value}."

    behind = list(variants.behind_best(content).values())
    if not behind:
        return best
    if not content["statistics"]["paired"]:
        return f"{best} Differences between variants have no interval here."
    n_close = sum(map(_may_be_zero, behind))
    if n_close:
        return f"{best} {n_close} of {len(behind)} others are not told apart from it."
    return f"{best} All others are behind it beyond their interval."


def _may_be_zero(difference: Mapping) -> bool:
    if difference["low"] is None:
        return True
    return difference["low"] <= 0 <= difference["high"]


def _picture(content: Mapping, digits: int) -> dict[str, Any] | None:
    rows = []
    for variant in variants.measured(content):
        label = variants.bare(variant["values"])
        interval = headline.bounds(variants.rows_of(variant, content)[AVERAGE])
        rows.append({"label": label, "before": None, "after": interval})
    if not rows:
        return None

    many = len(rows) > headline.MANY
    if many:
        rows.reverse()
    draw = figures.ranks_plot if many else figures.languages_plot
    metric = content["metric"]
    reference = headline.reference(metric)
    title = f"{metric_name(metric)} of every variant, average over languages"
    return {
        "name": title,
        "svg": draw(rows, title, headline.axis(metric, digits), reference),
        "many": many,
        "line": "" if reference is None else f"dashed line: {number(reference, metric, 2)}",
        "keys": " · ".join(variants.heads(content)),
    }


def _table(content: Mapping, digits: int) -> list[list[str]]:
    """The variants as rows of text with a head.

    Columns: settings, average, lowest language, how far behind the best, state.
    """
    metric = content["metric"]
    name = metric_name(metric, content["by"])
    table = [[*variants.heads(content), name, "lowest language", "behind the best", "state"]]
    behind = variants.behind_best(content)
    for variant in content["variants"]:
        rows = variants.rows_of(variant, content)
        settings = [variants.text(variant["values"][key]) for key in content["keys"]]
        value = variants.value_with_bounds(rows.get(AVERAGE), digits)

        worst = rows.get(WORST)
        lowest = ""
        if worst:
            lowest = f"{language(worst['which'])} {number(worst['value'], metric, digits)}"

        difference = behind.get(variant["variant"])
        distance = ""
        if difference:
            distance = change(difference["value"], metric, digits)
            bounds = variants.change_bounds(difference, metric, digits)
            distance = variants.with_bounds(distance, bounds)
        table.append([*settings, value, lowest, distance, variant["state"]])
    return table
