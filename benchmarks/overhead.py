"""Where a recipe's time goes outside model work: planning, process start, imports, hashing,
writing.

  python benchmarks/overhead.py RUN_DIRECTORY

Reads the manifests and logs of a finished run (`make demo` leaves one in demo/runs/demo); a step's
own time is what its manifest says, the rest of the run's time is ours.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

from mlalign.core import store


def main() -> None:
    run = Path(sys.argv[1] if len(sys.argv) > 1 else "demo/runs/demo")
    steps = {link.name: link.resolve() for link in sorted((run / "steps").iterdir())}
    manifests = {
        name: json.loads((path / "manifest.json").read_text()) for name, path in steps.items()
    }
    inside = sum(m["finished"] - m["started"] for m in manifests.values())
    print(f"{len(steps)} steps; inside stages {inside:.1f} s")

    start = time.perf_counter()
    size = 0
    for path in steps.values():
        for file in store.content_files(path):
            store.sha256(file)
            size += file.stat().st_size
    print(f"hashing {size / 1e6:.1f} MB of content: {time.perf_counter() - start:.3f} s")

    for name, code in {
        "an empty interpreter": "pass",
        "mlalign.step imported": "import mlalign.step",
        "mlalign.step and every stage": (
            "from mlalign import stages\nimport mlalign.step\nfor n in stages.names():"
            " stages.load(n)"
        ),
        "torch": "import torch",
        "trl and transformers (a training step)": (
            "import torch; from trl import DPOConfig, DPOTrainer"
        ),
        "vllm (a generating step)": "from vllm import LLM",
    }.items():
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
        print(
            f"process with {name}: {time.perf_counter() - start:.2f} s"
            + ("" if done.returncode == 0 else " (failed)")
        )

    for label, arguments in {"plan": ["plan"], "a run with nothing to do": ["run"]}.items():
        told = json.loads((run / "plan.json").read_text())
        start = time.perf_counter()
        subprocess.run(
            [
                sys.executable,
                "-m",
                "mlalign",
                *arguments,
                f"recipe={told['recipe']}",
                f"name={told['name']}",
                f"root={run.parent.parent}",
            ],
            capture_output=True,
            check=True,
        )
        print(f"{label}: {time.perf_counter() - start:.2f} s")


if __name__ == "__main__":
    main()
