"""Exact verdicts: how probable a model finds each of a few allowed answers.

Pure: texts and token ids in, probabilities out.

An answer may be several tokens ("10") and have several forms ("Yes", "yes"), so the allowed answers
make a tree of tokens. At each node the model's next-token probabilities are renormalised over the
tokens that lead on, and a branch ends as soon as only one answer is left on it: the distribution of
constrained decoding, computed instead of sampled. Where every answer begins with a token of its own
this is softmax over the first token, forms of one answer summed.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from mlalign.core.errors import UserError

Encode = Callable[[str], list[int]]
NextLogprobs = Callable[[list[list[int]], list[list[int]]], list[list[float]]]


@dataclasses.dataclass
class Node:
    """A place in the tree; `labels` are the answers that can still be reached."""

    labels: set[str] = dataclasses.field(default_factory=set)
    children: dict[int, "Node"] = dataclasses.field(default_factory=dict)

    @property
    def decided(self) -> str | None:
        return next(iter(self.labels)) if len(self.labels) == 1 else None


class Weights(NamedTuple):
    """`probabilities` sum to 1 (if exhaustive); `mass` is what the model itself gave the allowed
    first tokens together.
    """

    probabilities: dict[str, float]
    mass: float


def tree(
    encode: Encode, lead: str, forms: Mapping[str, Sequence[str]], end: int | None
) -> tuple[list[int], Node]:
    """(token ids of what all answers share, tree of the rest); each answer follows `lead` and is
    ended by `end`.

    The first form of an answer always counts; another one only if its first token belongs to no
    other answer.
    Raises: UserError if two answers are the same to the tokenizer.
    """
    paths = {label: [encode(lead + form) for form in texts] for label, texts in forms.items()}
    shared = _common([p[0] for p in paths.values()])
    rest = {
        label: [p[len(shared) :] for p in own if p[: len(shared)] == shared]
        for label, own in paths.items()
    }
    firsts = {label: {p[0] for p in own if p} for label, own in rest.items()}
    root = Node()
    for label, own in rest.items():
        taken = set().union(*(f for other, f in firsts.items() if other != label))
        for i, path in enumerate(own):
            if i == 0 or (path and path[0] not in taken):
                _insert(root, [*path, *([] if end is None else [end])], label)
    _check(root, forms)
    return shared, root


def _common(paths: Sequence[Sequence[int]]) -> list[int]:
    same = 0
    while all(len(p) > same and p[same] == paths[0][same] for p in paths):
        same += 1
    return list(paths[0][:same])


def _insert(root: Node, path: Sequence[int], label: str) -> None:
    root.labels.add(label)
    for token in path:
        root = root.children.setdefault(token, Node())
        root.labels.add(label)


def _check(node: Node, forms: Mapping[str, Sequence[str]]) -> None:
    if not node.children and len(node.labels) > 1:
        same = ", ".join(repr(forms[label][0]) for label in sorted(node.labels))
        raise UserError(
            f"the judge's tokenizer cannot tell the answers {same} apart; use another rubric"
            " language or scale"
        )
    for child in node.children.values():
        _check(child, forms)


def weigh(
    contexts: Sequence[list[int]],
    trees: Sequence[Node],
    next_logprobs: NextLogprobs,
    exhaustive: bool,
) -> list[Weights]:
    """The probability of each answer after each context; none at all where the model gives no
    numbers (NaN).

    Without `exhaustive`, branches that cannot hold the most probable answer are not followed: their
    answers are left out.
    """
    found: list[dict[str, float]] = [{} for _ in contexts]
    masses = [0.0] * len(contexts)
    broken: set[int] = set()
    front = [
        (i, tree, list(context), 1.0)
        for i, (context, tree) in enumerate(zip(contexts, trees, strict=True))
    ]
    while front:
        told = next_logprobs(
            [path for _, _, path, _ in front], [list(node.children) for _, node, _, _ in front]
        )
        after = []
        for (i, node, path, p), logprobs in zip(front, told, strict=True):
            if not all(value < math.inf for value in logprobs) or max(logprobs) == -math.inf:
                broken.add(i)
                continue
            if len(path) == len(contexts[i]):
                masses[i] = math.fsum(map(math.exp, logprobs))
            for (token, child), share in zip(
                node.children.items(), _softmax(logprobs), strict=True
            ):
                if child.decided is None:
                    after.append((i, child, [*path, token], p * share))
                else:
                    found[i][child.decided] = found[i].get(child.decided, 0.0) + p * share
        front = [
            (i, node, path, p)
            for i, node, path, p in after
            if exhaustive or p > max(found[i].values(), default=0.0)
        ]
    return [
        Weights({}, math.nan) if i in broken else Weights(f, m)
        for i, (f, m) in enumerate(zip(found, masses, strict=True))
    ]


def _softmax(logprobs: Sequence[float]) -> list[float]:
    top = max(logprobs)
    weights = [math.exp(value - top) for value in logprobs]
    total = math.fsum(weights)
    return [w / total for w in weights]
