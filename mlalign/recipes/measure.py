"""The sections `measure` of a recipe and of its rounds, as calls of parts: one for each evaluation.

An evaluation that asks policies is the part `measure`; one that scores given answers, or reward
models, is the part `measure_rows`. The steps for `held_out` are called `measure`, `measure_round`
and `measure_initial`; those for another evaluation have its name behind that: `measure_mgsm`.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from mlalign.recipes import outline
from mlalign.recipes.evaluations import CHOICES, DEFAULT, REWARDS, Evaluation

# What the part `measure` of every evaluation gets from the section; the rest is for held-out rows.
SHARED = ("control",)


@dataclasses.dataclass
class Section:
    """A section `measure`: whom it names, and what else it gives to the part.

    Policies and reward models are steps or external models, by name.
    """

    key: str
    policies: dict[str, Any]
    reward_models: dict[str, Any]
    rest: dict[str, Any]


def with_calls(
    recipe: Mapping, evaluations: Sequence[Evaluation], errors: list[str]
) -> dict[str, Any]:
    """The recipe with calls of parts in the place of its sections `measure`.

    The measurement of the whole recipe comes last, and takes differences from its first policy.
    That of a round takes them from the policy that the rounds began with, which is measured before
    them.
    """
    expansion = _Expansion(recipe, errors)
    for evaluation in evaluations:
        expansion.add(evaluation)
    return expansion.result()


class _Expansion:
    """A recipe that gets the steps of one evaluation after another."""

    def __init__(self, recipe: Mapping, errors: list[str]):
        self.recipe = recipe
        self.errors = errors
        self.rounds = recipe.get("rounds") or {}
        self.whole = self._section(recipe, "measure")
        self.of_round = self._section(self.rounds, "rounds.measure")
        self.steps: dict[str, dict] = {}
        self.final: dict[str, dict] = {}
        self.round_steps: dict[str, dict] = {}
        self.init: dict[str, str] = {}
        if self.of_round:
            self._check_initial(self.of_round)

    def _check_initial(self, section: Section) -> None:
        initial = self.rounds.get("init") or {}
        for name in section.policies:
            if name not in initial:
                self.errors.append(
                    f"rounds.measure.policies: `init` does not name {name}, so there is nothing to"
                    " compare it with"
                )

    def _section(self, owner: Mapping, key: str) -> Section | None:
        if "measure" not in owner:
            return None
        rest = dict(owner["measure"])
        policies = _named(rest.pop("policies", None), f"{key}.policies", self.errors)
        models = rest.pop("reward_models", None)
        reward_models = {}
        if models is not None:
            reward_models = _named(models, f"{key}.reward_models", self.errors)
        return Section(key, policies, reward_models, rest)

    def add(self, evaluation: Evaluation) -> None:
        """Add the steps that measure the policies, or the reward models, on one evaluation."""
        sections = [section for section in (self.whole, self.of_round) if section is not None]
        if not sections:
            return
        suffix = "" if evaluation.name == DEFAULT else f"_{evaluation.name}"
        if evaluation.rows is not None:
            self.steps[f"rows{suffix}"] = _rows_step(evaluation)
        if evaluation.measures == REWARDS:
            self._add_reward_models(evaluation, sections, suffix)
            return
        if self.whole:
            name = f"measure{suffix}"
            self.final[name] = self._call(evaluation, self.whole, name, baseline=name)
        if self.of_round:
            self._add_rounds(evaluation, self.of_round, suffix)

    def _add_reward_models(
        self, evaluation: Evaluation, sections: Sequence[Section], suffix: str
    ) -> None:
        for section in sections:
            if section.reward_models:
                self.final[f"measure{suffix}"] = _rows_call(evaluation, section.reward_models)
                return
        self.errors.append(
            f"evaluation: {evaluation.name} is for reward models, and `{sections[0].key}` names"
            " none; add reward_models: [STEP] there, or leave this evaluation out"
        )

    def _add_rounds(self, evaluation: Evaluation, section: Section, suffix: str) -> None:
        """Measure every round, and before the rounds what they begin with."""
        of_round = f"measure_round{suffix}"
        initial = f"measure_initial{suffix}"
        init = self.rounds.get("init") or {}
        initial_policies = {name: init.get(name) for name in section.policies}
        before = dataclasses.replace(section, policies=initial_policies)
        self.steps[initial] = self._call(evaluation, before, initial, baseline=initial)

        call = self._call(evaluation, section, of_round, baseline=initial)
        if evaluation.rows is None:
            call["with"].setdefault("prompts", f"{initial}.rows.prompts")
        self.round_steps[of_round] = call
        self.init |= {f"{of_round}[{name}]": f"{initial}[{name}]" for name in section.policies}

    def _call(
        self, evaluation: Evaluation, section: Section, name: str, *, baseline: str
    ) -> dict[str, Any]:
        """The call of a part; differences are from the first policy of the step `baseline`."""
        if evaluation.measures == CHOICES:
            scorers = {}
            for label, policy in section.policies.items():
                scorers[label] = _likelihood(policy, evaluation)
            return _rows_call(evaluation, scorers)

        first = next(iter(section.policies), "")
        compared = {}
        if name != baseline:
            compared["baseline"] = f"{baseline}.answers[{first}]"
            compared["baseline_scores"] = f"{baseline}.marks[{first}]"
        elif section.key == "measure":
            compared["first"] = first
        parameters = {**compared, **_parameters(evaluation, section), "policies": section.policies}
        return {"part": "measure", "with": parameters}

    def result(self) -> dict[str, Any]:
        """The recipe with the added steps, and without the sections they stand for."""
        recipe = _without(self.recipe, "measure", "evaluation")
        if self.final:
            recipe["finally"] = self._joined(self.final, "finally", first=True)
        if self.steps:
            recipe["steps"] = self._joined(self.steps, "steps")
        if self.round_steps:
            recipe["rounds"] = {
                **_without(self.rounds, "measure"),
                "init": {**self.init, **(self.rounds.get("init") or {})},
                "steps": self._joined(self.round_steps, "rounds.steps"),
            }
        return recipe

    def _joined(self, made: Mapping, section: str, *, first: bool = False) -> dict[str, Any]:
        """The recipe's own steps in a section, with the made ones behind, or `first`."""
        own = outline.section(self.recipe, section)
        for name in made.keys() & own.keys():
            self.errors.append(f"steps.{name}: `measure` makes a step of this name; rename yours")
        return {**made, **own} if first else {**own, **made}


