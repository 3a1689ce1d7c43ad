"""Carry out a plan: write each step's configuration, run what is not done, and say what happened.

Reads a Plan; writes the directory of the run (`run_dir`) and, through the steps, the store. Steps
as Slurm jobs: `queued`.
"""

import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from mlalign import stages
from mlalign.core import shapes, stage, store
from mlalign.core.errors import UserError
from mlalign.core.progress import Display
from mlalign.recipes import launchers
from mlalign.recipes.node import Node
from mlalign.recipes.plan import Plan
from mlalign.running import forkserver, hub, local, queued, run_dir, run_process, step
from mlalign.running.slurm import jobs
from mlalign.running.state import state

LOG_TAIL = 15
STOPPED_WORDS = "stopped on request; run the same command again to continue"
# artifact -> the messages of its step; none where it only waited for one that failed
Failed = Mapping[str, Sequence[str]]


def run(plan: Plan, display: Display) -> int:
    """Run a plan, or go on with it, here or as Slurm jobs.

    Returns the exit status: 0, or 75 when stopped on request.
    """
    check(plan)
    launcher = _launcher(plan)
    if isinstance(launcher, launchers.Slurm):
        return queued.carry_out(plan, launcher, display)
    run_dir.open_run(plan)
    selected = run_dir.selection(plan)
    run_dir.force(plan, selected["anew"])
    nodes = [node for node in plan.nodes if node.name in selected["run"]]
    status, failed = _here(plan, nodes, plan.nodes, display)
    if status:
        return status
    if failed:
        every_message = [message for messages in failed.values() for message in messages]
        raise UserError(*every_message, _variants_lost(plan, failed))
    (plan.run_dir / "forced.json").unlink(missing_ok=True)
    run_dir.publish_report(plan)
    return 0


def run_some(
    plan: Plan, nodes: Sequence[Node], among: Sequence[Node], display: Display
) -> tuple[int, Failed]:
    """Bring some steps of a sweep to their end, here or as Slurm jobs that are waited for.

    They are numbered `among` others. Returns the exit status (75: stopped on request), and what
    failed.
    """
    launcher = _launcher(plan)
    if not isinstance(launcher, launchers.Slurm):
        run_dir.open_run(plan)
        return _here(plan, nodes, among, display)
    folder = plan.run_dir / "slurm"
    if jobs.cancelled(folder):
        return stage.STOPPED, {}
    names = {node.name for node in nodes}
    sent = queued.send(plan, launcher, names, display)
    lost = queued.to_the_end(plan, launcher, sent, display)

    failed = {artifact: [why] if why else [] for artifact, why in lost.items()}
    stopped = any(n.artifact in lost and jobs.cancelled(folder, n.name) for n in nodes)
    return stage.STOPPED if stopped else 0, failed


def check(plan: Plan) -> None:
    """Raises: UserError with all that keeps the steps from running where they are to run."""
    launcher = _launcher(plan)
    # What is installed in an environment of the nodes' own cannot be seen from here.
    is_elsewhere = isinstance(launcher, launchers.Slurm) and bool(
        launcher.python or launcher.prefix or launcher.srun
    )
    problems = [] if is_elsewhere else plan.problems()
    if isinstance(launcher, launchers.Slurm) and launcher.offline:
        problems += hub.missing(plan)
    if problems:
        raise UserError(*problems)

    plan.check_name()
    try:
        plan.run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        problem = f"{plan.run_dir} cannot be made ({error.strerror})"
        raise UserError(f"root: {problem}; choose another root=") from None


def _launcher(plan: Plan) -> launchers.Local | launchers.Slurm:
    return launchers.build(plan.settings.root["launcher"])


def _here(
    plan: Plan, nodes: Sequence[Node], among: Sequence[Node], display: Display
) -> tuple[int, Failed]:
    """Run steps on this machine, one after the other.

    Raises: UserError for a step that fails in a plan without variants.
    """
    failed: dict[str, list[str]] = {}
    _expect(plan, nodes)
    numbers = {node.name: f"[{number}/{len(among)}]" for number, node in enumerate(among, 1)}
    for node in nodes:
        if run_process.current.asked:  # while the step before came to its end
            display.line(STOPPED_WORDS)
            return stage.STOPPED, failed
        if any(source["artifact"] in failed for source in node.sources()):
            failed[node.artifact] = []
            continue
        try:
            status = _step(plan, node, display, numbers[node.name])
        except UserError as error:
            if not plan.variants:
                raise
            failed[node.artifact] = error.messages  # the other variants go on
            display.failed(node.artifact)
            continue
        if status:
            return status, failed
    return 0, failed


