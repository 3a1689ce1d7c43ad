"""Parts: a piece of a recipe with a name and parameters, replaced by its steps before anything
else.

    # conf/part/own_pairs.yaml
    takes:
      policy: ???                                     # the caller must give it
      prompts: ???
      n: 8
    steps:
      candidates: {stage: generate, inputs: {model: "${policy}", rows: "${prompts}"}, config: {n:
          "${n}"}}
      pairs: {stage: pairs, inputs: {rows: candidates}}
    gives: pairs

In a recipe, `mine: {part: own_pairs, with: {policy: base, prompts: rows.prompts}}` stands for two
steps: `mine`, which is the step that the part gives, and `mine.candidates`. A plain name within a
part is one of its own steps; a step passed by `with` is one of the caller's. A part sees what it
takes and the groups, and no `params`.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from mlalign.core import yaml_files
from mlalign.core.errors import UserError, nearest
from mlalign.recipes import measure, outline
from mlalign.recipes.evaluations import Evaluation

REQUIRED = "???"
KEYS = ("takes", "steps", "gives")
# `${name}` or `${name.key.key}`, and the head of `${name.${other}}`.
REFERENCE = re.compile(r"\$\{(\w+)((?:\.\w+)*)\}")
BY_VARIABLE = re.compile(r"\$\{(\w+)(?:\.\w+)*\.\$\{")
HEAD = re.compile(r"\$\{(\w+)[.}]")
DEEPEST = 10  # parts within parts


@dataclasses.dataclass(frozen=True)
class Part:
    """The content of `conf/part/NAME.yaml`."""

    name: str
    takes: dict[str, Any]
    steps: dict[str, dict]
    gives: str | None


@dataclasses.dataclass(frozen=True)
class Value:
    """What the caller gave for a parameter.

    The two forms differ within parts, where a name in `inputs` is one of the part's own steps and
    has to be written out, and the same text in `config` is just a text.
    """

    in_config: Any
    in_inputs: Any


@dataclasses.dataclass
class Library:
    """The parts on the search path, and what they may refer to.

    `known` are the groups and values of a configuration, `defaults` the parameters of the chosen
    model and data, which replace the defaults of all parts.
    """

    files: Mapping[str, Path]
    known: Iterable[str]
    defaults: Mapping[str, Any]
    errors: list[str]
    read: dict[str, Part | None] = dataclasses.field(default_factory=dict)
    # What the sections `measure` ask of their policies.
    evaluations: list[Evaluation] = dataclasses.field(default_factory=list)
    # Parameters that no caller gave, with their values: the command line may set these. What a
    # default takes from another parameter is set through that one.
    left: dict[str, Any] = dataclasses.field(default_factory=dict)

    def default(self, name: str, own: Any) -> Any:
        """What a parameter is that the caller does not give; `own` is the part's default."""
        value = self.defaults.get(name, own)
        if own != REQUIRED and not any("${" in text for text in outline.texts(own)):
            self.left.setdefault(name, value)
        return value

    def get(self, name: str, key: str) -> Part | None:
        """The part of this name; None, with a message, if there is none or it cannot be read."""
        if name not in self.files:
            self.errors.append(f"{key}: there is no part {name!r}{nearest(name, self.files)}")
            return None
        if name not in self.read:
            before = len(self.errors)
            part = self._open(name)
            self.read[name] = part if len(self.errors) == before else None
        return self.read[name]

    def _open(self, name: str) -> Part | None:
        where = f"part {name}"
        try:
            content = _read(self.files[name])
        except UserError as error:
            self.errors.extend(error.messages)
            return None
        if not isinstance(content, Mapping):
            self.errors.append(f"{where}: expected a mapping with {', '.join(KEYS)}")
            return None

        found: list[str] = []
        outline.check_keys(content, KEYS, "", found)
        takes, steps = content.get("takes") or {}, content.get("steps") or {}
        if not isinstance(takes, Mapping):
            found.append(f"takes: expected a mapping of names and defaults, got {takes!r}")
            takes = {}
        outline.check({"steps": steps}, found)
        part = Part(
            name,
            dict(takes),
            dict(steps) if isinstance(steps, Mapping) else {},
            content.get("gives"),
        )
        if not found:
            self._check(part, found)
        self.errors.extend(f"{where}: {message}" for message in found)
        return part

    def _check(self, part: Part, errors: list[str]) -> None:
        for name in part.steps:
            if name in outline.RESERVED_INNER or outline.INNER_ROUND.fullmatch(name):
                errors.append(f"steps.{name}: reserved; a step of a part needs another name")
        if part.gives is not None and part.gives not in part.steps:
            errors.append(
                f"gives: there is no step {part.gives!r}{nearest(str(part.gives), part.steps)}"
            )
        loops = {variable for body in part.steps.values() for variable in body.get("foreach") or {}}
        for name in (*part.takes, *loops):
            if name in self.known or name in ("round", "params"):
                errors.append(
                    f"{name}: a parameter cannot be named like a group or a value; rename it"
                )
        in_scope = {*part.takes, *loops, *self.known, "round"}
        for name in sorted(
            {head for text in outline.texts(part.steps) for head in HEAD.findall(text)} - in_scope
        ):
            mend = "; take it as a parameter" if name == "params" else nearest(name, in_scope)
            errors.append(f"${{{name}}}: a part sees what it takes and the groups{mend}")


