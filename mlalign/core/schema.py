"""Typed configuration: dataclasses own names, types and defaults; plain mappings fill them.

A `what()` field changes the result and is part of the fingerprint; a `how()` field (workers,
logging, device counts, batch per device, paths) is not. A `verbatim()` field passes its keys to a
class of another library; the allowed keys are read from that class's source without importing it.
"""

import ast
import contextlib
import dataclasses
import functools
import importlib.util
import math
import re
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from mlalign.core.errors import nearest

# Training arguments that do not change the trained weights beyond floating-point noise: not hashed.
HOW_TRAINER = frozenset(
    "output_dir run_name logging_dir logging_strategy logging_first_step logging_steps report_to"
    " disable_tqdm log_level log_level_replica log_on_each_node log_completions save_strategy"
    " save_steps save_total_limit save_on_each_node per_device_train_batch_size"
    " per_device_eval_batch_size gradient_accumulation_steps gradient_checkpointing"
    " gradient_checkpointing_kwargs activation_offloading dataloader_num_workers"
    " dataloader_pin_memory dataloader_persistent_workers dataloader_prefetch_factor"
    " dataset_num_proc deepspeed fsdp fsdp_config ddp_find_unused_parameters ddp_bucket_cap_mb"
    " ddp_timeout use_cpu torch_compile torch_empty_cache_steps skip_memory_metrics project"
    " trackio_space_id precompute_ref_batch_size".split()
)
# Engine arguments that say how fast, not what: not hashed.
HOW_ENGINE = frozenset(
    "tensor_parallel_size pipeline_parallel_size data_parallel_size gpu_memory_utilization"
    " max_num_seqs max_num_batched_tokens disable_log_stats enforce_eager swap_space"
    " enable_prefix_caching download_dir".split()
)

# The values of another library's argument are checked if its annotation uses only these names.
TYPES = {
    "int": int,
    "float": float,
    "bool": bool,
    "str": str,
    "list": list,
    "dict": dict,
    "None": None,
    "Any": Any,
    "Optional": typing.Optional,
    "Union": typing.Union,
    "Literal": Literal,
}
TYPE_NAMES = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    dict: "a mapping",
    list: "a list",
}
NOTHING: Mapping = types.MappingProxyType({})


def what(default: Any = dataclasses.MISSING, doc: str = "", **meta) -> Any:
    """A field that is part of the fingerprint. Mutable defaults are copied per instance.

    `added=True` marks a field that was added later. It is not hashed at its default, so results
    from before it existed are still found.
    """
    return _field(default, {"doc": doc, **meta})


def how(default: Any = dataclasses.MISSING, doc: str = "", **meta) -> Any:
    """A field that changes how fast or where, but not what: not part of the fingerprint."""
    return _field(default, {"doc": doc, "how": True, **meta})


def verbatim(
    source: str | Callable[[Mapping], str],
    doc: str = "",
    how_keys: frozenset = frozenset(),
    reserved: Mapping = NOTHING,
    default: Mapping | None = NOTHING,
) -> Any:
    """A mapping passed through to `package.module:Class`, whose field names it must use.

    `source`: that name, or a function that gets it from the surrounding configuration.
    `how_keys`: keys that are not hashed. `reserved`: key -> the reason why it is refused.
    If `default` is None, null is a value of its own.
    """
    metadata = {"doc": doc, "source": source, "how_keys": how_keys, "reserved": reserved}
    own_default = None if default is None else dict(default)
    return _field(own_default, metadata)


def _field(default: Any, metadata: dict) -> Any:
    if isinstance(default, dict | list):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def build(cls: type, values: Mapping, key: str = "", errors: list[str] | None = None) -> Any:
    """Fill dataclass `cls` from a mapping, checking names and types; None if there are mistakes.

    Mistakes name the full key and the nearest valid one. They are appended to `errors`, or without
    that list raised together as one UserError.
    """
    own_errors: list[str] = []
    built = _build_dataclass(cls, values, key, own_errors)
    if errors is not None:
        errors.extend(own_errors)
    elif own_errors:
        from mlalign.core.errors import UserError

        raise UserError(*own_errors)
    return None if own_errors else built


