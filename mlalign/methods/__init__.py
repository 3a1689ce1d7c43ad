"""Methods: pure functions that a stage calls by name, one function to a file.

A kind of method is a folder of this package, such as `pairing` or `losses`. A recipe names a
method as

    method: best_worst                 the function of that name in the file of that name
    method: package.module:function    anything on Python's path

and a method is written as

    def best_worst(scored: Sequence[Scored], *, penalty: float = 100.0) -> list[Pair] | str

Positional parameters are what the stage gives; each kind of method says which there are.
Parameters after `*` are the method's options. A recipe sets them, and they are checked by name and
type against the signature, which also has their defaults. A stage may fill some of them itself,
such as `seed`.

**What a method adds to a fingerprint** is `source_digest`: the syntax tree of its module without
docstrings, and that of every module that it imports from its own package, directly or through
others. Formatting and comments change nothing. Its own package is

- for `package.module:function` the outermost package, so `mine` for `mine.rules.pairs:best`;
- for a file outside of any package, whatever lies beside it (nothing in `site-packages`);
- for a method of mlalign, the folder of its kind and everything below `mlalign/methods/`. This file
  finds and checks methods and does not count. Neither does the rest of mlalign: whoever changes
  what it does raises the `VERSION` of a stage.

Only modules that `import` statements name are followed. Data files do not count, and neither do
modules that are imported by a computed name.
"""

import ast
import contextlib
import dataclasses
import hashlib
import importlib
import importlib.util
import inspect
import pkgutil
import traceback
import types
import typing
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from mlalign.core import schema
from mlalign.core.errors import UserError, nearest

Method = Callable[..., Any]
INSTALLED = ("site-packages", "dist-packages")
PACKAGE = Path(__file__).parent.parent
# Folder -> what one of its methods is called in messages.
CALLED = {
    "pairing": "pairing method",
    "losses": "loss",
    "operators": "operator",
    "builders": "builder",
    "mixing": "mixing rule",
}


def names(package: str) -> list[str]:
    """The methods that come with mlalign in one folder, by its files."""
    folder = importlib.import_module(package).__path__
    modules = [module.name for module in pkgutil.iter_modules(folder)]
    return sorted(name for name in modules if not name.startswith("_"))


def load(package: str, name: str, key: str = "method") -> Method:
    """The function called `name`: a file in the folder `package`, or `package.module:function`.

    Raises: UserError that begins with `key` and names the nearest method, the module or function
    that is not there, or the file and line where importing it failed.
    """
    module, function = _split(package, name, key)
    imported = _import(module, key)
    functions = dict(inspect.getmembers(imported, inspect.isfunction))
    if function not in functions:
        hint = nearest(function, functions)
        raise UserError(f"{key}: {module} has no function {function!r}{hint}")
    return functions[function]


def _split(package: str, name: str, key: str) -> tuple[str, str]:
    """(module, function) of a method's name."""
    module, colon, function = name.partition(":")
    if colon:
        return module, function
    kind = package.rpartition(".")[2]
    if name not in names(package):
        hint = nearest(name, names(package))
        what = CALLED.get(kind, f"{kind} method")
        raise UserError(f"{key}: {name!r} is no {what}{hint} (your own: `module:function`)")
    return f"{package}.{name}", name


def inputs(method: Method) -> list[str]:
    """The names of a method's positional parameters: what the stage gives it."""
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(method).parameters.values()
    return [parameter.name for parameter in parameters if parameter.kind in positional]


def takes(method: Method, name: str) -> bool:
    """Whether a method has a parameter of this name."""
    return name in inspect.signature(method).parameters


def options_class(method: Method, filled: Collection[str] = ("seed",)) -> type:
    """A dataclass of a method's options, without those that the stage fills itself."""
    fields: list[tuple[str, Any, Any]] = []
    for parameter in inspect.signature(method).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.name not in filled:
            required = parameter.default is parameter.empty
            default = schema.what() if required else schema.what(parameter.default)
            fields.append((parameter.name, hint_of(method, parameter.name), default))
    return dataclasses.make_dataclass(method.__name__, fields, kw_only=True)


def options(
    method: Method,
    given: Mapping[str, Any],
    key: str = "args",
    filled: Collection[str] = ("seed",),
) -> dict[str, Any]:
    """All options of a method: the given ones, checked against its signature, and its defaults.

    Those that the stage fills itself (`filled`) are left out.
    Raises: UserError with a line for each unknown, missing or mistyped option.
    """
    cls = options_class(method, filled)
    checked = schema.build(cls, given, key)
    names = [field.name for field in dataclasses.fields(cls)]
    return {name: getattr(checked, name) for name in names}


def hint_of(method: Method, name: str) -> Any:
    """The type that a parameter (or `return`) is annotated with; Any where it has none.

    Other annotations are not resolved: they may name types of libraries that are not imported yet.
    """
    annotation = inspect.get_annotations(method).get(name, Any)
    holder = types.SimpleNamespace(__annotations__={name: annotation})
    scope = getattr(method, "__globals__", {})
    return typing.get_type_hints(holder, globalns=scope)[name]


