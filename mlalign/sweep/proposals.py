"""What a search has proposed and what came of it: Optuna's study in `runs/NAME/search.journal`, and how it goes on.

A setting is tried once. Trials are proposed in batches. What was under way when a search was broken off comes again first, together with
what its batch still lacked; failed trials come again after all others. So a continued search proposes what an unbroken one would have.
"""

import dataclasses
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna import pruners
from optuna.samplers import TPESampler
from optuna.storages.journal import JournalFileBackend, JournalStorage
from optuna.trial import FrozenTrial, TrialState

from mlalign.core.errors import UserError
from mlalign.sweep import space
from mlalign.sweep.grid import Asked
from mlalign.sweep.united import Planned, Planner

PARAMS, WHY = "params", "why"  # what a trial in the journal remembers besides: its settings while it waits, and why it failed
TRIES = 50  # so many proposals that are there already, and a space counts as exhausted
NOT_ASKED = ("name=", "root=", "conf_dir=", "launcher")  # may differ when a search goes on


@dataclasses.dataclass
class Trial:
    """A setting that was proposed. `state`: running, done, pruned or failed; `attempt` is Optuna's own while it is under way."""

    params: dict[str, Any]
    planned: Planned
    state: str = "running"
    why: str = ""
    attempt: "optuna.Trial | None" = None

    @property
    def under_way(self) -> "optuna.Trial":
        assert self.attempt is not None
        return self.attempt


