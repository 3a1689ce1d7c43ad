"""The results of a sweep or a search on one page: pure functions of the content that `mlalign.sweep.results` collects."""

from collections.abc import Mapping
from typing import Any

from mlalign.evidence import figures, headline, html, markdown, variants
from mlalign.evidence.text import change, language, metric_name, number
from mlalign.methods.metrics import AVERAGE, WORST


def page(content: Mapping[str, Any], digits: int) -> str:
    """The page as one self-contained HTML file."""
    grid = variants.by_language(content, digits)
    data = {grid["id"]: grid["data"]} if grid and "data" in grid else {}
    top = {
        "numbers": _tiles(content, digits), "verdict": _verdict(content, digits), "picture": _picture(content, digits),
        "confidence": f"{100 * content['confidence']:g}%",
    }  # fmt: skip
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
        effects=[variants.effect_of(content, e, digits) for e in variants.effects(content)],
        crossed=variants.crossed(content, digits),
        history=variants.history(content, digits),
        lost=variants.lost(content),
        data=data,
    )


def summary(content: Mapping[str, Any], digits: int) -> str:
    """The variants as plain text, the best first."""
    lines = _lines(content, digits)
    widths = [max(len(row[i]) for row in lines) for i in range(len(lines[0]))]
    text = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in lines]
    return "\n".join([*text, "", _verdict(content, digits)])


def markdown_page(content: Mapping[str, Any], digits: int) -> str:
    """The same as Markdown."""
    head, *body = _lines(content, digits)
    parts = [
        f"# {markdown.cell(content['name'])}",
        f"{content['kind']} of recipe {markdown.cell(content['recipe'])}: {len(content['variants'])} variants",
        markdown.cell(_verdict(content, digits)),
        "## Variants",
        markdown.grid(head, body),
    ]
    codes = content["languages"]
    by = [[v["variant"], *(variants.told(variants.rows_of(v, content).get(c), digits) for c in codes)] for v in content["variants"]]
    parts += ["## By language", markdown.grid(["variant", *codes], by)]
    for e in variants.effects(content):
        rows = [
            [variants.text(x["value"]), variants.mean_of(x, content, digits), variants.shift_of(x, content, digits), x["n"]]
            for x in e["levels"]
        ]
        parts += [f"## Main effect of {markdown.cell(e['key'])}", markdown.grid([e["key"], "mean", "against all", "variants"], rows)]
    lost = [[v["variant"], v["state"], v["why"]] for v in content["variants"] if v["state"] != "done"]
    parts += ["## Not complete", markdown.grid(["variant", "state", "why"], lost)] if lost else []
    return "\n\n".join(filter(None, parts)) + "\n"


def _keys(content: Mapping) -> list[dict[str, Any]]:
    """Every swept key with its values; many numbers as their range."""
    out = []
    for key, short in zip(content["keys"], variants.heads(content), strict=True):
        found = [v["values"][key] for v in content["variants"]]
        numbers = all(isinstance(x, int | float) for x in found)
        texts = list(dict.fromkeys(map(variants.text, sorted(found) if numbers else found)))
        many = len(texts) > variants.LEVELS
        out.append({"key": short, "values": f"{texts[0]} to {texts[-1]}" if many and numbers else ", ".join(texts)})
    return out


# ------------------------------------------------------------------------------------------------------------- first screen


