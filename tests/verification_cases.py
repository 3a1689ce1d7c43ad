"""A small plan of steps that need no training: rows from a file, scored with the tokenizer of a
model directory.
"""

import json
import shutil
from pathlib import Path

from training_cases import TINY

from mlalign.recipes import config, plan
from mlalign.running import run_dir, step

N_ROWS = 6


def rows_of(n: int = N_ROWS, word: str = "good") -> str:
    rows = (
        {"prompt": f"Say {i}.", "chosen": f"{word} answer {i}", "rejected": "no"} for i in range(n)
    )
    return "".join(json.dumps(row) + "\n" for row in rows)


class Small:
    """`rows` are prepared from `rows.jsonl`, `marks` are scores of them by `model/`."""

    def __init__(self, root: Path):
        self.root, self.source, self.model = root, root / "data" / "rows.jsonl", root / "model"
        self.source.parent.mkdir()
        self.source.write_text(rows_of())
        self.model.mkdir()
        for file in TINY.iterdir():
            if file.is_file():
                shutil.copyfile(file, self.model / file.name)

    def plan(self, *arguments: str, scorers: list | None = None) -> plan.Plan:
        source = {"path": str(self.source), "language": "en"}
        scorers = (
            [{"family": "length", "unit": "tokens", "path": str(self.model)}]
            if scorers is None
            else scorers
        )
        recipe = {"steps": {
            "rows": {"stage": "prepare", "config": {"kind": "preference", "sources": [source]}},
            "marks": {"stage": "score", "inputs": {"rows": "rows", "scorers": scorers}},
        }}  # fmt: skip
        return plan.build(config.load([f"root={self.root}", "name=small", *arguments], recipe))

    def begin(self, name: str, *arguments: str, **more) -> Path:
        """The configuration of a step that is about to run."""
        planned = self.plan(*arguments, **more)
        node = next(n for n in planned.nodes if n.name == name)
        return step.begin(planned.store, run_dir.frozen(planned, node)) / "config.yaml"

    def run(self, name: str, *arguments: str, **more) -> Path:
        found = step.execute(self.begin(name, *arguments, **more))
        assert found is not None
        return found
