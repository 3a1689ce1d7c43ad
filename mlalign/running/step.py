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

PATIENCE_S = (
    claims.STALE_S + 2 * claims.HEARTBEAT_S
)  # after it the claim of a process on a node that went away counts as dead


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
    index, n = (int(x) for x in options.part.split("/"))
    return index, n


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
        return _ended(
            partial,
            part,
            stage.STOPPED,
            "stopped on request; run the same command again to continue",
        )
    except Exception as error:
        if (problem := system_problem(error, partial)) is None:
            raise
        return _ended(partial, part, 2, f"error: {problem}")
    return 0


def _ended(partial: Path, part: tuple[int, int], status: int, message: str) -> int:
    """Say why a step ended, also in `outcome.json`: torchrun keeps the exit status of its ranks to
    itself.
    """
    message = secrecy.hidden(message)
    say(message, file=sys.stderr)
    if partial == Path():  # nobody knows where the step works
        return status
    with contextlib.suppress(OSError):  # a full disk
        told = {"status": status, "message": message.removeprefix("error: ")}
        store.write_json(stage.own_file(partial, part, "outcome.json"), told)
    return status


def partial_of(frozen: Path) -> Path:
    """Where a frozen step works."""
    told = store.read_json(frozen, shapes.SUBMITTED)
    return store.Store(Path(told["store"])).partial(told["stage"], told["fingerprint"])


def begin_frozen(frozen: Path, part: tuple[int, int]) -> int:
    """Begin a step that was frozen to run later; tasks of an array that start together begin it
    once.

    What another process still holds is waited for: a job that was requeued may find its former
    self. Returns 0, or NOTHING_TO_DO if the artifact is complete. Raises: UserError as `begin`
    does.
    """
    told = {"guards": [], **store.read_json(frozen, shapes.SUBMITTED)}
    the_store = store.Store(Path(told.pop("store")))
    told.pop("slurm", None)
    partial = the_store.partial(told["stage"], told["fingerprint"])

    def give_up() -> None:
        """A cancelled job waits for nobody: its shell gets the signal only when this process has
        ended.
        """
        if jobs.cancelled(frozen.parent, told["run"]["step"] if "run" in told else told["step"]):
            raise stage.Stopped

    with claims.claim_in_turn(
        the_store.root / ".begin" / partial.name, patience_s=600, give_up=give_up
    ):
        now, why = state.of_frozen(told, the_store)
        if now in ("done", "skipped"):
            say(f"{told['step']}: is there already, nothing to do")
            return stage.NOTHING_TO_DO
        if now == "damaged":
            raise UserError(
                f"{told['step']}: {why}; put the file back, or compute the step again with force="
            )
        if now == "stale":
            retire(the_store, told["stage"], told["fingerprint"])
        begin(the_store, told, part, PATIENCE_S, give_up)
    return 0


def retire(the_store: store.Store, stage_: str, print_: str) -> None:
    """Put a step's artifact aside, and its shards out of the cache.

    Raises: UserError if a process is working on it.
    """
    partial = the_store.partial(stage_, print_)
    claims.refuse_owned(partial)
    for artifact in (the_store.path(stage_, print_), partial):
        shards.forget(artifact, the_store)
    the_store.retire(stage_, print_)


def begin(
    the_store: store.Store,
    told: Mapping[str, Any],
    part: tuple[int, int] = (0, 1),
    patience_s: float = 0,
    give_up: Callable[[], None] = lambda: None,
) -> Path:
    """Make the partial artifact of a step, with its configuration and the digests of its inputs;
    returns its directory.

    Another process that is working on the step is waited for up to `patience_s` seconds; other
    tasks of the same array may be.
    Raises: UserError for an input that is not there, and for a step that another process is working
        on.
    """
    partial = the_store.partial(told["stage"], told["fingerprint"])
    claims.refuse_owned(partial, "." if part[1] == 1 else "part-", patience_s, give_up)
    told = {**told, "input_digests": _digests(told, the_store)}
    before = partial / "config.yaml"
    if before.is_file() and _digests_of(before) != told["input_digests"]:
        claims.refuse_owned(partial, patience_s=patience_s, give_up=give_up)
        store.put_aside(partial)  # begun on other content of its inputs
    partial.mkdir(parents=True, exist_ok=True)
    for left in ("STOP", "outcome.json"):
        stage.own_file(partial, part, left).unlink(missing_ok=True)
    temporary = partial / f"config.yaml.{os.getpid()}.tmp"
    temporary.write_text(
        yaml.safe_dump(told, sort_keys=False, allow_unicode=True), encoding="utf-8"
    )
    temporary.replace(before)
    return partial