class Proposals:
    """The trials of a search in the order of their proposal, and the next ones.

    Raises: UserError if the directory holds a search for something else.
    """

    def __init__(self, run_dir: Path, asked: Asked, planner: Planner, wanted: int, *, minimize: bool):
        self.asked, self.planner, self.wanted = asked, planner, wanted
        self.parallel: int = asked.options.get("search.parallel", 1)
        self.trials: list[Trial] = []
        self.exhausted = False
        self._known: dict[tuple, Trial] = {}
        self._broken: list[Trial] = []
        self._lost: list[Trial] = []
        optuna.logging.set_verbosity(logging.WARNING)
        storage = JournalStorage(JournalFileBackend(str(run_dir / "search.journal")))
        direction: Literal["minimize", "maximize"] = "minimize" if minimize else "maximize"
        pruner = _pruner(asked.options.get("search.pruner", "median"))
        self._study = optuna.create_study(storage=storage, study_name="search", direction=direction, load_if_exists=True, pruner=pruner)
        self._check_same(run_dir)
        self._recall()

    def batch(self) -> list[Trial]:
        """The next trials, now under way; none when nothing is left to be tried."""
        n = len(self.trials)
        again, self._broken = self._broken, []
        n_new = min(-n % self.parallel if again else self.parallel - n % self.parallel, self.wanted - n)
        if not again and (n_new <= 0 or self.exhausted):
            again, self._lost = self._lost[: self.parallel], self._lost[self.parallel :]
            for trial in again:
                self._study.enqueue_trial(trial.params, user_attrs={PARAMS: trial.params})
        found = [self._ask_again() for _ in again]
        while n_new > 0 and not self.exhausted:
            found += self._propose()
            n_new -= 1
        return found or (self.batch() if self._lost else [])

    def tell(self, trial: Trial, value: float | None = None) -> None:
        """What came of a trial: a value, or by its state that it was pruned or has failed."""
        if trial.state == "running" and (value is None or math.isnan(value)):
            trial.state, trial.why = "failed", "the metric is not a number"
        if trial.state == "failed":
            trial.under_way.set_user_attr(WHY, trial.why)
            self._study.tell(trial.under_way, state=TrialState.FAIL)
        elif trial.state == "pruned":
            self._study.tell(trial.under_way, state=TrialState.PRUNED)
        else:
            self._study.tell(trial.under_way, value)
            trial.state = "done"

    # ------------------------------------------------------------------------------------------------------------- proposing

    def _propose(self) -> list[Trial]:
        """A trial with a setting that was not there; none, where the space seems exhausted.

        A function of the seed, of the number of the proposal and of what has been found so far.
        """
        seed = self.asked.options.get("search.seed", 0) + len(self.trials)
        for i in range(TRIES):
            self._study.sampler = TPESampler(seed=seed + 10_000 * i, constant_liar=True)  # what is under way counts as bad
            attempt = self._study.ask(self._space())
            if self._key(attempt.params) not in self._known:
                return [self._add(attempt.params, attempt)]
            self._study.tell(attempt, state=TrialState.FAIL)
        self.exhausted = True
        return []

    def _ask_again(self) -> Trial:
        """A trial that waits in the journal."""
        attempt = self._study.ask(self._space())
        trial = self._known[self._key(attempt.params)]
        trial.state, trial.why, trial.attempt = "running", "", attempt
        return trial

    def _space(self) -> dict[str, Any]:
        return {a.key: space.distribution(a) for a in self.asked.axes}

    def _add(self, params: dict[str, Any], attempt: "optuna.Trial | None" = None) -> Trial:
        trial = Trial(params, self.planner.plan([(a.key, space.value(a, params[a.key])) for a in self.asked.axes]), attempt=attempt)
        self._known[self._key(params)] = trial
        self.trials.append(trial)
        return trial

    def _key(self, params: Mapping[str, Any]) -> tuple:
        return tuple(space.value(a, params[a.key]).shown for a in self.asked.axes)

    # --------------------------------------------------------------------------------------------------------- what was before

    def _recall(self) -> None:
        """The trials in the journal. All attempts at one setting are one trial: done, if one of them was."""
        attempts: dict[tuple, list[FrozenTrial]] = {}
        for told in self._study.get_trials():
            params = told.params or told.user_attrs.get(PARAMS, {})
            if len(params) == len(self.asked.axes):
                attempts.setdefault(self._key(params), []).append(told)
            elif told.state == TrialState.RUNNING:  # broken off before it was all there
                self._study.tell(told.number, state=TrialState.FAIL)
        for mine in attempts.values():
            self._recall_one(mine)

    def _recall_one(self, attempts: list[FrozenTrial]) -> None:
        states = [told.state for told in attempts]
        trial = self._add(attempts[0].params or attempts[0].user_attrs[PARAMS])
        if over := [told for told in attempts if told.state in (TrialState.COMPLETE, TrialState.PRUNED)]:
            trial.state = "done" if over[0].state == TrialState.COMPLETE else "pruned"
            trial.why = "" if trial.state == "done" else _after(over[0])
        elif TrialState.RUNNING in states or TrialState.WAITING in states:
            if TrialState.WAITING not in states:
                self._study.enqueue_trial(trial.params, user_attrs={PARAMS: trial.params})
            self._broken.append(trial)
        else:
            trial.state = "failed"
            trial.why = next((told.user_attrs[WHY] for told in reversed(attempts) if WHY in told.user_attrs), "")
            self._lost.append(trial)
        for told in (t for t in attempts if t.state == TrialState.RUNNING):
            self._study.tell(told.number, state=TrialState.FAIL)

    def _check_same(self, run_dir: Path) -> None:
        options = {k: v for k, v in self.asked.options.items() if k != "search.trials"}
        shared = sorted(a for a in self.asked.shared if not a.startswith(NOT_ASKED))
        now = {"shared": shared, "space": {a.key: str(space.distribution(a)) for a in self.asked.axes}, **options}
        before = self._study.user_attrs.get("asked", now)
        if differ := [k for k in {*now, *before} if now.get(k) != before.get(k)]:
            told = "; ".join(f"{k} was {before.get(k)}" for k in sorted(differ))
            raise UserError(f"name: {run_dir} holds another search ({told}); give this one another name=")
        self._study.set_user_attr("asked", now)


def _pruner(kind: str) -> pruners.BasePruner:
    if kind == "halving":  # recipes have few rounds: after each the better half goes on
        return pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2)
    return pruners.MedianPruner() if kind == "median" else pruners.NopPruner()


def _after(told: FrozenTrial) -> str:
    last = max(told.intermediate_values, default=0)
    return f"after round {last} at {told.intermediate_values.get(last, math.nan):.4g}"
