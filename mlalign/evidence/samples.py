"""The same prompts answered by several models, side by side.

Reads candidates and their scores. Prompts are chosen by a hash of their `group_id`, never by their
scores, so all languages show translations of the same items; each model shows its first answer.
Rows from a source marked `sensitive` keep their numbers and lose their text.
"""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlalign.core import rows
from mlalign.core.visible import visible
from mlalign.evidence.collect import Steps

MODELS = 3
COLUMNS = [
    "id",
    "group_id",
    "prompt_lang",
    "source",
    "prompt",
    "response_lang_requested",
    "reference",
    "responses",
]


def samples(
    steps: Steps,
    evaluations: Sequence[Mapping],
    per_language: int,
    characters: int,
    *,
    hide: bool = False,
) -> dict[str, Any]:
    """`models`, `scores` (their names) and `rows`.

    A row has `lang, source, sensitive, prompt, reference, asked, answers`, one answer per model or
    None. A text is `[what is shown, number of characters left out]`; an answer also has the
    detected language and its scores. Texts of sensitive sources are None, unless `hide`: then
    they are there, for the page to hide.
    """
    shown = _shown(evaluations)
    by_model = [_answers(steps, evaluation, per_language) for evaluation in shown]
    scores = _score_names(by_model)
    sensitive = _sensitive(steps)

    shown_rows = []
    for row_id, row in _interleaved(by_model[0]) if by_model else ():
        is_sensitive = row["source"] in sensitive
        limit = None if is_sensitive and not hide else characters
        sample = {
            "lang": row["prompt_lang"],
            "source": visible(row["source"] or ""),
            "sensitive": is_sensitive,
            "prompt": _clipped(row["prompt"], limit),
            "reference": _clipped(row["reference"], limit),
            "asked": row["asked"],
            "answers": [_answer(answers.get(row_id), scores, limit) for answers in by_model],
        }
        shown_rows.append(sample)
    models = [evaluation["model"] for evaluation in shown]
    return {"models": models, "scores": scores, "rows": shown_rows}


def _shown(evaluations: Sequence[Mapping]) -> list[Mapping]:
    """All evaluations with answers; of many, the first and the last ones."""
    answered = [evaluation for evaluation in evaluations if evaluation["answers"]]
    return [*answered[:1], *answered[1:][-(MODELS - 1) :]]


def _sensitive(steps: Steps) -> set[str]:
    sensitive = set()
    for step in steps.values():
        for source in step.manifest.get("sources") or []:
            if source.get("sensitive"):
                sensitive.add(source["source"])
    return sensitive


def _score_names(by_model: Sequence[Mapping[str, Mapping]]) -> list[str]:
    """The scores of all answers, without a scorer's further columns (SCORER.COLUMN)."""
    names: set[str] = set()
    for answers in by_model:
        for row in answers.values():
            names |= set(row["scores"])
    return sorted(name for name in names if "." not in name)


def _answers(steps: Steps, evaluation: Mapping, per_language: int) -> dict[str, dict]:
    """row id -> the row with its first answer and that answer's scores, by language."""
    by_id: dict[str, dict] = {}
    for answers in evaluation["answers"]:
        for language, shards in _by_language(rows.shards(steps[answers].path)).items():
            taken = _first_rows(shards, per_language)
            for scores in evaluation["scores"]:
                _join(taken, rows.shards(steps[scores].path, languages=[language]))
            by_id |= taken
    return by_id


def _first_rows(shards: Sequence[Path], n: int) -> dict[str, dict]:
    """The first n answered rows of one language, in the order of the hash."""
    answered: list[dict] = []
    for shard in shards:
        answered += [row for row in rows.read_shard(shard, COLUMNS) if row["responses"]]
    first = sorted(answered, key=_order)[:n]
    return {row["id"]: _plain(row) for row in first}


def _by_language(shards: Sequence[Path]) -> dict[str, list[Path]]:
    by_language: dict[str, list[Path]] = defaultdict(list)
    for shard in shards:
        language, *_ = shard.stem.split(".")
        by_language[language].append(shard)
    return by_language


def _interleaved(taken: Mapping[str, dict]) -> list[tuple[str, dict]]:
    """The first prompt of every language, then the second, and so on."""
    n_seen: dict[str, int] = defaultdict(int)
    numbered = []
    for row_id, row in taken.items():
        numbered.append((n_seen[row["prompt_lang"]], row_id, row))
        n_seen[row["prompt_lang"]] += 1
    numbered.sort(key=lambda entry: entry[0])
    return [(row_id, row) for _, row_id, row in numbered]


def _order(row: Mapping) -> tuple[str, str]:
    return hashlib.sha256(str(row["group_id"]).encode()).hexdigest(), row["id"]


def _plain(row: Mapping) -> dict[str, Any]:
    first = row["responses"][0]
    return {
        "prompt_lang": row["prompt_lang"],
        "source": row["source"],
        "asked": row["response_lang_requested"] or row["prompt_lang"],
        "prompt": rows.text_of(row["prompt"] or []),
        "reference": row["reference"],
        "text": first["text"],
        "candidate_id": first["candidate_id"],
        "detected": None,
        "scores": {},
    }


def _join(taken: Mapping[str, dict], shards: Sequence[Path]) -> None:
    """Add to the rows the scores and the detected language of their answers."""
    for shard in shards:
        for score_row in rows.read_shard(shard):
            row = taken.get(score_row["id"])
            if not row or row["candidate_id"] != score_row["candidate_id"]:
                continue
            row["detected"] = row["detected"] or score_row["response_lang_detected"]
            for column, value in score_row.items():
                if column.startswith("score."):
                    row["scores"][column.removeprefix("score.")] = value


def _answer(
    row: Mapping | None,
    names: Sequence[str],
    limit: int | None,
) -> dict[str, Any] | None:
    if row is None:
        return None
    scores = [row["scores"].get(name) for name in names]
    rounded = [None if score is None else float(f"{score:.4g}") for score in scores]
    return {"text": _clipped(row["text"], limit), "lang": row["detected"], "scores": rounded}


def _clipped(text: str | None, limit: int | None) -> list[Any] | None:
    """`[what is shown, number of characters left out]`; None where no text may be shown."""
    if limit is None:
        return None
    text = text or ""
    return [visible(text[:limit]), max(len(text) - limit, 0)]
