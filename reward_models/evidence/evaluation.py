"""From verdicts to evidence: accuracies, benchmarks' own averages, agreement with English. Pure.

Accuracy is measured by language, section and subset.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from reward_models.evidence import measures, rewardbench, statistics
from reward_models.evidence.measures import AVERAGE, Measured, Plan, Record, Size, Table, record
from reward_models.evidence.verdicts import Verdict

# Every combination of fields by which accuracy is measured.
PLACES = (
    ("language",),
    ("section",),
    ("subset",),
    ("language", "section"),
    ("language", "subset"),
)


def evaluate(verdicts: Sequence[Verdict], plan: Plan) -> list[Record]:
    """Every table of one scorer, as records in a fixed order; the order of verdicts is ignored."""
    table = Table(verdicts, plan)
    records: list[Record] = []
    for where in _places(table.cells):
        records += table.records(where)
    by_language = {code: table.mean({"language": code}, "accuracy") for code in table.languages}
    records += measures.summaries("accuracy", by_language, table, table.languages)
    records += _rewardbench(table)
    records += _rewardbench_2(verdicts, plan)
    records += _consistency(verdicts, plan)
    return records


def _places(cells: Sequence[tuple[str, str, str]]) -> list[dict[str, str]]:
    """All rows; each language, section and subset; sections and subsets within languages."""
    field_names = ("language", "section", "subset")
    rows = [dict(zip(field_names, cell, strict=True)) for cell in cells]
    places: list[dict[str, str]] = [{}]
    for fields in PLACES:
        values = {tuple(row[field] for field in fields) for row in rows}
        for value in sorted(values):
            # Rows without a section or a subset count in the others only.
            is_named = fields == ("language",) or value[-1]
            if is_named:
                places.append(dict(zip(fields, value, strict=True)))
    return places


# ------------------------------------------------------------------------------------- benchmarks


def _rewardbench(table: Table) -> list[Record]:
    """RewardBench by language: sections, score, score with the prior sets; then over languages.

    As in M-RewardBench, the average over languages is without English.
    """
    plan = table.plan
    weights = rewardbench.COUNTS[plan.counts]
    scores: dict[str, Measured] = {}
    records: list[Record] = []
    for language in table.languages:
        values, replicates = _subset_means(table, language)
        points = rewardbench.sections(values, weights)
        draws = rewardbench.sections(replicates, weights)
        for section, point in points.items():
            where = {"language": language, "section": section}
            measured = (point, draws[section])
            records.append(record("rewardbench", measured, plan, table.size(where), **where))

        size = table.size({"language": language})
        score = rewardbench.score(points)
        if score is not None:
            measured = (score, rewardbench.score(draws))
            scores[language] = measured
            records.append(record("rewardbench", measured, plan, size, language=language))
        prior = rewardbench.with_prior(points, values)
        if prior is not None:
            measured = (prior, rewardbench.with_prior(draws, replicates))
            name = "rewardbench_with_prior"
            records.append(record(name, measured, plan, size, language=language))

    averaged = sorted(set(scores) - {table.plan.anchor})
    return records + measures.summaries("rewardbench", scores, table, averaged)


def _subset_means(table: Table, language: str) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Subset -> accuracy with ties wrong, and subset -> its B replicates."""
    values = {}
    replicates = {}
    subsets = {subset for code, _, subset in table.cells if code == language}
    for subset in sorted(subsets):
        where = {"language": language, "subset": subset}
        value, draws = table.mean(where, "accuracy_ties_wrong")
        if not np.isnan(value):
            values[subset] = value
            replicates[subset] = draws
    return values, replicates


def _rewardbench_2(verdicts: Sequence[Verdict], plan: Plan) -> list[Record]:
    """RewardBench 2 by language: its domains and their mean.

    Only scored rows of its domains that have more than two answers.
    """
    by_language: dict[str, list[Verdict]] = defaultdict(list)
    for verdict in verdicts:
        if verdict.subset in rewardbench.DOMAINS and verdict.scored and verdict.n_answers > 2:
            by_language[verdict.language].append(verdict)

    records: list[Record] = []
    for language, own in sorted(by_language.items()):
        domains = _domains(own, plan)
        if set(domains) == set(rewardbench.DOMAINS):
            domains[""] = measures.average(list(domains.values()))
        for domain, measured in domains.items():
            size = _size([verdict for verdict in own if domain in ("", verdict.subset)])
            where = {"language": language, "section": domain}
            records.append(record("rewardbench_2", measured, plan, size, **where))
    return records


def _size(verdicts: Sequence[Verdict], unlinked: int = 0) -> Size:
    groups = {verdict.group_id for verdict in verdicts}
    return Size(len(verdicts), len(groups), unlinked=unlinked)


def _domains(verdicts: Sequence[Verdict], plan: Plan) -> dict[str, Measured]:
    """Domain -> its score. Ties is a weighted sum of the means of several parts."""
    parts = _ties_parts(verdicts)
    for verdict in verdicts:
        if verdict.subset != rewardbench.TIES:
            accuracy = verdict.values[0]
            parts.append((verdict.group_id, verdict.subset, accuracy))
    means = _means(parts, plan)
    domains = {name: means[name] for name in rewardbench.DOMAINS if name in means}

    points = {}
    replicates = {}
    for name in rewardbench.TIES_WEIGHTS:
        if name in means:
            point, draws = means[name]
            points[name] = np.nan_to_num(point)
            replicates[name] = np.nan_to_num(draws)
    if points:
        score = rewardbench.ties_score(points)
        domains[rewardbench.TIES] = (score, rewardbench.ties_score(replicates))
    return domains


