"""YAML that people write, read within bounds: a short text cannot stand for more than memory or the
stack can hold.

`load` and `check` look at the events of the text before anything is built from them, so aliases are
counted and not expanded.
"""

import re
from pathlib import Path
from typing import Any, ClassVar

import yaml

from mlalign.core.errors import UserError

DEEPEST = 50  # mappings and lists within each other
MOST = 50_000  # values, each alias counted as all that it stands for
LARGEST = 16 << 20  # bytes of a file
DIGITS = 1000  # of a number
TIMESTAMP = "tag:yaml.org,2002:timestamp"


class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Plain values only, and a date is text, as in OmegaConf.

    A class of its own, because libraries change yaml.SafeLoader for the whole process: vLLM's
    import alone turns dates into text there. libyaml, where it is, parses ten times as fast.
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
    """The text of a file. Raises: UserError naming it, if it is not there, no UTF-8, or too large."""
    try:
        if (size := file.stat().st_size) > LARGEST:
            raise UserError(
                f"{file}: {size:,} bytes, and at most {LARGEST:,} are read as YAML; is it another"
                " kind of file?"
            )
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{file}: no UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read as YAML ({error.strerror})") from None


def check(text: str, where: object) -> None:
    """Raises: UserError for a text that is no YAML, or that is nested too deeply or stands for too
    much.
    """
    open_: list[tuple[str | None, int]] = []  # what is being read: its anchor, the count before it
    sizes: dict[str, int] = {}  # anchor -> how many values it stands for
    count = 0
    try:
        for event in yaml.parse(text, Loader):
            if isinstance(event, yaml.AliasEvent):
                if any(anchor == event.anchor for anchor, _ in open_):
                    raise UserError(
                        f"{where}: line {_line(event)}: *{event.anchor} stands within itself; write"
                        " the value out"
                    )
                count += sizes.get(event.anchor or "", 1)
            elif isinstance(event, yaml.ScalarEvent):
                count += 1
                if (
                    len(event.value) > DIGITS
                    and event.value.replace("_", "").lstrip("+-").isdigit()
                    and event.implicit[0]
                ):
                    raise UserError(
                        f"{where}: line {_line(event)}: a number of {len(event.value):,} digits; at"
                        f" most {DIGITS:,}"
                    )
                if event.anchor:
                    sizes[event.anchor] = 1
            elif isinstance(event, yaml.CollectionStartEvent):
                open_.append((event.anchor, count))
                count += 1
            elif isinstance(event, yaml.CollectionEndEvent):
                anchor, before = open_.pop()
                if anchor:
                    sizes[anchor] = count - before
            if len(open_) > DEEPEST:
                raise UserError(
                    f"{where}: line {_line(event)}: nested more than {DEEPEST} deep; make it"
                    " flatter"
                )
            if count > MOST:
                raise UserError(
                    f"{where}: line {_line(event)}: stands for more than {MOST:,} values, aliases"
                    " expanded; make it smaller"
                )
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{where}: cannot be read as YAML ({_first_line(error)})") from None


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1


def _first_line(error: Exception) -> str:
    """A YAML error on one line, with the place."""
    return " ".join(str(error).split())[:300]
