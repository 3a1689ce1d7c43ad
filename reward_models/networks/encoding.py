"""Conversations as token ids, and what is cut where one is longer than its model takes. Pure, but for the tokenizer's work.

A conversation that is too long loses tokens at its beginning; a BOS (or CLS) token in front stays. Decoders are read at the last
token, in training always the end of a complete answer, so the end is what must stay: where even the answer alone is too long, it
keeps its end. No answer is ever cut to nothing.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from mlalign.core.errors import UserError
from mlalign.models.leftout import NOTHING, STAND_IN, LeftOut
from mlalign.models.templates import ChatTemplate
from reward_models.items import Item

# Flags of what a chat template left out.
LEFT_OUT = ("answer_left_out", "answer_partly_left_out", "prompt_partly_left_out")


@dataclasses.dataclass(frozen=True)
class Encoded:
    """The tokens that are left of a conversation; `cut_tokens` are lost, some of them the answer's if `response_truncated`.

    `left_out`: what the chat template left out before.
    """

    ids: list[int]
    cut_tokens: int = 0
    response_truncated: bool = False
    left_out: LeftOut = NOTHING


def encode(items: Sequence[Item], template: ChatTemplate, max_length: int) -> list[Encoded]:
    """Every conversation as at most `max_length` tokens.

    Raises: UserError for a conversation that the template refuses, or if no token of an answer would be left.
    """
    tokenizer = template.tokenizer
    texts = [render(item, template) for item in items]
    left_out = [template.left_out(text, i.messages, i.id, i.tools) for i, text in zip(items, texts, strict=True)]
    whole = token_ids(texts, tokenizer)
    if empty := [item.id for item, ids in zip(items, whole, strict=True) if not ids]:
        raise UserError(f"{empty[0]}: the scorer's chat template writes nothing for this conversation")
    long = [i for i, ids in enumerate(whole) if len(ids) > max_length]
    shortened = [template.conversation(_with_stand_in(items[i]), items[i].id, items[i].tools) for i in long]
    out = [Encoded(ids, left_out=missing) for ids, missing in zip(whole, left_out, strict=True)]
    for i, stand_in in zip(long, token_ids(shortened, tokenizer), strict=True):
        found = _shortened(items[i].id, whole[i], stand_in, max_length, first_token(tokenizer))
        out[i] = dataclasses.replace(found, left_out=left_out[i])
    return out


def render(item: Item, template: ChatTemplate) -> str:
    """A whole conversation as the template writes it.

    Raises: UserError for one that the template refuses, or of which it leaves out tools or tool calls.
    """
    text = template.conversation(item.messages, item.id, item.tools)
    if item.tools or any("tool_calls" in message for message in item.messages):
        _check_tools_written(item, text, template)
    return text


def _check_tools_written(item: Item, text: str, template: ChatTemplate) -> None:
    """Refuse a row of which the template ignores tools or calls: two different calls would score the same."""
    for i, message in enumerate(item.messages):
        if "tool_calls" not in message:
            continue
        without_calls = {key: value for key, value in message.items() if key != "tool_calls"}
        others = [*item.messages[:i], without_calls, *item.messages[i + 1 :]]
        try:
            same = template.conversation(others, item.id, item.tools) == text
        except UserError:  # a template that fails without the calls reads them
            same = False
        if same:
            raise UserError(f"{item.id}: the scorer's chat template does not write the tool_calls of a message: they would not be scored")
    if item.tools and template.conversation(item.messages, item.id) == text:
        raise UserError(f"{item.id}: the scorer's chat template does not write `tools`, so they would not be scored")


def left_out_flags(found: Sequence[LeftOut]) -> dict[str, list[bool]]:
    """What chat templates left out of conversations, as a scorer's flags."""
    columns = (
        [f.answer for f in found],
        [f.part_of_answer for f in found],
        [f.part_of_prompt for f in found],
    )
    return dict(zip(LEFT_OUT, columns, strict=True))


def _with_stand_in(item: Item) -> list[dict]:
    """The conversation with another answer, to find where the template's own tokens are."""
    return [*item.prompt, {"role": "assistant", "content": STAND_IN}]


def token_ids(texts: list[str], tokenizer: Any) -> list[list[int]]:
    """Token ids of rendered conversations. The template writes the special tokens, so the tokenizer adds none (no doubled BOS)."""
    return tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"] if texts else []


def cut(ids: list[int], max_length: int, first: int | None) -> list[int]:
    """The last `max_length` tokens, the token `first` (BOS or CLS) before them if the conversation begins with it."""
    if len(ids) <= max_length:
        return ids
    return [first, *ids[1 - max_length :]] if ids[0] == first and max_length > 1 else ids[-max_length:]


def first_token(tokenizer: Any) -> int | None:
    """The token that stays in front whatever is cut: BOS, or CLS in encoders."""
    return tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.cls_token_id


def common(a: Sequence, b: Sequence) -> int:
    """How many tokens (of texts: characters) two sequences share at their beginning."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _shortened(name: str, ids: list[int], stand_in: list[int], max_length: int, first: int | None) -> Encoded:
    after = common(ids[::-1], stand_in[::-1])
    response = len(ids) - common(ids, stand_in) - after
    kept = cut(ids, max_length, first)
    room = max_length - after - (kept[0] == first and ids[0] == first)
    if response > 0 and room < 1:
        raise UserError(f"{name}: max_length {max_length} leaves no token of the answer, after which the chat template writes {after}")
    return Encoded(kept, len(ids) - len(kept), response > room)
