"""From verdicts to evidence: accuracies, benchmarks' own averages, agreement with English. Pure.

Accuracy is measured by language, section and subset.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from reward_models.evidence import measures, rewardbench, statistics
from reward_models.evidence.measures import AVERAGE, Measured, Plan, Record, Size, Table, record
from reward_models.evidence.verdicts import Verdict


def evaluate(verdicts: Sequence[Verdict], plan: Plan) -> list[Record]:
    """Every table of one scorer, as records in a fixed order; the order of verdicts is ignored."""
    table = Table(verdicts, plan)
    records = [r for where in _places(table.cells) for r in table.records(where)]
    by_language = {code: table.mean({"language": code}, "accuracy") for code in table.languages}
    records += measures.summaries("accuracy", by_language, table, table.languages)
    records += _rewardbench(table)
    records += _rewardbench_2(verdicts, plan)
    records += _consistency(verdicts, plan)
    return records


def _places(cells: Sequence[tuple[str, str, str]]) -> list[dict[str, str]]:
    """All rows; each language, section and subset; sections and subsets within languages."""
    names = ("language", "section", "subset")
    rows = [dict(zip(names, cell, strict=True)) for cell in cells]
    places: list[dict[str, str]] = [{}]
    for fields in (*((name,) for name in names), ("language", "section"), ("language", "subset")):
        values = {tuple(row[field] for field in fields) for row in rows}
        for value in sorted(values):
            is_named = fields == ("language",) or value[-1]
            if is_named:
                places.append(dict(zip(fields, value, strict=True)))
    return places


# ------------------------------------------------------------------------------------- benchmarks


def _rewardbench(table: Table) -> list[Record]:
    """RewardBench by language: sections, score, score with the prior sets; then over languages.

    As in M-RewardBench, the average over languages is without English.
    """
    scores: dict[str, Measured] = {}
    records: list[Record] = []
    for language in table.languages:
        values, replicates = _subset_means(table, language)
        weights = rewardbench.COUNTS[table.plan.counts]
        points = rewardbench.sections(values, weights)
        draws = rewardbench.sections(replicates, weights)
        for section, point in points.items():
            where = {"language": language, "section": section}
            measured = (point, draws[section])
            records.append(record("rewardbench", measured, table.plan, table.size(where), **where))

        size = table.size({"language": language})
        score = rewardbench.score(points)
        if score is not None:
            scores[language] = (score, rewardbench.score(draws))
            measured = scores[language]
            records.append(record("rewardbench", measured, table.plan, size, language=language))
        prior = rewardbench.with_prior(points, values)
        if prior is not None:
            measured = (prior, rewardbench.with_prior(draws, replicates))
            name = "rewardbench_with_prior"
            records.append(record(name, measured, table.plan, size, language=language))

    averaged = sorted(set(scores) - {table.plan.anchor})
    return records + measures.summaries("rewardbench", scores, table, averaged)


def _subset_means(table: Table, language: str) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Subset -> accuracy with ties wrong, and subset -> its B replicates."""
    values, replicates = {}, {}
    for subset in sorted({subset for code, _, subset in table.cells if code == language}):
        where = {"language": language, "subset": subset}
        value, draws = table.mean(where, "accuracy_ties_wrong")
        if not np.isnan(value):
            values[subset], replicates[subset] = value, draws
    return values, replicates


def _rewardbench_2(verdicts: Sequence[Verdict], plan: Plan) -> list[Record]:
    """RewardBench 2 by language: its domains and their mean.

    Only scored rows of its domains that have more than two answers.
    """
    rows = [v for v in verdicts if v.subset in rewardbench.DOMAINS and v.scored]
    rows = [v for v in rows if len(v.chosen) + len(v.rejected) > 2]
    records: list[Record] = []
    for language, of_language in _by_language(rows).items():
        domains = _domains(of_language, plan)
        if set(domains) == set(rewardbench.DOMAINS):
            domains[""] = measures.average(list(domains.values()))
        for domain, measured in domains.items():
            size = _size([v for v in of_language if domain in ("", v.subset)])
            where = {"language": language, "section": domain}
            records.append(record("rewardbench_2", measured, plan, size, **where))
    return records


def _by_language(verdicts: Sequence[Verdict]) -> dict[str, list[Verdict]]:
    """Language -> its verdicts, in the order of languages."""
    languages = sorted({v.language for v in verdicts})
    return {language: [v for v in verdicts if v.language == language] for language in languages}


def _size(verdicts: Sequence[Verdict], unlinked: int = 0) -> Size:
    return Size(len(verdicts), len({v.group_id for v in verdicts}), unlinked=unlinked)


