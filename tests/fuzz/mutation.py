"""Changes to valid inputs, as editors, other tools and hostile people make them.

Everything follows from the generator that is given.
"""

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

import yaml

LONG = "word " * 2000
DEEP = 100  # lists within each other; deeper ones come as text

VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    1,
    -1,
    1 << 63,
    1 << 200,
    1e308,
    -0.0,
    0.5,
    float("nan"),
    float("inf"),
    "",
    " ",
    "\n",
    "\x00",
    "\x1b[2J",
    "\u202e",
    "\ufeff",
    "\ud83d",
    "\U0001f3f3\ufe0f\u200d\U0001f308",
    "e\u0301",
    "８",
    "NaN",
    "null",
    "true",
    "1e9",
    "=1+1",
    "../../etc/passwd",
    "/",
    ".",
    "~",
    "${oc.env:HOME}",
    "${a}",
    "{{ 1/0 }}",
    "{% for i in range(9) %}x{% endfor %}",
    "<|im_end|>",
    "</s>",
    "eng_Latn",
    "en-fr",
    "java",
    LONG,
    [],
    {},
    [None],
    [[]],
    {"": None},
    {"path": "."},
    {"step": "x"},
    {"family": "length"},
    ["a", 1],
    [{"role": "user", "content": "?"}],
    {"role": "user", "content": None},
]

PIECES: list[bytes] = [
    b"\xef\xbb\xbf",
    b"\xff\xfe",
    b"\x00",
    b"\r",
    b"\r\n",
    b"\n",
    b"\xe2\x80\xa8",
    b"\xc0\xaf",
    b"\xed\xa0\x80",
    b"\\ud83d",
    b'"',
    b"'",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"#",
    b"---\n",
    b"&a",
    b"*a",
    b"!!python/none ",
    b"<<: ",
    b"[" * 2000,
    b"{" * 2000,
    b'{"a":' * 2000,
    b"9" * 5000,
    b"-",
    b"e999",
    b"NaN",
    b"Infinity",
    b"null",
    b"{{",
    b"}}",
    b"{%",
    b"%}",
    b"{{ raise_exception('no') }}",
    b"{{ 1/0 }}",
    b"{{ x.y.z }}",
    b"{% for m in messages %}",
    b"{% endfor %}",
    b"\x89PNG",
    b"PK\x03\x04",
    b"PAR1",
    b"\x1f\x8b\x08",
    b"x" * 5000,
]


def changed_value(rng: random.Random, value: Any) -> Any:
    """A copy of nested data with one to three changes somewhere in it."""
    root = [copy.deepcopy(value)]
    for _ in range(rng.randint(1, 3)):
        places = list(_places(root))
        if places:  # else all of it was deleted
            _change(rng, *rng.choice(places))
    return root[0] if root else None


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) within nested data."""
    keys = (
        list(value)
        if isinstance(value, dict)
        else range(len(value))
        if isinstance(value, list)
        else ()
    )
    for key in keys:
        yield value, key
        yield from _places(value[key])


def _change(rng: random.Random, holder: Any, key: Any) -> None:
    old = holder[key]
    match rng.choice(
        ("replace", "replace", "delete", "wrap", "text", "double", "rename", "deepen", "number")
    ):
        case "replace":
            holder[key] = copy.deepcopy(rng.choice(VALUES))
        case "delete":
            del holder[key]
        case "wrap":
            holder[key] = rng.choice(([old], {"a": old}, [old, old]))
        case "text":
            holder[key] = json.dumps(old, default=str)
        case "double" if isinstance(holder, list):
            holder.insert(rng.randrange(len(holder) + 1), copy.deepcopy(old))
        case "rename" if isinstance(holder, dict):
            holder[
                rng.choice(
                    (str(key).upper(), f"{key} ", "", "prompt", "messages", "id", 1, None, True)
                )
            ] = holder.pop(key)
        case "deepen":
            for _ in range(DEEP):
                old = [old]
            holder[key] = old
        case _:
            holder[key] = (
                old * rng.choice((-1, 0, 10**30))
                if type(old) in (int, float)
                else copy.deepcopy(rng.choice(VALUES))
            )


def changed_bytes(rng: random.Random, data: bytes, most: int = 3) -> bytes:
    """The bytes with up to `most` changes: flipped, cut, doubled, and pieces that readers stumble
    over.
    """
    out = bytearray(data)
    for _ in range(rng.randint(1, most)):
        at = rng.randrange(len(out) + 1)
        end = min(len(out), at + rng.randint(1, 40))
        match rng.choice(("flip", "cut", "delete", "double", "insert", "insert", "replace")):
            case "flip" if at < len(out):
                out[at] ^= 1 << rng.randrange(8)
            case "cut":
                del out[at:]
            case "delete":
                del out[at:end]
            case "double":
                out[at:at] = out[at:end]
            case "replace":
                out[at:end] = rng.choice(PIECES)
            case _:
                out[at:at] = rng.choice(PIECES)
    return bytes(out)


def as_json(rng: random.Random, value: Any) -> bytes:
    """Changed data as JSON; in one of four cases the text is changed too, in another only the text."""
    way = rng.randrange(4)
    text = json.dumps(value if way == 0 else changed_value(rng, value), default=str).encode()
    return changed_bytes(rng, text) if way < 2 else text


def as_lines(rng: random.Random, rows: list[Any]) -> bytes:
    """Rows as JSON lines, one of them changed."""
    lines = [json.dumps(row).encode() for row in rows]
    lines[rng.randrange(len(lines))] = as_json(rng, rng.choice(rows))
    return b"\n".join(lines) + rng.choice((b"\n", b"", b"\n\n"))


def as_yaml(rng: random.Random, value: Any) -> bytes:
    """Changed data as YAML; in one of four cases the text is changed too, in another only the text."""
    way = rng.randrange(4)
    changed = value if way == 0 else changed_value(rng, value)
    try:
        text = yaml.safe_dump(changed, sort_keys=False, allow_unicode=True).encode(
            "utf-8", "surrogatepass"
        )
    except (yaml.YAMLError, RecursionError):
        text = json.dumps(changed, default=str).encode()  # YAML too
    return changed_bytes(rng, text) if way < 2 else text
