"""What is wrong with one row's content, and which rows are the same."""

import hashlib
import unicodedata
from array import array
from bisect import bisect_left

from mlalign.core.rows import text_of

# kind -> the columns that answer the prompt; responses of a ranking are texts instead
ANSWER_COLUMNS = {
    "demonstration": ("completion",),
    "unpaired": ("completion",),
    "preference": ("chosen", "rejected"),
}
TEXTS = ("reference", "metadata", "method")  # columns of text besides prompt and answers
NEW_KEYS = 1 << 14  # keys in the small set of `Seen` before they are merged into the sorted array


def normalised(text: str) -> str:
    """NFC, with runs of white space as one space: texts that differ only in that count as equal."""
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    return " ".join(text.split())


def answers(row: dict, kind: str) -> list[str]:
    """The texts of a row that answer its prompt."""
    if kind == "ranking":
        return list(row["responses"])
    return [text_of(row[column]) for column in ANSWER_COLUMNS.get(kind, ())]


def problem(
    row: dict, kind: str, max_chars: int | None = None, *, keep_empty_answers: bool = False
) -> str | None:
    """Why a row cannot be used, as one word for the counts, or None."""
    if kind == "text":
        prompts = [row["text"]]
    else:
        prompts = [message["content"] for message in row["prompt"]]
    responses = answers(row, kind)
    if not prompts or not prompts[-1].strip():
        return "empty_text"
    if not keep_empty_answers and not all(text.strip() for text in responses):
        return "empty_text"
    if kind == "preference" and normalised(responses[0]) == normalised(responses[1]):
        return "rejected_equals_chosen"

    n_chars = sum(map(len, prompts)) + max(map(len, responses), default=0)
    if max_chars is not None and n_chars > max_chars:
        return "too_long"
    other_texts = [row[name] for name in TEXTS if row.get(name)]
    try:
        "".join([*prompts, *responses, *other_texts]).encode()
    except UnicodeEncodeError:  # half of a surrogate pair, as "\ud83d" in JSON
        return "not_unicode"
    return None


def content_key(row: dict, kind: str) -> int:
    """A 64-bit hash of the texts and the language of a row, equal for exact duplicates.

    Texts are hashed after `normalised`.
    """
    if kind == "text":
        prompts = [row["text"]]
    else:
        prompts = [f"{message['role']}\x1e{message['content']}" for message in row["prompt"]]
    parts = [row["prompt_lang"], *prompts, "\x1d", *answers(row, kind), str(row.get("label"))]
    return key64("\x1f".join(map(normalised, parts)))


def key64(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


class Seen:
    """A set of 64-bit keys that takes 8 bytes for each.

    It is a sorted array, and a small set of the newest keys that is merged into it now and then.
    Some two of n different rows have the same key with probability n²/2⁶⁵ (3e-8 for a million).
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

        old = np.frombuffer(self._sorted, dtype=np.uint64)
        new = np.fromiter(self._new, dtype=np.uint64)
        merged = np.concatenate([old, new])
        merged.sort()
        self._sorted = memoryview(merged.data)
        self._new = set()
