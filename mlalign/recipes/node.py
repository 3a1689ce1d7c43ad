"""A step of a plan: everything that is known of it before it runs."""

import dataclasses
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from mlalign.core.model import models_in
from mlalign.recipes.graph import Step


@dataclasses.dataclass
class Node:
    """One step of a plan, ready to run."""

    step: Step
    module: ModuleType
    config: Any
    inputs: dict[str, Any]
    guards: list[dict]
    resources: dict[str, Any]
    fingerprint: str
    missing: list[str]  # messages about packages that are not installed
    # What the plan read outside the store: `files` (path -> SHA-256) and `config` (key ->
    # fingerprint).
    read: dict[str, Any]
    # Of a sweep: the settings that not all variants share, such as `beta=0.05`.
    variant: str = ""

    @property
    def name(self) -> str:
        """What the step is called in its run: that of a variant is `policy[beta=0.05]`."""
        return f"{self.step.name}[{self.variant}]" if self.variant else self.step.name

    @property
    def artifact(self) -> str:
        return f"{self.step.stage}-{self.fingerprint[:16]}"

    def sources(self) -> Iterator[dict]:
        """Every input that is another step's artifact, guards included."""
        for value in [*self.inputs.values(), self.guards]:
            for model in models_in(value):
                if "artifact" in model:
                    yield model
