"""Composing the chosen files: Hydra reads and merges them, and interpolations stay unresolved."""

import re
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from mlalign.core import secrecy, yaml_files
from mlalign.core.errors import UserError
from mlalign.recipes.conf_files import options

LONGEST_RESOLVED = 1_000_000  # characters that a text with interpolations may stand for
INTERPOLATION = re.compile(r"\$\{([\w.]+)\}")

# Resolvers do not get to know the key of a value that is resolved by itself.
resolved_key: ContextVar[str] = ContextVar("the key whose value is being resolved", default="")


def compose(choices: Mapping[str, str], folders: Sequence[Path]) -> dict[str, Any]:
    """The content of the chosen files (group -> name), merged with `config.yaml`.

    Raises: UserError if a file cannot be read, or if they do not fit together.
    """
    import hydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    _register_resolvers()
    _check_files(choices, folders)
    overrides = []
    if len(folders) > 1:
        own_folders = ",".join(f"file://{folder}" for folder in folders[:-1])
        overrides.append(f"hydra.searchpath=[{own_folders}]")
    for group, name in choices.items():
        overrides.append(f"{group}={_within_group(group, name, folders)}")

    try:
        with hydra.initialize_config_dir(str(folders[-1]), version_base=None):
            composed = hydra.compose("config", overrides)
            content: Any = OmegaConf.to_container(composed, resolve=False)
            return content
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        raise UserError(f"configuration: {' '.join(str(error).split())}") from None


def _within_group(group: str, name: str, folders: Sequence[Path]) -> str:
    """What Hydra calls a file: its path below the folder of its group."""
    path = options(group, folders)[name]
    home = next(folder for folder in folders if path.is_relative_to(folder / group))
    return str(path.relative_to(home / group).with_suffix(""))


def _check_files(choices: Mapping[str, str], folders: Sequence[Path]) -> None:
    """Raises: UserError for a person's own file that is too large to read; Hydra has no limits."""
    paths = [options(group, folders)[name] for group, name in choices.items()]
    paths += [folder / "config.yaml" for folder in folders]
    for path in paths:
        if not path.is_file() or path.is_relative_to(folders[-1]):
            continue
        yaml_files.check(yaml_files.text_of(path), f"configuration: {path}")
        if not isinstance(yaml_files.read(path), Mapping | None):
            raise UserError(f"configuration: {path}: expected a mapping, `key: value`")


def _register_resolvers() -> None:
    from omegaconf import OmegaConf

    resolvers: dict[str, Callable[..., Any]] = {
        "package": _package,
        "first": _first,
        "oc.env": _environment,
        "of_round": _of_round,
        "times": _times,
    }
    for name, resolver in resolvers.items():
        OmegaConf.register_new_resolver(name, resolver, replace=True)


def _package(path: str) -> str:
    """`${package:data/x.yaml}`: a file of the package."""
    return str(Path(__file__).parent.parent / path)


def _times(first: float, second: float) -> float:
    """`${times:0.1,3}`: the product, without the last digits that binary fractions get wrong."""
    product = float(first) * float(second)
    return float(f"{product:.12g}")


def _first(n: int, values: Any) -> list:
    """`${first:N,${languages}}`: the first N of a list, never fewer."""
    available = len(values or [])
    if not isinstance(n, int) or not 1 <= n <= available:
        raise ValueError(f"the first {n} of {available} cannot be taken")
    return list(values[:n])


def _of_round(values: Any, *, _root_: Any) -> Any:
    """`${of_round:${params.betas}}`: this round's element of a list, else its last."""
    number = _root_.get("round")
    if number is None:
        raise ValueError("of_round has a meaning only inside `rounds`")
    if not values or isinstance(values, str | int | float):
        raise ValueError("of_round takes a list with an element for each round")
    return values[min(number, len(values)) - 1]


def _environment(variable: str, default: Any = "", *, _node_: Any) -> str | None:
    """`${oc.env:NAME}`: the variable's value, or the reference itself if the value is a secret.

    Raises: KeyError if the variable is not set and there is no default.
    """
    from omegaconf.resolvers import oc

    has_default = default != ""
    value = oc.env(variable, default) if has_default else oc.env(variable)
    if value is None:
        return None
    if not _is_secret(variable, value, _node_):
        return value
    return f"${{oc.env:{variable},{default}}}" if has_default else f"${{oc.env:{variable}}}"


def _is_secret(variable: str, value: str, node: Any) -> bool:
    """Whether a variable's value must not be written where a node refers to it."""
    if any("${" in secret for secret in secrecy.in_address(str(node._value()))):
        return True
    # Within a mapping that is resolved as a whole, the node knows its key.
    keys = (resolved_key.get(), str(node._get_full_key(None)))
    return any(secrecy.by_reference(variable, value, key) for key in keys)


def check_interpolations(root: Mapping[str, Any]) -> None:
    """Raises: UserError if nested interpolations stand for a text that is too long to build."""
    texts = _texts(root, "")
    lengths: dict[str, int] = {}

    def length(key: str, above: tuple[str, ...]) -> int:
        if key in above or key not in texts:
            return 0  # a cycle is reported where it is resolved
        if key not in lengths:
            names = INTERPOLATION.findall(texts[key])
            inner = sum(length(name, (*above, key)) for name in names)
            lengths[key] = min(len(texts[key]) + inner, 1 << 62)
        return lengths[key]

    for key in texts:
        if length(key, ()) > LONGEST_RESOLVED:
            raise UserError(
                f"{key}: its interpolations stand for more than {LONGEST_RESOLVED:,} characters;"
                " write it shorter"
            )


def _texts(value: Any, key: str) -> dict[str, str]:
    """Every text below a value, by its full key."""
    if isinstance(value, str) and key:
        return {key: value}
    texts: dict[str, str] = {}
    if isinstance(value, Mapping):
        for name, inner in value.items():
            inner_key = f"{key}.{name}" if key else str(name)
            texts |= _texts(inner, inner_key)
    return texts
