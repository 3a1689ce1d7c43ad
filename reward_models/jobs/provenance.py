"""What `OUTPUT.json` says of a scored file: what its numbers are, and how to make them again."""

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


def of_scorer(settings: Mapping) -> dict[str, Any]:
    """Family, settings with their defaults, card and template; no secrets."""
    module = reward_models.family(settings["family"])
    own = {key: value for key, value in settings.items() if key not in ("family", "name")}
    path = settings.get("path")
    statistics = score_statistics(settings)
    card = cards.read(path, settings.get("revision")) if path else None
    return {
        "family": settings["family"],
        "settings": public(dataclasses.asdict(module.Settings(**own))),
        "dtype": own.get("dtype", getattr(module.Settings, "dtype", None)),
        "direction": DIRECTION,
        "scale": card.scale if card else None,
        **_template(path, settings, card),
        "card": dataclasses.asdict(card) if card else None,
        **({"score_statistics": statistics} if statistics else {}),
    }


def score_statistics(settings: Mapping) -> dict[str, Any] | None:
    """The mean and std of scores in a classifier's config.json, and whether they are applied.

    None if it says nothing.
    """
    path = settings.get("path")
    if not path or settings.get("family") != "classifier":
        return None
    folder = folder_of(str(path), settings.get("revision"))
    if not folder or not (folder / "config.json").is_file():
        return None
    statistics = opening.statistics(weight_files.read_object(folder / "config.json"))
    if statistics is None:
        return None
    mean, std = (number if math.isfinite(number) else None for number in statistics)
    return {"mean": mean, "std": std, "applied": bool(settings.get("normalise"))}


def _template(path: str | None, settings: Mapping, card: cards.Card | None) -> dict[str, Any]:
    """The hash of a model's chat template, as cards have it, and the date that the template writes.

    None: not known, or it writes none.
    """
    folder = folder_of(path, settings.get("revision")) if path else None
    text = _template_text(folder, settings) if path else None
    if text is None:
        return {"template_hash": None, "date": None}
    date = None
    if templates.CLOCK.search(text):
        date = settings.get("date") or (card and card.date) or templates.DATE
    return {"template_hash": cards.template_hash(text), "date": date}


def _template_text(folder: Path | None, settings: Mapping) -> str | None:
    wanted = read_template(settings.get("chat_template"))
    if wanted is not None and not templates.is_name(wanted):
        return wanted
    if folder is None:
        return None
    name = wanted or "default"
    named = folder / "additional_chat_templates" / f"{name}.jinja"
    for file in (named, folder / "chat_template.jinja"):
        if file.is_file():
            return file.read_text(encoding="utf-8")

    config = folder / "tokenizer_config.json"
    if not config.is_file():
        return None
    template = weight_files.read_object(config).get("chat_template")
    if isinstance(template, list):
        template = {entry["name"]: entry["template"] for entry in template}.get(name)
    return template if isinstance(template, str) else None


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