def _read(file: Path) -> Any:
    """The content of a part, read as Hydra reads recipes: `1e-5` is a number.

    Raises: UserError naming the file.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    text = yaml_files.text_of(file)
    yaml_files.check(text, file)
    try:
        created = OmegaConf.create(text)
    except (OmegaConfBaseException, yaml.YAMLError, ValueError) as error:
        raise UserError(
            f"{file}: cannot be read as YAML ({' '.join(str(error).split())})"
        ) from None
    return OmegaConf.to_container(created, resolve=False)


def expand(recipe: Mapping, library: Library) -> dict[str, Any]:
    """The recipe with the steps of its parts in their place; mistakes go to the library's errors."""
    recipe = measure.with_calls(recipe, library.evaluations, library.errors)
    out: dict[str, Any] = dict(recipe)
    for section in outline.SECTIONS:
        steps = outline.section(recipe, section)
        if not steps:
            continue
        expanded: dict[str, dict] = {}
        for name, body in steps.items():
            called = _called(name, name, body, library, 0)
            for inner in called.keys() & expanded.keys():
                library.errors.append(f"steps.{inner}: two steps have this name; rename one")
            expanded |= called
        if section == "rounds.steps":
            out["rounds"] = {**recipe["rounds"], "steps": expanded}
        else:
            out[section] = expanded
    return out


def _called(name: str, prefix: str, body: Mapping, library: Library, depth: int) -> dict[str, dict]:
    """The steps that a step of a recipe stands for, by name: itself, unless it is a part."""
    if "part" not in body:
        return {name: dict(body)}
    key = f"steps.{name}"
    if depth > DEEPEST:
        library.errors.append(
            f"{key}.part: parts within parts more than {DEEPEST} deep; does {body['part']!r} use"
            " itself?"
        )
        return {}
    part = library.get(body["part"], f"{key}.part")
    if part is None:
        return {}
    given = body.get("with") or {}
    takes = _taken(part, given, key, library)
    if takes is None:
        return {}
    call = _Call(name, prefix, part, takes, dict(body.get("foreach") or {}), library, depth)
    # A default may refer to another parameter (`reference: ${policy}`), or name a step of the part.
    takes |= {
        take: call.passed_on(takes[take].in_config) for take in part.takes if take not in given
    }
    return call.steps()


def _taken(part: Part, given: Mapping, key: str, library: Library) -> dict[str, Value] | None:
    """The parameters of a call: what the caller gives, else what model and data say, else the
    default.
    """
    before = len(library.errors)
    outline.check_keys(given, list(part.takes), f"{key}.with.", library.errors)
    takes: dict[str, Value] = {}
    for name, default in part.takes.items():
        value = given[name] if name in given else library.default(name, default)
        if not isinstance(value, Value):
            value = Value(value, value)
        if value.in_config == REQUIRED:
            library.errors.append(f"{key}.with.{name}: missing; the part {part.name!r} needs it")
        takes[name] = value
    return takes if len(library.errors) == before else None


