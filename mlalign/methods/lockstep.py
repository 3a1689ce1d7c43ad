"""Runs many operators side by side: what all of them wait for is asked in one batch."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from mlalign import methods
from mlalign.core.errors import UserError
from mlalign.methods.operators import Ask, Item, Operator, Steps


@dataclasses.dataclass
class Run:
    """One run of an operator on an item. `result` is what it returned; None while it goes on."""

    id: str
    item: Item
    steps: Steps[Any]
    result: Sequence[Any] | str | None = None
    n_asked: int = 0


@dataclasses.dataclass(frozen=True)
class Question:
    """A request of a run; `id` is its own, and the same in every run of the step."""

    id: str
    run: Run
    ask: Ask


Answer = Callable[[Sequence[Question]], Sequence[str | None]]


def drive(operator: Operator, runs: Sequence[Run], answer: Answer, refused: str) -> None:
    """Bring every run to its result. `answer` gives the texts, None for a request that it refuses.

    A run of which a request was refused ends with the reason `refused`.
    Raises: UserError naming the item, and the file and line of an operator that fails.
    """
    waiting = []
    for run in runs:
        waiting.append((run, _advance(operator, run, None)))
    while questions := [question for _, asked in waiting for question in asked or ()]:
        texts = dict(zip([q.id for q in questions], answer(questions), strict=True))
        still = []
        for run, asked in waiting:
            replies = [texts[question.id] for question in asked or ()]
            if asked is None:
                continue
            if None in replies:
                run.steps.close()
                run.result = refused
                continue
            still.append((run, _advance(operator, run, replies)))
        waiting = still


def _advance(operator: Operator, run: Run, replies: list[Any] | None) -> list[Question] | None:
    """The next questions of a run; None where it has returned."""
    place = f"{run.item.id} ({run.item.language}): operator {operator.__name__}"
    with methods.failures(operator, place):
        try:
            asked = run.steps.send(replies)  # type: ignore[arg-type]  # None starts a generator
        except StopIteration as end:
            run.result = end.value
            return None
    if not asked or not all(isinstance(ask, Ask) for ask in asked):
        raise UserError(f"{place}: yields {asked!r}; expected a list of Ask, with one at least")
    questions = []
    for ask in asked:
        questions.append(Question(f"{run.id}:{run.n_asked}", run, ask))
        run.n_asked += 1
    return questions
