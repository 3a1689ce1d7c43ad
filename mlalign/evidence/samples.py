"""The same prompts answered by several models, side by side.

Reads candidates and their scores. Prompts are taken by a hash of their `group_id`, never by their scores, so that translations of one
item stand side by side in all languages; each model shows the first of its answers. What comes from a source marked `sensitive` keeps its
numbers and loses its text.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from mlalign.core import rows
from mlalign.core.visible import visible
from mlalign.evidence.collect import Steps

MODELS = 3
COLUMNS = ["id", "group_id", "prompt_lang", "source", "prompt", "response_lang_requested", "reference", "responses"]


def samples(steps: Steps, evaluations: Sequence[Mapping], per_language: int, characters: int, *, hide: bool = False) -> dict[str, Any]:
    """`models`, `scores` (names) and `rows`; a row: `lang, source, sensitive, prompt, reference, answers` (one per model or None).

    A text is `[what is shown, how many characters are left out]`; an answer adds the detected language and the scores. Where
    `hide`, texts of sensitive sources are there for the page to hide; else they are None.
    """
    shown = _shown(evaluations)
    sensitive = {s["source"] for step in steps.values() for s in step.manifest.get("sources") or [] if s.get("sensitive")}
    answers = [_answers(steps, e, per_language) for e in shown]
    names = sorted({name for by_id in answers for row in by_id.values() for name in row["scores"] if "." not in name})
    found = []
    for identifier, row in _mixed(answers[0]) if answers else ():
        secret = row["source"] in sensitive
        told = {"lang": row["prompt_lang"], "source": visible(row["source"] or ""), "sensitive": secret}
        texts = {k: None if secret and not hide else _clipped(row[k], characters) for k in ("prompt", "reference")}
        each = [_answer(by_id.get(identifier), names, characters, without_text=secret and not hide) for by_id in answers]
        found.append({**told, **texts, "asked": row["asked"], "answers": each})
    return {"models": [e["model"] for e in shown], "scores": names, "rows": found}


def _shown(evaluations: Sequence[Mapping]) -> list[Mapping]:
    """All evaluations, of many the first and the last ones."""
    answered = [e for e in evaluations if e["answers"]]
    return [*answered[:1], *answered[1:][-(MODELS - 1) :]]


def _answers(steps: Steps, evaluation: Mapping, per_language: int) -> dict[str, dict]:
    """row id -> the row with the first of its answers and that answer's scores, languages in order."""
    found: dict[str, dict] = {}
    for answers in evaluation["answers"]:
        for language, paths in _by_language(rows.shards(steps[answers].path)).items():
            marks = [s for name in evaluation["scores"] for s in rows.shards(steps[name].path, languages=[language])]
            read = (row for path in paths for row in rows.read_shard(path, COLUMNS) if row["responses"])
            taken = {row["id"]: _plain(row) for row in sorted(read, key=_order)[:per_language]}
            _join(taken, marks)
            found |= taken
    return found


def _by_language(shards: Sequence[Any]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for path in shards:
        found.setdefault(path.stem.split(".")[0], []).append(path)
    return found


def _mixed(taken: Mapping[str, dict]) -> list[tuple[str, dict]]:
    """The first prompt of every language, then the second …"""
    seen: dict[str, int] = {}
    order = {}
    for identifier, row in taken.items():
        order[identifier] = seen[row["prompt_lang"]] = seen.get(row["prompt_lang"], -1) + 1
    return sorted(taken.items(), key=lambda item: order[item[0]])


def _order(row: Mapping) -> tuple[str, str]:
    return hashlib.sha256(str(row["group_id"]).encode()).hexdigest(), row["id"]


def _plain(row: Mapping) -> dict[str, Any]:
    first = row["responses"][0]
    texts = {"prompt": rows.text_of(row["prompt"] or []), "reference": row["reference"], "text": first["text"]}
    told = {"prompt_lang": row["prompt_lang"], "source": row["source"], "asked": row["response_lang_requested"] or row["prompt_lang"]}
    return {**told, **texts, "candidate_id": first["candidate_id"], "detected": None, "scores": {}}


def _join(taken: Mapping[str, dict], marks: Sequence[Any]) -> None:
    """Put the scores and the detected language of the answers that are shown beside them."""
    for path in marks:
        for mark in rows.read_shard(path):
            row = taken.get(mark["id"])
            if row and row["candidate_id"] == mark["candidate_id"]:
                row["detected"] = row["detected"] or mark["response_lang_detected"]
                row["scores"] |= {k.removeprefix("score."): v for k, v in mark.items() if k.startswith("score.")}


def _answer(row: Mapping | None, names: Sequence[str], characters: int, *, without_text: bool) -> dict[str, Any] | None:
    if row is None:
        return None
    scores = [None if (v := row["scores"].get(n)) is None else float(f"{v:.4g}") for n in names]
    return {"text": None if without_text else _clipped(row["text"], characters), "lang": row["detected"], "scores": scores}


def _clipped(text: str | None, characters: int) -> list[Any]:
    text = text or ""
    return [visible(text[:characters]), max(len(text) - characters, 0)]
