"""What the files of a model directory say about it, without loading its weights: head, number types, size, base of an adapter.

Reads `adapter_config.json` and the headers of `*.safetensors` (8 bytes of length, then JSON); never a pickle.
"""

import dataclasses
import json
import math
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlalign.errors import UserError

DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "float8", "F8_E5M2": "float8"}
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclasses.dataclass(frozen=True)
class Weights:
    """Name -> (type, shape) of every tensor in a directory's safetensors files."""

    tensors: dict[str, tuple[str, tuple[int, ...]]]

    @property
    def parameters(self) -> int:
        return sum(math.prod(shape) for _, shape in self.tensors.values())

    @property
    def dtypes(self) -> dict[str, int]:
        """Type -> how many numbers have it, the commonest first."""
        counts: Counter = Counter()
        for dtype, shape in self.tensors.values():
            counts[dtype] += math.prod(shape)
        return dict(counts.most_common())


def weights(folder: Path) -> Weights | None:
    """None if the directory has no safetensors file. Raises: UserError for one that is cut off or something else."""
    files = sorted(folder.glob("*.safetensors"))
    return Weights(dict(entry for file in files for entry in _header(file))) if files else None


def base_of(folder: Path) -> str | None:
    """What an adapter directory names as its base, relative to it if it is a directory there; None for a full model."""
    file = folder / "adapter_config.json"
    if not file.is_file():
        return None
    try:
        told = json.loads(file.read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{file}: names no base_model_name_or_path; save the adapter with PEFT's save_pretrained") from None
    beside = folder / str(told)
    return str(beside.resolve()) if beside.is_dir() else str(told)


def _is_tensor(told: Any) -> bool:
    """Whether an entry of a safetensors header has its three parts, each of the right type."""
    if not isinstance(told, dict) or not isinstance(told.get("dtype"), str):
        return False
    offsets, shape = told.get("data_offsets"), told.get("shape")
    both = isinstance(offsets, list) and len(offsets) == 2 and isinstance(shape, list)
    return both and all(type(n) is int and n >= 0 for n in [*offsets, *shape])


def _header(file: Path) -> Iterator[tuple[str, tuple[str, tuple[int, ...]]]]:
    with open(file, "rb") as f:
        start = f.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        try:
            told = json.loads(f.read(length)) if 0 < length <= file.stat().st_size - 8 else None
        except (ValueError, RecursionError):
            told = None
    tensors = {name: tensor for name, tensor in told.items() if name != "__metadata__"} if isinstance(told, dict) else {}
    if not all(map(_is_tensor, tensors.values())):
        raise UserError(f"{file}: its header describes no tensors; fetch it again")
    ends = [tensor["data_offsets"][1] for tensor in tensors.values()]
    if not isinstance(told, dict) or file.stat().st_size != 8 + length + max(ends, default=0):
        raise UserError(f"{file}: is no complete safetensors file; fetch it again")
    for name, tensor in tensors.items():
        yield name, (DTYPES.get(tensor["dtype"], tensor["dtype"].lower()), tuple(tensor["shape"]))
