"""argv -> composed configuration.

Hydra chooses and reads the files; precedence and checks are ours.

All mistakes are collected and reported together, each with its full key and the nearest valid one.
Nothing heavy is imported.
"""

import copy
import dataclasses
import importlib.util
import itertools
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from contextvars import ContextVar
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlalign.core import secrecy
from mlalign.core.errors import UserError, nearest

if TYPE_CHECKING:
    from mlalign.recipes.evaluations import Evaluation

GROUPS = ("recipe", "model", "data", "engine", "scale", "launcher")
VALUES = ("languages", "name", "seed", "root", "deepspeed", "devices", "max_rounds", "evaluation")
STEP_LISTS = ("only", "from", "force")
LONGEST_VALUE = 16_000  # characters of one argument
DEEPEST_VALUE = 20  # brackets within each other
LONGEST_RESOLVED = 1_000_000  # characters that a text with interpolations may stand for
INTERPOLATION = re.compile(r"\$\{([\w.]+)\}")
SHOWN = ("steps", "commands", "sbatch")
CONTROLS = (*STEP_LISTS, "conf_dir", "show")
# What a file of each group may say. `params` of a model replaces recipe parameters of the same
# name.
GROUP_KEYS = {
    "model": ("path", "revision", "chat_template", "date", "params", "stages"),
    "data": ("root", "languages", "params"),  # and roles: any name, with a list of sources
    "scale": ("stages", "resources", "engine_args", "device"),
    "engine": (
        "name",
        "args",
        "dtype",
        "batch_tokens",
        "served_model",
        "base_url",
        "api_key_env",
        "concurrency",
        "timeout_s",
        "max_retries",
    ),
}


_PLACE: ContextVar[str] = ContextVar("the key whose value is being resolved", default="")


def conf_home() -> Path:
    """The configuration that ships with the package: `mlalign/conf` when installed, `conf/` beside
    it in a checkout.
    """
    here = Path(__file__).parent.parent
    return here / "conf" if (here / "conf").is_dir() else here.parent / "conf"


@dataclasses.dataclass
class Override:
    """One `key=value` of the command line; `key` is split at its dots."""

    text: str
    key: list[str]
    value: Any


@dataclasses.dataclass
class Settings:
    """A composed configuration: the groups and values (interpolations unresolved), the recipe, and
    what a person asked for.
    """

    root: dict[str, Any]
    recipe: dict[str, Any]
    choices: dict[str, str]
    controls: dict[str, Any]
    use: dict[str, str]
    folders: list[Path]
    errors: list[str]
    typed: dict[
        str, Any
    ]  # top-level values of the command line that go into the steps' configurations

    @property
    def about(self) -> str:
        """The comment at the head of the recipe's file: its title, paper, question, command and so
        on; of a lone stage, nothing.
        """
        if "recipe" not in self.choices:
            return ""
        lines = (
            options("recipe", self.folders)[self.choices["recipe"]]
            .read_text(encoding="utf-8")
            .splitlines()
        )
        return "\n".join(itertools.takewhile(lambda line: line.startswith("#"), lines))

    @cached_property
    def language_sets(self) -> dict[str, list[str]]:
        return language_sets(self.folders)

    @cached_property
    def _tree(self) -> Any:
        from omegaconf import OmegaConf

        return OmegaConf.create(self.root, flags={"allow_objects": True})

    def resolve(self, value: Any, binding: Mapping[str, Any], key: str, errors: list[str]) -> Any:
        """Resolve `${…}` in a piece of configuration against the groups, the values, `params` and a
        `foreach` binding.
        """
        if isinstance(value, Mapping):
            return {
                k: self.resolve(v, binding, f"{key}.{k}" if key else str(k), errors)
                for k, v in value.items()
            }
        if isinstance(value, list):
            return [self.resolve(v, binding, f"{key}[{i}]", errors) for i, v in enumerate(value)]
        if not isinstance(value, str) or "${" not in value:
            return value
        return self._interpolate(value, binding, key, errors)

    def _interpolate(
        self, value: str, binding: Mapping[str, Any], key: str, errors: list[str]
    ) -> Any:
        from omegaconf import OmegaConf
        from omegaconf.errors import OmegaConfBaseException

        tree = self._tree
        for name, bound in binding.items():
            tree[name] = bound
        tree["__value__"] = value
        place = _PLACE.set(key)
        try:
            out = tree["__value__"]
            return (
                OmegaConf.to_container(out, resolve=True, throw_on_missing=True)
                if OmegaConf.is_config(out)
                else out
            )
        except OmegaConfBaseException as error:
            why = self._lacks_role(value) or f"cannot be resolved ({str(error).splitlines()[0]})"
            errors.append(f"{key}: {value} {why}")
            return None
        finally:
            _PLACE.reset(place)
            for name in (*binding, "__value__"):
                del tree[name]

    def _lacks_role(self, value: str) -> str | None:
        """Why `${data.ROLE}` means nothing, if that is what is wrong."""
        roles = [name for name in self.root["data"] if name not in GROUP_KEYS["data"]]
        for name in INTERPOLATION.findall(value):
            group, _, role = name.partition(".")
            if group == "data" and role and role not in self.root["data"]:
                return (
                    f"means nothing: data={self.choices.get('data', 'tiny_world')} has no role"
                    f" {role!r}{nearest(role, roles)}"
                )
        return None


