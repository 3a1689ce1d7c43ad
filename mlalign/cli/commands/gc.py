"""`mlalign gc [root=DIR] [keep_checkpoints=1] [older_than=DAYS] [delete=true]`: free a store.

It lists what nobody needs. Without `delete=true` nothing is touched. What can go:

- checkpoints of finished steps; of unfinished ones all but the newest `keep_checkpoints`
- artifacts, begun or finished, that no run links to and no kept artifact was made from (to give up
  a run, remove its folder in `runs/`)
- what was put aside when a step was computed again (`….replaced`), and directories without a
  manifest
- shards in the cache that no artifact links to any more

A run whose plan or jobs cannot be read is named. Nobody knows what it may need, so until it is
mended only what was put aside can go.

Never touched: what a living process has claimed, what a run with jobs in Slurm's queue refers to
(while Slurm does not answer, any run with jobs counts as one), what is younger than `older_than`,
and any name that mlalign did not give.
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
# Files of an artifact that name others: its inputs, what it selected, the base of its adapter.
REFERRING = ("config.yaml", "selected.json", "model/adapter_config.json")
PUT_ASIDE = "put aside"
DAY_S = 86400.0

Inode = tuple[int, int]


@dataclasses.dataclass
class Item:
    """Something that can go.

    `n_bytes` is its share of what deleting all items frees: a file with several names counts once.
    """

    path: Path
    what: str
    why: str
    n_bytes: int = 0


def run(arguments: Mapping[str, str]) -> int:
    known(arguments, ("root", "keep_checkpoints", "older_than", "delete"))
    root = root_of(arguments)
    keep = number(arguments, "keep_checkpoints", 1)
    if keep != int(keep):
        raise UserError(
            f"keep_checkpoints: expected a whole number, got {arguments['keep_checkpoints']!r}"
        )
    older_than_days = number(arguments, "older_than", 0)
    delete = flag(arguments, "delete")
    the_store = root / "store"
    if not the_store.is_dir():
        raise UserError(
            f"root: there is no store in {root}; say where store/ and runs/ lie with root=DIR"
        )

    broken = _broken(root)
    items = find(root, int(keep), older_than_days, broken)
    measure(items)
    for name, problem in broken.items():
        say_error(f"run {name}: {problem}; until it can be read, only what was put aside can go")
    if items:
        say(_table(items, the_store))
    else:
        say(f"nothing in {the_store} can go")

    all_deleted = True
    if items and delete:
        all_deleted = _delete_all(items, the_store)
    elif items:
        say("\nnothing was deleted; delete=true does it")
    return 0 if all_deleted and not broken else 1


def _table(items: Sequence[Item], the_store: Path) -> str:
    rows = []
    for item in items:
        rows.append([item.path.relative_to(the_store), item.what, item.why, size(item.n_bytes)])
    total = sum(item.n_bytes for item in items)
    rows.append(["", "", "in all", size(total)])
    return table(rows, ["in store/", "what", "why", "size"])


# -------------------------------------------------------------------------------------- what can go


def _broken(root: Path) -> dict[str, str]:
    """Run -> why its plan or its jobs cannot be read."""
    problems = {}
    for name in runs(root):
        try:
            read_plan(root, name)
            jobs.read(root / "runs" / name / "slurm")
        except UserError as error:
            problems[name] = str(error)
        except OSError as error:
            problems[name] = system_problem(error) or ""
    return problems


def find(
    root: Path, keep_checkpoints: int, older_than_days: float, broken: Collection[str] = ()
) -> list[Item]:
    """Everything that the rules let go, in the order of the store.

    While some runs are `broken`, only what was put aside.
    """
    the_store = root / "store"
    names = [name for name in runs(root) if name not in broken]
    queued = _queued(root, names)
    needed = _closure(the_store, _linked(root, names) | queued)
    before = time.time() - older_than_days * DAY_S

    items = []
    for path in sorted(the_store.iterdir()):
        for item in _removable(path, needed, queued, keep_checkpoints):
            if _last_change(item.path) <= before:
                items.append(item)
    if broken:  # any artifact, and any checkpoint, may be one of theirs
        return [item for item in items if item.what == PUT_ASIDE]

    cached = list(_cached(the_store, items))
    return items + [shard for shard in cached if shard.path.lstat().st_ctime <= before]


def _linked(root: Path, names: Iterable[str]) -> set[str]:
    """The artifacts that a run's plan names, or that any link in a run's folder leads to."""
    artifacts = set[str]()
    for name in names:
        artifacts |= _planned(root, name)
    for folder, folders, files in os.walk(root / "runs"):
        for name in [*folders, *files]:
            path = Path(folder, name)
            if path.is_symlink():
                artifacts.update(MENTION.findall(os.readlink(path)))
    return artifacts


def _planned(root: Path, name: str) -> set[str]:
    """The artifacts in the plan of a run."""
    return {step["artifact"] for step in read_plan(root, name)["steps"]}


def _queued(root: Path, names: Iterable[str]) -> set[str]:
    """All artifacts of the runs that have a job in Slurm's queue, and of those jobs."""
    jobs_by_run = {name: jobs.read(root / "runs" / name / "slurm") for name in names}
    ids: list[str] = []
    for submitted in jobs_by_run.values():
        ids += [str(job["job"]) for job in submitted]
    slurm = queue.ask(ids)

    artifacts = set[str]()
    for name, submitted in jobs_by_run.items():
        if not submitted:
            continue
        # If Slurm does not answer, any job may be in its queue.
        if slurm.problem or any(task.active for task in slurm.of(submitted)):
            artifacts |= {job["artifact"] for job in submitted}
            artifacts |= _planned(root, name)
    return artifacts


