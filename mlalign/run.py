"""Carry out a plan: write each step's configuration, run what is not done, and say what happened.

Reads a Plan; writes `runs/NAME/` (`plan.json`, `config.yaml`, links in `steps/`, `report/`) and, through the steps, the store.
"""

import contextlib
import dataclasses
import functools
import os
import subprocess
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from mlalign import hub, stage, step, store
from mlalign.errors import UserError
from mlalign.launch import config as launchers
from mlalign.launch import jobs, local, submit, watch
from mlalign.plan import Node, Plan, names_of
from mlalign.progress import Display
from mlalign.state import state
from mlalign.terminal import table

LOG_TAIL = 15
Failed = Mapping[str, Sequence[str]]  # artifact -> the messages of its step; none where it only waited for one that failed


def run(plan: Plan, display: Display) -> int:
    """Run a plan, or go on with it, here or as Slurm jobs; returns the exit status (0, or 75 when stopped on request)."""
    check(plan)
    launcher = _launcher(plan)
    if isinstance(launcher, launchers.Slurm):
        return _queue(plan, launcher, display)
    open_run(plan)
    selected = selection(plan)
    _force(plan, selected["anew"])
    status, failed = _here(plan, [n for n in plan.nodes if n.name in selected["run"]], plan.nodes, display)
    if status:
        return status
    if failed:
        raise UserError(*(m for messages in failed.values() for m in messages), _variants_lost(plan, failed))
    (plan.run_dir / "forced.json").unlink(missing_ok=True)
    _publish_report(plan)
    return 0


def run_some(plan: Plan, nodes: Sequence[Node], among: Sequence[Node], display: Display) -> tuple[int, Failed]:
    """Bring some steps of a sweep to their end, here or as Slurm jobs that are waited for; they are numbered `among` others.

    Returns the exit status (75: stopped on request), and what failed.
    """
    launcher = _launcher(plan)
    if not isinstance(launcher, launchers.Slurm):
        open_run(plan)
        return _here(plan, nodes, among, display)
    queue, steps, _, _ = _submit(plan, launcher, {n.name for n in nodes}, set(), display)
    lost = _follow(queue, steps, display)
    stopped = lost and not any(lost.values())  # by `mlalign cancel`: nothing to explain
    return stage.STOPPED if stopped else 0, {artifact: [why] if why else [] for artifact, why in lost.items()}


def check(plan: Plan) -> None:
    """Raises: UserError with all that keeps the steps from running where they are to run."""
    launcher, problems = _launcher(plan), []
    if not (isinstance(launcher, launchers.Slurm) and (launcher.python or launcher.prefix or launcher.srun)):
        problems += plan.problems()  # what an environment of the nodes' own has is not seen from here
    if isinstance(launcher, launchers.Slurm) and launcher.offline:
        problems += hub.missing(plan)
    if problems:
        raise UserError(*problems)
    plan.check_name()


def _launcher(plan: Plan) -> launchers.Local | launchers.Slurm:
    return launchers.build(plan.settings.root["launcher"])


def _here(plan: Plan, nodes: Sequence[Node], among: Sequence[Node], display: Display) -> tuple[int, Failed]:
    """Run steps on this machine, one after the other. Raises: UserError for a step that fails in a plan without variants."""
    failed: dict[str, list[str]] = {}
    numbers = {node.name: f"[{number}/{len(among)}]" for number, node in enumerate(among, 1)}
    for node in nodes:
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


def _variants_lost(plan: Plan, failed: Collection[str]) -> str:
    names = {n.name for n in plan.nodes if n.artifact in failed}
    lost = [v.label for v in plan.variants if names & set(v.steps.values())]
    return f"{len(lost)} of {len(plan.variants)} variants failed: {'; '.join(lost)}; the same command tries them again"


def _queue(plan: Plan, launcher: launchers.Slurm, display: Display) -> int:
    """Submit what is neither done nor queued; with `launcher.wait` stay until it has ended."""
    selected = selection(plan)
    queue, wanted, new, queued = _submit(plan, launcher, selected["run"], selected["anew"], display)
    if queued and not new:
        raise UserError(f"name: all that is left of run {queue.name!r} is in the queue already: {submit.hint(queue.name)}")
    _publish_report(plan, coming=True)
    display.line(_submitted(queue, wanted, new))
    if not (launcher.wait and new):
        return 0
    lost = _follow(queue, wanted, display)
    for why in filter(None, lost.values()):
        print(f"\n{why}", file=sys.stderr)
    return 1 if lost else 0


def _submit(
    plan: Plan, launcher: launchers.Slurm, names: Collection[str], anew: Collection[str], display: Display
) -> tuple[submit.Run, list[submit.Step], list[submit.Step], list[jobs.Live]]:
    """Submit those of these steps that are neither done nor queued.

    Returns the run in the queue, all these steps, those that were submitted, and the jobs that were in the queue before.
    """
    queue = of_plan(plan, launcher)
    with jobs.alone(queue.folder):
        steps = queue_steps(plan)
        queued = submit.refuse_queued(queue, [n.artifact for n in plan.nodes], anew=bool(anew))
        open_run(plan)
        if all(step.done for step in steps):
            (plan.run_dir / "forced.json").unlink(missing_ok=True)
        _force(plan, anew)
        wanted = [step for step in queue_steps(plan) if step.name in names]
        return queue, wanted, submit.submit(queue, wanted, queued, display.line), queued


