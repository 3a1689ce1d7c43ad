"""The answer of a run in three numbers, one sentence and one picture: pure functions of the
collected content.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mlalign.evidence import figures
from mlalign.evidence.text import (
    change,
    is_language,
    is_share,
    language,
    metric_name,
    number,
    parted,
    source_of,
)
from mlalign.methods.metrics import AVERAGE, WORST

# Metrics that a run is about, most telling first; of the last one found, several score columns may
# stand there.
LEADING = ("win_rate", "accuracy", "adherence", "reward_accuracy", "selected_accuracy", "tokens")
CHANCE = ("win_rate", "win_rate_lc", "reward_accuracy")
MANY = 24  # more languages than this are drawn as columns

Table = dict[str, dict[str, Mapping]]  # step -> language (or avg, worst, …) -> row


def reference(metric: str) -> float | None:
    """The value that says nothing: no gain, or chance."""
    return 0.0 if parted(metric)[1] else 0.5 if metric in CHANCE else None


def tables(content: Mapping) -> dict[tuple[str, str], Table]:
    """(metric, by) -> its rows by step and language, the steps of baselines first."""
    order = {e["step"]: i for i, e in enumerate(content["evaluations"])}
    found: dict[tuple[str, str], Table] = {}
    for row in sorted(content["metrics"], key=lambda r: order.get(r["step"], len(order))):
        found.setdefault((row["metric"], by_of(content, row)), {}).setdefault(row["step"], {})[
            row["language"]
        ] = row
    return found


def by_of(content: Mapping, row: Mapping) -> str:
    """The score column that a row was measured by, with the evaluation, whose numbers stand by
    themselves.
    """
    evaluation = (content.get("evaluation_of") or {}).get(row["step"])
    return " on ".join(filter(None, (row["by"], evaluation)))


def before_and_after(content: Mapping, table: Table) -> tuple[str | None, str]:
    """The steps to compare: the evaluation of the model that was selected (else the last), and that
    of its baseline (else the first).
    """
    known = {e["step"]: e for e in content["evaluations"]}
    selected = content["decisions"][-1]["selected"] if content["decisions"] else None
    steps = list(table)
    after = next((s for s in steps if s in known and known[s]["model"] == selected), steps[-1])
    baseline = known.get(after, {}).get("baseline")
    before = baseline if baseline in table else steps[0]
    return (before if before != after else None), after


def label_of(content: Mapping, step: str) -> str:
    """What a column of results is called: the model that was evaluated, else the step."""
    models = [e["model"] for e in content["evaluations"]]
    found = next((e["model"] for e in content["evaluations"] if e["step"] == step), None)
    return found if found and models.count(found) == 1 else step


def leading(content: Mapping) -> list[tuple[str, str]]:
    """The (metric, by) of three metrics, those that the first screen shows."""
    found = tables(content)
    ranked = sorted(
        found, key=lambda key: LEADING.index(key[0]) if key[0] in LEADING else len(LEADING)
    )
    first = {
        key[0]: key
        for key in reversed(ranked)
        if not parted(key[0])[1] and any(AVERAGE in rows for rows in found[key].values())
    }
    return list(first.values())[::-1][:3]


def sources(content: Mapping) -> list[tuple[str, Mapping]]:
    """(what a reward model was trained on, its average row), best first, where a run compares
    several and measures nothing else first.
    """
    found = tables(content)
    keys = [key for key in found if key[0] == "reward_accuracy"]
    if len(keys) < 2 or leading(content)[0][0] != "reward_accuracy":
        return []
    rows = [
        (source_of(key[1]), found[key][before_and_after(content, found[key])[1]][AVERAGE])
        for key in keys
    ]
    return sorted(
        ((s, r) for s, r in rows if r["value"] is not None), key=lambda pair: -pair[1]["value"]
    )


def numbers(content: Mapping, digits: int) -> list[dict[str, Any]]:
    """Three tiles: the average of a leading metric with its interval, what it was before, and the
    lowest language.
    """
    if ranked := sources(content):
        return _transfer_tiles(content, ranked, digits)
    found = tables(content)
    of_evaluations = content.get("evaluation_of") or {}
    held_out = [key for key in leading(content) if not set(found[key]) & set(of_evaluations)]
    return [
        *_evaluation_tiles(content, digits),
        *(_tile(content, key, found[key], digits) for key in held_out),
    ][:3]


def _evaluation_tiles(content: Mapping, digits: int) -> list[dict[str, Any]]:
    """A tile for each headline number of the last model, with the change from the first."""
    lines: dict[tuple[str, str, str], list[Mapping]] = {}
    for row in content.get("headlines") or []:
        lines.setdefault((row["evaluation"], row["metric"], row["origin"]), []).append(row)
    tiles = []
    for (evaluation, metric, origin), rows in lines.items():
        first, last = rows[0], rows[-1]
        tile = {
            "name": metric_name(metric),
            "by": "",
            "of": f"{evaluation}, {origin_name(origin)}, of {last['model']}",
            "value": number(last["value"], metric, digits),
            "interval": interval(last, digits),
        }
        if first is not last and None not in (first["value"], last["value"]):
            gain = last["value"] - first["value"]
            tile["change"] = arrow(gain) + change(gain, metric, digits)
            tile["before"] = f"from {number(first['value'], metric, digits)} ({first['model']})"
        tiles.append(tile)
    return tiles


def origin_name(origin: str) -> str:
    """`machine translated` for `machine_translated`."""
    return origin.replace("_", " ")


def _transfer_tiles(
    content: Mapping, ranked: Sequence[tuple[str, Mapping]], digits: int
) -> list[dict[str, Any]]:
    """The best and the lowest reward model, and how much better they judge their own language than
    the others.
    """
    tiles = []
    for name, (source, row) in (
        ("Best reward model, average over languages", ranked[0]),
        ("Lowest reward model", ranked[-1]),
    ):
        value = number(row["value"], row["metric"], digits)
        tiles.append(
            {
                "name": name,
                "by": "",
                "of": f"trained on {language(source)}",
                "value": value,
                "interval": interval(row, digits),
            }
        )
    matrix = next((m for m in content["matrices"] if m["metric"] == "reward_accuracy"), None)
    cells = (
        [
            (s == t, v)
            for s, row in zip(matrix["sources"], matrix["values"], strict=True)
            for t, v in zip(matrix["targets"], row, strict=True)
        ]
        if matrix
        else []
    )
    own, other = (
        [v for same, v in cells if same is kind and v is not None] for kind in (True, False)
    )
    if own and other:
        told = (
            f"{number(sum(own) / len(own), 'reward_accuracy', digits)} on the language trained on"
        )
        value = number(sum(other) / len(other), "reward_accuracy", digits)
        tiles.append(
            {
                "name": "On the other languages",
                "by": "mean of all pairs",
                "of": "",
                "value": value,
                "interval": "",
                "worst": told,
            }
        )
    return tiles


def _tile(content: Mapping, key: tuple[str, str], table: Table, digits: int) -> dict[str, Any]:
    before, after = before_and_after(content, table)
    metric, rows = key[0], table[after]
    average, worst = rows[AVERAGE], rows.get(WORST)
    old = table[before].get(AVERAGE) if before else None
    tile = {
        "name": metric_name(metric), "by": key[1], "of": f"of {label_of(content, after)}",
        "value": number(average["value"], metric, digits), "interval": interval(average, digits),
    }  # fmt: skip
    if old and None not in (old["value"], average["value"]):
        paired = tables(content).get(gain_of(key), {}).get(after, {}).get(AVERAGE)
        gain = difference(old, average, paired)
        certain = f" ({interval(paired, digits)})" if paired and interval(paired, digits) else ""
        tile["change"] = arrow(gain) + change(gain, metric, digits) + certain
        tile["before"] = (
            f"from {number(old['value'], metric, digits)} ({label_of(content, before or '')})"
        )
    if worst:
        tile["worst"] = (
            f"lowest: {language(worst['which'])} {number(worst['value'], metric, digits)}"
        )
    return tile


def confidence(content: Mapping) -> str:
    """`95%`, as the evaluations were configured."""
    found = {s["config"].get("confidence") for s in content["settings"]} - {None}
    return " or ".join(f"{100 * c:g}%" for c in sorted(found)) or "95%"


def asked(content: Mapping) -> str:
    """What went in: models from outside, data and the number of languages."""
    models = dict.fromkeys(
        str(e["path"]) for e in content["external"] if e["slot"] == "model" and e.get("path")
    )
    data = dict.fromkeys(str(s["source"]) for s in content["sources"] if s.get("source"))
    codes = {r["language"] for r in content["metrics"] if is_language(r["language"])}
    parts = {
        "model": ", ".join(models),
        "data": ", ".join(data),
        "languages": str(len(codes) or ""),
    }
    return " · ".join(f"{name}: {value}" for name, value in parts.items() if value)


def difference(old: Mapping, new: Mapping, paired: Mapping | None) -> float:
    """The paired difference where there is one: it is over the items in which both have a value, so
    it need not be that of the averages.
    """
    return (
        paired["value"] if paired and paired["value"] is not None else new["value"] - old["value"]
    )


def gain_of(key: tuple[str, str]) -> tuple[str, str]:
    """The paired difference to the baseline that belongs to a metric."""
    return f"{key[0]}_over_baseline", key[1]


def arrow(gain: float) -> str:
    return "▲ " if gain > 0 else "▼ " if gain < 0 else ""


def interval(row: Mapping, digits: int) -> str:
    """`95% interval`: the bounds of a row as text, empty without bounds."""
    if row["low"] is None or row["high"] is None:
        return ""
    return " to ".join(
        number(row[bound], row["metric"], digits).removesuffix(" pp") for bound in ("low", "high")
    )


def verdict(content: Mapping) -> str:
    """A sentence on how many languages the leading metric speaks for, and one on what a guard
    selected.
    """
    told = [_transferred(ranked)] if (ranked := sources(content)) else [_by_languages(content)]
    if content["decisions"]:
        last = content["decisions"][-1]
        told.append(f"Selected in the end: “{last['selected']}”.")
    return " ".join(filter(None, told))


def _transferred(ranked: Sequence[tuple[str, Mapping]]) -> str:
    above = sum(r["low"] is not None and r["low"] > 0.5 for _, r in ranked)
    return (
        f"{above} of {len(ranked)} reward models are above chance on average: the whole interval"
        " lies above 50%."
    )


def _by_languages(content: Mapping) -> str:
    found = tables(content)
    for key in leading(content)[:1]:
        table = found[key]
        before, after = before_and_after(content, table)
        if (line := reference(key[0])) is not None:
            return _against(
                table[after],
                line,
                label_of(content, after),
                "wins" if key[0] == "win_rate" else "is above chance",
            )
        if before:
            return _moved(table[before], table[after], key[0])
    return ""


def _against(rows: Mapping[str, Mapping], line: float, model: str, wins: str) -> str:
    each = [r for lang, r in rows.items() if is_language(lang) and r["low"] is not None]
    above, below = sum(r["low"] > line for r in each), sum(r["high"] < line for r in each)
    told = (
        f"“{model}” {wins} in {above} of {len(each)} languages: the whole interval lies above"
        f" {line:.0%}."
    )
    told += f" It lies below in {below}." if below else ""
    return (
        told + (f" {len(each) - above - below} are undecided." if len(each) > above + below else "")
        if each
        else ""
    )


def _moved(before: Mapping[str, Mapping], after: Mapping[str, Mapping], metric: str) -> str:
    shared = [
        x
        for x in after
        if x in before and is_language(x) and None not in (after[x]["value"], before[x]["value"])
    ]
    up = sum(after[x]["value"] > before[x]["value"] for x in shared)
    down = [language(x) for x in shared if after[x]["value"] < before[x]["value"]]
    named = f": {', '.join(down)}" if 0 < len(down) <= 5 else ""
    return (
        f"{metric_name(metric)}: higher than before in {up} of {len(shared)} languages, lower in"
        f" {len(down)}{named}."
    )


def picture(content: Mapping, digits: int) -> dict[str, Any] | None:
    """By language: the first leading metric that has a before and an after, else the first; sorted
    by the value after.
    """
    found = tables(content)
    keys = leading(content)
    if not keys:
        return None
    if ranked := sources(content):
        rows = [{"label": language(s), "before": None, "after": bounds(r)} for s, r in ranked]
        return _drawn(
            rows[::-1] if len(rows) > MANY else rows,
            "reward_accuracy",
            digits,
            None,
            "reward models",
            "Average of each reward model",
        )
    key = next((k for k in keys if before_and_after(content, found[k])[0]), keys[0])
    before, after = before_and_after(content, found[key])
    rows = plot_rows(found[key].get(before or "", {}), found[key][after])
    if not rows:
        return None
    rows = rows if len(rows) > MANY else rows[::-1]
    old = label_of(content, before) if before else None
    return _drawn(
        rows, key[0], digits, old, label_of(content, after), f"{metric_name(key[0])} by language"
    )


def _drawn(
    rows: Sequence[Mapping], metric: str, digits: int, before: str | None, after: str, name: str
) -> dict[str, Any]:
    draw = figures.ranks_plot if len(rows) > MANY else figures.languages_plot
    low, high = min(rows, key=lambda r: r["after"][0]), max(rows, key=lambda r: r["after"][0])
    ends = (
        f"from {low['label']} {number(low['after'][0], metric, digits)} to {high['label']}"
        f" {number(high['after'][0], metric, digits)}"
    )
    at = reference(metric)
    drawn = draw(rows, f"{name}, {ends}", axis(metric, digits), at)
    line = "" if at is None else f"dashed line: {number(at, metric, 2)}"
    return {
        "name": name,
        "svg": drawn,
        "ends": ends,
        "many": len(rows) > MANY,
        "line": line,
        "before": before,
        "after": after,
    }


def axis(metric: str, digits: int) -> Callable[[float], str]:
    """How the marks of an axis are written: whole percents for shares."""
    return lambda v: number(v, metric, 2 if is_share(metric) else digits)


def plot_rows(before: Mapping[str, Mapping], after: Mapping[str, Mapping]) -> list[dict[str, Any]]:
    """Languages as figures take them, lowest first."""
    codes = [c for c, r in after.items() if is_language(c) and r["value"] is not None]
    codes.sort(key=lambda c: (after[c]["value"], c))
    return [
        {"label": language(c), "before": bounds(before.get(c)), "after": bounds(after[c])}
        for c in codes
    ]


def bounds(row: Mapping | None) -> figures.Interval | None:
    return None if row is None or row["value"] is None else (row["value"], row["low"], row["high"])


def averages(
    content: Mapping, keys: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], dict[str, Mapping]]:
    """(metric, by) -> step -> the row of the average."""
    found = tables(content)
    return {
        key: {step: rows[AVERAGE] for step, rows in found[key].items() if AVERAGE in rows}
        for key in keys
        if key in found
    }
