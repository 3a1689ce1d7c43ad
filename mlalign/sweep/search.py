"""A search instead of a grid: Optuna proposes the settings of a trial, a plan carries it out (Akiba et al. 2019, "Optuna": ask and tell).

Trials are variants of one united plan and share the store, so what does not depend on the searched keys runs once. Where a recipe has
rounds, the metric of each round goes to the pruner, and a pruned trial's later rounds are not run. What was proposed and found stands in
`runs/NAME/search.journal`: the same command goes on after an interruption, and as the sampler is seeded anew by the number of the trial,
it proposes what an unbroken search would have. With `search.parallel` so many trials are proposed at a time and go round by round together:
as Slurm jobs at the same time, here one step after the other, with the same proposals.
"""

import dataclasses
import importlib.util
import logging
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from mlalign import run as runner
from mlalign import run_dir, store
from mlalign.errors import UserError
from mlalign.metrics import AVERAGE
from mlalign.plan import INSTALL, Node, Plan
from mlalign.sweep import results, space, united
from mlalign.sweep.board import Board
from mlalign.sweep.grid import Asked
from mlalign.sweep.united import Planned, Planner

if TYPE_CHECKING:
    import optuna

TRIALS = 20  # where nobody says how many
NOT_ASKED = ("name=", "root=", "conf_dir=", "launcher")  # may differ when a search goes on


@dataclasses.dataclass
class _Trial:
    planned: Planned
    state: str = ""  # pruned or failed
    why: str = ""


@dataclasses.dataclass
class _Running:
    """A trial under way: Optuna's own, its steps (-> their names in the united plan), and what it is called."""

    trial: _Trial
    optuna: "optuna.Trial"
    steps: dict[str, str] = dataclasses.field(default_factory=dict)
    title: str = ""