def _tiles(content: Mapping, digits: int) -> list[dict[str, Any]]:
    found = variants.complete(content)
    if not found:
        return []
    best, metric = found[0], content["metric"]
    rows = variants.rows_of(best, content)
    tile = {
        "name": f"{metric_name(metric)}: best of {len(found)} variants",
        "by": content["by"],
        "of": "",
        "worst": variants.name(best["values"]),
    }
    tile |= {"value": number(rows[AVERAGE]["value"], metric, digits), "interval": headline.interval(rows[AVERAGE], digits)}
    out = [tile]
    if len(found) > 1:
        second = content["statistics"]["behind"][0]
        lead = {"value": -second["value"], "low": _minus(second["high"]), "high": _minus(second["low"])}
        told = {"name": "Lead over the second", "by": "", "of": "", "value": change(abs(lead["value"]), metric, digits)}
        signed = lead if content["direction"] == "maximize" else second
        out.append({**told, "interval": variants.change_bounds(signed, metric, digits), "worst": variants.name(found[1]["values"])})
    if effects := sorted((e for e in variants.effects(content) if not variants.is_cloud(e)), key=lambda e: -_range(e)):
        e = effects[0]
        low, high = (pick(e["levels"], key=lambda x: x["mean"]) for pick in (min, max))
        between = f"from {variants.text(low['value'])} ({number(low['mean'], metric, digits)}) to {variants.text(high['value'])} "
        told = {
            "name": "Matters most",
            "by": "",
            "of": e["key"].rpartition(".")[2],
            "value": change(_range(e), metric, digits),
            "interval": "",
        }
        out.append({**told, "worst": f"{between}({number(high['mean'], metric, digits)}), means over variants"})
    return out


def _minus(value: float | None) -> float | None:
    return None if value is None else 0.0 - value  # no minus before a zero


def _range(effect: Mapping) -> float:
    means = [x["mean"] for x in effect["levels"]]
    return max(means) - min(means)


def _verdict(content: Mapping, digits: int) -> str:
    found = variants.complete(content)
    if not found:
        return "No variant has been measured."
    best = f"Best by {metric_name(content['metric'], content['by'])}: {variants.name(found[0]['values'])}, "
    row = variants.rows_of(found[0], content)[AVERAGE]
    best += f"{number(row['value'], content['metric'], digits)}" + (f" ({told})" if (told := headline.interval(row, digits)) else "") + "."
    behind = (content["statistics"] or {}).get("behind") or []
    if not behind:
        return best
    close = [b for b in behind if b["low"] is None or b["low"] <= 0 <= b["high"]]
    if not content["statistics"]["paired"]:
        return f"{best} Differences between variants have no interval here."
    told = f"{len(close)} of {len(behind)} others are not told apart from it" if close else "all others are behind it beyond their interval"
    return f"{best} {told[0].upper()}{told[1:]}."


def _picture(content: Mapping, digits: int) -> dict[str, Any] | None:
    rows = [
        {"label": variants.bare(v["values"]), "before": None, "after": headline.bounds(variants.rows_of(v, content)[AVERAGE])}
        for v in variants.measured(content)
    ]
    if not rows:
        return None
    many = len(rows) > headline.MANY
    draw = figures.ranks_plot if many else figures.languages_plot
    at = headline.reference(content["metric"])
    title = f"{metric_name(content['metric'])} of every variant, average over languages"
    svg = draw(rows[::-1] if many else rows, title, headline.axis(content["metric"], digits), at)
    line = "" if at is None else f"dashed line: {number(at, content['metric'], 2)}"
    return {"name": title, "svg": svg, "many": many, "line": line, "keys": " · ".join(variants.heads(content))}


def _lines(content: Mapping, digits: int) -> list[list[str]]:
    """The variants as rows of text with a head: settings, average, lowest language, how far behind the best."""
    behind = {b["variant"]: b for b in (content["statistics"] or {}).get("behind", [])}
    out = [[*variants.heads(content), metric_name(content["metric"], content["by"]), "lowest language", "behind the best", "state"]]
    for v in content["variants"]:
        rows, b = variants.rows_of(v, content), behind.get(v["variant"])
        worst = rows.get(WORST)
        lowest = f"{language(worst['which'])} {number(worst['value'], content['metric'], digits)}" if worst else ""
        apart = (
            variants.with_bounds(change(b["value"], content["metric"], digits), variants.change_bounds(b, content["metric"], digits))
            if b
            else ""
        )
        out.append(
            [*(variants.text(v["values"][k]) for k in content["keys"]), variants.told(rows.get(AVERAGE), digits), lowest, apart, v["state"]]
        )
    return out
