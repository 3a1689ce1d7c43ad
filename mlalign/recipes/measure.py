"""The sections `measure` of a recipe and of its rounds, as calls of the part `measure`."""

from collections.abc import Mapping
from typing import Any

from mlalign.recipes import outline


def with_calls(recipe: Mapping, errors: list[str]) -> dict[str, Any]:
    """The recipe with the part `measure` in the place of its sections of that name.

    The measurement of the whole recipe comes last, and takes differences from its first policy. That
    of a round takes them from the policy that the rounds began with, which is measured before them
    under the name `measure_initial`.
    """
    out = {name: value for name, value in recipe.items() if name != "measure"}
    rounds = recipe.get("rounds") or {}
    if "measure" in recipe:
        call = _call(recipe["measure"], "measure", "measure", errors)
        out["finally"] = {"measure": call, **(recipe.get("finally") or {})}
    if "measure" in rounds:
        init = rounds.get("init") or {}
        call = _call(rounds["measure"], "measure_round", "measure_initial", errors)
        policies = call["with"].get("policies") or {}
        for name in policies.keys() - init.keys():
            errors.append(f"rounds.measure.policies: {name} is nothing that `init` names, and there is nothing to compare it with")
        begun = {name: init.get(name) for name in policies}
        rest = {key: value for key, value in call["with"].items() if not key.startswith("baseline")}
        out["steps"] = {
            **(recipe.get("steps") or {}),
            "measure_initial": {"part": "measure", "with": {**rest, "policies": begun}},
        }
        call["with"].setdefault("prompts", "measure_initial.rows.prompts")
        evidence = {f"measure_round[{name}]": f"measure_initial[{name}]" for name in policies}
        out["rounds"] = {
            **{name: value for name, value in rounds.items() if name != "measure"},
            "init": {**evidence, **init},
            "steps": {**(rounds.get("steps") or {}), "measure_round": call},
        }
    return out


def _call(section: Mapping, name: str, baseline: str, errors: list[str]) -> dict[str, Any]:
    """The call of the part that a section `measure` stands for."""
    key = "rounds.measure" if name == "measure_round" else "measure"
    policies: dict[str, Any] = {}
    given = section.get("policies")
    if not isinstance(given, list) or not given:
        errors.append(f"{key}.policies: expected a list of steps, or of {{path, name}}, got {given!r}")
        given = []
    for policy in given:
        value = {k: v for k, v in policy.items() if k != "name"} if isinstance(policy, Mapping) else policy
        label = policy.get("name") if isinstance(policy, Mapping) else policy
        if not isinstance(label, str) or not outline.NAME.fullmatch(label):
            errors.append(f"{key}.policies: {policy!r} needs a name: {{step: …, name: …}} or {{path: …, name: …}}")
            continue
        policies[label] = value["step"] if isinstance(value, Mapping) and set(value) == {"step"} else value
    first = next(iter(policies), "")
    own = {k: v for k, v in section.items() if k != "policies"}
    if name == baseline:
        compared = {"first": first}
    else:
        compared = {"baseline": f"{baseline}.answers[{first}]", "baseline_scores": f"{baseline}.marks[{first}]"}
    return {"part": "measure", "with": {**compared, **own, "policies": policies}}
