"""From the value of one column to messages `{role, content, …}`.

A message keeps `role`, `content` and the keys of `CARRIED`, which only chat templates read.
`content` is text, or None beside tool calls, because templates tell that from an empty text.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from mlalign.core import json_text

HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
ROLES = ("system", "developer", "user", "assistant", "tool")

# Speakers of ShareGPT's turns {from, value}. Messages {role, content} must name a role of ROLES.
SPEAKERS = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "system": "system",
    "tool": "tool",
    "observation": "tool",
    "function_response": "tool",
}

REASONING = ("reasoning_content", "thinking", "reasoning")
CARRIED = ("tool_calls", *REASONING, "name", "tool_call_id")
TEXT_PARTS = ("text", "input_text", "output_text")
MEDIA = ("images", "image", "audio", "videos")
KINDS = {
    bool: "true or false",
    int: "a number",
    float: "a number",
    dict: "an object",
    list: "a list",
    str: "text",
    type(None): "null",
}
LONGEST_NAME = 40  # characters of a value that an error shows


class Malformed(ValueError):
    """A record that does not have the form its file promises; the caller adds file and row."""


class Dropped(ValueError):
    """A record of the right form that gives no row.

    `reason` is a word for the counts; the message explains it.
    """

    def __init__(self, reason: str, why: str):
        super().__init__(why)
        self.reason = reason


def conversation(value: Any, role: str, name: str) -> list[dict]:
    """The messages in a column called `name`; None is an empty conversation.

    Text is one message of `role`, unless it is a transcript or the JSON of messages:

        conversation("Hi", "user", "prompt")
            [{role: user, content: Hi}]
        conversation([{"from": "gpt", "value": "Hi"}], "user", "messages")
            [{role: assistant, content: Hi}]

    Raises: Malformed, Dropped.
    """
    if value is None:
        return []
    if isinstance(value, str):
        return _of_text(value, role, name)
    if isinstance(value, Mapping):
        return [_message(value, name)]
    if isinstance(value, Sequence):
        return [_message(turn, name) for turn in value]
    raise Malformed(
        f"`{name}`: expected text or a list of messages {{role, content}}, got {_kind(value)}"
    )


def plain(text: str) -> bool:
    """Whether text is certainly only text: no transcript, and no JSON or Python list."""
    return text[:1] not in ("[", "{", "\n", " ", "\t", "\r")


def _of_text(text: str, role: str, name: str) -> list[dict]:
    if plain(text):
        return [{"role": role, "content": text}]
    if text.startswith("\n") and text.lstrip().startswith(HUMAN.strip()):
        return answered_transcript(text) if role == "assistant" else transcript(text)
    turns = parsed(text)
    if _are_turns(turns):
        return conversation(turns, role, name)
    if turns is None and _looks_like_python(text):
        raise Malformed(
            f"`{name}`: is the text of a Python list of messages, not JSON;"
            " write the column with json.dumps, or the rows as JSONL"
        )
    return [{"role": role, "content": text}]


def parsed(text: str) -> Any:
    """The value of JSON text that begins as a list or object; None for any other text."""
    if text.lstrip()[:1] not in ("[", "{"):
        return None
    try:
        value = json_text.load(text)
    except ValueError:
        return None
    if not json_text.is_text(value, text):
        raise Dropped(
            "not_unicode", "has JSON with half of a surrogate pair (\\ud8…), which is no text"
        )
    return value


def _are_turns(value: Any) -> bool:
    turns = [value] if isinstance(value, dict) else value
    if not isinstance(turns, list) or not turns:
        return False
    return all(map(_is_turn, turns))


def _is_turn(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    return {"role", "content"} <= value.keys() or {"from", "value"} <= value.keys()


def _looks_like_python(text: str) -> bool:
    start = text.lstrip()[:200]
    if not start.startswith(("[{'", "{'")):
        return False
    return any(key in start for key in ("'role'", "'from'", "'content'"))


def transcript(text: str) -> list[dict]:
    """`\\n\\nHuman: …\\n\\nAssistant: …` as messages; turns of one speaker in a row become one."""
    turns: list[dict] = []
    for part in text.split(HUMAN):
        said_by_user, *said_by_assistant = part.split(ASSISTANT)
        _add_turn(turns, "user", said_by_user.strip())
        for content in said_by_assistant:
            _add_turn(turns, "assistant", content.strip())
    return turns


def _add_turn(turns: list[dict], role: str, content: str) -> None:
    if not content:
        return
    if turns and turns[-1]["role"] == role:
        turns[-1]["content"] += "\n\n" + content
    else:
        turns.append({"role": role, "content": content})


def answered_transcript(text: str) -> list[dict]:
    """A transcript that ends with an answer, which is a message of its own even if it is empty."""
    before, _, last = text.rpartition(ASSISTANT)
    if not before or HUMAN in last:
        return transcript(text)
    return [*transcript(before), {"role": "assistant", "content": last.strip()}]


# -------------------------------------------------------------------------------------- one message


def _message(turn: Any, name: str) -> dict:
    if _is_plain_message(turn):
        return {"role": turn["role"], "content": turn["content"]}
    if isinstance(turn, str):
        raise Malformed(
            f"`{name}`: is a list of texts;"
            " several answers stand in `responses`, messages are {role, content}"
        )
    if not isinstance(turn, Mapping):
        raise Malformed(
            f"`{name}`: expected messages {{role, content}} in the list, got {_kind(turn)}"
        )

    if "role" not in turn and "from" in turn:
        role = _speaker(turn["from"], name)
        content = turn.get("value")
    else:
        role = _role(turn, name)
        content = turn.get("content")
    for key in ("function_call", *MEDIA):
        if _says_something(turn.get(key)):
            raise Dropped(
                f"has_{key}",
                f"`{name}`: has a message with `{key}`, which no template is given here",
            )

    message = {"role": role, "content": None, **_carried(turn, name)}
    message["content"] = _text(content, message, name)
    return message


def _is_plain_message(turn: Any) -> bool:
    """Whether a turn is exactly {role, content} with text, as most are."""
    if type(turn) is not dict or len(turn) != 2:
        return False
    return turn.get("role") in ROLES and type(turn.get("content")) is str


def _carried(turn: Mapping, name: str) -> dict:
    """The keys of a message that only chat templates read."""
    carried = {key: turn[key] for key in CARRIED if _says_something(turn.get(key))}
    calls = carried.get("tool_calls")
    if calls is None:
        return carried
    if isinstance(calls, str):
        calls = parsed(calls)
    if not isinstance(calls, Sequence):
        raise Malformed(
            f"`{name}`: `tool_calls` of a message must be a list of calls,"
            f" got {_kind(turn['tool_calls'])}"
        )
    return {**carried, "tool_calls": calls}


def _says_something(value: Any) -> bool:
    return value is not None and value not in ("", [], {}, ())


def _role(turn: Mapping, name: str) -> str:
    role = turn.get("role")
    if role in ROLES:
        return str(role)
    if "role" not in turn:
        keys = ", ".join(map(str, turn)) or "nothing"
        raise Malformed(f"`{name}`: has a message without `role`; it has {keys}")

    message = f"`{name}`: role {_short(role)} is none of {', '.join(ROLES)}"
    if isinstance(role, str) and role.lower() in SPEAKERS:
        message += f"; call it {SPEAKERS[role.lower()]!r}"
    raise Malformed(message)


def _speaker(speaker: Any, name: str) -> str:
    """The role of a speaker in ShareGPT's turns."""
    if isinstance(speaker, str) and speaker in SPEAKERS:
        return SPEAKERS[speaker]
    if speaker == "function_call":
        raise Dropped(
            "has_tool_calls",
            f"`{name}`: has a turn from function_call; write tool calls as messages with"
            " `tool_calls`",
        )
    raise Malformed(
        f"`{name}`: a turn is from {_short(speaker)}, which is none of {', '.join(SPEAKERS)}"
    )


def _text(content: Any, message: Mapping, name: str) -> str | None:
    """The text of a message; its parts are joined without a space, as templates do it."""
    if isinstance(content, str):
        return content
    if content is None:
        if "tool_calls" in message:
            return None
        raise Dropped(
            "null_content",
            f"`{name}`: has a message of the {message['role']} whose content is null",
        )
    if isinstance(content, Mapping):
        content = [content]
    if not isinstance(content, Sequence):
        raise Malformed(f"`{name}`: content of a message must be text, got {_kind(content)}")
    return "".join(_part(part, name) for part in content)


def _part(part: Any, name: str) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, Mapping):
        kind = part.get("type", "text")
        if kind in TEXT_PARTS and isinstance(part.get("text"), str):
            return str(part["text"])
        shown = _short(part.get("type"))
    else:
        shown = _short(_kind(part))
    raise Dropped(
        "has_content_parts",
        f"`{name}`: content is a list of parts, and one is {shown}:"
        " only parts {type: text, text} are read",
    )


def _kind(value: Any) -> str:
    return KINDS.get(type(value), f"a {type(value).__name__}")


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= LONGEST_NAME else shown[:LONGEST_NAME] + "…"
