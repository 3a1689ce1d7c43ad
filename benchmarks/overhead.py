"""Where a recipe's time goes outside model work: planning, starting processes, imports, hashing.

  python benchmarks/overhead.py RUN_DIRECTORY [key=value …]

Reads the manifests and logs of a finished run (`make demo` leaves one in demo/runs/demo); a step's
own time is what its manifest says, the rest of the run's time is ours. `key=value` are the arguments
that the run was made with, besides its recipe, name and root. With others, the second command below
would compute something.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

from mlalign.core import store

PROCESSES = {
    "an empty interpreter": "pass",
    "mlalign.step imported": "import mlalign.step",
    "mlalign.step and every stage": (
        "from mlalign import stages\nimport mlalign.step\nfor n in stages.names(): stages.load(n)"
    ),
    "torch": "import torch",
    "trl and transformers (a training step)": "import torch; from trl import DPOConfig, DPOTrainer",
    "vllm (a generating step)": "from vllm import LLM",
}


def main() -> None:
    run = Path(sys.argv[1] if len(sys.argv) > 1 else "demo/runs/demo")
    steps = [link.resolve() for link in sorted((run / "steps").iterdir())]
    inside = 0.0
    for path in steps:
        manifest = json.loads((path / "manifest.json").read_text())
        inside += manifest["finished"] - manifest["started"]
    print(f"{len(steps)} steps; inside stages {inside:.1f} s")
    hashing(steps)
    processes()
    commands(run, sys.argv[2:])


def hashing(steps: list[Path]) -> None:
    start = time.perf_counter()
    n_bytes = 0
    for path in steps:
        for file in store.content_files(path):
            store.sha256(file)
            n_bytes += file.stat().st_size
    print(f"hashing {n_bytes / 1e6:.1f} MB of content: {time.perf_counter() - start:.3f} s")


def processes() -> None:
    for name, code in PROCESSES.items():
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
        outcome = "" if done.returncode == 0 else " (failed)"
        print(f"process with {name}: {time.perf_counter() - start:.2f} s{outcome}")


def commands(run: Path, arguments: list[str]) -> None:
    plan = json.loads((run / "plan.json").read_text())
    settings = [f"recipe={plan['recipe']}", f"name={plan['name']}", f"root={run.parent.parent}"]
    for label, command in {"plan": "plan", "a run with nothing to do": "run"}.items():
        words = [sys.executable, "-m", "mlalign", command, *settings, *arguments]
        start = time.perf_counter()
        done = subprocess.run(words, capture_output=True, check=True, text=True)
        seconds = time.perf_counter() - start
        if ": started" in done.stdout:
            sys.exit(f"{label}: steps were computed; give the arguments of the run as well")
        print(f"{label}: {seconds:.2f} s")


if __name__ == "__main__":
    main()