class Search:
    """A search that was checked: `probed` is a plan of the ends of its space, which tells what depends on which key.

    Raises: UserError with all mistakes, before anything runs.
    """

    def __init__(self, asked: Asked, recipe: Mapping | None = None):
        self.asked, self.planner = asked, Planner(asked, recipe)
        if problems := _problems(asked, self.planner):
            raise UserError(*problems)
        ends = {a.key: space.ends(a) for a in asked.axes}
        probes = self.planner.plan_all(united.probes(asked.axes, ends))
        self.depends = united.dependencies(probes)
        self.probed = united.unite(probes, self.depends, asked, {}, "search")
        self.wanted: int = asked.options.get("search.trials", TRIALS)
        self.parallel: int = asked.options.get("search.parallel", 1)
        self.metric: str = asked.options["metric"]
        self.trials: list[_Trial] = []
        self.proposed = 0
        self.failures: list[str] = []

    def outline(self) -> str:
        """What the search is, in a few lines."""
        steps = self.probed.variants[0].steps
        rounds = {n.step.round for n in self.probed.nodes} - {None}
        pruned = "the metric of each round goes to the pruner" if len(rounds) > 1 else "one round or none: no trial is pruned"
        return "\n".join([
            f"search {self.probed.name}: {self.wanted} trials for the best {self.metric}, {self.parallel} at a time",
            *(f"  {a.key}: {a.space.input_line.partition('=')[2] if a.space else a.values[0].shown}" for a in self.asked.axes),
            f"  {len(steps)} steps a trial, {len(self.depends)} of them its own; {pruned}",
        ])  # fmt: skip

    def united(self) -> Plan:
        """All trials so far as one plan."""
        whole = united.unite([t.planned for t in self.trials], self.depends, self.asked, {}, "search")
        for i, (variant, trial) in enumerate(zip(whole.variants, self.trials, strict=True)):
            variant.trial, variant.state, variant.why = i, trial.state, trial.why
        return whole

    def run(self) -> int:
        """Carry out the trials, or go on with them; returns the exit status.

        Raises: UserError where a step that all trials share failed, and at the end where trials failed.
        """
        runner.check(self.probed)
        self.probed.run_dir.mkdir(parents=True, exist_ok=True)
        print(self.outline(), flush=True)
        study, status = self._open(), 0
        while not status and self.proposed < self.wanted:
            status = self._batch(study)
        if self.trials:
            self._publish()
        if self.failures and not status:
            raise UserError(*self.failures, f"{self.proposed - len(self.trials)} trials failed; the same command tries them again")
        return status

    def _publish(self) -> None:
        from mlalign.sweep.command import tell

        whole = self.united()
        store.write_json(whole.run_dir / "plan.json", run_dir.describe(whole))
        tell(whole, self.metric, self.asked.options.get("direction"))

    # ---------------------------------------------------------------------------------------------------------------- study

    def _open(self) -> "optuna.Study":
        """The study in the run's directory with its trials so far; one that was broken off is proposed again."""
        import optuna
        from optuna.storages.journal import JournalFileBackend, JournalStorage
        from optuna.trial import TrialState

        optuna.logging.set_verbosity(logging.WARNING)
        storage = JournalStorage(JournalFileBackend(str(self.probed.run_dir / "search.journal")))
        fewer = results.lower_is_better(self.metric.partition(":")[0], self.asked.options.get("direction"))
        direction: Literal["minimize", "maximize"] = "minimize" if fewer else "maximize"
        study = optuna.create_study(storage=storage, study_name="search", direction=direction, load_if_exists=True, pruner=self._pruner())
        self._check_same(study)
        retried = set(study.user_attrs.get("retried", []))
        for told in study.get_trials():
            if told.state in (TrialState.COMPLETE, TrialState.PRUNED):
                pruned = told.state == TrialState.PRUNED
                self.trials.append(_Trial(self._plan(told.params), *(("pruned", _after(told)) if pruned else ())))
            elif told.state != TrialState.WAITING and told.number not in retried:
                if told.state == TrialState.RUNNING:
                    study.tell(told.number, state=TrialState.FAIL)
                if len(told.params) == len(self.asked.axes):
                    study.enqueue_trial(told.params)
                retried.add(told.number)
        study.set_user_attr("retried", sorted(retried))
        self.proposed = len(self.trials)
        return study

    def _pruner(self) -> Any:
        from optuna import pruners

        kind = self.asked.options.get("search.pruner", "median")
        if kind == "halving":  # recipes have few rounds: after each the better half goes on
            return pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2)
        return pruners.MedianPruner() if kind == "median" else pruners.NopPruner()

    def _check_same(self, study: "optuna.Study") -> None:
        """Raises: UserError if the directory holds a search for something else."""
        options = {k: v for k, v in self.asked.options.items() if k != "search.trials"}
        shared = sorted(a for a in self.asked.shared if not a.startswith(NOT_ASKED))
        now = {"shared": shared, "space": {a.key: str(space.distribution(a)) for a in self.asked.axes}, **options}
        before = study.user_attrs.get("asked", now)
        if differ := [k for k in {*now, *before} if now.get(k) != before.get(k)]:
            told = "; ".join(f"{k} was {before.get(k)}" for k in sorted(differ))
            raise UserError(f"name: {self.probed.run_dir} holds another search ({told}); give this one another name=")
        study.set_user_attr("asked", now)

    # --------------------------------------------------------------------------------------------------------------- trials

    def _plan(self, params: Mapping[str, Any]) -> Planned:
        return self.planner.plan([(a.key, space.value(a, params[a.key])) for a in self.asked.axes])

    def _ask(self, study: "optuna.Study", n: int = 1) -> list["optuna.Trial"]:
        """The next proposals: a function of the seed, of their numbers and of what has been found so far."""
        from optuna.samplers import TPESampler

        found = []
        for _ in range(n):
            seed = self.asked.options.get("search.seed", 0) + self.proposed
            study.sampler = TPESampler(seed=seed, constant_liar=True)  # what is under way counts as bad, so that proposals differ
            found.append(study.ask({a.key: space.distribution(a) for a in self.asked.axes}))
            self.proposed += 1
        return found

    def _batch(self, study: "optuna.Study") -> int:
        """Some trials from proposal to result, round by round; returns the exit status of a run that was stopped, else 0."""
        asked = self._ask(study, min(self.parallel, self.wanted - self.proposed))
        batch = [_Running(_Trial(self._plan(proposal.params)), proposal) for proposal in asked]
        self.trials += [one.trial for one in batch]
        whole = self.united()
        board = Board(whole, self.metric)
        self._begin(batch, whole, board)
        rounds = _by_round([n for n in whole.nodes if any(n.name in one.steps.values() for one in batch)])
        for number, nodes in rounds.items():
            going = [one for one in batch if not one.trial.state]
            wanted = [n for n in nodes if any(n.name in one.steps.values() for one in going)]
            status, failed = runner.run_some(whole, wanted, nodes, board)
            if status:
                del self.trials[-len(batch) :]
                return status
            self._failed(going, wanted, failed)
            if number:
                self._prune([one for one in going if not one.trial.state], whole, wanted, number, number == max(rounds))
        self._tell(study, batch, whole, board)
        return 0

    def _begin(self, batch: list[_Running], whole: Plan, board: Board) -> None:
        for i, (one, variant) in enumerate(zip(batch, whole.variants[-len(batch) :], strict=True)):
            one.steps, one.title = variant.steps, f"trial {self.proposed - len(batch) + i + 1}/{self.wanted}"
            board.line(f"{one.title}: {variant.label}")

    def _failed(self, going: list[_Running], nodes: list[Node], failed: runner.Failed) -> None:
        """Note the trials that failed. Raises: UserError where every other trial would fail like them."""
        for node in (n for n in nodes if n.artifact in failed):
            if failed[node.artifact] and not node.variant:
                raise UserError(*failed[node.artifact])
            self.failures += failed[node.artifact]
            for one in (one for one in going if node.name in one.steps.values()):
                one.trial.state = "failed"

    def _prune(self, going: list[_Running], whole: Plan, nodes: list[Node], number: int, last: bool) -> None:
        """Report what each trial reached in a round; before the last, ask the pruner about each."""
        reached = []
        for one in going:
            found = (self._of_round(whole, n) for n in nodes if n.step.round == number and n.name in one.steps.values())
            if (value := next((v for v in found if v is not None), None)) is not None:
                one.optuna.report(value, number)
                reached.append((one, value))
        for one, value in [] if last else reached:
            if one.optuna.should_prune():
                one.trial.state, one.trial.why = "pruned", f"after round {number} at {value:.4g}"

    def _tell(self, study: "optuna.Study", batch: list[_Running], whole: Plan, board: Board) -> None:
        """Tell Optuna what came out, in the order of the proposals."""
        from optuna.trial import TrialState

        artifacts = {n.name: n.artifact for n in whole.nodes}
        for one in batch:
            if one.trial.state == "failed":
                study.tell(one.optuna, state=TrialState.FAIL)
                self.trials.remove(one.trial)
            elif one.trial.state == "pruned":
                board.line(f"{one.title}: pruned {one.trial.why}")
                study.tell(one.optuna, state=TrialState.PRUNED)
            else:
                study.tell(one.optuna, self._result(whole, {step: artifacts[name] for step, name in one.steps.items()}))

    def _of_round(self, whole: Plan, node: Node) -> float | None:
        """The metric of a round, where this step measured it."""
        path = whole.store.root / node.artifact / "metrics.json"
        if node.module.KIND != "metrics" or not path.is_file():  # a step that was skipped has none
            return None
        rows = [r for r in store.read_json(path)["rows"] if r["language"] == AVERAGE]
        keys = {(r["metric"], r["by"] or ""): r["value"] for r in rows}
        name = self.metric.partition(":")[0]
        return keys[results.choose(self.metric, keys)] if any(k[0] == name for k in keys) else None

    def _result(self, whole: Plan, artifacts: Mapping[str, str]) -> float:
        """Raises: UserError if the trial does not have the metric."""
        rows, _ = results.measured(whole.store, artifacts)
        row = rows[results.choose(self.metric, rows)][AVERAGE]
        return float(row["value"])


