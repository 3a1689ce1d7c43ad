"""Run one step in a process of its own:  python -m mlalign.step ARTIFACT.partial/config.yaml
[--part I/N]

With `--begin FROZEN` instead it only makes that partial artifact, where a step was frozen to run
later: a Slurm job begins so.

Reads the resolved configuration that `mlalign run` wrote, claims the step, runs its stage and
publishes the artifact. Ranks of a training job all come through here; only the first claims and
publishes. With `--part` (an array task) the task works through its share of the shards, and
whichever task finishes last publishes.

Exit status: 0 done, 2 a person's mistake (one message on stderr), 75 stopped on request and ready
to go on, 3 there was nothing to begin (the artifact is complete), else a crash.
"""

import argparse
import contextlib
import os
import shutil
import socket
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from mlalign import stages
from mlalign.core import claims, rows, schema, secrecy, shapes, shards, stage, stopping, store
from mlalign.core.errors import UserError, system_problem
from mlalign.core.model import models_in
from mlalign.core.terminal import prepare, say
from mlalign.core.versions import versions
from mlalign.running import state, warning
from mlalign.running.slurm import jobs
from mlalign.running.verification import Verification

# After this long, the claim of a process on a lost node is stale.
PATIENCE_S = claims.STALE_S + 2 * claims.HEARTBEAT_S


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m mlalign.step", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("config", type=Path, nargs="?", help="config.yaml of a partial artifact")
    what.add_argument(
        "--begin",
        type=Path,
        metavar="FROZEN",
        help="a frozen step, as submission writes it; only begin it",
    )
    parser.add_argument(
        "--part", default="0/1", help="I/N: take every N-th shard, beginning with the I-th"
    )
    return parser.parse_args(argv)


def _part(options: argparse.Namespace) -> tuple[int, int]:
    index, n_parts = options.part.split("/")
    return int(index), int(n_parts)


def main(argv: list[str] | None = None) -> int:
    options = _options(argv)
    prepare()
    part = _part(options)
    partial = Path() if options.begin else options.config.resolve().parent
    try:
        if options.begin:
            partial = partial_of(options.begin)
            return begin_frozen(options.begin, part)
        execute(options.config.resolve(), part)
    except UserError as error:
        return _ended(partial, part, 2, f"error: {error}")
    except stage.Stopped:
        message = "stopped on request; run the same command again to continue"
        return _ended(partial, part, stage.STOPPED, message)
    except Exception as error:
        problem = system_problem(error, partial)
        if problem is None:
            raise
        return _ended(partial, part, 2, f"error: {problem}")
    return 0


def _ended(partial: Path, part: tuple[int, int], status: int, message: str) -> int:
    """Say why a step ended, also in `outcome.json`: torchrun hides the exit status of its ranks."""
    message = secrecy.hidden(message)
    say(message, file=sys.stderr)
    if partial == Path():  # nobody knows where the step works
        return status
    with contextlib.suppress(OSError):  # a full disk
        outcome = {"status": status, "message": message.removeprefix("error: ")}
        store.write_json(stage.own_file(partial, part, "outcome.json"), outcome)
    return status


def partial_of(frozen: Path) -> Path:
    """Where a frozen step works."""
    frozen_step = store.read_json(frozen, shapes.SUBMITTED)
    return store.Store(Path(frozen_step["store"])).partial(
        frozen_step["stage"], frozen_step["fingerprint"]
    )


