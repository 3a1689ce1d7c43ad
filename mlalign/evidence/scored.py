"""Answers and preference rows, joined with their scores, as arrays for the metrics.

Candidates and scores are joined by `candidate_id`, shard by shard of the same name.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from pyarrow import Table

from mlalign.core import rows
from mlalign.core.errors import UserError
from mlalign.core.store import Artifact, Tally, has
from mlalign.methods.metrics import columns
from mlalign.methods.metrics.answers import Answers, joined

Names = dict[str, str]  # column in a file of scores -> its name in tables


@dataclasses.dataclass
class Reader:
    """Which rows are read, and which of their columns.

    `parts` are the keys of the metadata that are kept; `with_stored` keeps the lengths of the
    answers that are stored in `reference`.
    """

    split: str | None
    languages: Sequence[str]
    adherence_by: str
    parts: Sequence[str]
    with_stored: bool
    metadata: columns.Metadata = dataclasses.field(default_factory=dict)

    def shards(self, artifact: Artifact) -> list[Path]:
        return rows.shards(artifact.path, self.split, list(self.languages) or None)

    def read_metadata(self, items: Sequence[Artifact]) -> None:
        """Keep what the metadata of these rows says: row id -> key -> value."""
        metadata: dict[str, dict[str, str]] = {}
        for artifact in items:
            for shard in self.shards(artifact):
                metadata |= columns.of_metadata(_read(shard, ["id", "metadata"]), self.parts)
        self.metadata = metadata

    def answers(
        self,
        candidates: Sequence[Artifact],
        scores: Sequence[Artifact],
        slot: str,
        tally: Tally | None = None,
    ) -> Answers | None:
        """All answers of some candidates; None without any.

        With `tally`, prompts and answers without any score are counted.
        Raises: UserError naming the `slot` if the rows are no candidates.
        """
        scores = [artifact for artifact in scores if not _is_of_sides(artifact)]
        names = _column_names(scores)
        answers = []
        for artifact in candidates:
            kind = rows.kind_of(artifact.path)
            if kind != "candidates":
                raise UserError(
                    f"{artifact.path}: holds {kind} rows, `{slot}` takes candidates (a `generate`"
                    " step)"
                )
            for shard in self.shards(artifact):
                marks = _scores_of_shard(shard.name, scores, names)
                answers.append(self._answers_of_shard(shard, marks, tally))
        return _joined(answers)

    def _answers_of_shard(
        self,
        shard: Path,
        marks: columns.Marks,
        tally: Tally | None,
    ) -> Answers:
        names = [*columns.ITEM, "prompt", "responses"]
        if self.with_stored:
            names.append("reference")
        table = _read(shard, names)
        answers, n_without = columns.of_candidates(
            table, marks, self.adherence_by, self.metadata, self.parts
        )
        if tally is not None:
            _count(answers.items.language, n_without, tally)
        return columns.with_stored(answers, table) if self.with_stored else answers

    def preferences(
        self,
        scores: Sequence[Artifact],
        tally: Tally | None = None,
    ) -> Answers | None:
        """The preference rows whose two sides (`rows.side_id`) have scores; None without any.

        With `tally`, rows are counted, and those with scores of one side only as dropped.
        """
        scores = [artifact for artifact in scores if _is_of_sides(artifact)]
        names = _column_names(scores)
        shard_names = {shard.name for artifact in scores for shard in self.shards(artifact)}
        preferences = []
        for shard_name in sorted(shard_names):
            marks = _scores_of_shard(shard_name, scores, names)
            sides, complete = columns.of_sides(marks, self.metadata, self.parts)
            if tally is not None:
                _count_sides(sides.items.language, complete, tally)
            preferences.append(sides.only(complete))
        return _joined(preferences)


def _joined(answers: Sequence[Answers]) -> Answers | None:
    if not any(len(of_shard.items) for of_shard in answers):
        return None
    return joined(answers)


def _count(languages: Sequence[str], n_without: np.ndarray, tally: Tally) -> None:
    for language, n in zip(languages, n_without.tolist(), strict=True):
        tally.keep(language)
        if n:
            tally.add("answers without scores", language, n)


def _count_sides(languages: Sequence[str], complete: np.ndarray, tally: Tally) -> None:
    for language, has_both in zip(languages, complete, strict=True):
        if has_both:
            tally.keep(language)
        else:
            tally.drop("only one side has scores", language)


def _read(shard: Path, names: Sequence[str]) -> Table:
    return pq.ParquetFile(shard).read(columns=list(names), use_threads=False)


def _candidate_ids(shard: Path) -> list[str]:
    return _read(shard, ["candidate_id"])["candidate_id"].to_pylist()


def _is_of_sides(scores: Artifact) -> bool:
    """Whether scores are of preference rows, not of candidates."""
    first_shard = rows.shards(scores.path)[:1]
    first_ids = _candidate_ids(first_shard[0])[:1] if first_shard else []
    return any(":" in identifier for identifier in first_ids)


def _scores_of_shard(
    shard_name: str,
    scores: Sequence[Artifact],
    names: Sequence[Names],
) -> list[tuple[Table, Names]]:
    """The scores of one shard from every artifact that has it, each with its column names."""
    common = ("candidate_id", "response_lang_detected", *columns.ITEM)
    tables = []
    for artifact, names_here in zip(scores, names, strict=True):
        if has(artifact.path, f"rows/{shard_name}"):
            table = _read(artifact.path / "rows" / shard_name, [*common, *names_here])
            tables.append((table, names_here))
    return tables


def _column_names(scores: Sequence[Artifact]) -> list[Names]:
    """For each scores artifact: column in the file -> name in the tables.

    Where steps of one `foreach` score the same answers under the same name, it becomes
    `name[value]`. Scores of different answers (of several seeds, say) are one column.
    """
    columns_of = [_score_columns(artifact) for artifact in scores]
    renamed = []
    for index, artifact in enumerate(scores):
        shared = _shared_columns(index, scores, columns_of)
        suffix = "".join(f"[{value}]" for value in artifact.binding.values())
        names = {}
        for column in columns_of[index]:
            name = column.removeprefix("score.")
            names[column] = name + suffix if column in shared else name
        renamed.append(names)
    return renamed


def _shared_columns(
    index: int,
    scores: Sequence[Artifact],
    columns_of: Sequence[Sequence[str]],
) -> set[str]:
    """The columns that other steps have as well, of those that score the same answers."""
    artifact, own = scores[index], set(columns_of[index])
    shared: set[str] = set()
    if not artifact.binding:
        return shared
    for other, others_columns in zip(scores, columns_of, strict=True):
        if other is artifact or own.isdisjoint(others_columns):
            continue
        if _overlap(artifact, other):
            shared |= set(others_columns)
    return shared


def _score_columns(artifact: Artifact) -> list[str]:
    shards = rows.shards(artifact.path)
    if not shards:
        return []
    return [name for name in pq.read_schema(shards[0]).names if name.startswith("score.")]


def _overlap(first: Artifact, second: Artifact) -> bool:
    """Whether two scores artifacts score the same answers, by the first shard that both have."""
    names = {shard.name for shard in rows.shards(first.path)}
    names &= {shard.name for shard in rows.shards(second.path)}
    if not names:
        return False
    ids = [_candidate_ids(artifact.path / "rows" / min(names)) for artifact in (first, second)]
    return not set(ids[0]).isdisjoint(ids[1])
