"""What `launcher=slurm` costs beside bare sbatch: for one step, and for 200 queued at once.

On a test cluster of its own (tests/slurm-up.sh). First, in pairs, the time from calling the program
to the end of the job: of `sbatch --wrap true`, and of `mlalign run … launcher=slurm` with one
`prepare` step of four rows, which takes hardly more than submission and start. Then a recipe of 200
steps is planned and submitted held; Slurm's own time is that of 200 bare calls of sbatch.
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
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, chaos_slurm.cluster():
        root = Path(folder)
        write_recipe(root, options.steps)
        one = one_step(root, options.pairs)
        many = many_steps(root, options.steps)
    print(json.dumps({"one_step": one, "many_steps": many}, indent=1))
    return 0 if many["beyond_slurms_own_s"] < 10 else 1


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
    settings = [f"root={root}", f"conf_dir={root / 'conf'}", "engine=transformers"]
    settings += ["launcher=slurm", *arguments]
    command = [sys.executable, "-m", "mlalign", "run", *settings]
    done = subprocess.run(command, text=True, capture_output=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done


def one_step(root: Path, pairs: int, n_seeds: int = 10**6) -> dict:
    """Median seconds to the end of the job, and of the differences within pairs."""
    bare = []
    ours = []
    submission = []
    for i in range(pairs):
        bare.append(timed(submit_bare))
        begun = time.perf_counter()
        done = mlalign(root, "recipe=one", f"name=n{i}", f"steps.rows.config.seed={n_seeds + i}")
        submission.append(time.perf_counter() - begun)
        wait_for(json.loads((root / f"runs/n{i}/slurm/jobs.jsonl").read_text())["job"])
        ours.append(time.perf_counter() - begun)
        assert "1 jobs submitted" in done.stdout
    differences = sorted(b - a for a, b in zip(bare, ours, strict=True))
    quarter = len(differences) // 4
    middle_half = [round(differences[quarter], 2), round(differences[-1 - quarter], 2)]
    return {
        "bare_sbatch_to_end_s": round(statistics.median(bare), 2),
        "step_to_end_s": round(statistics.median(ours), 2),
        "of_which_submission_s": round(statistics.median(submission), 2),
        "difference_s": round(statistics.median(differences), 2),
        "middle_half_of_differences_s": middle_half,
        "pairs": pairs,
    }


def submit_bare() -> None:
    """Submit a job that does nothing, and wait for its end."""
    command = ["sbatch", "--parsable", "-o", "/dev/null", "--wrap", "true"]
    wait_for(subprocess.check_output(command, text=True))


def wait_for(job: str) -> None:
    while True:
        state = chaos_slurm.call("squeue", "-h", "-j", job.strip(), "-o", "%T").strip()
        if state in ("", "COMPLETED"):
            return
        time.sleep(0.02)


def cpu_s() -> float:
    """CPU seconds of all ended child processes: on a busy machine they say more than the clock."""
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
