"""Tables of results by language, from answers and scores alone (CPU, no model).

Reads scores (slot `scores`, one or more artifacts), the candidates they belong to (`rows`), a
baseline's candidates on the same prompts with their scores (`baseline`, `baseline_scores`), another
policy's on them (`control`, `control_scores`), and the prompts or preference rows that were
answered or scored (`items`), for what their metadata tells. Candidates and scores are joined by
`candidate_id`, shard by shard of the same name, policies by row id. Scores of preference rows need
no other input.

Writes
  metrics.csv, metrics.json      the main table: metric, by, language, value, low, high, n (prompts), n_groups, which (`metrics/table.py`);
                                 the JSON also a source x target `matrix` of reward accuracies and
                                 `not_computed`, as in the manifest
  breakdown.csv, breakdown.json  part, member and the columns of the main table: averages by
  `script` and resource `tier`; accuracy,
                                 adherence, win rate and reward accuracy by `origin` and metadata
                                 (`parts`); best of `k`
  confusion.json                 asked, detected, counts (asked x detected), by: what language answers are in
  consistency.json               languages, values, low, high, n_groups (each languages x languages), by: agreement right or wrong

Metrics of candidates: accuracy, adherence, line_share, word_share, line_pass, word_pass, lcpr,
right_in_language, right_elsewhere, wrong_in_language, wrong_elsewhere, adherence_of_right,
coco_cola (`metrics/confusion.py`); consistency and consistency_kappa with English, consistency_all
(`metrics/consistency.py`); oracle_accuracy, selected_accuracy (`metrics/best_of_n.py`); tokens,
characters, bytes, content_bytes, byte_premium, tokens_per_character, truncated
(`metrics/length.py`). With a baseline win_rate, win_rate_lc (`metrics/win_rate.py`) and
METRIC_over_baseline; with a control METRIC_over_control, also of win rates: ours minus theirs,
paired. With `stored_by` stored_win_rate and stored_win_rate_lc, over the answers stored in
`reference`, in the place of win rates. Of preference rows: reward_accuracy (ties 0.5), reward_ties,
and reward_agreement and reward_kappa with English, for each score column.

Intervals are bootstrapped over groups. What lacks its columns is named with the reason under
`not_computed`.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mlalign.core import kinds, rows
from mlalign.core.errors import UserError
from mlalign.core.schema import what
from mlalign.core.stage import Inputs, Output
from mlalign.core.store import Artifact, has, write_json
from mlalign.evidence.text import METRICS, OVER

if TYPE_CHECKING:
    import numpy as np
    from pyarrow import Table

    from mlalign.methods.metrics.answers import Answers, Items
    from mlalign.methods.metrics.columns import Metadata
    from mlalign.methods.metrics.measures import Columns, Measure
    from mlalign.methods.metrics.tables import Tables

VERSION = 2
KIND = "metrics"
SLOTS = {
    "scores": "rows*",
    "rows": "rows*?",
    "baseline": "rows*?",
    "baseline_scores": "rows*?",
    "control": "rows*?",
    "control_scores": "rows*?",
    "items": "rows*?",
}
# A policy is not compared with itself.
DIFFERS_FROM = {
    "baseline": "rows",
    "baseline_scores": "scores",
    "control": "rows",
    "control_scores": "scores",
}
SHARDED = None
DISTRIBUTED = False


@dataclasses.dataclass
class Config:
    win_by: str = what(
        "verifier",
        "score column that decides wins over the baseline; not a reward model that the policy was"
        " trained on",
    )
    accuracy_by: str = what("verifier", "score column that says whether an answer is right")
    concept_by: str = what(
        "",
        "score column that says whether an answer is right in whatever language it is; empty:"
        " accuracy_by",
    )
    adherence_by: str = what(
        "language_adherence",
        "score column that says whether an answer is in the requested language; not the one that"
        " gated training pairs",
    )
    words_by: str = what(
        "",
        "language_adherence score with `level: line` or `word`, for rates by line and word; empty:"
        " adherence_by",
    )
    length_by: Literal["tokens", "characters", "bytes"] = what(
        "characters", "unit of length for the length-controlled win rate"
    )
    reward_by: list[str] = what(
        [],
        "score columns tested on preference rows; none named: each scorer's value but accuracy and"
        " adherence",
    )
    select_by: str = what("", "score column that selects among the candidates (selected_accuracy)")
    parts: list[str] = what(
        ["kind", "quality", "task", "exposure"],
        "keys of the metadata of `items` by which results are broken down",
    )
    n_bootstrap: int = what(1000, "bootstrap draws")
    confidence: float = what(0.95, "confidence of the intervals")
    anchor_language: str = what(
        "eng_Latn", "the language that gaps, consistency, kappa and byte premiums compare with"
    )
    split: Literal["train", "eval"] | None = what("eval", "split to measure; null: all rows")
    languages: list[str] = what([], "prompt languages to measure; none named: all")
    seed: int = what(0, "of the bootstrap")
    break_down: list[str] = what(
        [], "metrics that are broken down as well, such as line_pass", added=True
    )
    stored_by: str = what(
        "",
        "score column that compares answers with the stored one in `reference`: 1 won, 0.5 a tie, 0"
        " lost",
        added=True,
    )
    evaluation: dict[str, Any] = what(
        {}, "the evaluation that this is: name, origin, headline; for reports", added=True
    )


def accepts(cfg: Config) -> dict[str, tuple[str, ...]]:
    candidates = dict.fromkeys(("rows", "baseline", "control"), ("candidates",))
    return {
        **candidates,
        **dict.fromkeys(("scores", "baseline_scores", "control_scores"), ("scores",)),
    }


def gives(cfg: Config, inputs: kinds.Inputs) -> kinds.Gives:
    return kinds.Gives(columns=tuple(name + over for name in METRICS for over in ("", *OVER)))


def misfits(cfg: Config, inputs: kinds.Inputs) -> list[str]:
    columns = kinds.columns_of(inputs.get("scores", ()))
    return [] if columns is None else kinds.missing_columns(_named(cfg), columns)


def run(cfg: Config, inputs: Inputs, out: Output) -> None:
    from mlalign.methods.metrics import bootstrap, table
    from mlalign.methods.metrics.tables import Tables

    metadata = _metadata(cfg, inputs)
    ours, preferences = (
        _policy(cfg, inputs, "rows", "scores", metadata, out),
        _preferences(cfg, inputs, metadata, out),
    )
    others = {
        slot: _policy(cfg, inputs, slot, f"{slot}_scores", metadata)
        for slot in ("baseline", "control")
    }
    if ours is None and preferences is None:
        raise UserError(
            f"{out.step or 'evaluate'}: no rows of split {cfg.split!r} in the languages asked for;"
            " see `split` and `languages`"
        )
    _check(cfg, ours, preferences, others)
    everything = [a for a in (ours, preferences, *others.values()) if a is not None]
    draws = bootstrap.draw(
        (g for a in everything for g in a.items.group), cfg.n_bootstrap, cfg.seed
    )
    tables = Tables(draws, cfg.anchor_language, cfg.confidence)
    if ours is not None:
        _policy_tables(cfg, ours, others, tables, out)
    if preferences is not None:
        _reward_tables(cfg, preferences, tables)
    if "items" not in inputs:
        tables.miss(f"breakdown by {', '.join(cfg.parts)}", "no `items` with metadata are given")
    breakdown = sorted(tables.breakdown, key=lambda r: r["part"])
    (out.path / "metrics.csv").write_text(table.to_csv(tables.rows), encoding="utf-8")
    (out.path / "breakdown.csv").write_text(
        table.to_csv(breakdown, table.BREAKDOWN), encoding="utf-8"
    )
    matrix = table.matrix(tables.rows, "reward_accuracy")
    write_json(
        out.path / "metrics.json",
        {"rows": tables.rows, "matrix": matrix, "not_computed": tables.not_computed},
    )
    write_json(
        out.path / "breakdown.json",
        {"rows": [{c: r[c] for c in table.BREAKDOWN} for r in breakdown]},
    )
    out.note(not_computed=tables.not_computed)
    out.progress(1, 1, "tables", force=True)


def by_item(cfg: Config, inputs: Inputs, metric: str, by: str) -> "tuple[Items, Measure] | None":
    """What every item adds to a metric of our answers, of their wins, or of preference rows: for
    statistics over several evaluations.

    None for a metric that is no sum over items (differences of policies, length-controlled win
    rates).
    """
    from mlalign.methods.metrics import measures

    metadata = _metadata(cfg, inputs)
    ours, preferences = (
        _policy(cfg, inputs, "rows", "scores", metadata),
        _preferences(cfg, inputs, metadata),
    )
    found: list[tuple[Items, Measure]] = []
    if ours is not None:
        found += [
            (ours.items, m) for m in measures.of_answers(ours, _columns(cfg), cfg.anchor_language)
        ]
        if (baseline := _policy(cfg, inputs, "baseline", "baseline_scores", metadata)) is not None:
            found.append((ours.items, measures.of_wins(ours, baseline, cfg.win_by)))
    if preferences is not None:
        found += [
            (preferences.items, m)
            for m in measures.of_preferences(preferences, by, cfg.anchor_language)
        ]
    return next(((items, m) for items, m in found if (m.name, m.by) == (metric, by)), None)


# ------------------------------------------------------------------------------------------- tables


def _columns(cfg: Config) -> "Columns":
    from mlalign.methods.metrics.measures import Columns

    return Columns(
        cfg.accuracy_by,
        cfg.concept_by or cfg.accuracy_by,
        cfg.adherence_by,
        cfg.words_by or cfg.adherence_by,
        cfg.select_by,
    )


def _policy_tables(
    cfg: Config,
    ours: "Answers",
    others: Mapping[str, "Answers | None"],
    tables: "Tables",
    out: Output,
) -> None:
    """Everything about the answers of our policy, and how they differ from others'."""
    from mlalign.methods.metrics import accuracy, confusion, consistency, measures
    from mlalign.methods.metrics.answers import pairs
    from mlalign.methods.metrics.tables import add_best_of_k

    by = _columns(cfg)
    mine = [
        _broken_down(cfg, measure) for measure in measures.of_answers(ours, by, cfg.anchor_language)
    ]
    for measure in mine:
        tables.add(ours.items, measure)
    if (ours.present.sum(1) > 1).any():
        add_best_of_k(tables, ours, by)
    if cfg.stored_by:
        _stored_tables(cfg, ours, others, tables)
    elif (baseline := others["baseline"]) is not None:
        _win_tables(cfg, ours, baseline, others["control"], tables, out)
    for name, theirs in others.items():
        if theirs is not None:
            same = pairs(ours.items, theirs.items)
            for measure, other in zip(
                mine, measures.of_answers(theirs, by, cfg.anchor_language), strict=True
            ):
                if measure.compared:
                    tables.add_difference(ours.items, measure, other, same, name)
    items, right = ours.items, accuracy.mean(ours.score(cfg.accuracy_by))
    found = confusion.matrix(items.language, ours.detected, ours.present)
    write_json(out.path / "confusion.json", {"by": cfg.adherence_by, **found})
    agreement = consistency.matrix(items.language, items.group, right, cfg.confidence)
    write_json(out.path / "consistency.json", {"by": cfg.accuracy_by, **agreement})


