"""Sections of what a run did: distributions, training curves, steps, rows and provenance; pure functions of the content."""

from collections.abc import Mapping
from typing import Any

import yaml

from mlalign.evidence import figures, graph
from mlalign.evidence.cells import cell, lang_cell, tabled
from mlalign.evidence.text import count, language, seconds

Section = dict[str, Any]
FIRST_CURVES = ("loss", "eval_loss", "rewards/accuracies", "rewards/margins")


def distributions(content: Mapping, digits: int) -> Section | None:
    """A histogram for each quantity, a ridge per step; quantiles by language of the last step."""
    plots: list[Section] = []
    further: list[Section] = []
    for told in content["distributions"]:
        lines = [{**s, "label": f"{s['step']} · {count(s['n'])} values · median {s['quantiles'][2]:.3g}"} for s in told["steps"]]
        drawn = figures.ridges(told["edges"], lines, f"Distribution of {told['what']}", figures.brief)
        into = further if "." in told["what"] else plots  # NAME.COLUMN: what else a scorer tells
        into.append({"name": told["what"], "svg": drawn, "table": _quantiles(told), "step": told["steps"][-1]["step"]})
    return {"plots": plots, "further": further} if plots or further else None


def _quantiles(told: Mapping) -> dict[str, Any] | None:
    of = (told["edges"][0], told["edges"][-1])
    by = told["steps"][-1]["by_language"]
    rows = [[lang_cell(c), *(cell(figures.brief(v), v) for v in q), cell("", picture=figures.box(q, of))] for c, q in by.items()]
    return tabled(["language", "5%", "25%", "median", "75%", "95%", ""], rows)


def training(content: Mapping, digits: int) -> Section | None:
    """The curves of every training step: the losses and rewards first, all others folded."""
    first, rest = [], []
    for curves in content["curves"]:
        drawn = {name: figures.curve(points, f"{name} of {curves['step']}") for name, points in curves["series"].items()}
        first += [(curves["step"], name, drawn.pop(name)) for name in FIRST_CURVES if name in drawn]
        rest.append((curves["step"], drawn))
    return {"first": first, "rest": [(step, drawn) for step, drawn in rest if drawn]} if content["curves"] else None


def recipe(content: Mapping, digits: int) -> Section | None:
    """The graph of the steps, and their times."""
    found = graph.nodes(content["steps"], content["times"])
    total = sum(t["seconds"] for t in content["times"])
    rows = [[name, n["stage"], cell("skipped" if n["skipped"] else seconds(n["seconds"]), n["seconds"]), sum(by.values())]
            for name, n in found.items() for by in [_rows_of(content, name)]]  # fmt: skip
    head = ["step", "stage", "time", "rows"]
    return {"svg": graph.draw(found), "table": tabled(head, rows), "total": seconds(total), "n": len(content["steps"])} if found else None


def _rows_of(content: Mapping, name: str) -> dict[str, int]:
    return next((s.get("rows_by_language", {}) for s in content["steps"] if s["step"] == name), {})


def dropped(content: Mapping, digits: int) -> Section | None:
    """Rows that were dropped, by reason and language, against those that were kept; other counts and rows by language folded."""
    lines, languages_, kept = [], [], [s for s in content["steps"] if s.get("rows_by_language")]
    for step in content["steps"]:
        for reason, by in step.get("dropped", {}).items():
            n, rest = sum(by.values()), sum(step.get("rows_by_language", {}).values())
            share = n / max(n + rest, 1)
            lines.append([step["step"], reason, n, cell(f"{share:.1%}", share, picture=figures.meter(share)), cell(_most(by))])
            languages_ += [[step["step"], reason, lang_cell(code), n_] for code, n_ in by.items()]
    sums = [[s["step"], what, sum(by.values()), cell(_most(by))] for s in content["steps"] for what, by in s.get("sums", {}).items()]
    codes = sorted({c for s in kept for c in s["rows_by_language"]}, key=language)
    by_step = [[lang_cell(c), *(s["rows_by_language"].get(c, 0) for s in kept)] for c in codes]
    out = {
        "table": tabled(["step", "reason", "rows", "share of the step's rows", "most in"], lines),
        "by_language": tabled(["step", "reason", "language", "rows"], languages_),
        "sums": tabled(["step", "what", "number", "most in"], sums),
        "kept": tabled(["language", *(s["step"] for s in kept)], by_step),
    }
    return out if any(out.values()) else None


def _most(by: Mapping[str, float]) -> str:
    first = sorted(((n, c) for c, n in by.items() if n), key=lambda p: (-p[0], p[1]))
    return ", ".join(f"{language(c)} {count(n)}" for n, c in first[:3]) + (f" and {len(first) - 3} more" if len(first) > 3 else "")


def provenance(content: Mapping, digits: int) -> Section:
    """Where everything came from: data with licences, models, versions, seeds, fingerprints and the configuration of each step."""
    keys = list(dict.fromkeys(k for s in content["sources"] for k, v in s.items() if v is not None))
    outside: dict[tuple, list[str]] = {}
    for e in content["external"]:
        outside.setdefault((e.get("path") or e.get("family"), e["slot"], e.get("revision"), e.get("identity")), []).append(e["step"])
    steps = [
        [s["step"], f"{s['stage']} v{s['stage_version']}", s.get("skipped_because") or s["status"], cell(s.get("seed"), s.get("seed")),
         cell(s["fingerprint"][:16], code=""), s.get("content_digest", "")[:16]] for s in content["steps"]
    ]  # fmt: skip
    return {
        "sources": tabled(keys, [[cell(_yes(s.get(k))) for k in keys] for s in content["sources"]]),
        "unlicensed": sorted({str(s.get("source")) for s in content["sources"] if not s.get("licence")}),
        "external": tabled(
            ["what", "input", "revision", "identity", "steps"], [[*told, ", ".join(names)] for told, names in outside.items()]
        ),
        "steps": tabled(["step", "stage", "status", "seed", "fingerprint", "content"], steps),
        "packages": tabled(["package", "version"], list(content["packages"].items())),
        "commits": sorted({s["git_commit"] for s in content["steps"] if s.get("git_commit")}),
        "not_computed": content["not_computed"],
        "settings": [{"step": s["step"], "yaml": _yaml(s["config"])} for s in content["settings"]],
    }


def _yes(value: Any) -> Any:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else value


def _yaml(config: Mapping) -> str:
    return yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
