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
        if value is None or (self.min is not None and value < self.min):
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
    rows_of, scores_of = _named(candidates), _named(scores)
    if wrong := unequal(len(rows_of), len(scores_of)):
        raise UserError(*wrong)
    for path, _ in rows_of:
        kind = rows.kind_of(path)
        if kind != "candidates":
            message = f"{path}: holds {kind} rows, `pairs` needs candidates (a `generate` step)"
            raise UserError(message)
    several = len(rows_of) > 1
    joined = zip(rows_of, scores_of, strict=True)
    return [Source(path, of, name if several else None) for (path, name), (of, _) in joined]


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
    present = {p.name.split(".")[0] for p in rows.shards(path, split)}
    if missing := [language for language in languages if language not in present]:
        messages = [f"languages: no candidates in {m!r}{nearest(m, present)}" for m in missing]
        raise UserError(*messages)
    files = rows.shards(path, split, languages or None)
    if not files:
        raise UserError(f"{path}: holds no candidates of split {split!r}")
    absent = [file.name for file in files if not has(scores, f"rows/{file.name}")]
    if absent:
        missing_shards = f"{absent[0]} ({len(absent)} of {len(files)} shards)"
        raise UserError(f"{scores}: lacks {missing_shards}; score the candidates this step reads")
    return [Shard(file, scores / "rows" / file.name, sampler) for file in files]


def read(files: Iterable[Shard]) -> tuple[list[dict], dict[str, dict]]:
    """The prompts of some shards with their candidates (`joined`), and the scores by candidate."""
    prompts, marks = [], []
    for shard in files:
        prompts.append((rows.read_shard(shard.candidates), shard.sampler))
        marks += rows.read_shard(shard.scores)
    return joined(prompts), {row["candidate_id"]: row for row in marks}


def joined(prompts: Sequence[tuple[list[dict], str | None]]) -> list[dict]:
    """The rows of several samplers by prompt, in the order in which prompts come first.

    Each response says its `sampler`.
    """
    marked = [_marked(row, sampler) for of_one, sampler in prompts for row in of_one]
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
    return {**row, "responses": [{**response, "sampler": sampler} for response in row["responses"]]}


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
            n, mean, squares = sums.get(row["prompt_lang"], (0, 0.0, 0.0))
            delta = value - mean
            mean += delta / (n + 1)
            sums[row["prompt_lang"]] = (n + 1, mean, squares + delta * (value - mean))
    return {lang: (mean, math.sqrt(squares / n)) for lang, (n, mean, squares) in sums.items()}


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    mean = math.fsum(values) / len(values)
    return mean, math.sqrt(math.fsum((v - mean) ** 2 for v in values) / len(values))