def _means(parts: Sequence[tuple[str, str, float]], plan: Plan) -> dict[str, Measured]:
    """Name -> mean of its values, from (group, name, value)."""
    group_ids, names, values = zip(*parts, strict=True)
    groups = measures.numbered(group_ids)
    cells = measures.numbered(names)
    values_and_ones = np.array([values, np.ones(len(values))])
    distinct_names = sorted(set(names))

    totals, counts = statistics.sums(values_and_ones, cells, len(distinct_names))
    points = statistics.ratio(totals, counts)
    shape = (int(groups.max()) + 1, len(distinct_names))
    resampled = _resampled(values_and_ones, groups, cells, shape, plan)
    replicates = statistics.ratio(resampled[:, 0], resampled[:, 1])
    return {name: (points[i], replicates[:, i]) for i, name in enumerate(distinct_names)}


def _resampled(values: Any, groups: Any, cells: Any, shape: tuple[int, int], plan: Plan) -> Any:
    return statistics.resampled_sums(values, groups, cells, shape, plan.replicates, plan.seed)


def _ties_parts(verdicts: Iterable[Verdict]) -> list[tuple[str, str, float]]:
    """(group, name in `rewardbench.TIES_WEIGHTS`, value) of every Ties prompt with its reference.

    The reference is the one with a single right answer.
    """
    prompts: dict[str, dict[str, rewardbench.Answers]] = defaultdict(dict)
    for verdict in verdicts:
        if verdict.subset == rewardbench.TIES:
            kind = "ref" if len(verdict.chosen) == 1 else "tied"
            prompts[verdict.group_id][kind] = (verdict.chosen, verdict.rejected)

    parts: list[tuple[str, str, float]] = []
    for group, prompt in prompts.items():
        values = rewardbench.ties(prompt.get("ref"), prompt.get("tied"))
        parts += [(group, name, value) for name, value in values.items()]
    return parts


# ------------------------------------------------------------------------- agreement with English


def _consistency(verdicts: Sequence[Verdict], plan: Plan) -> list[Record]:
    """Agreement and Cohen's kappa of each language's preferences with the anchor's.

    A preference is chosen, rejected or tie. Only items with exactly one scored row in both
    languages count; a language's other rows are counted as `unlinked`.
    """
    scored = [verdict for verdict in verdicts if verdict.scored]
    linked, anchor = _linked(scored, plan.anchor)
    if not linked:
        return []

    n_rows = Counter(verdict.language for verdict in scored)
    del n_rows[plan.anchor]
    languages = sorted(n_rows)
    points, replicates = _cross_tables(linked, anchor, languages, plan)
    records = []
    kappas = []
    for i, language in enumerate(languages):
        own = [verdict for verdict in linked if verdict.language == language]
        size = _size(own, unlinked=n_rows[language] - len(own))
        point = points[i]
        draws = replicates[:, i]
        agreement = (float(statistics.agreement(point)), statistics.agreement(draws))
        records.append(record("agreement", agreement, plan, size, language=language))
        kappa = (float(statistics.kappa(point)), statistics.kappa(draws))
        records.append(record("kappa", kappa, plan, size, language=language))
        if not np.isnan(kappa[0]):
            kappas.append(kappa)
    if kappas:
        average = measures.average(kappas)
        records.append(record("kappa", average, plan, _size(linked), language=AVERAGE))
    return records


def _linked(
    scored: Sequence[Verdict], anchor_language: str
) -> tuple[list[Verdict], dict[str, int]]:
    """Verdicts in other languages on items of the anchor language, and item -> preference there.

    Only items with exactly one row in a language count in it.
    """
    n_rows = Counter((verdict.language, verdict.item) for verdict in scored)
    single = [verdict for verdict in scored if n_rows[verdict.language, verdict.item] == 1]
    anchor = {}
    for verdict in single:
        if verdict.language == anchor_language:
            anchor[verdict.item] = verdict.preferred

    linked = []
    for verdict in single:
        if verdict.language != anchor_language and verdict.item in anchor:
            linked.append(verdict)
    return linked, anchor


def _cross_tables(
    linked: Sequence[Verdict],
    anchor: Mapping[str, int],
    languages: Sequence[str],
    plan: Plan,
) -> tuple[np.ndarray, np.ndarray]:
    """Counts (L x 3 x 3) of (the language's preference, the anchor's); B replicates of them."""
    n_languages = len(languages)
    number = {language: i for i, language in enumerate(languages)}
    # A cell is (language, preference, the anchor's preference) as one number.
    cells = []
    for verdict in linked:
        preferences = 3 * verdict.preferred + anchor[verdict.item]
        cells.append(9 * number[verdict.language] + preferences)

    n_cells = 9 * n_languages
    groups = measures.numbered([verdict.group_id for verdict in linked])
    shape = (int(groups.max()) + 1, n_cells)
    ones = np.ones((1, len(linked)))
    points = statistics.sums(ones, np.array(cells), n_cells)
    replicates = _resampled(ones, groups, np.array(cells), shape, plan)
    return points.reshape(n_languages, 3, 3), replicates.reshape(-1, n_languages, 3, 3)
