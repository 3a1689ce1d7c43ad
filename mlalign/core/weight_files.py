"""What lies in a model directory or under a hub id: its files, its JSON, and the headers of its
weights. No weights are read.

Weights are read from `*.safetensors` alone. Pickled ones (`pytorch_model.bin`, `adapter_model.bin`)
are refused with the command that converts them: a pickle can run code, and its contents cannot be
checked without opening it.
"""

import json
import math
import struct
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlalign.core.errors import UserError

ADAPTER = "adapter_config.json"
DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8",
    "F8_E5M2": "float8",
}
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
SINGLE = {"model": "model.safetensors", "adapter": "adapter_model.safetensors"}
INDEX = "model.safetensors.index.json"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
)
PICKLES = {"model": "pytorch_model*.bin", "adapter": "adapter_model.bin"}


@dataclass(frozen=True)
class Tensors:
    """Name -> (type, shape) of every tensor in some safetensors files."""

    by_name: Mapping[str, tuple[str, tuple[int, ...]]]

    @property
    def parameters(self) -> int:
        return sum(math.prod(shape) for _, shape in self.by_name.values())

    @property
    def dtypes(self) -> dict[str, int]:
        """Type -> how many numbers have it, the commonest first."""
        counts: Counter = Counter()
        for dtype, shape in self.by_name.values():
            counts[dtype] += math.prod(shape)
        return dict(counts.most_common())


def find(
    path: str, name: str, revision: str | None = None, *, required: bool = False
) -> Path | None:
    """A file of a directory, or of a hub id (downloaded into the cache); None if it has none of
    this name.

    Raises: UserError if `path` is neither, or if a `required` file is not there.
    """
    if Path(path).is_dir():
        file: Path | None = Path(path) / name
        file = file if file is not None and file.is_file() else None
    else:
        file = _from_hub(path, name, revision, required)
    if file is None and required:
        raise UserError(
            f"{path}: has no {name}; save the whole model there with save_pretrained, or fetch it"
            " again"
        )
    return file


def _from_hub(path: str, name: str, revision: str | None, required: bool) -> Path | None:
    from transformers.utils import cached_file

    try:
        found = cached_file(
            path, name, revision=revision, _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=required,
        )  # fmt: skip
    except (OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{path}: neither a directory here nor a hub id that can be reached ({reason})"
        ) from None
    return Path(found) if found else None


