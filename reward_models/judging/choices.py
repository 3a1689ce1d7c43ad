"""Exact verdicts: how probable a model finds each of a few allowed answers.

Pure: texts and token ids in, probabilities out.

An answer may be several tokens ("10") and have several forms ("Yes", "yes"), so the allowed answers
make a tree of tokens. At each node the model's next-token probabilities are renormalised over the
tokens that lead on, and a branch ends as soon as only one answer is left on it. This is the
distribution of constrained decoding, computed instead of sampled. Where every answer begins with a
token of its own, it is softmax over the first token, with the forms of one answer summed.
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
        """The only answer left, if there is one."""
        if len(self.labels) != 1:
            return None
        return next(iter(self.labels))


class Weights(NamedTuple):
    """`probabilities` of answers sum to 1 if all of them were followed.

    `mass` is the probability that the model itself gave to the allowed first tokens together.
    """

    probabilities: dict[str, float]
    mass: float


def tree(
    encode: Encode, lead: str, forms: Mapping[str, Sequence[str]], end: int | None
) -> tuple[list[int], Node]:
    """(token ids that all answers share, tree of the rest).

    Each answer follows the text `lead`, and the token `end` follows each answer. The first form of
    an answer always counts; another form only if no other answer begins with its first token.
    Raises: UserError if two answers are the same to the tokenizer.
    """
    paths_by_label = {}
    for label, texts in forms.items():
        paths_by_label[label] = [encode(lead + form) for form in texts]
    shared = _common([paths[0] for paths in paths_by_label.values()])

    n_shared = len(shared)
    tails_by_label = {}
    first_tokens = {}
    for label, paths in paths_by_label.items():
        tails = [path[n_shared:] for path in paths if path[:n_shared] == shared]
        tails_by_label[label] = tails
        first_tokens[label] = {tail[0] for tail in tails if tail}

    ending = [] if end is None else [end]
    root = Node()
    for label, tails in tails_by_label.items():
        taken = set()
        for other_label, tokens in first_tokens.items():
            if other_label != label:
                taken |= tokens
        for i, tail in enumerate(tails):
            is_first_form = i == 0
            if is_first_form or (tail and tail[0] not in taken):
                _insert(root, [*tail, *ending], label)
    _check(root, forms)
    return shared, root


def _common(paths: Sequence[Sequence[int]]) -> list[int]:
    """The tokens that all paths begin with."""
    n_same = 0
    first_path = paths[0]
    while all(len(path) > n_same and path[n_same] == first_path[n_same] for path in paths):
        n_same += 1
    return list(first_path[:n_same])


def _insert(root: Node, path: Sequence[int], label: str) -> None:
    node = root
    node.labels.add(label)
    for token in path:
        node = node.children.setdefault(token, Node())
        node.labels.add(label)


def _check(node: Node, forms: Mapping[str, Sequence[str]]) -> None:
    if not node.children and len(node.labels) > 1:
        same = ", ".join(repr(forms[label][0]) for label in sorted(node.labels))
        raise UserError(
            f"the judge's tokenizer cannot tell the answers {same} apart; use another rubric"
            " language or scale"
        )
    for child in node.children.values():
        _check(child, forms)


@dataclasses.dataclass
class _Branch:
    """A node that is still undecided.

    `path`: the tokens of context number `context` and those that lead from there to the node.
    `probability`: of the latter, among the allowed answers.
    """

    context: int
    node: Node
    path: list[int]
    probability: float


def weigh(
    contexts: Sequence[list[int]],
    trees: Sequence[Node],
    next_logprobs: NextLogprobs,
    exhaustive: bool,
) -> list[Weights]:
    """The probability of each answer after each context.

    There are no probabilities at all where the model gives no numbers (NaN). Without `exhaustive`,
    branches that cannot hold the most probable answer are not followed: their answers are left out.
    """
    weights = [Weights({}, 0.0) for _ in contexts]
    broken: set[int] = set()
    branches = []
    for i, (context, root) in enumerate(zip(contexts, trees, strict=True)):
        branches.append(_Branch(i, root, list(context), 1.0))

    while branches:
        paths = [branch.path for branch in branches]
        tokens = [list(branch.node.children) for branch in branches]
        undecided = []
        for branch, logprobs in zip(branches, next_logprobs(paths, tokens), strict=True):
            i = branch.context
            if not _are_usable(logprobs):
                broken.add(i)
                continue
            if len(branch.path) == len(contexts[i]):
                mass = math.fsum(map(math.exp, logprobs))
                weights[i] = Weights({}, mass)
            undecided += _follow(branch, logprobs, weights[i].probabilities)

        branches = []
        for branch in undecided:
            highest = max(weights[branch.context].probabilities.values(), default=0.0)
            if exhaustive or branch.probability > highest:
                branches.append(branch)

    for i in broken:
        weights[i] = Weights({}, math.nan)
    return weights


def _follow(
    branch: _Branch, logprobs: Sequence[float], probabilities: dict[str, float]
) -> list[_Branch]:
    """The branches one token on; those that decide an answer add to its probability instead."""
    undecided = []
    children = branch.node.children.items()
    for (token, child), share in zip(children, _softmax(logprobs), strict=True):
        probability = branch.probability * share
        label = child.decided
        if label is None:
            path = [*branch.path, token]
            undecided.append(_Branch(branch.context, child, path, probability))
        else:
            probabilities[label] = probabilities.get(label, 0.0) + probability
    return undecided


def _are_usable(logprobs: Sequence[float]) -> bool:
    """Whether they are numbers (NaN compares as False), and not all probabilities are 0."""
    return all(value < math.inf for value in logprobs) and max(logprobs) > -math.inf


def _softmax(logprobs: Sequence[float]) -> list[float]:
    highest = max(logprobs)
    weights = [math.exp(value - highest) for value in logprobs]
    total = math.fsum(weights)
    return [weight / total for weight in weights]
