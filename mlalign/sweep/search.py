"""A search instead of a grid: Optuna proposes settings, a plan carries them out.

This is the ask-and-tell interface of Akiba et al. 2019, "Optuna". Trials are variants of one united
plan and share the store, so what does not depend on the searched keys runs once. Where a recipe has
rounds, the metric of each round goes to the pruner, and a pruned trial's later rounds do not run.
`search.parallel` trials go round by round together: as Slurm jobs at the same time, on this machine
one step after the other. The proposals are the same (`proposals`).
"""

import contextlib
import dataclasses
import importlib.util
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from mlalign.core import claims, store
from mlalign.core.errors import UserError
from mlalign.core.terminal import say
from mlalign.methods.metrics import AVERAGE
from mlalign.recipes.node import Node
from mlalign.recipes.packages import INSTALL
from mlalign.recipes.plan import Plan
from mlalign.running import run as runner
from mlalign.running import run_dir
from mlalign.running.slurm import jobs
from mlalign.sweep import results, space, united
from mlalign.sweep.board import Board
from mlalign.sweep.grid import Request
from mlalign.sweep.united import Planner

if TYPE_CHECKING:
    from mlalign.sweep.proposals import Proposals, Trial

TRIALS = 20  # where nobody says how many


@dataclasses.dataclass
class _Running:
    """A trial under way: what it is called, and its steps (-> their names in the united plan)."""

    trial: "Trial"
    title: str
    steps: dict[str, str]

    @property
    def names(self) -> set[str]:
        return set(self.steps.values())


