"""What `launcher=slurm` costs: a step's submission and start beside a bare `sbatch --wrap true`,
and 200 queued steps at once.

On a test cluster of its own (tests/slurm-up.sh). First in interleaved pairs: the time from calling
the program to the job's end of `sbatch --wrap true`, and of `mlalign run … launcher=slurm` of one
`prepare` step of four rows, so that hardly more than submission and start is timed. Then a recipe
of 200 steps is planned and submitted held; Slurm's own time is that of 200 bare calls of sbatch.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "scripts"))
import chaos_slurm

ROWS = (
    "{stage: prepare, config: {kind: prompt, sources: [{adapter: tiny_world, split: train, options:"
    " {n: 4}}], languages: [eng_Latn], seed: %d}}"
)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--steps", type=int, default=200)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, chaos_slurm.cluster():
        root = Path(folder)
        write_recipe(root, asked.steps)
        told = {
            "one_step": one_step(root, asked.pairs),
            "many_steps": many_steps(root, asked.steps),
        }
    print(json.dumps(told, indent=1))
    return 0 if told["many_steps"]["beyond_slurms_own_s"] < 10 else 1


def write_recipe(root: Path, n: int) -> None:
    """`one`: a step; `many`: n steps that wait for each other in rows of ten."""
    (root / "conf/recipe").mkdir(parents=True)
    (root / "conf/recipe/one.yaml").write_text("# One step.\nsteps:\n  rows: " + ROWS % 0 + "\n")
    lines = []
    for i in range(0, n, 2):
        lines.append(f"  p{i}: {ROWS % i}")
        inputs = (
            "{stage: generate, inputs: {model: {path: '${model.path}'}, rows: p%d}, config: {n: 1}}"
        )
        lines.append(f"  g{i}: {inputs % i}")
    (root / "conf/recipe/many.yaml").write_text("# Many steps.\nsteps:\n" + "\n".join(lines) + "\n")


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def mlalign(root: Path, *arguments: str) -> subprocess.CompletedProcess:
    words = [
        sys.executable,
        "-m",
        "mlalign",
        "run",
        f"root={root}",
        f"conf_dir={root / 'conf'}",
        "engine=transformers",
        "launcher=slurm",
    ]
    done = subprocess.run(
        [*words, *arguments], text=True, capture_output=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return done


def one_step(root: Path, pairs: int, n_seeds: int = 10**6) -> dict:
    """Median seconds to the end of the job, and of the differences within pairs with the range of
    their middle half.
    """
    bare, ours, submission = [], [], []
    for i in range(pairs):
        bare.append(
            timed(
                lambda: wait_for(
                    subprocess.check_output(
                        ["sbatch", "--parsable", "-o", "/dev/null", "--wrap", "true"], text=True
                    )
                )
            )
        )
        started = time.perf_counter()
        told = mlalign(root, "recipe=one", f"name=n{i}", f"steps.rows.config.seed={n_seeds + i}")
        submission.append(time.perf_counter() - started)
        wait_for(json.loads((root / f"runs/n{i}/slurm/jobs.jsonl").read_text())["job"])
        ours.append(time.perf_counter() - started)
        assert "1 jobs submitted" in told.stdout
    more = sorted(b - a for a, b in zip(bare, ours, strict=True))
    quarter = len(more) // 4
    return {
        "bare_sbatch_to_end_s": round(statistics.median(bare), 2),
        "step_to_end_s": round(statistics.median(ours), 2),
        "of_which_submission_s": round(statistics.median(submission), 2),
        "difference_s": round(statistics.median(more), 2),
        "middle_half_of_differences_s": [round(more[quarter], 2), round(more[-1 - quarter], 2)],
        "pairs": pairs,
    }


def wait_for(job: str) -> None:
    while chaos_slurm.call("squeue", "-h", "-j", job.strip(), "-o", "%T").strip() not in (
        "",
        "COMPLETED",
    ):
        time.sleep(0.02)


def cpu_s() -> float:
    """Processor seconds of all processes that have ended below this one: on a busy machine they
    tell more than the clock.
    """
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def many_steps(root: Path, n: int) -> dict:
    held = ["sbatch", "--parsable", "--hold", "-o", "/dev/null", "--wrap", "true"]
    own = timed(lambda: [subprocess.check_output(held) for _ in range(n)])
    chaos_slurm.call("scancel", "-u", os.environ.get("USER", "root"))
    before = cpu_s()
    whole = timed(lambda: mlalign(root, "recipe=many", "name=many", "launcher.sbatch={hold: true}"))
    cpu = cpu_s() - before
    n_jobs = len((root / "runs/many/slurm/jobs.jsonl").read_text().splitlines())
    assert n_jobs == n, n_jobs
    return {
        "steps": n,
        "whole_s": round(whole, 2),
        "slurms_own_s": round(own, 2),
        "beyond_slurms_own_s": round(whole - own, 2),
        "cpu_s": round(cpu, 2),
    }


if __name__ == "__main__":
    sys.exit(main())
