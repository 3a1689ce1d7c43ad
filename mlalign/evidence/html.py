"""The page: Jinja2 templates with every value escaped, one style sheet and one script inline,
nothing from a network.

Model text is untrusted. Values are escaped (and invisible characters shown) wherever a template
writes them; data for the script stands in JSON that cannot end its element, and the script writes
it as text only. The Content-Security-Policy allows the style sheet and the script of this file by
their hashes and nothing else: no other script, no request, no form.
"""

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from mlalign.core.visible import visible
from mlalign.evidence import headline, matrices, results, sections, text

TEMPLATES = Path(__file__).parent / "templates"
STATIC_SAMPLES = 6  # shown without the script, and before it has read the data
# id -> (title, its name in the navigation, the function); the order of the page
SECTIONS = {
    "evaluations": ("Evaluations", "Evaluations", results.evaluations),
    "recipe": ("Recipe and times", "Recipe", sections.recipe),
    "results": ("Results by language", "Results", results.results),
    "transfer": ("Reward transfer", "Transfer", matrices.transfer),
    "rounds": ("Round by round", "Rounds", results.rounds),
    "breakdown": ("Breakdown", "Breakdown", results.breakdown),
    "consistency": ("Consistency across languages", "Consistency", matrices.consistency),
    "confusion": ("Language confusion", "Confusion", matrices.confusion),
    "samples": ("Samples side by side", "Samples", lambda content, digits: samples(content)),
    "distributions": ("Scores, lengths and margins", "Distributions", sections.distributions),
    "training": ("Training curves", "Training", sections.training),
    "dropped": ("Rows kept and dropped", "Rows", sections.dropped),
    "provenance": ("Provenance", "Provenance", sections.provenance),
}


def page(content: Mapping[str, Any], title: str, digits: int) -> str:
    """The report as one HTML file."""
    made = [
        {"id": name, "title": told, "nav": nav, **found}
        for name, (told, nav, make) in SECTIONS.items()
        if (found := make(content, digits))
    ]
    data = {
        m["id"]: m["data"] for section in made for m in section.get("matrices", []) if "data" in m
    }
    top = {
        "asked": headline.asked(content),
        "confidence": headline.confidence(content),
        "numbers": headline.numbers(content, digits),
        "verdict": headline.verdict(content),
        "picture": headline.picture(content, digits),
    }
    return render("report.html", title=title, content=content, top=top, sections=made, data=data)


def render(template: str, **values: Any) -> str:
    style, script = (
        (TEMPLATES / name).read_text(encoding="utf-8") for name in ("style.css", "script.js")
    )
    values |= {
        "style": Markup(style),
        "script": Markup(script),
        "style_hash": _hash(style),
        "script_hash": _hash(script),
    }
    return environment().get_template(template).render(**values)


@cache
def environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda v: visible(v) if isinstance(v, str) and not isinstance(v, Markup) else v,
    )
    made.filters |= {
        "language": text.language,
        "tag": text.lang_tag,
        "json": to_json,
        "count": text.count,
    }
    return made


def _hash(value: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(value.encode()).digest()).decode()


def to_json(value: Any) -> Markup:
    """JSON for a data block: no character in it can end the element or start markup."""
    told = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return Markup(told.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def samples(content: Mapping) -> dict[str, Any] | None:
    """What the samples' section shows first, and all of them as compact data for the script."""
    told = content.get("samples")
    if not told or not told["rows"]:
        return None
    used = {
        c
        for r in told["rows"]
        for c in (r["lang"], r["asked"], *(a["lang"] for a in r["answers"] if a))
        if c
    }
    names = {c: [text.language(c), text.lang_tag(c)] for c in sorted(used)}
    rows = [
        [
            r["lang"],
            r["asked"],
            r["source"],
            int(r["sensitive"]),
            r["prompt"],
            r["reference"],
            [_compact(a) for a in r["answers"]],
        ]
        for r in told["rows"]
    ]
    binary = [
        _binary(a["scores"][i] for r in told["rows"] for a in r["answers"] if a)
        for i in range(len(told["scores"]))
    ]
    return {
        "models": told["models"],
        "n": len(rows),
        "first": told["rows"][:STATIC_SAMPLES],
        "score_names": told["scores"],
        "languages": {
            c: n[0] for c, n in names.items() if any(r["lang"] == c for r in told["rows"])
        },
        "data": {
            "models": told["models"],
            "scores": told["scores"],
            "languages": names,
            "binary": binary,
            "rows": rows,
        },
        "binary": binary,
        "sensitive": sum(r["sensitive"] for r in told["rows"]),
    }


def _binary(values: Iterable[float | None]) -> bool:
    """Whether a score is a mark (right or wrong) rather than a number."""
    return {v for v in values if v is not None} <= {0, 1}


def _compact(answer: Mapping | None) -> list | None:
    return None if answer is None else [answer["text"], answer["lang"], answer["scores"]]
