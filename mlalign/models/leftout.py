"""What a chat template leaves out of a conversation, judged from the text that it writes.

Many templates cut an assistant's text before `</think>`, or ignore system messages, tools or tool
calls. Answers that differ only there are the same text to a model. Most conversations turn out
whole as soon as their texts are searched for in the rendered text. Only if one is missing do we
ignore white space, look for JSON, or render a trial conversation.

For the answer "<think>two</think>4":

    left_out("<user>2+2?<assistant>4", messages, …) == LeftOut(part_of_answer=True)
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

STAND_IN = "§"  # an answer in place of the real one


class LeftOut(NamedTuple):
    """What is missing of a conversation.

    `answer`: all of its last message; `part_of_answer`: some of it, or it is rewritten.
    """

    answer: bool = False
    part_of_answer: bool = False
    part_of_prompt: bool = False


NOTHING = LeftOut()


def left_out(
    text: str,
    messages: Sequence[Mapping],
    tools: Sequence | None,
    render: Callable[[Sequence[Mapping]], str],
) -> LeftOut:
    """What `text` lacks of the conversation that it was rendered from.

    `render` writes another conversation in the same way.
    """
    *prompt, answer = messages
    part_of_prompt = not of_prompt(text, prompt, tools)
    parts = list(_parts(answer))
    if not parts or _holds_answer(text, parts, prompt):
        return LeftOut(part_of_prompt=part_of_prompt)

    trial = render([*prompt, {"role": answer["role"], "content": STAND_IN}])
    before, stand_in, after = trial.rpartition(STAND_IN)
    if _squeezed(before + after) == _squeezed(text):
        return LeftOut(answer=True, part_of_prompt=part_of_prompt)

    answer_text = text
    if stand_in and text.startswith(before) and text.endswith(after):
        answer_text = text[len(before) : len(text) - len(after)]
    is_whole = all(_contains(answer_text, part) for part in parts)
    return LeftOut(part_of_answer=not is_whole, part_of_prompt=part_of_prompt)


def of_prompt(text: str, prompt: Sequence[Mapping], tools: Sequence | None) -> bool:
    """Whether the text contains everything that a prompt and the tools say."""
    for message in prompt:
        if not all(_contains(text, part) for part in _parts(message)):
            return False
    return not tools or _has_tools(text, tools)


def _holds_answer(text: str, parts: Sequence[str], prompt: Sequence[Mapping]) -> bool:
    """Whether an answer stands in the text, and not only because the prompt says the same."""
    for part in parts:
        if part not in text:
            return False
        in_prompt = sum(_content(message).count(part) for message in prompt)
        if in_prompt and text.count(part) <= in_prompt:
            return False
    return True


def _contains(text: str, part: str) -> bool:
    """Whether a text contains a part: as it is, but for white space, or written as JSON."""
    if part in text:
        return True
    squeezed = _squeezed(text)
    as_json = json.dumps(part, ensure_ascii=False)[1:-1]
    return _squeezed(part) in squeezed or _squeezed(as_json) in squeezed


def _squeezed(text: str) -> str:
    return "".join(text.split())


def _content(message: Mapping) -> str:
    content = message.get("content")
    return content if isinstance(content, str) else "\n".join(_texts(content))


def _parts(message: Mapping) -> Iterator[str]:
    """The texts of a message (content, reasoning, tool calls), stripped of white space."""
    content = message.get("content")
    texts = [content] if isinstance(content, str) else _texts(content)
    yield from filter(None, map(str.strip, texts))
    if len(message) <= 2:  # role and content only: the usual case
        return

    for key in ("reasoning_content", "reasoning", "thinking"):
        reasoning = message.get(key)
        if isinstance(reasoning, str) and reasoning.strip():
            yield reasoning.strip()
    for call in message.get("tool_calls") or ():
        yield from _call_texts(call)


def _texts(value: Any) -> Iterator[str]:
    """The texts in content that is a list of parts (`[{"type": "text", "text": …}]`)."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        return
    for part in value:
        if isinstance(part, str):
            yield part
        elif isinstance(part, Mapping) and isinstance(part.get("text"), str):
            yield part["text"]


def _call_texts(call: Any) -> Iterator[str]:
    """The name of a called function and the texts and numbers among its arguments."""
    function = call.get("function", call) if isinstance(call, Mapping) else {}
    if isinstance(function.get("name"), str):
        yield function["name"]
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError:
            yield arguments
            return
    yield from _leaves(arguments)


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for inner in value.values():
            yield from _leaves(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _leaves(inner)
    elif isinstance(value, str):
        if value.strip():
            yield value.strip()
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield json.dumps(value)


def _has_tools(text: str, tools: Sequence) -> bool:
    """Whether the name of every tool stands in the text."""
    for tool in tools:
        function = tool.get("function", tool) if isinstance(tool, Mapping) else {}
        name = function.get("name")
        if isinstance(name, str) and name not in text:
            return False
    return True
