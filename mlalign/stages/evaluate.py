"""Tables of results by language, from answers and scores alone (CPU, no model).

Reads scores (slot `scores`, one or more artifacts), the candidates they belong to (slot `rows`), and a baseline's candidates on
the same prompts with their scores (`baseline`, `baseline_scores`); joined by `candidate_id`, shard by shard of the same name.
Scores of preference rows need no other input. Writes `metrics.csv` (long: metric, by, language, value, low, high, n, n_groups,
which; explained in `mlalign/metrics/table.py`) and `metrics.json` (the same rows, and a source x target matrix of reward accuracies).

On candidates: accuracy (mean of the verifier), adherence, tokens, characters; with `select_by` selected_accuracy and oracle_accuracy;
with a baseline win_rate and win_rate_lc (`mlalign/metrics/win_rate.py` has the formulas). On scores of preference rows:
reward_accuracy (ties 0.5) and reward_ties for each score column. Intervals are bootstrapped over groups. A metric whose column
has no value at all (no references, say) is named under `not_computed` in the manifest.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mlalign import rows
from mlalign.errors import UserError, nearest
from mlalign.schema import what
from mlalign.stage import Inputs, Output
from mlalign.store import Artifact, write_json

if TYPE_CHECKING:
    from mlalign.metrics import Item, Observation
    from mlalign.metrics.win_rate import Comparison

VERSION = 1
KIND = "metrics"
SLOTS = {"scores": "rows*", "rows": "rows*?", "baseline": "rows*?", "baseline_scores": "rows*?"}
SHARDED = None
DISTRIBUTED = False


@dataclasses.dataclass
class Config:
    win_by: str = what("verifier", "score column that decides wins over the baseline; not a reward model that the policy was trained on")
    accuracy_by: str = what("verifier", "score column that says whether an answer is right")
    adherence_by: str = what("language_adherence", "score column that says whether an answer is in the requested language")
    length_by: Literal["tokens", "characters"] = what("characters", "unit of length for the length-controlled win rate")
    reward_by: list[str] = what([], "score columns tested on preference rows; none named: all but accuracy and adherence")
    select_by: str = what("", "score column that selects among the candidates (selected_accuracy)")
    n_bootstrap: int = what(1000, "bootstrap draws")
    confidence: float = what(0.95, "confidence of the intervals")
    anchor_language: str = what("eng_Latn", "the language that gap_to_english compares with")
    split: Literal["train", "eval"] | None = what("eval", "split to measure; null: all rows")
    languages: list[str] = what([], "prompt languages to measure; none named: all")
    seed: int = what(0, "of the bootstrap")


def run(cfg: Config, inputs: Inputs, out: Output) -> None:
    from mlalign.metrics import table

    scores = inputs.artifacts("scores")
    answers = [item for artifact in inputs.artifacts("rows") for item in _answers(cfg, artifact.path, scores, out)]
    preferences = list(_preferences(cfg, scores, out))
    if not answers and not preferences:
        raise UserError(f"{out.step or 'evaluate'}: no rows of split {cfg.split!r} in the languages asked for; see `split` and `languages`")
    _check(cfg, answers, preferences, inputs)
    result = _answer_rows(cfg, answers, out) + _reward_rows(cfg, preferences, out)
    if "baseline" in inputs:
        marks = inputs.artifacts("baseline_scores") or scores
        baseline = [item for artifact in inputs.artifacts("baseline") for item in _answers(cfg, artifact.path, marks, None)]
        result += _win_rows(cfg, answers, baseline, out)
    (out.path / "metrics.csv").write_text(table.to_csv(result), encoding="utf-8")
    write_json(out.path / "metrics.json", {"rows": result, "matrix": table.matrix(result, "reward_accuracy")})
    out.progress(1, 1, "tables", force=True)


def _answers(cfg: Config, path: Path, scores: Sequence[Artifact], out: Output | None) -> Iterator["Item"]:
    """The prompts of a candidates artifact with their answers' scores; with `out`, prompts and answers without any score are counted."""
    from mlalign.metrics import Answer, Item

    if (kind := rows.kind_of(path)) != "candidates":
        raise UserError(f"{path}: holds {kind} rows, `rows` and `baseline` are candidates (a `generate` step)")
    renamed = _column_names(scores)
    for shard in rows.shards(path, cfg.split, cfg.languages or None):
        by_id = {row["candidate_id"]: values for row, values in _scores_of(shard.name, scores, renamed)}
        for row in rows.read_shard(shard):
            given = [(r["candidate_id"], r["n_tokens"], len(r["text"] or "")) for r in row["responses"]]
            answers = tuple(Answer(by_id.get(identifier, {}), n_tokens, n_characters) for identifier, n_tokens, n_characters in given)
            if out:
                out.tally.keep(row["prompt_lang"])
                if without := sum(identifier not in by_id for identifier, _, _ in given):
                    out.tally.add("answers without scores", row["prompt_lang"], without)
            yield Item(row["id"], row["prompt_lang"], row["group_id"], answers)


