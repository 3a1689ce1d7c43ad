"""What a model scores on a benchmark whose answers are given: pairs, best of several, or choices.

Needs neither a GPU nor a model. Reads the scores (slot `scores`) of preference or ranking rows
(slot `items`). The right answer of a row is the chosen side, or the responses of the lowest rank.
The key `subset` of the metadata names the part of the benchmark that a row belongs to. A row with
an answer that has no score is in no mean, and counted as `unscored`.

Writes `metrics.csv` and `metrics.json` as `evaluate` does, and `breakdown.csv` and `breakdown.json`
by section and subset (averages there have no interval). Metrics, by the benchmark:

choices        accuracy: how often the right choice scores highest (a tie counts 0.5)
pairs          reward_accuracy: the same for reward models; also reward_agreement and reward_kappa
               with English
rewardbench    also rewardbench and rewardbench_with_prior, as in
               `reward_models/evidence/rewardbench.py`
m_rewardbench  the same with the weights of M-RewardBench, whose average leaves English out
rewardbench_2  reward_accuracy of best-of-n, and rewardbench_2: the mean of its domains

Intervals are bootstrapped over groups.
"""

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mlalign.core import kinds, rows, spreadsheets
from mlalign.core.errors import UserError
from mlalign.core.schema import what
from mlalign.core.stage import Inputs, Output
from mlalign.core.store import write_json
from mlalign.methods.metrics import AVERAGE, COLUMNS, SUMMARIES

if TYPE_CHECKING:
    from reward_models.evidence.measures import Record
    from reward_models.evidence.verdicts import Verdict

VERSION = 1
KIND = "metrics"
SLOTS = {"scores": "rows", "items": "rows"}
SHARDED = None
DISTRIBUTED = False

READS = ("preference", "ranking")
# Measures of `reward_models.evidence` -> our metrics.
OF_REWARDS = {
    "accuracy": "reward_accuracy",
    "agreement": "reward_agreement",
    "kappa": "reward_kappa",
}
OF_REWARDBENCH = {
    **OF_REWARDS,
    "rewardbench": "rewardbench",
    "rewardbench_with_prior": "rewardbench_with_prior",
}
METRICS = {
    "choices": {"accuracy": "accuracy"},
    "pairs": OF_REWARDS,
    "rewardbench": OF_REWARDBENCH,
    "m_rewardbench": OF_REWARDBENCH,
    "rewardbench_2": {"accuracy": "reward_accuracy", "rewardbench_2": "rewardbench_2"},
}


@dataclasses.dataclass
class Config:
    benchmark: Literal["choices", "pairs", "rewardbench", "m_rewardbench", "rewardbench_2"] = what(
        "pairs", "whose metrics and averages"
    )
    score: str = what("", "score column to judge by; by default the only one")
    anchor_language: str = what("eng_Latn", "the language that gaps and agreement compare with")
    n_bootstrap: int = what(1000, "bootstrap draws")
    confidence: float = what(0.95, "confidence of the intervals")
    seed: int = what(0, "of the bootstrap")
    evaluation: dict[str, Any] = what(
        {}, "the evaluation that this is: name, origin, headline; for reports"
    )


def accepts(cfg: Config) -> dict[str, tuple[str, ...]]:
    return {"scores": ("scores",), "items": READS}


def gives(cfg: Config, inputs: kinds.Inputs) -> kinds.Gives:
    return kinds.Gives(columns=tuple(METRICS[cfg.benchmark].values()))


def misfits(cfg: Config, inputs: kinds.Inputs) -> list[str]:
    columns = kinds.columns_of(inputs.get("scores", ()))
    if columns is None or not cfg.score:
        return []
    return kinds.missing_columns({"score": cfg.score}, columns)


def run(cfg: Config, inputs: Inputs, out: Output) -> None:
    from reward_models.evidence import evaluation, measures

    column, scores = _scores(cfg, inputs.rows("scores"))
    verdicts = list(_verdicts(inputs.rows("items"), scores, out))
    if not verdicts:
        raise UserError(
            f"{out.step or 'benchmark'}: none of the rows has scores; score the rows of `items`"
        )

    weights = "m_rewardbench" if cfg.benchmark == "m_rewardbench" else "rewardbench"
    plan = measures.Plan(cfg.anchor_language, weights, cfg.n_bootstrap, cfg.confidence, cfg.seed)
    records = evaluation.evaluate(verdicts, plan)

    table = list(_table(cfg, records, column))
    breakdown = list(_breakdown(cfg, records, column))
    missing = _not_computed(cfg, table)
    write_json(out.path / "metrics.json", {"rows": table, "matrix": {}, "not_computed": missing})
    write_json(out.path / "breakdown.json", {"rows": breakdown})
    (out.path / "metrics.csv").write_text(spreadsheets.to_csv(table, COLUMNS), encoding="utf-8")
    (out.path / "breakdown.csv").write_text(
        spreadsheets.to_csv(breakdown, ("part", "member", *COLUMNS)), encoding="utf-8"
    )
    out.note(not_computed=missing)


def _scores(cfg: Config, path: Path) -> tuple[str, dict[str, float | None]]:
    """The name of the score column, and candidate id -> score.

    Raises: UserError if there are several columns and none is named.
    """
    import pyarrow.parquet as pq

    names: set[str] = set()
    for shard in rows.shards(path):
        for name in pq.read_schema(shard).names:
            if name.startswith("score."):
                names.add(name.removeprefix("score."))
    column = cfg.score or _only_score(names)
    messages = kinds.missing_columns({"score": column}, names)
    if messages:
        raise UserError(*messages)

    scores: dict[str, float | None] = {}
    for row in rows.read(path, columns=["candidate_id", f"score.{column}"]):
        scores[row["candidate_id"]] = row[f"score.{column}"]
    return column, scores


