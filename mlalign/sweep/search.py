"""A search instead of a grid: Optuna proposes the settings of a trial, a plan carries it out (Akiba et al. 2019, "Optuna": ask and tell).

Trials are variants of one united plan and share the store, so what does not depend on the searched keys runs once. Where a recipe has
rounds, the metric of each round goes to the pruner, and a pruned trial's later rounds are not run. With `search.parallel` so many trials go
round by round together: as Slurm jobs at the same time, here one step after the other, by the same proposals (`proposals`).
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
from mlalign.recipes.plan import INSTALL, Node, Plan
from mlalign.running import run as runner
from mlalign.running import run_dir
from mlalign.running.slurm import jobs
from mlalign.sweep import results, space, united
from mlalign.sweep.board import Board
from mlalign.sweep.grid import Asked
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
    """A search that was checked: `probed` is a plan of the ends of its space, which tells what depends on which key.

    Raises: UserError with all mistakes, before anything runs.
    """

    def __init__(self, asked: Asked, recipe: Mapping | None = None, *, to_look_at: bool = False):
        self.asked, self.planner = asked, Planner(asked, recipe, to_look_at=to_look_at)
        if problems := _problems(asked, self.planner):
            raise UserError(*problems)
        ends = {a.key: space.ends(a) for a in asked.axes}
        probes = self.planner.plan_all(united.probes(asked.axes, ends))
        self.depends = united.dependencies(probes)
        self.probed = united.unite(probes, self.depends, asked, {}, "search")
        self.wanted: int = asked.options.get("search.trials", TRIALS)
        self.metric: str = asked.options["metric"]
        self.trials: list[Trial] = []
        self.failures: list[str] = []

    def outline(self) -> str:
        """What the search is, in a few lines."""
        steps = self.probed.variants[0].steps
        rounds = {n.step.round for n in self.probed.nodes} - {None}
        at_a_time = self.asked.options.get("search.parallel", 1)
        pruned = "the metric of each round goes to the pruner" if len(rounds) > 1 else "one round or none: no trial is pruned"
        return "\n".join([
            f"search {self.probed.name}: {self.wanted} trials for the best {self.metric}, {at_a_time} at a time",
            *(f"  {a.key}: {a.space.input_line.partition('=')[2] if a.space else a.values[0].shown}" for a in self.asked.axes),
            f"  {len(steps)} steps a trial, {len(self.depends)} of them its own; {pruned}",
        ])  # fmt: skip

    def united(self) -> Plan:
        """All trials so far as one plan."""
        whole = united.unite([t.planned for t in self.trials], self.depends, self.asked, {}, "search")
        for i, (variant, trial) in enumerate(zip(whole.variants, self.trials, strict=True)):
            variant.trial, variant.why = i, trial.why
            variant.state = trial.state if trial.state in ("pruned", "failed") else ""
        return whole

    def run(self) -> int:
        """Carry out the trials, or go on with them; returns the exit status.

        Raises: UserError where a step that all trials share failed, and at the end where trials failed. Where all did, the end comes early.
        """
        from mlalign.sweep.proposals import Proposals

        runner.check(self.probed)
        with self._alone():
            say(self.outline(), flush=True)
            jobs.go_on(self.probed.run_dir / "slurm")
            fewer = results.lower_is_better(self.metric.partition(":")[0], self.asked.options.get("direction"))
            proposals = Proposals(self.probed.run_dir, self.asked, self.planner, self.wanted, minimize=fewer)
            self.trials, status = proposals.trials, 0
            while not status and not self._hopeless() and (batch := proposals.batch()):
                status = self._batch(proposals, batch)
        if proposals.exhausted:
            say(f"after {len(self.trials)} trials nothing new was proposed")
        if status:
            say("stopped; the same command goes on with this search")
        if self.trials:
            self._publish()
        if self.failures and not status:
            failed = sum(t.state == "failed" for t in self.trials)
            end = ", so the search has ended early" if self._hopeless() and failed < self.wanted else ""
            raise UserError(*self.failures, f"{failed} of {len(self.trials)} trials failed{end}; the same command tries them again")
        return status

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
                told = f"another process is at the search {self.probed.name!r}; wait until it has ended, or give this one another name="
                raise UserError(f"name: {told}") from None
            yield

    def _publish(self) -> None:
        whole = self.united()
        store.write_json(whole.run_dir / "plan.json", run_dir.describe(whole))
        results.tell(whole, self.metric, self.asked.options.get("direction"))

    # --------------------------------------------------------------------------------------------------------------- trials

    def _batch(self, proposals: "Proposals", trials: list["Trial"]) -> int:
        """Some trials from proposal to result, round by round; returns the exit status of a run that was stopped, else 0."""
        whole = self.united()
        board = Board(whole, self.metric)
        batch = [self._begin(trial, whole, board) for trial in trials]
        rounds = _by_round([n for n in whole.nodes if any(n.name in one.names for one in batch)])
        for number, nodes in rounds.items():
            going = [one for one in batch if one.trial.state == "running"]
            wanted = [n for n in nodes if any(n.name in one.names for one in going)]
            status, failed = runner.run_some(whole, wanted, nodes, board)
            if status:
                return status
            self._failed(going, wanted, failed)
            if number:
                self._prune([one for one in going if one.trial.state == "running"], whole, wanted, number, number == max(rounds))
        self._tell(proposals, batch, whole, board)
        return 0

    def _begin(self, trial: "Trial", whole: Plan, board: Board) -> _Running:
        number = self.trials.index(trial)
        one = _Running(trial, f"trial {number + 1}/{self.wanted}", whole.variants[number].steps)
        board.line(f"{one.title}: {whole.variants[number].label}")
        return one

    def _failed(self, going: list[_Running], nodes: list[Node], failed: runner.Failed) -> None:
        """Note the trials that failed. Raises: UserError where every other trial would fail like them."""
        for node in (n for n in nodes if n.artifact in failed):
            why = failed[node.artifact]
            if why and not node.variant:
                raise UserError(*why)
            self.failures += why
            for one in (one for one in going if node.name in one.names):
                one.trial.state = "failed"
                one.trial.why = one.trial.why or "".join(why[:1]).partition("\n")[0]

    def _prune(self, going: list[_Running], whole: Plan, nodes: list[Node], number: int, last: bool) -> None:
        """Report what each trial reached in a round; before the last, ask the pruner about each."""
        reached = []
        for one in going:
            found = (self._of_round(whole, n) for n in nodes if n.step.round == number and n.name in one.names)
            if (value := next((v for v in found if v is not None), None)) is not None:
                one.trial.under_way.report(value, number)
                reached.append((one, value))
        for one, value in [] if last else reached:
            if one.trial.under_way.should_prune():
                one.trial.state, one.trial.why = "pruned", f"after round {number} at {value:.4g}"

    def _tell(self, proposals: "Proposals", batch: list[_Running], whole: Plan, board: Board) -> None:
        """Tell what came out, in the order of the proposals."""
        artifacts = {n.name: n.artifact for n in whole.nodes}
        for one in batch:
            if one.trial.state == "pruned":
                board.line(f"{one.title}: pruned {one.trial.why}")
            value = None
            if one.trial.state == "running":
                try:
                    value = self._result(whole, {step: artifacts[name] for step, name in one.steps.items()})
                except UserError as error:
                    one.trial.state, one.trial.why = "failed", str(error)
                    self.failures.append(f"{one.title}: {error}")
            proposals.tell(one.trial, value)

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