def begin_frozen(frozen: Path, part: tuple[int, int]) -> int:
    """Begin a step that was frozen to run later; tasks of an array that start together do so once.

    A claim that another process still holds is waited for, since a requeued job may meet its former
    self. Returns 0, or NOTHING_TO_DO if the artifact is complete. Raises: UserError as `begin`
    does.
    """
    frozen_step = {"guards": [], **store.read_json(frozen, shapes.SUBMITTED)}
    the_store = store.Store(Path(frozen_step.pop("store")))
    frozen_step.pop("slurm", None)
    partial = the_store.partial(frozen_step["stage"], frozen_step["fingerprint"])

    name_in_run = frozen_step.get("run", frozen_step)["step"]

    def give_up() -> None:
        """Stop waiting if the job is cancelled: its shell gets the signal after this process."""
        if jobs.cancelled(frozen.parent, name_in_run):
            raise stage.Stopped

    turn = the_store.root / ".begin" / partial.name
    with claims.claim_in_turn(turn, patience_s=600, give_up=give_up):
        standing, why = state.of_frozen(frozen_step, the_store)
        if standing in ("done", "skipped"):
            say(f"{frozen_step['step']}: is there already, nothing to do")
            return stage.NOTHING_TO_DO
        if standing == "damaged":
            mend = "put the file back, or compute the step again with force="
            raise UserError(f"{frozen_step['step']}: {why}; {mend}")
        if standing == "stale":
            retire(the_store, frozen_step["stage"], frozen_step["fingerprint"])
        begin(the_store, frozen_step, part, PATIENCE_S, give_up)
    return 0


def retire(the_store: store.Store, stage_name: str, fingerprint: str) -> None:
    """Put a step's artifact aside, and its shards out of the cache.

    Raises: UserError if a process is working on it.
    """
    partial = the_store.partial(stage_name, fingerprint)
    claims.refuse_owned(partial)
    for artifact in (the_store.path(stage_name, fingerprint), partial):
        shards.forget(artifact, the_store)
    the_store.retire(stage_name, fingerprint)


def begin(
    the_store: store.Store,
    frozen_step: Mapping[str, Any],
    part: tuple[int, int] = (0, 1),
    patience_s: float = 0,
    give_up: Callable[[], None] = lambda: None,
) -> Path:
    """Make a step's partial artifact, with its configuration and the digests of its inputs.

    Returns its directory. Another process that works on the step is waited for, up to `patience_s`
    seconds; other tasks of the same array may work on it.

    Raises: UserError if an input is not there, or another process still works on the step.
    """
    partial = the_store.partial(frozen_step["stage"], frozen_step["fingerprint"])
    claims.refuse_owned(partial, "." if part[1] == 1 else "part-", patience_s, give_up)
    frozen_step = {**frozen_step, "input_digests": _digests(frozen_step, the_store)}
    config = partial / "config.yaml"
    if config.is_file() and _digests_of(config) != frozen_step["input_digests"]:
        claims.refuse_owned(partial, patience_s=patience_s, give_up=give_up)
        store.put_aside(partial)  # begun on other content of its inputs

    partial.mkdir(parents=True, exist_ok=True)
    for leftover in ("STOP", "outcome.json"):
        stage.own_file(partial, part, leftover).unlink(missing_ok=True)
    temporary = partial / f"config.yaml.{os.getpid()}.tmp"
    text = yaml.safe_dump(frozen_step, sort_keys=False, allow_unicode=True)
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(config)
    return partial


def read_config(config: Path) -> dict[str, Any]:
    """The configuration that a step was begun with.

    Raises: UserError if it is not whole, FileNotFoundError if it is gone.
    """
    mend = "run the command of its run again: it writes the file anew"
    return shapes.read_yaml(config, shapes.FROZEN, mend)


def _digests_of(config: Path) -> dict | None:
    """The digests of the inputs that a step was begun on; None if that cannot be read."""
    try:
        return read_config(config).get("input_digests")
    except UserError:
        return None


def _digests(frozen_step: Mapping[str, Any], the_store: store.Store) -> dict[str, str]:
    """Step -> content digest, for every artifact that a step reads or is guarded by."""
    digests = {}
    for source in state.sources(frozen_step):
        name = source["step"]
        path = the_store.root / source["artifact"]
        if not (path / store.MANIFEST).is_file():
            mend = f"run without only=, or with from={name}"
            raise UserError(f"{frozen_step['step']}: its input {name} is not there yet; {mend}")
        digests[name] = store.read_manifest(path)["content_digest"]
    return digests