def _broken_down(cfg: Config, measure: "Measure") -> "Measure":
    return dataclasses.replace(
        measure, broken_down=measure.broken_down or measure.name in cfg.break_down
    )


def _stored_tables(
    cfg: Config, ours: "Answers", others: Mapping[str, "Answers | None"], tables: "Tables"
) -> None:
    """Wins over the stored answers, and how they differ from other policies' wins over the same."""
    from mlalign.methods.metrics.answers import pairs, stored
    from mlalign.methods.metrics.measures import of_stored
    from mlalign.methods.metrics.tables import add_length_controlled

    wins = of_stored(ours, cfg.stored_by)
    tables.add(ours.items, wins)
    baseline = stored(ours, cfg.stored_by)
    add_length_controlled(tables, ours, baseline, cfg.stored_by, cfg.length_by, f"{wins.name}_lc")
    for name, theirs in others.items():
        if theirs is not None:
            same = pairs(ours.items, theirs.items)
            tables.add_difference(ours.items, wins, of_stored(theirs, cfg.stored_by), same, name)


def _win_tables(
    cfg: Config,
    ours: "Answers",
    baseline: "Answers",
    control: "Answers | None",
    tables: "Tables",
    out: Output,
) -> None:
    from mlalign.methods.metrics.answers import pairs
    from mlalign.methods.metrics.measures import of_wins
    from mlalign.methods.metrics.tables import (
        add_length_controlled,
        add_length_controlled_difference,
    )

    wins = of_wins(ours, baseline, cfg.win_by)
    for language, value in zip(ours.items.language, wins.columns[:, 0], strict=True):
        if math.isnan(value):
            out.tally.add("prompts without a comparison to the baseline", language)
    tables.add(ours.items, wins)
    add_length_controlled(tables, ours, baseline, cfg.win_by, cfg.length_by)
    if control is not None:
        theirs = of_wins(control, baseline, cfg.win_by)
        tables.add_difference(ours.items, wins, theirs, pairs(ours.items, control.items), "control")
        add_length_controlled_difference(tables, ours, control, baseline, cfg.win_by, cfg.length_by)