def _follow(queue: submit.Run, steps: Sequence[submit.Step], display: Display) -> dict[str, str]:
    try:
        return watch.follow(queue, steps, display.line)
    except KeyboardInterrupt:
        display.line(f"\nno longer watching; the jobs go on: {submit.hint(queue.name)}")
        raise


def of_plan(plan: Plan, launcher: launchers.Slurm) -> submit.Run:
    if launcher.offline:
        launcher = dataclasses.replace(launcher, environment=hub.offline_environment() | launcher.environment)
    return submit.Run(plan.name, plan.run_dir, plan.store, launcher, plan.settings.root, bool(plan.variants))


def queue_steps(plan: Plan) -> list[submit.Step]:
    """The steps of a plan as a submission needs them. Raises: UserError for a damaged artifact."""
    found = []
    read = {source["artifact"] for node in plan.nodes for source in node.sources()}
    for node in plan.nodes:
        now, why = state(node, plan.store)
        if now == "damaged":
            raise UserError(_damaged(node, why))
        sources = {s["step"]: s["artifact"] for s in node.sources()}
        found.append(submit.Step(
            node.name, node.artifact, node.step.stage, node.module.DISTRIBUTED, node.resources, node.step.resources, sources,
            frozen(plan, node), now in ("done", "skipped"), node.artifact not in read,
        ))  # fmt: skip
    return found


def _damaged(node: Node, why: str) -> str:
    return f"{node.name}: {why}; put the file back, or compute the step again with force={node.step.template}"


def _submitted(queue: submit.Run, wanted: list[submit.Step], new: list[submit.Step]) -> str:
    """What was submitted, as a table, and how to watch it."""
    if not new:
        return f"all {len(wanted)} steps are done, nothing to submit"
    last = {entry["artifact"]: entry for entry in jobs.read(queue.folder)}
    rows = [[s.name, e["job"], e["tasks"], ",".join(e["after"]) or "-"] for s in new for e in (last[s.artifact],)]
    reused = f"; {len(wanted) - len(new)} done or queued before" if len(wanted) > len(new) else ""
    where = f"name={queue.name} root={queue.store.root.parent}"
    hint = f"watch: mlalign status {where} | mlalign logs {where} step=STEP | end: mlalign cancel {where}"
    return f"{table(rows, ['step', 'job', 'tasks', 'after'])}\n\n{len(new)} jobs submitted{reused}; {hint}"


def open_run(plan: Plan) -> None:
    """Make or re-open the run's directory; another recipe's is refused."""
    plan.check_name()
    (plan.run_dir / "steps").mkdir(parents=True, exist_ok=True)
    store.write_json(plan.run_dir / "plan.json", describe(plan))
    settings = {**plan.settings.root, "recipe": plan.settings.recipe}
    (plan.run_dir / "config.yaml").write_text(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True), encoding="utf-8")
    for link in (plan.run_dir / "steps").iterdir():
        link.unlink()
    for node in plan.nodes:
        (plan.run_dir / "steps" / node.name).symlink_to(os.path.relpath(plan.store.root / node.artifact, plan.run_dir / "steps"))


def describe(plan: Plan) -> dict:
    """The plan as JSON: every step with its stage, fingerprint, artifact, inputs and resources."""
    names = plan.names
    steps = [
        {"step": n.name, "stage": n.step.stage, "fingerprint": n.fingerprint, "artifact": n.artifact, "round": n.step.round,
         "inputs": sorted({names[s["artifact"]] for s in n.sources()}), "resources": n.resources}
        for n in plan.nodes
    ]  # fmt: skip
    told = {"recipe": plan.recipe, "name": plan.name, "kind": plan.kind, "languages": plan.settings.root["languages"], "steps": steps}
    more = {"sweep": plan.settings.root[plan.kind], "variants": [dataclasses.asdict(v) for v in plan.variants]} if plan.variants else {}
    return {**told, **more}


def selection(plan: Plan) -> dict[str, set[str]]:
    """Which steps to run and which to compute anew, from `only=`, `from=` and `force=`."""
    controls = plan.settings.controls
    only, begin, force = (_names(plan, controls.get(c)) for c in ("only", "from", "force"))
    anew = set(force)
    if begin:
        anew |= begin | _downstream(plan, begin)
    wanted = only if "only" in controls else {n.name for n in plan.nodes}
    return {"run": wanted, "anew": anew & wanted}


def _names(plan: Plan, value: Any) -> set[str]:
    return {n.name for n in plan.nodes if (names_of(n.step) | {n.name}) & set(value or [])}


