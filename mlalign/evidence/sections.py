"""What a run did: distributions, training curves, steps, rows and provenance.

Each function turns the collected content into what its template shows, or None if there is nothing.
"""

import re
from collections.abc import Mapping
from typing import Any

import yaml

from mlalign.evidence import curves, figures
from mlalign.evidence.cells import cell, lang_cell, tabled
from mlalign.evidence.text import count, language, seconds

Section = dict[str, Any]
FIRST_CURVES = ("loss", "eval_loss", "rewards/accuracies", "rewards/margins")


def distributions(content: Mapping, digits: int) -> Section | None:
    """A histogram per quantity, one ridge per step; quantiles by language of the last step."""
    plots: list[Section] = []
    further: list[Section] = []
    for quantity in content["distributions"]:
        name = quantity["what"]
        ridges = [{**step, "label": _ridge_label(step)} for step in quantity["steps"]]
        title = f"Distribution of {name}"
        plot = {
            "name": name,
            "svg": figures.ridges(quantity["edges"], ridges, title, figures.brief),
            "table": _quantiles(quantity),
            "step": quantity["steps"][-1]["step"],
        }
        is_detail = "." in name  # SCORER.COLUMN: a detail beside the scorer's score
        (further if is_detail else plots).append(plot)

    if not plots and not further:
        return None
    return {"plots": plots, "further": further}


def _ridge_label(step: Mapping) -> str:
    median = step["quantiles"][2]
    return f"{step['step']} · {count(step['n'])} values · median {median:.3g}"


def _quantiles(quantity: Mapping) -> dict[str, Any] | None:
    edges = quantity["edges"]
    bounds = (edges[0], edges[-1])
    rows = []
    for code, quantiles in quantity["steps"][-1]["by_language"].items():
        numbers = [cell(figures.brief(q), q) for q in quantiles]
        picture = cell("", picture=figures.box(quantiles, bounds))
        rows.append([lang_cell(code), *numbers, picture])
    return tabled(["language", "5%", "25%", "median", "75%", "95%", ""], rows)


def training(content: Mapping, digits: int) -> Section | None:
    """The curves of every training step: losses and rewards first, all others folded."""
    if not content["curves"]:
        return None

    first, rest = [], []
    for logged in content["curves"]:
        step = logged["step"]
        others = {}
        for name, points in logged["series"].items():
            others[name] = curves.curve(points, f"{name} of {step}")
        first += [(step, name, others.pop(name)) for name in FIRST_CURVES if name in others]
        if others:
            rest.append((step, others))
    return {"first": first, "rest": rest}


def recipe(content: Mapping, digits: int) -> Section | None:
    """The steps in order: what each used, its time and its rows."""
    nodes = folded_steps(content)
    if not nodes:
        return None

    longest = max(node["seconds"] for node in nodes.values()) or 1
    rows = []
    for name, node in nodes.items():
        label = f"{name} ×{node['n']}" if node["n"] > 1 else name
        duration = "skipped" if node["skipped"] else seconds(node["seconds"])
        picture = figures.meter(node["seconds"] / longest)
        time = cell(duration, node["seconds"], picture=picture)
        inputs = ", ".join(node["inputs"])
        rows.append([label, node["stage"], inputs, time, node["rows"]])

    total = sum(time["seconds"] for time in content["times"])
    table = tabled(["step", "stage", "uses", "time", "rows"], rows)
    return {"table": table, "total": seconds(total), "n": len(content["steps"])}


def folded_steps(content: Mapping) -> dict[str, dict[str, Any]]:
    """name -> `{stage, n, seconds, skipped, inputs, rows}`; `X[a]`, `X[b]` … are one `X[…]`."""
    durations = {time["step"]: time["seconds"] for time in content["times"]}
    nodes: dict[str, dict[str, Any]] = {}
    for step in content["steps"]:
        name = _folded(step["step"])
        new = {
            "stage": step["stage"],
            "n": 0,
            "seconds": 0.0,
            "skipped": True,
            "inputs": [],
            "rows": 0,
        }
        node = nodes.setdefault(name, new)
        node["n"] += 1
        node["seconds"] += durations.get(step["step"], 0.0)
        node["skipped"] &= step["status"] == "skipped"
        node["rows"] += _n_rows(step)
        inputs = [_folded(source) for source in step["inputs"]]
        node["inputs"] = list(dict.fromkeys(node["inputs"] + inputs))
    return nodes


def _folded(name: str) -> str:
    return re.sub(r"\[.*\]$", "[…]", name)


