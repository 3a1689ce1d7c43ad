"""Conversations as token ids, cut if they are longer than the model takes.

Pure, but for the tokenizer's work. A conversation that is too long loses tokens at its beginning; a
BOS (or CLS) token in front stays. Decoders are read at the last token, which in training is always
the end of a complete answer, so the end must stay: where even the answer alone is too long, its end
is kept. No answer is ever cut to nothing.
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
    """The tokens that are left of a conversation.

    `cut_tokens` are lost, some of them the answer's if `response_truncated`. `left_out`: what the
    chat template left out before.
    """

    ids: list[int]
    cut_tokens: int = 0
    response_truncated: bool = False
    left_out: LeftOut = NOTHING


def encode(items: Sequence[Item], template: ChatTemplate, max_length: int) -> list[Encoded]:
    """Every conversation as at most `max_length` tokens.

    Raises: UserError for a conversation that the template refuses, or if no token of an answer
    would be left.
    """
    tokenizer = template.tokenizer
    texts = [render(item, template) for item in items]
    all_ids = token_ids(texts, tokenizer)
    encoded = []
    for item, text, ids in zip(items, texts, all_ids, strict=True):
        if not ids:
            raise UserError(
                f"{item.id}: the scorer's chat template writes nothing for this conversation"
            )
        left_out = template.left_out(text, item.messages, item.id, item.tools)
        encoded.append(Encoded(ids, left_out=left_out))

    too_long = [i for i, ids in enumerate(all_ids) if len(ids) > max_length]
    with_stand_in = [_with_stand_in(items[i], template) for i in too_long]
    first = first_token(tokenizer)
    for i, stand_in in zip(too_long, token_ids(with_stand_in, tokenizer), strict=True):
        short = _shortened(items[i].id, all_ids[i], stand_in, max_length, first)
        encoded[i] = dataclasses.replace(short, left_out=encoded[i].left_out)
    return encoded


def render(item: Item, template: ChatTemplate) -> str:
    """A whole conversation as the template writes it.

    Raises: UserError for one that the template refuses, or of which it leaves out tools or tool
    calls.
    """
    text = template.conversation(item.messages, item.id, item.tools)
    if item.tools or any("tool_calls" in message for message in item.messages):
        _check_tools_written(item, text, template)
    return text


def _check_tools_written(item: Item, text: str, template: ChatTemplate) -> None:
    """Refuse a row of which the template ignores tools or calls.

    Two different calls would otherwise score the same.
    """
    refusal = f"{item.id}: the scorer's chat template does not write"
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
            raise UserError(f"{refusal} the tool_calls of a message: they would not be scored")
    if item.tools and template.conversation(item.messages, item.id) == text:
        raise UserError(f"{refusal} `tools`, so they would not be scored")


def left_out_flags(conversations: Sequence[LeftOut]) -> dict[str, list[bool]]:
    """What chat templates left out of conversations, as a scorer's flags."""
    columns = (
        [left_out.answer for left_out in conversations],
        [left_out.part_of_answer for left_out in conversations],
        [left_out.part_of_prompt for left_out in conversations],
    )
    return dict(zip(LEFT_OUT, columns, strict=True))


def _with_stand_in(item: Item, template: ChatTemplate) -> str:
    """The conversation with another answer, to find where the template's own tokens are."""
    messages = [*item.prompt, {"role": "assistant", "content": STAND_IN}]
    return template.conversation(messages, item.id, item.tools)


def token_ids(texts: list[str], tokenizer: Any) -> list[list[int]]:
    """Token ids of rendered conversations.

    The template writes the special tokens, so the tokenizer adds none (no doubled BOS).
    """
    if not texts:
        return []
    return tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]


def cut(ids: list[int], max_length: int, first: int | None) -> list[int]:
    """The last `max_length` tokens; if the conversation begins with `first`, that stays in front.

    `first` is a BOS or CLS token.
    """
    if len(ids) <= max_length:
        return ids
    if ids[0] == first and max_length > 1:
        return [first, *ids[1 - max_length :]]
    return ids[-max_length:]


def first_token(tokenizer: Any) -> int | None:
    """The token that stays in front whatever is cut: BOS, or CLS in encoders."""
    bos = tokenizer.bos_token_id
    return tokenizer.cls_token_id if bos is None else bos


def common(a: Sequence, b: Sequence) -> int:
    """How many tokens (of texts: characters) two sequences share at their beginning."""
    for i, (token_a, token_b) in enumerate(zip(a, b, strict=False)):
        if token_a != token_b:
            return i
    return min(len(a), len(b))


def _shortened(
    name: str,
    ids: list[int],
    stand_in: list[int],
    max_length: int,
    first: int | None,
) -> Encoded:
    """A conversation cut to `max_length`; `stand_in` is the same one with another answer.

    What both share at the end is the template's, after the answer.
    """
    after = common(ids[::-1], stand_in[::-1])
    response = len(ids) - common(ids, stand_in) - after
    kept = cut(ids, max_length, first)
    keeps_first = kept[0] == first and ids[0] == first
    room = max_length - after - keeps_first
    if response > 0 and room < 1:
        raise UserError(
            f"{name}: max_length {max_length} leaves no token of the answer,"
            f" after which the chat template writes {after}"
        )
    return Encoded(kept, len(ids) - len(kept), response > room)
