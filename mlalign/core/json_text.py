"""JSON that other people wrote, read so that nothing later can stumble over it: bounded in depth,
and real text.
"""

import json
from collections.abc import Iterator
from typing import Any

MAX_DEPTH = 100  # of lists and objects within each other; rows of any data set need fewer than ten
BOM = "\ufeff"
_DECODER = json.JSONDecoder()


def load(text: str) -> Any:
    """The value of JSON text. Raises: ValueError that says what is wrong with it."""
    text = text.strip()
    if text.startswith(BOM):
        text = text.removeprefix(BOM).lstrip()
    value, end = _decode(text, 0)
    if end != len(text):
        raise ValueError(f"is not JSON ({json.JSONDecodeError('Extra data', text, end)})")
    return value


def items(text: str) -> Iterator[tuple[int, Any]]:
    """(line from 1, value) of every item of a JSON array, one at a time.

    Raises: ValueError that names the line, at the item that is broken; what came before it was
        yielded.
    """
    at = _skip(text, len(text) - len(text.removeprefix(BOM)))
    if text[at : at + 1] != "[":
        raise ValueError("is no JSON array")
    at = _skip(text, at + 1)
    line, counted = 1 + text.count("\n", 0, at), at
    while text[at : at + 1] != "]":
        line, counted = line + text.count("\n", counted, at), at
        try:
            value, at = _decode(text, at)
        except ValueError as error:
            raise ValueError(f"line {line}: {error}") from None
        yield line, value
        at = _skip(text, at)
        if text[at : at + 1] == ",":
            at = _skip(text, at + 1)
        elif text[at : at + 1] != "]":
            raise ValueError(
                f"line {1 + text.count(chr(10), 0, at)}: expected a comma or ] after an item of the"
                " array"
            )
    if text[_skip(text, at + 1) :]:
        raise ValueError(
            f"line {1 + text.count(chr(10), 0, at)}: there is more text after the array"
        )


def _skip(text: str, at: int) -> int:
    while text[at : at + 1].isspace():
        at += 1
    return at


def _decode(text: str, start: int) -> tuple[Any, int]:
    try:
        value, end = _DECODER.raw_decode(text, start)  # what json.loads does, without its detours
    except RecursionError:
        raise ValueError(
            f"is not JSON that can be read: it is nested more than {MAX_DEPTH} deep"
        ) from None
    except ValueError as error:
        raise ValueError(f"is not JSON ({error})") from None
    if (
        text.count("[", start, end) + text.count("{", start, end) > MAX_DEPTH
        and _depth(value) > MAX_DEPTH
    ):
        raise ValueError(f"is not JSON that can be read: it is nested more than {MAX_DEPTH} deep")
    return value, end


def _depth(value: Any) -> int:
    """How many lists and objects lie within each other; no recursion, which depth would break."""
    deepest = 0
    waiting = [(value, 1)]
    while waiting:
        inner, depth = waiting.pop()
        if not isinstance(inner, dict | list):
            continue
        deepest = max(deepest, depth)
        children = inner.values() if isinstance(inner, dict) else inner
        waiting += [(child, depth + 1) for child in children]
    return deepest


def is_text(value: Any, text: str) -> bool:
    """Whether a value that was read from `text` holds no half of a surrogate pair (\\ud8…), which
    is JSON but no text.
    """
    if "\\ud" not in text and "\\uD" not in text:
        return True
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
