"""The variants of a sweep as tables and figures: of all, by language, by setting; pure functions of the content."""

from collections.abc import Mapping, Sequence
from typing import Any

from mlalign.evidence import figures, headline, matrices
from mlalign.evidence.cells import cell, lang_cell, tabled, value_cell
from mlalign.evidence.text import change, language, metric_name, number
from mlalign.methods.metrics import AVERAGE, WORST

LEVELS = 12  # values of a number beyond which its effect is a cloud of points
TABLES = 3  # metrics beside the chosen one in the first table
ACROSS = 16  # columns of a table with intervals
Rows = dict[tuple[str, str], dict[str, Mapping]]


# ------------------------------------------------------------------------------------------------------------------ reading


def tables(variant: Mapping) -> Rows:
    """(metric, by) -> language -> row, of one variant."""
    found: Rows = {}
    for row in variant["rows"]:
        found.setdefault((row["metric"], row["by"] or ""), {})[row["language"]] = row
    return found


def rows_of(variant: Mapping, content: Mapping) -> dict[str, Mapping]:
    return tables(variant).get((content["metric"], content["by"]), {})


def measured(content: Mapping) -> list[Mapping]:
    """The variants that have the metric, the best first."""
    return [v for v in content["variants"] if (rows_of(v, content).get(AVERAGE) or {}).get("value") is not None]


def complete(content: Mapping) -> list[Mapping]:
    """Those that are complete, or all where none is: what is compared."""
    found = measured(content)
    return [v for v in found if v["state"] == "done"] or found


def effects(content: Mapping) -> list[Mapping]:
    return (content["statistics"] or {}).get("effects", [])


def heads(content: Mapping) -> list[str]:
    """The swept keys, each by its last part where that says enough."""
    last = [k.rpartition(".")[2] for k in content["keys"]]
    return [short if last.count(short) == 1 else k for k, short in zip(content["keys"], last, strict=True)]


def text(value: Any) -> str:
    """A setting as a person reads it."""
    if isinstance(value, list):
        return ", ".join(map(text, value))
    return f"{value:.6g}" if isinstance(value, float) else language(value) if isinstance(value, str) else str(value)


def name(values: Mapping[str, Any]) -> str:
    """`beta 0.05, source_language English`."""
    return ", ".join(f"{k.rpartition('.')[2]} {text(v)}" for k, v in values.items())


def bare(values: Mapping[str, Any]) -> str:
    return " · ".join(map(text, values.values()))


def is_cloud(effect: Mapping) -> bool:
    """Whether a key has so many numbers that they are drawn as points, not averaged."""
    return len(effect["levels"]) > LEVELS and all(isinstance(x["value"], int | float) for x in effect["levels"])


def change_bounds(row: Mapping, metric: str, digits: int) -> str:
    if row["low"] is None:
        return ""
    return " to ".join(change(row[b], metric, digits).removesuffix(" pp") for b in ("low", "high"))


def with_bounds(value: str, bounds: str) -> str:
    return value + (f" ({bounds})" if bounds else "")


def told(row: Mapping | None, digits: int) -> str:
    return (
        ""
        if row is None or row["value"] is None
        else with_bounds(number(row["value"], row["metric"], digits), headline.interval(row, digits))
    )


# ------------------------------------------------------------------------------------------------------------------- tables


def _setting(value: Any) -> dict[str, Any]:
    return cell(text(value), value if isinstance(value, int | float) and not isinstance(value, bool) else text(value))


def all_variants(content: Mapping, digits: int) -> dict[str, Any] | None:
    metric = content["metric"]
    behind = {b["variant"]: b for b in (content["statistics"] or {}).get("behind", [])}
    others = [tuple(k) for k in content["metrics"][1:] if k[0] in headline.LEADING][:TABLES]
    rows = []
    for v in content["variants"]:
        told = tables(v)
        own = told.get((metric, content["by"]), {})
        b = behind.get(v["variant"])
        apart = cell(change(b["value"], metric, digits), b["value"], note=change_bounds(b, metric, digits)) if b else cell("")
        further = [value_cell(told.get(k, {}).get(AVERAGE), digits) for k in others]
        lowest = value_cell(own.get(WORST), digits)
        state = [v["state"]] if _unfinished(content) else []
        settings = [_setting(v["values"][k]) for k in content["keys"]]
        rows.append([*settings, *state, value_cell(own.get(AVERAGE), digits), apart, lowest, *further])
    named = [metric_name(metric, content["by"]), "behind the best", "lowest language", *(metric_name(*k) for k in others)]
    return tabled([*heads(content), *(["state"] if _unfinished(content) else []), *named], rows)


def _unfinished(content: Mapping) -> bool:
    return any(v["state"] != "done" for v in content["variants"])


