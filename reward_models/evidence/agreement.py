"""How far a scorer agrees with gold preferences by language, and what follows from it. Pure.

A gold pair is right if the chosen answer scores higher, tied if both score the same, abstained if
one of them has no score.

    accuracy   (right + tied / 2) / (right + wrong + tied): a tie counts like a coin toss
    coverage   (right + wrong + tied) / pairs
    kappa      (p_o - p_e) / (1 - p_e) (Cohen 1960) between gold and scorer over the answered pairs,
               with the labels first, second and tie. A hash of the two texts decides which answer
               is first, since a constant gold label has no kappa

Intervals are percentiles of a bootstrap over groups: all forms of an item (`group_id`) are drawn
together; without groups, rows are drawn.

The rule: a scorer may be used in a language if it has at least `min_pairs` gold pairs there,
answers at least `min_coverage` of them, and the lower bound of its accuracy is above 0.5 + `delta`.
Where it may not, the fallback is used if the rule allows it, else there is no score. This does by
language what Self-J ("Selective Instruction Following with Alignment Self-Evaluation") does by
answer.
"""

import dataclasses
import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from mlalign.core import languages, rows
from mlalign.core.errors import UserError, nearest

POLICIES = ("use", "fall_back", "abstain")
POLICY_KEYS = ("default", "languages", "rule", "scorer", "rows")
DIGITS = 6


@dataclasses.dataclass(frozen=True)
class Rule:
    """When a scorer may be used in a language, and how that is measured."""

    delta: float = 0.05
    min_pairs: int = 50
    min_coverage: float = 0.5
    confidence: float = 0.95
    tie: float = 0.0  # scores at most this far apart are the same
    resamples: int = 2000
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Pair:
    """A gold pair with its two scores.

    `first`: whether the chosen answer is the first one, in an order that only the texts decide.
    """

    group: str
    language: str | None
    chosen: float | None
    rejected: float | None
    first: bool


def is_first(chosen: str, rejected: str) -> bool:
    """Whether the chosen text comes first by the texts' hashes, whichever of the two is gold."""
    hashes = [hashlib.sha256(text.encode()).digest() for text in (chosen, rejected)]
    return hashes[0] <= hashes[1]


def verdict(pair: Pair, tie: float = 0.0) -> Literal["right", "wrong", "tied", "abstained"]:
    if pair.chosen is None or pair.rejected is None:
        return "abstained"
    if abs(pair.chosen - pair.rejected) <= tie:
        return "tied"
    return "right" if pair.chosen > pair.rejected else "wrong"


def evidence(pairs: Sequence[Pair], rule: Rule, name: str = "") -> dict[str, Any]:
    """Counts, accuracy, coverage and kappa of one language's pairs, with intervals.

    A number that is undefined is None. `name` (the language) and the rule's seed decide the
    resamples; the order of the pairs does not.
    """
    from reward_models.evidence import statistics

    verdicts = Counter(verdict(pair, rule.tie) for pair in pairs)
    counts = {kind: verdicts[kind] for kind in ("right", "wrong", "tied", "abstained")}
    coverage = (len(pairs) - counts["abstained"]) / len(pairs)
    result: dict[str, Any] = {"pairs": len(pairs), **counts, "coverage": round(coverage, DIGITS)}

    tables = _tables(pairs, rule.tie)
    total = tables.sum(axis=0)
    resampled = _resampled(tables, rule, name)
    for measure, compute in (("accuracy", _accuracies), ("kappa", statistics.kappa)):
        low, high = _interval(compute(resampled), rule.confidence)
        result[measure] = _number(compute(total[None])[0])
        result[f"{measure}_low"] = low
        result[f"{measure}_high"] = high
    return result


def by_language(pairs: Iterable[Pair], rule: Rule) -> dict[str, dict[str, Any]]:
    """Language -> evidence, in the order of languages; pairs without a language are left out."""
    of_language: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        if pair.language is not None:
            of_language[pair.language].append(pair)
    return {code: evidence(of_language[code], rule, code) for code in sorted(of_language)}


def margin_for(pairs: Sequence[Pair], target: float) -> tuple[float | None, float]:
    """The smallest margin from which on verdicts are right at least `target` of the time.

    Also the share of the answered pairs that has this margin. Below it one would abstain
    (selective prediction). (None, 0.0) if no margin is enough.
    """
    differences = []
    for pair in pairs:
        if pair.chosen is not None and pair.rejected is not None:
            differences.append(pair.chosen - pair.rejected)
    ordered = sorted(filter(None, differences), key=abs, reverse=True)

    best: tuple[float | None, float] = (None, 0.0)
    n_right = 0
    for n, difference in enumerate(ordered, 1):
        n_right += difference > 0
        is_last_of_its_size = n == len(ordered) or abs(ordered[n]) != abs(difference)
        if is_last_of_its_size and n_right / n >= target:
            best = (abs(difference), n / len(differences))
    return best


