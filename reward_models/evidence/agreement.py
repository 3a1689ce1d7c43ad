"""How far a scorer's verdicts agree with gold preferences, language by language, and what to do where they do not. Pure.

A gold pair is right if the chosen answer scores higher, tied if both score the same, abstained if one of them has no score.

    accuracy   (right + tied / 2) / (right + wrong + tied): a tie is worth what a coin is
    coverage   (right + wrong + tied) / pairs
    kappa      (p_o - p_e) / (1 - p_e) (Cohen 1960) between gold and scorer over the answered pairs, with the labels first, second
               and tie. Which answer is first is decided by a hash of the two texts, since a constant gold label has no kappa

Intervals are percentiles of a bootstrap over groups (`group_id`: an item in all its forms is drawn whole; else rows).

The rule: a scorer may be used in a language if it has at least `min_pairs` gold pairs there, answers at least `min_coverage` of
them, and the lower bound of its accuracy is above 0.5 + `delta`. Where it may not, the fallback is used if the same rule lets it;
else nobody scores (by language what Self-J, "Selective Instruction Following with Alignment Self-Evaluation", does by answer).
"""

import dataclasses
import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from mlalign.core import languages, rows
from mlalign.core.errors import UserError, nearest

POLICIES = ("use", "fall_back", "abstain")
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
    """A gold pair with its two scores. `first`: the chosen answer is the first one in an order that only the texts decide."""

    group: str
    language: str | None
    chosen: float | None
    rejected: float | None
    first: bool


def is_first(chosen: str, rejected: str) -> bool:
    """Whether the chosen text comes first by the hash of the texts; the same whichever of the two is gold."""
    return hashlib.sha256(chosen.encode()).digest() <= hashlib.sha256(rejected.encode()).digest()


def verdict(pair: Pair, tie: float = 0.0) -> Literal["right", "wrong", "tied", "abstained"]:
    if pair.chosen is None or pair.rejected is None:
        return "abstained"
    if abs(pair.chosen - pair.rejected) <= tie:
        return "tied"
    return "right" if pair.chosen > pair.rejected else "wrong"


def evidence(pairs: Sequence[Pair], rule: Rule, name: str = "") -> dict[str, Any]:
    """Counts, accuracy, coverage and kappa of one language's pairs, with intervals; None where nothing can be said.

    `name` (the language) and the rule's seed decide the resamples; the order of the pairs does not.
    """
    from reward_models.evidence import statistics

    seen = [verdict(pair, rule.tie) for pair in pairs]
    counts = {kind: seen.count(kind) for kind in ("right", "wrong", "tied", "abstained")}
    answered = len(pairs) - counts["abstained"]
    told: dict[str, Any] = {"pairs": len(pairs), **counts, "coverage": round(answered / len(pairs), DIGITS)}
    tables = _tables(pairs, rule.tie)
    point, resampled = tables.sum(axis=0), _resampled(tables, rule, name)
    for measure, of in (("accuracy", _accuracies), ("kappa", statistics.kappa)):
        value, (low, high) = _number(of(point[None])[0]), _interval(of(resampled), rule.confidence)
        told |= {measure: value, f"{measure}_low": low, f"{measure}_high": high}
    return told


def by_language(pairs: Iterable[Pair], rule: Rule) -> dict[str, dict[str, Any]]:
    """Language -> evidence, in the order of languages; pairs without a language are left out."""
    found: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        if pair.language is not None:
            found[pair.language].append(pair)
    return {language: evidence(found[language], rule, language) for language in sorted(found)}


def margin_for(pairs: Sequence[Pair], target: float) -> tuple[float | None, float]:
    """The smallest margin from which on the scorer's verdicts are right at least `target` of the time, and the share of the answered
    pairs that has it: below that margin one would abstain (selective prediction). (None, 0.0) if no margin is enough.
    """
    differences = [p.chosen - p.rejected for p in pairs if p.chosen is not None and p.rejected is not None]
    ordered = sorted((d for d in differences if d), key=abs, reverse=True)
    best: tuple[float | None, float] = (None, 0.0)
    right = 0
    for n, difference in enumerate(ordered, 1):
        right += difference > 0
        last_of_its_size = n == len(ordered) or abs(ordered[n]) != abs(difference)
        if last_of_its_size and right / n >= target:
            best = (abs(difference), n / len(differences))
    return best


def failing(told: Mapping, rule: Rule) -> str | None:
    """Why the rule does not let a scorer be used; None if it does."""
    if told["pairs"] < rule.min_pairs:
        return f"{told['pairs']} gold pairs, {rule.min_pairs} are needed"
    if told["coverage"] < rule.min_coverage:
        return f"answers {told['coverage']:.0%} of the pairs, {rule.min_coverage:.0%} are needed"
    if told["accuracy_low"] is None:
        return "answers none of the pairs"
    needed = 0.5 + rule.delta
    return None if told["accuracy_low"] > needed else f"accuracy may be {told['accuracy_low']:.3f}, above {needed:g} is needed"