def by_language(content: Mapping, digits: int) -> dict[str, Any] | None:
    """Variants by languages with shaded cells."""
    found, codes = measured(content), content["languages"]
    values = [[(rows_of(v, content).get(c) or {}).get("value") for c in codes] for v in found]
    known = [x for row in values for x in row if x is not None]
    if not known:
        return None
    labels = [bare(v["values"]) for v in found]
    return matrices.heat(values, labels, codes, content["metric"], "by-language", digits, (min(known), max(known)))


def intervals(content: Mapping, digits: int) -> dict[str, Any] | None:
    """Variants by languages with intervals; the longer side goes down."""
    found, codes = measured(content), content["languages"]
    if len(codes) <= min(len(found), ACROSS):
        rows = [[bare(v["values"]), *(value_cell(rows_of(v, content).get(c), digits) for c in (AVERAGE, *codes))] for v in found]
        return tabled([" · ".join(heads(content)), "average", *map(language, codes)], rows)
    shown = found[:ACROSS]
    rows = [[lang_cell(c), *(value_cell(rows_of(v, content).get(c), digits) for v in shown)] for c in codes]
    return tabled(["language", *(bare(v["values"]) for v in shown)], rows)


def lost(content: Mapping) -> dict[str, Any] | None:
    rows = [[name(v["values"]), v["state"], v["why"].partition("\n")[0]] for v in content["variants"] if v["state"] != "done"]
    return tabled(["variant", "state", "why"], rows)


# ------------------------------------------------------------------------------------------------------------------ effects


def mean_of(level: Mapping, content: Mapping, digits: int) -> str:
    bounds = "" if level["low"] is None else " to ".join(number(level[b], content["metric"], digits) for b in ("low", "high"))
    return with_bounds(number(level["mean"], content["metric"], digits), bounds)


def shift_of(level: Mapping, content: Mapping, digits: int) -> str:
    told = {"low": level["effect_low"], "high": level["effect_high"]}
    return with_bounds(change(level["effect"], content["metric"], digits), change_bounds(told, content["metric"], digits))


def effect_of(content: Mapping, effect: Mapping, digits: int) -> dict[str, Any]:
    """The main effect of a key: a mark with its interval for each value, or, for many numbers, a point for each variant."""
    metric, levels, key = content["metric"], effect["levels"], effect["key"]
    head = key.rpartition(".")[2]
    axis = headline.axis(metric, digits)
    if is_cloud(effect):
        points = [(v["values"][key], rows_of(v, content)[AVERAGE]["value"], v["state"] != "done") for v in measured(content)]
        title = f"{metric_name(metric)} by {key}, a point for each variant"
        return {"key": head, "svg": figures.scatter(points, title, axis, log=_is_log([p[0] for p in points])), "table": None}
    rows = [{"label": text(x["value"]), "before": None, "after": (x["mean"], x["low"], x["high"])} for x in levels]
    svg = figures.languages_plot(rows, f"{metric_name(metric)}: mean over the variants by {key}", axis)
    lines = []
    for x in levels:
        bounds = "" if x["low"] is None else " to ".join(number(x[b], metric, digits) for b in ("low", "high"))
        shift = change_bounds({"low": x["effect_low"], "high": x["effect_high"]}, metric, digits)
        mean = cell(number(x["mean"], metric, digits), x["mean"], note=bounds)
        lines.append([_setting(x["value"]), mean, cell(change(x["effect"], metric, digits), x["effect"], note=shift), x["n"]])
    return {"key": head, "svg": svg, "table": tabled([head, "mean", "against all", "variants"], lines)}


def _is_log(values: Sequence[float]) -> bool:
    return min(values) > 0 and max(values) / min(values) >= 20


def crossed(content: Mapping, digits: int) -> dict[str, Any] | None:
    """Two keys against each other, where just two vary: what main effects do not say."""
    levels = {e["key"]: [x["value"] for x in e["levels"]] for e in effects(content)}
    if len(levels) != 2 or any(len(x) > ACROSS for x in levels.values()):
        return None
    (down, rows), (across, columns) = sorted(levels.items(), key=lambda p: -len(p[1]))
    at = {(text(v["values"][down]), text(v["values"][across])): rows_of(v, content)[AVERAGE]["value"] for v in complete(content)}
    values = [[at.get((text(r), text(c))) for c in columns] for r in rows]
    spread = (min(at.values()), max(at.values()))
    told = matrices.heat(values, [text(r) for r in rows], [text(c) for c in columns], content["metric"], "by-two", digits, spread)
    return {**told, "down": down.rpartition(".")[2], "across": across.rpartition(".")[2]}


def history(content: Mapping, digits: int) -> Any:
    """Of a search: the trials in the order in which they ran."""
    found = [
        (v["trial"], rows_of(v, content)[AVERAGE]["value"], v["state"] != "done") for v in measured(content) if v.get("trial") is not None
    ]
    if len(found) < 2:
        return None
    better = min if content["direction"] == "minimize" else max
    title = f"{metric_name(content['metric'])} by trial"
    return figures.scatter(sorted(found), title, headline.axis(content["metric"], digits), best=better, log=False)