def _domains(verdicts: Sequence[Verdict], plan: Plan) -> dict[str, Measured]:
    """Domain -> its score. Ties is a weighted sum of the means of several parts."""
    others = [v for v in verdicts if v.subset != rewardbench.TIES]
    parts = [(v.group_id, v.subset, v.values[0]) for v in others] + _ties_parts(verdicts)
    means = _means(parts, plan)
    domains = {name: means[name] for name in rewardbench.DOMAINS if name in means}

    ties = {name: means[name] for name in means if name in rewardbench.TIES_WEIGHTS}
    if ties:
        points = {name: np.nan_to_num(point) for name, (point, _) in ties.items()}
        draws = {name: np.nan_to_num(draws) for name, (_, draws) in ties.items()}
        both = (rewardbench.ties_score(points), rewardbench.ties_score(draws))
        domains[rewardbench.TIES] = both
    return domains


def _means(parts: Sequence[tuple[str, str, float]], plan: Plan) -> dict[str, Measured]:
    """Name -> mean of its values, from (group, name, value)."""
    group_ids, names, values = zip(*parts, strict=True)
    groups, cells = measures.numbered(group_ids), measures.numbered(names)
    values_and_ones = np.array([values, np.ones(len(values))])
    kinds = sorted(set(names))
    shape = (int(groups.max()) + 1, len(kinds))
    points = statistics.ratio(*statistics.sums(values_and_ones, cells, len(kinds)))
    resampled = _resampled(values_and_ones, groups, cells, shape, plan)
    replicates = statistics.ratio(resampled[:, 0], resampled[:, 1])
    return {name: (points[i], replicates[:, i]) for i, name in enumerate(kinds)}


def _resampled(values: Any, groups: Any, cells: Any, shape: tuple[int, int], plan: Plan) -> Any:
    n, seed = plan.replicates, plan.seed
    return statistics.resampled_sums(values, groups, cells, shape, n, seed)


def _ties_parts(verdicts: Iterable[Verdict]) -> list[tuple[str, str, float]]:
    """(group, name in `rewardbench.TIES_WEIGHTS`, value) of every Ties prompt with its reference.

    The reference is the one with a single right answer.
    """
    prompts: dict[str, dict[str, rewardbench.Answers]] = {}
    for v in verdicts:
        if v.subset == rewardbench.TIES:
            kind = "ref" if len(v.chosen) == 1 else "tied"
            prompts.setdefault(v.group_id, {})[kind] = (v.chosen, v.rejected)

    parts = []
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
    scored = [v for v in verdicts if v.scored]
    once = Counter((v.language, v.item) for v in scored)
    single = [v for v in scored if once[v.language, v.item] == 1]
    anchor = {v.item: v.preferred for v in single if v.language == plan.anchor}
    linked = [v for v in single if v.language != plan.anchor and v.item in anchor]
    if not linked:
        return []

    n_rows = Counter(v.language for v in scored if v.language != plan.anchor)
    languages = sorted(n_rows)
    point, replicates = _cross_tables(linked, anchor, languages, plan)
    records, kappas = [], []
    for i, language in enumerate(languages):
        of_language = [v for v in linked if v.language == language]
        size = _size(of_language, unlinked=n_rows[language] - len(of_language))
        for name, statistic in (("agreement", statistics.agreement), ("kappa", statistics.kappa)):
            measured = (float(statistic(point[i])), statistic(replicates[:, i]))
            records.append(record(name, measured, plan, size, language=language))
            if name == "kappa" and not np.isnan(measured[0]):
                kappas.append(measured)
    if kappas:
        average = measures.average(kappas)
        records.append(record("kappa", average, plan, _size(linked), language=AVERAGE))
    return records


def _cross_tables(
    linked: Sequence[Verdict],
    anchor: Mapping[str, int],
    languages: Sequence[str],
    plan: Plan,
) -> tuple[np.ndarray, np.ndarray]:
    """Counts (L x 3 x 3) of (the language's preference, the anchor's); B replicates of them."""
    n_languages = len(languages)
    number = {language: i for i, language in enumerate(languages)}
    cells = np.array([9 * number[v.language] + 3 * v.preferred + anchor[v.item] for v in linked])
    groups = measures.numbered([v.group_id for v in linked])
    shape = (int(groups.max()) + 1, 9 * n_languages)
    ones = np.ones((1, len(linked)))
    point = statistics.sums(ones, cells, shape[1])
    replicates = _resampled(ones, groups, cells, shape, plan)
    return point.reshape(n_languages, 3, 3), replicates.reshape(-1, n_languages, 3, 3)
