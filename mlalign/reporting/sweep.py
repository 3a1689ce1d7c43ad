"""The results of a sweep or a search on one page: pure functions of the content that `mlalign.sweep.results` collects."""

from collections.abc import Mapping, Sequence
from typing import Any

from mlalign.metrics import AVERAGE, WORST
from mlalign.reporting import figures, headline, html, markdown, matrices
from mlalign.reporting.cells import cell, lang_cell, tabled, value_cell
from mlalign.reporting.text import change, language, metric_name, number

LEVELS = 12  # values of a number beyond which its effect is a cloud of points
TABLES = 3  # metrics beside the chosen one in the first table
ACROSS = 16  # columns of a table with intervals
Rows = dict[tuple[str, str], dict[str, Mapping]]


def page(content: Mapping[str, Any], digits: int) -> str:
    """The page as one self-contained HTML file."""
    grid = _by_language(content, digits)
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
        variants=_variants(content, digits),
        grid=grid,
        intervals=_intervals(content, digits),
        effects=[_effect(content, e, digits) for e in _effects(content)],
        crossed=_crossed(content, digits),
        history=_history(content, digits),
        lost=_lost(content),
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
    by = [[v["variant"], *(_told(_of(v, content).get(c), digits) for c in codes)] for v in content["variants"]]
    parts += ["## By language", markdown.grid(["variant", *codes], by)]
    for e in _effects(content):
        rows = [[_text(x["value"]), _mean(x, content, digits), _shift(x, content, digits), x["n"]] for x in e["levels"]]
        parts += [f"## Main effect of {markdown.cell(e['key'])}", markdown.grid([e["key"], "mean", "against all", "variants"], rows)]
    lost = [[v["variant"], v["state"], v["why"]] for v in content["variants"] if v["state"] != "done"]
    parts += ["## Not complete", markdown.grid(["variant", "state", "why"], lost)] if lost else []
    return "\n\n".join(filter(None, parts)) + "\n"


# ------------------------------------------------------------------------------------------------------------------ reading


def tables(variant: Mapping) -> Rows:
    """(metric, by) -> language -> row, of one variant."""
    found: Rows = {}
    for row in variant["rows"]:
        found.setdefault((row["metric"], row["by"] or ""), {})[row["language"]] = row
    return found


def _of(variant: Mapping, content: Mapping) -> dict[str, Mapping]:
    return tables(variant).get((content["metric"], content["by"]), {})


def _measured(content: Mapping) -> list[Mapping]:
    """The variants that have the metric, the best first."""
    return [v for v in content["variants"] if (_of(v, content).get(AVERAGE) or {}).get("value") is not None]


def _effects(content: Mapping) -> list[Mapping]:
    return (content["statistics"] or {}).get("effects", [])


def _keys(content: Mapping) -> list[dict[str, Any]]:
    """Every swept key with its values; many numbers as their range."""
    out = []
    for key, short in zip(content["keys"], _heads(content), strict=True):
        found = [v["values"][key] for v in content["variants"]]
        numbers = all(isinstance(x, int | float) for x in found)
        texts = list(dict.fromkeys(map(_text, sorted(found) if numbers else found)))
        many = len(texts) > LEVELS
        out.append({"key": short, "values": f"{texts[0]} to {texts[-1]}" if many and numbers else ", ".join(texts)})
    return out


def _heads(content: Mapping) -> list[str]:
    """The swept keys, each by its last part where that says enough."""
    last = [k.rpartition(".")[2] for k in content["keys"]]
    return [short if last.count(short) == 1 else k for k, short in zip(content["keys"], last, strict=True)]


def _text(value: Any) -> str:
    """A setting as a person reads it."""
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return f"{value:.6g}" if isinstance(value, float) else language(value) if isinstance(value, str) else str(value)


def name(values: Mapping[str, Any]) -> str:
    """`beta 0.05, source_language English`."""
    return ", ".join(f"{k.rpartition('.')[2]} {_text(v)}" for k, v in values.items())


def _bare(values: Mapping[str, Any]) -> str:
    return " · ".join(map(_text, values.values()))


# ------------------------------------------------------------------------------------------------------------- first screen


def _tiles(content: Mapping, digits: int) -> list[dict[str, Any]]:
    found = _measured(content)
    if not found:
        return []
    best, metric = found[0], content["metric"]
    rows = _of(best, content)
    tile = {"name": f"{metric_name(metric)}: best of {len(found)} variants", "by": content["by"], "of": "", "worst": name(best["values"])}
    tile |= {"value": number(rows[AVERAGE]["value"], metric, digits), "interval": headline.interval(rows[AVERAGE], digits)}
    out = [tile]
    if len(found) > 1:
        second = content["statistics"]["behind"][0]
        lead = {"value": -second["value"], "low": _minus(second["high"]), "high": _minus(second["low"])}
        told = {"name": "Lead over the second", "by": "", "of": "", "value": change(abs(lead["value"]), metric, digits)}
        signed = lead if content["direction"] == "maximize" else second
        out.append({**told, "interval": _bounds(signed, metric, digits), "worst": name(found[1]["values"])})
    if effects := sorted((e for e in _effects(content) if not _is_cloud(e)), key=lambda e: -_range(e)):
        e = effects[0]
        low, high = (pick(e["levels"], key=lambda x: x["mean"]) for pick in (min, max))
        between = f"from {_text(low['value'])} ({number(low['mean'], metric, digits)}) to {_text(high['value'])} "
        told = {
            "name": "Matters most",
            "by": "",
            "of": e["key"].rpartition(".")[2],
            "value": change(_range(e), metric, digits),
            "interval": "",
        }
        out.append({**told, "worst": f"{between}({number(high['mean'], metric, digits)}), means over variants"})
    return out


