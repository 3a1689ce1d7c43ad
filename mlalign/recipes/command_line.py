"""The `key=value` arguments of a command line, in Hydra's grammar."""

import dataclasses
import importlib.util
import itertools
import os
import re
from collections.abc import Sequence
from typing import Any

from mlalign.core.errors import UserError

# The first word of a key: groups of files, plain values, and what controls a command.
GROUPS = ("recipe", "model", "data", "engine", "scale", "launcher")
VALUES = ("languages", "name", "seed", "root", "deepspeed", "devices", "max_rounds", "evaluation")
STEP_LISTS = ("only", "from", "force")
CONTROLS = (*STEP_LISTS, "conf_dir", "show")

LONGEST_VALUE = 16_000  # characters of one argument
DEEPEST_VALUE = 20  # brackets within each other


@dataclasses.dataclass
class Override:
    """One `key=value`; `key` is split at its dots."""

    text: str
    key: list[str]
    value: Any

    @property
    def dotted(self) -> str:
        return ".".join(self.key)


def parse(argv: Sequence[str], errors: list[str]) -> list[Override]:
    """The overrides in some arguments; mistakes are appended to `errors`."""
    overrides = []
    for text in argv:
        override = _parsed(text, errors)
        if override is not None:
            overrides.append(override)
    return overrides


def _parsed(text: str, errors: list[str]) -> Override | None:
    key, equals, value = text.partition("=")
    if not equals:
        errors.append(f"{text[:200]}: expected key=value")
        return None
    # Names of steps may hold brackets, which stand for lists in Hydra's grammar.
    if key in STEP_LISTS:
        return Override(text, [key], step_names(value))
    if key.startswith("use."):
        words = [word for word in key.split(".", maxsplit=1) if word]
        return Override(text, words, value)

    override = by_grammar(text, errors)
    if override is None:
        return None
    if override.is_sweep_override():
        errors.append(
            f"{text}: several values at once make a sweep; add -m for one, give one value, or"
            " [a,b] for a list"
        )
        return None
    words = str(override.key_or_group).replace("/", ".").split(".")
    return Override(text, words, plain(override.value()))


def step_names(value: str) -> list[str]:
    """`[reward[eng_Latn],policy]` as the names of steps."""
    return re.findall(r"[^,\[\]\s]+(?:\[[^\]]*\])*", value)


def check_hydra() -> None:
    """Raises: UserError if Hydra is missing, as in an installation that only scores."""
    if importlib.util.find_spec("hydra") is None:
        raise UserError(
            "the package 'hydra-core' is not installed; recipes need it: pip install"
            " 'mlalign[train]'"
        )


def by_grammar(text: str, errors: list[str]) -> Any:
    """`key=value` as Hydra's own `Override`; None, with a message, if it cannot be read."""
    check_hydra()
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    excess = _excess(text)
    if excess is not None:
        key = text.partition("=")[0][:100]
        errors.append(f"{key}: {excess}")
        return None
    try:
        return OverridesParser.create().parse_override(_quoted(text))
    except HydraException as error:
        reason = str(error).splitlines()[0]
        mend = "quote a value with special characters: key='\"a=b\"'"
        errors.append(f"{text}: {reason}; {mend}")
        return None


def _excess(text: str) -> str | None:
    """Why an argument is more than Hydra's parser should be given; None if it is not."""
    if len(text) > LONGEST_VALUE:
        size = f"a value of {len(text):,} characters, at most {LONGEST_VALUE:,}"
        return f"{size}; write it into a file of conf_dir="
    if re.search(r"\d{1000}", text):
        return "a number of more than 999 digits"
    if _bracket_depth(text) > DEEPEST_VALUE:
        return f"brackets nested more than {DEEPEST_VALUE} deep; make it flatter"
    return None


def _bracket_depth(text: str) -> int:
    """The depth of the innermost bracket: 2 for `[a, {b: c}]`."""
    steps = ((char in "[{(") - (char in "]})") for char in text)
    return max(itertools.accumulate(steps), default=0)


def _quoted(text: str) -> str:
    """The argument with its value in quotes if that is a path or a hub id.

    Those often hold characters that mean something in Hydra's grammar.
    """
    key, _, value = text.partition("=")
    if not value or value[0] in "\"'[{$" or "," in value:
        return text
    if "/" not in value and not os.path.exists(value):
        return text
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"{key}='{escaped}'"


def plain(value: Any) -> Any:
    """A value in which Hydra's quoted strings are ordinary ones, in lists and mappings too."""
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {str(plain(key)): plain(inner) for key, inner in value.items()}
    is_quoted = type(value).__name__ == "QuotedString"
    return value.text if is_quoted else value
