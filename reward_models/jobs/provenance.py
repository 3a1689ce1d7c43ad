"""What stands in `OUTPUT.json` beside every scored file: enough to say what its numbers are, and to
make them again.
"""

import dataclasses
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import reward_models
from mlalign.core import weight_files
from mlalign.models import opening, templates
from mlalign.models.engine.chat import read_template
from reward_models import card as cards
from reward_models.jobs.identity import folder_of, public

DIRECTION = "higher is better"  # of every score, whatever the model's own output is


def of_scorer(told: Mapping) -> dict[str, Any]:
    """Family, settings with their defaults, card and template; no secrets."""
    module = reward_models.family(told["family"])
    own = {k: v for k, v in told.items() if k not in ("family", "name")}
    path = told.get("path")
    statistics = score_statistics(told)
    card = cards.read(path, told.get("revision")) if path else None
    return {
        "family": told["family"],
        "settings": public(dataclasses.asdict(module.Settings(**own))),
        "dtype": own.get("dtype", getattr(module.Settings, "dtype", None)),
        "direction": DIRECTION,
        "scale": card.scale if card else None,
        **_template(path, told, card),
        "card": dataclasses.asdict(card) if card else None,
        **({"score_statistics": statistics} if statistics else {}),
    }


def score_statistics(told: Mapping) -> dict[str, Any] | None:
    """What a classifier's config.json says of its scores (mean, std), and whether that is applied;
    None if it says nothing.
    """
    path = told.get("path")
    folder = (
        folder_of(str(path), told.get("revision"))
        if path and told.get("family") == "classifier"
        else None
    )
    file = folder / "config.json" if folder else None
    found = opening.statistics(weight_files.read_object(file)) if file and file.is_file() else None
    if found is None:
        return None
    mean, std = (n if math.isfinite(n) else None for n in found)
    return {"mean": mean, "std": std, "applied": bool(told.get("normalise"))}


def _template(path: str | None, told: Mapping, card: cards.Card | None) -> dict[str, Any]:
    """The hash of the chat template in a model directory, as cards have it, and the date that it
    writes; None: not known, or none.
    """
    text = _template_text(folder_of(path, told.get("revision")), told) if path else None
    if text is None:
        return {"template_hash": None, "date": None}
    date = told.get("date") or (card and card.date) or templates.DATE
    return {
        "template_hash": cards.template_hash(text),
        "date": date if templates.CLOCK.search(text) else None,
    }


def _template_text(folder: Path | None, told: Mapping) -> str | None:
    wanted = read_template(told.get("chat_template"))
    if wanted is not None and not templates.is_name(wanted):
        return wanted
    name = wanted or "default"
    if folder is None:
        return None
    file, config = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    named = folder / "additional_chat_templates" / f"{name}.jinja"
    for there in (named, file):
        if there.is_file():
            return there.read_text(encoding="utf-8")
    found = weight_files.read_object(config).get("chat_template") if config.is_file() else None
    if isinstance(found, list):
        found = {entry["name"]: entry["template"] for entry in found}.get(name)
    return found if isinstance(found, str) else None


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
