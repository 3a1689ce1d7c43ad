"""What a step's inputs add to its fingerprint."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import reward_models
from mlalign.core.digests import Digests
from mlalign.core.model import with_models
from mlalign.recipes.node import Node
from reward_models.settings import NOT_CONTENT


@dataclasses.dataclass
class Prints:
    """Describes inputs for fingerprints; `nodes` has the steps that are planned already."""

    digests: Digests
    nodes: Mapping[str, Node]

    def of_slot(self, value: Any, module: ModuleType, slot: str) -> list[Any]:
        """What the inputs in a slot add.

        Names matter if the stage writes them down (as columns, in tables), or tells several inputs
        apart by them.
        """
        values = value if isinstance(value, list) else [value]
        kind = module.SLOTS[slot].rstrip("?*")
        are_told_apart = len(values) > 1 and slot in getattr(module, "NAMED", ())
        is_named = kind in ("scorer", "any") or are_told_apart
        return [self._of_input(item, is_named) for item in values]

    def _of_input(self, value: Mapping, is_named: bool) -> Any:
        if "artifact" not in value:
            return self._of_external(value)
        print_: dict[str, Any] = {"fingerprint": self.nodes[value["step"]].fingerprint}
        if is_named:
            print_["step"] = value.get("name") or value["step"]
            print_["binding"] = value.get("binding")
        return print_

    def _of_external(self, value: Mapping) -> dict[str, Any]:
        print_: dict[str, Any] = {}
        for name, setting in value.items():
            if name == "path" and "identity" in value:
                continue  # where it lies does not matter
            print_[name] = self._with_contents(with_models(setting, self._of_model), name)
        return print_ | self._of_function(value)

    def _with_contents(self, value: Any, name: str) -> Any:
        """A scorer's setting with the digests of files in the place of their paths."""
        if isinstance(value, Mapping):
            settings = {}
            for inner_name, setting in value.items():
                settings[inner_name] = self._with_contents(setting, inner_name)
            return settings | self._of_function(value)
        if isinstance(value, list):
            return [self._with_contents(item, name) for item in value]

        if not isinstance(value, str) or name in NOT_CONTENT:
            return value
        if os.sep not in value and not Path(value).suffix:
            return value
        file = Path(value).expanduser()
        return {"sha256": self.digests.file(file)} if os.path.isfile(file) else value

    def _of_function(self, scorer: Mapping) -> dict[str, str]:
        """What a person's function adds where it stands for a family.

        Its files are noted, so that they are looked at again before the step runs.
        """
        for file in reward_models.files_of(scorer):
            self.digests.file(file)
        return reward_models.source_of(scorer)

    def _of_model(self, model: Mapping) -> dict:
        """What a model in a scorer's settings adds."""
        if "artifact" in model:
            return {"fingerprint": self.nodes[model["step"]].fingerprint}
        return {"identity": model["identity"]}