def _preferences(cfg: Config, scores: Sequence[Artifact], out: Output) -> Iterator["Item"]:
    """The preference rows whose two sides (`rows.side_id`) stand in the scores, each with the answers (chosen, rejected)."""
    from mlalign.metrics import Answer, Item

    renamed = _column_names(scores)
    for name in sorted({p.name for a in scores for p in rows.shards(a.path, cfg.split, cfg.languages or None)}):
        sides: dict[str, dict[str, tuple[dict, dict]]] = {}
        for row, values in _scores_of(name, scores, renamed):
            identifier, _, side = row["candidate_id"].partition(":")
            if side:
                sides.setdefault(identifier, {})[side] = (row, values)
        for identifier, both in sides.items():
            row = next(iter(both.values()))[0]
            if len(both) < 2:
                out.tally.drop("only one side has scores", row["prompt_lang"])
                continue
            out.tally.keep(row["prompt_lang"])
            yield Item(identifier, row["prompt_lang"], row["group_id"], tuple(Answer(both[s][1], None, 0) for s in ("chosen", "rejected")))


def _scores_of(shard: str, scores: Sequence[Artifact], renamed: Sequence[dict[str, str]]) -> list[tuple[dict, dict]]:
    """(score row, its values) of each candidate, with the values from every scores artifact that has a shard of this name."""
    found: dict[str, tuple[dict, dict]] = {}
    for artifact, names in zip(scores, renamed, strict=True):
        if (path := artifact.path / "rows" / shard).is_file():
            for row in rows.read_shard(path):
                values = {new: row[old] for old, new in names.items()}
                found.setdefault(row["candidate_id"], (row, {}))[1].update(values)
    return list(found.values())


def _column_names(scores: Sequence[Artifact]) -> list[dict[str, str]]:
    """For each scores artifact: column in the file -> name here. Steps of one `foreach` that share a name become `name[value]`."""
    import pyarrow.parquet as pq

    found = []
    for artifact in scores:
        shards = rows.shards(artifact.path)
        names = pq.read_schema(shards[0]).names if shards else []
        found.append([name for name in names if name.startswith("score.")])
    shared = {name for i, names in enumerate(found) for name in names if any(name in other for other in found[:i] + found[i + 1 :])}
    out = []
    for artifact, names in zip(scores, found, strict=True):
        suffix = "".join(f"[{value}]" for value in artifact.binding.values())
        out.append({name: name.removeprefix("score.") + (suffix if name in shared else "") for name in names})
    return out


def _check(cfg: Config, answers: Sequence["Item"], preferences: Sequence["Item"], inputs: Inputs) -> None:
    """Columns that a person named must be there; the defaults `verifier` and `language_adherence` may be missing."""
    present = {name for item in [*answers, *preferences] for a in item.answers for name in a.scores}
    keys = ("win_by", "accuracy_by", "adherence_by", "select_by")
    named = {key: getattr(cfg, key) for key in keys if getattr(cfg, key) != getattr(Config, key)}
    named |= {f"reward_by[{i}]": name for i, name in enumerate(cfg.reward_by)}
    problems = [f"{key}: the scores have no column {name!r}{nearest(name, present)}" for key, name in named.items() if name not in present]
    if "baseline" in inputs and not answers:
        problems.append("rows: missing; a baseline is given and nothing to compare with it")
    if problems:
        raise UserError(*problems)


