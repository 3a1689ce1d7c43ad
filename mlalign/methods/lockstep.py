"""Runs many operators side by side: their questions are asked in one batch."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from mlalign import methods
from mlalign.core.errors import UserError
from mlalign.methods.operators import Ask, Item, Operator, Steps


@dataclasses.dataclass
class Run:
    """One run of an operator on an item. `result` is what it returned, None until then."""

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
    """Bring every run to its result.

    `answer` gives a text for each question, None for one that it refuses. The run then ends, with
    the reason `refused` as its result.
    Raises: UserError naming the item, and the file and line of an operator that fails.
    """
    waiting = _waiting(operator, [(run, None) for run in runs])
    while waiting:
        batch: list[Question] = []
        for _, questions in waiting:
            batch += questions
        texts = dict(zip([question.id for question in batch], answer(batch), strict=True))

        answered: list[tuple[Run, list[Any] | None]] = []
        for run, questions in waiting:
            replies = [texts[question.id] for question in questions]
            if None in replies:
                run.steps.close()
                run.result = refused
            else:
                answered.append((run, replies))
        waiting = _waiting(operator, answered)


def _waiting(
    operator: Operator, runs: Sequence[tuple[Run, list[Any] | None]]
) -> list[tuple[Run, list[Question]]]:
    """Let runs go on with their replies; those that then ask, with their questions."""
    waiting = []
    for run, replies in runs:
        questions = _advance(operator, run, replies)
        if questions is not None:
            waiting.append((run, questions))
    return waiting


def _advance(operator: Operator, run: Run, replies: list[Any] | None) -> list[Question] | None:
    """The next questions of a run, at least one; None if it has returned."""
    place = f"{run.item.id} ({run.item.language}): operator {operator.__name__}"
    with methods.failures(operator, place):
        try:
            requests = run.steps.send(replies)  # type: ignore[arg-type]  # None starts a generator
        except StopIteration as end:
            run.result = end.value
            return None
    if not requests or not all(isinstance(request, Ask) for request in requests):
        raise UserError(f"{place}: yields {requests!r}; expected a list of Ask, with one at least")
    questions = []
    for ask in requests:
        questions.append(Question(f"{run.id}:{run.n_asked}", run, ask))
        run.n_asked += 1
    return questions
