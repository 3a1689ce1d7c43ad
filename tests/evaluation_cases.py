"""Small sets in the published forms of benchmarks, and a run of `recipe=evaluate` within this
process.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow.parquet as pq
from helpers import run_here

from mlalign.core import store

SUBSETS = {
    "Chat": ("alpacaeval-easy", "mt-bench-med"),
    "Chat Hard": ("mt-bench-hard", "llmbar-natural"),
    "Safety": ("refusals-dangerous", "donotanswer"),
    "Reasoning": ("math-prm", "hep-go", "hep-rust"),
}


def evaluate(folder: Path, *arguments: object) -> Path:
    """`mlalign run recipe=evaluate …` on the transformers engine; the folder of its steps."""
    done = run_here(folder, "run", "recipe=evaluate", "engine=transformers", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "runs" / "evaluate" / "steps"


def table(step: Path, name: str = "metrics") -> list[dict]:
    """The rows of a table that a step wrote."""
    return store.read_json(step / f"{name}.json")["rows"]


def value(step: Path, metric: str, language: str) -> float:
    """One number of the main table."""
    (found,) = [
        row["value"]
        for row in table(step)
        if (row["metric"], row["language"]) == (metric, language)
    ]
    return found


def rows_of(step: Path) -> list[dict]:
    """All rows that a step wrote, whatever their kind."""
    return [
        row
        for path in sorted((step / "rows").glob("*.parquet"))
        for row in pq.read_table(path).to_pylist()
    ]


def write_lines(path: Path, rows: Sequence[Mapping]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
    )


def pair(number: int, subset: str, language: str = "") -> dict:
    """A row of RewardBench; the two answers differ in length, so that a random model tells them
    apart.
    """
    return {
        "id": number,
        "prompt": f"Which number is the largest: {number} 1 2? {language}",
        "chosen": f"The largest number is {number}. {language}",
        "rejected": f"The sum is {number}{'!' * (number % 5)}",
        "subset": subset,
    }
