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
Failed = Mapping[
    str, Sequence[str]
]  # artifact -> the messages of its step; none where it only waited for one that failed


def run(plan: Plan, display: Display) -> int:
    """Run a plan, or go on with it, here or as Slurm jobs; returns the exit status (0, or 75 when
    stopped on request).
    """
    check(plan)
    launcher = _launcher(plan)
    if isinstance(launcher, launchers.Slurm):
        return queued.carry_out(plan, launcher, display)
    run_dir.open_run(plan)
    selected = run_dir.selection(plan)
    run_dir.force(plan, selected["anew"])
    status, failed = _here(
        plan, [n for n in plan.nodes if n.name in selected["run"]], plan.nodes, display
    )
    if status:
        return status
    if failed:
        raise UserError(
            *(m for messages in failed.values() for m in messages), _variants_lost(plan, failed)
        )
    (plan.run_dir / "forced.json").unlink(missing_ok=True)
    run_dir.publish_report(plan)
    return 0


def run_some(
    plan: Plan, nodes: Sequence[Node], among: Sequence[Node], display: Display
) -> tuple[int, Failed]:
    """Bring some steps of a sweep to their end, here or as Slurm jobs that are waited for; they are
    numbered `among` others.

    Returns the exit status (75: stopped on request), and what failed.
    """
    launcher = _launcher(plan)
    if not isinstance(launcher, launchers.Slurm):
        run_dir.open_run(plan)
        return _here(plan, nodes, among, display)
    folder, names = plan.run_dir / "slurm", {n.name for n in nodes}
    if jobs.cancelled(folder):
        return stage.STOPPED, {}
    lost = queued.to_the_end(plan, launcher, queued.send(plan, launcher, names, display), display)
    stopped = any(n.artifact in lost and jobs.cancelled(folder, n.name) for n in nodes)
    return stage.STOPPED if stopped else 0, {
        artifact: [why] if why else [] for artifact, why in lost.items()
    }


def check(plan: Plan) -> None:
    """Raises: UserError with all that keeps the steps from running where they are to run."""
    launcher, problems = _launcher(plan), []
    if not (
        isinstance(launcher, launchers.Slurm)
        and (launcher.python or launcher.prefix or launcher.srun)
    ):
        problems += (
            plan.problems()
        )  # what an environment of the nodes' own has is not seen from here
    if isinstance(launcher, launchers.Slurm) and launcher.offline:
        problems += hub.missing(plan)
    if problems:
        raise UserError(*problems)
    plan.check_name()
    try:
        plan.run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"root: {plan.run_dir} cannot be made ({error.strerror}); choose another root="
        ) from None


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
    todo = [
        node for node in nodes if not (plan.store.root / node.artifact / store.MANIFEST).is_file()
    ]
    forkserver.expect([module for node in todo for module in _imports(node)])


def _imports(node: Node) -> list[str]:
    return stages.imports(node.step.stage, node.config, node.inputs)


def _variants_lost(plan: Plan, failed: Collection[str]) -> str:
    names = {n.name for n in plan.nodes if n.artifact in failed}
    lost = [v.label for v in plan.variants if names & set(v.steps.values())]
    return (
        f"{len(lost)} of {len(plan.variants)} variants failed: {'; '.join(lost)}; the same command"
        " tries them again"
    )


def _step(plan: Plan, node: Node, display: Display, number: str) -> int:
    """Bring one step to its end unless it is there already; returns 0 or the exit status to end
    with.
    """
    now, why = state(node, plan.store)
    if now in ("done", "skipped"):
        display.line(f"{number} {node.name}: {'reused' if now == 'done' else 'skipped before'}")
        return 0
    if now == "damaged":
        raise UserError(run_dir.damaged(node, why))
    if now == "stale":
        display.line(f"{number} {node.name}: stale ({why}), computed again")
        step.retire(plan.store, node.step.stage, node.fingerprint)
    return _execute(plan, node, display, number)


def _execute(plan: Plan, node: Node, display: Display, number: str) -> int:
    partial = step.begin(plan.store, run_dir.frozen(plan, node))
    log = partial / "logs" / "step.log"
    started, begins = time.monotonic(), log.stat().st_size if log.exists() else 0
    display.begin(f"{number} {node.name}", partial)
    run_process.current.artifact = node.artifact
    warm = bool(_imports(node))
    status = local.run(partial / "config.yaml", node.resources, log, display.tick, warm)
    run_process.current.artifact = None
    seconds = time.monotonic() - started
    final = plan.store.root / node.artifact
    if (final / "manifest.json").is_file():
        display.end(
            "\n".join(
                [f"{number} {node.name}: {_outcome(final)} in {seconds:.1f} s", *_warnings(final)]
            )
        )
        return 0
    outcome = partial / "outcome.json"
    told = store.read_json(outcome, shapes.OUTCOME) if outcome.is_file() else {}
    status = told.get("status", status)
    display.end(
        f"{number} {node.name}: {'stopped' if status == stage.STOPPED else 'failed'} after"
        f" {seconds:.1f} s"
    )
    if status == stage.STOPPED:
        saved = (
            "state saved"
            if told.get("status") == stage.STOPPED
            else "ended before it could save its state; what it saved before is kept"
        )
        display.line(f"{saved}; run the same command again to continue")
        return stage.STOPPED
    raise UserError(
        f"{node.name}: {told['message']}\n(log: {log})"
        if told
        else _explain(node, status, log, begins)
    )


def _outcome(final: Path) -> str:
    manifest = store.read_manifest(final)
    if manifest["status"] == "skipped":
        return f"skipped ({manifest['skipped_because']})"
    kept, dropped = (
        sum(manifest["rows_by_language"].values()),
        sum(sum(by.values()) for by in manifest["dropped"].values()),
    )
    counts = f", {kept} rows" if kept else ""
    return f"done{counts}" + (f", {dropped} dropped" if dropped else "")


def _warnings(final: Path) -> list[str]:
    return [
        f"      warning: {text}"
        for text in store.read_json(final / "manifest.json").get("warnings", [])
    ]


def _explain(node: Node, status: int, log: Path, begins: int) -> str:
    """The end of the log of a step that ended without a message of its own."""
    with open(log, "rb") as f:
        f.seek(begins)
        lines = f.read().decode("utf-8", errors="replace").splitlines()
    ended = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
    hint = "; killed by signal 9 often means out of memory" if status in (-9, 137) else ""
    return f"{node.name} {ended}{hint}; the end of {log}:\n" + "\n".join(
        f"  {line}" for line in lines[-LOG_TAIL:]
    )
