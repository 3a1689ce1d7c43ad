"""What it costs to verify inputs where they are used: hashing, what is remembered, and the share of
a run.

  python benchmarks/verification.py [RUN_DIRECTORY] [MB=1024]

Files of MB megabytes stand for a model; they are in memory when they are hashed, so what a disk or
network adds is not in the numbers. Of a finished run (`make demo` leaves one in demo/runs/demo)
every step's inputs are verified as when it began.
"""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import yaml

from mlalign.core import store
from mlalign.core.digests import Digests, Watch
from mlalign.running.verification import Verification

SHARDS = 4
REPEATS = 5


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def middle(work: Callable[[], object]) -> str:
    """Median and range of several times, in milliseconds."""
    seconds = sorted(timed(work) for _ in range(REPEATS))
    return (
        f"{statistics.median(seconds) * 1e3:.2f} ms [{seconds[0] * 1e3:.2f},"
        f" {seconds[-1] * 1e3:.2f}]"
    )


def of_a_model(folder: Path, n_bytes: int) -> None:
    model = folder / "model"
    model.mkdir()
    for i in range(SHARDS):
        (model / f"model-{i:05d}.safetensors").write_bytes(os.urandom(n_bytes // SHARDS))
    (model / "config.json").write_text("{}")
    time.sleep(2.1)  # a file that has just been written is not remembered
    seconds = [timed(lambda: Digests().path(model)) for _ in range(REPEATS)]
    rates = sorted(n_bytes / s / 1e9 for s in seconds)
    print(
        f"hashing a model of {n_bytes / 1e6:.0f} MB: {statistics.median(rates):.2f} GB/s"
        f" [{rates[0]:.2f}, {rates[-1]:.2f}]"
    )
    first = Digests(folder)
    with first.recording() as files:
        first.path(model)
    first.save()
    print(
        "the same model, remembered by another process:"
        f" {middle(lambda: Digests(folder).path(model))}"
    )
    watch = Watch(first, files)
    assert watch.untouched()
    print(f"a look at it before work is kept: {middle(watch.untouched)}")


def of_a_run(run: Path) -> None:
    steps = [link.resolve() for link in sorted((run / "steps").iterdir())]
    inside = sum(m["finished"] - m["started"] for m in map(store.read_manifest, steps))
    frozen = [yaml.safe_load((path / "config.yaml").read_text(encoding="utf-8")) for path in steps]
    the_store, known = store.Store(steps[0].parent), Digests()
    cold = sum(timed(Verification(told, the_store, Digests()).check) for told in frozen)
    for told in frozen:
        Verification(told, the_store, known).check()
    warm = sum(timed(Verification(told, the_store, known).check) for told in frozen)
    print(f"a run of {len(steps)} steps, {inside:.1f} s inside stages: verifying the inputs of all")
    print(
        f"  with nothing remembered {cold:.3f} s ({cold / inside:.2%}), remembered {warm:.3f} s"
        f" ({warm / inside:.2%})"
    )


def main() -> None:
    options = dict(a.split("=", 1) for a in sys.argv[1:] if "=" in a)
    runs = [Path(a) for a in sys.argv[1:] if "=" not in a]
    with tempfile.TemporaryDirectory() as folder:
        of_a_model(Path(folder), int(options.get("MB", 1024)) << 20)
    for run in runs:
        of_a_run(run)


if __name__ == "__main__":
    main()
