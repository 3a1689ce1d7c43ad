"""The one exception that is shown without a traceback, and messages for system errors."""

import difflib
import errno
import os
import re
from collections.abc import Iterable


class UserError(Exception):
    """A mistake that a person can mend.

    The message names the place (file, row, key, language) and the mend. Several mistakes that were
    found together make one error, a line each.
    """

    def __init__(self, *messages: str):
        self.messages = list(messages)
        super().__init__("\n".join(messages))


def nearest(word: str, allowed: Iterable[str], n: int = 3) -> str:
    """`; did you mean 'a' or 'b'?` for a misspelt word, or the allowed words if none is close."""
    words = sorted({str(name) for name in allowed})
    if not words:
        return "; nothing is allowed here"
    close = difflib.get_close_matches(str(word), words, n=n, cutoff=0.6)
    if close:
        return f"; did you mean {' or '.join(map(repr, close))}?"
    shown = ", ".join(words[:12])
    if len(words) > 12:
        shown += ", …"
    return f"; allowed: {shown}"


# What a person can do about each system error.
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
# Where the system's own words say too little.
WORDS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.EFBIG: "a file would be larger than is allowed here",
    errno.EIO: "the disk could not be read or written (Input/output error)",
    errno.ESTALE: "the file server has lost track of a file (Stale file handle)",
}
OF_RUST = re.compile(r"\(os error (\d+)\)")  # in messages of safetensors and tokenizers
OF_TORCH = re.compile(r"PytorchStreamWriter failed writing file")  # a checkpoint
AGAIN = "then run the same command again: what is finished is kept"


def system_problem(error: BaseException, where: object = None) -> str | None:
    """A message with path and mend for an error of the operating system; None for other errors.

    `where` is the place to name if the error names no path, as a failed write to an open file.
    """
    number = _number(error)
    if number is None:
        return None
    if number == 0:  # raised by a library, such as transformers for a model that it cannot load
        return " ".join(str(error).split()) or type(error).__name__

    paths = _paths(error)
    if number not in MENDS:
        problem = ": ".join([os.strerror(number), *paths])
        return f"{problem}; mend that, {AGAIN}"

    problem = WORDS.get(number, os.strerror(number))
    place = " and ".join(paths) or str(where or "")
    if place:
        problem += f": {place}"
    return f"{problem}; {MENDS[number]}, {AGAIN}"


def _paths(error: BaseException) -> list[str]:
    """The paths that a system error names: none, one, or two of a rename."""
    paths = []
    for attribute in ("filename", "filename2"):
        path = getattr(error, attribute, None)
        if isinstance(path, bytes):
            path = os.fsdecode(path)
        if path is not None:
            paths.append(str(path))
    return paths


def _number(error: BaseException) -> int | None:
    """The system's error number, 0 if it is not given; None if the error is not the system's."""
    if isinstance(error, OSError):
        return error.errno or 0
    if of_rust := OF_RUST.search(str(error)):
        return int(of_rust[1])
    if isinstance(error, RuntimeError) and OF_TORCH.search(str(error)):
        return errno.EIO
    return None
