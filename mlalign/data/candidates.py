"""Candidates of one sampler or several, joined with their scores.

A source is a candidates artifact with the scores artifact of the same shards. Where there are
several, the rows of a prompt are joined by its id: its candidates are those of all samplers, in the
order of the sources.
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from mlalign.core import rows
from mlalign.core.errors import UserError, nearest
from mlalign.core.schema import what
from mlalign.core.store import MANIFEST, Artifact, has


@dataclasses.dataclass
class Gate:
    """A bound on one score column. A candidate without a value fails it."""

    score: str = what(doc="name of the score column")
    min: float | None = what(None, "lowest value that passes")
    max: float | None = what(None, "highest value that passes")
    applies_to: Literal["chosen", "both"] = what(
        "chosen",
        "chosen: who fails may still be rejected; both: who fails is left out",
    )

    def passes(self, value: float | None) -> bool:
        if value is None:
            return False
        if self.min is not None and value < self.min:
            return False
        return self.max is None or value <= self.max


class Source(NamedTuple):
    """Artifacts of candidates and of their scores. `sampler` names them; None for the only one."""

    candidates: Path
    scores: Path
    sampler: str | None


class Shard(NamedTuple):
    """A file of candidates, and that of their scores."""

    candidates: Path
    scores: Path
    sampler: str | None


def unequal(n_candidates: int, n_scores: int) -> list[str]:
    """A message if there are not as many scores as candidates."""
    if n_candidates == n_scores:
        return []
    mend = "give the scores of each step in `rows`, in the same order"
    return [f"inputs.scores: {n_scores} scores for {n_candidates} candidates; {mend}"]


def sources(
    candidates: Sequence[Artifact | dict],
    scores: Sequence[Artifact | dict],
) -> list[Source]:
    """The sources in two slots, which belong together in their order; skipped ones are left out.

    Raises: UserError if there are not as many of one as of the other, or rows are no candidates.
    """
    named_candidates = _named(candidates)
    named_scores = _named(scores)
    if messages := unequal(len(named_candidates), len(named_scores)):
        raise UserError(*messages)
    for path, _ in named_candidates:
        kind = rows.kind_of(path)
        if kind != "candidates":
            message = f"{path}: holds {kind} rows, `pairs` needs candidates (a `generate` step)"
            raise UserError(message)

    has_several = len(named_candidates) > 1
    paired = []
    for (path, name), (scores_path, _) in zip(named_candidates, named_scores, strict=True):
        sampler = name if has_several else None
        paired.append(Source(path, scores_path, sampler))
    return paired


def _named(values: Sequence[Artifact | dict]) -> list[tuple[Path, str]]:
    """The artifacts of a slot with the names of their steps, or their own."""
    artifacts = []
    for value in values:
        if isinstance(value, dict):
            path = Path(value["path"])
            artifacts.append((path, str(value.get("name") or path.name)))
        elif not (value.path / MANIFEST).exists() or not value.skipped:
            artifacts.append((value.path, value.step))
    return artifacts


def shards(source: Source, split: str | None, languages: Sequence[str]) -> list[Shard]:
    """The shards of a source in the order of their names.

    Raises: UserError if a language, or the scores of a shard, are not there.
    """
    path, scores, sampler = source
    present = {rows.language_of(file) for file in rows.shards(path, split)}
    messages = []
    for language in languages:
        if language not in present:
            hint = nearest(language, present)
            messages.append(f"languages: no candidates in {language!r}{hint}")
    if messages:
        raise UserError(*messages)

    files = rows.shards(path, split, languages or None)
    if not files:
        raise UserError(f"{path}: holds no candidates of split {split!r}")
    missing = [file.name for file in files if not has(scores, f"rows/{file.name}")]
    if missing:
        shards_ = f"{missing[0]} ({len(missing)} of {len(files)} shards)"
        raise UserError(f"{scores}: lacks {shards_}; score the candidates this step reads")
    return [Shard(file, scores / "rows" / file.name, sampler) for file in files]


def read(files: Iterable[Shard]) -> tuple[list[dict], dict[str, dict]]:
    """The prompts of some shards with their candidates (`joined`), and the scores by candidate."""
    prompts = []
    scores = {}
    for shard in files:
        prompts.append((rows.read_shard(shard.candidates), shard.sampler))
        for row in rows.read_shard(shard.scores):
            scores[row["candidate_id"]] = row
    return joined(prompts), scores


def joined(prompts: Sequence[tuple[list[dict], str | None]]) -> list[dict]:
    """The rows of several samplers as one row for each prompt, in order of first appearance.

    Each response says its `sampler`.
    """
    marked = []
    for sampler_rows, sampler in prompts:
        marked += [_marked(row, sampler) for row in sampler_rows]
    if len(prompts) == 1:
        return marked

    by_id: dict[str, dict] = {}
    for row in marked:
        if row["id"] in by_id:
            by_id[row["id"]]["responses"] += row["responses"]
        else:
            by_id[row["id"]] = row
    return list(by_id.values())


def _marked(row: dict, sampler: str | None) -> dict:
    responses = [{**response, "sampler": sampler} for response in row["responses"]]
    return {**row, "responses": responses}


def columns(shard: Path) -> list[str]:
    """Names of the score columns in file order."""
    import pyarrow.parquet as pq

    names = pq.read_schema(shard).names
    return [name.removeprefix("score.") for name in names if name.startswith("score.")]


def first_column(shard: Path) -> str:
    names = columns(shard)
    if not names:
        raise UserError(f"{shard}: has no score columns; give the output of a `score` step")
    return names[0]


def statistics(score: str, files: Iterable[Shard]) -> dict[str, tuple[float, float]]:
    """language -> (mean, standard deviation) of a score over all its candidates.

    Welford's running sums; values that are missing or no finite number are left out.
    """
    sums: dict[str, tuple[int, float, float]] = {}
    for shard in files:
        for row in rows.read_shard(shard.scores, ["prompt_lang", f"score.{score}"]):
            value = row[f"score.{score}"]
            if value is None or not math.isfinite(value):
                continue
            language = row["prompt_lang"]
            n, mean, squares = sums.get(language, (0, 0.0, 0.0))
            n += 1
            # mean_n = mean_(n-1) + delta / n; squares_n = squares_(n-1) + delta (value - mean_n)
            delta = value - mean
            mean += delta / n
            squares += delta * (value - mean)
            sums[language] = (n, mean, squares)
    return {
        language: (mean, math.sqrt(squares / n)) for language, (n, mean, squares) in sums.items()
    }


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    mean = math.fsum(values) / len(values)
    variance = math.fsum((value - mean) ** 2 for value in values) / len(values)
    return mean, math.sqrt(variance)
