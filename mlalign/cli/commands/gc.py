"""`mlalign gc [root=DIR] [keep_checkpoints=1] [older_than=DAYS] [delete=true]`: what of a store
nobody needs, and how much it takes.

Without `delete=true` nothing is touched. What can go:

- checkpoints of finished steps; of unfinished ones all but the newest `keep_checkpoints`
- artifacts, begun or finished, that no run links to and no kept artifact stands on (give up a run:
  remove its folder in `runs/`)
- what was put aside when a step was computed again (`….replaced`), and directories without a
  manifest
- shards in the cache that no artifact links to any more

A run whose plan or jobs cannot be read is named. What it may need cannot be known: until it is
mended, only what was put aside can go.

Never touched: what a living process has claimed, what a run with jobs in Slurm's queue refers to
(while Slurm does not answer, any run with jobs counts as one), what is younger than `older_than`,
and whatever has a name that mlalign did not give.
"""

import contextlib
import dataclasses
import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from mlalign.cli.commands import flag, known, number, read_plan, root_of, runs
from mlalign.core import claims
from mlalign.core.digests import of_store
from mlalign.core.errors import UserError, system_problem
from mlalign.core.terminal import say, say_error, size, table
from mlalign.models import checkpoints
from mlalign.running.slurm import jobs, queue

NAME = re.compile(r"([a-z_]+-[0-9a-f]{16})((?:\.partial)?(?:\.replaced|\.deleting)?)")
MENTION = re.compile(r"[a-z_]+-[0-9a-f]{16}")
# Files of an artifact in which the names of others stand: its inputs, what it selected, the base of
# its adapter.
TELLING = ("config.yaml", "selected.json", "model/adapter_config.json")
DAY_S = 86400.0


@dataclasses.dataclass
class Item:
    """Something that can go. `n_bytes` is what deleting all items frees by this one: a file with
    several names counts once."""

    path: Path
    what: str
    why: str
    n_bytes: int = 0


def run(arguments: Mapping[str, str]) -> int:
    known(arguments, ("root", "keep_checkpoints", "older_than", "delete"))
    root, keep = root_of(arguments), number(arguments, "keep_checkpoints", 1)
    if keep != int(keep):
        raise UserError(
            f"keep_checkpoints: expected a whole number, got {arguments['keep_checkpoints']!r}"
        )
    delete = flag(arguments, "delete")
    if not (root / "store").is_dir():
        raise UserError(
            f"root: there is no store in {root}; say where store/ and runs/ lie with root=DIR"
        )
    broken = _broken(root)
    items = measured(find(root, int(keep), number(arguments, "older_than", 0), broken))
    for name, problem in broken.items():
        say_error(f"run {name}: {problem}; until it can be read, only what was put aside can go")
    if not items:
        say(f"nothing in {root / 'store'} can go")
        return 1 if broken else 0
    rows = [
        [item.path.relative_to(root / "store"), item.what, item.why, size(item.n_bytes)]
        for item in items
    ]
    say(
        table(
            [*rows, ["", "", "in all", size(sum(i.n_bytes for i in items))]],
            ["in store/", "what", "why", "size"],
        )
    )
    if not delete:
        say("\nnothing was deleted; delete=true does it")
        return 1 if broken else 0
    return _delete_all(items, root / "store") or (1 if broken else 0)


# -------------------------------------------------------------------------------------- what can go


def _broken(root: Path) -> dict[str, str]:
    """Run -> what keeps its plan or its jobs from being read."""
    found = {}
    for name in runs(root):
        try:
            read_plan(root, name)
            jobs.read(root / "runs" / name / "slurm")
        except UserError as error:
            found[name] = str(error)
        except OSError as error:
            found[name] = system_problem(error) or ""
    return found


def find(
    root: Path, keep_checkpoints: int, older_than_days: float, broken: Collection[str] = ()
) -> list[Item]:
    """Everything that the rules let go, in the order of the store. With runs that are `broken`,
    only what was put aside."""
    the_store = root / "store"
    names = [name for name in runs(root) if name not in broken]
    queued = _queued(root, names)
    needed = _closure(the_store, _linked(root, names) | queued)
    before = time.time() - older_than_days * DAY_S
    items = [
        item
        for path in sorted(the_store.iterdir())
        for item in _of_entry(path, needed, queued, keep_checkpoints)
    ]
    items = [item for item in items if _newest(item.path) <= before]
    if broken:  # any artifact, and any checkpoint, may be one of theirs
        return [item for item in items if item.what == "put aside"]
    return [*items, *(i for i in _cached(the_store, items) if i.path.lstat().st_ctime <= before)]


def _linked(root: Path, names: Iterable[str]) -> set[str]:
    """The artifacts that a run's plan names or any link in a run's folder leads to."""
    found = {step["artifact"] for name in names for step in read_plan(root, name)["steps"]}
    for folder, folders, files in os.walk(root / "runs"):
        for path in (Path(folder, name) for name in [*folders, *files]):
            if path.is_symlink():
                found |= set(MENTION.findall(os.readlink(path)))
    return found


def _queued(root: Path, names: Iterable[str]) -> set[str]:
    """All artifacts of the runs that have a job in Slurm's queue, and all that jobs in the queue
    work on."""
    recorded = {name: jobs.read(root / "runs" / name / "slurm") for name in names}
    slurm = queue.ask(str(job["job"]) for mine in recorded.values() for job in mine)
    found = set()
    for name, mine in recorded.items():
        if mine and (slurm.problem or any(task.active for task in slurm.of(mine))):
            found |= {job["artifact"] for job in mine} | {
                step["artifact"] for step in read_plan(root, name)["steps"]
            }
    return found


