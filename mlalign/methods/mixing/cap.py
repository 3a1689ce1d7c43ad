"""`cap`: a limit on the rows of each language."""

from collections.abc import Mapping


def cap(
    available: Mapping[str, int],
    *,
    rows: int,
    by_language: Mapping[str, int] | None = None,
) -> dict[str, int]:
    """Rows to take of each language l, of which there are n_l: min(n_l, c_l).

    c_l is `by_language` where that names the language, else `rows`.

        {"a": 900, "b": 100}, rows = 300  ->  {"a": 300, "b": 100}
    """
    limits = dict(by_language or {})
    return {language: min(n, limits.get(language, rows)) for language, n in available.items()}
