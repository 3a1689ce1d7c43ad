"""What libraries say while they read a person's files: quietly, and as a UserError that names the
place.
"""

import contextlib
from collections.abc import Iterator

from mlalign.core.errors import UserError


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """What transformers would say about weights while loading is decided, and said, by the caller."""
    from transformers.utils import logging as hf_logging

    before, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(before)
        if bars:
            hf_logging.enable_progress_bar()


def first_line(error: BaseException) -> str:
    """What an error says, in one line: its first, and the second too where the first ends in a
    colon.
    """
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    if not lines or isinstance(error, KeyError):
        return f"{type(error).__name__} {''.join(lines)}".strip()
    return " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]


@contextlib.contextmanager
def reading(problem: str, mend: str = "") -> Iterator[None]:
    """Within it a library reads a person's files; what it raises becomes one UserError, with the
    library's error as its cause.

    Libraries raise anything for a broken file: tokenizers a bare Exception, huggingface_hub errors
    of its own. Only a lack of memory says nothing about the file.
    """
    try:
        with quiet():
            yield
    except (UserError, MemoryError):
        raise
    except ImportError as error:
        raise UserError(
            f"{problem}: it needs a package that is not here: {' '.join(str(error).split())}"
        ) from error
    except Exception as error:
        if type(error).__name__ == "OutOfMemoryError":
            raise
        raise UserError(f"{problem} ({first_line(error)}){mend}") from error
