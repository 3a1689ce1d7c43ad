"""Tables of results by language, from answers and scores alone (CPU, no model).

Reads scores (slot `scores`, one or more artifacts); the candidates they belong to (`rows`); a
baseline's candidates on the same prompts with their scores (`baseline`, `baseline_scores`); another
policy's on them (`control`, `control_scores`); and the prompts or preference rows that were
answered or scored (`items`), for their metadata. Candidates and scores are joined by
`candidate_id`, shard by shard of the same name, policies by row id. Scores of preference rows need
no other input.

Writes
  metrics.csv, metrics.json      the main table: metric, by, language, value, low, high,
                                 n (prompts), n_groups, which (`metrics/table.py`); the JSON also
                                 has a source x target `matrix` of reward accuracies and
                                 `not_computed`, as in the manifest
  breakdown.csv, breakdown.json  part, member and the columns of the main table: averages by
                                 `script` and resource `tier`; accuracy, adherence, win rate and
                                 reward accuracy by `origin` and metadata (`parts`); best of `k`
  confusion.json                 asked, detected, counts (asked x detected), by: the languages
                                 that answers are in
  consistency.json               languages, values, low, high, n_groups (each languages x
                                 languages), by: agreement on right or wrong

Metrics of candidates: accuracy, adherence, line_share, word_share, line_pass, word_pass, lcpr,
right_in_language, right_elsewhere, wrong_in_language, wrong_elsewhere, adherence_of_right,
coco_cola (`metrics/confusion.py`); consistency and consistency_kappa with English, consistency_all
(`metrics/consistency.py`); oracle_accuracy, selected_accuracy (`metrics/best_of_n.py`); tokens,
characters, bytes, content_bytes, byte_premium, tokens_per_character, truncated
(`metrics/length.py`). With a baseline, also win_rate, win_rate_lc (`metrics/win_rate.py`) and
METRIC_over_baseline; with a control, METRIC_over_control, also of win rates: ours minus theirs,
paired. With `stored_by`, stored_win_rate and stored_win_rate_lc, over the answers stored in
`reference`, take the place of win rates. Of preference rows: reward_accuracy (a tie counts 0.5),
reward_ties, and reward_agreement and reward_kappa with English, for each score column.

Intervals are bootstrapped over groups. Metrics whose columns are missing are listed with the reason
under `not_computed`.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from mlalign.core import kinds
from mlalign.core.errors import UserError
from mlalign.core.schema import what
from mlalign.core.stage import Inputs, Output
from mlalign.core.store import Tally, write_json
from mlalign.evidence.text import METRICS, OVER

if TYPE_CHECKING:
    from mlalign.evidence.scored import Reader
    from mlalign.methods.metrics.answers import Answers, Items
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
    accepted: dict[str, tuple[str, ...]] = {}
    for slot in ("rows", "baseline", "control"):
        accepted[slot] = ("candidates",)
    for slot in ("scores", "baseline_scores", "control_scores"):
        accepted[slot] = ("scores",)
    return accepted


def gives(cfg: Config, inputs: kinds.Inputs) -> kinds.Gives:
    columns = []
    for name in METRICS:
        columns += [name, *(name + over for over in OVER)]
    return kinds.Gives(columns=tuple(columns))


def misfits(cfg: Config, inputs: kinds.Inputs) -> list[str]:
    columns = kinds.columns_of(inputs.get("scores", ()))
    return [] if columns is None else kinds.missing_columns(_named(cfg), columns)


def run(cfg: Config, inputs: Inputs, out: Output) -> None:
    from mlalign.methods.metrics import bootstrap
    from mlalign.methods.metrics.tables import Tables

    reader = _reader(cfg, inputs)
    ours = _policy(reader, inputs, "rows", out.tally)
    preferences = reader.preferences(inputs.artifacts("scores"), out.tally)
    others = {slot: _policy(reader, inputs, slot) for slot in ("baseline", "control")}
    if ours is None and preferences is None:
        raise UserError(
            f"{out.step or 'evaluate'}: no rows of split {cfg.split!r} in the languages asked for;"
            " see `split` and `languages`"
        )
    _check(cfg, ours, preferences, others)

    groups: list[str] = []
    for answers in (ours, preferences, *others.values()):
        if answers is not None:
            groups += list(answers.items.group)
    draws = bootstrap.draw(groups, cfg.n_bootstrap, cfg.seed)
    tables = Tables(draws, cfg.anchor_language, cfg.confidence)
    if ours is not None:
        _policy_tables(cfg, ours, others, tables, out)
    if preferences is not None:
        _reward_tables(cfg, preferences, tables)
    if "items" not in inputs:
        tables.miss(f"breakdown by {', '.join(cfg.parts)}", "no `items` with metadata are given")

    _write(tables, out)
    out.note(not_computed=tables.not_computed)
    out.progress(1, 1, "tables", force=True)


def by_item(cfg: Config, inputs: Inputs, metric: str, by: str) -> "tuple[Items, Measure] | None":
    """What every item adds to a metric, for statistics over several evaluations.

    The metric is one of our answers, of their wins, or of preference rows. None for a metric that
    is no sum over items (differences of policies, length-controlled win rates).
    """
    from mlalign.methods.metrics import measures

    reader = _reader(cfg, inputs)
    ours = _policy(reader, inputs, "rows")
    preferences = reader.preferences(inputs.artifacts("scores"))
    measured: list[tuple[Items, Measure]] = []
    if ours is not None:
        for measure in measures.of_answers(ours, _columns(cfg), cfg.anchor_language):
            measured.append((ours.items, measure))
        baseline = _policy(reader, inputs, "baseline")
        if baseline is not None:
            measured.append((ours.items, measures.of_wins(ours, baseline, cfg.win_by)))
    if preferences is not None:
        for measure in measures.of_preferences(preferences, by, cfg.anchor_language):
            measured.append((preferences.items, measure))

    for items, measure in measured:
        if (measure.name, measure.by) == (metric, by):
            return items, measure
    return None


def _reader(cfg: Config, inputs: Inputs) -> "Reader":
    from mlalign.evidence.scored import Reader

    reader = Reader(cfg.split, cfg.languages, cfg.adherence_by, cfg.parts, bool(cfg.stored_by))
    reader.read_metadata(inputs.artifacts("items"))
    return reader


def _policy(
    reader: "Reader",
    inputs: Inputs,
    slot: str,
    tally: Tally | None = None,
) -> "Answers | None":
    """The answers of the candidates in a slot; None without any."""
    scores_slot = "scores" if slot == "rows" else f"{slot}_scores"
    scores = inputs.artifacts(scores_slot) or inputs.artifacts("scores")
    return reader.answers(inputs.artifacts(slot), scores, slot, tally)


def _write(tables: "Tables", out: Output) -> None:
    from mlalign.methods.metrics import table

    breakdown = sorted(tables.breakdown, key=lambda row: row["part"])
    (out.path / "metrics.csv").write_text(table.to_csv(tables.rows), encoding="utf-8")
    breakdown_csv = table.to_csv(breakdown, table.BREAKDOWN)
    (out.path / "breakdown.csv").write_text(breakdown_csv, encoding="utf-8")

    metrics = {
        "rows": tables.rows,
        "matrix": table.matrix(tables.rows, "reward_accuracy"),
        "not_computed": tables.not_computed,
    }
    write_json(out.path / "metrics.json", metrics)
    breakdown_rows = [{name: row[name] for name in table.BREAKDOWN} for row in breakdown]
    write_json(out.path / "breakdown.json", {"rows": breakdown_rows})


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
    from mlalign.methods.metrics import measures
    from mlalign.methods.metrics.answers import pairs
    from mlalign.methods.metrics.tables import add_best_of_k

    columns = _columns(cfg)
    own_measures = []
    for measure in measures.of_answers(ours, columns, cfg.anchor_language):
        own_measures.append(_broken_down(cfg, measure))
    for measure in own_measures:
        tables.add(ours.items, measure)
    if (ours.present.sum(1) > 1).any():
        add_best_of_k(tables, ours, columns)

    baseline = others["baseline"]
    if cfg.stored_by:
        _stored_tables(cfg, ours, others, tables)
    elif baseline is not None:
        _win_tables(cfg, ours, baseline, others["control"], tables, out)
    for name, theirs in others.items():
        if theirs is None:
            continue
        same_items = pairs(ours.items, theirs.items)
        their_measures = measures.of_answers(theirs, columns, cfg.anchor_language)
        for measure, their_measure in zip(own_measures, their_measures, strict=True):
            if measure.compared:
                tables.add_difference(ours.items, measure, their_measure, same_items, name)

    _write_matrices(cfg, ours, out)


def _write_matrices(cfg: Config, ours: "Answers", out: Output) -> None:
    """Languages asked for x detected, and how often two languages agree on right or wrong."""
    from mlalign.methods.metrics import accuracy, confusion, consistency

    items = ours.items
    asked_and_detected = confusion.matrix(items.language, ours.detected, ours.present)
    write_json(out.path / "confusion.json", {"by": cfg.adherence_by, **asked_and_detected})
    right = accuracy.mean(ours.score(cfg.accuracy_by))
    agreement = consistency.matrix(items.language, items.group, right, cfg.confidence)
    write_json(out.path / "consistency.json", {"by": cfg.accuracy_by, **agreement})


def _broken_down(cfg: Config, measure: "Measure") -> "Measure":
    broken_down = measure.broken_down or measure.name in cfg.break_down
    return dataclasses.replace(measure, broken_down=broken_down)


def _stored_tables(
    cfg: Config,
    ours: "Answers",
    others: Mapping[str, "Answers | None"],
    tables: "Tables",
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
            same_items = pairs(ours.items, theirs.items)
            their_wins = of_stored(theirs, cfg.stored_by)
            tables.add_difference(ours.items, wins, their_wins, same_items, name)


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
        their_wins = of_wins(control, baseline, cfg.win_by)
        same_items = pairs(ours.items, control.items)
        tables.add_difference(ours.items, wins, their_wins, same_items, "control")
        add_length_controlled_difference(tables, ours, control, baseline, cfg.win_by, cfg.length_by)


def _reward_tables(cfg: Config, preferences: "Answers", tables: "Tables") -> None:
    from mlalign.methods.metrics import measures

    present = set(preferences.scores)
    # Columns called SCORER.DETAIL only add to the value in SCORER.
    values = {name for name in present if name.rpartition(".")[0] not in present}
    for column in cfg.reward_by or sorted(values - {cfg.accuracy_by, cfg.adherence_by}):
        for measure in measures.of_preferences(preferences, column, cfg.anchor_language):
            tables.add(preferences.items, measure)


# ------------------------------------------------------------------------------------------ checks


def _check(
    cfg: Config,
    ours: "Answers | None",
    preferences: "Answers | None",
    others: Mapping[str, "Answers | None"],
) -> None:
    """Raises: UserError if a column that a person named is missing, or policies share no prompts.

    The defaults `verifier` and `language_adherence` may be missing.
    """
    present: set[str] = set()
    for answers in (ours, preferences):
        if answers is not None:
            present |= set(answers.scores)
    messages = kinds.missing_columns(_named(cfg), present)
    for slot, theirs in others.items():
        if theirs is None:
            continue
        if ours is None:
            messages.append(f"rows: missing; a {slot} is given and nothing to compare with it")
        elif set(ours.items.id).isdisjoint(theirs.items.id):
            messages.append(
                f"{slot}: answers none of the same prompts; generate it from the same rows"
            )
    if messages:
        raise UserError(*messages)


SCORE_KEYS = (
    "win_by",
    "accuracy_by",
    "concept_by",
    "adherence_by",
    "words_by",
    "select_by",
    "stored_by",
)


def _named(cfg: Config) -> dict[str, str]:
    """The score columns that a person named, by key."""
    named = {}
    for key in SCORE_KEYS:
        column = getattr(cfg, key)
        if column != getattr(Config, key):
            named[key] = column
    for index, column in enumerate(cfg.reward_by):
        named[f"reward_by[{index}]"] = column
    return named
