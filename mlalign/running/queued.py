"""A plan as Slurm jobs: which steps become jobs, their submission, and watching them end."""

import dataclasses
import sys
from collections.abc import Collection

from mlalign.core import stage
from mlalign.core.errors import UserError
from mlalign.core.progress import Display
from mlalign.core.terminal import say, table
from mlalign.recipes import launchers
from mlalign.recipes.plan import Plan
from mlalign.running import hub, run_dir, run_process
from mlalign.running.slurm import jobs, submit, watch
from mlalign.running.state import state


@dataclasses.dataclass(frozen=True)
class Sent:
    """A submission: the run in the queue, and the steps asked for.

    `new`: those that became jobs now. `before`: the jobs that were there already. `left`: the
    steps for which the queue had no room, `why` in Slurm's words.
    """

    run: submit.Run
    steps: list[submit.Step]
    new: list[submit.Step]
    before: list[jobs.Live]
    left: list[submit.Step] = dataclasses.field(default_factory=list)
    why: str = ""


def carry_out(plan: Plan, launcher: launchers.Slurm, display: Display) -> int:
    """Submit what is neither done nor queued; with `launcher.wait` stay until it has ended.

    Returns the exit status.
    """
    selected = run_dir.selection(plan)
    sent = send(plan, launcher, selected["run"], display, anew=selected["anew"], go_on=True)
    if sent.before and not sent.new and not sent.left:
        there = f"all that is left of run {plan.name!r} is in the queue already"
        if not launcher.wait:
            raise UserError(f"name: {there}: {submit.hint(sent.run)}")
        display.line(there)
    else:
        run_dir.publish_report(plan, coming=True)
        display.line(_summary(sent))
    if not (launcher.wait and (sent.new or sent.before)):
        return stage.STOPPED if sent.left else 0
    lost = to_the_end(plan, launcher, sent, display)
    for why in filter(None, lost.values()):
        say(f"\n{why}", file=sys.stderr)
    if lost and jobs.cancelled(sent.run.folder):
        display.line("stopped on request; run the same command again to continue")
        return stage.STOPPED
    return 1 if lost else 0


def send(
    plan: Plan,
    launcher: launchers.Slurm,
    names: Collection[str],
    display: Display,
    *,
    anew: Collection[str] = (),
    go_on: bool = False,
) -> Sent:
    """Submit those of these steps that are neither done nor queued.

    What is to be computed `anew` is put aside before. With `go_on` an earlier `mlalign cancel` is
    over.

    Raises: UserError as `submit.submit` and `submit.refuse_queued` do, and for a damaged artifact.
    """
    queue = of_plan(plan, launcher)
    with jobs.alone(queue.folder):
        every_step = steps(plan)
        before = submit.refuse_queued(queue, [n.artifact for n in plan.nodes], anew=bool(anew))
        run_dir.open_run(plan)
        if go_on:
            jobs.go_on(queue.folder)
        if all(step.done for step in every_step):
            (plan.run_dir / "forced.json").unlink(missing_ok=True)
        if anew:
            run_dir.force(plan, anew)
            every_step = steps(plan)
        wanted = [step for step in every_step if step.name in names]
        submitted = submit.submit(queue, wanted, before, display.line)
        return Sent(queue, wanted, submitted.new, before, submitted.left, submitted.why)


def to_the_end(
    plan: Plan, launcher: launchers.Slurm, sent: Sent, display: Display
) -> dict[str, str]:
    """`follow` a submission, then submit what the queue had no room for, until all has ended.

    Returns the artifacts that are not there then, with the reason.
    """
    while True:
        lost = follow(sent, display)
        if lost or not sent.left or jobs.cancelled(sent.run.folder):
            return lost | {step.artifact: "" for step in sent.left}
        names = [step.name for step in sent.left]
        display.line(f"there is room in the queue again for {', '.join(names)}")
        sent = send(plan, launcher, set(names), display)


def follow(sent: Sent, display: Display) -> dict[str, str]:
    """`watch.follow`, with a message on Ctrl-C; the display is told of what failed."""
    run_process.current.follows = True
    try:
        left = {step.artifact for step in sent.left}
        submitted = [step for step in sent.steps if step.artifact not in left]
        lost = watch.follow(sent.run, submitted, display.line)
        run_process.current.follows = False
    except KeyboardInterrupt:
        display.line(f"\nno longer watching; the jobs go on: {submit.hint(sent.run)}")
        raise
    for artifact, why in lost.items():
        if why:
            display.failed(artifact)
    return lost


def of_plan(plan: Plan, launcher: launchers.Slurm) -> submit.Run:
    """Where the plan's run lives, and how its steps become jobs."""
    if launcher.offline:
        environment = hub.offline_environment() | launcher.environment
        launcher = dataclasses.replace(launcher, environment=environment)
    return submit.Run(
        plan.name, plan.run_dir, plan.store, launcher, plan.settings.root, bool(plan.variants)
    )


def steps(plan: Plan) -> list[submit.Step]:
    """The steps of a plan as a submission needs them. Raises: UserError for a damaged artifact."""
    read = {source["artifact"] for node in plan.nodes for source in node.sources()}
    plan_steps = []
    for node in plan.nodes:
        standing, why = state(node, plan.store)
        if standing == "damaged":
            raise UserError(run_dir.damaged(node, why))
        step = submit.Step(
            name=node.name,
            artifact=node.artifact,
            stage=node.step.stage,
            distributed=node.module.DISTRIBUTED,
            resources=node.resources,
            asked=node.step.resources,
            sources={source["step"]: source["artifact"] for source in node.sources()},
            frozen_step=run_dir.frozen(plan, node),
            done=standing in ("done", "skipped"),
            last=node.artifact not in read,
        )
        plan_steps.append(step)
    return plan_steps


def _summary(sent: Sent) -> str:
    """What was submitted, as a table, and how to watch it."""
    if not sent.new and not sent.left:
        return f"all {len(sent.steps)} steps are done, nothing to submit"
    last_job = {entry["artifact"]: entry for entry in jobs.read(sent.run.folder)}
    rows = []
    for step in sent.new:
        entry = last_job[step.artifact]
        rows.append([step.name, entry["job"], entry["tasks"], ",".join(entry["after"]) or "-"])

    before = len(sent.steps) - len(sent.new) - len(sent.left)
    reused = f"; {before} done or queued before" if before else ""
    run = sent.run.words
    hint = f"watch: mlalign status {run} | mlalign logs {run} step=STEP | end: mlalign cancel {run}"
    jobs_table = table(rows, ["step", "job", "tasks", "after"])
    submitted = f"{jobs_table}\n\n{len(sent.new)} jobs submitted{reused}; {hint}"
    if not sent.left:
        return submitted

    names = ", ".join(step.name for step in sent.left)
    again = (
        "run the same command again when these have ended, or with launcher.wait=true, which does"
        " it by itself; or choose another launcher.qos or launcher.account"
    )
    if sent.run.cfg.wait:
        again = "they are submitted when these have ended"
    full = f"the queue takes no more jobs now ({sent.why}), so {names} could not be submitted"
    return f"{submitted}\n\n{full}: {again}"