def _closure(the_store: Path, names: Iterable[str]) -> set[str]:
    """These artifacts with all that they were made from."""
    closure = set[str]()
    todo = set(names)
    while todo:
        name = todo.pop()
        closure.add(name)
        for folder in (the_store / name, the_store / f"{name}.partial"):
            todo |= _references(folder) - closure
    return closure


def _references(folder: Path) -> set[str]:
    """The artifacts that an artifact's files name."""
    names = set[str]()
    for file in REFERRING:
        path = folder / file
        if path.is_file():
            text = path.read_text(encoding="utf-8", errors="replace")
            names.update(MENTION.findall(text))
    return names


def _removable(path: Path, needed: set[str], queued: set[str], keep: int) -> Iterator[Item]:
    """What can go of one directory in the store."""
    match = NAME.fullmatch(path.name)
    if not match or not path.is_dir():
        return
    artifact, suffix = match.groups()
    if artifact in queued or claims.owners(path):
        return

    if suffix.endswith(".replaced"):
        yield Item(path, PUT_ASIDE, "its step was computed again")
    elif suffix.endswith(".deleting"):
        yield Item(path, PUT_ASIDE, "its deletion was cut short")
    elif artifact not in needed:
        what = "unfinished artifact" if suffix else "artifact"
        yield Item(path, what, "no run refers to it")
    elif suffix:
        yield from _old_checkpoints(path, keep)
    elif not (path / "manifest.json").is_file():
        yield Item(path, "leftover", "has no manifest, so it is no artifact")
    elif (path / "checkpoints").is_dir():
        yield Item(path / "checkpoints", "checkpoints", "their step is finished")


def _old_checkpoints(partial: Path, keep: int) -> Iterator[Item]:
    """An unfinished step's checkpoints that are incomplete, or not among the newest `keep`."""
    problems: dict[Path, str | None] = {}
    for folder in sorted((partial / "checkpoints").glob("*")):
        for path in checkpoints.ordered(folder):
            problems[path] = checkpoints.problem(path)

    complete = [path for path, problem in problems.items() if problem is None]
    kept = complete[-keep:] if keep else []
    why = f"the newest {keep} of its step stay" if keep else "none is to stay"
    for path, problem in problems.items():
        if path not in kept:
            yield Item(path, "checkpoint", problem or why)


def _cached(the_store: Path, items: Sequence[Item]) -> Iterator[Item]:
    """Cached shards whose only other names, if any, are in the items that go.

    None while a step runs: it may be about to link one.
    """
    if any(claims.owners(partial) for partial in the_store.glob("*.partial")):
        return
    n_going = _count_names(items)
    for path in sorted((the_store / ".shards").glob("*/*")):
        stat = path.lstat()
        n_staying = stat.st_nlink - n_going[_inode(stat)]
        if path.suffix != ".json" and n_staying <= 1:
            yield Item(path, "cached shard", "no artifact links to it")


def _last_change(path: Path) -> float:
    """When anything in a directory was last changed."""
    times = [stat.st_mtime for stat in _files(path)]
    return max([path.lstat().st_mtime, *times])


# -------------------------------------------------------------------------------------------- sizes


def measure(items: Sequence[Item]) -> None:
    """Set what each item frees: the disk blocks of files that have no name outside of the items."""
    n_going = _count_names(items)
    counted = set[Inode]()
    for item in items:
        for stat in _files(item.path):
            inode = _inode(stat)
            if stat.st_nlink <= n_going[inode] and inode not in counted:
                counted.add(inode)
                item.n_bytes += stat.st_blocks * 512


def _count_names(items: Iterable[Item]) -> Counter[Inode]:
    """How many names each file has in the items."""
    counts: Counter[Inode] = Counter()
    for item in items:
        counts.update(map(_inode, _files(item.path)))
    return counts


def _inode(stat: os.stat_result) -> Inode:
    return stat.st_dev, stat.st_ino


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


def _delete_all(items: Sequence[Item], the_store: Path) -> bool:
    """Delete the items that nobody works on by now; False if something had to stay."""
    stayed = []
    n_bytes = 0
    for item in items:
        try:
            _delete(item)
            n_bytes += item.n_bytes
        except UserError as error:
            stayed.append(str(error))
        except OSError as error:
            stayed.append(f"{item.path}: cannot be deleted ({error.strerror})")
    of_store(the_store).forget_missing()
    say(f"\n{len(items) - len(stayed)} deleted, {size(n_bytes)} freed")
    for problem in stayed:
        say(f"stays: {problem}")
    return not stayed


def _delete(item: Item) -> None:
    """Delete an item under a claim, so that no process begins to work there.

    If the deletion is cut short, others must not take the rest for complete, so an artifact is
    renamed first, and a checkpoint loses its `complete.json`.

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
