"""A search instead of a grid: Optuna proposes the settings of a trial, a plan carries it out (Akiba et al. 2019, "Optuna": ask and tell).

Trials are variants of one united plan and share the store, so what does not depend on the searched keys runs once. Where a recipe has
rounds, the metric of each round goes to the pruner, and a pruned trial's later rounds are not run. What was proposed and found stands in
`runs/NAME/search.journal`: the same command goes on after an interruption, and as the sampler is seeded anew by the number of the trial,
it proposes what an unbroken search would have.
"""

import dataclasses
import importlib.util
import logging
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from mlalign import run as runner
from mlalign import store
from mlalign.errors import UserError
from mlalign.metrics import AVERAGE
from mlalign.plan import INSTALL, Node, Plan
from mlalign.sweep import results, united
from mlalign.sweep.board import Board
from mlalign.sweep.grid import Asked, Axis, Value
from mlalign.sweep.united import Planned, Planner

if TYPE_CHECKING:
    import optuna

TRIALS = 20  # where nobody says how many
FIGURES = 4  # significant figures of a proposed number: what a person can type again
NOT_ASKED = ("name=", "root=", "conf_dir=")  # may differ when a search goes on


@dataclasses.dataclass
class _Trial:
    planned: Planned
    state: str = ""
    why: str = ""


