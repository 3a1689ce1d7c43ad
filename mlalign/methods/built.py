"""A builder in a step: what is wrong with its settings, and what it makes of a group, as rows."""

from collections.abc import Iterator, Mapping
from typing import Any

from mlalign import methods
from mlalign.core import rows
from mlalign.core.errors import UserError
from mlalign.core.store import Tally
from mlalign.methods import builders, made

NOTHING = "the builder made nothing"


def mistakes(name: str, arguments: Mapping[str, Any], kind: str) -> list[str]:
    """What is wrong with a builder of rows of some kind, as messages that begin with the key."""
    try:
        builder = builders.load(name)
        methods.options(builder, arguments, "builder_args")
    except UserError as error:
        return error.messages
    makes = builders.makes(builder)
    if makes != kind:
        return [f"kind: {kind}; the builder {name} makes {makes} rows"]
    return []


def rows_of(
    name: str,
    builder: builders.Builder,
    options: Mapping[str, Any],
    group: builders.Group,
    first: Mapping[str, Any],
    tally: Tally,
) -> Iterator[dict]:
    """The rows of one group, of which `first` is a row. A group that gives none is counted.

    Raises: UserError naming the group if the builder fails, or gives anything but rows.
    """
    place = f"group {group.id}: builder {name}"
    with methods.failures(builder, place):
        result = builder(group, **options)
    if isinstance(result, str) or not result:
        reason = result if isinstance(result, str) else NOTHING
        for language in group.rows:
            tally.drop(reason, language)
        return

    kind = builders.makes(builder)
    for number, content in enumerate(result):
        is_row = getattr(content, "kind", None) == kind
        if not is_row or getattr(content, "prompt_lang", None) is None:
            expected = f"expected {kind} rows with a prompt_lang"
            raise UserError(f"{place}: gave {content!r}; {expected}")
        yield _row(name, first, content, number)


def _row(
    name: str,
    first: Mapping[str, Any],
    content: Any,
    number: int,
) -> dict:
    """A row with an id that comes from builder, group, language and place."""
    columns = made.columns(content)
    copied = {column: first[column] for column in ("group_id", "source", "split")}
    identifier = rows.row_id(name, f"{first['group_id']}:{number}", columns["prompt_lang"])
    return {**columns, **copied, "id": identifier, "origin": "synthetic", "own_id": True}
