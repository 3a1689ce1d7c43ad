"""`unimax`: as evenly as a bound on epochs allows (Chung et al. 2023, "UniMax", algorithm 1)."""

from collections.abc import Mapping

from mlalign.methods.mixing import shared


def unimax(
    available: Mapping[str, int],
    *,
    total: int,
    max_epochs: float = 1.0,
) -> dict[str, int]:
    """Rows to take of each language: equal shares of `total`, but at most `max_epochs` passes.

    From the language with the fewest rows n_l to that with the most, with the budget B that is
    left and the k languages that are left:

        U_l = min(B / k, N n_l);  B = B - U_l

    where N is `max_epochs`. With N above 1 rows of small languages are repeated. The paper counts
    characters, we count rows.

        {"a": 1000, "b": 100, "c": 10}, total = 600, N = 4  ->  {"a": 280, "b": 280, "c": 40}
    """
    rows_of = {language: n for language, n in sorted(available.items()) if n > 0}
    most = {language: int(max_epochs * n) for language, n in rows_of.items()}
    return shared(dict.fromkeys(rows_of, 1.0), most, total)
