"""The command line: `mlalign COMMAND key=value …`.

  mlalign run recipe=reuse_your_rewards
      the main job, on the embedded default
  mlalign plan recipe=iterative_dpo model=qwen3_8b languages=aya23 scale=node
      what would run, checked, in seconds
  mlalign run recipe=reuse_your_rewards beta=0.05,0.1,0.3 -m metric=accuracy
      three variants, one table

  run      recipe=NAME [model=] [data=] [languages=] [scale=] [engine=] [launcher=] [name=]
           [key=value …]                    run, or continue
             only=STEP                      run this step alone
             from=STEP                      compute this step and all after it again
             force=STEP                     compute this step again
             use.STEP=PATH                  an artifact or model in the place of a step
             -m key=a,b                     a sweep: all combinations, shared steps once
             sweep=NAME                     a ready sweep (conf/sweep)
             search.trials=N 'key=interval(a,b)'   a search: Optuna chooses the values
             metric=NAME                    what makes a variant best
  plan     the same arguments: check everything and show the steps, without running
             show=steps|commands|sbatch     more of them
  fetch    the same arguments: bring what the plan needs from the hub, for machines without network
  freeze   the same arguments, only=STEP: write the configuration of a step, for your own scripts
  status   [name=RUN] [watch=SECONDS] [json=true]
             where every step stands, here and in Slurm's queue
  logs     name=RUN [step=STEP] [task=N] [lines=N|all] [follow=true]
             the log of a step (by default the last one)
  cancel   name=RUN [step=STEP] [now=true]
             ask a run to save its state and stop, or kill it
  gc       [keep_checkpoints=1] [older_than=DAYS] [delete=true]
             what can be deleted, and how much that frees
  verify   [name=RUN]
             hash artifacts, cached shards and outside inputs again; exit status 1 if any differs
  results  name=SWEEP [metric=NAME]    the table and the page of a sweep so far
  compare  RUN RUN … [output=DIR]      several runs on one page
  recipes | languages | doctor         what there is; what this machine has
  STAGE    key=value …                 one stage alone: prepare sft reward generate score pairs
                                       preference select evaluate lm_eval report

Scoring a file with a reward model: python -m reward_models --help
"""

import dataclasses
import gc
import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

from mlalign.core.errors import UserError, nearest, system_problem
from mlalign.core.terminal import prepare, say, say_error

if TYPE_CHECKING:
    from mlalign.recipes.plan import Plan


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status: 0 done, 1 a person's mistake or a failed step, 75
    stopped on request."""
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
        root = _value_of("root", arguments, "the current directory")
        problem = system_problem(error, root)
        if problem is None:
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
        return _run_module(command, _planned(arguments))
    if command in COMMANDS:
        return _run_module(command, _pairs(arguments))
    if command not in SHOWN:
        known = ["run", "plan", "compare", "results", *PLANNED, *COMMANDS, *SHOWN, *stages.names()]
        raise UserError(f"unknown command {command!r}{nearest(command, known)}")
    from mlalign.cli import show

    status: int = getattr(show, command)(_pairs(arguments))
    return status


# Modules of `mlalign.cli.commands` that take `key=value` pairs, and those that take a plan.
COMMANDS = ("status", "logs", "cancel", "gc", "verify")
PLANNED = ("fetch", "freeze")
SHOWN = ("recipes", "languages", "doctor")  # functions of `show`


def _run_module(command: str, argument: object) -> int:
    module = importlib.import_module(f"mlalign.cli.commands.{command}")
    status: int = module.run(argument)
    return status


def _run_or_plan(arguments: list[str], *, dry: bool, recipe: dict | None = None) -> int:
    if dry:
        return _carry_out(arguments, dry=True, recipe=recipe)
    from mlalign.core import stage
    from mlalign.running import run_process

    process = run_process.Running()
    # A signal may come as soon as others can see this process, so registering is inside the `try`.
    try:
        with run_process.registered(run_process.directory(arguments), process):
            return _carry_out(arguments, dry=False, recipe=recipe)
    except KeyboardInterrupt:
        if process.follows:
            # Only this process ends; the jobs continue.
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


def _planned(
    arguments: list[str],
    recipe: dict | None = None,
    *,
    to_look_at: bool = False,
) -> "Plan":
    # Planning makes many small objects and keeps them: collections would take a third of its time.
    gc.disable()
    from mlalign.recipes import config, plan

    try:
        return plan.build(config.load(arguments, recipe), to_look_at=to_look_at)
    finally:
        # Later collections, and the one at exit, need not look at them.
        gc.freeze()
        gc.enable()


def _one_stage(name: str, arguments: list[str]) -> int:
    """A recipe of one step, whose settings and inputs have short keys."""
    from mlalign import stages

    module = stages.load(name)
    fields = {field.name for field in dataclasses.fields(module.Config)}
    settings = dict(argument.partition("=")[::2] for argument in arguments)
    data_lists = _data_lists(module)
    reads = {slot for slot, kind in module.SLOTS.items() if kind.startswith(("rows", "any"))}
    inputs: dict[str, Any] = {}
    config: dict[str, Any] = {}
    if "model" in module.SLOTS:
        inputs["model"] = {"path": "${model.path}"}
    # Where arguments say what rows it reads, it takes all languages of those, as is its default.
    names_rows = bool(settings.keys() & {*reads, *data_lists})
    if "languages" in fields and ("languages" in settings or not names_rows):
        config["languages"] = "${languages}"
    for setting, data_list_of in data_lists.items():
        config[setting] = f"${{data.{data_list_of(settings)}}}"

    full = [_full(argument, name, fields, module.SLOTS) for argument in arguments]
    others = [argument for argument in full if argument != "dry=true"]
    if not any(argument.startswith("name=") for argument in others):
        others.append(f"name={name}")
    step = {"stage": name, "inputs": inputs, "config": config}
    return _run_or_plan(others, dry="dry=true" in full, recipe={"steps": {name: step}})


def _data_lists(module: ModuleType) -> dict[str, Callable[[Mapping], str]]:
    """Settings that a list of the data file gives -> which list, by the other settings."""
    fields = dataclasses.fields(module.Config)
    return {
        field.name: field.metadata["data_list"] for field in fields if "data_list" in field.metadata
    }


def _value_of(key: str, arguments: list[str], default: str) -> str:
    """The value of the last argument with this key."""
    for argument in reversed(arguments):
        if argument.startswith(f"{key}="):
            return argument.partition("=")[2]
    return default


def _full(argument: str, step: str, fields: set[str], slots: dict[str, str]) -> str:
    """An argument with the full key of the step's setting or input, if it is one."""
    from mlalign.recipes.config import GROUPS, VALUES

    key, equals, value = argument.partition("=")
    head, dot, _ = key.partition(".")
    if head in slots and head != "model":
        slot = key if dot else f"{key}.path"
        return f"steps.{step}.inputs.{slot}={value}"
    is_group = head in GROUPS and not dot
    if head in fields and head not in VALUES and not is_group:
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
