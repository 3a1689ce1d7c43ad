"""Which beginnings several token sequences share, found from the token ids themselves. Pure.

Answers to one prompt, or the two sides of a pair, have the prompt's tokens in common; a causal model need read them only once.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from itertools import pairwise

from reward_models.networks.encoding import common

Ids = tuple[int, ...]
SHORTEST = 16  # shared tokens below which a second pass over a group costs more than it saves


@dataclasses.dataclass(frozen=True)
class Group:
    """Sequences `first` to `last` (positions, inclusive) begin with the same `length` tokens, and each has at least one more."""

    first: int
    last: int
    length: int

    @property
    def saved(self) -> int:
        return (self.last - self.first) * self.length


@dataclasses.dataclass
class _Open:
    """An interval of sequences with `height` tokens in common, still growing to the right; `inner` are groups within it."""

    height: int
    left: int
    inner: list[Group]


def groups(sequences: Sequence[Ids], begins: Sequence[int] | None = None, shortest: int = SHORTEST) -> list[Group]:
    """Disjoint groups, chosen for the tokens that are saved when each group's beginning is read once.

    `sequences` are distinct and in ascending order, so that those with a common beginning stand together: the common lengths of
    neighbours span a tree of intervals, and each either becomes a group or leaves that to the intervals within it, whichever
    saves more. One level only: of a long system prompt and shorter prompts behind it, only one is shared. What a sequence shares ends
    before token `begins - 1`, the first one at which something is read: by default the last one.
    """
    ends = [begin - 1 for begin in (map(len, sequences) if begins is None else begins)]
    heights = [min(common(a, b), *ends[i : i + 2]) for i, (a, b) in enumerate(pairwise(sequences))]
    stack = [_Open(0, 0, [])]
    for right, height in enumerate([*heights, 0]):
        left: int = right
        inner: list[Group] = []
        while stack[-1].height > height:
            done = stack.pop()
            left, inner = done.left, _better(Group(done.left, right, done.height), done.inner + inner, shortest)
        if stack[-1].height == height:
            stack[-1].inner += inner
        else:
            stack.append(_Open(height, left, inner))
    return stack[0].inner


def _better(whole: Group, inner: list[Group], shortest: int) -> list[Group]:
    return [whole] if whole.length >= shortest and whole.saved >= sum(g.saved for g in inner) else inner


def chunks(found: Sequence[Group], tokens: int) -> Iterator[list[Group]]:
    """The groups by the length of what they share, in lists that hold at most `tokens` shared tokens, or one group."""
    chunk: list[Group] = []
    size = 0
    for group in sorted(found, key=lambda g: (g.length, g.first)):
        if chunk and size + group.length > tokens:
            yield chunk
            chunk, size = [], 0
        chunk.append(group)
        size += group.length
    if chunk:
        yield chunk
