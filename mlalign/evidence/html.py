"""The page: Jinja2 templates with every value escaped, one style sheet and one script inline.

Nothing comes from a network. Model text is untrusted: values are escaped (and invisible characters
shown) wherever a template writes them; data for the script is JSON that cannot end its element, and
the script writes it as text only. The Content-Security-Policy allows the style sheet and the script
of this file by their hashes and nothing else: no other script, no request, no form.
"""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from mlalign.core.visible import visible
from mlalign.evidence import first_screen, headline, matrices, results, sections, text

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
    shown = []
    data = {}
    for name, (heading, nav, make) in SECTIONS.items():
        section = make(content, digits)
        if not section:
            continue
        shown.append({"id": name, "title": heading, "nav": nav, **section})
        for matrix in section.get("matrices", []):
            if "data" in matrix:
                data[matrix["id"]] = matrix["data"]
    top = {
        "asked": headline.asked(content),
        "confidence": headline.confidence(content),
        "numbers": first_screen.numbers(content, digits),
        "verdict": first_screen.verdict(content),
        "picture": first_screen.picture(content, digits),
    }
    return render("report.html", title=title, content=content, top=top, sections=shown, data=data)


def render(template: str, **values: Any) -> str:
    style = (TEMPLATES / "style.css").read_text(encoding="utf-8")
    script = (TEMPLATES / "script.js").read_text(encoding="utf-8")
    values |= {
        "style": Markup(style),
        "script": Markup(script),
        "style_hash": _hash(style),
        "script_hash": _hash(script),
    }
    return environment().get_template(template).render(**values)


@cache
def environment() -> Environment:
    jinja = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    jinja.filters |= {
        "language": text.language,
        "tag": text.lang_tag,
        "json": to_json,
        "count": text.count,
    }
    return jinja


def _shown(value: Any) -> Any:
    """A value as a template writes it: text with its invisible characters shown."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return visible(value)
    return value


def _hash(value: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(value.encode()).digest()).decode()


def to_json(value: Any) -> Markup:
    """JSON for a data block: no character in it can end the element or start markup."""
    json_text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for character in "&<>":
        json_text = json_text.replace(character, f"\\u{ord(character):04x}")
    return Markup(json_text)


def samples(content: Mapping) -> dict[str, Any] | None:
    """What the samples' section shows first, and all of them as compact data for the script."""
    collected = content.get("samples")
    if not collected or not collected["rows"]:
        return None
    rows, models, scores = collected["rows"], collected["models"], collected["scores"]
    names = _languages(rows)
    prompt_languages = {row["lang"] for row in rows}
    binary = [_is_binary(rows, index) for index in range(len(scores))]
    return {
        "models": models,
        "n": len(rows),
        "first": rows[:STATIC_SAMPLES],
        "score_names": scores,
        "languages": {c: name for c, (name, _) in names.items() if c in prompt_languages},
        "data": {
            "models": models,
            "scores": scores,
            "languages": names,
            "binary": binary,
            "rows": [_compact_row(row) for row in rows],
        },
        "binary": binary,
        "sensitive": sum(row["sensitive"] for row in rows),
    }


def _languages(rows: Sequence[Mapping]) -> dict[str, list[str]]:
    """code -> its name and HTML tag, of all languages in the samples."""
    codes: set[str | None] = set()
    for row in rows:
        codes |= {row["lang"], row["asked"]}
        codes |= {answer["lang"] for answer in row["answers"] if answer}
    names = {}
    for code in sorted(filter(None, codes)):
        names[code] = [text.language(code), text.lang_tag(code)]
    return names


def _is_binary(rows: Sequence[Mapping], index: int) -> bool:
    """Whether a score is a mark (right or wrong) rather than a number."""
    values = set()
    for row in rows:
        values |= {answer["scores"][index] for answer in row["answers"] if answer}
    return values <= {0, 1, None}


def _compact_row(row: Mapping) -> list:
    return [
        row["lang"],
        row["asked"],
        row["source"],
        int(row["sensitive"]),
        row["prompt"],
        row["reference"],
        [_compact(answer) for answer in row["answers"]],
    ]


def _compact(answer: Mapping | None) -> list | None:
    if answer is None:
        return None
    return [answer["text"], answer["lang"], answer["scores"]]
