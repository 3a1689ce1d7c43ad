"""Which decoder a step of a plan will open, before it is there: its own files, or those of the model that it is trained from."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mlalign.core import identity
from mlalign.core.model import local_model
from mlalign.core.store import read_json
from mlalign.planner import architecture
from mlalign.planner.architecture import Architecture
from mlalign.planner.jobs import BYTES


class Decoder(NamedTuple):
    """A model of a plan; `same`: what tells it from others of the plan. `other_bytes`: weights beyond the decoder, as stored."""

    architecture: Architecture
    same: str
    other_bytes: int = 0


class Models:
    """Finds the decoders of a plan's inputs; every directory is read once."""

    def __init__(self, root: Path, inputs: Mapping[str, Mapping[str, Any]]):
        """`root` is the store's; `inputs`: step -> slot -> what stands in it."""
        self.root, self.inputs, self._read = root, inputs, dict[Path, Architecture | str]()

    def of(self, value: Any) -> Decoder | str:
        """The decoder behind an input, or why it is not known."""
        if isinstance(value, list):
            return self.of(value[0]) if value else "no model"
        if "artifact" in value:
            return self._of_step(value)
        folder = local_folder(value)
        if folder is None:
            return f"{value.get('path')} is not here yet"
        return self._of_folder(folder, str(value.get("identity", folder)))

    def _of_step(self, value: Mapping[str, Any]) -> Decoder | str:
        made = self.root / value["artifact"] / "model"
        if made.is_dir():
            return self._of_folder(made, value["artifact"])
        slots = self.inputs.get(value["step"], {})
        found = self.of(slots.get("model") or slots.get("candidates") or [])
        return found if isinstance(found, str) else found._replace(same=value["artifact"])

    def _of_folder(self, folder: Path, same: str) -> Decoder | str:
        base = local_model(folder, same).base
        if base is not None:
            inner = local_folder({"path": base.path})
            return f"{base.path} is not here yet" if inner is None else self._of_folder(inner, same)
        config = folder / "config.json"
        if not config.is_file():
            return f"{folder} has no config.json"
        told = read_json(config)
        found = architecture.from_config(told)
        if found is None:
            return f"the planner does not know {told.get('model_type')!r} models"
        return Decoder(found, same, _beyond(folder, found) if "text_config" in told else 0)


def local_folder(value: Mapping[str, Any]) -> Path | None:
    """The directory of an external model: itself, the `model` in an artifact, or the snapshot in the hub's cache; None if not here."""
    path = Path(str(value["path"])).expanduser()
    if path.is_dir():
        return path / "model" if (path / "model").is_dir() else path
    place = identity.hub_cache() / f"models--{str(value['path']).replace('/', '--')}"
    commit = str(value.get("identity", "")).partition("@")[2]
    named = place / "refs" / str(value.get("revision") or "main")
    if not commit and named.is_file():
        commit = named.read_text().strip()
    found = place / "snapshots" / commit
    return found if commit and (found / "config.json").is_file() else None


def _beyond(folder: Path, a: Architecture) -> int:
    """Bytes of weights that are not the decoder's (a vision tower), by what the safetensors files say."""
    return max(0, stored_parameters(folder, BYTES.get(a.dtype, 4)) - a.parameters()) * BYTES.get(a.dtype, 4)


def stored_parameters(folder: Path, size: int) -> int:
    """How many numbers a model's safetensors files hold; `size`: bytes of each, where only an index is here. 0 without any."""
    index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
    if index.is_file():
        told = read_json(index)["metadata"]
        return int(told.get("total_parameters") or told["total_size"] // size)
    return sum(map(_numel, header(single).values())) if single.is_file() else 0


def header(path: Path) -> dict[str, Any]:
    """The header of a safetensors file: name -> dtype, shape and place (the format's README)."""
    with open(path, "rb") as file:
        length = struct.unpack("<Q", file.read(8))[0]
        return {k: v for k, v in json.loads(file.read(length)).items() if k != "__metadata__"}


def _numel(told: Mapping[str, Any]) -> int:
    n = 1
    for size in told["shape"]:
        n *= size
    return n
