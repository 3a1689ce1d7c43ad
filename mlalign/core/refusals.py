"""Turns a library's error about a person's arguments into one message that names the key."""

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
    arguments: Mapping[str, Any],
    title: str,
    may_refuse: Callable[[], bool] = lambda: True,
    kinds: tuple[type[Exception], ...] = REFUSALS,
) -> Iterator[None]:
    """Turn what a library raises about arguments into a UserError; mlalign's own errors pass.

    `arguments`: key -> value, as a person wrote them. `title`: what to call them all if the library
    names none. `may_refuse`: called after an error, whether it can be about the arguments.

    Raises: UserError.
    """
    try:
        yield
    except UserError:
        raise
    except kinds as error:
        if _raised_in_mlalign(error) or not may_refuse():
            raise
        raise UserError(message(arguments, title, error)) from error


def keys(section: str, values: Mapping[str, Any] | None) -> dict[str, Any]:
    """Arguments under the keys that a person wrote, `trainer.learning_rate`."""
    return {f"{section}.{name}": value for name, value in (values or {}).items()}


def message(arguments: Mapping[str, Any], title: str, error: BaseException) -> str:
    """A library's message on one line, after the keys that it is about."""
    text = " ".join(str(error).split())
    place = ", ".join(_named_keys(arguments, text))
    if not place:
        place = f"{title} ({', '.join(arguments)})" if arguments else title
    if len(text) > MOST:
        text = text[:MOST] + " …"
    return f"{place}: {type(error).__name__}: {text or 'refused without a reason'}"


def _named_keys(arguments: Mapping[str, Any], text: str) -> list[str]:
    """The keys that a message names, or else those whose values it repeats."""
    named = []
    repeated = []
    for key, value in arguments.items():
        name = key.rpartition(".")[2]
        if re.search(rf"\b{re.escape(name)}\b", text):
            named.append(key)
        if isinstance(value, str) and value and value in text:
            repeated.append(key)
    return named or repeated


def _raised_in_mlalign(error: BaseException) -> bool:
    """Whether the innermost frame of an error's traceback is mlalign's."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__", "")).startswith("mlalign.")