def _reward_tables(cfg: Config, preferences: "Answers", tables: "Tables") -> None:
    from mlalign.methods.metrics import measures

    present = set(preferences.scores)
    own = {
        name for name in present if name.rpartition(".")[0] not in present
    }  # not what a scorer tells besides
    for column in cfg.reward_by or sorted(own - {cfg.accuracy_by, cfg.adherence_by}):
        for measure in measures.of_preferences(preferences, column, cfg.anchor_language):
            tables.add(preferences.items, measure)


def _check(
    cfg: Config,
    ours: "Answers | None",
    preferences: "Answers | None",
    others: Mapping[str, "Answers | None"],
) -> None:
    """Columns that a person named must be there; the defaults `verifier` and `language_adherence`
    may be missing.
    """
    present = {name for a in (ours, preferences) if a is not None for name in a.scores}
    problems = kinds.missing_columns(_named(cfg), present)
    for slot, theirs in others.items():
        if theirs is not None and ours is None:
            problems.append(f"rows: missing; a {slot} is given and nothing to compare with it")
        elif (
            theirs is not None
            and ours is not None
            and set(ours.items.id).isdisjoint(theirs.items.id)
        ):
            problems.append(
                f"{slot}: answers none of the same prompts; generate it from the same rows"
            )
    if problems:
        raise UserError(*problems)