def load(
    argv: Sequence[str], recipe: Mapping | None = None, composed: dict[tuple, dict] | None = None
) -> Settings:
    """Compose the configuration that `key=value` arguments ask for.

    `recipe` stands in for `recipe=NAME`.

    Mistakes are left in `errors` of the result, for the planner to report together with its own.
    With `composed`, what Hydra composed is kept there, and taken from there where the same files
    are chosen (the variants of a sweep).

    Raises: UserError where nothing can be composed (no recipe, no such folder, unreadable YAML).
    """
    _check_hydra()
    errors: list[str] = []
    overrides = _parse(argv, errors)
    controls = {o.key[0]: o.value for o in overrides if o.key[0] in CONTROLS}
    folders = search_path(controls.get("conf_dir"), errors)
    choices = _choices(overrides, folders, errors, needs_recipe=recipe is None)
    if any(e.startswith(("recipe:", "conf_dir:")) for e in errors):
        raise UserError(*errors)
    if controls.get("show") not in (None, *SHOWN):
        errors.append(
            f"show: {controls['show']!r} cannot be shown{nearest(str(controls['show']), SHOWN)}"
        )
    known, files = {} if composed is None else composed, tuple(sorted(choices.items()))
    if files not in known:
        known[files] = _compose(choices, folders)
    root = copy.deepcopy(known[files])
    controls.pop("conf_dir", None)
    for override in overrides:  # parameters of the model and the data reach recipe and parts
        if (
            override.key[0] in ("data", "model")
            and override.key[1:2] == ["params"]
            and len(override.key) == 3
        ):
            root[override.key[0]].setdefault("params", {})[override.key[2]] = override.value
    body = recipe or root["recipe"] or {}
    tiny = _tiny(body) if choices.get("scale", "tiny") == "tiny" else []
    body = _without_parts(body, root, folders, [*tiny, *overrides], errors)
    settings = Settings(_with_params(root, body), body, choices, controls, {}, folders, errors, {})
    _apply(settings, [*tiny, *overrides], errors)
    _check_groups(settings, errors)
    _check_interpolations(settings.root)
    settings.root = {
        k: v if k == "launcher" else secrecy.carry(v, k) for k, v in settings.root.items()
    }
    settings.recipe, settings.typed = secrecy.carry(settings.recipe), secrecy.carry(settings.typed)
    return settings


def _without_parts(
    recipe: Any,
    root: Mapping,
    folders: list[Path],
    overrides: Iterable[Override],
    errors: list[str],
) -> dict[str, Any]:
    """The recipe with its parts expanded.

    Parameters of parts that the recipe leaves open stand among its own: the command line, the
    chosen model and the data may set them by name.
    Raises: UserError with every mistake in the outline of recipe and parts.
    """
    from mlalign.recipes import outline, parts

    before = len(errors)
    outline.check(recipe, errors)
    if len(errors) > before:
        raise UserError(*errors)
    own = recipe.get("params") or {}
    typed = {
        o.key[-1]: o.value
        for o in overrides
        if len(o.key) == 1 or (len(o.key) == 2 and o.key[0] == "params")
    }
    defaults = {
        **_replaced_params(root),
        **{name: value for name, value in typed.items() if name not in own},
    }
    library = parts.Library(options("part", folders), (*GROUPS, *VALUES), defaults, errors)
    library.evaluations = _evaluations(recipe, folders, overrides, errors)
    if len(errors) > before:
        raise UserError(*errors)
    expanded = parts.expand(recipe, library)
    if len(errors) > before:
        raise UserError(*errors)
    return {**expanded, "params": {**library.left, **own}}