def _is_cloud(effect: Mapping) -> bool:
    """Whether a key has so many numbers that they are drawn as points, not averaged."""
    return len(effect["levels"]) > LEVELS and all(isinstance(x["value"], int | float) for x in effect["levels"])


def _minus(value: float | None) -> float | None:
    return None if value is None else -value


def _range(effect: Mapping) -> float:
    means = [x["mean"] for x in effect["levels"]]
    return max(means) - min(means)


def _bounds(row: Mapping, metric: str, digits: int) -> str:
    if row["low"] is None:
        return ""
    return " to ".join(change(row[b], metric, digits).removesuffix(" pp") for b in ("low", "high"))


def _verdict(content: Mapping, digits: int) -> str:
    found = _measured(content)
    if not found:
        return "No variant has been measured."
    best = f"Best by {metric_name(content['metric'], content['by'])}: {name(found[0]['values'])}, "
    row = _of(found[0], content)[AVERAGE]
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
    rows = [{"label": _bare(v["values"]), "before": None, "after": headline.bounds(_of(v, content)[AVERAGE])} for v in _measured(content)]
    if not rows:
        return None
    many = len(rows) > headline.MANY
    draw = figures.ranks_plot if many else figures.languages_plot
    at = headline.reference(content["metric"])
    title = f"{metric_name(content['metric'])} of every variant, average over languages"
    svg = draw(rows[::-1] if many else rows, title, headline.axis(content["metric"], digits), at)
    line = "" if at is None else f"dashed line: {number(at, content['metric'], 2)}"
    return {"name": title, "svg": svg, "many": many, "line": line, "keys": " · ".join(_heads(content))}


# ------------------------------------------------------------------------------------------------------------------- tables


def _lines(content: Mapping, digits: int) -> list[list[str]]:
    """The variants as rows of text with a head: settings, average, lowest language, how far behind the best."""
    behind = {b["variant"]: b for b in (content["statistics"] or {}).get("behind", [])}
    out = [[*_heads(content), metric_name(content["metric"], content["by"]), "lowest language", "behind the best", "state"]]
    for v in content["variants"]:
        rows, b = _of(v, content), behind.get(v["variant"])
        worst = rows.get(WORST)
        lowest = f"{language(worst['which'])} {number(worst['value'], content['metric'], digits)}" if worst else ""
        apart = _with(change(b["value"], content["metric"], digits), _bounds(b, content["metric"], digits)) if b else ""
        out.append([*(_text(v["values"][k]) for k in content["keys"]), _told(rows.get(AVERAGE), digits), lowest, apart, v["state"]])
    return out


def _with(value: str, bounds: str) -> str:
    return value + (f" ({bounds})" if bounds else "")


def _told(row: Mapping | None, digits: int) -> str:
    return "" if row is None or row["value"] is None else _with(number(row["value"], row["metric"], digits), headline.interval(row, digits))


def _setting(value: Any) -> dict[str, Any]:
    return cell(_text(value), value if isinstance(value, int | float) and not isinstance(value, bool) else _text(value))


def _variants(content: Mapping, digits: int) -> dict[str, Any] | None:
    metric = content["metric"]
    behind = {b["variant"]: b for b in (content["statistics"] or {}).get("behind", [])}
    others = [tuple(k) for k in content["metrics"][1:] if k[0] in headline.LEADING][:TABLES]
    rows = []
    for v in content["variants"]:
        told = tables(v)
        own = told.get((metric, content["by"]), {})
        b = behind.get(v["variant"])
        apart = cell(change(b["value"], metric, digits), b["value"], note=_bounds(b, metric, digits)) if b else cell("")
        further = [value_cell(told.get(k, {}).get(AVERAGE), digits) for k in others]
        lowest = value_cell(own.get(WORST), digits)
        state = [v["state"]] if _unfinished(content) else []
        settings = [_setting(v["values"][k]) for k in content["keys"]]
        rows.append([*settings, *state, value_cell(own.get(AVERAGE), digits), apart, lowest, *further])
    named = [metric_name(metric, content["by"]), "behind the best", "lowest language", *(metric_name(*k) for k in others)]
    return tabled([*_heads(content), *(["state"] if _unfinished(content) else []), *named], rows)


def _unfinished(content: Mapping) -> bool:
    return any(v["state"] != "done" for v in content["variants"])


