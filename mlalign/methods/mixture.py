"""A mixing rule on the rows of a step: what is wrong with its settings, and what it takes."""

from collections.abc import Mapping
from typing import Any

from mlalign import methods
from mlalign.core.errors import UserError
from mlalign.methods import mixing


def mistakes(name: str, arguments: Mapping[str, Any], total: int | None) -> list[str]:
    """What is wrong with `mixing`, `mixing_args` and `total_rows`, as messages with the key."""
    try:
        rule = mixing.load(name)
        methods.options(rule, arguments, "mixing_args", mixing.FILLED)
    except UserError as error:
        return error.messages
    return mixing.problems(rule, name, total)


def taken(
    name: str,
    arguments: Mapping[str, Any],
    available: Mapping[str, int],
    total: int | None,
) -> dict[str, int]:
    """Rows to take of each language. Raises: UserError if the rule gives no such numbers."""
    rule = mixing.load(name)
    options = methods.options(rule, arguments, "mixing_args", mixing.FILLED)
    if methods.takes(rule, "total"):
        options["total"] = total
    with methods.failures(rule, f"mixing {name}"):
        counts = rule(available, **options)

    wrong = {}
    for language in available:
        count = counts.get(language)
        if not isinstance(count, int) or count < 0:
            wrong[language] = count
    if wrong:
        expected = "expected a number of rows for each language"
        raise UserError(f"mixing {name}: gave {wrong}; {expected}")
    return counts