def _evaluations(
    recipe: Mapping, folders: list[Path], overrides: Iterable[Override], errors: list[str]
) -> list["Evaluation"]:
    """What the policies of the recipe's sections `measure` are measured on.

    The command line has the last word, then the recipe; by default it is the data's held-out rows.
    """
    from mlalign.recipes import evaluations

    names, languages = recipe.get("evaluation") or evaluations.DEFAULT, None
    values: list[tuple[list[str], Any]] = []
    for override in overrides:
        if override.key == ["languages"]:
            languages = override.value
        elif override.key == ["evaluation"]:
            names = override.value
        elif override.key[0] == "evaluation":
            values.append((override.key[1:], override.value))
    if "measure" not in recipe and "measure" not in (recipe.get("rounds") or {}):
        if values or names != evaluations.DEFAULT:
            mend = "run recipe=evaluate model=PATH, or give the recipe a section `measure`"
            errors.append(
                "evaluation: the recipe has no section `measure`, whose policies it would be asked"
                f" of; {mend}"
            )
        return []
    request = evaluations.Request(names, values, languages)
    return evaluations.chosen(
        request, options("evaluation", folders), language_sets(folders), errors
    )


def _tiny(recipe: Any) -> list[Override]:
    """What a recipe changes at scale=tiny, as if typed before everything else."""
    tiny = recipe.get("tiny") if isinstance(recipe, Mapping) else None
    if not isinstance(tiny, Mapping):
        return []  # what is wrong is told with the rest of the outline
    return [
        Override(f"tiny: {key}={value}", str(key).split("."), value) for key, value in tiny.items()
    ]


def search_path(conf_dir: Any, errors: list[str]) -> list[Path]:
    """Where configuration files are looked for: a person's own folders (`conf_dir=`, MLALIGN_CONF),
    then the package's.
    """
    asked = (
        [conf_dir]
        if isinstance(conf_dir, str)
        else list(conf_dir or os.environ.get("MLALIGN_CONF", "").split(os.pathsep))
    )
    folders = [Path(f).expanduser().absolute() for f in asked if f]
    errors.extend(
        f"conf_dir: there is no folder {folder}" for folder in folders if not folder.is_dir()
    )
    return [*folders, conf_home()]


def language_sets(folders: Sequence[Path]) -> dict[str, list[str]]:
    """The language sets on the search path by name; a person's own come before the package's."""
    from mlalign.core import languages

    found: dict[str, list[str]] = {}
    for folder in reversed(folders):
        if (folder / "languages").is_dir():
            found.update(languages.sets(folder / "languages", canonical=folder == conf_home()))
    return found


def options(group: str, folders: Iterable[Path]) -> dict[str, Path]:
    """The files of a group by name; a person's own come before the package's.

    A recipe's name is that of its file: the folder that it lies in is its family.
    Raises: UserError where one folder has two recipes of a name.
    """
    found: dict[str, Path] = {}
    for folder in folders:
        own: dict[str, Path] = {}
        for path in sorted((folder / group).rglob("*.yaml")):
            name = (
                path.stem
                if group == "recipe"
                else str(path.relative_to(folder / group).with_suffix(""))
            )
            if name in own:
                raise UserError(f"recipe: {own[name]} and {path} have one name; rename one")
            own[name] = path
        found = {**own, **found}
    return found


