"""What a step reads is verified where it is used: once when it begins, and by a look at the files
whenever it keeps a result.

A plan takes the identity of everything that a step reads, and the step's frozen configuration holds
it. Otherwise weights that are swapped between plan and use, or while a step runs, would give a
result under the fingerprint of the old weights.

- artifacts of steps, also those named by path: every file that the manifest lists, by its digest;
  with what a `select` step chose, and the base that an adapter stands on
- models and rows from elsewhere: their digests, taken anew; hub snapshots by the names of their
  blobs
- files that the configuration names (rows sources, a chat template, a judge's prompt, a pairing
  method)
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mlalign import stages
from mlalign.core import digests, identity, schema, store, weight_files
from mlalign.core.errors import UserError
from mlalign.core.model import ON_THE_HUB
from mlalign.running import state

AGAIN = (
    "run the same command again, which plans with what is there now, or put the file back as it was"
)
SHOWN = 5


class Verification:
    """The inputs of one step, from its frozen configuration."""

    def __init__(
        self,
        frozen_step: Mapping[str, Any],
        the_store: store.Store,
        known: digests.Digests | None = None,
    ):
        self._step = frozen_step
        self._store = the_store
        self._digests = known or the_store.digests
        self._watch: digests.Watch | None = None

    def check(self) -> None:
        """Compare everything with what is recorded.

        What was hashed before and not touched since is not hashed again.

        Raises: UserError that names the files that differ, and the mend.
        """
        with self._digests.recording() as files:
            wrong = list(dict.fromkeys(self._problems()))
        self._digests.save()
        if wrong:
            messages = [f"{self._step['step']}: {problem}" for problem in wrong[:SHOWN]]
            if len(wrong) > SHOWN:
                messages.append(f"… and {len(wrong) - SHOWN} more")
            raise UserError(*messages)
        self._watch = digests.Watch(self._digests, files)

    def still(self) -> None:
        """Check again if anything was touched since; looks at each file.

        Raises: UserError as `check` does.
        """
        if self._watch is None or not self._watch.untouched():
            self.check()

    def _problems(self) -> Iterator[str]:
        recorded = self._step.get("input_digests") or {}
        for source in state.sources(self._step):
            path = self._store.root / source["artifact"]
            name = source["step"]
            yield from self._artifact(path, name, recorded.get(name))
        yield from self.elsewhere()

    def elsewhere(self) -> Iterator[str]:
        """What differs among the inputs that no step of this store made."""
        for value in externals(self._step["inputs"]):
            yield from self._external(value)
        yield from self._configured()

    # ------------------------------------------------------------------------------------ artifacts

    def _artifact(
        self, path: Path, name: str, wanted: str | None = None, other: str = ""
    ) -> Iterator[str]:
        """An artifact, and what it leads to: the choice of a `select` step, the base of an adapter.

        `other` is what to do about damage, beside putting the file back.
        """
        if not (path / store.MANIFEST).is_file():
            yield f"its input {name} is not there ({path}); compute it with from={name}"
            return
        manifest = store.read_manifest(path)
        mend = f"put the file back, or {other or f'compute it again with force={name}'}"
        if wanted not in (None, manifest["content_digest"]):
            yield (
                f"its input {name} ({path}) has other content than when this step was planned; run"
                " the same command again"
            )
        damage = store.damage(path, manifest, self._digests)
        if damage:
            yield f"its input {name}: {damage}; {mend}"
            return
        for stray in store.strays(path, manifest):
            if stray.relative_to(path).parts[0] == "model":
                problem = f"{stray} is no part of it and would be read with the model"
                yield f"its input {name}: {problem}; move the file elsewhere"
                break
        yield from self._chosen(path)
        yield from self._base(path, manifest, name)

    def _chosen(self, path: Path) -> Iterator[str]:
        if not store.has(path, "selected.json"):
            return
        chosen = store.read_json(path / "selected.json")
        if "external" in chosen:
            yield from self._external(chosen["external"])
        else:
            yield from self._artifact(path.parent / chosen["artifact"], chosen["step"])

    def _base(self, path: Path, manifest: Mapping, name: str) -> Iterator[str]:
        """The base of an adapter that a step trained: it has to be the one of the training."""
        if not store.has(path, "model/adapter_config.json"):
            return
        base = store.read_json(path / "model" / "adapter_config.json")["base_model_name_or_path"]
        recorded: list[dict] = []
        for value in manifest["inputs"].values():
            recorded += value if isinstance(value, list) else [value]

        artifact = (path / "model" / base).resolve().parent
        if not (artifact / store.MANIFEST).is_file():
            for record in recorded:
                if record.get("path") == base:
                    yield from self._external(record)
            return
        of_base = store.read_manifest(artifact)
        yield from self._artifact(artifact, of_base["step"])
        for record in recorded:
            if record.get("fingerprint") == of_base["fingerprint"]:
                if record["content_digest"] != of_base["content_digest"]:
                    problem = f"its base {artifact} has other content than in its training"
                    yield f"its input {name}: {problem}; compute it again with force={name}"
                return

    # ------------------------------------------------------------------------------------ elsewhere

    def _external(self, value: Mapping) -> Iterator[str]:
        """Something that mlalign did not make, or an artifact that is named by its path."""
        path = Path(value["path"]).expanduser()
        wanted = value.get("identity")
        if isinstance(wanted, list):  # an adapter's own and its base's
            yield from self._external({**value, "identity": wanted[0]})
            if path.is_dir():
                base = weight_files.base_of(str(path))
                yield from self._external({"path": base, "identity": wanted[1]})
        elif wanted is not None and ON_THE_HUB.fullmatch(wanted):
            if path.is_dir():
                yield (
                    f"{path} is a folder here now, and the plan took it from the hub; move the"
                    " folder, or run the same command again"
                )
            yield from self._snapshot(wanted)
        elif (path / store.MANIFEST).is_file():
            name = str(value.get("step") or path)
            yield from self._artifact(path, name, wanted, "name another artifact in its place")
        elif not path.exists():
            yield f"{path} is gone; {AGAIN}"
        elif wanted is not None and self._digests.path(path) != wanted:
            changed = self._changed_below(path)
            yield from changed or [f"{path} was changed since it was planned; {AGAIN}"]

    def _snapshot(self, part: str) -> Iterator[str]:
        """Only what is in the cache; the rest is fetched at its commit when it is opened."""
        folder = identity.hub_snapshot(part)
        if folder is None:
            return
        for damage in identity.snapshot_damages(folder, self._digests):
            yield f"{damage}; remove {folder} and its blobs, and fetch it again (mlalign fetch)"

    def _configured(self) -> Iterator[str]:
        """The files that the configuration and the settings of scorers name."""
        planned = self._step.get("read") or {}
        changed = list(self._changed(planned.get("files") or {}))
        yield from changed
        if changed or not planned.get("config"):
            return
        module = stages.load(self._step["stage"])
        key = f"steps.{self._step['step']}.config"
        cfg = schema.build(module.Config, self._step["config"], key=key)
        now = module.identity(cfg, self._digests.path)
        for name, wanted in planned["config"].items():
            if store.fingerprint({name: now.get(name)}) != wanted:
                problem = "its files are no longer those of the plan (one more, or one less)"
                yield f"config.{name}: {problem}; {AGAIN}"

    def _changed_below(self, folder: Path) -> list[str]:
        """Which files below a folder are not those of the plan, or are new."""
        files = (self._step.get("read") or {}).get("files") or {}
        planned = {p: digest for p, digest in files.items() if Path(p).is_relative_to(folder)}
        if not planned:
            return []
        problems = list(self._changed(planned))
        if folder.is_dir():
            for path in digests.tree(folder).values():
                if str(path.absolute()) not in planned:
                    problems.append(f"{path} was not there when this was planned; {AGAIN}")
        return problems

    def _changed(self, planned: Mapping[str, str]) -> Iterator[str]:
        self._digests.files(Path(p) for p in planned if Path(p).is_file())
        for path, wanted in planned.items():
            if not Path(path).is_file():
                yield f"{path} is gone; {AGAIN}"
            elif self._digests.file(path) != wanted:
                yield f"{path} was changed since it was planned; {AGAIN}"


def externals(value: Any) -> Iterator[Mapping]:
    """Everything in resolved inputs that has a path and an identity of its own, at any depth."""
    if isinstance(value, list):
        for item in value:
            yield from externals(item)
    elif isinstance(value, Mapping):
        is_external = "artifact" not in value and isinstance(value.get("path"), str)
        if is_external and value.get("identity") is not None:
            yield value
        for item in value.values():
            yield from externals(item)
