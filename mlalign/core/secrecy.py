"""Secrets: keys, and passwords in addresses. They are used, but neither written nor shown.

A configuration names a secret by its environment variable, `${oc.env:NAME}`. Frozen and recorded
configurations keep that reference, and `resolve` replaces it by the value where it is used. So a
step's fingerprint is made of the reference, never of the secret.

A password that was typed into an address anyway is moved to an environment variable of this process
(`carry`), which steps and jobs inherit.
"""

import base64
import os
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from mlalign.core.errors import UserError

MASK = "***"
SHORTEST = 4  # characters; masking shorter secrets would mask ordinary words
REFERENCE = re.compile(r"\$\{oc\.env:\s*(\w+)\s*(?:,([^{}]*))?\}")
# Names of keys that hold a secret; `eos_token` and `max_tokens` do not.
NAME = re.compile(
    r"(^|[_.-])("
    r"api_?key|access_?key|private_?key|secret|secrets|password|passwd|passphrase|pwd|pw"
    r"|credentials?|authorization|bearer|cookie"
    r"|(api|access|auth|hub|hf|hugging_face_hub|id|refresh|session|gh|github|wandb)_?token"
    r")$"
    r"|^token$"
    r"|^x-.*(key|token|auth)$"
    r"|^mlalign_secret",
    re.IGNORECASE,
)
# Names of environment variables that hold a secret.
VARIABLE = re.compile(
    r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASS|CREDENTIALS?)$|^MLALIGN_SECRET", re.IGNORECASE
)
LOGIN = re.compile(r"(?<=://)[^/\s\"'<>?#]+(?=@)")  # https://user:password@host
PARAMETER = re.compile(  # https://host/?api_key=…
    r"(?<=[?&])"
    r"([\w.-]*(?:key|token|secret|passw|pwd|signature|sig|auth|credential)[\w.-]*=)"
    r"([^&#\s\"'<>]+)",
    re.IGNORECASE,
)

_known: set[str] = set()


def keep(*secrets: str | None) -> None:
    """Remember secrets of this process, so that `hidden` and `redacted` mask them.

    Logins are remembered in all forms in which they are sent.
    """
    for secret in secrets:
        if not secret:
            continue
        plain = unquote(secret)
        encoded = base64.b64encode(plain.encode("utf-8", "replace")).decode()
        forms = {secret, plain, encoded}
        _, colon, password = secret.partition(":")
        if colon:
            forms |= {password, unquote(password)}
        _known.update(form for form in forms if len(form) >= SHORTEST)


def redacted(text: str) -> str:
    """The text with every secret that this process has used masked.

    Fast enough for every answer of a server.
    """
    for secret in _known:
        if secret in text:
            text = text.replace(secret, MASK)
    return text


def hidden(text: str) -> str:
    """The text fit to be shown: all secrets used, in the environment or in addresses are masked."""
    for secret in sorted(_known | _of_environment(), key=len, reverse=True):
        text = text.replace(secret, MASK)
    return _without_parameters(LOGIN.sub(MASK, text))


def bare(text: str) -> str:
    """The text without the logins in its addresses: equal everywhere, so it may be hashed."""
    return _without_parameters(re.sub(rf"{LOGIN.pattern}@", "", text))


def _without_parameters(text: str) -> str:
    return PARAMETER.sub(rf"\g<1>{MASK}", text)


def _of_environment() -> set[str]:
    secrets = set()
    for name, value in os.environ.items():
        if VARIABLE.search(name) and len(value) >= 2 * SHORTEST:
            secrets.add(value)
    return secrets


def in_address(text: str) -> list[str]:
    """The secrets in the addresses of a text: `user:password@`, and values such as `api_key=…`."""
    values = [value for _, value in PARAMETER.findall(text)]
    return [*LOGIN.findall(text), *values]


def by_reference(variable: str, value: str, key: str) -> bool:
    """Whether the environment variable that is used at `key` is secret, so the reference stays."""
    if VARIABLE.search(variable) or in_address(value):
        return True
    name = re.split(r"[.\[]", key)[-1]
    return name == "base_url" or NAME.search(name) is not None


def carry(value: Any, key: str = "") -> Any:
    """A piece of configuration with secrets moved to environment variables.

    A reference to the variable takes the place of each secret that was typed in.
    """
    if isinstance(value, Mapping):
        return {name: carry(inner, _below(key, name)) for name, inner in value.items()}
    if isinstance(value, list):
        return [carry(item, f"{key}.{i}") for i, item in enumerate(value)]
    if not isinstance(value, str):
        return value

    if NAME.search(key.rpartition(".")[2]):
        is_literal = value and "${" not in value
        return _moved(value, key) if is_literal else value
    for secret in in_address(value):
        if "${" not in secret:
            value = value.replace(secret, _moved(secret, key))
    return value


def _below(key: str, name: Any) -> str:
    return f"{key}.{name}" if key else str(name)


def _moved(secret: str, key: str) -> str:
    """Put a secret into an environment variable named after `key`; returns the reference to it."""
    name = "MLALIGN_SECRET_" + re.sub(r"\W+", "_", key).upper()
    variable = name
    number = 1
    while os.environ.get(variable, secret) != secret:
        number += 1
        variable = f"{name}_{number}"
    os.environ[variable] = secret
    return f"${{oc.env:{variable}}}"


def resolve(value: Any, key: str = "") -> Any:
    """A piece of configuration with the values of the environment variables that it refers to.

    From here on they count as secrets.
    Raises: UserError naming the key and the variable that is not set.
    """
    if isinstance(value, Mapping):
        return {name: resolve(inner, _below(key, name)) for name, inner in value.items()}
    if isinstance(value, list):
        return [resolve(item, f"{key}[{i}]") for i, item in enumerate(value)]
    if not isinstance(value, str) or "${oc.env:" not in value:
        return value
    resolved = REFERENCE.sub(lambda match: _value_of(match[1], match[2], key), value)
    keep(*in_address(resolved))
    return resolved


def _value_of(variable: str, default: str | None, key: str) -> str:
    value = os.environ.get(variable, default)
    if value is None:
        raise UserError(
            f"{key}: the environment variable {variable} is not set here;"
            " export it, then run the same command again"
        )
    if not in_address(value):  # else only the login in the address is secret
        keep(value)
    return value
