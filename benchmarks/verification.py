"""What verifying inputs costs: hashing, remembered digests, and the share of a run.

  python benchmarks/verification.py [RUN_DIRECTORY] [MB=1024]

Files of MB megabytes stand for a model. They are in memory when they are hashed, so the numbers
leave out disk and network. In a finished run (`make demo` leaves one in demo/runs/demo) every
step's inputs are verified as when it began.
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


def median_ms(work: Callable[[], object]) -> str:
    """Median and range of several times, in milliseconds."""
    times = sorted(timed(work) * 1e3 for _ in range(REPEATS))
    return f"{statistics.median(times):.2f} ms [{times[0]:.2f}, {times[-1]:.2f}]"


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
    remembered = median_ms(lambda: Digests(folder).path(model))
    print(f"the same model, remembered by another process: {remembered}")
    watch = Watch(first, files)
    assert watch.untouched()
    print(f"a look at it before work is kept: {median_ms(watch.untouched)}")


def of_a_run(run: Path) -> None:
    steps = [link.resolve() for link in sorted((run / "steps").iterdir())]
    the_store = store.Store(steps[0].parent)
    known = Digests()
    inside = cold = warm = 0.0
    for path in steps:
        manifest = store.read_manifest(path)
        inside += manifest["finished"] - manifest["started"]
        frozen_step = yaml.safe_load((path / "config.yaml").read_text(encoding="utf-8"))
        cold += timed(Verification(frozen_step, the_store, Digests()).check)
        Verification(frozen_step, the_store, known).check()
        warm += timed(Verification(frozen_step, the_store, known).check)
    print(f"a run of {len(steps)} steps, {inside:.1f} s inside stages: verifying the inputs of all")
    print(
        f"  with nothing remembered {cold:.3f} s ({cold / inside:.2%}), remembered {warm:.3f} s"
        f" ({warm / inside:.2%})"
    )


def main() -> None:
    options = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
    runs = [Path(word) for word in sys.argv[1:] if "=" not in word]
    with tempfile.TemporaryDirectory() as folder:
        of_a_model(Path(folder), int(options.get("MB", 1024)) << 20)
    for run in runs:
        of_a_run(run)


if __name__ == "__main__":
    main()
