"""Runs one case of a reader: a changed input, a limit of time, and no exception but UserError."""

import contextlib
import dataclasses
import io
import random
import signal
import tempfile
import traceback
import types
from collections.abc import Iterator
from pathlib import Path

from fuzz import readers

from mlalign.core.errors import UserError

LIMIT_S = 20.0  # for one case, which takes milliseconds; a busy machine is slow


_begun: set[str] = set()


class Hang(BaseException):
    """A case that took too long. No `except Exception` holds it up."""


@dataclasses.dataclass(frozen=True)
class Failure:
    reader: str
    seed: int
    case: int
    why: str

    def __str__(self) -> str:
        again = (
            f"python scripts/fuzz.py --reader {self.reader} --seed {self.seed} --case {self.case}"
        )
        return f"{self.reader}: {self.why}\nagain: {again}"


def run(reader: str, seed: int, case: int, limit_s: float = LIMIT_S) -> Failure | None:
    """What is wrong with how a reader takes the input that seed and case number make; None if it
    does well.
    """
    rng = random.Random(f"{reader} {seed} {case}")
    quiet = io.StringIO()
    if reader not in _begun:  # the first case imports libraries, which takes longer than all others
        limit_s *= 10
        _begun.add(reader)
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.redirect_stdout(quiet),
        contextlib.redirect_stderr(quiet),
        _limit(limit_s),
    ):
        try:
            readers.READERS[reader](rng, Path(folder))
        except UserError as error:
            told = str(error)
            if not told.strip() or len(told) > 200_000:
                return Failure(reader, seed, case, f"a message of {len(told):,} characters")
        except Hang:
            return Failure(
                reader,
                seed,
                case,
                f"took more than {limit_s:g} s\n{traceback.format_exc()[-3000:]}",
            )
        except Exception:  # noqa: BLE001  # any other exception is what is looked for
            return Failure(reader, seed, case, traceback.format_exc()[-3000:])
    return None


@contextlib.contextmanager
def _limit(seconds: float) -> Iterator[None]:
    def ring(number: int, frame: types.FrameType | None) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