def _expect(plan: Plan, nodes: Sequence[Node]) -> None:
    """Tell the fork server what the steps that are still to run will import."""
    modules = []
    for node in nodes:
        if not (plan.store.root / node.artifact / store.MANIFEST).is_file():
            modules += _imports(node)
    forkserver.expect(modules)


def _imports(node: Node) -> list[str]:
    return stages.imports(node.step.stage, node.config, node.inputs)


def _variants_lost(plan: Plan, failed: Collection[str]) -> str:
    names = {n.name for n in plan.nodes if n.artifact in failed}
    lost = [v.label for v in plan.variants if names & set(v.steps.values())]
    failed_variants = f"{len(lost)} of {len(plan.variants)} variants failed: {'; '.join(lost)}"
    return f"{failed_variants}; the same command tries them again"


def _step(plan: Plan, node: Node, display: Display, number: str) -> int:
    """Bring one step to its end, unless it is there already.

    Returns 0 or the exit status to end with.
    """
    standing, why = state(node, plan.store)
    if standing in ("done", "skipped"):
        word = "reused" if standing == "done" else "skipped before"
        display.line(f"{number} {node.name}: {word}")
        return 0
    if standing == "damaged":
        raise UserError(run_dir.damaged(node, why))
    if standing == "stale":
        display.line(f"{number} {node.name}: stale ({why}), computed again")
        step.retire(plan.store, node.step.stage, node.fingerprint)
    return _execute(plan, node, display, number)


def _execute(plan: Plan, node: Node, display: Display, number: str) -> int:
    partial = step.begin(plan.store, run_dir.frozen(plan, node))
    log = partial / "logs" / "step.log"
    log_begins = log.stat().st_size if log.exists() else 0
    started = time.monotonic()
    display.begin(f"{number} {node.name}", partial)
    run_process.current.artifact = node.artifact
    warm = bool(_imports(node))
    status = local.run(partial / "config.yaml", node.resources, log, display.tick, warm)
    run_process.current.artifact = None
    seconds = time.monotonic() - started

    final = plan.store.root / node.artifact
    if (final / store.MANIFEST).is_file():
        ended = f"{number} {node.name}: {_outcome(final)} in {seconds:.1f} s"
        display.end("\n".join([ended, *_warnings(final)]))
        return 0
    file = partial / "outcome.json"
    outcome = store.read_json(file, shapes.OUTCOME) if file.is_file() else {}
    status = outcome.get("status", status)
    word = "stopped" if status == stage.STOPPED else "failed"
    display.end(f"{number} {node.name}: {word} after {seconds:.1f} s")
    if status == stage.STOPPED:
        saved = "ended before it could save its state; what it saved before is kept"
        if outcome.get("status") == stage.STOPPED:
            saved = "state saved"
        display.line(f"{saved}; run the same command again to continue")
        return stage.STOPPED
    if outcome:
        raise UserError(f"{node.name}: {outcome['message']}\n(log: {log})")
    raise UserError(_explain(node, status, log, log_begins))


def _outcome(final: Path) -> str:
    manifest = store.read_manifest(final)
    if manifest["status"] == "skipped":
        return f"skipped ({manifest['skipped_because']})"
    kept = sum(manifest["rows_by_language"].values())
    dropped = sum(sum(by_language.values()) for by_language in manifest["dropped"].values())
    outcome = "done"
    if kept:
        outcome += f", {kept} rows"
    if dropped:
        outcome += f", {dropped} dropped"
    return outcome


def _warnings(final: Path) -> list[str]:
    warnings = store.read_json(final / store.MANIFEST).get("warnings", [])
    return [f"      warning: {text}" for text in warnings]


def _explain(node: Node, status: int, log: Path, log_begins: int) -> str:
    """The end of the log of a step that ended without a message of its own."""
    with open(log, "rb") as file:
        file.seek(log_begins)
        lines = file.read().decode("utf-8", errors="replace").splitlines()
    ended = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
    hint = "; killed by signal 9 often means out of memory" if status in (-9, 137) else ""
    tail = "\n".join(f"  {line}" for line in lines[-LOG_TAIL:])
    return f"{node.name} {ended}{hint}; the end of {log}:\n{tail}"
