"""The directory of a run, `runs/NAME/`: `plan.json`, `config.yaml`, `steps/` (links to artifacts),
`report/`.

Also says which steps of a plan a command asks for, and freezes a step, so that it can run later and
elsewhere.
"""

import contextlib
import dataclasses
import functools
import os
import subprocess
from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml

from mlalign.core import store
from mlalign.recipes.node import Node
from mlalign.recipes.plan import Plan
from mlalign.recipes.selection import groups_of
from mlalign.running import step


def open_run(plan: Plan) -> None:
    """Make or re-open the run's directory; another recipe's is refused."""
    plan.check_name()
    (plan.run_dir / "steps").mkdir(parents=True, exist_ok=True)
    store.write_json(plan.run_dir / "plan.json", describe(plan))
    settings = {**plan.settings.root, "recipe": plan.settings.recipe}
    (plan.run_dir / "config.yaml").write_text(
        yaml.safe_dump(settings, sort_keys=False, allow_unicode=True), encoding="utf-8"
    )
    for link in (plan.run_dir / "steps").iterdir():
        link.unlink()
    for node in plan.nodes:
        artifact = os.path.relpath(plan.store.root / node.artifact, plan.run_dir / "steps")
        (plan.run_dir / "steps" / node.name).symlink_to(artifact)


def describe(plan: Plan) -> dict:
    """The plan as JSON: every step with its stage, fingerprint, artifact, inputs and resources."""
    names = plan.names
    steps = []
    for node in plan.nodes:
        inputs = {names[source["artifact"]] for source in node.sources()}
        entry = {
            "step": node.name,
            "stage": node.step.stage,
            "fingerprint": node.fingerprint,
            "artifact": node.artifact,
            "round": node.step.round,
            "inputs": sorted(inputs),
            "resources": node.resources,
        }
        steps.append(entry)
    described = {
        "recipe": plan.recipe,
        "name": plan.name,
        "kind": plan.kind,
        "languages": plan.settings.root["languages"],
        "steps": steps,
    }
    if plan.variants:
        described["sweep"] = plan.settings.root[plan.kind]
        described["variants"] = [dataclasses.asdict(variant) for variant in plan.variants]
    return described


def selection(plan: Plan) -> dict[str, set[str]]:
    """Which steps to run and which to compute anew, from `only=`, `from=` and `force=`."""
    controls = plan.settings.controls
    anew = _names(plan, controls.get("force"))
    first = _names(plan, controls.get("from"))
    if first:
        anew |= first | _downstream(plan, first)
    wanted = {node.name for node in plan.nodes}
    if "only" in controls:
        wanted = _names(plan, controls["only"])
    return {"run": wanted, "anew": anew & wanted}


def _names(plan: Plan, groups: Collection[str] | None) -> set[str]:
    """The steps that these words of a command stand for."""
    asked = set(groups or ())
    names = {node.name for node in plan.nodes if (groups_of(node.step) | {node.name}) & asked}
    return names | {name for step, name in plan.same if groups_of(step) & asked}


def _downstream(plan: Plan, names: set[str]) -> set[str]:
    """These steps, and all that read what they make."""
    reached = {node.artifact: node.name for node in plan.nodes if node.name in names}
    for node in plan.nodes:
        if any(source["artifact"] in reached for source in node.sources()):
            reached[node.artifact] = node.name
    return set(reached.values())


def force(plan: Plan, anew: Collection[str]) -> None:
    """Put aside what is to be computed again: once per request, so that a rerun resumes."""
    record = plan.run_dir / "forced.json"
    asked = sorted(node.artifact for node in plan.nodes if node.name in anew)
    if not asked or (record.is_file() and store.read_json(record)["asked"] == asked):
        return
    for node in plan.nodes:
        if node.name in anew:
            step.retire(plan.store, node.step.stage, node.fingerprint)
    store.write_json(record, {"asked": asked})


def frozen(plan: Plan, node: Node) -> dict[str, Any]:
    """All that a step has to know to run later and elsewhere, as JSON types.

    That is its resolved configuration and inputs, and what it says of its run.
    """
    run = {
        "name": plan.name,
        "recipe": plan.recipe,
        "round": node.step.round,
        "step": node.name,
    }
    if node.module.KIND == "report":
        run["about"] = plan.settings.about
    return {
        "step": node.step.name,
        "stage": node.step.stage,
        "fingerprint": node.fingerprint,
        "config": dataclasses.asdict(node.config),
        "inputs": node.inputs,
        "guards": node.guards,
        "read": node.read,
        "resources": node.resources,
        "run": run,
        "git_commit": _commit(),
    }


@functools.cache
def _commit() -> str | None:
    """The commit of mlalign's own checkout, with `+` if it has local changes; None in a wheel."""
    checkout = Path(__file__).parents[2]
    if not (checkout / ".git").exists():
        return None
    options = "--always --abbrev=40 --dirty=+ --exclude=*".split()
    command = ["git", "-C", str(checkout), "describe", *options]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
        return done.stdout.strip()
    return None


def publish_report(plan: Plan, *, coming: bool = False) -> None:
    """Point `runs/NAME/report` to the report's artifact, with `coming` even before it is there."""
    if plan.variants:
        return  # each variant has a report of its own; `results.html` is that of all
    artifacts = [plan.store.root / n.artifact for n in plan.nodes if n.module.KIND == "report"]
    if not coming:
        artifacts = [path for path in artifacts if (path / store.MANIFEST).is_file()]
    if artifacts:
        link = plan.run_dir / "report"
        link.unlink(missing_ok=True)
        link.symlink_to(os.path.relpath(artifacts[-1], plan.run_dir))


def damaged(node: Node, why: str) -> str:
    """The message about an artifact that has lost files."""
    mend = f"put the file back, or compute the step again with force={node.step.template}"
    return f"{node.name}: {why}; {mend}"
