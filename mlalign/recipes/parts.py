"""Parts: pieces of a recipe with a name and parameters, replaced by their steps at the start.

    # conf/part/own_pairs.yaml
    takes:
      policy: ???                                     # the caller must give it
      prompts: ???
      n: 8
    steps:
      candidates:
        stage: generate
        inputs: {model: "${policy}", rows: "${prompts}"}
        config: {n: "${n}"}
      pairs: {stage: pairs, inputs: {rows: candidates}}
    gives: pairs

In a recipe, `mine: {part: own_pairs, with: {policy: base, prompts: rows.prompts}}` stands for two
steps: `mine`, which is the step that the part gives, and `mine.candidates`. A plain name within a
part is one of its own steps; a step passed by `with` is one of the caller's. A part sees what it
takes and the groups, and no `params`.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from mlalign.core import yaml_files
from mlalign.core.errors import UserError, nearest
from mlalign.recipes import measure, outline
from mlalign.recipes.evaluations import Evaluation
from mlalign.recipes.substitution import Value, filled, renamed

REQUIRED = "???"
KEYS = ("takes", "steps", "gives")
# The head of `${name.${other}}`, and that of any reference.
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
    # Parts that were read; None for those that cannot be.
    read: dict[str, Part | None] = dataclasses.field(default_factory=dict)
    # What the sections `measure` ask of their policies.
    evaluations: list[Evaluation] = dataclasses.field(default_factory=list)
    # Parameters that no caller gave, with their values: the command line may set these. A default
    # that refers to another parameter is not among them: it is set through that one.
    left: dict[str, Any] = dataclasses.field(default_factory=dict)

    def default(self, name: str, own: Any) -> Any:
        """The value of a parameter that the caller does not give; `own` is the part's default."""
        value = self.defaults.get(name, own)
        refers = any("${" in text for text in outline.texts(own))
        if own != REQUIRED and not refers:
            self.left.setdefault(name, value)
        return value

    def get(self, name: str, key: str) -> Part | None:
        """The part of this name; None, with a message, if there is none or it cannot be read."""
        if name not in self.files:
            self.errors.append(f"{key}: there is no part {name!r}{nearest(name, self.files)}")
            return None
        if name not in self.read:
            n_before = len(self.errors)
            part = self._open(name)
            self.read[name] = part if len(self.errors) == n_before else None
        return self.read[name]

    def _open(self, name: str) -> Part | None:
        place = f"part {name}"
        try:
            content = _read(self.files[name])
        except UserError as error:
            self.errors.extend(error.messages)
            return None
        if not isinstance(content, Mapping):
            self.errors.append(f"{place}: expected a mapping with {', '.join(KEYS)}")
            return None

        errors: list[str] = []
        part = _parsed(name, content, errors)
        if not errors:
            self._check(part, errors)
        self.errors.extend(f"{place}: {message}" for message in errors)
        return part

    def _check(self, part: Part, errors: list[str]) -> None:
        """Check the names in a part: of its steps, of what it takes, and of what it refers to."""
        for name in part.steps:
            if name in outline.RESERVED_INNER or outline.INNER_ROUND.fullmatch(name):
                errors.append(f"steps.{name}: reserved; a step of a part needs another name")
        if part.gives is not None and part.gives not in part.steps:
            hint = nearest(str(part.gives), part.steps)
            errors.append(f"gives: there is no step {part.gives!r}{hint}")

        loops: set[str] = set()
        for body in part.steps.values():
            loops.update(body.get("foreach") or {})
        for name in (*part.takes, *loops):
            if name in self.known or name in ("round", "params"):
                errors.append(
                    f"{name}: a parameter cannot be named like a group or a value; rename it"
                )

        in_scope = {*part.takes, *loops, *self.known, "round"}
        heads: set[str] = set()
        for text in outline.texts(part.steps):
            heads.update(HEAD.findall(text))
        for name in sorted(heads - in_scope):
            mend = "; take it as a parameter" if name == "params" else nearest(name, in_scope)
            errors.append(f"${{{name}}}: a part sees what it takes and the groups{mend}")


def _parsed(name: str, content: Mapping, errors: list[str]) -> Part:
    """A part from the content of its file; what is wrong is left out, with a message."""
    outline.check_keys(content, KEYS, "", errors)
    takes = content.get("takes") or {}
    steps = content.get("steps") or {}
    if not isinstance(takes, Mapping):
        errors.append(f"takes: expected a mapping of names and defaults, got {takes!r}")
        takes = {}
    outline.check({"steps": steps}, errors)
    if not isinstance(steps, Mapping):
        steps = {}
    return Part(name, dict(takes), dict(steps), content.get("gives"))


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
        reason = " ".join(str(error).split())
        raise UserError(f"{file}: cannot be read as YAML ({reason})") from None
    return OmegaConf.to_container(created, resolve=False)


def expand(recipe: Mapping, library: Library) -> dict[str, Any]:
    """The recipe with parts replaced by their steps; mistakes go to the library's errors."""
    recipe = measure.with_calls(recipe, library.evaluations, library.errors)
    result: dict[str, Any] = dict(recipe)
    for section in outline.SECTIONS:
        steps = outline.section(recipe, section)
        if not steps:
            continue
        expanded = _expanded(steps, library)
        if section == "rounds.steps":
            result["rounds"] = {**recipe["rounds"], "steps": expanded}
        else:
            result[section] = expanded
    return result


def _expanded(steps: Mapping[str, Mapping], library: Library) -> dict[str, dict]:
    expanded: dict[str, dict] = {}
    for name, body in steps.items():
        called = _called(name, name, body, library, 0)
        for inner in called.keys() & expanded.keys():
            library.errors.append(f"steps.{inner}: two steps have this name; rename one")
        expanded |= called
    return expanded