@dataclasses.dataclass
class _Call:
    """One use of a part: its steps under the names that they have at the caller."""

    name: str
    prefix: str
    part: Part
    takes: dict[str, Value]
    foreach: Mapping[str, Any]
    library: Library
    depth: int

    def steps(self) -> dict[str, dict]:
        out: dict[str, dict] = {}
        for inner, body in self.part.steps.items():
            name = self.outer_name(inner)
            key = f"steps.{name}"
            both = self.foreach.keys() & (body.get("foreach") or {}).keys()
            for variable in sorted(both):
                self.library.errors.append(
                    f"{key}.foreach.{variable}: the part {self.part.name!r} uses this name itself;"
                    " rename yours"
                )
            foreach = {**self.foreach, **self.in_config(body.get("foreach") or {})}
            if "part" in body:
                given = {
                    take: self.passed_on(value) for take, value in (body.get("with") or {}).items()
                }
                call = {**body, "with": given, "foreach": foreach}
                steps = _called(name, f"{self.prefix}.{inner}", call, self.library, self.depth + 1)
            else:
                steps = {name: self.step(body, foreach, key)}
            for step_name, step in steps.items():
                step["inner"] = step.get("inner", False) or step_name != self.name
            out |= steps
        return out

    def step(self, body: Mapping, foreach: Mapping, key: str) -> dict[str, Any]:
        step: dict[str, Any] = {"stage": body["stage"]}
        if foreach:
            step["foreach"] = foreach
        if body.get("inputs"):
            inputs = {
                slot: self.in_inputs(value, f"{key}.inputs.{slot}")
                for slot, value in body["inputs"].items()
            }
            # What is not given, such as an optional baseline, is no input.
            step["inputs"] = {slot: value for slot, value in inputs.items() if value is not None}
        for section in ("config", "resources"):
            if body.get(section):
                step[section] = self.in_config(body[section])
        by_variable = {
            n for text in outline.texts(body) for n in BY_VARIABLE.findall(text) if n in self.takes
        }
        if by_variable:
            step["passed"] = {
                "config": {n: self.takes[n].in_config for n in by_variable},
                "inputs": {n: self.takes[n].in_inputs for n in by_variable},
            }
        return step

    def outer_name(self, inner: str) -> str:
        return self.name if inner == self.part.gives else f"{self.prefix}.{inner}"

    def in_config(self, value: Any) -> Any:
        return _filled(value, self.takes, "in_config")

    def in_inputs(self, value: Any, key: str) -> Any:
        """An input with the part's own steps under their outer names, and the caller's where
        parameters stand.
        """
        return _filled(
            _renamed(value, lambda text: self.outer_reference(text, key)), self.takes, "in_inputs"
        )

    def passed_on(self, value: Any) -> Value:
        """What this part gives to another: a text may be the name of a step, or just a text."""
        in_inputs = _renamed(value, lambda text: self.outer_reference(text, None))
        return Value(self.in_config(value), _filled(in_inputs, self.takes, "in_inputs"))

    def outer_reference(self, text: str, key: str | None) -> str:
        """`candidates[de]` of the part as the caller would write it: `mine.candidates[${lang},de]`.

        A text that names no step of the part is reported under `key`, if there is one.
        """
        if text == "*" or text.startswith("${"):
            return text
        where, _, rest = text.partition(".")
        if where in ("previous", "initial") and rest:
            return f"{where}.{self.outer_reference(rest, key)}"
        head, _, values = text.removesuffix("]").partition("[")
        inner, _, beyond = head.partition(".")
        if inner not in self.part.steps:
            if key is not None:
                mend = nearest(head, self.part.steps)
                self.library.errors.append(
                    f"{key}: the part {self.part.name!r} has no step {head!r}{mend}"
                )
            return text
        name = f"{self.outer_name(inner)}.{beyond}" if beyond else self.outer_name(inner)
        outer = [f"${{{variable}}}" for variable in self.foreach]
        all_values = [*outer, *([values] if values else [])]
        return f"{name}[{','.join(all_values)}]" if all_values else name


def _renamed(value: Any, rename: Callable[[str], str]) -> Any:
    """An input with `rename` applied to every text that names a step."""
    if isinstance(value, str):
        return rename(value)
    if isinstance(value, list):
        return [_renamed(item, rename) for item in value]
    if not isinstance(value, Mapping):
        return value
    if not value.keys() & {"family", "path", "step"}:  # inputs by name
        return {name: _renamed(item, rename) for name, item in value.items()}
    return _renamed_models(value, rename)


def _renamed_models(value: Any, rename: Callable[[str], str]) -> Any:
    """Settings of a scorer, in which only `{step: NAME}` names steps, at any depth."""
    if isinstance(value, list):
        return [_renamed_models(item, rename) for item in value]
    if not isinstance(value, Mapping):
        return value
    return {
        k: rename(v) if k == "step" and isinstance(v, str) else _renamed_models(v, rename)
        for k, v in value.items()
    }


def _filled(value: Any, takes: Mapping[str, Value], form: str) -> Any:
    """A value with `${name}` replaced by what was given for it.

    Where that is all of a text, a list or a mapping may be given; where null is given for part of a
    text, the whole is null.
    """
    if isinstance(value, Mapping):
        return {key: _filled(inner, takes, form) for key, inner in value.items()}
    if isinstance(value, list):
        out: list[Any] = []
        for item in value:
            filled = _filled(item, takes, form)
            # A list given for one element stands for its elements.
            out.extend(filled if isinstance(filled, list) and isinstance(item, str) else [filled])
        return out
    if not isinstance(value, str):
        return value
    whole = REFERENCE.fullmatch(value)
    if whole and whole[1] in takes:
        return _within(getattr(takes[whole[1]], form), whole[2])

    parts: dict[str, Any] = {}
    for match in REFERENCE.finditer(value):
        if match[1] in takes:
            parts[match[0]] = _within(getattr(takes[match[1]], form), match[2])
    if None in parts.values():
        return None
    for reference, given in parts.items():
        value = value.replace(reference, str(given))
    return value


def _within(value: Any, path: str) -> Any:
    """`value` at `.key.key`; of an interpolation, a longer interpolation."""
    for key in path.split(".")[1:]:
        if isinstance(value, Mapping) and key in value:
            value = value[key]
        elif isinstance(value, str) and value.startswith("${") and value.endswith("}"):
            value = f"{value[:-1]}.{key}}}"
        else:
            raise UserError(f"${{…{path}}}: there is no {key!r} in {value!r}")
    return value
