"""A library's refusal of a person's arguments as one message that names the key."""

import contextlib
import re
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from mlalign.core.errors import UserError

REFUSALS = (ValueError, TypeError, ImportError, NotImplementedError)
MOST = 600  # characters of a library's message


@contextlib.contextmanager
def refusals(
    given: Mapping[str, Any],
    what: str,
    here: Callable[[], bool] = lambda: True,
    kinds: tuple[type[Exception], ...] = REFUSALS,
) -> Iterator[None]:
    """Make what a library raises about arguments a UserError; what mlalign's own code raises passes
    as it is.

    `given`: key -> value as a person wrote them; `what` stands for all of them where the library
    names none; `here` says, once something was raised, whether it can be a refusal. Raises:
    UserError.
    """
    try:
        yield
    except UserError:
        raise
    except kinds as error:
        if _raised_in_mlalign(error) or not here():
            raise
        raise UserError(message(given, what, error)) from error


def keys(section: str, values: Mapping[str, Any] | None) -> dict[str, Any]:
    """Arguments under the keys that a person wrote, `trainer.learning_rate`."""
    return {f"{section}.{name}": value for name, value in (values or {}).items()}


def message(given: Mapping[str, Any], what: str, error: BaseException) -> str:
    """The keys that a library's message names (or whose values it repeats), and the message on one
    line."""
    text = " ".join(str(error).split())
    named = [key for key in given if re.search(rf"\b{re.escape(key.rpartition('.')[2])}\b", text)]
    if not named:
        named = [
            key
            for key, value in given.items()
            if isinstance(value, str) and value and value in text
        ]
    place = ", ".join(named) or (f"{what} ({', '.join(given)})" if given else what)
    shortened = text if len(text) <= MOST else text[:MOST] + " …"
    return f"{place}: {type(error).__name__}: {shortened or 'refused without a reason'}"


def _raised_in_mlalign(error: BaseException) -> bool:
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__", "")).startswith("mlalign.")