def _parse(argv: Sequence[str], errors: list[str]) -> list[Override]:
    parsed = []
    for text in argv:
        key, equals, value = text.partition("=")
        if not equals:
            errors.append(f"{text[:200]}: expected key=value")
            continue
        if key in STEP_LISTS or key.startswith(
            "use."
        ):  # names of steps may hold brackets, which Hydra's grammar has for lists
            head, _, rest = key.partition(".")
            parsed.append(
                Override(
                    text, [head, *([rest] if rest else [])], value if rest else step_names(value)
                )
            )
            continue
        if (override := by_grammar(text, errors)) is None:
            continue
        if override.is_sweep_override():
            errors.append(
                f"{text}: several values at once make a sweep; add -m for one, give one value, or"
                " [a,b] for a list"
            )
            continue
        parsed.append(
            Override(
                text,
                str(override.key_or_group).replace("/", ".").split("."),
                plain(override.value()),
            )
        )
    return parsed


def step_names(value: str) -> list[str]:
    """`[reward[eng_Latn],policy]` as the names of steps."""
    return re.findall(r"[^,\[\]\s]+(?:\[[^\]]*\])*", value)


def _check_hydra() -> None:
    """Raises: UserError where Hydra is not installed, as with the packages that scoring needs
    alone.
    """
    if importlib.util.find_spec("hydra") is None:
        raise UserError(
            "the package 'hydra-core' is not installed; recipes need it: pip install"
            " 'mlalign[train]'"
        )


def by_grammar(text: str, errors: list[str]) -> Any:
    """`key=value` as Hydra's grammar understands it (its own `Override`); None if it does not, with
    a message in `errors`.
    """
    _check_hydra()
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    key = text.partition("=")[0][:100]
    if len(text) > LONGEST_VALUE:
        errors.append(
            f"{key}: a value of {len(text):,} characters, at most {LONGEST_VALUE:,}; write it into"
            " a file of conf_dir="
        )
        return None
    if re.search(r"\d{1000}", text):
        errors.append(f"{key}: a number of more than 999 digits")
        return None
    if (
        max(itertools.accumulate((c in "[{(") - (c in "]})") for c in text), default=0)
        > DEEPEST_VALUE
    ):
        errors.append(f"{key}: brackets nested more than {DEEPEST_VALUE} deep; make it flatter")
        return None
    try:
        return OverridesParser.create().parse_override(_quoted(text))
    except HydraException as error:
        errors.append(
            f"{text}: {str(error).splitlines()[0]}; quote a value with special characters:"
            " key='\"a=b\"'"
        )
        return None


def _quoted(text: str) -> str:
    """Paths and hub ids often hold characters of Hydra's grammar: quote a value that is an existing
    path.
    """
    key, _, value = text.partition("=")
    if (
        value
        and value[0] not in "\"'[{$"
        and ("/" in value or os.path.exists(value))
        and "," not in value
    ):
        escaped = value.replace("\\", "\\\\").replace("'", "\\'")
        return f"{key}='{escaped}'"
    return text


def plain(value: Any) -> Any:
    """Hydra keeps quoted strings as objects of its own: unwrap them, in lists and mappings too."""
    if isinstance(value, list):
        return [plain(v) for v in value]
    if isinstance(value, dict):
        return {str(plain(k)): plain(v) for k, v in value.items()}
    return value.text if type(value).__name__ == "QuotedString" else value


def _choices(
    overrides: list[Override], folders: list[Path], errors: list[str], *, needs_recipe: bool
) -> dict[str, str]:
    """group -> file name, for the groups named on the command line.

    `model=` takes a directory or hub id too.
    """
    chosen = {}
    for override in overrides:
        group = override.key[0]
        if len(override.key) > 1 or group not in GROUPS:
            continue
        name, known = str(override.value), options(group, folders)
        if group == "model" and name not in known and _is_model(name):
            chosen[group] = "custom"
            override.key.append("path")
            override.value = name
        elif name in known:
            chosen[group] = name
        else:
            errors.append(
                f"{group}: there is no {group} {name!r}{nearest(name, known)}"
                + MODEL_HINT.get(group, "")
            )
    if needs_recipe and "recipe" not in chosen and not any(e.startswith("recipe:") for e in errors):
        errors.append(f"recipe: missing; say recipe=NAME{nearest('', options('recipe', folders))}")
    return chosen


MODEL_HINT = {
    "model": "; a directory (./my_model, /models/x) or a hub id (org/name) is possible too"
}