def _named(cfg: Config) -> dict[str, str]:
    """The score columns that a person named, by key."""
    keys = (
        "win_by",
        "accuracy_by",
        "concept_by",
        "adherence_by",
        "words_by",
        "select_by",
        "stored_by",
    )
    named = {key: getattr(cfg, key) for key in keys if getattr(cfg, key) != getattr(Config, key)}
    return named | {f"reward_by[{i}]": name for i, name in enumerate(cfg.reward_by)}


# ------------------------------------------------------------------------------------------ reading


def _policy(
    cfg: Config,
    inputs: Inputs,
    slot: str,
    scores_slot: str,
    metadata: "Metadata",
    out: Output | None = None,
) -> "Answers | None":
    """All answers of the candidates in a slot, or None without any; with `out`, prompts and answers
    without any score are counted.
    """
    from mlalign.methods.metrics import columns
    from mlalign.methods.metrics.answers import joined

    scores = [
        a for a in inputs.artifacts(scores_slot) or inputs.artifacts("scores") if not _of_sides(a)
    ]
    renamed, found = _column_names(scores), []
    for artifact in inputs.artifacts(slot):
        if (kind := rows.kind_of(artifact.path)) != "candidates":
            raise UserError(
                f"{artifact.path}: holds {kind} rows, `{slot}` takes candidates (a `generate` step)"
            )
        for shard in rows.shards(artifact.path, cfg.split, cfg.languages or None):
            table = _read(
                shard,
                [*columns.ITEM, "prompt", "responses", *(["reference"] if cfg.stored_by else [])],
            )
            answers, without = columns.of_candidates(
                table, _marks(shard.name, scores, renamed), cfg.adherence_by, metadata, cfg.parts
            )
            found.append(columns.with_stored(answers, table) if cfg.stored_by else answers)
            if out:
                _count(answers.items.language, without, out)
    return joined(found) if any(len(f.items) for f in found) else None


def _count(language: Sequence[str], without: "np.ndarray", out: Output) -> None:
    for lang, n in zip(language, without.tolist(), strict=True):
        out.tally.keep(lang)
        if n:
            out.tally.add("answers without scores", lang, n)


