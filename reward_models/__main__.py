"""Score files of answers from the shell.

    rm-score score --model PATH_OR_HUB_ID --input rows.jsonl --output scores.jsonl
    rm-score score --family language_adherence --input rows.parquet --output scores.jsonl
    rm-score card show PATH_OR_HUB_ID

(`python -m reward_models` is the same.) A row has `prompt` and `response`, `prompt` and
`responses`, `messages`, or `chosen` and `rejected`, as strings or chat messages; `language` where
the family needs it. Every other column is kept. Files are JSONL or Parquet by their ending.

Exit status: 0 done, 1 some answers have no score (they are counted), 2 a mistake (one message on
stderr), 130 stopped by Ctrl-C.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from mlalign.core import secrecy
from mlalign.core.errors import UserError, system_problem
from mlalign.core.terminal import harmless, prepare, say, say_error
from reward_models import commands


def main(argv: Sequence[str] | None = None) -> int:
    prepare()
    options = _parser().parse_args(argv)
    options.argv = list(sys.argv[1:] if argv is None else argv)
    try:
        status: int = options.run(options)
        return status
    except UserError as error:
        for message in error.messages:
            say_error(message)
        return 2
    except BrokenPipeError:  # `rm-score … | head`: the reader has stopped
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 2
    except Exception as error:
        problem = system_problem(error, getattr(options, "output", None))
        if problem is None:
            raise
        say_error(problem)
        return 2
    except KeyboardInterrupt:
        say(
            "stopped; what is finished is kept: the same command goes on from there",
            file=sys.stderr,
        )
        return 130


class Parser(argparse.ArgumentParser):
    """A parser whose messages, which quote arguments, have no control characters."""

    def error(self, message: str) -> NoReturn:
        super().error(harmless(secrecy.hidden(message)))


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="rm-score", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for name in commands.NAMES:
        module = importlib.import_module(f"reward_models.commands.{name}")
        subparser = subparsers.add_parser(
            name,
            help=module.HELP,
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.arguments(subparser)
        subparser.set_defaults(run=module.run)
    return parser


if __name__ == "__main__":
    sys.exit(main())
