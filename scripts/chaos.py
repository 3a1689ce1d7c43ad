"""Kill one run at random moments until it is done, then compare it with an unbroken one:
`make chaos`.

Every kill is a SIGKILL of the run and all its processes at once, as when a node goes away. Passes
when, at the end, every artifact has the content of the unbroken run's, and no step that had
finished before a kill was computed again.
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

# What the two runs are compared on; the report itself holds times.
COMPARED = ("rows", "scores", "model", "metrics")


def main() -> int:
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
    asked = parser.parse_args()
    if asked.launcher == "slurm":
        import chaos_slurm

        return chaos_slurm.main(asked)
    draw = random.Random(asked.seed)
    with tempfile.TemporaryDirectory(prefix="chaos-") as root:
        whole, broken = Path(root, "whole"), Path(root, "broken")
        started = time.monotonic()
        subprocess.run(
            command(asked.arguments, whole, asked.engine), check=True, stdout=subprocess.DEVNULL
        )
        print(f"unbroken run: {time.monotonic() - started:.0f} s", flush=True)
        again = survive(
            command(asked.arguments, broken, asked.engine),
            broken,
            draw,
            asked.kills,
            asked.max_seconds,
        )
        different = compare(whole, broken)
    for message in [*again, *different]:
        print(f"FAILED: {message}")
    print(
        "chaos: "
        + (
            "failed"
            if again or different
            else "every artifact equals the unbroken run's; no finished step was computed again"
        )
    )
    return 1 if again or different else 0


def command(arguments: list[str], root: Path, engine: str | None = None) -> list[str]:
    engine = engine or ("vllm" if importlib.util.find_spec("vllm") else "transformers")
    return [
        sys.executable,
        "-m",
        "mlalign",
        "run",
        *arguments,
        "name=chaos",
        f"root={root}",
        f"engine={engine}",
    ]


def survive(
    run: list[str], root: Path, draw: random.Random, kills: int, longest: float
) -> list[str]:
    """Run, kill, run again …, and at last run to the end; returns what was computed twice."""
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
    started = time.monotonic()
    subprocess.run(run, check=True)
    print(f"last start: {time.monotonic() - started:.0f} s", flush=True)
    return problems + recomputed(root, finished)


def kill_tree(process: subprocess.Popen) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        for one in [
            psutil.Process(process.pid),
            *psutil.Process(process.pid).children(recursive=True),
        ]:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
    process.wait()


def manifests(root: Path) -> dict[str, dict]:
    paths = (
        p
        for p in (root / "store").glob("*/manifest.json")
        if not p.parent.name.endswith(".partial")
    )
    return {p.parent.name: json.loads(p.read_text()) for p in paths}


def recomputed(root: Path, finished: dict[str, float]) -> list[str]:
    """Steps whose finishing time changed since the last look; remembers the present times in
    `finished`.
    """
    now = {name: m["finished"] for name, m in manifests(root).items()}
    changed = [
        f"{name} was computed again" for name, time_ in finished.items() if now.get(name) != time_
    ]
    finished.update(now)
    return changed


def compare(whole: Path, broken: Path) -> list[str]:
    one, other = manifests(whole), manifests(broken)
    names = sorted(name for name, m in one.items() if m["kind"] in COMPARED)
    print(f"comparing {len(names)} artifacts: {', '.join(names)}")
    return [
        f"{n} differs from the unbroken run's"
        for n in names
        if n not in other or one[n]["content_digest"] != other[n]["content_digest"]
    ]


if __name__ == "__main__":
    sys.exit(main())