def _called(name: str, prefix: str, body: Mapping, library: Library, depth: int) -> dict[str, dict]:
    """The steps that a step of a recipe stands for, by name: itself, unless it is a part.

    `prefix` begins the names of a part's other steps.
    """
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
    arguments = body.get("with") or {}
    takes = _taken(part, arguments, key, library)
    if takes is None:
        return {}
    call = _Call(name, prefix, part, takes, dict(body.get("foreach") or {}), library, depth)
    # A default may refer to another parameter (`reference: ${policy}`), or name a step of the part.
    # All are computed from what was there before.
    defaults = {}
    for take in part.takes:
        if take not in arguments:
            defaults[take] = call.passed_on(takes[take].in_config)
    takes |= defaults
    return call.steps()


def _taken(part: Part, arguments: Mapping, key: str, library: Library) -> dict[str, Value] | None:
    """The parameters of a call; None, with messages, if something is wrong with them.

    What the caller gives comes first, then what model and data say, then the part's default.
    """
    n_before = len(library.errors)
    outline.check_keys(arguments, list(part.takes), f"{key}.with.", library.errors)
    takes: dict[str, Value] = {}
    for name, default in part.takes.items():
        value = arguments[name] if name in arguments else library.default(name, default)
        if not isinstance(value, Value):
            value = Value(value, value)
        if value.in_config == REQUIRED:
            library.errors.append(f"{key}.with.{name}: missing; the part {part.name!r} needs it")
        takes[name] = value
    return takes if len(library.errors) == n_before else None


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
        """The part's steps by their outer names, those of parts within it included."""
        steps: dict[str, dict] = {}
        for inner, body in self.part.steps.items():
            for name, step in self._steps_of(inner, body).items():
                step["inner"] = step.get("inner", False) or name != self.name
                steps[name] = step
        return steps

    def _steps_of(self, inner: str, body: Mapping) -> dict[str, dict]:
        """What one step of the part stands for."""
        name = self._outer_name(inner)
        key = f"steps.{name}"
        own_loops = body.get("foreach") or {}
        for variable in sorted(self.foreach.keys() & own_loops.keys()):
            self.library.errors.append(
                f"{key}.foreach.{variable}: the part {self.part.name!r} uses this name itself;"
                " rename yours"
            )
        foreach = {**self.foreach, **self._in_config(own_loops)}
        if "part" not in body:
            return {name: self._step(body, foreach, key)}

        arguments = {}
        for take, value in (body.get("with") or {}).items():
            arguments[take] = self.passed_on(value)
        call = {**body, "with": arguments, "foreach": foreach}
        return _called(name, f"{self.prefix}.{inner}", call, self.library, self.depth + 1)

    def _step(self, body: Mapping, foreach: Mapping, key: str) -> dict[str, Any]:
        step: dict[str, Any] = {"stage": body["stage"]}
        if foreach:
            step["foreach"] = foreach
        if body.get("inputs"):
            step["inputs"] = self._inputs(body["inputs"], f"{key}.inputs")
        for section in ("config", "resources"):
            if body.get(section):
                step[section] = self._in_config(body[section])

        # `${clusters.${cluster}}` can be resolved only when the loop variable is known.
        by_variable: set[str] = set()
        for text in outline.texts(body):
            by_variable.update(BY_VARIABLE.findall(text))
        by_variable &= self.takes.keys()
        if by_variable:
            step["passed"] = {
                "config": {name: self.takes[name].in_config for name in by_variable},
                "inputs": {name: self.takes[name].in_inputs for name in by_variable},
            }
        return step

    def _inputs(self, inputs: Mapping, key: str) -> dict[str, Any]:
        """The inputs of a step, without those that are not given, such as an optional baseline."""
        inputs_given = {}
        for slot, value in inputs.items():
            in_inputs = self._in_inputs(value, f"{key}.{slot}")
            if in_inputs is not None:
                inputs_given[slot] = in_inputs
        return inputs_given

    def _outer_name(self, inner: str) -> str:
        return self.name if inner == self.part.gives else f"{self.prefix}.{inner}"

    def _in_config(self, value: Any) -> Any:
        return filled(value, self.takes, "in_config")

    def _in_inputs(self, value: Any, key: str | None) -> Any:
        """An input with the names that steps have at the caller, and with what the caller gave."""
        outer = renamed(value, lambda text: self._outer_reference(text, key))
        return filled(outer, self.takes, "in_inputs")

    def passed_on(self, value: Any) -> Value:
        """What this part gives to another: a text may be the name of a step, or just a text."""
        return Value(self._in_config(value), self._in_inputs(value, None))

    def _outer_reference(self, text: str, key: str | None) -> str:
        """`candidates[de]` of the part as the caller would write it: `mine.candidates[${lang},de]`.

        A text that names no step of the part is reported under `key`, if there is one.
        """
        if text == "*" or text.startswith("${"):
            return text
        where, _, rest = text.partition(".")
        if where in ("previous", "initial") and rest:
            return f"{where}.{self._outer_reference(rest, key)}"
        head, _, values = text.removesuffix("]").partition("[")
        inner, _, beyond = head.partition(".")
        if inner not in self.part.steps:
            if key is not None:
                hint = nearest(head, self.part.steps)
                self.library.errors.append(
                    f"{key}: the part {self.part.name!r} has no step {head!r}{hint}"
                )
            return text

        name = self._outer_name(inner)
        if beyond:
            name += f".{beyond}"
        all_values = [f"${{{variable}}}" for variable in self.foreach]
        if values:
            all_values.append(values)
        return f"{name}[{','.join(all_values)}]" if all_values else name