def _is_model(name: str) -> bool:
    return "/" in name or name.startswith((".", "~")) or os.path.isdir(name)


def _compose(choices: Mapping[str, str], folders: list[Path]) -> dict[str, Any]:
    """Let Hydra read the chosen files; interpolations stay unresolved."""
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    OmegaConf.register_new_resolver(
        "package", lambda path: str(Path(__file__).parent.parent / path), replace=True
    )
    OmegaConf.register_new_resolver("first", _first, replace=True)
    OmegaConf.register_new_resolver("oc.env", _environment, replace=True)
    OmegaConf.register_new_resolver("of_round", _of_round, replace=True)
    OmegaConf.register_new_resolver(
        "times", lambda a, b: float(f"{float(a) * float(b):.12g}"), replace=True
    )
    extra = (
        [f"hydra.searchpath=[{','.join(f'file://{f}' for f in folders[:-1])}]"]
        if len(folders) > 1
        else []
    )
    _check_files(choices, folders)
    picked = [f"{group}={_within_group(group, name, folders)}" for group, name in choices.items()]
    try:
        with initialize_config_dir(str(folders[-1]), version_base=None):
            composed: Any = OmegaConf.to_container(
                compose("config", [*extra, *picked]), resolve=False
            )
            return composed
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        raise UserError(f"configuration: {' '.join(str(error).split())}") from None


def _within_group(group: str, name: str, folders: Sequence[Path]) -> str:
    """What Hydra calls a file: its path below the folder of its group."""
    path = options(group, folders)[name]
    home = next(folder for folder in folders if path.is_relative_to(folder / group))
    return str(path.relative_to(home / group).with_suffix(""))


def _check_files(choices: Mapping[str, str], folders: list[Path]) -> None:
    """Raises: UserError for a person's own file that holds more than can be read.

    Hydra itself knows no bounds.
    """
    from mlalign.core import yaml_files

    chosen = [options(group, folders)[name] for group, name in choices.items()]
    for path in [*chosen, *(folder / "config.yaml" for folder in folders)]:
        if not path.is_file() or path.is_relative_to(folders[-1]):
            continue
        yaml_files.check(yaml_files.text_of(path), f"configuration: {path}")
        if not isinstance(yaml_files.read(path), Mapping | None):
            raise UserError(f"configuration: {path}: expected a mapping, `key: value`")


def _environment(variable: str, default: Any = "", *, _node_: Any) -> str | None:
    """`${oc.env:NAME}`: the value of the variable; the reference itself stays where that is a
    secret.

    Raises: KeyError if the variable is not set and there is no default.
    """
    from omegaconf.resolvers import oc

    value = oc.env(variable) if default == "" else oc.env(variable, default)
    if value is None:
        return None
    in_login = any("${" in secret for secret in secrecy.in_address(str(_node_._value())))
    # Of a value that is resolved by itself the place is known; within a whole mapping the node
    # knows its key.
    keys = (_PLACE.get(), str(_node_._get_full_key(None)))
    if not in_login and not any(secrecy.by_reference(variable, value, key) for key in keys):
        return value
    return f"${{oc.env:{variable}}}" if default == "" else f"${{oc.env:{variable},{default}}}"


def _first(n: int, values: Any) -> list:
    """`${first:N,${languages}}`: the first N of a list, never fewer."""
    if not isinstance(n, int) or not 1 <= n <= len(values or []):
        raise ValueError(f"the first {n} of {len(values or [])} cannot be taken")
    return list(values[:n])


def _of_round(values: Any, *, _root_: Any) -> Any:
    """`${of_round:${params.betas}}`: the element of this round, or the last; in round 1 the first."""
    number = _root_.get("round")
    if number is None:
        raise ValueError("of_round has a meaning only inside `rounds`")
    if not values or isinstance(values, str | int | float):
        raise ValueError("of_round takes a list with an element for each round")
    return values[min(number, len(values)) - 1]


def _with_params(root: dict, recipe: Mapping) -> dict[str, Any]:
    """The groups and values with the recipe's `params` beside them; data and model may replace what
    the recipe has.
    """
    params = dict(recipe.get("params") or {})
    params |= {name: value for name, value in _replaced_params(root).items() if name in params}
    return {**{k: v for k, v in root.items() if k != "recipe"}, "params": params}


