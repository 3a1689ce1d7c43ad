"""Pairing methods of published recipes that mlalign does not ship."""

from collections.abc import Sequence
from itertools import combinations

from mlalign.methods.pairing import Pair, Scored


def all_pairs(scored: Sequence[Scored]) -> list[Pair] | str:
    """Every two candidates of different score."""
    pairs = []
    for first, second in combinations(scored, 2):
        better, worse = (first, second) if first.score > second.score else (second, first)
        if better.score > worse.score:
            pairs.append(Pair(better, worse, better.score - worse.score))
    return pairs or "tie"


def all_correct(scored: Sequence[Scored], *, max_kept: int = 4) -> list[Scored] | str:
    """Every different right answer, at most so many (rejection sampling)."""
    right: dict[str, Scored] = {}
    for candidate in scored:
        if candidate.score >= 1.0 and candidate.choosable:
            right.setdefault(" ".join(candidate.text.split()), candidate)
    return list(right.values())[:max_kept] or "no right answer"


def student_then_teacher(scored: Sequence[Scored], *, teacher: str) -> list[Pair] | str:
    """The student's best and worst; the teacher's score says which of them is chosen."""
    best, worst = max(scored, key=lambda c: c.score), min(scored, key=lambda c: c.score)
    high, low = best.scores.get(teacher), worst.scores.get(teacher)
    if high is None or low is None or high == low:
        return "the teacher cannot tell"
    pair = Pair(best, worst, high - low)
    return [pair] if high > low else [Pair(worst, best, low - high)]
