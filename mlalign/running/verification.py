"""What a step reads is verified where it is used: once when it begins, and by a look at the files
whenever it keeps a result.

A plan takes the identity of everything that a step reads; the step's frozen configuration holds it.
Weights that are swapped between plan and use, or while a step runs, would otherwise give a result
under a fingerprint that stands for others.

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
    """The inputs of one step. `told` is its frozen configuration."""

    def __init__(
        self, told: Mapping[str, Any], the_store: store.Store, known: digests.Digests | None = None
    ):
        self._told, self._store, self._digests = told, the_store, known or the_store.digests
        self._watch: digests.Watch | None = None

    def check(self) -> None:
        """Compare everything with what is recorded; what was hashed before and not touched since is
        only looked at.

        Raises: UserError that names the files that differ, and the mend.
        """
        with self._digests.recording() as files:
            wrong = list(dict.fromkeys(self._problems()))
        self._digests.save()
        if wrong:
            more = [f"… and {len(wrong) - SHOWN} more"] if len(wrong) > SHOWN else []
            raise UserError(
                *(f"{self._told['step']}: {problem}" for problem in wrong[:SHOWN]), *more
            )
        self._watch = digests.Watch(self._digests, files)

    def still(self) -> None:
        """The same where anything was touched since; costs a look at each file.

        Raises: UserError as `check` does.
        """
        if self._watch is None or not self._watch.untouched():
            self.check()

    def _problems(self) -> Iterator[str]:
        given = self._told.get("input_digests") or {}
        for source in state.sources(self._told):
            yield from self._artifact(
                self._store.root / source["artifact"], source["step"], given.get(source["step"])
            )
        yield from self.elsewhere()

    def elsewhere(self) -> Iterator[str]:
        """What differs of that which no step of this store made."""
        for value in externals(self._told["inputs"]):
            yield from self._external(value)
        yield from self._configured()

    # ------------------------------------------------------------------------------------ artifacts

    def _artifact(
        self, path: Path, name: str, wanted: str | None = None, other: str = ""
    ) -> Iterator[str]:
        """An artifact, and what it leads to: the choice of a `select` step, the base of an adapter.

        `other` is another way out.
        """
        if not (path / store.MANIFEST).is_file():
            yield f"its input {name} is not there ({path}); compute it with from={name}"
            return
        manifest, mend = (
            store.read_manifest(path),
            f"put the file back, or {other or f'compute it again with force={name}'}",
        )
        if wanted not in (None, manifest["content_digest"]):
            yield (
                f"its input {name} ({path}) has other content than when this step was planned; run"
                " the same command again"
            )
        if wrong := store.damage(path, manifest, self._digests):
            yield f"its input {name}: {wrong}; {mend}"
            return
        if extra := [
            p for p in store.strays(path, manifest) if p.relative_to(path).parts[0] == "model"
        ]:
            yield (
                f"its input {name}: {extra[0]} is no part of it and would be read with the model;"
                " move the file elsewhere"
            )
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
        told = store.read_json(path / "model" / "adapter_config.json")["base_model_name_or_path"]
        slots = manifest["inputs"].values()
        recorded = [v for value in slots for v in (value if isinstance(value, list) else [value])]
        artifact = (path / "model" / told).resolve().parent
        if not (artifact / store.MANIFEST).is_file():
            yield from (m for v in recorded if v.get("path") == told for m in self._external(v))
            return
        found = store.read_manifest(artifact)
        wanted = [
            v["content_digest"] for v in recorded if v.get("fingerprint") == found["fingerprint"]
        ]
        yield from self._artifact(artifact, found["step"])
        if wanted and found["content_digest"] != wanted[0]:
            yield (
                f"its input {name}: its base {artifact} has other content than in its training;"
                f" compute it again with force={name}"
            )

    # ------------------------------------------------------------------------------------ elsewhere

    def _external(self, value: Mapping) -> Iterator[str]:
        """Something that mlalign did not make, or an artifact that is named by its path."""
        path, wanted = Path(value["path"]).expanduser(), value.get("identity")
        if isinstance(wanted, list):  # an adapter's own and its base's
            yield from self._external({**value, "identity": wanted[0]})
            yield from (
                self._external({"path": weight_files.base_of(str(path)), "identity": wanted[1]})
                if path.is_dir()
                else ()
            )
        elif wanted is not None and ON_THE_HUB.fullmatch(wanted):
            if path.is_dir():
                yield (
                    f"{path} is a folder here now, and the plan took it from the hub; move the"
                    " folder, or run the same command again"
                )
            yield from self._snapshot(wanted)
        elif (path / store.MANIFEST).is_file():
            yield from self._artifact(
                path, str(value.get("step") or path), wanted, "name another artifact in its place"
            )
        elif not path.exists():
            yield f"{path} is gone; {AGAIN}"
        elif wanted is not None and self._digests.path(path) != wanted:
            yield from self._changed_below(path) or [
                f"{path} was changed since it was planned; {AGAIN}"
            ]

    def _snapshot(self, part: str) -> Iterator[str]:
        """Only what lies in the cache: what does not is fetched at its commit when it is opened."""
        folder = identity.hub_snapshot(part)
        for wrong in identity.snapshot_damages(folder, self._digests) if folder else ():
            yield f"{wrong}; remove {folder} and its blobs, and fetch it again (mlalign fetch)"

    def _configured(self) -> Iterator[str]:
        """The files that the configuration and the settings of scorers name."""
        told = self._told.get("read") or {}
        wrong = list(self._changed(told.get("files") or {}))
        yield from wrong
        if wrong or not told.get("config"):
            return
        module = stages.load(self._told["stage"])
        cfg = schema.build(
            module.Config, self._told["config"], key=f"steps.{self._told['step']}.config"
        )
        now = module.identity(cfg, self._digests.path)
        for name, wanted in told["config"].items():
            if store.fingerprint({name: now.get(name)}) != wanted:
                yield (
                    f"config.{name}: its files are no longer those of the plan (one more, or one"
                    f" less); {AGAIN}"
                )

    def _changed_below(self, folder: Path) -> list[str]:
        """Which files below a folder are not those of the plan, or are new."""
        planned = {
            p: d
            for p, d in ((self._told.get("read") or {}).get("files") or {}).items()
            if Path(p).is_relative_to(folder)
        }
        if not planned:
            return []
        new = (
            [p for p in digests.tree(folder).values() if str(p.absolute()) not in planned]
            if folder.is_dir()
            else []
        )
        return [
            *self._changed(planned),
            *(f"{p} was not there when this was planned; {AGAIN}" for p in new),
        ]

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
        if (
            "artifact" not in value
            and isinstance(value.get("path"), str)
            and value.get("identity") is not None
        ):
            yield value
        for item in value.values():
            yield from externals(item)
