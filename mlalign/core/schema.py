"""Typed configuration: dataclasses own names, types and defaults; plain mappings fill them.

A field is `what` (it changes the result and is part of the fingerprint) unless it is declared with
`how()` (workers, logging, device counts, batch per device, paths). `verbatim()` fields pass their
keys through to a class of another library; the allowed keys are read from that class's source
without importing it.
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

# What may stand in the annotation of another library's argument for its values to be checked.
TYPES = {
    "int": int, "float": float, "bool": bool, "str": str, "list": list, "dict": dict, "None": None,
    "Any": Any, "Optional": typing.Optional, "Union": typing.Union, "Literal": Literal,
}  # fmt: skip


def what(default: Any = dataclasses.MISSING, doc: str = "", **meta) -> Any:
    """A field that is part of the fingerprint. Mutable defaults are copied per instance.

    `added=True`: a field that came later. At its default it is not hashed, so that what was
    computed before it existed is still found.
    """
    return _field(default, {"doc": doc, **meta})


def how(default: Any = dataclasses.MISSING, doc: str = "", **meta) -> Any:
    """A field that changes how fast or where, never what: not part of the fingerprint."""
    return _field(default, {"doc": doc, "how": True, **meta})


def verbatim(
    source: str | Callable[[Mapping], str], doc: str = "", how_keys: frozenset = frozenset(),
    reserved: Mapping = types.MappingProxyType({}), default: Mapping | None = types.MappingProxyType({}),
) -> Any:  # fmt: skip
    """A mapping passed through to `package.module:Class`, whose field names it must use.

    `source` is that name, or a function of the surrounding configuration giving it. Keys in
    `how_keys` are not hashed; a key in `reserved` is refused with the reason that stands there.
    Where `default` is None, null is a value of its own.
    """
    metadata = {"doc": doc, "source": source, "how_keys": how_keys, "reserved": reserved}
    return _field(None if default is None else dict(default), metadata)


def _field(default: Any, metadata: dict) -> Any:
    if isinstance(default, dict | list):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def build(cls: type, values: Mapping, key: str = "", errors: list[str] | None = None) -> Any:
    """Fill dataclass `cls` from a mapping, checking names and types.

    Mistakes are appended to `errors` (each names the full key and the nearest valid one); the
    result is None if there was any. Without a list the first call raises them all as one UserError.
    """
    found: list[str] = []
    out = _build_dataclass(cls, values, key, found)
    if errors is not None:
        errors.extend(found)
    elif found:
        from mlalign.core.errors import UserError

        raise UserError(*found)
    return None if found else out


def _build_dataclass(cls: type, values: Mapping, key: str, errors: list[str]) -> Any:
    if not isinstance(values, Mapping):
        errors.append(f"{key}: expected a mapping, got {values!r}")
        return None
    fields = {f.name: f for f in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    kwargs = {}
    for name, value in values.items():
        full = f"{key}.{name}" if key else str(name)
        if name not in fields:
            errors.append(f"{full}: unknown key{nearest(name, fields)}")
        elif fields[name].metadata.get("source"):
            kwargs[name] = _verbatim(fields[name], value, values, full, errors)
        else:
            kwargs[name] = _convert(hints[name], value, full, errors)
    for name, field in fields.items():
        required = (
            field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        )
        if required and name not in values:
            meaning = field.metadata.get("doc")
            errors.append(f"{key}.{name}: missing; set it" + (f" ({meaning})" if meaning else ""))
    if errors:
        return None
    return cls(**kwargs)


def _verbatim(
    field: dataclasses.Field, value: Any, around: Mapping, key: str, errors: list[str]
) -> dict | None:
    if value is None and field.default is None:
        return None
    if not isinstance(value, Mapping):
        errors.append(f"{key}: expected a mapping, got {value!r}")
        return {}
    source = field.metadata["source"]
    source = source(around) if callable(source) else source
    return (
        arguments_for(source, value, key, errors, field.metadata["reserved"])
        if source
        else _unreserved(value, field, key, errors)
    )


def _unreserved(value: Mapping, field: dataclasses.Field, key: str, errors: list[str]) -> dict:
    """Arguments for something whose names are not known here: all but the reserved ones pass."""
    errors.extend(
        f"{key}.{name}: {why}" for name, why in field.metadata["reserved"].items() if name in value
    )
    return dict(value)


def arguments_for(
    source: str,
    value: Mapping,
    key: str,
    errors: list[str],
    reserved: Mapping = types.MappingProxyType({}),
) -> dict:
    """Arguments for `package.module:Class`, with numbers in quotes made numbers.

    Mistakes in names and types are appended to `errors`.
    """
    allowed = annotations_of(source)
    checked = {}
    for name, given in value.items():
        if name in reserved:
            errors.append(f"{key}.{name}: {reserved[name]}")
        elif allowed is None:  # the package is not installed: plan says so
            checked[name] = given
        elif name not in allowed:
            errors.append(
                f"{key}.{name}: {source.split(':')[1]} has no such argument{nearest(name, allowed)}"
            )
        else:
            checked[name] = _argument(allowed[name], given, f"{key}.{name}", source, errors)
    return checked


def _argument(annotation: str, value: Any, key: str, source: str, errors: list[str]) -> Any:
    """A value for an argument of another library; a whole number stays one, as 1 and 1.0 have
    different fingerprints.

    vLLM's annotations leave out the None that its defaults are.
    """
    if value is None and source.startswith("vllm."):
        return None
    converted = _convert(_hint(annotation), value, key, errors)
    return value if converted == value and not isinstance(value, float) else converted


@functools.cache
def _hint(annotation: str) -> Any:
    """The type that an annotation's text stands for; Any if it names a class of the library."""
    try:
        tree = ast.parse(annotation.strip().strip("\"'"), mode="eval")
    except SyntaxError:  # it goes on in the next line
        return Any
    if any(isinstance(node, ast.Name) and node.id not in TYPES for node in ast.walk(tree)):
        return Any
    return eval(compile(tree, "annotation", "eval"), {"__builtins__": {}}, dict(TYPES))


