"""`cross_lingual`: the question of an item in one language, its answer in another.

The cross-training of MathOctopus (Chen et al. 2023: English question, answer in the target
language) and the pairing policies of CrossIn (Lin et al. 2024: en2x, x2en, x2x).
"""

import dataclasses
import random
from collections.abc import Sequence
from itertools import product
from typing import Literal

from mlalign.core import languages
from mlalign.methods.builders import Group
from mlalign.methods.made import Demonstration, Messages

Direction = Literal["from_pivot", "to_pivot", "any"]


def cross_lingual(
    group: Group[Demonstration],
    *,
    direction: Direction = "from_pivot",
    pivot: str = "eng_Latn",
    per_item: int | None = None,
    instruction: str | None = None,
    seed: int = 0,
) -> list[Demonstration] | str:
    """Questions with the answers of other languages, from the first row in each language.

    `from_pivot` asks in the pivot language and answers in each other (en2x), `to_pivot` the other
    way round (x2en), `any` takes every pair of two languages (x2x). `per_item` draws that many of
    them at random. `instruction` is put below the question, with `{language}` in it replaced by
    the English name of the answer's language: "Answer in {language}."

        en: ("2 + 2?", "Four."); de: ("2 + 2 ist?", "Vier.")  ->  ("2 + 2?", "Vier.")
    """
    if len(group.rows) < 2:
        return "only one language"
    if direction != "any" and pivot not in group.rows:
        return "not in the pivot language"
    pairs = _pairs(list(group.rows), direction, pivot)
    if per_item is not None and per_item < len(pairs):
        pairs = sorted(random.Random(seed).sample(pairs, per_item))

    built = []
    for asked, answered in pairs:
        question, answer = group.rows[asked][0], group.rows[answered][0]
        prompt = _instructed(question.prompt, instruction, answered)
        response_lang = answer.response_lang or answered
        row = dataclasses.replace(question, prompt=prompt, completion=answer.completion)
        built.append(dataclasses.replace(row, prompt_lang=asked, response_lang=response_lang))
    return built


def _pairs(names: Sequence[str], direction: Direction, pivot: str) -> list[tuple[str, str]]:
    """(language of the question, language of the answer)."""
    others = [name for name in names if name != pivot]
    if direction == "from_pivot":
        return [(pivot, other) for other in others]
    if direction == "to_pivot":
        return [(other, pivot) for other in others]
    return [(asked, answered) for asked, answered in product(names, names) if asked != answered]


def _instructed(prompt: Messages, instruction: str | None, language: str) -> Messages:
    if instruction is None:
        return prompt
    *before, last = prompt
    wanted = instruction.replace("{language}", languages.english_name(language))
    return [*before, {**last, "content": f"{last['content']}\n{wanted}"}]
