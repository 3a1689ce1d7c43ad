"""The trials that a search has proposed and their outcomes: Optuna's study in
`runs/NAME/search.journal`.

A setting is tried once. Trials are proposed in batches. After an interruption, the trials that were
running come again first, with what their batch still lacked; failed trials come again after all
others. So a continued search proposes what an unbroken one would have proposed.
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
from mlalign.sweep.grid import Request
from mlalign.sweep.united import Planned, Planner

# Attributes of a trial in the journal: its settings while it waits, and why it failed.
PARAMS, WHY = "params", "why"
TRIES = 50  # after so many repeated proposals the space counts as exhausted
MAY_DIFFER = ("name=", "root=", "conf_dir=", "launcher")  # may differ when a search continues
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


@dataclasses.dataclass
class Trial:
    """A setting that was proposed.

    `state`: running, done, pruned or failed. `attempt`: Optuna's trial while this one is under way.
    """

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

    def __init__(
        self,
        run_dir: Path,
        request: Request,
        planner: Planner,
        wanted: int,
        *,
        minimize: bool,
    ):
        self.request = request
        self.planner = planner
        self.wanted = wanted
        self.parallel: int = request.options.get("search.parallel", 1)
        self.trials: list[Trial] = []
        self.exhausted = False
        self._known: dict[tuple, Trial] = {}
        self._broken: list[Trial] = []
        self._lost: list[Trial] = []
        optuna.logging.set_verbosity(logging.WARNING)
        direction: Literal["minimize", "maximize"] = "minimize" if minimize else "maximize"
        self._study = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(run_dir / "search.journal"))),
            study_name="search",
            direction=direction,
            load_if_exists=True,
            pruner=_pruner(request.options.get("search.pruner", "median")),
        )
        self._check_same(run_dir)
        self._recall()

    def batch(self) -> list[Trial]:
        """The next trials, now under way; none when nothing is left to be tried."""
        n = len(self.trials)
        again, self._broken = self._broken, []
        # Interrupted trials go with the rest of their batch.
        n_new = -n % self.parallel if again else self.parallel - n % self.parallel
        n_new = min(n_new, self.wanted - n)
        if not again and (n_new <= 0 or self.exhausted):
            again, self._lost = self._lost[: self.parallel], self._lost[self.parallel :]
            for trial in again:
                self._enqueue(trial)

        trials = [self._ask_again() for _ in again]
        while n_new > 0 and not self.exhausted:
            trials += self._propose()
            n_new -= 1
        if not trials and self._lost:
            return self.batch()
        return trials

    def _enqueue(self, trial: Trial) -> None:
        self._study.enqueue_trial(trial.params, user_attrs={PARAMS: trial.params})

    def tell(self, trial: Trial, value: float | None = None) -> None:
        """Record the outcome of a trial: a value, or the state: pruned or failed."""
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

    # -------------------------------------------------- proposing

    def _propose(self) -> list[Trial]:
        """A trial with a new setting; none if the space seems exhausted.

        It depends only on the seed, the number of the proposal and the results so far.
        """
        seed = self.request.options.get("search.seed", 0) + len(self.trials)
        for i in range(TRIES):
            # The constant liar counts trials that are under way as bad ones.
            self._study.sampler = TPESampler(seed=seed + 10_000 * i, constant_liar=True)
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
        return {a.key: space.distribution(a) for a in self.request.axes}

    def _add(self, params: dict[str, Any], attempt: "optuna.Trial | None" = None) -> Trial:
        point = [(axis.key, space.value(axis, params[axis.key])) for axis in self.request.axes]
        trial = Trial(params, self.planner.plan(point), attempt=attempt)
        self._known[self._key(params)] = trial
        self.trials.append(trial)
        return trial

    def _key(self, params: Mapping[str, Any]) -> tuple:
        return tuple(space.value(a, params[a.key]).shown for a in self.request.axes)

    # -------------------------------------------------- what was before

    def _recall(self) -> None:
        """The trials in the journal.

        All attempts at one setting are one trial, which is done if any of them was.
        """
        attempts_at: dict[tuple, list[FrozenTrial]] = {}
        for attempt in self._study.get_trials():
            params = attempt.params or attempt.user_attrs.get(PARAMS, {})
            if len(params) == len(self.request.axes):
                attempts_at.setdefault(self._key(params), []).append(attempt)
            elif attempt.state == TrialState.RUNNING:
                # It was interrupted before all of its settings were written.
                self._study.tell(attempt.number, state=TrialState.FAIL)
        for attempts in attempts_at.values():
            self._recall_one(attempts)

    def _recall_one(self, attempts: list[FrozenTrial]) -> None:
        states = [attempt.state for attempt in attempts]
        trial = self._add(attempts[0].params or attempts[0].user_attrs[PARAMS])
        finished = [attempt for attempt in attempts if attempt.state in FINISHED]
        if finished and finished[0].state == TrialState.COMPLETE:
            trial.state = "done"
        elif finished:
            trial.state = "pruned"
            trial.why = _after(finished[0])
        elif TrialState.RUNNING in states or TrialState.WAITING in states:
            if TrialState.WAITING not in states:
                self._enqueue(trial)
            self._broken.append(trial)
        else:
            trial.state = "failed"
            reasons = [a.user_attrs[WHY] for a in attempts if WHY in a.user_attrs]
            trial.why = reasons[-1] if reasons else ""
            self._lost.append(trial)

        for attempt in attempts:
            if attempt.state == TrialState.RUNNING:
                self._study.tell(attempt.number, state=TrialState.FAIL)

    def _check_same(self, run_dir: Path) -> None:
        options = {k: v for k, v in self.request.options.items() if k != "search.trials"}
        current = {
            "shared": sorted(a for a in self.request.shared if not a.startswith(MAY_DIFFER)),
            "space": {axis.key: str(space.distribution(axis)) for axis in self.request.axes},
            **options,
        }
        earlier = self._study.user_attrs.get("asked", current)
        differing = [k for k in sorted({*current, *earlier}) if current.get(k) != earlier.get(k)]
        if differing:
            changes = "; ".join(f"{key} was {earlier.get(key)}" for key in differing)
            problem = f"{run_dir} holds another search ({changes})"
            raise UserError(f"name: {problem}; give this one another name=")
        self._study.set_user_attr("asked", current)


def _pruner(kind: str) -> pruners.BasePruner:
    if kind == "halving":
        # Recipes have few rounds: after each the better half continues.
        return pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2)
    return pruners.MedianPruner() if kind == "median" else pruners.NopPruner()


def _after(attempt: FrozenTrial) -> str:
    values = attempt.intermediate_values
    last = max(values, default=0)
    return f"after round {last} at {values.get(last, math.nan):.4g}"
