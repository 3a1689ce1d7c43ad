"""The rows that a command looks at: `--input` names files, patterns or folders, `--format` a published set's form."""

import argparse
from collections import Counter
from collections.abc import Iterator

from mlalign import languages
from reward_models import files, formats
from reward_models.items import LANGUAGE_COLUMNS

LANGUAGE = "language of the rows that name none themselves"


def add_options(parser: argparse.ArgumentParser, what: str) -> None:
    """The options that `read` reads."""
    ends = ", ".join(files.ENDINGS)
    parser.add_argument("--input", nargs="+", required=True, metavar="PATH", help=f"{what}: files ({ends}), patterns or folders")
    parser.add_argument("--format", choices=formats.NAMES, default=formats.ROWS, help="form of the files (%(default)s)")
    parser.add_argument("--language", help=LANGUAGE)


def read(options: argparse.Namespace, dropped: Counter) -> Iterator[tuple[str, dict]]:
    """(place, row) of all files; what gives no row is counted in `dropped` as (reason, language).

    Raises: UserError for a file that is missing or broken, or a record of another form.
    """
    default = {"language": languages.normalise(options.language)} if options.language else {}
    for path in files.expand(options.input):
        for where, row in formats.convert(options.format, path, files.read(path), dropped):
            yield where, row if any(row.get(name) for name in LANGUAGE_COLUMNS) else {**row, **default}


def dropped_lines(dropped: Counter) -> list[str]:
    """What was dropped, for people."""
    return [f"dropped: {n} rows: {reason} ({language})" for (reason, language), n in sorted(dropped.items())]