@contextlib.contextmanager
def failures(method: Method, place: str) -> Iterator[None]:
    """Make an error in a method's code a UserError that names `place`, the file and the line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{place}: {_described(error)}") from error


def _import(module: str, key: str) -> ModuleType:
    """Raises: UserError if a module is missing, or if anything fails while it is imported."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        is_missing_itself = error.name and f"{module}.".startswith(f"{error.name}.")
        if is_missing_itself:
            mend = "put its folder on PYTHONPATH"
            raise UserError(f"{key}: there is no module {module!r}; {mend}") from None
        raise UserError(f"{key}: {_described(error)}") from None
    except (Exception, SystemExit) as error:  # noqa: BLE001  # whatever a person's module raises
        raise UserError(f"{key}: {_described(error)}") from None


def _described(error: BaseException) -> str:
    """`FILE:LINE: TYPE: MESSAGE` of an error, at the last line of a person's own code.

    Where only mlalign's own code was running, it is the last line of that.
    """
    kind = type(error).__name__
    if isinstance(error, SyntaxError):
        return f"{error.filename}:{error.lineno}: {kind}: {error.msg}"
    every_frame = traceback.extract_tb(error.__traceback__)
    frames = [frame for frame in every_frame if _is_own(frame.filename)]
    outside = [frame for frame in frames if not Path(frame.filename).is_relative_to(PACKAGE)]
    frames = outside or frames
    if not frames:
        return f"{kind}: {error}"
    return f"{frames[-1].filename}:{frames[-1].lineno}: {kind}: {error}"


def _is_own(file: str) -> bool:
    """Whether code may be a person's own: it is no library's, and not in this file."""
    library = str(Path(importlib.__file__).parent.parent)
    if file == __file__ or file.startswith(("<", library)):
        return False
    return not set(INSTALLED) & set(Path(file).parts)


def source_digest(package: str, name: str, key: str = "method") -> str:
    """64 hex digits for what a method does, as the docstring of this module says.

    Files are read anew at each call. Raises: UserError as `load` does.
    """
    trees = {}
    for module, file in source_files(package, name, key).items():
        trees[module] = _text(_without_docstrings(_parsed(file)))
    lines = [f"{module} {tree}" for module, tree in sorted(trees.items())]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def source_files(package: str, name: str, key: str = "method") -> dict[str, Path]:
    """Module -> file, of a method and of all that it imports from its own package.

    Raises: UserError as `load` does.
    """
    method = load(package, name, key)
    files: dict[str, Path] = {}
    for module in {_split(package, name, key)[0], method.__module__}:
        files |= _files(_Home.of(package, module), module)
    return files


def _files(home: "_Home", module: str) -> dict[str, Path]:
    """Module -> file, of a module and of those that it imports from its package."""
    files: dict[str, Path] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        file = home.file(name)
        if name in files or file is None:
            continue
        files[name] = file
        waiting += _imports(_parsed(file), name, is_package=file.name == "__init__.py")
    return files


def _text(node: Any) -> str:
    """A syntax tree as text. `ast.dump` writes the same code differently under other Pythons."""
    if isinstance(node, list):
        return f"[{', '.join(map(_text, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = [(name, getattr(node, name, None)) for name in node._fields]
    written = [f"{name}={_text(value)}" for name, value in fields if value not in (None, [])]
    return f"{type(node).__name__}({', '.join(written)})"


def _parsed(file: Path) -> ast.Module:
    try:
        return ast.parse(file.read_bytes(), str(file))
    except SyntaxError as error:
        raise UserError(_described(error)) from None


@dataclasses.dataclass(frozen=True)
class _Home:
    """A method's own package: the modules below `folder` whose name has one of the prefixes."""

    folder: Path
    prefixes: tuple[str, ...]

    @classmethod
    def of(cls, package: str, module: str) -> "_Home":
        file = Path(inspect.getfile(importlib.import_module(module)))
        depth = module.count(".") + (file.name == "__init__.py")
        folder = file.parents[depth]
        top, *below = module.split(".")
        if top == __name__.split(".", maxsplit=1)[0]:
            return cls(folder, (f"{package}.", f"{__name__}."))
        if below or depth or folder.name in INSTALLED:
            return cls(folder, (f"{top}.",))
        return cls(folder, ("",))

    def file(self, module: str) -> Path | None:
        """The file of a module of this package; None for any other."""
        if not f"{module}.".startswith(self.prefixes) or module == __name__:
            return None
        top = module.split(".", maxsplit=1)[0]
        if self.prefixes == ("",) and top in ("mlalign", "reward_models"):
            return None
        base = self.folder.joinpath(*module.split("."))
        for file in (base.parent / f"{base.name}.py", base / "__init__.py"):
            if file.is_file():
                return file
        return None


def _imports(tree: ast.Module, module: str, is_package: bool) -> Iterator[str]:
    """Every module that the import statements in a tree may name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                parts = alias.name.split(".")
                for length in range(1, len(parts) + 1):
                    yield ".".join(parts[:length])
        elif isinstance(node, ast.ImportFrom):
            base = _base_of(node, module, is_package)
            yield base
            for alias in node.names:
                yield f"{base}.{alias.name}"


def _base_of(node: ast.ImportFrom, module: str, is_package: bool) -> str:
    """The module that `from … import` imports from, relative ones resolved; "" if there is none."""
    package = module if is_package else module.rpartition(".")[0]
    try:
        return importlib.util.resolve_name("." * node.level + (node.module or ""), package)
    except ImportError:  # more dots than packages, in a statement that was never reached
        return ""


def _without_docstrings(tree: ast.Module) -> ast.Module:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if not isinstance(node, documented):
            continue
        if ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    return tree