def _without(mapping: Mapping, *names: str) -> dict[str, Any]:
    return {name: value for name, value in mapping.items() if name not in names}


def _named(models: Any, key: str, errors: list[str]) -> dict[str, Any]:
    """Policies or reward models by name."""
    if not isinstance(models, list) or not models:
        errors.append(f"{key}: expected a list of steps, or of {{path, name}}, got {models!r}")
        return {}
    named: dict[str, Any] = {}
    for model in models:
        value: Any = model
        label = model
        if isinstance(model, Mapping):
            value = _without(model, "name")
            label = model.get("name")
        if not isinstance(label, str) or not outline.NAME.fullmatch(label):
            errors.append(
                f"{key}: {model!r} needs a name: {{step: …, name: …}} or {{path: …, name: …}}"
            )
            continue
        if isinstance(value, Mapping) and set(value) == {"step"}:
            value = value["step"]
        named[label] = value
    return named


def _parameters(evaluation: Evaluation, section: Section) -> dict[str, Any]:
    """What the part `measure` gets beside the policies."""
    if evaluation.rows is None and evaluation.name == DEFAULT:
        return section.rest
    shared = {name: section.rest[name] for name in SHARED if name in section.rest}
    if evaluation.rows is not None:
        shared["prompts"] = f"rows_{evaluation.name}"
    elif "prompts" in section.rest:
        shared["prompts"] = section.rest["prompts"]
    return {
        **shared,
        "judges": evaluation.all_scorers,
        "asked": {"split": "eval", **(evaluation.ask or {})},
        "measured": {**evaluation.metrics, "evaluation": evaluation.label},
    }


def _rows_call(evaluation: Evaluation, scorers: Mapping[str, Any]) -> dict[str, Any]:
    """The call of the part that scores answers which are there already."""
    parameters = {
        "policies": dict(scorers),
        "prompts": f"rows_{evaluation.name}",
        "measured": {**evaluation.metrics, "evaluation": evaluation.label},
    }
    return {"part": "measure_rows", "with": parameters}


def _likelihood(policy: Any, evaluation: Evaluation) -> dict[str, Any] | None:
    """A policy that chooses among given answers, as a scorer."""
    if policy is None:
        return None  # a round's policy that nothing begins with, which is reported
    assert evaluation.choices is not None
    path = {"step": policy} if isinstance(policy, str) else policy
    return {
        "family": "likelihood",
        "name": "likelihood",
        "path": path,
        **dataclasses.asdict(evaluation.choices),
    }


def _rows_step(evaluation: Evaluation) -> dict[str, Any]:
    """The step that reads an evaluation's rows: all of them, each once, as they were published."""
    assert evaluation.rows is not None
    sources = [_changed(source) for source in evaluation.rows.files]
    config = {
        "kind": evaluation.kind,
        "sources": sources,
        "languages": evaluation.languages,
        "dedup": False,
    }
    return {"stage": "prepare", "config": config}


def _changed(source: Any) -> dict[str, Any]:
    """A source without the settings that it leaves at their defaults."""
    defaults = dataclasses.asdict(type(source)())
    changed = {}
    for name, value in dataclasses.asdict(source).items():
        if value != defaults[name]:
            changed[name] = value
    return changed