def execute(config: Path, part: tuple[int, int] = (0, 1)) -> Path | None:
    """Run the step described by `config`.

    Returns the finished artifact, None where another task or rank publishes it.
    """
    if part[1] > 1:
        return _execute_part(config, part)
    partial = config.parent
    frozen_step = read_config(config)
    the_store = store.Store(partial.parent)
    if not stage.Output(partial, the_store).is_main:
        _run(frozen_step, partial, the_store, part)
        return None
    with claims.claim(partial):
        return _publish(frozen_step, _run(frozen_step, partial, the_store, part))


def _execute_part(config: Path, part: tuple[int, int]) -> Path | None:
    """Work through a task's share of the shards.

    Returns None where another task publishes, perhaps while this one is still at work.
    """
    partial = config.parent
    final = partial.with_name(partial.name.removesuffix(".partial"))
    try:
        frozen_step = read_config(config)
        with claims.claim(partial, f"part-{part[0]}"):
            output = _run(frozen_step, partial, store.Store(partial.parent), part)
    except FileNotFoundError:
        is_published = (final / store.MANIFEST).is_file()
        if not is_published:
            raise
        return None
    return _publish_if_last(frozen_step, output)


def _run(
    frozen_step: dict, partial: Path, the_store: store.Store, part: tuple[int, int]
) -> stage.Output:
    module = stages.load(frozen_step["stage"])
    key = f"steps.{frozen_step['step']}.config"
    settings = dict(frozen_step["config"])
    for name, value in settings.items():
        if name != "engine":  # it puts in its own secrets when it is opened
            settings[name] = secrecy.resolve(value, f"{key}.{name}")
    cfg = schema.build(module.Config, settings, key=key)
    output = stage.Output(partial, the_store, frozen_step["step"], part, frozen_step.get("run"))
    output.notes["started"] = time.time()
    inputs = Verification(frozen_step, the_store)
    if output.is_main:
        inputs.check()
        output.check_inputs = inputs.still
    reason = skip_reason(frozen_step, the_store)
    if reason:
        return _skip(frozen_step, output, reason)
    module.run(cfg, stage.Inputs(the_store, frozen_step["inputs"]), output)
    if output.is_main:
        inputs.check()
    return output


def skip_reason(frozen_step: dict, the_store: store.Store) -> str | None:
    """Why a step of a loop has nothing to do: a guard of an earlier round said stop."""
    for guard in frozen_step.get("guards", []):
        path = the_store.root / guard["artifact"]
        is_skipped = store.read_manifest(path)["status"] == "skipped"
        if is_skipped or store.read_json(path / "selected.json")["stop"]:
            return f"{guard['step']} said stop"
    return None


def _skip(frozen_step: dict, output: stage.Output, reason: str) -> stage.Output:
    """An artifact without content; a skipped guard passes on what the last guard selected."""
    module = stages.load(frozen_step["stage"])
    if hasattr(module, "CHOOSES"):
        last = output.store.root / frozen_step["guards"][-1]["artifact"]
        shutil.copyfile(last / "selected.json", output.path / "selected.json")
    output.note(status="skipped", skipped_because=reason)
    return output


def _publish(frozen_step: dict, output: stage.Output) -> Path:
    (output.path / "STOP").unlink(missing_ok=True)
    module = stages.load(frozen_step["stage"])
    of_counts = warning.of_tally(getattr(module, "ALARMS", ()), output.tally)
    warnings = [*output.notes.pop("warnings", []), *of_counts]
    if warnings:
        output.note(warnings=warnings)
    manifest = {**_manifest(frozen_step, output), **output.notes, "finished": time.time()}

    if module.SHARDED and manifest["status"] != "skipped":
        final = store.finish(output.path, manifest, shards.recorded(output.path), shards.FOLDERS)
    else:
        final = store.finish(output.path, manifest)
    for folder in ("checkpoints", "parts"):
        shutil.rmtree(final / folder, ignore_errors=True)
    return final


