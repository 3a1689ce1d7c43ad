"""A small run on a cluster: three prepared sets of rows, a training step, and an array that samples
from it.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from helpers import run_here

ROWS = """
root: null
languages: [eng_Latn, swh_Latn]
demonstrations: [{adapter: tiny_world, split: train, options: {n: 32}, languages: [eng_Latn, swh_Latn]}]
preferences:
  - {adapter: tiny_world, split: train, options: {n: 64}, languages: [eng_Latn]}
  - {adapter: tiny_world, split: eval, options: {n: 12}, languages: [eng_Latn, swh_Latn]}
prompts: [{adapter: tiny_world, split: train, options: {n: 24}}, {adapter: tiny_world, split: eval, options: {n: 12}}]
"""
CHAIN = """# Train, then sample: for tests.
steps:
  rows: {stage: prepare, config: {kind: demonstration, sources: "${data.demonstrations}"}}
  prompts: {stage: prepare, config: {kind: prompt, sources: "${data.prompts}", languages: "${languages}"}}
  base:
    stage: sft
    inputs: {model: {path: "${model.path}"}, rows: rows}
    config: {checkpoint_every: 4, trainer: {learning_rate: 1.0e-4, max_steps: 12}}
  answers:
    stage: generate
    inputs: {model: base, rows: prompts}
    config: {n: 2, max_tokens: 12}
    resources: {tasks: 2}
"""


class Run:
    """A root with those rows and that recipe, and the command line on it."""

    def __init__(self, root: Path, env: dict[str, str]):
        self.root, self.env = root, env
        for name, text in (("data/small", ROWS), ("recipe/chain", CHAIN)):
            (root / f"conf/{name}.yaml").parent.mkdir(parents=True, exist_ok=True)
            (root / f"conf/{name}.yaml").write_text(text)

    def call(
        self, command: str, *arguments: str, name: str = "r", timeout: float = 600, **more
    ) -> subprocess.CompletedProcess:
        full = [sys.executable, "-m", "mlalign", *self._words(command, arguments, name)]
        options = {
            "cwd": self.root,
            "env": self.env,
            "text": True,
            "capture_output": True,
            "timeout": timeout,
        }
        return subprocess.run(full, check=False, **(options | more))

    def here(self, *arguments: str) -> None:
        """Run everything in this process, for comparison."""
        done = run_here(self.root, *self._words("run", arguments, "r"))
        assert done.returncode == 0, done.stderr

    def _words(self, command: str, arguments: Sequence[str], name: str) -> list[str]:
        given = [
            f"root={self.root}",
            f"conf_dir={self.root / 'conf'}",
            "data=small",
            "engine=transformers",
        ]
        return [command, f"name={name}", *given, *arguments]

    def folder(self, name: str = "r") -> Path:
        return self.root / "runs" / name / "slurm"

    def jobs(self, name: str = "r") -> list[dict]:
        return [
            json.loads(line) for line in (self.folder(name) / "jobs.jsonl").read_text().splitlines()
        ]

    def job(self, step: str, name: str = "r") -> str:
        """The id of the latest job of a step."""
        return [e["job"] for e in self.jobs(name) if e["step"] == step][-1]

    def failed(self, step: str, name: str = "r") -> str:
        return (self.folder(name) / f"{step}.failed.txt").read_text()

    def log(self, step: str, name: str = "r") -> str:
        """All that the jobs of a step have said."""
        return "".join(
            p.read_text() for p in sorted((self.folder(name) / "logs").glob(f"{step}-*.log"))
        )

    def digests(self) -> dict[str, str]:
        """artifact -> content digest, of all finished ones that hold content."""
        found = [
            (p.parent.name, json.loads(p.read_text()))
            for p in (self.root / "store").glob("*/manifest.json")
        ]
        return {name: told["content_digest"] for name, told in found if told["kind"] != "report"}


def until(seen: Callable[[], object], what: str, seconds: float = 180) -> None:
    """Wait until something is seen; fails naming it."""
    end = time.monotonic() + seconds
    while not seen():
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(0.1)


def steps_done(run: Run, n: int) -> Callable[[], bool]:
    """Whether the training step has come so far."""

    def seen() -> bool:
        told = list((run.root / "store").glob("sft-*/progress.json"))
        return bool(told) and (
            not told[0].parent.name.endswith(".partial")
            or json.loads(told[0].read_text())["done"] >= n
        )

    return seen


def shards_done(run: Run, n: int) -> Callable[[], bool]:
    return lambda: len(list((run.root / "store").glob("generate-*/shards/*.json"))) >= n
