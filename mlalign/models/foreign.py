"""Quiet libraries while they read a person's files, with their errors as UserErrors."""

import contextlib
from collections.abc import Iterator

from mlalign.core.errors import UserError


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences transformers while it loads; what matters of it the caller checks and reports."""
    from transformers.utils import logging as hf_logging

    verbosity = hf_logging.get_verbosity()
    bars = hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(verbosity)
        if bars:
            hf_logging.enable_progress_bar()


def first_line(error: BaseException) -> str:
    """An error's first line, joined with the second where the first ends in a colon."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines or isinstance(error, KeyError):
        return f"{type(error).__name__} {''.join(lines)}".strip()
    if lines[0].endswith(":"):
        return " ".join(lines[:2])
    return lines[0]


@contextlib.contextmanager
def reading(problem: str, mend: str = "") -> Iterator[None]:
    """While a library reads a person's files: whatever it raises becomes one UserError.

    Libraries raise anything for a broken file: tokenizers raises a bare Exception, huggingface_hub
    has errors of its own. Only running out of memory says nothing about the file.
    """
    try:
        with quiet():
            yield
    except (UserError, MemoryError):
        raise
    except ImportError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{problem}: it needs a package that is not here: {reason}") from error
    except Exception as error:
        if type(error).__name__ == "OutOfMemoryError":
            raise
        raise UserError(f"{problem} ({first_line(error)}){mend}") from error
