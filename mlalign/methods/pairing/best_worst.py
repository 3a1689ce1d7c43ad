"""`best_worst`: the highest scored candidate against the lowest.

The pairs of on-policy preference training (Dong et al. 2024, "RLHF Workflow", section 3; Yuan et
al. 2024, "Self-Rewarding Language Models", section 2.3), with a rule for candidates in the wrong
language, which a reward model trained in one language may prefer.
"""

from collections.abc import Sequence

from mlalign.methods.pairing import Pair, Scored, WrongLanguage, may_be_chosen, penalise


def best_worst(
    scored: Sequence[Scored],
    *,
    wrong_language: WrongLanguage = "never_chosen",
    penalty: float = 100.0,
) -> list[Pair] | str:
    """One pair of the highest and the lowest score; among equal scores the candidate sampled first.

    `wrong_language` is about candidates in another language than requested, or in one that is not
    known: "never_chosen" keeps them from being chosen, though they may be rejected; "penalise"
    takes `penalty` from their scores on both sides, and so from the margin; "off" ignores language.

        scores 0.2, 0.9, 0.5  ->  chosen 0.9, rejected 0.2, margin 0.7
    """
    if len(scored) < 2:
        return "fewer than two candidates"
    if wrong_language == "penalise":
        scored = penalise(scored, penalty)
    allowed = may_be_chosen(scored, wrong_language)
    if not allowed:
        return "no candidate may be chosen"
    best, worst = max(allowed, key=lambda c: c.score), min(scored, key=lambda c: c.score)
    if best.score == worst.score:
        return (
            "tie"
            if all(c.score == best.score for c in scored)
            else "the best allowed candidate is the worst"
        )
    return [Pair(best, worst, best.score - worst.score)]
