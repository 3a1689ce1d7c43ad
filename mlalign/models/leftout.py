"""What a chat template leaves out of a conversation: found from the text that it writes, without
knowing the template.

Many templates cut an assistant's text before `</think>`, ignore system messages, tools or tool
calls. Answers that differ only there are the same text to a model. Most conversations are seen to
be whole by looking for their texts in what was written; only where one is not found does white
space, JSON or a trial rendering decide.

    left_out("<user>2+2?<assistant>4", messages, …)    of the answer "<think>two</think>4": LeftOut(part_of_answer=True)
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
    text: str, messages: Sequence[Mapping], tools: Sequence | None, again: Callable[[Sequence[Mapping]], str]
) -> LeftOut:  # fmt: skip
    """What `text` lacks of the conversation that it was rendered from; `again` renders another
    conversation in the same way.
    """
    *prompt, answer = messages
    part_of_prompt = not of_prompt(text, prompt, tools)
    parts = list(_parts(answer))
    if not parts or _whole(text, parts, prompt):
        return NOTHING if not part_of_prompt else LeftOut(part_of_prompt=True)
    before, found, after = again(
        [*prompt, {"role": answer["role"], "content": STAND_IN}]
    ).rpartition(STAND_IN)
    if _squeezed(before + after) == _squeezed(text):
        return LeftOut(answer=True, part_of_prompt=part_of_prompt)
    own = (
        text[len(before) : len(text) - len(after)]
        if found and text.startswith(before) and text.endswith(after)
        else text
    )
    there = all(_there(own, part) for part in parts)
    return LeftOut(part_of_answer=not there, part_of_prompt=part_of_prompt)


def of_prompt(text: str, prompt: Sequence[Mapping], tools: Sequence | None) -> bool:
    """Whether everything that a prompt and the tools say stands in the text."""
    return all(_there(text, part) for message in prompt for part in _parts(message)) and (
        not tools or _has_tools(text, tools)
    )


def _whole(text: str, parts: Sequence[str], prompt: Sequence[Mapping]) -> bool:
    """Whether an answer stands in the text, and not only because the prompt says the same."""
    for part in parts:
        if part not in text:
            return False
        in_prompt = sum(_content(message).count(part) for message in prompt)
        if in_prompt and text.count(part) <= in_prompt:
            return False
    return True


def _there(text: str, part: str) -> bool:
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
    """The texts of a message, each without white space around it: content, reasoning, and what its
    tool calls say.
    """
    if type(content := message.get("content")) is str:
        if stripped := content.strip():
            yield stripped
    else:
        yield from filter(None, map(str.strip, _texts(content)))
    if len(message) > 2:
        for key in ("reasoning_content", "reasoning", "thinking"):
            if isinstance(said := message.get(key), str) and said.strip():
                yield said.strip()
        for call in message.get("tool_calls") or ():
            yield from _call_texts(call)


def _texts(value: Any) -> Iterator[str]:
    """The texts in content that is a list of parts (`[{"type": "text", "text": …}]`)."""
    if isinstance(value, Sequence) and not isinstance(value, str):
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
        if isinstance(name := function.get("name"), str) and name not in text:
            return False
    return True