class Search:
    """A checked search. `probed` plans the ends of its space, to learn which step depends on which
    key.

    Raises: UserError with all mistakes, before anything runs.
    """

    def __init__(
        self,
        request: Request,
        recipe: Mapping | None = None,
        *,
        to_look_at: bool = False,
    ):
        self.request = request
        self.planner = Planner(request, recipe, to_look_at=to_look_at)
        problems = _problems(request, self.planner)
        if problems:
            raise UserError(*problems)
        ends = {a.key: space.ends(a) for a in request.axes}
        probes = self.planner.plan_all(united.probes(request.axes, ends))
        self.depends = united.dependencies(probes)
        self.probed = united.unite(probes, self.depends, request, {}, "search")
        self.wanted: int = request.options.get("search.trials", TRIALS)
        self.metric: str = request.options["metric"]
        self.trials: list[Trial] = []
        self.failures: list[str] = []

    def outline(self) -> str:
        """What the search is, in a few lines."""
        n_steps = len(self.probed.variants[0].steps)
        rounds = {node.step.round for node in self.probed.nodes} - {None}
        at_a_time = self.request.options.get("search.parallel", 1)
        trials = f"{self.wanted} trials for the best {self.metric}, {at_a_time} at a time"
        pruning = "one round or none: no trial is pruned"
        if len(rounds) > 1:
            pruning = "the metric of each round goes to the pruner"

        lines = [f"search {self.probed.name}: {trials}"]
        for axis in self.request.axes:
            values = axis.space.input_line.partition("=")[2] if axis.space else axis.values[0].shown
            lines.append(f"  {axis.key}: {values}")
        lines.append(f"  {n_steps} steps a trial, {len(self.depends)} of them its own; {pruning}")
        return "\n".join(lines)

    def united(self) -> Plan:
        """All trials so far as one plan."""
        planned = [trial.planned for trial in self.trials]
        whole = united.unite(planned, self.depends, self.request, {}, "search")
        for i, (variant, trial) in enumerate(zip(whole.variants, self.trials, strict=True)):
            variant.trial, variant.why = i, trial.why
            variant.state = trial.state if trial.state in ("pruned", "failed") else ""
        return whole

    def run(self) -> int:
        """Carry out the trials, or continue them; returns the exit status.

        Raises: UserError where a step that all trials share failed, and at the end if trials
        failed. If all have failed, the search ends early.
        """
        from mlalign.sweep.proposals import Proposals

        runner.check(self.probed)
        with self._alone():
            say(self.outline(), flush=True)
            jobs.go_on(self.probed.run_dir / "slurm")
            name, direction = self.metric.partition(":")[0], self.request.options.get("direction")
            proposals = Proposals(
                self.probed.run_dir,
                self.request,
                self.planner,
                self.wanted,
                minimize=results.lower_is_better(name, direction),
            )
            self.trials = proposals.trials
            status = 0
            while not status and not self._hopeless() and (batch := proposals.batch()):
                status = self._batch(proposals, batch)

        if proposals.exhausted:
            say(f"after {len(self.trials)} trials nothing new was proposed")
        if status:
            say("stopped; the same command goes on with this search")
        if self.trials:
            self._publish()
        if self.failures and not status:
            raise UserError(*self.failures, self._summary_of_failures())
        return status

    def _summary_of_failures(self) -> str:
        n_failed = sum(trial.state == "failed" for trial in self.trials)
        ended_early = self._hopeless() and n_failed < self.wanted
        end = ", so the search has ended early" if ended_early else ""
        failed = f"{n_failed} of {len(self.trials)} trials failed{end}"
        return f"{failed}; the same command tries them again"

    def _hopeless(self) -> bool:
        """Whether trials of this command have failed, and none has ever succeeded."""
        return bool(self.failures) and all(trial.state == "failed" for trial in self.trials)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Raises: UserError if another process carries out this search."""
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(claims.claim(self.probed.run_dir, "search"))
            except claims.Taken:
                problem = f"another process is running the search {self.probed.name!r}"
                mend = "wait until it has ended, or give this one another name="
                raise UserError(f"name: {problem}; {mend}") from None
            yield

    def _publish(self) -> None:
        whole = self.united()
        store.write_json(whole.run_dir / "plan.json", run_dir.describe(whole))
        results.tell(whole, self.metric, self.request.options.get("direction"))

    # -------------------------------------------------- trials

    def _batch(self, proposals: "Proposals", trials: list["Trial"]) -> int:
        """Some trials from proposal to result, round by round.

        Returns the exit status of a run that was stopped, else 0.
        """
        whole = self.united()
        board = Board(whole, self.metric)
        batch = [self._begin(trial, whole, board) for trial in trials]
        rounds = _by_round(_nodes_of(batch, whole.nodes))
        for number, nodes in rounds.items():
            running = _still_running(batch)
            wanted = _nodes_of(running, nodes)
            status, failed = runner.run_some(whole, wanted, nodes, board)
            if status:
                return status
            self._failed(running, wanted, failed)
            if number:
                is_last = number == max(rounds)
                self._prune(_still_running(running), whole, wanted, number, is_last)
        self._tell(proposals, batch, whole, board)
        return 0

    def _begin(self, trial: "Trial", whole: Plan, board: Board) -> _Running:
        number = self.trials.index(trial)
        one = _Running(trial, f"trial {number + 1}/{self.wanted}", whole.variants[number].steps)
        board.line(f"{one.title}: {whole.variants[number].label}")
        return one

    def _failed(self, going: list[_Running], nodes: list[Node], failed: runner.Failed) -> None:
        """Note the trials that failed.

        Raises: UserError where every other trial would fail in the same way.
        """
        for node in nodes:
            if node.artifact not in failed:
                continue
            why = failed[node.artifact]
            if why and not node.variant:
                raise UserError(*why)
            self.failures += why
            for one in going:
                if node.name in one.names:
                    one.trial.state = "failed"
                    one.trial.why = one.trial.why or "".join(why[:1]).partition("\n")[0]

    def _prune(
        self,
        going: list[_Running],
        whole: Plan,
        nodes: list[Node],
        number: int,
        last: bool,
    ) -> None:
        """Report each trial's result of a round; before the last one, ask the pruner about each."""
        in_round = [node for node in nodes if node.step.round == number]
        reached = []
        for one in going:
            value = self._value_of(_nodes_of([one], in_round), whole)
            if value is not None:
                one.trial.under_way.report(value, number)
                reached.append((one, value))
        if last:
            return
        for one, value in reached:
            if one.trial.under_way.should_prune():
                one.trial.state = "pruned"
                one.trial.why = f"after round {number} at {value:.4g}"

    def _value_of(self, nodes: list[Node], whole: Plan) -> float | None:
        """The metric by the first of the steps that measured it."""
        for node in nodes:
            value = self._of_round(whole, node)
            if value is not None:
                return value
        return None

    def _tell(
        self,
        proposals: "Proposals",
        batch: list[_Running],
        whole: Plan,
        board: Board,
    ) -> None:
        """Record the outcomes, in the order of the proposals."""
        artifacts = {node.name: node.artifact for node in whole.nodes}
        for one in batch:
            if one.trial.state == "pruned":
                board.line(f"{one.title}: pruned {one.trial.why}")
            value = None
            if one.trial.state == "running":
                artifact_of = {step: artifacts[name] for step, name in one.steps.items()}
                try:
                    value = self._result(whole, artifact_of)
                except UserError as error:
                    one.trial.state = "failed"
                    one.trial.why = str(error)
                    self.failures.append(f"{one.title}: {error}")
            proposals.tell(one.trial, value)

    def _of_round(self, whole: Plan, node: Node) -> float | None:
        """The metric of a round, where this step measured it."""
        path = whole.store.root / node.artifact / "metrics.json"
        # A step that was skipped has no file.
        if node.module.KIND != "metrics" or not path.is_file():
            return None
        values = {}
        for row in store.read_json(path)["rows"]:
            if row["language"] == AVERAGE:
                values[row["metric"], row["by"] or ""] = row["value"]
        name = self.metric.partition(":")[0]
        if not any(metric == name for metric, _ in values):
            return None
        return values[results.choose(self.metric, values)]

    def _result(self, whole: Plan, artifacts: Mapping[str, str]) -> float:
        """Raises: UserError if the trial does not have the metric."""
        rows, _ = results.measured(whole.store, artifacts)
        row = rows[results.choose(self.metric, rows)][AVERAGE]
        return float(row["value"])