def _only_score(names: set[str]) -> str:
    """The one score among some columns; a scorer's further columns are called `SCORE.DETAIL`."""
    scores = sorted(name for name in names if name.rpartition(".")[0] not in names)
    if len(scores) != 1:
        columns = ", ".join(scores) or "(none)"
        raise UserError(f"score: the scores have the columns {columns}; name one")
    return scores[0]


def _verdicts(
    path: Path,
    scores: Mapping[str, float | None],
    out: Output,
) -> Iterator["Verdict"]:
    """What the scores say of every row that was scored."""
    from reward_models.evidence import verdicts

    for row in rows.read(path):
        right, wrong = _sides(row)
        if not any(name in scores for name in (*right, *wrong)):
            out.tally.drop("not scored", row["prompt_lang"])
            continue
        metadata = json.loads(row["metadata"]) if row["metadata"] else {}
        about = {
            "language": row["prompt_lang"],
            "group_id": row["group_id"],
            "subset": metadata.get("subset"),
        }
        scores_of_right = [scores.get(name) for name in right]
        scores_of_wrong = [scores.get(name) for name in wrong]
        verdict = verdicts.of_row(about, row["id"], scores_of_right, scores_of_wrong)
        if verdict.scored:
            out.tally.keep(row["prompt_lang"])
        else:
            out.tally.drop("unscored", row["prompt_lang"])
        yield verdict


def _sides(row: Mapping) -> tuple[list[str], list[str]]:
    """The ids of the right and of the wrong answers of a row, as `score` gives them."""
    if "chosen" in row:
        chosen = rows.side_id(row["id"], "chosen")
        rejected = rows.side_id(row["id"], "rejected")
        return [chosen], [rejected]
    best = min(row["ranks"])
    right: list[str] = []
    wrong: list[str] = []
    for place, rank in enumerate(row["ranks"]):
        side = right if rank == best else wrong
        side.append(rows.side_id(row["id"], str(place)))
    return right, wrong


def _table(
    cfg: Config,
    records: Iterable["Record"],
    column: str,
) -> Iterator[dict[str, Any]]:
    """The rows of the main table. The average of a single language is that language's value."""
    by_metric: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        metric = METRICS[cfg.benchmark].get(record.measure)
        if metric and record.language and not record.section and not record.subset:
            by_metric.setdefault(metric, []).append(_row(metric, column, record))
    for of_metric in by_metric.values():
        yield from of_metric
        has_average = any(row["language"] == AVERAGE for row in of_metric)
        of_languages = [row for row in of_metric if row["language"] not in SUMMARIES]
        if len(of_languages) == 1 and not has_average:
            yield {**of_languages[0], "language": AVERAGE}


def _breakdown(
    cfg: Config,
    records: Iterable["Record"],
    column: str,
) -> Iterator[dict[str, Any]]:
    """By section and subset: every language, and their average, in RewardBench without English."""
    cells: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for record in records:
        metric = METRICS[cfg.benchmark].get(record.measure)
        if not metric or not record.language or not (record.section or record.subset):
            continue
        part = "subset" if record.subset else "section"
        member = record.subset or record.section
        of_languages = cells.setdefault((part, member, metric), [])
        of_languages.append(_row(metric, column, record))
    for (part, member, metric), of_languages in cells.items():
        place = {"part": part, "member": member}
        for row in of_languages:
            yield {**place, **row}
        average = _average(of_languages, metric, cfg.anchor_language)
        if average is not None:
            yield {**place, **average}


def _average(
    of_languages: Sequence[dict[str, Any]],
    metric: str,
    anchor_language: str,
) -> dict[str, Any] | None:
    """The mean over languages; it has an interval only where it is that of a single language."""
    averaged = [row for row in of_languages if row["value"] is not None]
    if metric.startswith("rewardbench"):
        others = [row for row in averaged if row["language"] != anchor_language]
        averaged = others or averaged
    if not averaged:
        return None
    average = {**averaged[0], "language": AVERAGE}
    total = sum(row["value"] for row in averaged)
    average["value"] = round(total / len(averaged), 6)
    for name in ("n", "n_groups"):
        average[name] = sum(row[name] for row in averaged)
    if len(averaged) > 1:
        average |= {"low": None, "high": None}
    return average


def _row(metric: str, column: str, record: "Record") -> dict[str, Any]:
    return {
        "metric": metric,
        "by": column,
        "language": record.language,
        "value": record.value,
        "low": record.low,
        "high": record.high,
        "n": record.size.n,
        "n_groups": record.size.n_groups,
        "which": record.which,
    }


def _not_computed(cfg: Config, table: Sequence[Mapping]) -> list[str]:
    """The benchmark's own score where the rows do not have all of its sections or domains."""
    score = "rewardbench" if cfg.benchmark == "m_rewardbench" else cfg.benchmark
    is_there = any(row["metric"] == score for row in table)
    if is_there or score not in METRICS[cfg.benchmark]:
        return []
    return [
        f"{score}: the rows do not cover all of its sections; see the breakdown for those that they"
        " have"
    ]