def read_config(config: Path) -> dict[str, Any]:
    """The configuration that a step was begun with.

    Raises: UserError if it is not whole, FileNotFoundError if it is gone.
    """
    return shapes.read_yaml(
        config, shapes.FROZEN, "run the command of its run again: it writes the file anew"
    )


def _digests_of(config: Path) -> dict | None:
    """The digests of the inputs that a step was begun on; None if its configuration cannot be read."""
    try:
        return read_config(config).get("input_digests")
    except UserError:
        return None


def _digests(told: Mapping[str, Any], the_store: store.Store) -> dict[str, str]:
    """Step -> content digest, for every artifact that a step reads or is guarded by."""
    found = {}
    for source in state.sources(told):
        path = the_store.root / source["artifact"]
        if not (path / store.MANIFEST).is_file():
            name = source["step"]
            raise UserError(
                f"{told['step']}: its input {name} is not there yet; run without only=, or with"
                f" from={name}"
            )
        found[source["step"]] = store.read_manifest(path)["content_digest"]
    return found


def execute(config: Path, part: tuple[int, int] = (0, 1)) -> Path | None:
    """Run the step described by `config`; returns the finished artifact, None where another task or
    rank publishes it.
    """
    if part[1] > 1:
        return _execute_part(config, part)
    partial, told = config.parent, read_config(config)
    the_store = store.Store(partial.parent)
    if not stage.Output(partial, the_store).is_main:
        _run(told, partial, the_store, part)
        return None
    with claims.claim(partial):
        return _publish(told, _run(told, partial, the_store, part))


def _execute_part(config: Path, part: tuple[int, int]) -> Path | None:
    """Work through a task's share of the shards; None where another task publishes, perhaps while
    this one is still at it.
    """
    partial = config.parent
    try:
        told = read_config(config)
        with claims.claim(partial, f"part-{part[0]}"):
            output = _run(told, partial, store.Store(partial.parent), part)
    except FileNotFoundError:
        if not (
            partial.with_name(partial.name.removesuffix(".partial")) / "manifest.json"
        ).is_file():
            raise
        return None
    return _publish_if_last(told, output)


def _run(told: dict, partial: Path, the_store: store.Store, part: tuple[int, int]) -> stage.Output:
    module = stages.load(told["stage"])
    key = f"steps.{told['step']}.config"
    # The engine puts in its own secrets when it is opened.
    settings = {
        k: v if k == "engine" else secrecy.resolve(v, f"{key}.{k}")
        for k, v in told["config"].items()
    }
    cfg = schema.build(module.Config, settings, key=key)
    output = stage.Output(partial, the_store, told["step"], part, told.get("run"))
    output.notes["started"] = time.time()
    inputs = Verification(told, the_store)
    if output.is_main:
        inputs.check()
        output.check_inputs = inputs.still
    if reason := skip_reason(told, the_store):
        return _skip(told, output, reason)
    module.run(cfg, stage.Inputs(the_store, told["inputs"]), output)
    if output.is_main:
        inputs.check()
    return output


def skip_reason(told: dict, the_store: store.Store) -> str | None:
    """Why a step of a loop has nothing to do: a guard of an earlier round said stop."""
    for guard in told.get("guards", []):
        path = the_store.root / guard["artifact"]
        if (
            store.read_manifest(path)["status"] == "skipped"
            or store.read_json(path / "selected.json")["stop"]
        ):
            return f"{guard['step']} said stop"
    return None


def _skip(told: dict, output: stage.Output, reason: str) -> stage.Output:
    """An artifact without content; a skipped guard passes on what the last working guard selected."""
    if hasattr(stages.load(told["stage"]), "CHOOSES"):
        last = output.store.root / told["guards"][-1]["artifact"]
        shutil.copyfile(last / "selected.json", output.path / "selected.json")
    output.note(status="skipped", skipped_because=reason)
    return output


