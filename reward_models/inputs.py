"""The rows that a command looks at: `--input` names files, patterns or folders, `--format` a
published set's form.
"""

import argparse
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import reward_models
from mlalign.core import conversations, formats, languages
from mlalign.core.errors import UserError
from reward_models import files, items
from reward_models.items import LANGUAGE_COLUMNS

LANGUAGE = "language of the rows that name none themselves"
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
    """(place, row) of all files; what gives no row is counted in `dropped` as (reason, language).

    Raises: UserError for a file that is missing or broken, or a record of another form.
    """
    default = {"language": languages.normalise(options.language)} if options.language else {}
    for path in files.expand(options.input):
        for where, row in formats.convert(options.format, path, files.read(path), dropped):
            yield (
                where,
                row if any(row.get(name) for name in LANGUAGE_COLUMNS) else {**row, **default},
            )


def kept(rows: Iterable[tuple[str, dict]], dropped: Counter) -> Iterator[tuple[str, dict]]:
    """The rows that give something; the others are counted in `dropped` as (reason, language).

    Malformed ones stay.
    """
    for where, row in rows:
        try:
            conversations.read(row)
        except conversations.Dropped as drop:
            dropped[drop.reason, _language(row)] += 1
            continue
        except conversations.Malformed:
            pass  # whoever makes items of the row tells it, with the other mistakes
        yield where, row


def _language(row: Mapping) -> str:
    named = next((row[name] for name in LANGUAGE_COLUMNS if row.get(name)), None)
    try:
        return languages.normalise(named) if named else NAMELESS
    except UserError:
        return str(named)


def check(
    options: argparse.Namespace,
    scorers: Iterable[Mapping],
    further: Callable[[str, dict], Any] | None = None,
) -> None:
    """Look at all rows before a model is opened.

    `further` raises for what else a command cannot take.

    Raises: UserError that names the first bad rows: those that are none, and those that a scorer's
        chat template refuses.
    """
    acceptors = [accept for told in scorers if (accept := reward_models.acceptor(told))]
    wrong: list[str] = []
    empty = True
    for where, row in kept(read(options, Counter()), Counter()):
        empty = False
        try:
            if further is not None:
                further(where, row)
            own = items.of_row(row, where)
            for accept in acceptors:
                at_place(where, accept, own)
        except UserError as error:
            wrong += error.messages
        if len(wrong) >= MOST:
            raise UserError(*wrong[:MOST], f"(the first {MOST} mistakes; there may be more)")
    if wrong:
        raise UserError(*wrong)
    if empty:
        raise UserError("--input: holds no rows that can be scored")


def at_place(where: str, accept: Callable[[list[items.Item]], None], own: list[items.Item]) -> None:
    """`accept` the items of a row. Raises: UserError that names the place of the row."""
    try:
        accept(own)
    except UserError as error:
        raise UserError(*(f"{where}: {message}" for message in error.messages)) from None


def dropped_lines(dropped: Counter) -> list[str]:
    """What was dropped, for people."""
    return [
        f"dropped: {n} rows: {reason} ({language})"
        for (reason, language), n in sorted(dropped.items())
    ]
