"""`best_of_n`: the highest scored candidate alone, as a demonstration.

Best-of-n selection for supervised training (rejection-sampling fine-tuning: Touvron et al. 2023,
"Llama 2", section 3.2.3).
"""

from collections.abc import Sequence

from mlalign.methods.pairing import Scored, WrongLanguage, may_be_chosen, penalise


def best_of_n(
    scored: Sequence[Scored],
    *,
    wrong_language: WrongLanguage = "never_chosen",
    penalty: float = 100.0,
) -> list[Scored] | str:
    """The candidate of the highest score; among equal scores the one sampled first.

    `wrong_language` is as in `best_worst`.

        scores 0.2, 0.9, 0.5  ->  the candidate of 0.9
    """
    if wrong_language == "penalise":
        scored = penalise(scored, penalty)
    allowed = may_be_chosen(scored, wrong_language)
    return [max(allowed, key=lambda c: c.score)] if allowed else "no candidate may be chosen"
