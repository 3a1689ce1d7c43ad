"""Applying the command line: each value goes where its key says."""

from collections.abc import Mapping, Sequence
from typing import Any

from mlalign.core.errors import nearest
from mlalign.recipes.command_line import CONTROLS, GROUPS, VALUES, Override
from mlalign.recipes.outline import templates
from mlalign.recipes.settings import Settings

STEP_KEYS = ("config.KEY", "resources.KEY", "inputs.SLOT")


def apply(settings: Settings, overrides: Sequence[Override], errors: list[str]) -> None:
    """Merge the overrides into the settings, later ones over earlier ones.

    Unknown keys are appended to `errors`.
    """
    steps = templates(settings.recipe)
    for override in overrides:
        _apply(settings, steps, override, errors)


def _apply(
    settings: Settings, steps: Mapping[str, dict], override: Override, errors: list[str]
) -> None:
    head, *rest = override.key
    params = settings.root["params"]
    if _was_read_before(head, rest):
        return
    if head in VALUES and not rest:
        settings.root[head] = override.value
        if head == "deepspeed":
            settings.typed[head] = override.value
    elif _is_unknown_param(head, rest, params):
        hint = nearest(rest[1], params)
        errors.append(f"{override.dotted}: the recipe has no such parameter{hint}")
    elif head in GROUPS and rest and head != "recipe":
        _set(settings.root[head], rest, override, errors)
        _note_typed(settings.typed, head, rest, override.value)
    elif head == "use" and rest:
        settings.use[".".join(rest)] = str(override.value)
    elif head == "steps" and len(rest) > 1:
        _apply_to_step(steps, rest, override, errors)
    else:
        _apply_param(params, override, errors)


def _was_read_before(head: str, rest: Sequence[str]) -> bool:
    """Whether a key was used before the recipe was known: a choice of files, or a control."""
    is_choice = head in GROUPS and not rest
    is_of_evaluation = head == "evaluation" and bool(rest)
    return head in CONTROLS or is_choice or is_of_evaluation


def _is_unknown_param(head: str, rest: Sequence[str], params: Mapping[str, Any]) -> bool:
    """Whether a key is `data.params.NAME` or `model.params.NAME` of a NAME that nothing takes."""
    if head not in ("data", "model") or len(rest) < 2:
        return False
    return rest[0] == "params" and rest[1] not in params


def _apply_param(params: dict[str, Any], override: Override, errors: list[str]) -> None:
    """Set `NAME` or `params.NAME`."""
    head, *rest = override.key
    name = rest[0] if head == "params" and rest else head
    if name in params:
        params[name] = override.value
        return
    allowed = [*params, *GROUPS, *VALUES, *CONTROLS, "steps.STEP.config.KEY", "use.STEP"]
    errors.append(_unknown(override, nearest(override.dotted, allowed)))


def _unknown(override: Override, hint: str) -> str:
    """The message for a key of the command line, or of the recipe's `tiny`, that nothing has."""
    place = "tiny." if override.text.startswith("tiny: ") else ""
    more = "" if "did you mean" in hint else "; any setting of a step: steps.STEP.config.KEY"
    return f"{place}{override.dotted}: unknown key{hint}{more}"


def _apply_to_step(
    steps: Mapping[str, dict], words: Sequence[str], override: Override, errors: list[str]
) -> None:
    """Set `steps.NAME.SECTION.KEY`; `words` are those after `steps`."""
    name = _longest_step(words, steps)
    if name is None:
        errors.append(f"steps.{words[0]}: the recipe has no such step{nearest(words[0], steps)}")
        return
    path = list(words[name.count(".") + 1 :])
    section = path.pop(0) if path else ""
    if section not in ("config", "resources", "inputs") or not path:
        errors.append(f"steps.{name}.{section}: unknown key{nearest(section, STEP_KEYS)}")
        return
    content = steps[name].setdefault(section, {})
    if isinstance(content, str):
        errors.append(
            f"{override.dotted}: the recipe takes the whole {section} from {content}; set it there"
        )
        return
    _set(content, path, override, errors)


def _longest_step(words: Sequence[str], steps: Mapping[str, dict]) -> str | None:
    """The step that some words begin with: `pairs.candidates` rather than `pairs`."""
    for length in range(len(words), 0, -1):
        name = ".".join(words[:length])
        if name in steps:
            return name
    return None


def _note_typed(typed: dict[str, Any], group: str, path: list[str], value: Any) -> None:
    """Remember what of a group goes into the steps' own configurations: it beats the scale."""
    if group == "engine":
        for key in reversed(path):
            value = {key: value}
        typed["engine"] = merged(typed.get("engine", {}), value)
    elif group == "model" and path in (["chat_template"], ["date"]):
        typed[path[0]] = value


def _set(tree: dict, path: Sequence[str], override: Override, errors: list[str]) -> None:
    """Set an override's value at a path of keys below `tree`."""
    for key in path[:-1]:
        inner = tree.get(key) or {}
        if not isinstance(inner, Mapping):
            errors.append(f"{override.dotted}: {key} is not a mapping; set it as a whole")
            return
        tree[key] = dict(inner)
        tree = tree[key]
    tree[path[-1]] = override.value


def merged(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """The mappings merged, later ones over earlier ones, nested mappings key by key.

    {a: {b: 1, c: 2}}, {a: {c: 3}}  ->  {a: {b: 1, c: 3}}
    """
    result: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            below = result.get(key)
            if isinstance(value, Mapping) and isinstance(below, Mapping):
                result[key] = merged(below, value)
            else:
                result[key] = value
    return result