def _downstream(plan: Plan, names: set[str]) -> set[str]:
    found = {n.artifact: n.name for n in plan.nodes if n.name in names}
    for node in plan.nodes:
        if any(source["artifact"] in found for source in node.sources()):
            found[node.artifact] = node.name
    return set(found.values())


def _force(plan: Plan, anew: Collection[str]) -> None:
    """Put aside what is to be computed again: once for a request, so that the same command goes on after an interruption."""
    told = plan.run_dir / "forced.json"
    asked = sorted(n.artifact for n in plan.nodes if n.name in anew)
    if not asked or (told.is_file() and store.read_json(told)["asked"] == asked):
        return
    for node in (n for n in plan.nodes if n.name in anew):
        step.retire(plan.store, node.step.stage, node.fingerprint)
    store.write_json(told, {"asked": asked})


def _step(plan: Plan, node: Node, display: Display, number: str) -> int:
    """Bring one step to its end unless it is there already; returns 0 or the exit status to end with."""
    now, why = state(node, plan.store)
    if now in ("done", "skipped"):
        display.line(f"{number} {node.name}: {'reused' if now == 'done' else 'skipped before'}")
        return 0
    if now == "damaged":
        raise UserError(_damaged(node, why))
    if now == "stale":
        display.line(f"{number} {node.name}: stale ({why}), computed again")
        step.retire(plan.store, node.step.stage, node.fingerprint)
    return _execute(plan, node, display, number)


def _execute(plan: Plan, node: Node, display: Display, number: str) -> int:
    partial = step.begin(plan.store, frozen(plan, node))
    log = partial / "logs" / "step.log"
    started, begins = time.monotonic(), log.stat().st_size if log.exists() else 0
    display.begin(f"{number} {node.name}", partial)
    status = local.run(partial / "config.yaml", node.resources, log, display.tick)
    seconds = time.monotonic() - started
    final = plan.store.root / node.artifact
    if (final / "manifest.json").is_file():
        display.end(f"{number} {node.name}: {_outcome(final)} in {seconds:.1f} s")
        return 0
    outcome = partial / "outcome.json"
    told = store.read_json(outcome) if outcome.is_file() else {}
    status = told.get("status", status)
    display.end(f"{number} {node.name}: {'stopped' if status == stage.STOPPED else 'failed'} after {seconds:.1f} s")
    if status == stage.STOPPED:
        display.line("state saved; run the same command again to continue")
        return stage.STOPPED
    raise UserError(f"{node.name}: {told['message']}\n(log: {log})" if told else _explain(node, status, log, begins))


def frozen(plan: Plan, node: Node) -> dict[str, Any]:
    """All that a step needs to know to run later and elsewhere: its resolved configuration and inputs. JSON types only."""
    about = {"about": plan.settings.about} if node.step.stage == "report" else {}
    return {
        "step": node.step.name, "stage": node.step.stage, "fingerprint": node.fingerprint, "config": dataclasses.asdict(node.config),
        "inputs": node.inputs, "guards": node.guards, "resources": node.resources,
        "run": {"name": plan.name, "recipe": plan.recipe, "round": node.step.round, "step": node.name, **about}, "git_commit": _commit(),
    }  # fmt: skip


@functools.cache
def _commit() -> str | None:
    """The commit of mlalign's own checkout, with `+` if it has local changes; None when installed from a wheel."""
    here = Path(__file__).parent.parent
    if not (here / ".git").exists():
        return None
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        command = ["git", "-C", str(here), "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    return None


def _outcome(final: Path) -> str:
    manifest = store.read_json(final / "manifest.json")
    if manifest["status"] == "skipped":
        return f"skipped ({manifest['skipped_because']})"
    kept, dropped = sum(manifest["rows_by_language"].values()), sum(sum(by.values()) for by in manifest["dropped"].values())
    counts = f", {kept} rows" if kept else ""
    return f"done{counts}" + (f", {dropped} dropped" if dropped else "")


def _explain(node: Node, status: int, log: Path, begins: int) -> str:
    """The end of the log of a step that ended without a message of its own."""
    with open(log, "rb") as f:
        f.seek(begins)
        lines = f.read().decode("utf-8", errors="replace").splitlines()
    ended = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
    hint = "; killed by signal 9 often means out of memory" if status in (-9, 137) else ""
    return f"{node.name} {ended}{hint}; the end of {log}:\n" + "\n".join(f"  {line}" for line in lines[-LOG_TAIL:])


def _publish_report(plan: Plan, *, coming: bool = False) -> None:
    """`runs/NAME/report` points to the report's artifact, with `coming` also to one that is not there yet."""
    if plan.variants:
        return  # each variant has a report of its own; `results.html` is that of all
    reports = [n for n in plan.nodes if n.step.stage == "report"]
    reports = [n for n in reports if coming or (plan.store.root / n.artifact / "manifest.json").is_file()]
    if reports:
        link = plan.run_dir / "report"
        with contextlib.suppress(FileNotFoundError):
            link.unlink()
        link.symlink_to(os.path.relpath(plan.store.root / reports[-1].artifact, plan.run_dir))
