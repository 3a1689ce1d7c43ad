"""The shapes of files that mlalign writes itself, checked when they are read.

A crash, a person or another version of mlalign may have changed them.
"""

import errno
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mlalign.core import yaml_files
from mlalign.core.errors import UserError

Fields = Mapping[str, type | tuple[type, ...]]

NUMBER = (int, float)


class Counts(dict):
    """As a field's type: a mapping whose values are numbers."""


class FileName(str):
    """As a field's type: text that can name a directory of the store."""


FILE_NAME = re.compile(r"[\w.+-]{1,200}")
PLAN: Fields = {"recipe": str, "steps": list}
STEP_OF_PLAN: Fields = {"step": str, "stage": str, "artifact": FileName}
JOB: Fields = {
    "job": (str, int),
    "step": str,
    "artifact": FileName,
    "tasks": int,
    "script": str,
    "log": str,
    "after": list,
    "continues": (str, int, type(None)),
    "submitted": NUMBER,
}
FROZEN: Fields = {"step": str, "stage": str, "fingerprint": str, "config": dict, "inputs": dict}
SUBMITTED: Fields = {**FROZEN, "store": str}
OUTCOME: Fields = {"status": int, "message": str}
MANIFEST: Fields = {
    "step": str,
    "stage": str,
    "kind": str,
    "status": str,
    "fingerprint": str,
    "inputs": dict,
    "rows_by_language": Counts,
    "dropped": dict,
    "started": NUMBER,
    "finished": NUMBER,
    "content_digest": str,
    "files": dict,
}
PROGRESS: Fields = {
    "done": NUMBER,
    "total": (*NUMBER, type(None)),
    "unit": str,
    "by_language": Counts,
}


def problem(value: Any, fields: Fields) -> str | None:
    """Why a value is no mapping with these keys, such as `holds no 'status'`; None if it is one."""
    if not isinstance(value, dict):
        return f"holds {_kind(value)} where a mapping belongs"
    for key, kind in fields.items():
        if key not in value:
            return f"holds no {key!r}"
        if message := _field_problem(key, value[key], kind):
            return message
    return None


def _field_problem(key: str, value: Any, kind: type | tuple[type, ...]) -> str | None:
    if kind is Counts and isinstance(value, dict):
        if not all(map(_is_number, value.values())):
            return f"{key!r} is a mapping of something other than numbers"
        return None
    if kind is FileName and isinstance(value, str):
        if not FILE_NAME.fullmatch(value):
            return f"{key!r} cannot name a directory: {value[:80]!r}"
        return None
    if not isinstance(value, kind) or isinstance(value, bool) or not _is_finite(value):
        return f"{key!r} is {_kind(value)}"
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, NUMBER) and not isinstance(value, bool) and _is_finite(value)


def _is_finite(value: Any) -> bool:
    return not isinstance(value, float) or math.isfinite(value)


def check(value: Any, fields: Fields, place: object, mend: str) -> None:
    """Check that a value is a mapping with these keys.

    Raises: UserError with the place and the mend if a key is missing or has another type.
    """
    if message := problem(value, fields):
        raise UserError(f"{place}: {message}; {mend}")


def check_all(values: Iterable[Any], fields: Fields, place: object, mend: str) -> None:
    for number, value in enumerate(values, 1):
        check(value, fields, f"{place}, entry {number}", mend)


def read_yaml(path: Path, fields: Fields, mend: str) -> dict[str, Any]:
    """A YAML file that mlalign wrote.

    Raises: UserError naming the file if it is no YAML, or lacks one of these keys.
    """
    if not path.is_file():
        raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
    try:
        value = yaml_files.read(path)
    except UserError as error:
        raise UserError(*(f"{message}; {mend}" for message in error.messages)) from None
    check(value, fields, path, mend)
    return value


def _kind(value: Any) -> str:
    names = {
        dict: "a mapping",
        list: "a list",
        str: "text",
        int: "a number",
        float: "a number",
        bool: "true or false",
    }
    if not _is_finite(value):
        return f"{value}, which is not finite"
    return names.get(type(value), "nothing")
