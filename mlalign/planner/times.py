"""How long steps take: as the newest finished step of the same stage took in this store, scaled; else by the rate that the scale states.

Nothing is guessed: where rows or rate are not known, the time is unknown, and the reason is told.
"""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlalign.core.errors import UserError
from mlalign.core.store import read_manifest
from mlalign.planner import counts, work
from mlalign.planner.counts import Count
from mlalign.planner.jobs import UNPAIRED
from mlalign.planner.models import Models
from mlalign.recipes.device import Device

EPOCHS = 3.0  # transformers' default of num_train_epochs
ONE_EACH = ("best_worst", "best_of_n")  # methods that make at most one row of a prompt


class Times:
    def __init__(self, root: Path, nodes: Mapping[str, Any], models: Models, device: Device):
        self.root, self.nodes, self.models, self.device = root, nodes, models, device
        self._history = dict[str, dict | None]()

    def of(self, node: Any, devices: int) -> tuple[float | None, str]:
        """(seconds or None, what the number stands on or why there is none)."""
        if node.step.stage in ("sft", "reward", "preference"):
            return self._training(node, devices)
        if node.step.stage in ("generate", "score"):
            return self._rows(node)
        return None, ""

    # -------------------------------------------------------------------------------------------------------------- stages

    def _training(self, node: Any, devices: int) -> tuple[float | None, str]:
        decoder, rows = self.models.of(node.inputs["model"]), self.trained_rows(node)
        if isinstance(decoder, str) or rows is None:
            return None, decoder if isinstance(decoder, str) else "rows not counted yet"
        before = self.newest(node.step.stage)
        if before and (train := before.get("train") or {}).get("rows"):
            size = decoder.architecture.parameters() / train["parameters"]
            seconds = rows.n * train["seconds"] / train["rows"] * size * before.get("ranks", 1) / devices
            return seconds, f"{rows.told()} rows, as {before['step']} took on {before.get('device', 'its device')}"
        if self.device.flops is None:
            return None, f"{rows.told()} rows; no {node.step.stage} step has run here, and the scale states no rate"
        tokens = rows.n * node.config.max_length * (1 if node.step.stage == "sft" or getattr(node.config, "loss", "") in UNPAIRED else 2)
        task = "classifier" if node.step.stage == "reward" else "causal"
        saving = bool(node.config.trainer.get("gradient_checkpointing", self.device.kind == "cuda"))
        each = work.training(decoder.architecture, node.config.max_length, task, lora=node.config.peft is not None, checkpointing=saving)
        return tokens * each / self.device.flops / devices, f"{rows.told()} rows of {node.config.max_length} tokens, by the scale's rate"

    def _rows(self, node: Any) -> tuple[float | None, str]:
        rows, before = self.given_rows(node), self.newest(node.step.stage)
        if rows is None:
            return None, "rows not counted yet"
        if before is None:
            return None, f"{rows.told()} rows; no {node.step.stage} step has run here"
        if not self._alike(node, before):
            return None, f"{rows.told()} rows; {before['step']} ran here with other models"
        n = counts.of_manifest(before)
        done = n * before["sampler"]["n"] if node.step.stage == "generate" else n
        wanted = rows.times(node.config.n) if node.step.stage == "generate" else rows
        return wanted.n * (before["finished"] - before["started"]) / done, f"{wanted.told()} answers, as {before['step']} took"

    def _alike(self, node: Any, before: Mapping[str, Any]) -> bool:
        """Whether the earlier step had models of the same size (generate), or scorers of the same families, and did anything."""
        if not counts.of_manifest(before):
            return False
        if node.step.stage == "score":
            now = [v.get("family", "classifier") for v in node.inputs.get("scorers", [])]
            return now == [s.get("family") for s in before.get("scorers", [])]
        mine, given = self.models.of(node.inputs["model"]), before["inputs"].get("model") or {}
        theirs = self.models.of(self._as_input(given))
        if isinstance(mine, str) or isinstance(theirs, str):
            return False
        return mine.architecture == theirs.architecture and node.config.engine.name == before["sampler"]["engine"]["name"]

    def _as_input(self, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """What a manifest tells of an input, as a plan tells it."""
        if "fingerprint" not in given:
            return given
        found = sorted(self.root.glob(f"*-{given['fingerprint'][:16]}"))
        return {"step": given["step"], "artifact": found[0].name} if found else {"path": str(self.root / "gone")}

    def newest(self, stage: str) -> dict | None:
        """The manifest of the step of this stage that finished last in the store."""
        if stage not in self._history:
            found = [(p.stat().st_mtime, str(p), p) for p in self.root.glob(f"{stage}-*/manifest.json")]
            done: list[dict] = []
            for _, _, path in sorted(found, reverse=True)[:8]:
                with contextlib.suppress(UserError):  # an estimate need not know what is wrong with another run's artifact
                    done.append(read_manifest(path.parent))
            self._history[stage] = next((m for m in done if m["status"] == "done"), None)
        return self._history[stage]

    # ---------------------------------------------------------------------------------------------------------------- rows

    def trained_rows(self, node: Any) -> Count | None:
        """Rows that a training step goes through, epochs included; with `max_steps` that says it."""
        trainer = node.config.trainer
        if trainer.get("max_steps", -1) > 0:
            return Count(trainer["max_steps"] * node.config.batch_size)
        rows = self.rows_of(node.inputs["rows"], node.config.split, node.config.languages)
        if rows is None:
            return None
        apart = 2 if getattr(node.config, "loss", "") in UNPAIRED else 1  # pairs taken apart
        return Count(round(rows.n * apart * float(trainer.get("num_train_epochs", EPOCHS))), rows.exact)

    def given_rows(self, node: Any) -> Count | None:
        """Rows that a generating step asks for, or answers (sides of pairs) that a scoring step reads."""
        rows = self.rows_of(node.inputs["rows"], node.config.split, None)
        if rows is None or node.step.stage == "generate":
            return rows
        return rows.times(self._answers(node.inputs["rows"]))

    def _answers(self, given: Mapping[str, Any]) -> int:
        maker = self.nodes.get(given.get("step", ""))
        return maker.config.n if maker is not None and maker.step.stage == "generate" else 2

    def rows_of(self, given: Any, split: str | None, languages: list[str] | None) -> Count | None:
        """Rows behind an input: those that are there, else those that the step before may give at most."""
        if isinstance(given, list):
            given = given[0] if len(given) == 1 else {}
        path = self.root / given["artifact"] if "artifact" in given else Path(str(given.get("path", "")))
        if (path / "manifest.json").is_file():
            return counts.of_artifact(path, split, languages)
        maker = self.nodes.get(given.get("step", ""))
        if maker is None:
            return None
        if maker.step.stage == "prepare":
            return counts.of_prepare(maker.config, split, languages)
        if maker.step.stage == "generate" or (maker.step.stage == "pairs" and maker.config.method in ONE_EACH):
            inner = self.rows_of(maker.inputs["rows"], getattr(maker.config, "split", None) or split, languages)
            return None if inner is None else Count(inner.n, exact=maker.step.stage == "generate" and inner.exact)
        return None