def _by_language(content: Mapping, digits: int) -> dict[str, Any] | None:
    """Variants by languages with shaded cells."""
    found, codes = _measured(content), content["languages"]
    values = [[(_of(v, content).get(c) or {}).get("value") for c in codes] for v in found]
    known = [x for row in values for x in row if x is not None]
    if not known:
        return None
    labels = [_bare(v["values"]) for v in found]
    return matrices.heat(values, labels, codes, content["metric"], "by-language", digits, (min(known), max(known)))


def _intervals(content: Mapping, digits: int) -> dict[str, Any] | None:
    """Variants by languages with intervals; the longer side goes down."""
    found, codes = _measured(content), content["languages"]
    if len(codes) <= min(len(found), ACROSS):
        rows = [[_bare(v["values"]), *(value_cell(_of(v, content).get(c), digits) for c in (AVERAGE, *codes))] for v in found]
        return tabled([" · ".join(_heads(content)), "average", *map(language, codes)], rows)
    shown = found[:ACROSS]
    rows = [[lang_cell(c), *(value_cell(_of(v, content).get(c), digits) for v in shown)] for c in codes]
    return tabled(["language", *(_bare(v["values"]) for v in shown)], rows)


def _lost(content: Mapping) -> dict[str, Any] | None:
    rows = [[name(v["values"]), v["state"], v["why"].partition("\n")[0]] for v in content["variants"] if v["state"] != "done"]
    return tabled(["variant", "state", "why"], rows)


# ------------------------------------------------------------------------------------------------------------------ effects


def _mean(level: Mapping, content: Mapping, digits: int) -> str:
    bounds = "" if level["low"] is None else " to ".join(number(level[b], content["metric"], digits) for b in ("low", "high"))
    return _with(number(level["mean"], content["metric"], digits), bounds)


def _shift(level: Mapping, content: Mapping, digits: int) -> str:
    told = {"low": level["effect_low"], "high": level["effect_high"]}
    return _with(change(level["effect"], content["metric"], digits), _bounds(told, content["metric"], digits))


def _effect(content: Mapping, effect: Mapping, digits: int) -> dict[str, Any]:
    """The main effect of a key: a mark with its interval for each value, or, for many numbers, a point for each variant."""
    metric, levels, key = content["metric"], effect["levels"], effect["key"]
    head = key.rpartition(".")[2]
    axis = headline.axis(metric, digits)
    if _is_cloud(effect):
        points = [(v["values"][key], _of(v, content)[AVERAGE]["value"], v["state"] != "done") for v in _measured(content)]
        title = f"{metric_name(metric)} by {key}, a point for each variant"
        return {"key": head, "svg": figures.scatter(points, title, axis, log=_is_log([p[0] for p in points])), "table": None}
    rows = [{"label": _text(x["value"]), "before": None, "after": (x["mean"], x["low"], x["high"])} for x in levels]
    svg = figures.languages_plot(rows, f"{metric_name(metric)}: mean over the variants by {key}", axis)
    lines = []
    for x in levels:
        bounds = "" if x["low"] is None else " to ".join(number(x[b], metric, digits) for b in ("low", "high"))
        shift = _bounds({"low": x["effect_low"], "high": x["effect_high"]}, metric, digits)
        mean = cell(number(x["mean"], metric, digits), x["mean"], note=bounds)
        lines.append([_setting(x["value"]), mean, cell(change(x["effect"], metric, digits), x["effect"], note=shift), x["n"]])
    return {"key": head, "svg": svg, "table": tabled([head, "mean", "against all", "variants"], lines)}


def _is_log(values: Sequence[float]) -> bool:
    return min(values) > 0 and max(values) / min(values) >= 20


def _crossed(content: Mapping, digits: int) -> dict[str, Any] | None:
    """Two keys against each other, where just two vary: what main effects do not say."""
    levels = {e["key"]: [x["value"] for x in e["levels"]] for e in _effects(content)}
    if len(levels) != 2 or any(len(x) > ACROSS for x in levels.values()):
        return None
    (down, rows), (across, columns) = sorted(levels.items(), key=lambda p: -len(p[1]))
    at = {(_text(v["values"][down]), _text(v["values"][across])): _of(v, content)[AVERAGE]["value"] for v in _measured(content)}
    values = [[at.get((_text(r), _text(c))) for c in columns] for r in rows]
    spread = (min(at.values()), max(at.values()))
    told = matrices.heat(values, [_text(r) for r in rows], [_text(c) for c in columns], content["metric"], "by-two", digits, spread)
    return {**told, "down": down.rpartition(".")[2], "across": across.rpartition(".")[2]}


def _history(content: Mapping, digits: int) -> Any:
    """Of a search: the trials in the order in which they ran."""
    found = [
        (v["trial"], _of(v, content)[AVERAGE]["value"], v["state"] != "done") for v in _measured(content) if v.get("trial") is not None
    ]
    if len(found) < 2:
        return None
    better = min if content["direction"] == "minimize" else max
    title = f"{metric_name(content['metric'])} by trial"
    return figures.scatter(sorted(found), title, headline.axis(content["metric"], digits), best=better, log=False)