def _still_running(batch: list[_Running]) -> list[_Running]:
    return [one for one in batch if one.trial.state == "running"]


def _nodes_of(trials: list[_Running], nodes: list[Node]) -> list[Node]:
    """The nodes that any of these trials needs."""
    names = {name for one in trials for name in one.steps.values()}
    return [node for node in nodes if node.name in names]


def _by_round(nodes: list[Node]) -> dict[int, list[Node]]:
    """Round -> its steps, and those that need only it and earlier ones; 0 before the first."""
    round_of: dict[str, int] = {}
    for node in nodes:
        sources = [round_of.get(source["artifact"], 0) for source in node.sources()]
        round_of[node.artifact] = max([node.step.round or 0, *sources])

    by_round: dict[int, list[Node]] = {number: [] for number in sorted(set(round_of.values()))}
    for node in nodes:
        by_round[round_of[node.artifact]].append(node)
    return by_round


def _problems(request: Request, planner: Planner) -> list[str]:
    """What keeps a search from starting."""
    problems = [f"{control}: has no meaning in a search" for control in planner.controls]
    if "metric" not in request.options:
        problems.append("metric: say what the search is for, such as metric=accuracy")
    if importlib.util.find_spec("optuna") is None:
        problems.append(f"search: the package 'optuna' is not installed; {INSTALL['optuna']}")
    for axis in request.axes:
        if not axis.is_interval:
            continue
        interval = axis.space.value()
        start, end = interval.start, interval.end
        if not start < end:
            problems.append(f"{axis.key}: there is nothing between {start} and {end}")
        elif "log" in interval.tags and start <= 0:
            problem = f"a logarithmic interval begins above 0, not at {start}"
            problems.append(f"{axis.key}: {problem}")
    return problems
