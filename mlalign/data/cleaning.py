"""What is wrong with one row's content, and which rows are the same."""

import hashlib
import unicodedata
from array import array
from bisect import bisect_left

TEXTS = ("reference", "metadata", "method")  # columns of text besides prompt and answers
NEW_KEYS = 1 << 14  # keys in the small set of `Seen` before they are merged into the sorted array


def normalised(text: str) -> str:
    """NFC, with runs of white space as one space: texts that only differ in that count as equal."""
    return " ".join((text if text.isascii() else unicodedata.normalize("NFC", text)).split())


def answers(row: dict, kind: str) -> list[str]:
    """The texts of a row that answer its prompt."""
    if kind == "ranking":
        return list(row["responses"])
    sides = {
        "demonstration": ("completion",),
        "unpaired": ("completion",),
        "preference": ("chosen", "rejected"),
    }.get(kind, ())
    return ["\n".join(m["content"] for m in row[side]) for side in sides]


def problem(
    row: dict, kind: str, max_chars: int | None = None, *, keep_empty_answers: bool = False
) -> str | None:
    """Why a row cannot be used, as one word for the counts, or None."""
    told = [row["text"]] if kind == "text" else [m["content"] for m in row["prompt"]]
    given = answers(row, kind)
    if not told or not told[-1].strip():
        return "empty_text"
    if not keep_empty_answers and not all(text.strip() for text in given):
        return "empty_text"
    if kind == "preference" and normalised(given[0]) == normalised(given[1]):
        return "rejected_equals_chosen"
    if max_chars is not None and sum(map(len, told)) + max(map(len, given), default=0) > max_chars:
        return "too_long"
    try:
        "".join([*told, *given, *(row[name] for name in TEXTS if row.get(name))]).encode()
    except UnicodeEncodeError:  # half of a surrogate pair, as "\ud83d" in JSON
        return "not_unicode"
    return None


def content_key(row: dict, kind: str) -> int:
    """A 64-bit hash of everything a row says in its language, after `normalised`; equal for exact
    duplicates.
    """
    told = (
        [row["text"]]
        if kind == "text"
        else [f"{m['role']}\x1e{m['content']}" for m in row["prompt"]]
    )
    parts = [row["prompt_lang"], *told, "\x1d", *answers(row, kind), str(row.get("label"))]
    return key64("\x1f".join(map(normalised, parts)))


def key64(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


class Seen:
    """A set of 64-bit keys in 8 bytes each: a sorted array, and a small set of the newest keys that
    is merged into it.

    Two different keys collide with probability n²/2⁶⁵ (3e-8 for a million rows).
    """

    def __init__(self) -> None:
        self._sorted = memoryview(array("Q"))
        self._new: set[int] = set()

    def __contains__(self, key: int) -> bool:
        if key in self._new:
            return True
        at = bisect_left(self._sorted, key)
        return at < len(self._sorted) and self._sorted[at] == key

    def add(self, key: int) -> bool:
        """Add a key; False if it was there."""
        if key in self:
            return False
        self._new.add(key)
        if len(self._new) >= max(NEW_KEYS, len(self._sorted) // 32):
            self._merge()
        return True

    def _merge(self) -> None:
        import numpy as np

        merged = np.concatenate(
            [np.frombuffer(self._sorted, dtype=np.uint64), np.fromiter(self._new, dtype=np.uint64)]
        )
        merged.sort()
        self._sorted, self._new = memoryview(merged.data), set()
