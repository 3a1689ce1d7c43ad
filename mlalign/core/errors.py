"""The one exception that a person sees without a traceback."""

import difflib
import errno
import os
import re
from collections.abc import Iterable


class UserError(Exception):
    """A mistake a person can mend: the message names the place (file, row, key, language) and the
    mend.

    Several mistakes found together travel in one error, a line each.
    """

    def __init__(self, *messages: str):
        self.messages = list(messages)
        super().__init__("\n".join(messages))


def nearest(word: str, allowed: Iterable[str], n: int = 3) -> str:
    """`; did you mean 'a' or 'b'?` for a misspelt word, or the first allowed ones when nothing is
    near.
    """
    allowed = sorted({str(a) for a in allowed})
    close = difflib.get_close_matches(str(word), allowed, n=n, cutoff=0.6)
    if close:
        return "; did you mean " + " or ".join(repr(c) for c in close) + "?"
    shown = ", ".join(allowed[:12]) + (", …" if len(allowed) > 12 else "")
    return f"; allowed: {shown}" if allowed else "; nothing is allowed here"


# What the system refuses -> what helps, and words that say more than the system's own.
ROOM = "make room there, or name another place (root=, --output)"
OWNER = "see whose it is (ls -ld), or name another place (root=, --output)"
SERVER = "see whether the disk and its server are well (dmesg, mount)"
ANOTHER = "move what is there, or name another place (root=, --output)"
MENDS = {
    errno.ENOSPC: ROOM,
    errno.EDQUOT: ROOM,
    errno.EFBIG: ROOM,
    errno.EROFS: "name another place (root=, --output)",
    errno.EACCES: OWNER,
    errno.EPERM: OWNER,
    errno.ENOENT: "see whether it was moved or removed",
    errno.ENOTDIR: ANOTHER,
    errno.EISDIR: ANOTHER,
    errno.EEXIST: ANOTHER,
    errno.ENOTEMPTY: ANOTHER,
    errno.ENAMETOOLONG: "choose a shorter root=, name= or --output",
    errno.EINVAL: "choose another root=, name= or --output",
    errno.ELOOP: "remove the link that leads back to itself",
    errno.EXDEV: "keep both on one file system",
    errno.EIO: SERVER,
    errno.ESTALE: SERVER,
    errno.ENOTCONN: SERVER,
    errno.EHOSTDOWN: SERVER,
    errno.ETIMEDOUT: SERVER,
    errno.ENODEV: SERVER,
    errno.ENXIO: SERVER,
    errno.EBUSY: "wait until nothing else uses it",
    errno.ETXTBSY: "wait until nothing else uses it",
    errno.ENOLCK: "name a place on another disk",
    errno.EOPNOTSUPP: "name a place on another disk",
    errno.EMFILE: "raise the limit (ulimit -n)",
    errno.ENFILE: "end other processes on this machine",
    errno.ENOMEM: "end other processes, or ask for more memory",
    errno.EAGAIN: "raise the limit (ulimit -u)",
}
WORDS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.EFBIG: "a file would be larger than is allowed here",
    errno.EIO: "the disk could not be read or written (Input/output error)",
    errno.ESTALE: "the file server has lost track of a file (Stale file handle)",
}
# How safetensors and tokenizers (Rust) pass on the system's error, and how torch says that a
# checkpoint could not be written.
OF_RUST = re.compile(r"\(os error (\d+)\)")
OF_TORCH = re.compile(r"PytorchStreamWriter failed writing file")


def system_problem(error: BaseException, where: object = None) -> str | None:
    """One message, with path and mend, for an error of the operating system; None for any other
    error.

    `where` is named if the error itself names no path: a write to an open file that fails does not.
    """
    number = _number(error)
    if number is None:
        return None

    text = " ".join(str(error).split()) or type(error).__name__
    if number == 0:  # a library's own, such as transformers' for a model that it cannot load
        return text

    named = [getattr(error, name, None) for name in ("filename", "filename2")]
    paths = [
        os.fsdecode(name) if isinstance(name, bytes) else str(name)
        for name in named
        if name is not None
    ]
    if number not in MENDS:
        return (
            f"{': '.join([os.strerror(number), *paths])}; mend that, then run the same command"
            " again: what is finished is kept"
        )

    place = " and ".join(paths) or str(where or "")
    words = WORDS.get(number, os.strerror(number))
    return (
        f"{words}{f': {place}' if place else ''}; {MENDS[number]}, then run the same command again:"
        " what is finished is kept"
    )


def _number(error: BaseException) -> int | None:
    """The system's number of an error, 0 if it gave none; None for an error that is not the
    system's.
    """
    if isinstance(error, OSError):
        return error.errno or 0
    if of_rust := OF_RUST.search(str(error)):
        return int(of_rust[1])
    if isinstance(error, RuntimeError) and OF_TORCH.search(str(error)):
        return errno.EIO
    return None
