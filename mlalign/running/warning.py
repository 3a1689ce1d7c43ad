"""What of a finished step a person must hear before its results: shares of its counts that say that
something went wrong.

The manifest keeps them under `warnings`, together with what a stage itself told (`Output.warn`);
run, status and report show them first.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mlalign.core.store import Tally

TRAINING = ("sft", "reward", "preference")
SHOWN = 4  # languages that a warning names


class Rule(NamedTuple):
    """More than half of `of` is `counted`: both name sums of a tally, `rows` stands for the rows
    that were kept."""

    stages: Sequence[str]
    counted: str
    of: str
    says: str
    mend: str


RULES = (
    Rule(
        ("generate",),
        "empty",
        "responses",
        "answers are empty",
        "look at the end of turn, reasoning_tags and max_tokens",
    ),
    Rule(
        ("generate",),
        "truncated",
        "responses",
        "answers were cut off at max_tokens",
        "raise it, or look at the end of turn",
    ),
    Rule(TRAINING, "truncated", "rows", "rows were cut off at max_length", "raise it"),
)
DROPPING = (*TRAINING, "generate", "prepare")
# Preparing drops rows for many good reasons; this is none.
OF_SOURCES = ("empty_text",)
MENDS = {
    "equal_sides": (
        "both sides become the same tokens: raise max_length, or look at what the chat template"
        " leaves out"
    ),
    "empty_text": "look at the source's columns",
    "over_length": "raise max_length",
    "prompt_too_long": "raise max_prompt_tokens or engine.args.max_model_len, or lower max_tokens",
}


def of_tally(stage: str, tally: Tally) -> list[str]:
    """Warnings that follow from what a step counted."""
    found = []
    for rule in RULES:
        total = tally.rows if rule.of == "rows" else tally.sums.get(rule.of, Counter())
        if stage in rule.stages:
            found += _most(tally.sums.get(rule.counted, Counter()), total, rule.says, rule.mend)
    if stage in DROPPING:
        for reason, by in sorted(tally.dropped.items()):
            if stage == "prepare" and reason not in OF_SOURCES:
                continue
            read = {x: tally.rows[x] + sum(d[x] for d in tally.dropped.values()) for x in by}
            found += _most(
                by, read, f"rows were dropped ({reason})", MENDS.get(reason, "look at them")
            )
    return found


def _most(
    counts: Mapping[str, float], total: Mapping[str, float], says: str, mend: str
) -> list[str]:
    """One warning for all languages in which more than half are counted; none if there is no such
    language."""
    most = {language: n for language, n in sorted(counts.items()) if n > total.get(language, 0) / 2}
    if not most:
        return []
    named = [
        f"{n:.0f} of {total[language]:.0f} in {language}"
        for language, n in list(most.items())[:SHOWN]
    ]
    more = f" and in {len(most) - SHOWN} more languages" if len(most) > SHOWN else ""
    return [f"{', '.join(named)}{more} {says}; {mend}"]