def _manifest(frozen_step: dict, output: stage.Output) -> dict:
    module = stages.load(frozen_step["stage"])
    counts = output.tally.to_dict()
    return {
        "step": frozen_step["step"],
        "stage": frozen_step["stage"],
        "stage_version": module.VERSION,
        "fingerprint": frozen_step["fingerprint"],
        "kind": module.KIND,
        "status": "done",
        "inputs": _input_digests(frozen_step, output.store),
        "sources": stage.Inputs(output.store, frozen_step["inputs"]).sources(),
        "rows_by_language": counts["rows"],
        "dropped": counts["dropped"],
        "sums": counts["sums"],
        "packages": versions(),
        "git_commit": frozen_step.get("git_commit"),
        "seed": frozen_step["config"].get("seed"),
        "host": socket.gethostname(),
        "job": os.environ.get("SLURM_JOB_ID"),
    }


def _input_digests(frozen_step: dict, the_store: store.Store) -> dict[str, Any]:
    """slot -> what was in it: fingerprint and content digest of an artifact, else its identity."""
    slots = dict(frozen_step["inputs"])
    if frozen_step.get("guards"):
        slots["guards"] = frozen_step["guards"]

    digests: dict[str, Any] = {}
    for slot, value in slots.items():
        if isinstance(value, list) and value:
            digests[slot] = [_recorded(item, the_store) for item in value]
        elif value:
            digests[slot] = _recorded(value, the_store)
    return digests


def _recorded(value: dict, the_store: store.Store) -> dict[str, Any]:
    """What the manifest says of one input."""
    if "artifact" in value:
        manifest = store.read_manifest(the_store.root / value["artifact"])
        return {
            "step": value["step"],
            "fingerprint": manifest["fingerprint"],
            "content_digest": manifest["content_digest"],
        }
    recorded: dict[str, Any] = {}
    for key in ("path", "family", "revision", "identity"):
        if isinstance(value.get(key), str | list):
            recorded[key] = value[key]
    inner = [model for setting in value.values() for model in models_in(setting)]
    if inner:
        recorded["models"] = [_recorded(model, the_store) for model in inner]
    return recorded


def _publish_if_last(frozen_step: dict, output: stage.Output) -> Path | None:
    """After an array task: publish if no shard is pending.

    Of two tasks that end together, the one that gets the claim publishes.
    """
    module = stages.load(frozen_step["stage"])
    sources = []
    if output.notes.get("status") != "skipped":
        source = stage.Inputs(output.store, frozen_step["inputs"]).rows(module.SHARDED)
        sources = rows.shards(source, frozen_step["config"].get("split"))
    if shards.pending(sources, output.path):
        return None
    final = output.path.with_name(output.path.name.removesuffix(".partial"))
    try:
        with claims.claim(output.path, "publish"):
            if not (final / store.MANIFEST).is_file():
                output.tally = shards.total(sources, output.path)
                return _publish(frozen_step, output)
    except claims.Taken:
        return None
    # Another task has published, so all that stands here is the folder of our own claim.
    with contextlib.suppress(OSError):
        (output.path / "claims").rmdir()
        output.path.rmdir()
    return None


def _end_when_asked(argv: list[str]) -> None:
    """Look for a STOP from the first moment on; only a step's own process may be ended so."""
    options = _options(argv)
    if options.begin:
        return
    partial = options.config.resolve().parent
    part = _part(options)

    def end() -> None:
        message = "stopped on request, with nothing to save yet; run the same command again to"
        _ended(partial, part, stage.STOPPED, f"{message} continue")
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(stage.STOPPED)

    stopping.watch([partial / "STOP", partial / "parts" / f"{part[0]}.STOP"], end)


def process(argv: list[str]) -> int:
    """Be the process of a step, from its command line to its exit status."""
    _end_when_asked(argv)
    status = main(argv)
    # Native threads of libraries can crash at exit, and torchrun would then end the first rank too.
    if os.environ.get("RANK", "0") != "0":
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status