def _n_rows(step: Mapping) -> int:
    return sum(step.get("rows_by_language", {}).values())


def dropped(content: Mapping, digits: int) -> Section | None:
    """Dropped rows by reason and language; other counts and the rows kept by language, folded."""
    by_reason, by_language, sums = [], [], []
    for step in content["steps"]:
        name = step["step"]
        for reason, counts in step.get("dropped", {}).items():
            n = sum(counts.values())
            share = n / max(n + _n_rows(step), 1)
            share_cell = cell(f"{share:.1%}", share, picture=figures.meter(share))
            by_reason.append([name, reason, n, share_cell, cell(_most(counts))])
            for code, n_rows in counts.items():
                by_language.append([name, reason, lang_cell(code), n_rows])
        for counted, counts in step.get("sums", {}).items():
            n = sum(counts.values())
            sums.append([name, counted, n, cell(_most(counts))])

    head = ["step", "reason", "rows", "share of the step's rows", "most in"]
    section = {
        "table": tabled(head, by_reason),
        "by_language": tabled(["step", "reason", "language", "rows"], by_language),
        "sums": tabled(["step", "what", "number", "most in"], sums),
        "kept": _kept(content),
    }
    return section if any(section.values()) else None


def _kept(content: Mapping) -> dict[str, Any] | None:
    """Rows by language and step."""
    steps = [step for step in content["steps"] if step.get("rows_by_language")]
    codes = {code for step in steps for code in step["rows_by_language"]}
    rows = []
    for code in sorted(codes, key=language):
        counts = [step["rows_by_language"].get(code, 0) for step in steps]
        rows.append([lang_cell(code), *counts])
    return tabled(["language", *(step["step"] for step in steps)], rows)


def _most(counts: Mapping[str, float]) -> str:
    """`Swahili 12, Hindi 3, Thai 1 and 4 more`: the languages with the largest counts."""
    nonzero = [(code, n) for code, n in counts.items() if n]
    ranked = sorted(nonzero, key=lambda pair: (-pair[1], pair[0]))
    text = ", ".join(f"{language(code)} {count(n)}" for code, n in ranked[:3])
    return text + (f" and {len(ranked) - 3} more" if len(ranked) > 3 else "")


def provenance(content: Mapping, digits: int) -> Section:
    """Data with licences, models, versions, seeds, fingerprints, and each step's configuration."""
    sources = content["sources"]
    unlicensed = [source for source in sources if not source.get("licence")]
    commits = {step.get("git_commit") for step in content["steps"]}
    configs = []
    for settings in content["settings"]:
        configs.append({"step": settings["step"], "yaml": _yaml(settings["config"])})
    return {
        "sources": _sources(content),
        "unlicensed": sorted({str(source.get("source")) for source in unlicensed}),
        "external": _external(content),
        "steps": _steps(content),
        "packages": tabled(["package", "version"], list(content["packages"].items())),
        "commits": sorted(filter(None, commits)),
        "not_computed": content["not_computed"],
        "settings": configs,
    }


def _sources(content: Mapping) -> dict[str, Any] | None:
    keys: dict[str, None] = {}
    for source in content["sources"]:
        keys |= {key: None for key, value in source.items() if value is not None}
    rows = []
    for source in content["sources"]:
        values = [_yes_or_no(source.get(key)) for key in keys]
        rows.append(list(map(cell, values)))
    return tabled(list(keys), rows)


def _external(content: Mapping) -> dict[str, Any] | None:
    """Models and data from outside the run, with the steps that read them."""
    steps: dict[tuple, list[str]] = {}
    for source in content["external"]:
        place = source.get("path") or source.get("family")
        key = (place, source["slot"], source.get("revision"), source.get("identity"))
        steps.setdefault(key, []).append(source["step"])
    rows = []
    for key, names in steps.items():
        rows.append([*key, ", ".join(names)])
    return tabled(["what", "input", "revision", "identity", "steps"], rows)


def _steps(content: Mapping) -> dict[str, Any] | None:
    rows = []
    for step in content["steps"]:
        stage = f"{step['stage']} v{step['stage_version']}"
        status = step.get("skipped_because") or step["status"]
        seed = cell(step.get("seed"), step.get("seed"))
        fingerprint = cell(step["fingerprint"][:16], code="")
        digest = step.get("content_digest", "")[:16]
        rows.append([step["step"], stage, status, seed, fingerprint, digest])
    return tabled(["step", "stage", "status", "seed", "fingerprint", "content"], rows)


def _yes_or_no(value: Any) -> Any:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value


def _yaml(config: Mapping) -> str:
    return yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