def failing(entry: Mapping, rule: Rule) -> str | None:
    """Why the rule does not allow a scorer with this evidence; None if it does."""
    if entry["pairs"] < rule.min_pairs:
        return f"{entry['pairs']} gold pairs, {rule.min_pairs} are needed"
    if entry["coverage"] < rule.min_coverage:
        return f"answers {entry['coverage']:.0%} of the pairs, {rule.min_coverage:.0%} are needed"

    low = entry["accuracy_low"]
    needed = 0.5 + rule.delta
    if low is None:
        return "answers none of the pairs"
    if low <= needed:
        return f"accuracy may be {low:.3f}, above {needed:g} is needed"
    return None


def policy(
    scorer: Mapping[str, Mapping],
    fallback: Mapping[str, Mapping],
    rule: Rule,
    to: str | None = None,
    default: str = "use",
) -> dict[str, Any]:
    """`{default, rule, languages: {language: {policy, evidence, …}}}`.

    `scorer` and `fallback` are the evidence on both by language; `to` is the fallback's name.
    """
    decisions = {}
    for code, entry in scorer.items():
        decisions[code] = _decision(entry, fallback.get(code), rule, to)
    return {"default": default, "rule": dataclasses.asdict(rule), "languages": decisions}


def _decision(
    entry: Mapping,
    fallback: Mapping | None,
    rule: Rule,
    to: str | None,
) -> dict[str, Any]:
    why = failing(entry, rule)
    if why is None:
        return {"policy": "use", "evidence": dict(entry)}
    if fallback is None:
        return {"policy": "abstain", "why": why, "evidence": dict(entry)}

    why_not_fallback = failing(fallback, rule)
    evidence_on_both = {"evidence": dict(entry), "fallback_evidence": dict(fallback)}
    if why_not_fallback is None:
        return {"policy": "fall_back", "to": to, "why": why, **evidence_on_both}
    why_neither = f"{why}; {to}: {why_not_fallback}"
    return {"policy": "abstain", "why": why_neither, **evidence_on_both}


def policy_problems(policy: Any, key: str, fallback: str | None) -> list[str]:
    """What is wrong with a policy for a scorer whose fallback has this name, as messages."""
    if not isinstance(policy, Mapping) or not isinstance(policy.get("languages", {}), Mapping):
        example = "{default: use, languages: {swh_Latn: {policy: abstain}}}"
        return [f"{key}: expected {example}"]

    problems = []
    for name in policy:
        if name not in POLICY_KEYS:
            problems.append(f"{key}.{name}: unknown key{nearest(str(name), POLICY_KEYS)}")
    default = {"policy": policy.get("default", "use")}
    problems += _entry_problems(default, f"{key}.default", fallback)
    for code, entry in policy.get("languages", {}).items():
        where = f"{key}.languages.{code}"
        canonical = _canonical(code)
        if canonical != code:
            problems.append(f"{where}: write {canonical} for it")
        problems += _entry_problems(entry, where, fallback)
    return problems


def _canonical(code: Any) -> str:
    try:
        return languages.normalise(code)
    except UserError:
        return "a known language"


def _entry_problems(entry: Any, key: str, fallback: str | None) -> list[str]:
    chosen = entry.get("policy") if isinstance(entry, Mapping) else None
    if chosen not in POLICIES:
        return [f"{key}: {chosen!r} is no policy{nearest(str(chosen), POLICIES)}"]
    if chosen != "fall_back":
        return []
    if fallback is None:
        return [f"{key}: falls back, but no fallback scorer is given"]
    if entry.get("to") not in (None, fallback):
        return [
            f"{key}: falls back to {entry['to']!r}, but the fallback scorer is {fallback!r};"
            " give it that `name`"
        ]
    return []


# ------------------------------------------------------------------------------------- statistics


def _tables(pairs: Sequence[Pair], tie: float) -> Any:
    """Counts (groups, 3, 3) of the answered pairs: gold's label x the scorer's.

    Labels are first, second, tie; groups are in the order of their names.
    """
    import numpy as np

    names = sorted({pair.group for pair in pairs})
    groups = {group: i for i, group in enumerate(names)}
    tables = np.zeros((len(groups), 3, 3))
    for pair in pairs:
        result = verdict(pair, tie)
        if result == "abstained":
            continue
        gold = 0 if pair.first else 1
        label = {"right": gold, "wrong": 1 - gold, "tied": 2}[result]
        tables[groups[pair.group], gold, label] += 1
    return tables


def _resampled(tables: Any, rule: Rule, name: str) -> Any:
    """Sums (resamples, 3, 3) over as many groups as there are, drawn with replacement."""
    import numpy as np

    from reward_models.evidence import statistics

    seed = rows.seed_of(f"{rule.seed}:{name}")
    draws = statistics.draws(len(tables), rule.resamples, seed)
    return np.stack([np.tensordot(times, tables, 1) for times in draws])


def _accuracies(tables: Any) -> Any:
    from reward_models.evidence import statistics

    right = tables[:, 0, 0] + tables[:, 1, 1]
    tied = tables[:, :, 2].sum(axis=1)
    return statistics.ratio(right + tied / 2, tables.sum(axis=(1, 2)))


def _interval(replicates: Any, confidence: float) -> tuple[float | None, float | None]:
    from reward_models.evidence import statistics

    if all(map(math.isnan, replicates)):
        return None, None
    low, high = statistics.interval(replicates, confidence)
    return _number(low), _number(high)


def _number(value: Any) -> float | None:
    return None if math.isnan(value) else round(float(value), DIGITS)
