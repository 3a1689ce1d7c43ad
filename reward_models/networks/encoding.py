"""Conversations as token ids, and what is cut where one is longer than its model takes. Pure, but for the tokenizer's work.

A conversation that is too long loses tokens at its beginning; a BOS (or CLS) token in front stays. Decoders are read at the last
token, in training always the end of a complete answer, so the end is what must stay: where even the answer alone is too long, it
keeps its end. No answer is ever cut to nothing.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from mlalign.errors import UserError
from reward_models.items import Item

STAND_IN = "§"  # an answer in place of the real one, to find where the template's own tokens are


@dataclasses.dataclass(frozen=True)
class Encoded:
    """The tokens that are left of a conversation; `cut_tokens` are lost, some of them the answer's if `response_truncated`."""

    ids: list[int]
    cut_tokens: int = 0
    response_truncated: bool = False


def encode(items: Sequence[Item], tokenizer: Any, max_length: int, template_kwargs: Mapping) -> list[Encoded]:
    """Every conversation as at most `max_length` tokens.

    Raises: UserError for a conversation that the template refuses, or if no token of an answer would be left.
    """
    whole = token_ids(items, tokenizer, template_kwargs)
    if empty := [item.id for item, ids in zip(items, whole, strict=True) if not ids]:
        raise UserError(f"{empty[0]}: the scorer's chat template writes nothing for this conversation")
    long = [i for i, ids in enumerate(whole) if len(ids) > max_length]
    stand_ins = token_ids([dataclasses.replace(items[i], response=STAND_IN, answer_extra={}) for i in long], tokenizer, template_kwargs)
    out = [Encoded(ids) for ids in whole]
    for i, stand_in in zip(long, stand_ins, strict=True):
        out[i] = _shortened(items[i].id, whole[i], stand_in, max_length, first_token(tokenizer))
    return out


def token_ids(items: Sequence[Item], tokenizer: Any, template_kwargs: Mapping) -> list[list[int]]:
    """Token ids of whole conversations. The template writes the special tokens, so the tokenizer adds none (no doubled BOS)."""
    texts = [render(item, tokenizer, template_kwargs) for item in items]
    return tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"] if texts else []


def render(item: Item, tokenizer: Any, template_kwargs: Mapping) -> str:
    """A whole conversation as the template writes it. Raises: UserError for one that it refuses, or of which it leaves out tools."""
    messages = [*item.prompt, item.answer]
    text = _written(item, messages, item.tools, tokenizer, template_kwargs)
    if item.tools or any("tool_calls" in message for message in messages):
        _check_tools_written(item, text, tokenizer, template_kwargs)
    return text


def _written(item: Item, messages: list[dict], tools: list | None, tokenizer: Any, template_kwargs: Mapping) -> str:
    from jinja2 import TemplateError

    options = {**({"tools": tools} if tools else {}), **template_kwargs}
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, **options))
    except TemplateError as error:
        raise UserError(f"{item.id}: the scorer's chat template refuses this conversation: {error}") from None


def _check_tools_written(item: Item, text: str, tokenizer: Any, template_kwargs: Mapping) -> None:
    """Raises: UserError if the template writes the same without the row's tools or without a message's calls: two different calls
    would score the same."""
    messages = [*item.prompt, item.answer]
    for i, message in enumerate(messages):
        if "tool_calls" not in message:
            continue
        without = {key: value for key, value in message.items() if key != "tool_calls"}
        try:
            same = _written(item, [*messages[:i], without, *messages[i + 1 :]], item.tools, tokenizer, template_kwargs) == text
        except UserError:  # it looks for the calls, then
            same = False
        if same:
            raise UserError(f"{item.id}: the scorer's chat template does not write the tool_calls of a message: they would not be scored")
    if item.tools and _written(item, messages, None, tokenizer, template_kwargs) == text:
        raise UserError(f"{item.id}: the scorer's chat template does not write `tools`, so they would not be scored")


def cut(ids: list[int], max_length: int, first: int | None) -> list[int]:
    """The last `max_length` tokens, the token `first` (BOS or CLS) before them if the conversation begins with it."""
    if len(ids) <= max_length:
        return ids
    return [first, *ids[1 - max_length :]] if ids[0] == first and max_length > 1 else ids[-max_length:]


def first_token(tokenizer: Any) -> int | None:
    """The token that stays in front whatever is cut: BOS, or CLS in encoders."""
    return tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.cls_token_id


def common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two sequences share at their beginning."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _shortened(name: str, ids: list[int], stand_in: list[int], max_length: int, first: int | None) -> Encoded:
    after = common(ids[::-1], stand_in[::-1])
    response = len(ids) - common(ids, stand_in) - after
    kept = cut(ids, max_length, first)
    room = max_length - after - (kept[0] == first and ids[0] == first)
    if response > 0 and room < 1:
        raise UserError(f"{name}: max_length {max_length} leaves no token of the answer, after which the chat template writes {after}")
    return Encoded(kept, len(ids) - len(kept), response > room)
