"""`mlalign verify [name=RUN] [root=DIR]`: hash everything again and compare it with what is recorded, whatever was remembered before.

- finished artifacts: each file against the manifest, and files beside a model that the manifest does not list
- unfinished ones that nobody works on: shards against their markers, checkpoints against their `complete.json`
- the shard cache: each shard against its marker
- what steps read from elsewhere: models and rows against the identity that the plan froze

With a name only what that run refers to. Exit status: 0 all is as it was written, 1 something differs.
"""

import dataclasses
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from mlalign.cli.commands import known, read_plan, root_of
from mlalign.core import claims, shapes, shards, store
from mlalign.core.digests import Digests
from mlalign.core.errors import UserError
from mlalign.core.terminal import say, size, table
from mlalign.models import checkpoints
from mlalign.running.verification import Verification


@dataclasses.dataclass
class Look:
    """What was looked at: `problems` are messages with their mends."""

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
        raise UserError(f"root: there is no store in {root}; say where store/ and runs/ lie with root=DIR")
    began = time.monotonic()
    looks = list(_all(the_store, read_plan(root, arguments["name"]) if "name" in arguments else None))
    seconds, n_bytes = time.monotonic() - began, sum(look.n_bytes for look in looks)
    rows = [[k.name, k.what, k.n_files or "", size(k.n_bytes) if k.n_bytes else "", _result(k)] for k in looks]
    say(table(rows, ["name", "what", "files", "size", "result"]) if rows else f"nothing in {the_store.root} to verify")
    say(f"\n{size(n_bytes)} in {seconds:.1f} s ({size(n_bytes / max(seconds, 1e-3))}/s)")
    if problems := list(dict.fromkeys(problem for look in looks for problem in look.problems)):
        say("\ndiffers:\n" + "\n".join(f"  {problem}" for problem in problems))
    return 1 if problems else 0


def _result(look: Look) -> str:
    return f"{len(look.problems)} differ" if look.problems else "as written"


def _all(the_store: store.Store, plan: Mapping | None) -> Iterator[Look]:
    names = None if plan is None else {step["artifact"] for step in plan["steps"]}
    digests, keys, read = Digests(), set[str](), set[str]()
    for path in sorted(p for p in the_store.root.iterdir() if p.is_dir() and not p.name.startswith(".")):
        name = path.name.removesuffix(".partial")
        if names is not None and name not in names:
            continue
        if (path / store.MANIFEST).is_file() and not path.name.endswith((".partial", ".replaced", ".deleting")):
            yield _artifact(path, digests)
        elif path.name.endswith(".partial") and not claims.owners(path):
            yield _partial(path, digests)
        else:
            continue
        keys |= {marker["key"] for p in (path / "shards").glob("*.json") if (marker := shards.read_marker(p))}
        yield from _elsewhere(path, the_store, digests, read)
    yield from _cache(the_store, None if names is None else keys, digests)


def _artifact(path: Path, digests: Digests) -> Look:
    try:
        manifest = store.read_manifest(path)
    except UserError as error:
        return Look(path.name, "artifact", 0, 0, error.messages)
    found, mend = manifest["files"], f"put it back, or compute {manifest['step']} again with force={manifest['step']}"
    digests.files(path / name for name in found if (path / name).is_file())
    problems = [f"{wrong}; {mend}" for wrong in store.damages(path, manifest, digests.file)]
    extra = [p for p in store.strays(path, manifest) if p.relative_to(path).parts[0] == "model"]
    problems += [f"{p} is no part of {path.name} and would be read with its model; move the file elsewhere" for p in extra]
    return Look(path.name, f"artifact of {manifest['step']}", len(found), sum(f["size"] for f in found.values()), problems)


def _partial(path: Path, digests: Digests) -> Look:
    """Unfinished work: what does not match is computed again by the next run, so nothing is lost but time."""
    mend = "the next run computes it again"
    recorded = {path / name: digest for name, digest in shards.recorded(path).items()}
    malformed = [p for p in (path / "shards").glob("*.json") if shards.read_marker(p) is None]
    problems = [f"{p} is malformed; {mend}" for p in malformed]
    problems += [f"{p} is missing or was changed; {mend}" for p, d in recorded.items() if not p.is_file() or digests.file(p) != d]
    saved = [p for folder in sorted((path / "checkpoints").glob("*")) for p in checkpoints.ordered(folder)]
    problems += [f"{p}: {wrong}; {mend}" for p in saved if (wrong := checkpoints.problem(p))]
    files = [*(p for p in recorded if p.is_file()), *(p for folder in saved for p in folder.rglob("*") if p.is_file())]
    return Look(path.name, "unfinished artifact", len(files), sum(p.stat().st_size for p in files), problems)


def _elsewhere(path: Path, the_store: store.Store, digests: Digests, read: set[str]) -> Iterator[Look]:
    """What the step of an artifact read from outside the store; what several steps read is hashed once and told with the first."""
    try:
        frozen = _frozen(path / "config.yaml")
        with digests.recording() as files:
            problems = list(Verification(frozen, the_store, digests).elsewhere())
    except UserError as error:
        yield Look(path.name, "config.yaml", 0, 0, error.messages)
        return
    new = [Path(p) for p in files if p not in read and not Path(p).is_relative_to(the_store.root)]
    read |= set(files)
    if new or problems:
        yield Look(path.name, f"inputs of {frozen['step']}", len(new), sum(p.stat().st_size for p in new), problems)


def _frozen(config: Path) -> dict:
    """The configuration that a step ran with. Raises: UserError if it is not there, or not of its shape."""
    mend = "what its step read is not verified"
    try:
        return shapes.read_yaml(config, shapes.FROZEN, mend)
    except FileNotFoundError:
        raise UserError(f"{config}: is not there; {mend}") from None


def _cache(the_store: store.Store, keys: set[str] | None, digests: Digests) -> Iterator[Look]:
    markers = [p for p in sorted((the_store.root / ".shards").glob("*/*.json")) if keys is None or p.stem in keys]
    problems, files = list[str](), list[Path]()
    for marker in markers:
        wrong = shards.cache_problem(marker, digests)
        problems += [f"{wrong}; nothing uses it from now on, mlalign gc removes what no artifact links to"] if wrong else []
        files += [p for p in marker.parent.glob(f"{marker.stem}*") if p.suffix != ".json"]
    if markers:
        yield Look(".shards", "shard cache", len(files), sum(p.stat().st_size for p in files), problems)
