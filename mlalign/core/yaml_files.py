"""YAML that people write, read within bounds, so that a short text cannot fill memory or the stack.

`load` and `check` look at the parser's events before any value is built, so aliases are counted and
not expanded.
"""

import re
from pathlib import Path
from typing import Any, ClassVar

import yaml

from mlalign.core.errors import UserError

DEEPEST = 50  # levels of mappings and lists
MOST = 50_000  # values, with aliases expanded
LARGEST = 16 << 20  # bytes of a file
DIGITS = 1000  # of a number
TIMESTAMP = "tag:yaml.org,2002:timestamp"


class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Plain values only, and dates as text, as in OmegaConf.

    It is a class of its own because libraries change yaml.SafeLoader for the whole process:
    importing vLLM already turns dates into text there. libyaml parses ten times as fast, if it is
    installed.
    """

    yaml_implicit_resolvers: ClassVar[dict[str, list[tuple[str, re.Pattern[str]]]]] = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != TIMESTAMP]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def load(text: str, where: object) -> Any:
    """The content of a YAML text.

    Raises: UserError that begins with `where`, and says in one line what is wrong.
    """
    check(text, where)
    try:
        return yaml.load(text, Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{where}: cannot be read as YAML ({_first_line(error)})") from None


def read(file: Path) -> Any:
    """The content of a YAML file. Raises: UserError naming the file."""
    return load(text_of(file), file)


def text_of(file: Path) -> str:
    """The text of a file. Raises: UserError naming a missing file, no UTF-8, or one too large."""
    try:
        size = file.stat().st_size
        if size > LARGEST:
            raise UserError(
                f"{file}: {size:,} bytes, and at most {LARGEST:,} are read as YAML;"
                " is it another kind of file?"
            )
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{file}: no UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read as YAML ({error.strerror})") from None


def check(text: str, where: object) -> None:
    """Check that a text is YAML within the bounds.

    Raises: UserError that begins with `where` and names the line.
    """
    bounds = _Bounds()
    try:
        for event in yaml.parse(text, Loader):
            problem = bounds.count(event)
            if problem:
                raise UserError(f"{where}: line {_line(event)}: {problem}")
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{where}: cannot be read as YAML ({_first_line(error)})") from None


class _Bounds:
    """Counts the values that the events of a YAML text stand for, with aliases expanded."""

    def __init__(self) -> None:
        self._n_values = 0
        self._sizes: dict[str, int] = {}  # anchor -> the number of values that it stands for
        # The collections that are being read: anchor, and the number of values before it.
        self._open: list[tuple[str | None, int]] = []

    def count(self, event: yaml.Event) -> str | None:
        """Take the next event; returns what is wrong with it, or None."""
        if isinstance(event, yaml.AliasEvent):
            if any(anchor == event.anchor for anchor, _ in self._open):
                return f"*{event.anchor} contains itself; write the value out"
            self._n_values += self._sizes.get(event.anchor or "", 1)
        elif isinstance(event, yaml.ScalarEvent):
            if _is_long_number(event):
                return f"a number of {len(event.value):,} digits; at most {DIGITS:,}"
            self._n_values += 1
            if event.anchor:
                self._sizes[event.anchor] = 1
        elif isinstance(event, yaml.CollectionStartEvent):
            self._open.append((event.anchor, self._n_values))
            self._n_values += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, n_before = self._open.pop()
            if anchor:
                self._sizes[anchor] = self._n_values - n_before

        if len(self._open) > DEEPEST:
            return f"nested more than {DEEPEST} deep; make it flatter"
        if self._n_values > MOST:
            return f"stands for more than {MOST:,} values, aliases expanded; make it smaller"
        return None


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1


def _is_long_number(event: yaml.ScalarEvent) -> bool:
    """Whether an unquoted value is a number of too many digits."""
    if len(event.value) <= DIGITS or not event.implicit[0]:
        return False
    return event.value.replace("_", "").lstrip("+-").isdigit()


def _first_line(error: Exception) -> str:
    """A YAML error on one line, with the place."""
    return " ".join(str(error).split())[:300]