def _closure(the_store: Path, names: Iterable[str]) -> set[str]:
    """These artifacts with all that they stand on."""
    found, todo = set[str](), set(names)
    while todo:
        name = todo.pop()
        found.add(name)
        for path in (
            the_store / f"{name}{suffix}" / file for suffix in ("", ".partial") for file in TELLING
        ):
            if path.is_file():
                todo |= (
                    set(MENTION.findall(path.read_text(encoding="utf-8", errors="replace"))) - found
                )
    return found


def _of_entry(path: Path, needed: set[str], queued: set[str], keep: int) -> Iterator[Item]:
    """What can go of one directory in the store."""
    match = NAME.fullmatch(path.name)
    if not match or not path.is_dir() or match[1] in queued or claims.owners(path):
        return
    if match[2].endswith((".replaced", ".deleting")):
        yield Item(
            path,
            "put aside",
            (
                "its step was computed again"
                if path.name.endswith(".replaced")
                else "its deletion was cut short"
            ),
        )
    elif match[1] not in needed:
        yield Item(
            path, "artifact" if not match[2] else "unfinished artifact", "no run refers to it"
        )
    elif not match[2] and not (path / "manifest.json").is_file():
        yield Item(path, "leftover", "has no manifest, so it is no artifact")
    elif not match[2]:
        yield from (
            Item(p, "checkpoints", "their step is finished")
            for p in [path / "checkpoints"]
            if p.is_dir()
        )
    else:
        yield from _old_checkpoints(path, keep)


def _old_checkpoints(partial: Path, keep: int) -> Iterator[Item]:
    """Checkpoints of a step that nobody works on, beyond the newest complete ones, and those that
    were never completed."""
    found = [
        p
        for folder in sorted((partial / "checkpoints").glob("*"))
        for p in checkpoints.ordered(folder)
    ]
    problems = {p: checkpoints.problem(p) for p in found}
    complete = [p for p in found if problems[p] is None]
    kept = complete[-keep:] if keep else []
    for path in found:
        if path not in complete:
            yield Item(path, "checkpoint", str(problems[path]))
        elif path not in kept:
            yield Item(
                path,
                "checkpoint",
                f"the newest {keep} of its step stay" if keep else "none is to stay",
            )


def _cached(the_store: Path, items: Sequence[Item]) -> Iterator[Item]:
    """Shards whose only other names, if any, are in what goes. None while a step runs: it may be
    about to link one."""
    if any(claims.owners(p) for p in the_store.glob("*.partial")):
        return
    going = Counter(
        (s.st_dev, s.st_ino) for item in items for s in _files(item.path) if s.st_nlink > 1
    )
    for path in sorted((the_store / ".shards").glob("*/*")):
        stat = path.lstat()
        if path.suffix != ".json" and stat.st_nlink - going[stat.st_dev, stat.st_ino] <= 1:
            yield Item(path, "cached shard", "no artifact links to it")


def _newest(path: Path) -> float:
    """When anything in a directory was last changed."""
    return max([path.lstat().st_mtime, *(s.st_mtime for s in _files(path))])


# -------------------------------------------------------------------------------------------- sizes


def measured(items: Sequence[Item]) -> list[Item]:
    """The items with what they free: blocks on the disk of files that have no name outside of what
    goes, each counted once."""
    names: Counter[tuple[int, int]] = Counter()
    for item in items:
        names.update((s.st_dev, s.st_ino) for s in _files(item.path))
    counted = set[tuple[int, int]]()
    for item in items:
        for stat in _files(item.path):
            key = stat.st_dev, stat.st_ino
            if stat.st_nlink <= names[key] and key not in counted:
                counted.add(key)
                item.n_bytes += stat.st_blocks * 512
    return list(items)


def _files(path: Path) -> Iterator[os.stat_result]:
    """Every file below a path (itself, if it is one); links are not followed."""
    if not path.is_dir() or path.is_symlink():
        yield path.lstat()
        return
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # a run goes on beside us
                yield Path(folder, name).lstat()


# ----------------------------------------------------------------------------------------- deletion


def _delete_all(items: Sequence[Item], the_store: Path) -> int:
    """Delete what is still nobody's; 1 if something had to stay."""
    stayed, freed = [], 0
    for item in items:
        try:
            _delete(item)
            freed += item.n_bytes
        except UserError as error:
            stayed.append(str(error))
        except OSError as error:
            stayed.append(f"{item.path}: cannot be deleted ({error.strerror})")
    of_store(the_store).forget_missing()
    say(
        f"\n{len(items) - len(stayed)} deleted, {size(freed)} freed"
        + "".join(f"\nstays: {line}" for line in stayed)
    )
    return 1 if stayed else 0


def _delete(item: Item) -> None:
    """Delete what a claim then keeps others from beginning in. What others could take for whole is
    renamed, or unmarked, first.

    Raises: UserError if a process has begun to work there.
    """
    if item.what == "cached shard":
        for path in (item.path.with_suffix(".json"), item.path):
            path.unlink(missing_ok=True)
        return
    owner = next(p for p in (item.path, *item.path.parents) if NAME.fullmatch(p.name))
    claims.refuse_owned(owner)
    with claims.claim(owner, "gc"):
        (item.path / "complete.json").unlink(missing_ok=True)
        aside = item.path
        if item.path == owner and not owner.name.endswith(".deleting"):
            aside = owner.with_name(f"{owner.name}.deleting")
            shutil.rmtree(aside, ignore_errors=True)
            owner.rename(aside)
        shutil.rmtree(aside)
    with contextlib.suppress(OSError):
        (owner / "claims").rmdir()
