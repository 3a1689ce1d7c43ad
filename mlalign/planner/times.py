"""How long steps take: scaled from the newest finished step of the same stage in this store, else
by the rate of the scale.

Nothing is guessed: where rows or rate are not known, the time is unknown, and the reason is given.
"""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlalign.core.errors import UserError
from mlalign.core.kinds import Count
from mlalign.core.store import read_manifest
from mlalign.planner import counts, work
from mlalign.planner.architecture import Architecture
from mlalign.planner.models import Models
from mlalign.recipes.device import Device

EPOCHS = 3.0  # transformers' default of num_train_epochs
SIDES = 2  # answers in a row that a generation step did not make: the sides of a pair
N_NEWEST = 8  # how many manifests of a stage are looked at

# Seconds, and what they are based on; or None, and the reason.
Time = tuple[float | None, str]


class Times:
    def __init__(self, root: Path, nodes: Mapping[str, Any], models: Models, device: Device):
        self.root = root
        self.nodes = nodes
        self.models = models
        self.device = device
        self._newest = dict[str, dict | None]()

    def of(self, node: Any, devices: int) -> Time:
        work = _work_of(node)
        if work == "training":
            return self._training(node, devices)
        if work in ("generation", "scoring"):
            return self._rows(node)
        return None, ""

    # ------------------------------------------------------------------------------- stages

    def _training(self, node: Any, devices: int) -> Time:
        decoder = self.models.of(node.inputs["model"])
        if isinstance(decoder, str):
            return None, decoder
        rows = self.trained_rows(node)
        if rows is None:
            return None, "rows not counted yet"
        earlier = self.newest(node.step.stage) or {}
        if (earlier.get("train") or {}).get("rows"):
            seconds = _scaled(earlier, rows.n, decoder.architecture) / devices
            device = earlier.get("device", "its device")
            return seconds, f"{rows.text()} rows, as {earlier['step']} took on {device}"
        if self.device.flops is None:
            missing = f"no {node.step.stage} step has run here, and the scale states no rate"
            return None, f"{rows.text()} rows; {missing}"
        seconds = self._operations(node, rows.n, decoder.architecture) / self.device.flops / devices
        length = node.config.max_length
        return seconds, f"{rows.text()} rows of {length} tokens, by the scale's rate"

    def _operations(self, node: Any, n_rows: int, a: Architecture) -> float:
        cfg = node.config
        objective = node.module.objective(cfg)
        tokens = n_rows * cfg.max_length * objective.sequences
        on_gpu = self.device.kind == "cuda"
        per_token = work.training(
            a,
            cfg.max_length,
            "classifier" if objective.loss == "classifier" else "causal",
            lora=cfg.peft is not None,
            checkpointing=bool(cfg.trainer.get("gradient_checkpointing", on_gpu)),
        )
        return tokens * per_token

    def _rows(self, node: Any) -> Time:
        """The time of a step that generates or scores."""
        generates = _work_of(node) == "generation"
        rows = self.given_rows(node)
        if rows is None:
            return None, "rows not counted yet"
        earlier = self.newest(node.step.stage)
        if earlier is None:
            return None, f"{rows.text()} rows; no {node.step.stage} step has run here"
        if not self._is_alike(node, earlier):
            return None, f"{rows.text()} rows; {earlier['step']} ran here with other models"

        answers = rows.times(node.config.n) if generates else rows
        n_earlier = counts.of_manifest(earlier)
        if generates:
            n_earlier *= earlier["sampler"]["n"]
        seconds = answers.n * (earlier["finished"] - earlier["started"]) / n_earlier
        return seconds, f"{answers.text()} answers, as {earlier['step']} took"

    def _is_alike(self, node: Any, earlier: Mapping[str, Any]) -> bool:
        """Whether the earlier step did anything, with models of the same size or the same
        families."""
        if not counts.of_manifest(earlier):
            return False
        if _work_of(node) == "scoring":
            families = [v.get("family", "classifier") for v in node.inputs.get("scorers", [])]
            return families == [scorer.get("family") for scorer in earlier.get("scorers", [])]
        ours = self.models.of(node.inputs["model"])
        theirs = self.models.of(self._as_input(earlier["inputs"].get("model") or {}))
        if isinstance(ours, str) or isinstance(theirs, str):
            return False
        same_engine = node.config.engine.name == earlier["sampler"]["engine"]["name"]
        return same_engine and ours.architecture == theirs.architecture

    def _as_input(self, recorded: Mapping[str, Any]) -> Mapping[str, Any]:
        """An input as a manifest records it -> as a plan has it."""
        if "fingerprint" not in recorded:
            return recorded
        artifacts = sorted(self.root.glob(f"*-{recorded['fingerprint'][:16]}"))
        if not artifacts:
            return {"path": str(self.root / "gone")}
        return {"step": recorded["step"], "artifact": artifacts[0].name}

    def newest(self, stage: str) -> dict | None:
        """The manifest of the step of this stage that finished last in the store."""
        if stage not in self._newest:
            self._newest[stage] = self._find_newest(stage)
        return self._newest[stage]

    def _find_newest(self, stage: str) -> dict | None:
        paths = list(self.root.glob(f"{stage}-*/manifest.json"))
        paths.sort(key=lambda path: (path.stat().st_mtime, str(path)), reverse=True)
        for path in paths[:N_NEWEST]:
            # Whatever is wrong with another run's artifact is of no concern to an estimate.
            with contextlib.suppress(UserError):
                manifest = read_manifest(path.parent)
                if manifest["status"] == "done":
                    return manifest
        return None

    # --------------------------------------------------------------------------------- rows

    def trained_rows(self, node: Any) -> Count | None:
        """Rows that a training step goes through, epochs included; `max_steps` decides where it is
        set."""
        cfg = node.config
        max_steps = cfg.trainer.get("max_steps", -1)
        if max_steps > 0:
            return Count(max_steps * cfg.batch_size)
        rows = self.rows_of(node.inputs["rows"], cfg.split, cfg.languages)
        if rows is None:
            return None
        n_examples = node.module.objective(cfg).examples
        n_epochs = float(cfg.trainer.get("num_train_epochs", EPOCHS))
        return Count(round(rows.n * n_examples * n_epochs), rows.exact)

    def given_rows(self, node: Any) -> Count | None:
        """Rows that a generating step reads, or answers that a scoring step reads."""
        rows = self.rows_of(node.inputs["rows"], node.config.split, None)
        if rows is None or _work_of(node) == "generation":
            return rows
        return rows.times(self._answers_per_row(node.inputs["rows"]))

    def _answers_per_row(self, value: Mapping[str, Any]) -> int:
        source = self.nodes.get(value.get("step", ""))
        if source is not None and _work_of(source) == "generation":
            return source.config.n
        return SIDES

    def rows_of(
        self,
        value: Any,
        split: str | None,
        languages: list[str] | None,
    ) -> Count | None:
        """Rows behind an input: those that exist, else the most that the step before may give."""
        if isinstance(value, list):
            if len(value) != 1:
                return None
            value = value[0]
        path = Path(str(value.get("path", "")))
        if "artifact" in value:
            path = self.root / value["artifact"]
        if (path / "manifest.json").is_file():
            return counts.of_artifact(path, split, languages)
        source = self.nodes.get(value.get("step", ""))
        return self._rows_to_come(source, split, languages) if source is not None else None

    def _rows_to_come(
        self,
        source: Any,
        split: str | None,
        languages: list[str] | None,
    ) -> Count | None:
        """The most rows that a step which has not run will give, if its stage can tell."""
        if not hasattr(source.module, "rows_to_come"):
            return None
        read = source.inputs.get("rows")
        n_read = None
        if read:
            split_read = getattr(source.config, "split", None) or split
            n_read = self.rows_of(read, split_read, languages)
        return source.module.rows_to_come(source.config, n_read, split, languages)


def _work_of(node: Any) -> str | None:
    return getattr(node.module, "WORK", None)


def _scaled(earlier: Mapping[str, Any], n_rows: int, a: Architecture) -> float:
    """Seconds on one device for so many rows, from what an earlier training step took."""
    train = earlier["train"]
    size = a.parameters() / train["parameters"]
    return n_rows * train["seconds"] / train["rows"] * size * earlier.get("ranks", 1)