class Search:
    """A search that was checked: `probed` is a plan of the ends of its space, which tells what depends on which key.

    Raises: UserError with all mistakes, before anything runs.
    """

    def __init__(self, asked: Asked, recipe: Mapping | None = None):
        self.asked, self.planner = asked, Planner(asked, recipe)
        if problems := _problems(asked, self.planner):
            raise UserError(*problems)
        ends = {a.key: _ends(a) for a in asked.axes}
        probes = self.planner.plan_all(united.probes(asked.axes, ends))
        self.depends = united.dependencies(probes)
        self.probed = united.unite(probes, self.depends, asked, {}, "search")
        if self.probed.settings.root["launcher"]["name"] != "local" or asked.options.get("search.parallel", 1) > 1:
            raise UserError(
                "search: trials run one after the other on this machine: leave out search.parallel and launcher=, or sweep a grid (-m)"
            )
        self.wanted: int = asked.options.get("search.trials", TRIALS)
        self.metric: str = asked.options["metric"]
        self.trials: list[_Trial] = []
        self.failures: list[str] = []

    def outline(self) -> str:
        """What the search is, in a few lines."""
        steps = self.probed.variants[0].steps
        rounds = {n.step.round for n in self.probed.nodes} - {None}
        pruned = "the metric of each round goes to the pruner" if len(rounds) > 1 else "one round or none: no trial is pruned"
        return "\n".join([
            f"search {self.probed.name}: {self.wanted} trials for the best {self.metric}",
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
        if problems := self.probed.problems():
            raise UserError(*problems)
        self.probed.check_name()
        self.probed.run_dir.mkdir(parents=True, exist_ok=True)
        print(self.outline(), flush=True)
        study, status = self._open(), 0
        while not status and len(self.trials) < self.wanted:
            status = self._trial(study)
        if self.trials:
            self._publish()
        if self.failures and not status:
            raise UserError(*self.failures, f"{len(self.failures)} trials failed; the same command tries them again")
        return status

    def _publish(self) -> None:
        from mlalign.sweep.command import tell

        whole = self.united()
        store.write_json(whole.run_dir / "plan.json", runner.describe(whole))
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
        now = {"shared": shared, "space": {a.key: str(_distribution(a)) for a in self.asked.axes}, **options}
        before = study.user_attrs.get("asked", now)
        if differ := [k for k in {*now, *before} if now.get(k) != before.get(k)]:
            told = "; ".join(f"{k} was {before.get(k)}" for k in sorted(differ))
            raise UserError(f"name: {self.probed.run_dir} holds another search ({told}); give this one another name=")
        study.set_user_attr("asked", now)

    # --------------------------------------------------------------------------------------------------------------- trials

    def _plan(self, params: Mapping[str, Any]) -> Planned:
        return self.planner.plan([(a.key, _value(a, params[a.key])) for a in self.asked.axes])

    def _ask(self, study: "optuna.Study") -> "optuna.Trial":
        """The next proposal: a function of the seed and of what has been found so far."""
        from optuna.samplers import TPESampler

        study.sampler = TPESampler(seed=self.asked.options.get("search.seed", 0) + len(self.trials))
        return study.ask({a.key: _distribution(a) for a in self.asked.axes})

    def _trial(self, study: "optuna.Study") -> int:
        """One trial from proposal to result; returns the exit status of a run that was stopped, else 0."""
        from optuna.trial import TrialState

        trial = self._ask(study)
        one = _Trial(self._plan(trial.params))
        self.trials.append(one)
        whole = self.united()
        nodes = {n.name: n for n in whole.nodes}
        own = _by_round([nodes[name] for name in dict.fromkeys(whole.variants[-1].steps.values())])
        board, title = Board(whole, self.metric), f"trial {len(self.trials)}/{self.wanted}"
        board.line(f"{title}: {whole.variants[-1].label}")
        try:
            status = runner.run_some(whole, own, board, self._pruning(whole, own, trial, one))
        except UserError as error:
            study.tell(trial, state=TrialState.FAIL)
            self._failed(own, whole, error)
            return 0
        if status:
            self.trials.pop()
        elif one.state:
            board.line(f"{title}: pruned {one.why}")
            study.tell(trial, state=TrialState.PRUNED)
        else:
            study.tell(trial, self._result(whole, nodes))
        return status

    def _pruning(self, whole: Plan, own: list[Node], trial: "optuna.Trial", one: _Trial) -> Callable[[Node], bool]:
        """Whether to go on after a step: reports the metric of each round but the last, and asks the pruner."""
        last = max((n.step.round or 0 for n in own), default=0)
        reported: set[int] = set()

        def go_on(node: Node) -> bool:
            number = node.step.round or 0
            value = self._of_round(whole, node) if number and number not in reported else None
            if value is not None:
                reported.add(number)
                trial.report(value, number)
                if number < last and trial.should_prune():
                    one.state, one.why = "pruned", f"after round {number} at {value:.4g}"
            return not one.state

        return go_on

    def _failed(self, own: list[Node], whole: Plan, error: UserError) -> None:
        """Note a trial that failed. Raises: its error, where every other trial would fail like it."""
        self.trials.pop()
        node = next((n for n in own if not (whole.store.root / n.artifact / "manifest.json").is_file()), None)
        if node is None or not node.variant:
            raise error
        self.failures.append(str(error))
        self.wanted -= 1

    def _of_round(self, whole: Plan, node: Node) -> float | None:
        """The metric of a round, where this step measured it."""
        path = whole.store.root / node.artifact / "metrics.json"
        if node.module.KIND != "metrics" or not path.is_file():  # a step that was skipped has none
            return None
        rows = [r for r in store.read_json(path)["rows"] if r["language"] == AVERAGE]
        keys = {(r["metric"], r["by"] or ""): r["value"] for r in rows}
        name = self.metric.partition(":")[0]
        return keys[results.choose(self.metric, keys)] if any(k[0] == name for k in keys) else None

    def _result(self, whole: Plan, nodes: Mapping[str, Node]) -> float:
        """Raises: UserError if the trial does not have the metric."""
        rows, _ = results.measured(whole.store, {step: nodes[n].artifact for step, n in whole.variants[-1].steps.items()})
        row = rows[results.choose(self.metric, rows)][AVERAGE]
        return float(row["value"])


def _by_round(nodes: list[Node]) -> list[Node]:
    """The same steps, all of one round before those of the next; what follows from a round alone goes with it."""
    reached: dict[str, int] = {}
    for node in nodes:
        reached[node.artifact] = max([node.step.round or 0, *(reached.get(s["artifact"], 0) for s in node.sources())])
    return sorted(nodes, key=lambda n: reached[n.artifact])


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


# ----------------------------------------------------------------------------------------------------------------- the space


def _distribution(axis: Axis) -> Any:
    """A swept key as Optuna's distribution: `interval` (`int(interval(…))`, `tag(log,interval(…))`), `range`, or a choice."""
    from optuna import distributions

    told = axis.space.value() if axis.space is not None else None
    if told is not None and axis.space.is_interval_sweep():
        whole = isinstance(told.start, int) and isinstance(told.end, int)
        kind = distributions.IntDistribution if whole else distributions.FloatDistribution
        return kind(told.start, told.end, log="log" in told.tags)
    numbers = [v.shown for v in axis.values]
    if told is not None and axis.space.is_range_sweep() and len(numbers) > 1:
        step = numbers[1] - numbers[0]
        kind = distributions.IntDistribution if isinstance(step, int) else distributions.FloatDistribution
        return kind(min(numbers), max(numbers), step=abs(step))
    return distributions.CategoricalDistribution([str(v.shown) for v in axis.values])


def _value(axis: Axis, proposed: Any) -> Value:
    """What was proposed as a value of the key; numbers between the ends are rounded to what a person can type."""
    if isinstance(proposed, str):
        return next(v for v in axis.values if str(v.shown) == proposed)
    if isinstance(proposed, float) and axis.space.is_interval_sweep():
        told = axis.space.value()
        return axis.value(min(max(float(f"{proposed:.{FIGURES}g}"), told.start), told.end))
    return axis.value(proposed)


def _ends(axis: Axis) -> list[Value]:
    if axis.space is not None and axis.space.is_interval_sweep():
        return [axis.value(axis.space.value().start), axis.value(axis.space.value().end)]
    return [axis.values[0], axis.values[-1]]
