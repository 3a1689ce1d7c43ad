"""The inputs of steps: references become artifacts, and what is external gets its identity."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import reward_models
from mlalign.core import identity
from mlalign.core.digests import Digests
from mlalign.core.errors import UserError, nearest
from mlalign.core.model import with_models
from mlalign.recipes.graph import Ref, Step
from mlalign.recipes.node import Node
from mlalign.recipes.settings import Settings

# Kind of a slot -> the kinds of artifacts that fit.
KIND_OF_SLOT = {"model": ("model",), "rows": ("rows", "scores"), "scorer": ("model",)}


def check_slots(step: Step, module: ModuleType, key: str, errors: list[str]) -> bool:
    """Whether a step has the inputs that its stage declares; messages go to `errors`."""
    n_before = len(errors)
    for slot in (*step.inputs, *step.broken):
        if slot not in module.SLOTS:
            hint = nearest(slot, module.SLOTS)
            errors.append(f"{key}.inputs.{slot}: {step.stage} has no such input{hint}")

    for slot, kind in module.SLOTS.items():
        if slot in step.broken:
            continue
        value = step.inputs.get(slot)
        # `KIND?` may be missing; `KIND*` is a list, which may be empty if it is given.
        may_be_empty = kind.endswith("?") or (kind.endswith("*") and slot in step.inputs)
        if value in (None, []):
            if not may_be_empty:
                needed = kind.rstrip("?*")
                errors.append(f"{key}.inputs.{slot}: missing; {step.stage} needs {needed}")
        elif isinstance(value, list) and "*" not in kind:
            errors.append(f"{key}.inputs.{slot}: one input, not a list")
    return len(errors) == n_before and not step.broken


def without_itself(inputs: Mapping[str, Any], differs_from: Mapping[str, str]) -> dict[str, Any]:
    """The inputs without those that would compare a thing with itself.

    A baseline needs no baseline. `differs_from`: slot -> the slot that it must differ from.
    """
    kept = {}
    for slot, value in inputs.items():
        is_same = slot in differs_from and value == inputs.get(differs_from[slot])
        if not is_same:
            kept[slot] = value
    return kept


@dataclasses.dataclass
class Inputs:
    """Resolves the inputs of steps.

    `nodes` has the steps that are planned already. Mistakes are appended to `errors`. Hub ids whose
    commit is not known are mistakes too, unless the plan is only `to_look_at`: then the reasons go
    to `unknown`.
    """

    settings: Settings
    digests: Digests
    nodes: Mapping[str, Node]
    errors: list[str]
    to_look_at: bool = False
    unknown: list[str] = dataclasses.field(default_factory=list)

    def resolve(self, value: Any, module: ModuleType, slot: str, key: str) -> Any:
        """The input of a slot as its stage gets it; None in the place of what is wrong."""
        if isinstance(value, list):
            items = enumerate(value)
            return [self.resolve(item, module, slot, f"{key}[{i}]") for i, item in items]
        kind = module.SLOTS.get(slot, "any").rstrip("?*")
        if isinstance(value, Ref):
            return self._of_reference(value, kind, key)
        if kind == "scorer" and "family" in value:
            return self._scorer(value, key)
        return self._external(value, kind, key)

    def of_step(self, name: str) -> dict:
        """The artifact of a planned step, as an input."""
        node = self.nodes[name]
        artifact: dict[str, Any] = {"step": name, "artifact": node.artifact}
        if node.step.binding:
            artifact["binding"] = node.step.binding
        return artifact

    def _of_reference(self, ref: Ref, kind: str, key: str) -> dict | None:
        if ref.step not in self.nodes:
            return None  # its own mistakes are reported
        given_kind = self.nodes[ref.step].module.KIND
        fitting = KIND_OF_SLOT.get(kind)
        if fitting is not None and given_kind not in fitting:
            needed = " or ".join(fitting)
            self.errors.append(f"{key}: {ref.step} gives {given_kind}, but this needs {needed}")
            return None
        artifact = self.of_step(ref.step)
        return artifact if ref.name is None else {**artifact, "name": ref.name}

    def _scorer(self, value: Mapping, key: str) -> dict | None:
        """A scorer with its settings, and with the models in them resolved."""
        described = with_models(value, _described)
        settings = {name: setting for name, setting in described.items() if name != "identity"}
        problems = reward_models.problems(settings, key)
        if problems:
            self.errors.extend(problems)
            return None

        whole: dict | None = dict(value)
        if isinstance(value.get("path"), str):
            whole = self._external(value, "scorer", key)
        if whole is None:
            return None

        models: list[dict | None] = []

        def resolved(model: Mapping) -> dict | None:
            if "path" in model:
                models.append(self._external(model, "model", key))
            else:
                models.append(self._of_reference(Ref(model["step"]), "model", key))
            return models[-1]

        scorer = {}
        for name, setting in whole.items():
            scorer[name] = with_models(_with_models_as_mappings(setting, name), resolved)
        return None if None in models else scorer

    def _external(self, value: Mapping, kind: str, key: str) -> dict | None:
        """Something from outside the store, with its identity."""
        if "path" not in value:
            wanted = "`family` (a scorer)" if kind == "scorer" else "`path`"
            self.errors.append(
                f"{key}: {dict(value)} names nothing; give {wanted}, or the name of a step"
            )
            return None
        path = value["path"]
        if path is None:
            return None
        model = self.settings.root["model"]
        if path == model.get("path") and model.get("revision"):
            value = {"revision": model["revision"], **value}
        if kind == "rows" and not os.path.isdir(Path(path).expanduser()):
            self.errors.append(
                f"{key}: {path} is not a rows artifact; bring files in with `mlalign prepare`, or"
                " name a step's directory"
            )
            return None

        external = self._identified(value, key)
        if external is not None and Path(external["path"]).exists():
            self.errors.extend(identity.check_kind(Path(external["path"]), kind, key))
        return external

    def _identified(self, value: Mapping, key: str) -> dict | None:
        try:
            return identity.of_external(value, self.digests, key)
        except identity.UnknownCommit as error:
            if self.to_look_at:
                self.unknown.extend(error.messages)
                return {**value, "identity": f"{value['path']}@{identity.UNKNOWN}"}
            self.errors.extend(error.messages)
        except UserError as error:
            self.errors.extend(error.messages)
        return None


def _described(model: Mapping) -> str:
    """A model in a scorer's settings, as text for the check of these settings."""
    return model.get("path") or f"step {model['step']}"


def _with_models_as_mappings(value: Any, name: str, *, inner: bool = False) -> Any:
    """A scorer's setting called `name`, in which a model's path is written as `{path: …}`.

    That is the text of `reference` and `base`, and of `path` in a scorer within the scorer. The
    `path` of the outermost scorer stays as it is: its identity stands beside it.
    """
    if isinstance(value, list):
        return [_with_models_as_mappings(item, "", inner=True) for item in value]
    if isinstance(value, Mapping) and "family" in value:
        settings = {}
        for inner_name, setting in value.items():
            settings[inner_name] = _with_models_as_mappings(setting, inner_name, inner=True)
        return settings
    is_model = name in ("reference", "base") or (inner and name == "path")
    return {"path": value} if is_model and isinstance(value, str) else value
