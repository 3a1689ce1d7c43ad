"""`self_instruct`: a model writes new prompts after the pattern of those that are there.

Self-Instruct (Wang et al. 2023, section 2.2), the source of new prompts in Self-Rewarding Language
Models (Yuan et al. 2024, section 2.2).
"""

import random
import re
from difflib import SequenceMatcher

from mlalign.core import rows
from mlalign.methods.made import Prompt
from mlalign.methods.operators import Ask, Item, Say, Steps

NUMBERED = re.compile(r"^\s*\d+\s*[.)、．:]\s*(.+?)\s*$", re.MULTILINE)  # digits of any script


def self_instruct(
    prompt: Item,
    say: Say,
    *,
    n_examples: int = 3,
    n_tasks: int = 4,
    max_similarity: float = 0.7,
    seed: int = 0,
) -> Steps[Prompt]:
    """At most `n_tasks` new prompts, in the language that is asked for.

    The model sees this prompt and `n_examples` - 1 others of the shard, drawn at random, and writes
    a numbered list. A task is left out if it resembles an example or an earlier task more than
    `max_similarity`: the share of characters in matching blocks (`difflib`), which needs no words.
    The paper measures ROUGE-L, also against 0.7.

        "1. Name a river.\\n2. Name a river!"  ->  Prompt("Name a river.")
    """
    others = [messages for messages in prompt.pool if messages != prompt.prompt]
    drawn = random.Random(seed).sample(others, min(n_examples - 1, len(others)))
    examples = [rows.text_of(messages) for messages in [*drawn, prompt.prompt]]

    [listed] = yield [Ask(say("tasks", examples=examples, n_tasks=n_tasks))]
    tasks = NUMBERED.findall(listed)
    if not tasks:
        return "no numbered list"

    known = list(examples)
    made: list[Prompt | str] = []
    for task in tasks[:n_tasks]:
        if max(_similarity(task, other) for other in known) > max_similarity:
            made.append("task too similar to another")
            continue
        known.append(task)
        made.append(Prompt(rows.messages(task)))
    return made


def _similarity(first: str, second: str) -> float:
    """From 0 to 1; 1 for texts that are equal but for case."""
    return SequenceMatcher(None, first.casefold(), second.casefold(), autojunk=False).ratio()
