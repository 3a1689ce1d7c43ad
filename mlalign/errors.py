"""The one exception that a person sees without a traceback."""

import difflib
import errno
from collections.abc import Iterable


class UserError(Exception):
    """A mistake a person can mend: the message names the place (file, row, key, language) and the mend.

    Several mistakes found together travel in one error, a line each.
    """

    def __init__(self, *messages: str):
        self.messages = list(messages)
        super().__init__("\n".join(messages))


def nearest(word: str, allowed: Iterable[str], n: int = 3) -> str:
    """`; did you mean 'a' or 'b'?` for a misspelt word, or the first allowed ones when nothing is near."""
    allowed = sorted({str(a) for a in allowed})
    close = difflib.get_close_matches(str(word), allowed, n=n, cutoff=0.6)
    if close:
        return "; did you mean " + " or ".join(repr(c) for c in close) + "?"
    shown = ", ".join(allowed[:12]) + (", …" if len(allowed) > 12 else "")
    return f"; allowed: {shown}" if allowed else "; nothing is allowed here"


DISK = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up", errno.EROFS: "the file system is read-only"}


def disk_problem(error: OSError, where: object) -> str | None:
    """What a person is told when the disk refuses a write; None for other errors of the system."""
    if error.errno not in DISK:
        return None
    return f"{DISK[error.errno]} ({error.filename or where}); make room there, or name another root=, then run the same command again"