def _preferences(
    cfg: Config, inputs: Inputs, metadata: "Metadata", out: Output | None = None
) -> "Answers | None":
    """The preference rows whose two sides (`rows.side_id`) stand in the scores, or None without
    any.
    """
    from mlalign.methods.metrics import columns
    from mlalign.methods.metrics.answers import joined

    scores = [a for a in inputs.artifacts("scores") if _of_sides(a)]
    renamed, found = _column_names(scores), []
    for name in sorted(
        {p.name for a in scores for p in rows.shards(a.path, cfg.split, cfg.languages or None)}
    ):
        sides, both = columns.of_sides(_marks(name, scores, renamed), metadata, cfg.parts)
        for language, complete in zip(sides.items.language, both, strict=True):
            if out and complete:
                out.tally.keep(language)
            elif out:
                out.tally.drop("only one side has scores", language)
        found.append(sides.only(both))
    return joined(found) if any(len(f.items) for f in found) else None


def _metadata(cfg: Config, inputs: Inputs) -> "Metadata":
    """What the metadata of the rows in `items` says: row id -> key -> value."""
    from mlalign.methods.metrics import columns

    shards = [
        s
        for a in inputs.artifacts("items")
        for s in rows.shards(a.path, cfg.split, cfg.languages or None)
    ]
    return {
        identifier: told
        for s in shards
        for identifier, told in columns.of_metadata(_read(s, ["id", "metadata"]), cfg.parts).items()
    }


def _of_sides(scores: Artifact) -> bool:
    """Whether scores are of preference rows, not of candidates."""
    return any(
        ":" in c
        for path in rows.shards(scores.path)[:1]
        for c in _read(path, ["candidate_id"])["candidate_id"].to_pylist()[:1]
    )


def _marks(
    shard: str, scores: Sequence[Artifact], renamed: Sequence[dict[str, str]]
) -> list[tuple["Table", dict[str, str]]]:
    """The scores of one shard from every artifact that has it, each with its column names."""
    from mlalign.methods.metrics.columns import ITEM

    paths = [
        (artifact.path / "rows" / shard, names)
        for artifact, names in zip(scores, renamed, strict=True)
    ]
    told = ("candidate_id", "response_lang_detected", *ITEM)
    return [
        (_read(path, [*told, *names]), names)
        for path, names in paths
        if has(path.parent.parent, f"rows/{path.name}")
    ]


def _read(shard: Path, columns: Sequence[str] | None = None) -> "Table":
    import pyarrow.parquet as pq

    return pq.ParquetFile(shard).read(columns=list(columns) if columns else None, use_threads=False)


def _column_names(scores: Sequence[Artifact]) -> list[dict[str, str]]:
    """For each scores artifact: column in the file -> name here.

    Steps of one `foreach` that share a name become `name[value]` where
    they score the same answers; scores of different answers (of several seeds, say) are one column.
    """
    found, out = [_score_columns(artifact) for artifact in scores], []
    for artifact, names in zip(scores, found, strict=True):
        shared: set[str] = set()
        for other, theirs in zip(scores, found, strict=True):
            if (
                other is not artifact
                and artifact.binding
                and set(names) & set(theirs)
                and _overlap(artifact, other)
            ):
                shared |= set(theirs)
        suffix = "".join(f"[{value}]" for value in artifact.binding.values())
        out.append(
            {
                name: name.removeprefix("score.") + (suffix if name in shared else "")
                for name in names
            }
        )
    return out


def _score_columns(artifact: Artifact) -> list[str]:
    import pyarrow.parquet as pq

    shards = rows.shards(artifact.path)
    return (
        [name for name in pq.read_schema(shards[0]).names if name.startswith("score.")]
        if shards
        else []
    )


def _overlap(a: Artifact, b: Artifact) -> bool:
    """Whether two scores artifacts score the same answers, by the first shard that both have."""
    names = sorted({p.name for p in rows.shards(a.path)} & {p.name for p in rows.shards(b.path)})
    ours, theirs = (
        {
            c
            for n in names[:1]
            for c in _read(x.path / "rows" / n, ["candidate_id"])["candidate_id"].to_pylist()
        }
        for x in (a, b)
    )
    return not ours.isdisjoint(theirs)