def read_object(file: Path) -> dict[str, Any]:
    """A JSON file that holds an object. Raises: UserError naming the file."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{file}: is no JSON ({str(error).splitlines()[0]}); fetch it again or mend it"
        ) from None
    if not isinstance(value, dict):
        raise UserError(
            f"{file}: holds a JSON {type(value).__name__} where an object {{…}} belongs; fetch it"
            " again or mend it"
        )
    return value


def base_of(path: str, revision: str | None = None) -> str | None:
    """What an adapter stands on, a directory or a hub id; None for a full model.

    A directory may be named from the adapter's own or from the working directory.
    Raises: UserError if the adapter names no base, or a directory that is not there.
    """
    file = find(path, ADAPTER, revision)
    if file is None:
        return None
    named = read_object(file).get("base_model_name_or_path")
    if not isinstance(named, str) or not named.strip():
        raise UserError(
            f"{file}: base_model_name_or_path is {named!r}; write the directory or the hub id of"
            " the adapter's base there"
        )
    for place in (Path(path) / named, Path(named).expanduser()):
        if not place.is_dir():
            continue
        if place.resolve() == Path(path).resolve():
            raise UserError(
                f"{file}: base_model_name_or_path names the adapter itself; name the full model"
                " that it was trained on"
            )
        return str(place.resolve())
    if named.startswith(("/", ".", "~")) or named.count("/") > 1:
        raise UserError(
            f"{file}: base_model_name_or_path names {named}, which is no directory here, neither "
            f"from {path} nor from {Path.cwd()}; write the directory of the adapter's base there"
        )
    return named


def weights(folder: Path) -> Tensors | None:
    """The tensors of all safetensors files in a directory; None without any.

    Raises: UserError for a broken file.
    """
    files = sorted(folder.glob("*.safetensors"))
    return _tensors(files) if files else None


def tensors(
    path: str, revision: str | None = None, kind: str = "model", name: str | None = None
) -> Tensors:
    """The tensors that a loader would read for a `model` or an `adapter`; `name`: of another file
    than the usual one.

    Raises: UserError if there are no such weights, only pickled ones, or broken ones.
    """
    single = find(path, name or SINGLE[kind], revision)
    if single is not None and single.suffix == ".safetensors":
        return _tensors([single])
    index = single or (find(path, INDEX, revision) if kind == "model" else None)
    if index is None:
        raise UserError(_without_safetensors(path, kind))
    return _tensors_once(index, _of_index(path, index, revision))


def _of_index(path: str, index: Path, revision: str | None) -> list[Path]:
    """The files that an index names. Raises: UserError if it names none, or one that is not there."""
    names = read_object(index).get("weight_map")
    if (
        not isinstance(names, dict)
        or not names
        or not all(isinstance(name, str) for name in names.values())
    ):
        raise UserError(f"{index}: has no weight_map from names to files; fetch it again")
    outside = sorted(
        {name for name in names.values() if Path(name).is_absolute() or ".." in Path(name).parts}
    )
    if outside:
        raise UserError(
            f"{index}: names {outside[0]}, which lies outside the model's folder; put the whole"
            " model into one folder"
        )
    files = {name: find(path, name, revision) for name in sorted(set(names.values()))}
    lost = [name for name, file in files.items() if file is None]
    if lost:
        raise UserError(
            f"{index}: names {', '.join(lost[:4])}, which is not there; fetch the model again"
        )
    return [file for file in files.values() if file is not None]


def _without_safetensors(path: str, kind: str) -> str:
    folder = Path(path)
    if not folder.is_dir():
        return (
            f"{path}: has no {SINGLE[kind]}, and pickled weights are never opened; `hf download"
            f" {path} --local-dir DIR`, name DIR, and the message then gives the command that"
            " converts them"
        )
    if not list(folder.glob(PICKLES[kind])):
        return (
            f"{path}: has no weights ({SINGLE[kind]}); save the whole model there with"
            " save_pretrained, or fetch it again"
        )
    return (
        f"{path}: has pickled weights ({PICKLES[kind]}), which are never opened; convert them, then"
        f" go on:\n  {conversion(folder, kind)}"
    )


def conversion(folder: Path, kind: str) -> str:
    """The shell command that turns pickled weights into safetensors: all of them, under their
    names, read as tensors alone.
    """
    source, target = folder.absolute() / PICKLES[kind], folder.absolute() / SINGLE[kind]
    code = (
        "import glob, sys, torch; from safetensors.torch import save_file; w = {k: v for f in"
        " sorted(glob.glob(sys.argv[1])) for k, v in torch.load(f, map_location='cpu',"
        " weights_only=True).items()}; save_file({k: v.clone().contiguous() for k, v in w.items()},"
        " sys.argv[2], {'format': 'pt'})"
    )
    return f'python -c "{code}" {_quoted(source)} {_quoted(target)}'


def _quoted(path: Path) -> str:
    import shlex

    return shlex.quote(str(path))


def _tensors(files: Iterable[Path]) -> Tensors:
    by_name: dict[str, tuple[str, tuple[int, ...]]] = {}
    for file in files:
        by_name |= header(file)
    return Tensors(by_name)


def _tensors_once(index: Path, files: Iterable[Path]) -> Tensors:
    """The tensors of an index's files. Raises: UserError if two files hold one of the same name."""
    holder: dict[str, Path] = {}
    by_name: dict[str, tuple[str, tuple[int, ...]]] = {}
    for file in files:
        for name, told in header(file).items():
            if name in holder:
                raise UserError(
                    f"{index}: two of its files hold {name} ({holder[name].name} and {file.name}),"
                    " and nobody can know which is the model's; save or fetch it again into an"
                    " empty folder"
                )
            holder[name], by_name[name] = file, told
    return Tensors(by_name)


def header(file: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Name -> (type, shape) in one safetensors file: 8 bytes of length, JSON, then the numbers.

    Raises: UserError if the file is cut off or something else.
    """
    broken = UserError(f"{file}: is no complete safetensors file; fetch it again")
    try:
        size = file.stat().st_size
        with open(file, "rb") as f:
            start = f.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            text = f.read(length) if 0 < length <= size - 8 else b""
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None
    try:
        entries = {
            name: entry for name, entry in json.loads(text).items() if name != "__metadata__"
        }
        end = max((_count(entry["data_offsets"][1]) for entry in entries.values()), default=0)
        found = {
            name: (str(entry["dtype"]), tuple(_count(n) for n in entry["shape"]))
            for name, entry in entries.items()
        }
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        raise broken from None
    if size != 8 + length + end:
        raise broken
    return {
        name: (DTYPES.get(dtype, dtype.lower()), shape) for name, (dtype, shape) in found.items()
    }


def _count(value: Any) -> int:
    """A number of bytes or of rows. Raises: TypeError for anything else."""
    if type(value) is not int or value < 0:
        raise TypeError
    return value