def _build_dataclass(cls: type, values: Mapping, key: str, errors: list[str]) -> Any:
    if not isinstance(values, Mapping):
        errors.append(f"{key}: expected a mapping, got {values!r}")
        return None
    fields = {field.name: field for field in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    arguments = {}
    for name, value in values.items():
        full_key = f"{key}.{name}" if key else str(name)
        if name not in fields:
            errors.append(f"{full_key}: unknown key{nearest(name, fields)}")
        elif fields[name].metadata.get("source"):
            arguments[name] = _verbatim(fields[name], value, values, full_key, errors)
        else:
            arguments[name] = _convert(hints[name], value, full_key, errors)

    for name, field in fields.items():
        if name not in values and _is_required(field):
            meaning = field.metadata.get("doc")
            hint = f" ({meaning})" if meaning else ""
            errors.append(f"{key}.{name}: missing; set it{hint}")
    if errors:
        return None
    return cls(**arguments)


def _is_required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _verbatim(
    field: dataclasses.Field, value: Any, around: Mapping, key: str, errors: list[str]
) -> dict | None:
    if value is None and field.default is None:
        return None
    if not isinstance(value, Mapping):
        errors.append(f"{key}: expected a mapping, got {value!r}")
        return {}
    source = field.metadata["source"]
    reserved = field.metadata["reserved"]
    if callable(source):
        source = source(around)
    if source:
        return arguments_for(source, value, key, errors, reserved)

    # The class is not known here: every name passes but the reserved ones.
    errors.extend(f"{key}.{name}: {reason}" for name, reason in reserved.items() if name in value)
    return dict(value)


def arguments_for(
    source: str,
    values: Mapping,
    key: str,
    errors: list[str],
    reserved: Mapping = NOTHING,
) -> dict:
    """Arguments for `package.module:Class`, with numbers in quotes made numbers.

    Mistakes in names and types are appended to `errors`.
    """
    allowed = annotations_of(source)
    checked = {}
    for name, value in values.items():
        full_key = f"{key}.{name}"
        if name in reserved:
            errors.append(f"{full_key}: {reserved[name]}")
        elif allowed is None:  # the package is not installed: plan says so
            checked[name] = value
        elif name not in allowed:
            class_name = source.split(":")[1]
            hint = nearest(name, allowed)
            errors.append(f"{full_key}: {class_name} has no such argument{hint}")
        else:
            checked[name] = _argument(allowed[name], value, full_key, source, errors)
    return checked


def _argument(annotation: str, value: Any, key: str, source: str, errors: list[str]) -> Any:
    """A value converted to the type of another library's argument.

    A whole number is not made a float, because 1 and 1.0 have different fingerprints.
    """
    if value is None and source.startswith("vllm."):  # its annotations leave out None
        return None
    converted = _convert(_hint(annotation), value, key, errors)
    if converted == value and not isinstance(value, float):
        return value
    return converted


@functools.cache
def _hint(annotation: str) -> Any:
    """The type that the text of an annotation stands for; Any if it uses other names than TYPES."""
    try:
        tree = ast.parse(annotation.strip().strip("\"'"), mode="eval")
    except SyntaxError:  # an annotation over several lines, cut off
        return Any
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    if not names <= TYPES.keys():
        return Any
    return eval(compile(tree, "annotation", "eval"), {"__builtins__": {}}, dict(TYPES))


def _convert(hint: Any, value: Any, key: str, errors: list[str]) -> Any:
    """A value as the type that an annotation asks for; mistakes are appended to `errors`."""
    origin = typing.get_origin(hint)
    args = typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        return _convert_union(args, value, key, errors)
    if origin is Literal:
        if value not in args:
            errors.append(f"{key}: {value!r} is not possible{nearest(value, map(str, args))}")
        return value
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return _build_dataclass(hint, value, key, errors)
    if origin is list and isinstance(value, list | tuple):
        return [_convert(args[0], item, f"{key}[{i}]", errors) for i, item in enumerate(value)]
    if origin is dict and isinstance(value, Mapping):
        return _convert_dict(args, value, key, errors)
    return _convert_scalar(origin or hint, value, key, errors)


def _convert_dict(args: tuple, values: Mapping, key: str, errors: list[str]) -> dict:
    key_hint, value_hint = args or (Any, Any)
    converted = {}
    for name, value in values.items():
        full_key = f"{key}.{name}"
        typed_name = _convert(int, name, full_key, errors) if key_hint is int else name
        converted[typed_name] = _convert(value_hint, value, full_key, errors)
    return converted


def _convert_union(args: tuple, value: Any, key: str, errors: list[str]) -> Any:
    """The value as the first type that it fits; else the first type's mistakes are noted."""
    if value is None and type(None) in args:
        return None
    first_errors: list[str] = []
    for hint in args:
        if hint is type(None):
            continue
        own_errors: list[str] = []
        converted = _convert(hint, value, key, own_errors)
        if not own_errors:
            return converted
        first_errors = first_errors or own_errors
    errors.extend(first_errors)
    return None


def _convert_scalar(kind: type, value: Any, key: str, errors: list[str]) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is float and isinstance(value, str):  # YAML 1.1 reads 1e-6 as a string
        with contextlib.suppress(ValueError):
            value = float(value)
    if kind is int and isinstance(value, str) and re.fullmatch(r"[+-]?\d+", value):
        return int(value)
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, float) and not math.isfinite(value):
        errors.append(f"{key}: expected a finite number, got {value}")
        return value

    is_bool_for_number = kind in (int, float) and isinstance(value, bool)
    if isinstance(value, kind) and not is_bool_for_number:
        return value
    message = f"{key}: expected {TYPE_NAMES.get(kind, kind.__name__)}, got {value!r}"
    if value is False and kind is str:
        message += "; a bare `no` in YAML is False: quote it"
    errors.append(message)
    return value


