"""The files of a model directory or hub id: their JSON, and the headers of their weights.

Only `*.safetensors` are opened. Pickled weights (`pytorch_model.bin`, `adapter_model.bin`) are
refused with the command that converts them: a pickle can run code, and its contents cannot be
checked without opening it.
"""

import json
import math
import struct
from collections import Counter
from collections.abc import Iterable
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
Header = dict[str, tuple[str, tuple[int, ...]]]  # name of a tensor -> (type, shape)


@dataclass(frozen=True)
class Tensors:
    """Name -> (type, shape) of every tensor in some safetensors files."""

    by_name: Header

    @property
    def parameters(self) -> int:
        return sum(math.prod(shape) for _, shape in self.by_name.values())

    @property
    def dtypes(self) -> dict[str, int]:
        """Type -> the number of parameters of that type, the commonest type first."""
        counts: Counter = Counter()
        for dtype, shape in self.by_name.values():
            counts[dtype] += math.prod(shape)
        return dict(counts.most_common())


def find(
    path: str, name: str, revision: str | None = None, *, required: bool = False
) -> Path | None:
    """A file of a directory, or of a hub id (downloaded into the cache); None if it is not there.

    Raises: UserError if `path` is neither, or if a `required` file is not there.
    """
    file: Path | None
    if Path(path).is_dir():
        file = Path(path) / name
        if not file.is_file():
            file = None
    else:
        file = _from_hub(path, name, revision, required)

    if file is None and required:
        raise UserError(
            f"{path}: has no {name};"
            " save the whole model there with save_pretrained, or fetch it again"
        )
    return file


def _from_hub(path: str, name: str, revision: str | None, required: bool) -> Path | None:
    from transformers.utils import cached_file

    try:
        file = cached_file(
            path,
            name,
            revision=revision,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=required,
        )
    except (OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{path}: neither a directory here nor a hub id that can be reached ({reason})"
        ) from None
    return Path(file) if file else None


