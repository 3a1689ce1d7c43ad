"""The directory of a run, `runs/NAME/`: `plan.json`, `config.yaml`, links to artifacts in `steps/`,
`report/`.

Reads a Plan; also tells which of its steps a command asks for, and freezes a step, so that it can
run later and elsewhere.
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
from mlalign.recipes.plan import Node, Plan, groups_of
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
        (plan.run_dir / "steps" / node.name).symlink_to(
            os.path.relpath(plan.store.root / node.artifact, plan.run_dir / "steps")
        )


def describe(plan: Plan) -> dict:
    """The plan as JSON: every step with its stage, fingerprint, artifact, inputs and resources."""
    names = plan.names
    steps = [
        {
            "step": n.name,
            "stage": n.step.stage,
            "fingerprint": n.fingerprint,
            "artifact": n.artifact,
            "round": n.step.round,
            "inputs": sorted({names[s["artifact"]] for s in n.sources()}),
            "resources": n.resources,
        }
        for n in plan.nodes
    ]
    told = {
        "recipe": plan.recipe,
        "name": plan.name,
        "kind": plan.kind,
        "languages": plan.settings.root["languages"],
        "steps": steps,
    }
    more = (
        {
            "sweep": plan.settings.root[plan.kind],
            "variants": [dataclasses.asdict(v) for v in plan.variants],
        }
        if plan.variants
        else {}
    )
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
    asked = set(value or [])
    found = {n.name for n in plan.nodes if (groups_of(n.step) | {n.name}) & asked}
    return found | {name for step, name in plan.same if groups_of(step) & asked}


def _downstream(plan: Plan, names: set[str]) -> set[str]:
    found = {n.artifact: n.name for n in plan.nodes if n.name in names}
    for node in plan.nodes:
        if any(source["artifact"] in found for source in node.sources()):
            found[node.artifact] = node.name
    return set(found.values())


def force(plan: Plan, anew: Collection[str]) -> None:
    """Put aside what is to be computed again: once for a request, so that the same command goes on
    after an interruption.
    """
    told = plan.run_dir / "forced.json"
    asked = sorted(n.artifact for n in plan.nodes if n.name in anew)
    if not asked or (told.is_file() and store.read_json(told)["asked"] == asked):
        return
    for node in (n for n in plan.nodes if n.name in anew):
        step.retire(plan.store, node.step.stage, node.fingerprint)
    store.write_json(told, {"asked": asked})


def frozen(plan: Plan, node: Node) -> dict[str, Any]:
    """All that a step needs to know to run later and elsewhere: its resolved configuration and
    inputs. JSON types only.
    """
    about = {"about": plan.settings.about} if node.module.KIND == "report" else {}
    return {
        "step": node.step.name,
        "stage": node.step.stage,
        "fingerprint": node.fingerprint,
        "config": dataclasses.asdict(node.config),
        "inputs": node.inputs,
        "guards": node.guards,
        "read": node.read,
        "resources": node.resources,
        "run": {
            "name": plan.name,
            "recipe": plan.recipe,
            "round": node.step.round,
            "step": node.name,
            **about,
        },
        "git_commit": _commit(),
    }


@functools.cache
def _commit() -> str | None:
    """The commit of mlalign's own checkout, with `+` if it has local changes; None when installed
    from a wheel.
    """
    here = Path(__file__).parents[2]
    if not (here / ".git").exists():
        return None
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        command = [
            "git",
            "-C",
            str(here),
            "describe",
            "--always",
            "--abbrev=40",
            "--dirty=+",
            "--exclude=*",
        ]
        return subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
    return None


def publish_report(plan: Plan, *, coming: bool = False) -> None:
    """`runs/NAME/report` points to the report's artifact, with `coming` also to one that is not
    there yet.
    """
    if plan.variants:
        return  # each variant has a report of its own; `results.html` is that of all
    reports = [n for n in plan.nodes if n.module.KIND == "report"]
    reports = [
        n for n in reports if coming or (plan.store.root / n.artifact / "manifest.json").is_file()
    ]
    if reports:
        link = plan.run_dir / "report"
        with contextlib.suppress(FileNotFoundError):
            link.unlink()
        link.symlink_to(os.path.relpath(plan.store.root / reports[-1].artifact, plan.run_dir))


def damaged(node: Node, why: str) -> str:
    """What a person is told of an artifact that has lost files."""
    return (
        f"{node.name}: {why}; put the file back, or compute the step again with"
        f" force={node.step.template}"
    )
