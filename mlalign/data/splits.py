"""Train or eval, and which rows to keep, by hashes of the group: no row depends on another."""

import hashlib
import math


def fraction(*parts: str | int) -> float:
    """A number in [0, 1) that depends on the parts alone, on every machine."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def split_of(group: str, seed: int, eval_frac: float) -> str:
    """`eval` for about `eval_frac` of the groups, `train` for the others."""
    return "eval" if fraction("split", seed, group) < eval_frac else "train"


def rank(group: str, seed: int, weight: float = 1.0) -> float:
    """A random rank: the rows of lowest rank are a sample without replacement, by weight.

    Efraimidis and Spirakis 2006, algorithm A, in its exponential form: -ln(u) / w. Translations of
    an item share a rank.
    """
    return -math.log(1.0 - fraction("rank", seed, group)) / weight
