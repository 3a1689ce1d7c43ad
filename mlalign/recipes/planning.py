"""Steps become nodes, with configuration, inputs, resources and fingerprint."""

import dataclasses
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from mlalign import stages
from mlalign.core import kinds, schema, store
from mlalign.core.digests import Digests
from mlalign.core.errors import UserError
from mlalign.recipes import packages, resources
from mlalign.recipes.graph import Step
from mlalign.recipes.inputs import Inputs, check_slots, without_itself
from mlalign.recipes.layers import step_config
from mlalign.recipes.node import Node
from mlalign.recipes.overrides import merged
from mlalign.recipes.prints import Prints
from mlalign.recipes.settings import Settings


@dataclasses.dataclass
class _Draft:
    """A step on its way to a node. `files`: path -> SHA-256 of each file that planning it reads."""

    step: Step
    module: ModuleType
    config: Any
    inputs: dict[str, Any]
    files: dict[str, str]
    # What the stage fingerprints in the place of configured values, such as digests of files.
    own_identity: dict[str, Any]

    @property
    def key(self) -> str:
        return f"steps.{self.step.template}"


class Planner:
    """Plans steps in the order of running. Mistakes are appended to `errors`."""

    def __init__(
        self, settings: Settings, digests: Digests, errors: list[str], *, to_look_at: bool = False
    ):
        self.settings = settings
        self.digests = digests
        self.errors = errors
        self.nodes: dict[str, Node] = {}
        # Artifact -> its node: steps that are the same in all that counts share one.
        self.by_artifact: dict[str, Node] = {}
        self.same: list[tuple[Step, str]] = []
        self.inputs = Inputs(settings, digests, self.nodes, errors, to_look_at)
        self._prints = Prints(digests, self.nodes)
        self._gives: dict[str, kinds.Gives] = {}

    def add(self, step: Step) -> None:
        """Plan a step, if nothing is wrong with it."""
        key = f"steps.{step.template}"
        try:
            module = stages.load(step.stage)
        except UserError as error:
            self.errors.append(f"{key}.stage: {error}")
            return
        step.inputs = without_itself(step.inputs, getattr(module, "DIFFERS_FROM", {}))
        slots_fit = check_slots(step, module, key, self.errors)
        if step.unresolved:
            return
        layers = step_config(step, module, self.settings, key, self.errors)
        cfg = schema.build(module.Config, layers, f"{key}.config", self.errors)

        with self.digests.recording() as files:
            inputs = self._inputs(step, module)
            if slots_fit and cfg is not None and inputs is not None:
                self._add(_Draft(step, module, cfg, inputs, files, {}))

    def _inputs(self, step: Step, module: ModuleType) -> dict[str, Any] | None:
        """The resolved inputs of a step; None if one of them, or a guard, is not there."""
        inputs: dict[str, Any] = {}
        for slot, value in step.inputs.items():
            key = f"steps.{step.template}.inputs.{slot}"
            inputs[slot] = self.inputs.resolve(value, module, slot, key)

        for value in inputs.values():
            if value is None or (isinstance(value, list) and None in value):
                return None
        if any(guard not in self.nodes for guard in step.guards):
            return None
        return inputs

    def _add(self, draft: _Draft) -> None:
        name = draft.step.name
        try:
            draft.own_identity = self._own_identity(draft)
        except UserError as error:
            self.errors.extend(f"{draft.key}.config.{message}" for message in error.messages)
            self._gives[name] = kinds.Gives()  # so that the steps after it are checked too
        else:
            known = self._known_inputs(draft.inputs)
            misfits = kinds.problems(draft.module, draft.step.stage, draft.config, known, draft.key)
            if misfits:
                self.errors.extend(misfits)
                return
            self._gives[name] = kinds.of_step(draft.module, draft.config, known)

        node = self._node(draft)
        self.nodes[name] = self.by_artifact.setdefault(node.artifact, node)
        if self.nodes[name] is not node:
            self.same.append((draft.step, self.nodes[name].name))

    def _own_identity(self, draft: _Draft) -> dict[str, Any]:
        if not hasattr(draft.module, "identity"):
            return {}
        return draft.module.identity(draft.config, self.digests.path)

    def _known_inputs(self, inputs: Mapping[str, Any]) -> dict[str, list[kinds.Gives]]:
        """What is known of the rows and columns in each slot before anything runs."""
        known = {}
        for slot, value in inputs.items():
            items = value if isinstance(value, list) else [value]
            known[slot] = [self._known(item) for item in items]
        return known

    def _known(self, value: Mapping) -> kinds.Gives:
        """What is known of an input: from its stage if a step gives it, else from its files."""
        family = str(value.get("family") or "").rpartition(":")[2]
        name = value.get("name") or value.get("step") or family
        if "artifact" in value:
            known = self._gives[value["step"]]
        else:
            known = kinds.of_external(value)
        return dataclasses.replace(known, name=name or known.name)

    def _node(self, draft: _Draft) -> Node:
        config_prints = {}
        for name, value in draft.own_identity.items():
            config_prints[name] = store.fingerprint({name: value})
        return Node(
            step=draft.step,
            module=draft.module,
            config=draft.config,
            inputs=draft.inputs,
            guards=[self.inputs.of_step(guard) for guard in draft.step.guards],
            resources=self._resources(draft),
            fingerprint=self._fingerprint(draft),
            missing=packages.missing(draft.module, draft.config, draft.key),
            read={"files": draft.files, "config": config_prints},
        )

    def _fingerprint(self, draft: _Draft) -> str:
        prints = {}
        for slot, value in draft.inputs.items():
            prints[slot] = self._prints.of_slot(value, draft.module, slot)
        return store.fingerprint(
            {
                "stage": draft.step.stage,
                "version": draft.module.VERSION,
                "config": schema.hashed(draft.config) | draft.own_identity,
                "inputs": prints,
                "guards": [self.nodes[guard].fingerprint for guard in draft.step.guards],
            }
        )

    def _resources(self, draft: _Draft) -> dict[str, Any]:
        root = self.settings.root
        layers = [layer for _, layer in resources.layers(root, draft.step.stage)]
        wanted = merged(*layers, draft.step.resources)
        is_distributed = draft.module.DISTRIBUTED
        if is_distributed and root["devices"] is not None:
            wanted["devices"] = root["devices"]
        self.errors.extend(
            resources.problems(
                wanted,
                f"{draft.key}.resources",
                distributed=is_distributed,
                sharded=draft.module.SHARDED is not None,
            )
        )
        return wanted