def _publish(told: dict, output: stage.Output) -> Path:
    (output.path / "STOP").unlink(missing_ok=True)
    module = stages.load(told["stage"])
    of_counts = warning.of_tally(getattr(module, "ALARMS", ()), output.tally)
    warnings = [*output.notes.pop("warnings", []), *of_counts]
    notes = {**output.notes, **({"warnings": warnings} if warnings else {})}
    manifest = {**_manifest(told, output), **notes, "finished": time.time()}
    sharded = module.SHARDED and manifest["status"] != "skipped"
    made, closed = (shards.recorded(output.path), shards.FOLDERS) if sharded else ({}, ())
    final = store.finish(output.path, manifest, made, closed)
    for needed_until_now in ("checkpoints", "parts"):
        shutil.rmtree(final / needed_until_now, ignore_errors=True)
    return final


def _manifest(told: dict, output: stage.Output) -> dict:
    module = stages.load(told["stage"])
    counts = output.tally.to_dict()
    return {
        "step": told["step"],
        "stage": told["stage"],
        "stage_version": module.VERSION,
        "fingerprint": told["fingerprint"],
        "kind": module.KIND,
        "status": "done",
        "inputs": _input_digests(told, output.store),
        "sources": stage.Inputs(output.store, told["inputs"]).sources(),
        "rows_by_language": counts["rows"],
        "dropped": counts["dropped"],
        "sums": counts["sums"],
        "packages": versions(),
        "git_commit": told.get("git_commit"),
        "seed": told["config"].get("seed"),
        "host": socket.gethostname(),
        "job": os.environ.get("SLURM_JOB_ID"),
    }


def _input_digests(told: dict, the_store: store.Store) -> dict:
    """slot -> what stood in it: fingerprint and content digest of an artifact, identity of
    something external.
    """

    def one(value: dict) -> dict:
        if "artifact" not in value:
            own = {
                k: value[k]
                for k in ("path", "family", "revision", "identity")
                if isinstance(value.get(k), str | list)
            }
            inner = [one(m) for v in value.values() for m in models_in(v)]
            return {**own, **({"models": inner} if inner else {})}
        manifest = store.read_manifest(the_store.root / value["artifact"])
        return {
            "step": value["step"],
            "fingerprint": manifest["fingerprint"],
            "content_digest": manifest["content_digest"],
        }

    slots = {**told["inputs"], **({"guards": told["guards"]} if told.get("guards") else {})}
    return {
        slot: [one(v) for v in value] if isinstance(value, list) else one(value)
        for slot, value in slots.items()
        if value
    }


def _publish_if_last(told: dict, output: stage.Output) -> Path | None:
    """After an array task: publish if no shard is pending.

    Two tasks that end together are told apart by a claim.
    """
    module = stages.load(told["stage"])
    skipped = output.notes.get("status") == "skipped"
    sources = (
        []
        if skipped
        else rows.shards(
            stage.Inputs(output.store, told["inputs"]).rows(module.SHARDED),
            told["config"].get("split"),
        )
    )
    if shards.pending(sources, output.path):
        return None
    final = output.path.with_name(output.path.name.removesuffix(".partial"))
    try:
        with claims.claim(output.path, "publish"):
            if not (final / "manifest.json").is_file():
                output.tally = shards.total(sources, output.path)
                return _publish(told, output)
    except claims.Taken:
        return None
    with contextlib.suppress(
        OSError
    ):  # another task has published: what stands here now is the folder of our own claim
        (output.path / "claims").rmdir()
        output.path.rmdir()
    return None


def _end_when_asked(argv: list[str]) -> None:
    """Look for a STOP from the first moment on; only a process of its own may be ended so."""
    options = _options(argv)
    if options.begin:
        return
    partial, part = options.config.resolve().parent, _part(options)

    def end() -> None:
        _ended(
            partial,
            part,
            stage.STOPPED,
            "stopped on request, with nothing to save yet; run the same command again to continue",
        )
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(stage.STOPPED)

    stopping.watch([partial / "STOP", partial / "parts" / f"{part[0]}.STOP"], end)


def process(argv: list[str]) -> int:
    """Be the process of a step, from its command line to its exit status."""
    _end_when_asked(argv)
    status = main(argv)
    if (
        os.environ.get("RANK", "0") != "0"
    ):  # native threads of the libraries can crash at exit; torchrun would then end the first rank too
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status
