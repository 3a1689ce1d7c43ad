"""The rows that a command reads: the options `--input`, `--format` and `--language`."""

import argparse
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import reward_models
from mlalign.core import conversations, formats, languages
from mlalign.core.errors import UserError
from reward_models import files, items
from reward_models.items import named_language

LANGUAGE = "language of the rows that name none themselves"  # help of --language
NAMELESS = "no language"
MOST = 10  # bad rows that an error shows


def add_options(parser: argparse.ArgumentParser, what: str) -> None:
    """The options that `read` reads."""
    ends = ", ".join(files.ENDINGS)
    parser.add_argument(
        "--input",
        nargs="+",
        required=True,
        metavar="PATH",
        help=f"{what}: files ({ends}), patterns or folders",
    )
    parser.add_argument(
        "--format",
        choices=formats.NAMES,
        default=formats.ROWS,
        help="form of the files (%(default)s)",
    )
    parser.add_argument("--language", help=LANGUAGE)


def read(options: argparse.Namespace, dropped: Counter) -> Iterator[tuple[str, dict]]:
    """(place, row) of all files; records without a row are counted in `dropped`.

    They are counted as (reason, language).
    Raises: UserError for a file that is missing or broken, or a record of another form.
    """
    default = languages.normalise(options.language) if options.language else None
    for path in files.expand(options.input):
        for where, row in formats.convert(options.format, path, files.read(path), dropped):
            if default is None or named_language(row):
                yield where, row
            else:
                yield where, {**row, "language": default}


def kept(rows: Iterable[tuple[str, dict]], dropped: Counter) -> Iterator[tuple[str, dict]]:
    """The rows that have items; the others are counted in `dropped` as (reason, language).

    Malformed rows stay.
    """
    for where, row in rows:
        try:
            conversations.read(row)
        except conversations.Dropped as drop:
            dropped[drop.reason, _language(row)] += 1
            continue
        except conversations.Malformed:
            pass  # reported with the other mistakes, when items are made of the row
        yield where, row


def _language(row: Mapping) -> str:
    name = named_language(row)
    if not name:
        return NAMELESS
    try:
        return languages.normalise(name)
    except UserError:
        return str(name)


def check(
    options: argparse.Namespace,
    scorers: Iterable[Mapping],
    further: Callable[[str, dict], Any] | None = None,
) -> None:
    """Check all rows before a model is opened.

    `further` raises for rows that the command cannot take for another reason.

    Raises: UserError that names the first bad rows: malformed ones, and those that a scorer's chat
    template refuses.
    """
    acceptors = [reward_models.acceptor(spec) for spec in scorers]
    wrong: list[str] = []
    empty = True
    for where, row in kept(read(options, Counter()), Counter()):
        empty = False
        try:
            if further is not None:
                further(where, row)
            row_items = items.of_row(row, where)
            for accept in acceptors:
                if accept is not None:
                    at_place(where, accept, row_items)
        except UserError as error:
            wrong += error.messages
        if len(wrong) >= MOST:
            raise UserError(*wrong[:MOST], f"(the first {MOST} mistakes; there may be more)")
    if wrong:
        raise UserError(*wrong)
    if empty:
        raise UserError("--input: holds no rows that can be scored")


def at_place(
    where: str, accept: Callable[[list[items.Item]], None], row_items: list[items.Item]
) -> None:
    """`accept` the items of a row. Raises: UserError that names the place of the row."""
    try:
        accept(row_items)
    except UserError as error:
        messages = [f"{where}: {message}" for message in error.messages]
        raise UserError(*messages) from None


def dropped_lines(dropped: Counter) -> list[str]:
    """A line about each kind of dropped rows."""
    lines = []
    for (reason, language), n in sorted(dropped.items()):
        lines.append(f"dropped: {n} rows: {reason} ({language})")
    return lines
