"""Which decoder a step of a plan will open: its own files, or before they exist those it is trained
from."""

import json
import math
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
    """A model of a plan.

    `same`: equal for equal models of the plan. `other_bytes`: weights beyond the decoder, as
    stored.
    """

    architecture: Architecture
    same: str
    other_bytes: int = 0


class Models:
    """Finds the decoders of a plan's inputs."""

    def __init__(self, root: Path, origins: Mapping[str, Any]):
        """`root` is the store's; `origins`: step -> the input that its model is made from."""
        self.root = root
        self.origins = origins

    def of(self, value: Any) -> Decoder | str:
        """The decoder behind an input, or the reason why it is not known."""
        if isinstance(value, list):
            return self.of(value[0]) if value else "no model"
        if "artifact" in value:
            return self._of_step(value)
        folder = local_folder(value)
        if folder is None:
            return _missing(value.get("path"))
        return self._of_folder(folder, str(value.get("identity", folder)))

    def _of_step(self, value: Mapping[str, Any]) -> Decoder | str:
        folder = self.root / value["artifact"] / "model"
        if folder.is_dir():
            return self._of_folder(folder, value["artifact"])
        origin = self.of(self.origins.get(value["step"], []))
        return origin if isinstance(origin, str) else origin._replace(same=value["artifact"])

    def _of_folder(self, folder: Path, same: str) -> Decoder | str:
        base = local_model(folder, same).base
        if base is not None:
            base_folder = local_folder({"path": base.path})
            if base_folder is None:
                return _missing(base.path)
            return self._of_folder(base_folder, same)
        path = folder / "config.json"
        if not path.is_file():
            return f"{folder} has no config.json"
        config = read_json(path)
        decoder = architecture.from_config(config)
        if decoder is None:
            return f"the planner does not know {config.get('model_type')!r} models"
        other_bytes = _other_bytes(folder, decoder) if "text_config" in config else 0
        return Decoder(decoder, same, other_bytes)


def _missing(path: Any) -> str:
    return f"{path} is not here yet"


def local_folder(value: Mapping[str, Any]) -> Path | None:
    """The directory of an external model, or None if it is not here.

    It is the path itself, the `model` in an artifact, or the snapshot in the hub's cache.
    """
    path = Path(str(value["path"])).expanduser()
    if path.is_dir():
        return path / "model" if (path / "model").is_dir() else path
    cached = identity.hub_cache() / f"models--{str(value['path']).replace('/', '--')}"
    commit = str(value.get("identity", "")).partition("@")[2]
    branch = cached / "refs" / str(value.get("revision") or "main")
    if not commit and branch.is_file():
        commit = branch.read_text().strip()
    snapshot = cached / "snapshots" / commit
    return snapshot if commit and (snapshot / "config.json").is_file() else None


def _other_bytes(folder: Path, a: Architecture) -> int:
    """Bytes of weights that are not the decoder's (a vision tower), by what the safetensors files
    say."""
    size = BYTES.get(a.dtype, 4)
    return max(0, stored_parameters(folder, size) - a.parameters()) * size


def stored_parameters(folder: Path, size: int) -> int:
    """How many numbers a model's safetensors files hold; 0 without any.

    `size`: bytes of each, for an index that only has the total in bytes.
    """
    index = folder / "model.safetensors.index.json"
    single = folder / "model.safetensors"
    if index.is_file():
        metadata = read_json(index)["metadata"]
        return int(metadata.get("total_parameters") or metadata["total_size"] // size)
    if not single.is_file():
        return 0
    return sum(math.prod(tensor["shape"]) for tensor in header(single).values())


def header(path: Path) -> dict[str, Any]:
    """The header of a safetensors file: name -> dtype, shape and offsets (the format's README)."""
    with open(path, "rb") as file:
        length = struct.unpack("<Q", file.read(8))[0]
        tensors: dict[str, Any] = json.loads(file.read(length))
    tensors.pop("__metadata__", None)
    return tensors
