"""The command line: `mlalign COMMAND key=value …`.

  mlalign run recipe=reuse_your_rewards                                                the main job, on the embedded default
  mlalign plan recipe=iterative_dpo model=qwen3_8b languages=aya23 scale=node          what would run, checked, in seconds
  mlalign run recipe=reuse_your_rewards beta=0.05,0.1,0.3 -m metric=accuracy           three variants, one table

  run      recipe=NAME [model=] [data=] [languages=] [scale=] [engine=] [launcher=] [name=] [key=value …]    run, or continue
             only=STEP   run this step alone          from=STEP   compute this step and all after it again
             force=STEP  compute this step again      use.STEP=PATH   an artifact or model in the place of a step
             -m key=a,b  a sweep over all combinations, shared steps once, one table       sweep=NAME   a ready one (conf/sweep)
             search.trials=N 'key=interval(a,b)'      a search: Optuna chooses the values  metric=NAME  what makes a variant best
  plan     the same arguments: check everything and show the steps, without running     show=steps|commands|sbatch   more of them
  fetch    the same arguments: bring what the plan needs from the hub, for machines without network
  freeze   the same arguments, only=STEP: write the configuration of a step, for scripts of your own
  status   [name=RUN] [watch=SECONDS] [json=true]                        where every step stands, here and in Slurm's queue
  logs     name=RUN [step=STEP] [task=N] [lines=N|all] [follow=true]     the log of a step (by default the last one)
  cancel   name=RUN [step=STEP] [now=true]                               ask a run to save its state and stop, or kill it
  gc       [keep_checkpoints=1] [older_than=DAYS] [delete=true]          what can be deleted, and how much that frees
  verify   [name=RUN]      hash artifacts, cached shards and outside inputs again; exit status 1 and names if anything differs
  results  name=SWEEP [metric=NAME]    the table and the page of a sweep, as far as it is
  compare  RUN RUN … [output=DIR]     several runs on one page
  recipes | languages | doctor        what there is; what this machine has
  STAGE    key=value …                one stage alone: prepare sft reward generate score pairs preference select evaluate lm_eval report

Scoring a file with a reward model: python -m reward_models --help
"""

import dataclasses
import gc
import importlib
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mlalign.core.errors import UserError, nearest, system_problem
from mlalign.core.terminal import prepare, say, say_error

if TYPE_CHECKING:
    from mlalign.recipes.plan import Plan


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status: 0 done, 1 a person's mistake or a failed step, 75 stopped on request."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    command = arguments.pop(0) if arguments else "--help"
    prepare()
    try:
        return _dispatch(command, arguments)
    except UserError as error:
        for message in error.messages:
            say_error(message)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if (problem := system_problem(error, _value_of("root", arguments, "the current directory"))) is None:
            raise
        say_error(problem)
        return 1


def _dispatch(command: str, arguments: list[str]) -> int:
    from mlalign import stages

    if command in ("--help", "-h", "help") or "--help" in arguments or "-h" in arguments:
        say(_help(command, stages.names()))
        return 0
    if command == "--version":
        from mlalign import __version__

        say(__version__)
        return 0
    if command in ("run", "plan"):
        return _run_or_plan(arguments, dry=command == "plan")
    if command in stages.names():
        return _one_stage(command, arguments)
    if command == "compare":
        from mlalign.evidence.compare import compare

        return compare(arguments)
    if command == "results":
        from mlalign.cli.sweeps import show_results

        return show_results(arguments)
    if command in PLANNED:
        return int(importlib.import_module(f"mlalign.cli.commands.{command}").run(_planned(arguments)))
    if command in COMMANDS:
        return int(importlib.import_module(f"mlalign.cli.commands.{command}").run(_pairs(arguments)))
    if command not in SHOWN:
        known = ["run", "plan", "compare", "results", *PLANNED, *COMMANDS, *SHOWN, *stages.names()]
        raise UserError(f"unknown command {command!r}{nearest(command, known)}")
    from mlalign.cli import show

    status: int = getattr(show, command)(_pairs(arguments))
    return status


COMMANDS = ("status", "logs", "cancel", "gc", "verify")  # modules of `mlalign.cli.commands`, given `key=value` pairs
PLANNED = ("fetch", "freeze")  # modules of `mlalign.cli.commands`, given a plan
SHOWN = ("recipes", "languages", "doctor")  # functions of `show`


