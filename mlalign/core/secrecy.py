"""Secrets: keys, and passwords in addresses. They are used, and neither written nor shown.

A configuration names a secret by its environment variable, `${oc.env:NAME}`. What is frozen or
recorded keeps that reference, and `resolve` puts the value in its place where it is used. So the
fingerprint of a step holds the reference, never the secret.

A password that was typed into an address anyway moves into an environment variable of this process
(`carry`). Steps and jobs inherit it.
"""

import base64
import os
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from mlalign.core.errors import UserError

MASK = "***"
SHORTEST = 4  # characters; hiding a shorter text would hide much else
REFERENCE = re.compile(r"\$\{oc\.env:\s*(\w+)\s*(?:,([^{}]*))?\}")
# Names of variables and keys that hold a secret; `eos_token` and `max_tokens` do not.
NAME = re.compile(
    r"(^|[_.-])(api_?key|access_?key|private_?key|secret|secrets|password|passwd|passphrase|pwd|pw|credentials?|authorization|bearer"
    r"|cookie|(api|access|auth|hub|hf|hugging_face_hub|id|refresh|session|gh|github|wandb)_?token)$|^token$|^x-.*(key|token|auth)$"
    r"|^mlalign_secret",
    re.IGNORECASE,
)
VARIABLE = re.compile(
    r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASS|CREDENTIALS?)$|^MLALIGN_SECRET", re.IGNORECASE
)
LOGIN = re.compile(r"(?<=://)[^/\s\"'<>?#]+(?=@)")  # https://user:password@host
PARAMETER = re.compile(
    r"(?<=[?&])([\w.-]*(?:key|token|secret|passw|pwd|signature|sig|auth|credential)[\w.-]*=)([^&#\s\"'<>]+)",
    re.IGNORECASE,
)

_known: set[str] = set()


def keep(*secrets: str | None) -> None:
    """Remember secrets of this process, so that `hidden` and `redacted` find them; logins in the
    forms in which they are sent.
    """
    for secret in secrets:
        if not secret:
            continue
        forms = {
            secret,
            unquote(secret),
            base64.b64encode(unquote(secret).encode("utf-8", "replace")).decode(),
        }
        _, colon, password = secret.partition(":")
        if colon:
            forms |= {password, unquote(password)}
        _known.update(form for form in forms if len(form) >= SHORTEST)


def redacted(text: str) -> str:
    """The text with `***` in the place of every secret that was used in this process.

    Fast: for every answer of a server.
    """
    for secret in _known:
        if secret in text:
            text = text.replace(secret, MASK)
    return text


def hidden(text: str) -> str:
    """The text without secrets, fit to be shown: those used here, those of the environment, and
    those within addresses.
    """
    for secret in sorted(_known | _of_environment(), key=len, reverse=True):
        text = text.replace(secret, MASK)
    return PARAMETER.sub(rf"\g<1>{MASK}", LOGIN.sub(MASK, text))


def bare(text: str) -> str:
    """The text with the logins in its addresses left out; the same in every environment, so fit for
    an identity.
    """
    return PARAMETER.sub(rf"\g<1>{MASK}", re.sub(rf"{LOGIN.pattern}@", "", text))


def _of_environment() -> set[str]:
    return {
        value
        for name, value in os.environ.items()
        if VARIABLE.search(name) and len(value) >= 2 * SHORTEST
    }


def in_address(text: str) -> list[str]:
    """The secrets in the addresses of a text: `user:password` before the host, values of parameters
    such as `api_key=`.
    """
    return [*LOGIN.findall(text), *(value for _, value in PARAMETER.findall(text))]


def by_reference(variable: str, value: str, key: str) -> bool:
    """Whether a variable that a configuration names at `key` holds a secret, and the reference to
    it is to stay.
    """
    place = re.split(r"[.\[]", key)[-1]
    return bool(
        VARIABLE.search(variable) or NAME.search(place) or place == "base_url" or in_address(value)
    )


def carry(value: Any, key: str = "") -> Any:
    """A piece of configuration with each secret that was typed into it moved to an environment
    variable, a reference in its place.
    """
    if isinstance(value, Mapping):
        return {k: carry(v, f"{key}.{k}" if key else str(k)) for k, v in value.items()}
    if isinstance(value, list):
        return [carry(v, f"{key}.{i}") for i, v in enumerate(value)]
    if not isinstance(value, str):
        return value
    if NAME.search(key.rpartition(".")[2]):
        return value if not value or "${" in value else _moved(value, key)
    for secret in in_address(value):
        if "${" not in secret:
            value = value.replace(secret, _moved(secret, key))
    return value


def _moved(secret: str, key: str) -> str:
    name = "MLALIGN_SECRET_" + re.sub(r"\W+", "_", key).upper()
    number = 1
    while os.environ.get(_numbered(name, number), secret) != secret:
        number += 1
    os.environ[_numbered(name, number)] = secret
    return f"${{oc.env:{_numbered(name, number)}}}"


def _numbered(name: str, number: int) -> str:
    return name if number == 1 else f"{name}_{number}"


def resolve(value: Any, key: str = "") -> Any:
    """A piece of configuration with the values of the environment variables that it refers to.

    They count as secrets from here on.

    Raises: UserError naming the key and the variable that is not set.
    """
    if isinstance(value, Mapping):
        return {k: resolve(v, f"{key}.{k}" if key else str(k)) for k, v in value.items()}
    if isinstance(value, list):
        return [resolve(v, f"{key}[{i}]") for i, v in enumerate(value)]
    if not isinstance(value, str) or "${oc.env:" not in value:
        return value
    resolved = REFERENCE.sub(lambda found: _value_of(found[1], found[2], key), value)
    keep(*in_address(resolved))
    return resolved


def _value_of(variable: str, default: str | None, key: str) -> str:
    value = os.environ.get(variable, default)
    if value is None:
        raise UserError(
            f"{key}: the environment variable {variable} is not set here; export it, then run the"
            " same command again"
        )
    if not in_address(value):  # of an address only the login is secret
        keep(value)
    return value