def _replaced_params(root: Mapping) -> dict[str, Any]:
    """The parameters that the chosen data and model set, in recipes and parts alike; the model has
    the last word.
    """
    return {**(root["data"].get("params") or {}), **(root["model"].get("params") or {})}


def _apply(settings: Settings, overrides: list[Override], errors: list[str]) -> None:
    """Merge the command line's values, each where its key says; unknown keys become errors."""
    from mlalign.recipes.outline import templates

    params, steps = settings.root["params"], templates(settings.recipe)
    for override in overrides:
        head, *rest = override.key
        if head in CONTROLS or (head in GROUPS and not rest) or (head == "evaluation" and rest):
            continue  # these were read before
        if head in VALUES and not rest:
            settings.root[head] = override.value
            settings.typed.update({head: override.value} if head == "deepspeed" else {})
        elif (
            head in ("data", "model")
            and rest[:1] == ["params"]
            and len(rest) > 1
            and rest[1] not in params
        ):
            errors.append(
                f"{'.'.join(override.key)}: the recipe has no such"
                f" parameter{nearest(rest[1], params)}"
            )
        elif head in GROUPS and rest and head != "recipe":
            _set(settings.root[head], rest, override.value, override, errors)
            _note_typed(settings.typed, head, rest, override.value)
        elif head == "use" and rest:
            settings.use[".".join(rest)] = str(override.value)
        elif head == "steps" and len(rest) > 1:
            _apply_step(steps, rest, override, errors)
        elif (name := rest[0] if head == "params" and rest else head) in params:
            params[name] = override.value
        else:
            allowed = [*params, *GROUPS, *VALUES, *CONTROLS, "steps.STEP.config.KEY", "use.STEP"]
            errors.append(_unknown(override, nearest(".".join(override.key), allowed)))


def _unknown(override: Override, hint: str) -> str:
    """The message for a key that stands on the command line or in the recipe's `tiny`."""
    key = ".".join(override.key)
    place = "tiny." if override.text.startswith("tiny: ") else ""
    more = "" if "did you mean" in hint else "; any setting of a step: steps.STEP.config.KEY"
    return f"{place}{key}: unknown key{hint}{more}"


def _apply_step(
    steps: Mapping[str, dict], rest: list[str], override: Override, errors: list[str]
) -> None:
    name = _longest_step(rest, steps)
    if name is None:
        errors.append(f"steps.{rest[0]}: the recipe has no such step{nearest(rest[0], steps)}")
        return
    section, path = "", rest[name.count(".") + 1 :]
    if path:
        section, *path = path
    if section not in ("config", "resources", "inputs") or not path:
        errors.append(
            f"steps.{name}.{section}: unknown"
            f" key{nearest(section, ['config.KEY', 'resources.KEY', 'inputs.SLOT'])}"
        )
        return
    given = steps[name].setdefault(section, {})
    if isinstance(given, str):
        errors.append(
            f"{'.'.join(override.key)}: the recipe takes the whole {section} from {given}; set it"
            " there"
        )
        return
    _set(given, path, override.value, override, errors)


def _longest_step(words: Sequence[str], steps: Mapping[str, dict]) -> str | None:
    """The step that `steps.pairs.candidates.config.n` begins with: `pairs.candidates` rather than
    `pairs`.
    """
    for length in range(len(words), 0, -1):
        name = ".".join(words[:length])
        if name in steps:
            return name
    return None


def _note_typed(typed: dict[str, Any], group: str, path: list[str], value: Any) -> None:
    """Remember what of a group goes into the steps' own configurations: it beats the scale."""
    if group == "engine":
        for key in reversed([group, *path]):
            value = {key: value}
        typed["engine"] = merged(typed.get("engine", {}), value["engine"])
    elif group == "model" and path in (["chat_template"], ["date"]):
        typed[path[0]] = value