def _run_or_plan(arguments: list[str], *, dry: bool, recipe: dict | None = None) -> int:
    if dry:
        return _carry_out(arguments, dry=True, recipe=recipe)
    from mlalign.core import stage
    from mlalign.running import run_process

    process = run_process.Running()
    try:  # around registering too: a signal may come the moment others can see this process
        with run_process.registered(run_process.directory(arguments), process):
            return _carry_out(arguments, dry=False, recipe=recipe)
    except KeyboardInterrupt:
        if process.follows:  # the jobs go on
            raise
        say("stopped on request; run the same command again to continue")
        return stage.STOPPED


def _carry_out(arguments: list[str], *, dry: bool, recipe: dict | None) -> int:
    from mlalign.sweep import grid

    if grid.wanted(arguments):
        from mlalign.cli import sweeps

        return sweeps.carry_out(arguments, dry=dry, recipe=recipe)
    from mlalign.cli import show

    planned = _planned(arguments, recipe, to_look_at=dry)
    if dry:
        say(show.show_plan(planned))
        return 0
    from mlalign.core.progress import Display
    from mlalign.running import run

    status = run.run(planned, Display())
    if status == 0 and (table := show.final_table(planned)):
        say(table)
    return status


def _planned(arguments: list[str], recipe: dict | None = None, *, to_look_at: bool = False) -> "Plan":
    gc.disable()  # planning makes many small objects and keeps them all: collections would take a third of its time
    from mlalign.recipes import config, plan

    try:
        return plan.build(config.load(arguments, recipe), to_look_at=to_look_at)
    finally:
        gc.freeze()  # later collections, and the one at exit, need not look at them
        gc.enable()


def _one_stage(name: str, arguments: list[str]) -> int:
    """A recipe of one step: keys of the stage's configuration and its input slots are written short."""
    from mlalign import stages

    module = stages.load(name)
    fields = {f.name for f in dataclasses.fields(module.Config)}
    body: dict = {"stage": name, "inputs": {}, "config": {}}
    if "model" in module.SLOTS:
        body["inputs"]["model"] = {"path": "${model.path}"}
    says_languages = any(a.startswith("languages=") for a in arguments)
    if "languages" in fields and (says_languages or not _names_rows(arguments, name, module.SLOTS)):
        body["config"]["languages"] = "${languages}"
    if name == "prepare":
        body["config"]["sources"] = f"${{data.{SOURCES_OF.get(_value_of('kind', arguments, 'prompt'), 'prompts')}}}"
    rest = [_short(a, name, fields, module.SLOTS) for a in arguments]
    dry = "dry=true" in rest
    rest = [a for a in rest if a != "dry=true"]
    return _run_or_plan(
        [*rest, *([] if any(a.startswith("name=") for a in rest) else [f"name={name}"])], dry=dry, recipe={"steps": {name: body}}
    )


# Which list of a data file holds the sources of a kind of row.
SOURCES_OF = {"prompt": "prompts", "preference": "preferences", "demonstration": "demonstrations", "text": "texts"}


def _names_rows(arguments: list[str], stage: str, slots: dict[str, str]) -> bool:
    """Whether arguments say what a stage reads: its languages are then all that are there (its own default), not those of `data`."""
    keys = {argument.partition("=")[0] for argument in arguments}
    if stage == "prepare" and "sources" in keys:
        return True
    return any(slot in keys and kind.startswith(("rows", "any")) for slot, kind in slots.items())


def _value_of(key: str, arguments: list[str], default: str) -> str:
    return next((a.split("=", 1)[1] for a in reversed(arguments) if a.startswith(f"{key}=")), default)


def _short(argument: str, step: str, fields: set[str], slots: dict[str, str]) -> str:
    from mlalign.recipes.config import GROUPS, VALUES

    key, equals, value = argument.partition("=")
    head = key.partition(".")[0]
    if head in slots and head != "model":
        return f"steps.{step}.inputs.{key}.path={value}" if "." not in key else f"steps.{step}.inputs.{key}={value}"
    if head in fields and head not in VALUES and (head not in GROUPS or "." in key):
        return f"steps.{step}.config.{key}{equals}{value}"
    return argument


def _pairs(arguments: list[str]) -> dict[str, str]:
    """`key=value` arguments of the small commands."""
    wrong = [a for a in arguments if "=" not in a]
    if wrong:
        raise UserError(*(f"{a}: expected key=value" for a in wrong))
    return dict(a.split("=", 1) for a in arguments)


def _help(command: str, stages: list[str]) -> str:
    if command not in stages:
        return (__doc__ or "").strip()
    from mlalign.cli import show

    return show.stage_help(command)


if __name__ == "__main__":
    sys.exit(main())