def _observed(items: Sequence["Item"], measure: Callable[["Item"], float | None]) -> list["Observation"]:
    from mlalign.metrics import Observation

    values = ((item, measure(item)) for item in items)
    return [Observation(item.language, item.group_id, value) for item, value in values if value is not None]


def _mean_rows(cfg: Config, metric: str, by: str, observed: Sequence["Observation"], out: Output, **kind: bool) -> list[dict]:
    """The rows of a metric that is a mean; none if nothing was observed, which the manifest says. `kind` as in `table.summarise`."""
    from mlalign.metrics import bootstrap, table

    if not observed:
        out.notes.setdefault("not_computed", []).append(f"{metric}: no value in column {by!r}" if by else f"{metric}: no value")
        return []
    estimate = bootstrap.means(observed, cfg.n_bootstrap, cfg.seed)
    return table.summarise(metric, by, estimate, cfg.anchor_language, cfg.confidence, **kind)


def _answer_rows(cfg: Config, answers: Sequence["Item"], out: Output) -> list[dict]:
    from mlalign.metrics import accuracy

    if not answers:
        return []
    table = []
    for metric, column in (("accuracy", cfg.accuracy_by), ("adherence", cfg.adherence_by)):
        table += _mean_rows(cfg, metric, column, _observed(answers, partial(accuracy.mean_score, column=column)), out)
    for metric, measure in (("tokens", accuracy.mean_tokens), ("characters", accuracy.mean_characters)):
        table += _mean_rows(cfg, metric, "", _observed(answers, measure), out, higher_is_better=False)
    if cfg.select_by:
        picked = _observed(answers, partial(accuracy.selected, by=cfg.select_by, column=cfg.accuracy_by))
        table += _mean_rows(cfg, "selected_accuracy", cfg.select_by, picked, out)
        best = _observed(answers, partial(accuracy.oracle, column=cfg.accuracy_by))
        table += _mean_rows(cfg, "oracle_accuracy", cfg.accuracy_by, best, out)
    return table


def _reward_rows(cfg: Config, preferences: Sequence["Item"], out: Output) -> list[dict]:
    from mlalign.metrics import accuracy

    present = {name for item in preferences for a in item.answers for name in a.scores}
    table = []
    for column in cfg.reward_by or sorted(present - {cfg.accuracy_by, cfg.adherence_by}):
        right = _observed(preferences, partial(accuracy.reward_accuracy, column=column))
        table += _mean_rows(cfg, "reward_accuracy", column, right, out)
        ties = _observed(preferences, partial(accuracy.tie, column=column))
        table += _mean_rows(cfg, "reward_ties", column, ties, out, higher_is_better=False)
    return table


def _win_rows(cfg: Config, ours: Sequence["Item"], baseline: Sequence["Item"], out: Output) -> list[dict]:
    from mlalign.metrics import table, win_rate

    by_id = {item.id: item for item in baseline}
    if not any(item.id in by_id for item in ours):
        raise UserError("baseline: answers none of the same prompts; generate it from the same rows")
    compared = []
    for item in ours:
        if comparison := _comparison(cfg, item, by_id.get(item.id)):
            compared.append(comparison)
        else:
            out.tally.add("prompts without a comparison to the baseline", item.language)
    found = _mean_rows(cfg, "win_rate", cfg.win_by, win_rate.raw(compared), out)
    if not compared:
        return found
    estimate = win_rate.length_controlled_estimate(compared, cfg.n_bootstrap, cfg.seed)
    return found + table.summarise("win_rate_lc", cfg.win_by, estimate, cfg.anchor_language, cfg.confidence)


def _comparison(cfg: Config, ours: "Item", theirs: "Item | None") -> "Comparison | None":
    """All pairs of answers that have the deciding score (and, for tokens, a length); None if there is none."""
    from mlalign.metrics.win_rate import Comparison, outcomes

    length = "n_tokens" if cfg.length_by == "tokens" else "n_characters"
    sides = [[(a.scores.get(cfg.win_by), getattr(a, length)) for a in item.answers] if item else [] for item in (ours, theirs)]
    a, b = ([(s, n) for s, n in side if s is not None and n is not None] for side in sides)
    if not a or not b:
        return None
    wins = outcomes([s for s, _ in a], [s for s, _ in b])
    return Comparison(ours.language, ours.group_id, wins, tuple(n - m for _, n in a for _, m in b))