def _check_interpolations(root: Mapping[str, Any]) -> None:
    """Raises: UserError where interpolations of interpolations stand for a text too long to build."""
    texts = _texts(root, "")
    lengths: dict[str, int] = {}

    def length(key: str, above: tuple[str, ...]) -> int:
        if key in above or key not in texts:
            return 0  # a cycle is told where it is resolved
        if key not in lengths:
            inner = (length(name, (*above, key)) for name in INTERPOLATION.findall(texts[key]))
            lengths[key] = min(len(texts[key]) + sum(inner), 1 << 62)
        return lengths[key]

    for key in texts:
        if length(key, ()) > LONGEST_RESOLVED:
            raise UserError(
                f"{key}: its interpolations stand for more than {LONGEST_RESOLVED:,} characters;"
                " write it shorter"
            )


def _texts(value: Any, key: str) -> dict[str, str]:
    """Every text below a value, by its full key."""
    found: dict[str, str] = {}
    if isinstance(value, Mapping):
        for name, inner in value.items():
            found |= _texts(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, str) and key:
        found[key] = value
    return found


def _set(tree: dict, path: list[str], value: Any, override: Override, errors: list[str]) -> None:
    for key in path[:-1]:
        inner = tree.get(key) or {}
        if not isinstance(inner, Mapping):
            errors.append(
                f"{'.'.join(override.key)}: {key} is no mapping, it has no keys; set it whole"
            )
            return
        tree[key] = dict(inner)
        tree = tree[key]
    tree[path[-1]] = value


def _check_groups(settings: Settings, errors: list[str]) -> None:
    for group, allowed in GROUP_KEYS.items():
        for key, value in (settings.root[group] or {}).items():
            is_role = group == "data" and (value is None or isinstance(value, list))
            if key not in allowed and not is_role:
                errors.append(f"{group}.{key}: unknown key{nearest(key, allowed)}")
    from mlalign import stages
    from mlalign.recipes import device

    device.of_scale(settings.root["scale"].get("device"), errors)
    from mlalign.recipes import launchers

    launchers.build(settings.root["launcher"], errors)
    for name in settings.root["launcher"].get("environment") or {}:
        if secrecy.VARIABLE.search(str(name)):
            mend = "leave it out and export it in the shell that submits: Slurm passes that on"
            errors.append(
                f"launcher.environment.{name}: would stand in the script of every job for all to"
                f" read; {mend}"
            )
    engines = options("engine", settings.folders)
    staged = (
        ("scale", "stages"),
        ("scale", "resources"),
        ("model", "stages"),
        ("launcher", "resources"),
    )
    known = dict.fromkeys(staged, stages.names())
    for (group, section), names in {**known, ("scale", "engine_args"): list(engines)}.items():
        for name in settings.root[group].get(section) or {}:
            if name not in names:
                errors.append(f"{group}.{section}.{name}: unknown{nearest(name, names)}")


def merged(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Merge mappings, later ones over earlier ones, nested mappings key by key."""
    out: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            both = isinstance(value, Mapping) and isinstance(out.get(key), Mapping)
            out[key] = merged(out[key], value) if both else value
    return out


def texts(folder: str, folders: Sequence[Path], key: str, errors: list[str]) -> dict[str, str]:
    """Language -> text of the files LANGUAGE.j2 in one folder of the search path.

    A person's own files come before the package's.
    """
    from mlalign.core import languages

    found: dict[str, str] = {}
    for home in reversed(folders):
        for path in sorted((home / folder).glob("*.j2")):
            try:
                found[languages.normalise(path.stem)] = path.read_text(encoding="utf-8")
            except (UserError, OSError, UnicodeDecodeError) as error:
                errors.append(f"{key}: {path}: {error}")
    return found


def deepspeed_config(
    name: str, folders: Iterable[Path], key: str, errors: list[str]
) -> dict | None:
    """The DeepSpeed configuration in `conf/deepspeed/NAME.yaml` (or `deepspeed/NAME.yaml` of a
    person's own folder).
    """
    from mlalign.core import yaml_files

    known = options("deepspeed", folders)
    if name not in known:
        errors.append(f"{key}: there is no DeepSpeed configuration {name!r}{nearest(name, known)}")
        return None
    try:
        return yaml_files.read(known[name])
    except UserError as error:
        errors.extend(f"{key}: {message}" for message in error.messages)
        return None
