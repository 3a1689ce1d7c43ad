"""`self_refine`: a model criticises an answer and writes a better one.

Self-Refine (Madaan et al. 2023, algorithm 1), which SELF (Lu et al. 2023) makes training data with
and SPaR (Cheng et al. 2024) searches with.
"""

import re

from mlalign.methods.made import Candidate
from mlalign.methods.operators import Ask, Item, Say, Steps

GOOD = "[[GOOD]]"  # what a critic writes of an answer that needs no change


def self_refine(
    candidate: Item,
    say: Say,
    *,
    rounds: int = 1,
    critique_tokens: int | None = None,
    tag: str = "answer",
) -> Steps[Candidate]:
    """The answer after at most `rounds` of criticism and refinement.

    It ends early when the critic writes "[[GOOD]]": an answer that was good from the start stays
    as it is. The refined answer is what stands between <TAG> and </TAG>, or the whole text where
    `tag` is empty. The critic writes at most `critique_tokens`, by default the step's max_tokens.

        "Five." -> critique "2 + 2 is 4." -> "<answer>Four.</answer>" -> "Four."
    """
    answer = candidate.text
    for _ in range(rounds):
        [critique] = yield [Ask(say("critique", answer=answer), max_tokens=critique_tokens)]
        if GOOD in critique:
            break
        if not critique.strip():
            return "empty critique"

        [refined] = yield [Ask(say("refine", answer=answer, critique=critique))]
        better = _tagged(refined, tag)
        if not better:
            return f"no <{tag}> in the refinement" if tag else "empty refinement"
        answer = better
    return [Candidate(answer)]


def _tagged(text: str, tag: str) -> str:
    if not tag:
        return text.strip()
    name = re.escape(tag)
    matches = re.findall(rf"<{name}>(.*?)</{name}>", text, re.DOTALL)
    return matches[-1].strip() if matches else ""
