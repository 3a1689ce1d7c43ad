"""Kill a run at random moments, then compare it with an unbroken one: `make chaos`.

Every kill is a SIGKILL of the run and all its processes at once, as when a node is lost. It passes
if every artifact ends with the content of the unbroken run's, and no step that had finished before
a kill was computed again.
"""

import argparse
import contextlib
import importlib.util
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

# The kinds of artifacts to compare; a report holds times.
COMPARED = ("rows", "scores", "model", "metrics")


def main() -> int:
    options = _options()
    if options.launcher == "slurm":
        import chaos_slurm

        return chaos_slurm.main(options)

    draw = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="chaos-") as root:
        whole = Path(root, "whole")
        broken = Path(root, "broken")
        begun = time.monotonic()
        unbroken = command(options.arguments, whole, options.engine)
        subprocess.run(unbroken, check=True, stdout=subprocess.DEVNULL)
        print(f"unbroken run: {time.monotonic() - begun:.0f} s", flush=True)

        run = command(options.arguments, broken, options.engine)
        problems = survive(run, broken, draw, options.kills, options.max_seconds)
        problems += compare(whole, broken)
    for message in problems:
        print(f"FAILED: {message}")
    if problems:
        print("chaos: failed")
        return 1
    print("chaos: every artifact equals the unbroken run's; no finished step was computed again")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--max-seconds", type=float, default=40, help="the longest time from a start to its kill"
    )
    parser.add_argument("--engine", help="what generates; vLLM where it is installed")
    parser.add_argument(
        "--launcher",
        choices=("local", "slurm"),
        default="local",
        help="slurm: on a test cluster, by the ways of Slurm",
    )
    parser.add_argument(
        "arguments", nargs="*", default=["recipe=reuse_your_rewards"], help="of `mlalign run`"
    )
    return parser.parse_args()


def command(arguments: list[str], root: Path, engine: str | None = None) -> list[str]:
    if not engine:
        engine = "vllm" if importlib.util.find_spec("vllm") else "transformers"
    settings = ["name=chaos", f"root={root}", f"engine={engine}"]
    return [sys.executable, "-m", "mlalign", "run", *arguments, *settings]


def survive(
    run: list[str], root: Path, draw: random.Random, kills: int, longest: float
) -> list[str]:
    """Run, kill, run again …, and at last run to the end; returns what went wrong."""
    finished: dict[str, float] = {}
    problems = []
    for number in range(1, kills + 1):
        seconds = draw.uniform(1, longest)
        process = subprocess.Popen(run, stdout=subprocess.DEVNULL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            if process.wait(seconds) != 0:
                problems.append(
                    f"the run ended with status {process.returncode} before kill {number}"
                )
        kill_tree(process)
        problems += recomputed(root, finished)
        print(
            f"kill {number} after {seconds:.1f} s; steps finished so far: {len(finished)}",
            flush=True,
        )
    begun = time.monotonic()
    subprocess.run(run, check=True)
    print(f"last start: {time.monotonic() - begun:.0f} s", flush=True)
    return problems + recomputed(root, finished)


def kill_tree(process: subprocess.Popen) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(process.pid)
        for member in [root, *root.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
    process.wait()


def manifests(root: Path) -> dict[str, dict]:
    """Artifact -> manifest, of all that are finished."""
    by_artifact = {}
    for path in (root / "store").glob("*/manifest.json"):
        if not path.parent.name.endswith(".partial"):
            by_artifact[path.parent.name] = json.loads(path.read_text())
    return by_artifact


def recomputed(root: Path, finished: dict[str, float]) -> list[str]:
    """A message for each artifact that finished again; updates the times in `finished`."""
    times = {name: manifest["finished"] for name, manifest in manifests(root).items()}
    problems = []
    for name, time_before in finished.items():
        if times.get(name) != time_before:
            problems.append(f"{name} was computed again")
    finished.update(times)
    return problems


def compare(whole: Path, broken: Path) -> list[str]:
    """A message for each artifact that differs from the unbroken run's."""
    expected = manifests(whole)
    actual = manifests(broken)
    names = sorted(name for name, manifest in expected.items() if manifest["kind"] in COMPARED)
    print(f"comparing {len(names)} artifacts: {', '.join(names)}")
    problems = []
    for name in names:
        digest = expected[name]["content_digest"]
        if name not in actual or actual[name]["content_digest"] != digest:
            problems.append(f"{name} differs from the unbroken run's")
    return problems


if __name__ == "__main__":
    sys.exit(main())
