"""JSON that other people wrote, made safe for later steps: bounded in depth, and real text."""

import json
from collections.abc import Iterator
from typing import Any

MAX_DEPTH = 100  # levels of lists and objects; rows of data sets need fewer than ten
TOO_DEEP = f"is not JSON that can be read: it is nested more than {MAX_DEPTH} deep"
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

    Raises: ValueError with the line, when it reaches an item that is broken.
    """
    start = len(BOM) if text.startswith(BOM) else 0
    at = _skip_space(text, start)
    if text[at : at + 1] != "[":
        raise ValueError("is no JSON array")
    at = _skip_space(text, at + 1)

    line = _line(text, at)
    counted = at  # the line breaks before it are in `line`
    while text[at : at + 1] != "]":
        line += text.count("\n", counted, at)
        counted = at
        try:
            value, at = _decode(text, at)
        except ValueError as error:
            raise ValueError(f"line {line}: {error}") from None
        yield line, value

        at = _skip_space(text, at)
        if text[at : at + 1] == ",":
            at = _skip_space(text, at + 1)
        elif text[at : at + 1] != "]":
            raise ValueError(
                f"line {_line(text, at)}: expected a comma or ] after an item of the array"
            )
    if text[_skip_space(text, at + 1) :]:
        raise ValueError(f"line {_line(text, at)}: there is more text after the array")


def _line(text: str, at: int) -> int:
    """The line, from 1, of a position in a text."""
    return 1 + text.count("\n", 0, at)


def _skip_space(text: str, at: int) -> int:
    while text[at : at + 1].isspace():
        at += 1
    return at


def _decode(text: str, start: int) -> tuple[Any, int]:
    """The JSON value that begins at `start`, and where it ends."""
    try:
        value, end = _DECODER.raw_decode(text, start)
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    except ValueError as error:
        raise ValueError(f"is not JSON ({error})") from None

    # Counting brackets is fast, and shows for almost all texts that they are not too deep.
    n_brackets = text.count("[", start, end) + text.count("{", start, end)
    if n_brackets > MAX_DEPTH and _depth(value) > MAX_DEPTH:
        raise ValueError(TOO_DEEP)
    return value, end


def _depth(value: Any) -> int:
    """How deep lists and objects are nested; not recursive, so that no depth can break it."""
    deepest = 0
    waiting = [(value, 1)]
    while waiting:
        inner, depth = waiting.pop()
        if isinstance(inner, dict):
            children = list(inner.values())
        elif isinstance(inner, list):
            children = inner
        else:
            continue
        deepest = max(deepest, depth)
        waiting += [(child, depth + 1) for child in children]
    return deepest


def is_text(value: Any, text: str) -> bool:
    """Whether a value read from `text` has no lone half of a surrogate pair (\\ud8…).

    Such a half is valid JSON, but it is no text.
    """
    if "\\ud" not in text and "\\uD" not in text:
        return True
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