def policy(
    scorer: Mapping[str, Mapping], fallback: Mapping[str, Mapping], rule: Rule, to: str | None = None, default: str = "use"
) -> dict[str, Any]:
    """`{default, rule, languages: {language: {policy, evidence, …}}}` from the evidence on a scorer and on its fallback, named `to`."""
    return {
        "default": default,
        "rule": dataclasses.asdict(rule),
        "languages": {code: _decision(told, fallback.get(code), rule, to) for code, told in scorer.items()},
    }


def _decision(told: Mapping, fallback: Mapping | None, rule: Rule, to: str | None) -> dict[str, Any]:
    why = failing(told, rule)
    if why is None:
        return {"policy": "use", "evidence": dict(told)}
    if fallback is None:
        return {"policy": "abstain", "why": why, "evidence": dict(told)}
    why_not = failing(fallback, rule)
    also = {"evidence": dict(told), "fallback_evidence": dict(fallback)}
    if why_not is None:
        return {"policy": "fall_back", "to": to, "why": why, **also}
    return {"policy": "abstain", "why": f"{why}; {to}: {why_not}", **also}


def policy_problems(told: Any, key: str, fallback: str | None) -> list[str]:
    """What is wrong with a policy for a scorer whose fallback has this name, as messages."""
    if not isinstance(told, Mapping) or not isinstance(told.get("languages", {}), Mapping):
        return [f"{key}: expected {{default: use, languages: {{swh_Latn: {{policy: abstain}}}}}}"]
    unknown = [name for name in told if name not in ("default", "languages", "rule", "scorer", "rows")]
    found = [f"{key}.{name}: unknown key{nearest(str(name), ('default', 'languages', 'rule', 'scorer', 'rows'))}" for name in unknown]
    found += _entry_problems({"policy": told.get("default", "use")}, f"{key}.default", fallback)
    for code, entry in told.get("languages", {}).items():
        where = f"{key}.languages.{code}"
        found += [f"{where}: write {c} for it" for c in _canonical(code) if c != code]
        found += _entry_problems(entry, where, fallback)
    return found


def _canonical(code: Any) -> list[str]:
    try:
        return [languages.normalise(code)]
    except UserError:
        return ["a known language"]


def _entry_problems(entry: Any, key: str, fallback: str | None) -> list[str]:
    chosen = entry.get("policy") if isinstance(entry, Mapping) else None
    if chosen not in POLICIES:
        return [f"{key}: {chosen!r} is no policy{nearest(str(chosen), POLICIES)}"]
    if chosen == "fall_back" and fallback is None:
        return [f"{key}: falls back, but no fallback scorer is given"]
    if chosen == "fall_back" and entry.get("to") not in (None, fallback):
        return [f"{key}: falls back to {entry['to']!r}, but the fallback scorer is {fallback!r}; give it that `name`"]
    return []


# -------------------------------------------------------------------------------------------------------------- statistics


def _tables(pairs: Sequence[Pair], tie: float) -> Any:
    """Counts (groups, 3, 3) of the answered pairs, gold's label by the scorer's: first, second, tie; groups by their names."""
    import numpy as np

    groups = {group: i for i, group in enumerate(sorted({pair.group for pair in pairs}))}
    tables = np.zeros((len(groups), 3, 3))
    for pair in pairs:
        seen, gold = verdict(pair, tie), int(not pair.first)
        if seen != "abstained":
            tables[groups[pair.group], gold, {"right": gold, "wrong": 1 - gold, "tied": 2}[seen]] += 1
    return tables


def _resampled(tables: Any, rule: Rule, name: str) -> Any:
    """Sums (resamples, 3, 3) over as many groups as there are, drawn with replacement."""
    import numpy as np

    from reward_models.evidence import statistics

    drawn = statistics.draws(len(tables), rule.resamples, rows.seed_of(f"{rule.seed}:{name}"))
    return np.stack([np.tensordot(times, tables, 1) for times in drawn])


def _accuracies(tables: Any) -> Any:
    from reward_models.evidence import statistics

    return statistics.ratio(tables[:, 0, 0] + tables[:, 1, 1] + tables[:, :, 2].sum(axis=1) / 2, tables.sum(axis=(1, 2)))


def _interval(replicates: Any, confidence: float) -> tuple[float | None, float | None]:
    from reward_models.evidence import statistics

    if all(map(math.isnan, replicates)):
        return None, None
    low, high = statistics.interval(replicates, confidence)
    return _number(low), _number(high)


def _number(value: Any) -> float | None:
    return None if math.isnan(value) else round(float(value), DIGITS)