def read_object(file: Path) -> dict[str, Any]:
    """A JSON file that holds an object. Raises: UserError naming the file."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{file}: is no JSON ({reason}); fetch it again or mend it") from None
    if not isinstance(value, dict):
        raise UserError(
            f"{file}: holds a JSON {type(value).__name__} where an object {{…}} belongs;"
            " fetch it again or mend it"
        )
    return value


def base_of(path: str, revision: str | None = None) -> str | None:
    """The base of an adapter, a directory or a hub id; None for a full model.

    A relative directory is looked up from the adapter's directory, then from the working directory.
    Raises: UserError if the adapter names no base, or a directory that is not there.
    """
    file = find(path, ADAPTER, revision)
    if file is None:
        return None
    base = read_object(file).get("base_model_name_or_path")
    if not isinstance(base, str) or not base.strip():
        raise UserError(
            f"{file}: base_model_name_or_path is {base!r};"
            " write the directory or the hub id of the adapter's base there"
        )

    folder = _directory(path, base)
    if folder == Path(path).resolve():
        raise UserError(
            f"{file}: base_model_name_or_path names the adapter itself;"
            " name the full model that it was trained on"
        )
    if folder is not None:
        return str(folder)
    looks_like_path = base.startswith(("/", ".", "~")) or base.count("/") > 1
    if looks_like_path:
        raise UserError(
            f"{file}: base_model_name_or_path names {base}, which is no directory here, neither "
            f"from {path} nor from {Path.cwd()}; write the directory of the adapter's base there"
        )
    return base


def _directory(adapter: str, base: str) -> Path | None:
    """The directory that an adapter names as its base, resolved; None if there is none."""
    for folder in (Path(adapter) / base, Path(base).expanduser()):
        if folder.is_dir():
            return folder.resolve()
    return None


def weights(folder: Path) -> Tensors | None:
    """The tensors of all safetensors files in a directory; None without any.

    Raises: UserError for a broken file.
    """
    files = sorted(folder.glob("*.safetensors"))
    return _tensors(files) if files else None


def tensors(
    path: str, revision: str | None = None, kind: str = "model", name: str | None = None
) -> Tensors:
    """The tensors that a loader would read for a `model` or an `adapter`.

    `name`: a file of weights, or their index, to read instead of the usual one.
    Raises: UserError if there are no such weights, only pickled ones, or broken ones.
    """
    file = find(path, name or SINGLE[kind], revision)
    if file is not None and file.suffix == ".safetensors":
        return _tensors([file])

    index = file
    if index is None and kind == "model":
        index = find(path, INDEX, revision)
    if index is None:
        raise UserError(_without_safetensors(path, kind))
    return _tensors_once(index, _of_index(path, index, revision))


def _of_index(path: str, index: Path, revision: str | None) -> list[Path]:
    """The files that an index names. Raises: UserError if it names none, or a missing one."""
    files = []
    missing = []
    for name in _names_in(index):
        file = find(path, name, revision)
        if file is None:
            missing.append(name)
        else:
            files.append(file)
    if missing:
        raise UserError(
            f"{index}: names {', '.join(missing[:4])}, which is not there; fetch the model again"
        )
    return files


def _names_in(index: Path) -> list[str]:
    """The names of files in an index, sorted. Raises: UserError for none, or names elsewhere."""
    by_tensor = read_object(index).get("weight_map")
    if not isinstance(by_tensor, dict) or not by_tensor:
        raise UserError(f"{index}: has no weight_map from names to files; fetch it again")
    if not all(isinstance(name, str) for name in by_tensor.values()):
        raise UserError(f"{index}: has no weight_map from names to files; fetch it again")

    names = sorted(set(by_tensor.values()))
    for name in names:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise UserError(
                f"{index}: names {name}, which lies outside the model's folder;"
                " put the whole model into one folder"
            )
    return names


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
            f"{path}: has no weights ({SINGLE[kind]});"
            " save the whole model there with save_pretrained, or fetch it again"
        )
    return (
        f"{path}: has pickled weights ({PICKLES[kind]}), which are never opened;"
        f" convert them, then go on:\n  {conversion(folder, kind)}"
    )


def conversion(folder: Path, kind: str) -> str:
    """The shell command that turns pickled weights into safetensors with the same names.

    The pickles are read with `weights_only`, so they cannot run code.
    """
    source = folder.absolute() / PICKLES[kind]
    target = folder.absolute() / SINGLE[kind]
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
    by_name: Header = {}
    for file in files:
        by_name |= header(file)
    return Tensors(by_name)


def _tensors_once(index: Path, files: Iterable[Path]) -> Tensors:
    """The tensors of an index's files. Raises: UserError if two files hold one of the same name."""
    holders: dict[str, Path] = {}
    by_name: Header = {}
    for file in files:
        for name, type_and_shape in header(file).items():
            if name in holders:
                raise UserError(
                    f"{index}: two of its files hold {name} ({holders[name].name} and {file.name}),"
                    " and nobody can know which is the model's;"
                    " save or fetch it again into an empty folder"
                )
            holders[name] = file
            by_name[name] = type_and_shape
    return Tensors(by_name)


def header(file: Path) -> Header:
    """Name -> (type, shape) of the tensors in one safetensors file.

    The file is 8 bytes with the length of the JSON header, the header, then the numbers.
    Raises: UserError if the file is cut off, or is another kind of file.
    """
    size, text = _size_and_header(file)
    try:
        entries = json.loads(text)
        entries.pop("__metadata__", None)
        end = 0
        tensors: Header = {}
        for name, entry in entries.items():
            end = max(end, _count(entry["data_offsets"][1]))
            dtype = str(entry["dtype"])
            shape = tuple(_count(n) for n in entry["shape"])
            tensors[name] = (DTYPES.get(dtype, dtype.lower()), shape)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        raise _broken(file) from None
    if size != 8 + len(text) + end:
        raise _broken(file)
    return tensors


def _size_and_header(file: Path) -> tuple[int, bytes]:
    """The size of a safetensors file in bytes, and its JSON header; empty if it is not whole."""
    try:
        size = file.stat().st_size
        with open(file, "rb") as f:
            start = f.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            text = f.read(length) if 0 < length <= size - 8 else b""
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None
    return size, text


def _broken(file: Path) -> UserError:
    return UserError(f"{file}: is no complete safetensors file; fetch it again")


def _count(value: Any) -> int:
    """A whole number that is not negative. Raises: TypeError for anything else."""
    if type(value) is not int or value < 0:
        raise TypeError
    return value