def _convert(hint: Any, value: Any, key: str, errors: list[str]) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
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
        return [_convert(args[0], v, f"{key}[{i}]", errors) for i, v in enumerate(value)]
    if origin is dict and isinstance(value, Mapping):
        keys = {
            k: _convert(int, k, f"{key}.{k}", errors) if args and args[0] is int else k
            for k in value
        }
        return {
            keys[k]: _convert(args[1] if args else Any, v, f"{key}.{k}", errors)
            for k, v in value.items()
        }
    return _convert_scalar(origin or hint, value, key, errors)


def _convert_union(args: tuple, value: Any, key: str, errors: list[str]) -> Any:
    if value is None and type(None) in args:
        return None
    problems: list[str] = []
    for arg in (a for a in args if a is not type(None)):
        trial: list[str] = []
        out = _convert(arg, value, key, trial)
        if not trial:
            return out
        problems = problems or trial
    errors.extend(problems)
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
    if isinstance(value, kind) and not (kind in (int, float) and isinstance(value, bool)):
        return value
    names = {
        str: "text",
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        dict: "a mapping",
        list: "a list",
    }
    hint = "; a bare `no` in YAML is False: quote it" if value is False and kind is str else ""
    errors.append(f"{key}: expected {names.get(kind, kind.__name__)}, got {value!r}{hint}")
    return value


def hashed(cfg: Any) -> dict:
    """The part of a configuration that is fingerprinted, nested ones too.

    Left out are fields declared `how`, and those declared `later` at their default.
    """
    out = {}
    for f in dataclasses.fields(cfg):
        value = getattr(cfg, f.name)
        if f.metadata.get("how") or (f.metadata.get("added") and value == _default_of(f)):
            continue
        if dataclasses.is_dataclass(value):
            value = hashed(value)
        elif f.metadata.get("source") and value is not None:
            value = {k: v for k, v in value.items() if k not in f.metadata["how_keys"]}
        elif isinstance(value, list):
            value = [hashed(v) if dataclasses.is_dataclass(v) else v for v in value]
        out[f.name] = value
    return out


def _default_of(field: dataclasses.Field) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def fields_of(source: str) -> frozenset[str] | None:
    """Field names of `package.module:Class` and its bases; None if the package is not installed."""
    found = annotations_of(source)
    return None if found is None else frozenset(found)


@functools.cache
def annotations_of(source: str) -> dict[str, str] | None:
    """Fields of `package.module:Class` and its bases with the text of their types, read from
    source; None if it is not installed.
    """
    module, _, cls = source.partition(":")
    path = source_file(module)
    return _class_fields(path, module, cls) if path else None


def source_file(module: str) -> Path | None:
    package, *rest = module.split(".")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    base = Path(spec.submodule_search_locations[0], *rest)
    return next((p for p in (base.with_suffix(".py"), base / "__init__.py") if p.is_file()), None)


def _class_fields(path: Path, module: str, cls: str) -> dict[str, str]:
    body = class_source(path, cls)
    found = dict(re.findall(r"^    ([a-z]\w*)\s*:([^=\n]*)", body, re.MULTILINE))
    bases = re.match(rf"class {cls}\(([^)]*)\)", body)
    for base in re.findall(r"[\w.]+", bases[1]) if bases else []:
        where, name = _imported_from(
            _text(path), base, module, is_package=path.name == "__init__.py"
        ) or (module, base)
        if (where, name) != (module, cls) and (source := source_file(where)):
            found = _class_fields(source, where, name) | found
    return found


def class_source(path: Path, cls: str) -> str:
    """The text of a class up to its first method, without docstrings; empty if it is not there.

    Fields are found in it by pattern: parsing the files of TRL and vLLM took a fifth of the time of
    a plan. A test compares the outcome with the classes themselves.
    """
    found = re.search(
        rf"^class {cls}\b.*?(?=^    (?:async )?def |^    @|^[A-Za-z_@]|\Z)",
        _text(path),
        re.MULTILINE | re.DOTALL,
    )
    return re.sub(r'r?""".*?"""', "", found[0], flags=re.DOTALL) if found else ""


@functools.cache
def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _imported_from(text: str, name: str, module: str, is_package: bool) -> tuple[str, str] | None:
    for statement in re.findall(
        r"^[ \t]*(from [\w.]+ import (?:\([^)]*\)|[^\n(]+))", text, re.MULTILINE
    ):
        node = ast.parse(statement).body[0] if name in statement else None
        if isinstance(node, ast.ImportFrom) and any(
            (a.asname or a.name) == name for a in node.names
        ):
            original = next(a.name for a in node.names if (a.asname or a.name) == name)
            parts = module.split(".")
            up = node.level - (1 if is_package else 0)
            prefix = parts[: len(parts) - up] if node.level else []
            target = ".".join([*prefix, *(node.module.split(".") if node.module else [])])
            return _defining_module(target, original)
    return None


def _defining_module(module: str, name: str) -> tuple[str, str]:
    """Follow `from transformers import TrainingArguments` to the file that defines the class."""
    if module == "transformers" and name == "TrainingArguments":
        return "transformers.training_args", name
    return module, name
