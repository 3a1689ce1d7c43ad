"""Feed every reader changed inputs.

    python scripts/fuzz.py [--seconds 120] [--seed N] [--reader NAME …] [--case N]

The only error that a reader may raise is a UserError, within a limit of time. Failures are printed
with the command that repeats them, one for each place in the code. With `--case` only that case
runs. Exit status: 0 without failures, 1 with some.
"""

import argparse
import collections
import re
import sys
import time
from pathlib import Path

# Instead of this folder, where `fuzz` would be this file.
sys.path[0] = str(Path(__file__).resolve().parent.parent / "tests")

from fuzz import readers, runner  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=120,
        help="how long in all, shared out evenly over the readers",
    )
    parser.add_argument(
        "--seed", type=int, default=None, help="by default the time, which is printed"
    )
    parser.add_argument(
        "--reader",
        action="append",
        choices=list(readers.READERS),
        help="this reader only (may be given again)",
    )
    parser.add_argument("--case", type=int, default=None, help="this case only")
    options = parser.parse_args()
    seed = int(time.time()) if options.seed is None else options.seed
    names = options.reader or list(readers.READERS)
    failures = []
    if options.case is not None:
        outcomes = [runner.run(name, seed, options.case) for name in names]
        failures = [failure for failure in outcomes if failure]
    else:
        print(f"seed {seed}, {options.seconds:g} s over {len(names)} readers", flush=True)
        for name in names:
            failures += _fuzz(name, seed, options.seconds / len(names))
    for failure in failures:
        print(f"\n{failure}")
    return 1 if failures else 0


def _fuzz(name: str, seed: int, seconds: float) -> list[runner.Failure]:
    """The first failure of each kind that a reader shows in this time."""
    kinds: dict[str, runner.Failure] = {}
    counts: collections.Counter = collections.Counter()
    runner.run(name, seed, 0)  # imports what the reader needs
    case = 0
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        failure = runner.run(name, seed, case)
        if failure:
            kind = _kind(failure.why)
            kinds.setdefault(kind, failure)
            counts[kind] += 1
        case += 1
    print(
        f"{name:<16}{case:>8} cases {sum(counts.values()):>6} failures of {len(kinds)} kinds",
        flush=True,
    )
    return list(kinds.values())


def _kind(why: str) -> str:
    """Where in the code a failure began, and its exception: failures that share both are one."""
    places = re.findall(r'File "([^"]+)", line (\d+)', why)
    own = [place for place in places if "/mlalign/" in place[0] or "/reward_models/" in place[0]]
    exception = why.strip().splitlines()[-1].partition(":")[0]
    place = (own or places or [("", "")])[-1]
    return f"{place} {exception}"


if __name__ == "__main__":
    sys.exit(main())
