"""Which beginnings several token sequences share, found from the token ids themselves. Pure.

Answers to one prompt, or the two sides of a pair, share the prompt's tokens; a causal model needs
to read them only once.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from itertools import pairwise

from reward_models.networks.encoding import common

Ids = tuple[int, ...]
SHORTEST = 16  # shared tokens below which a second pass over a group costs more than it saves


@dataclasses.dataclass(frozen=True)
class Group:
    """Sequences `first` to `last` (positions, inclusive) begin with the same `length` tokens.

    Each has at least one more.
    """

    first: int
    last: int
    length: int

    @property
    def members(self) -> range:
        return range(self.first, self.last + 1)

    @property
    def saved(self) -> int:
        return (self.last - self.first) * self.length


@dataclasses.dataclass
class _Open:
    """An interval of sequences with `height` tokens in common, still growing to the right.

    `inner` are groups within it.
    """

    height: int
    left: int
    inner: list[Group]


def groups(
    sequences: Sequence[Ids],
    begins: Sequence[int] | None = None,
    shortest: int = SHORTEST,
) -> list[Group]:
    """Disjoint groups, chosen to save the most tokens when each beginning is read once.

    `sequences` are distinct and ascending, so those with a common beginning are neighbours. The
    common lengths of neighbours span a tree of intervals; each interval either becomes a group or
    leaves that to the intervals within it, whichever saves more. There is one level only: of a long
    system prompt and shorter prompts behind it, one is shared. What a sequence shares ends before
    token `begins - 1`, the first one at which something is read: by default the last one.
    """
    if begins is None:
        begins = list(map(len, sequences))
    heights = []
    for i, (left_ids, right_ids) in enumerate(pairwise(sequences)):
        limit = min(begins[i], begins[i + 1]) - 1
        heights.append(min(common(left_ids, right_ids), limit))

    stack = [_Open(0, 0, [])]
    for right, height in enumerate([*heights, 0]):
        left: int = right
        inner: list[Group] = []
        while stack[-1].height > height:
            closed = stack.pop()
            left = closed.left
            whole = Group(left, right, closed.height)
            inner = _better(whole, closed.inner + inner, shortest)
        if stack[-1].height == height:
            stack[-1].inner += inner
        else:
            stack.append(_Open(height, left, inner))
    return stack[0].inner


def _better(whole: Group, inner: list[Group], shortest: int) -> list[Group]:
    saved_by_inner = sum(group.saved for group in inner)
    if whole.length >= shortest and whole.saved >= saved_by_inner:
        return [whole]
    return inner


def chunks(groups_: Sequence[Group], tokens: int) -> Iterator[list[Group]]:
    """The groups by shared length, in lists of at most `tokens` shared tokens, or one group."""
    chunk: list[Group] = []
    size = 0
    for group in sorted(groups_, key=lambda g: (g.length, g.first)):
        if chunk and size + group.length > tokens:
            yield chunk
            chunk = []
            size = 0
        chunk.append(group)
        size += group.length
    if chunk:
        yield chunk