def _by_round(nodes: list[Node]) -> dict[int, list[Node]]:
    """Round -> its steps, and those that follow from it and earlier ones alone; 0 before the first."""
    reached: dict[str, int] = {}
    for node in nodes:
        reached[node.artifact] = max([node.step.round or 0, *(reached.get(s["artifact"], 0) for s in node.sources())])
    return {number: [n for n in nodes if reached[n.artifact] == number] for number in sorted(set(reached.values()))}


def _after(told: "optuna.trial.FrozenTrial") -> str:
    last = max(told.intermediate_values, default=0)
    return f"after round {last} at {told.intermediate_values.get(last, math.nan):.4g}"


def _problems(asked: Asked, planner: Planner) -> list[str]:
    """What keeps a search from being one."""
    found = [f"{control}: has no meaning in a search" for control in planner.controls]
    if "metric" not in asked.options:
        found.append("metric: say what the search is for, such as metric=accuracy")
    if importlib.util.find_spec("optuna") is None:
        found.append(f"search: the package 'optuna' is not installed; {INSTALL['optuna']}")
    for axis in asked.axes:
        if axis.space is not None and axis.space.is_interval_sweep():
            told = axis.space.value()
            if not told.start < told.end:
                found.append(f"{axis.key}: there is nothing between {told.start} and {told.end}")
            elif "log" in told.tags and told.start <= 0:
                found.append(f"{axis.key}: a logarithmic interval begins above 0, not at {told.start}")
    return found