def hashed(cfg: Any) -> dict:
    """The part of a configuration that is fingerprinted, including nested dataclasses.

    Fields declared `how` are left out, and `added` ones at their default.
    """
    identity = {}
    for field in dataclasses.fields(cfg):
        value = getattr(cfg, field.name)
        if field.metadata.get("how"):
            continue
        if field.metadata.get("added") and value == _default_of(field):
            continue

        if field.metadata.get("source") and value is not None:
            how_keys = field.metadata["how_keys"]
            value = {name: item for name, item in value.items() if name not in how_keys}
        elif isinstance(value, list):
            value = [_hashed_value(item) for item in value]
        identity[field.name] = _hashed_value(value)
    return identity


def _hashed_value(value: Any) -> Any:
    return hashed(value) if dataclasses.is_dataclass(value) else value


def _default_of(field: dataclasses.Field) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def fields_of(source: str) -> frozenset[str] | None:
    """Field names of `package.module:Class` and its bases; None if the package is not installed."""
    annotations = annotations_of(source)
    return None if annotations is None else frozenset(annotations)


@functools.cache
def annotations_of(source: str) -> dict[str, str] | None:
    """Field name -> text of its type, for `package.module:Class` and its bases.

    The source file is read, not imported. None if the package is not installed.
    """
    module, _, class_name = source.partition(":")
    file = source_file(module)
    return _class_fields(file, module, class_name) if file else None


def source_file(module: str) -> Path | None:
    """The file of a module, whose packages are not imported; None if it is not installed."""
    package, *inner = module.split(".")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    base = Path(spec.submodule_search_locations[0], *inner)
    for file in (base.with_suffix(".py"), base / "__init__.py"):
        if file.is_file():
            return file
    return None


def _class_fields(file: Path, module: str, class_name: str) -> dict[str, str]:
    body = class_source(file, class_name)
    fields = dict(re.findall(r"^    ([a-z]\w*)\s*:([^=\n]*)", body, re.MULTILINE))
    header = re.match(rf"class {class_name}\(([^)]*)\)", body)
    if header is None:
        return fields

    for base in re.findall(r"[\w.]+", header[1]):
        base_module, base_name = _origin(file, module, base)
        base_file = source_file(base_module)
        if base_file and (base_module, base_name) != (module, class_name):
            fields = _class_fields(base_file, base_module, base_name) | fields
    return fields


def class_source(path: Path, cls: str) -> str:
    """The text of a class up to its first method, without docstrings; empty if it is not there.

    Its fields are found by pattern, because parsing the files of TRL and vLLM took a fifth of the
    time of a plan. A test compares the outcome with the classes themselves.
    """
    match = re.search(
        rf"^class {cls}\b.*?(?=^    (?:async )?def |^    @|^[A-Za-z_@]|\Z)",
        _text(path),
        re.MULTILINE | re.DOTALL,
    )
    if match is None:
        return ""
    return re.sub(r'r?""".*?"""', "", match[0], flags=re.DOTALL)


@functools.cache
def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _origin(file: Path, module: str, name: str) -> tuple[str, str]:
    """Module and name of a class that a module uses as `name`."""
    statements = re.findall(
        r"^[ \t]*(from [\w.]+ import (?:\([^)]*\)|[^\n(]+))", _text(file), re.MULTILINE
    )
    for statement in statements:
        if name not in statement:
            continue
        node = ast.parse(statement).body[0]
        assert isinstance(node, ast.ImportFrom)
        for alias in node.names:
            if (alias.asname or alias.name) == name:
                is_package = file.name == "__init__.py"
                source = _absolute_module(node, module, is_package)
                return _defining_module(source, alias.name)
    return module, name


def _absolute_module(node: ast.ImportFrom, module: str, is_package: bool) -> str:
    """The module that `from … import` reads, relative ones resolved from `module`."""
    package = module if is_package else module.rpartition(".")[0]
    return importlib.util.resolve_name("." * node.level + (node.module or ""), package)


def _defining_module(module: str, name: str) -> tuple[str, str]:
    """Follow `from transformers import TrainingArguments` to the module that defines the class."""
    if module == "transformers" and name == "TrainingArguments":
        return "transformers.training_args", name
    return module, name
