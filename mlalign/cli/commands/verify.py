"""`mlalign verify [name=RUN] [root=DIR]`: hash everything again and compare it with the records.

- finished artifacts: each file against the manifest, and files beside a model that it does not list
- unfinished ones that nobody works on: shards against their markers, checkpoints against their
  `complete.json`
- the shard cache: each shard against its marker
- what steps read from elsewhere: models and rows against the identity that the plan froze

With a name, only what that run refers to. Exit status: 0 all is as it was written, 1 something
differs.
"""

import dataclasses
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from mlalign.cli.commands import known, read_plan, root_of
from mlalign.core import claims, shapes, shards, store
from mlalign.core.digests import Digests
from mlalign.core.errors import UserError
from mlalign.core.terminal import say, size, table
from mlalign.models import checkpoints
from mlalign.running.verification import Verification

# Directories beside the artifacts proper.
ASIDE = (".partial", ".replaced", ".deleting")


@dataclasses.dataclass
class Look:
    """One thing that was verified; `problems` are messages with their mends."""

    name: str
    what: str
    n_files: int
    n_bytes: int
    problems: list[str]


def run(arguments: Mapping[str, str]) -> int:
    known(arguments, ("name", "root"))
    root = root_of(arguments)
    the_store = store.Store(root / "store")
    if not the_store.root.is_dir():
        mend = "say where store/ and runs/ are with root=DIR"
        raise UserError(f"root: there is no store in {root}; {mend}")
    plan = read_plan(root, arguments["name"]) if "name" in arguments else None
    began = time.monotonic()
    looks = list(_all(the_store, plan))
    seconds = time.monotonic() - began

    rows = []
    for look in looks:
        n_bytes = size(look.n_bytes) if look.n_bytes else ""
        rows.append([look.name, look.what, look.n_files or "", n_bytes, _result(look)])
    if rows:
        say(table(rows, ["name", "what", "files", "size", "result"]))
    else:
        say(f"nothing in {the_store.root} to verify")
    total = sum(look.n_bytes for look in looks)
    say(f"\n{size(total)} in {seconds:.1f} s ({size(total / max(seconds, 1e-3))}/s)")

    # Several steps may read the same damaged file.
    problems: dict[str, None] = {}
    for look in looks:
        problems |= dict.fromkeys(look.problems)
    if problems:
        say("\ndiffers:\n" + "\n".join(f"  {problem}" for problem in problems))
    return 1 if problems else 0


def _result(look: Look) -> str:
    return f"{len(look.problems)} differ" if look.problems else "as written"


def _all(the_store: store.Store, plan: Mapping | None) -> Iterator[Look]:
    names = None
    if plan is not None:
        names = {step["artifact"] for step in plan["steps"]}
    digests = Digests()
    keys = set[str]()
    read = set[str]()
    for path in sorted(the_store.root.iterdir()):
        if not path.is_dir() or path.name.startswith("."):
            continue
        if names is not None and path.name.removesuffix(".partial") not in names:
            continue
        if (path / store.MANIFEST).is_file() and not path.name.endswith(ASIDE):
            yield _artifact(path, digests)
        elif path.name.endswith(".partial") and not claims.owners(path):
            yield _partial(path, digests)
        else:
            continue
        for marker_path in (path / "shards").glob("*.json"):
            marker = shards.read_marker(marker_path)
            if marker:
                keys.add(marker["key"])
        yield from _elsewhere(path, the_store, digests, read)
    if names is None:
        yield from _cache(the_store, None, digests)
    else:
        yield from _cache(the_store, keys, digests)


def _artifact(path: Path, digests: Digests) -> Look:
    try:
        manifest = store.read_manifest(path)
    except UserError as error:
        return Look(path.name, "artifact", 0, 0, error.messages)
    files = manifest["files"]
    step = manifest["step"]
    digests.files(path / name for name in files if (path / name).is_file())

    mend = f"put it back, or compute {step} again with force={step}"
    problems = [f"{damage}; {mend}" for damage in store.damages(path, manifest, digests.file)]
    for stray in store.strays(path, manifest):
        if stray.relative_to(path).parts[0] == "model":
            problem = f"{stray} is no part of {path.name} and would be read with its model"
            problems.append(f"{problem}; move the file elsewhere")
    n_bytes = sum(file["size"] for file in files.values())
    return Look(path.name, f"artifact of {step}", len(files), n_bytes, problems)


def _partial(path: Path, digests: Digests) -> Look:
    """Unfinished work. The next run repeats what does not match, so only time is lost."""
    mend = "the next run computes it again"
    problems = []
    for marker in (path / "shards").glob("*.json"):
        if shards.read_marker(marker) is None:
            problems.append(f"{marker} is malformed; {mend}")

    files = []
    for name, digest in shards.recorded(path).items():
        shard = path / name
        if shard.is_file():
            files.append(shard)
        if not shard.is_file() or digests.file(shard) != digest:
            problems.append(f"{shard} is missing or was changed; {mend}")

    for folder in sorted((path / "checkpoints").glob("*")):
        for checkpoint in checkpoints.ordered(folder):
            files += [file for file in checkpoint.rglob("*") if file.is_file()]
            problem = checkpoints.problem(checkpoint)
            if problem:
                problems.append(f"{checkpoint}: {problem}; {mend}")
    return Look(path.name, "unfinished artifact", len(files), _n_bytes(files), problems)


def _n_bytes(files: Iterable[Path]) -> int:
    return sum(file.stat().st_size for file in files)


def _elsewhere(
    path: Path,
    the_store: store.Store,
    digests: Digests,
    read: set[str],
) -> Iterator[Look]:
    """What a step read from outside the store; a file that several read counts with the first."""
    try:
        frozen = _frozen(path / "config.yaml")
        with digests.recording() as files:
            problems = list(Verification(frozen, the_store, digests).elsewhere())
    except UserError as error:
        yield Look(path.name, "config.yaml", 0, 0, error.messages)
        return
    new = []
    for name in files:
        path_read = Path(name)
        if name not in read and not path_read.is_relative_to(the_store.root):
            new.append(path_read)
    read |= set(files)
    if new or problems:
        yield Look(path.name, f"inputs of {frozen['step']}", len(new), _n_bytes(new), problems)


def _frozen(config: Path) -> dict:
    """The configuration that a step ran with. Raises: UserError if it is missing or malformed."""
    mend = "what its step read is not verified"
    try:
        return shapes.read_yaml(config, shapes.FROZEN, mend)
    except FileNotFoundError:
        raise UserError(f"{config}: is missing; {mend}") from None


def _cache(the_store: store.Store, keys: set[str] | None, digests: Digests) -> Iterator[Look]:
    """The cached shards with these keys; None for all."""
    problems: list[str] = []
    files: list[Path] = []
    mend = "nothing uses it from now on, mlalign gc removes what no artifact links to"
    markers = sorted((the_store.root / ".shards").glob("*/*.json"))
    if keys is not None:
        markers = [marker for marker in markers if marker.stem in keys]
    for marker in markers:
        problem = shards.cache_problem(marker, digests)
        if problem:
            problems.append(f"{problem}; {mend}")
        beside = marker.parent.glob(f"{marker.stem}*")
        files += [path for path in beside if path.suffix != ".json"]
    if markers:
        yield Look(".shards", "shard cache", len(files), _n_bytes(files), problems)
