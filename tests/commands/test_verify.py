"""`mlalign verify` finds what differs in artifacts, the shard cache, unfinished work and outside
inputs, and names the mend.
"""

import os

import pytest
from verification_cases import Small

from mlalign.models import checkpoints
from mlalign.running import step


@pytest.fixture
def small(tmp_path):
    made = Small(tmp_path)
    made.run("rows")
    made.run("marks")
    return made


def differs(mlalign, *arguments):
    done = mlalign("verify", *arguments)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout.partition("differs:")[2]


def shard(small, stage):
    return next(p for p in (small.root / "store").glob(f"{stage}-*/rows/*.parquet"))


def flip(path):
    """Other content of the same size under the old times."""
    told, old = path.stat(), path.read_bytes()
    path.write_bytes(bytes([old[0] ^ 1]) + old[1:])
    os.utime(path, ns=(told.st_atime_ns, told.st_mtime_ns))


@pytest.mark.slow
def test_all_as_written(small, mlalign):
    done = mlalign("verify")
    assert done.returncode == 0, done.stdout
    assert (
        "artifact of marks" in done.stdout
        and "shard cache" in done.stdout
        and "inputs of rows" in done.stdout
    )
    assert "differ" not in done.stdout and "/s)" in done.stdout


@pytest.mark.slow
def test_what_is_remembered_does_not_help(small, mlalign):
    """Whoever changes the memory of digests too is found out."""
    path = shard(small, "prepare")
    flip(path)
    assert differs(mlalign)[0] == 1


@pytest.mark.slow
def test_artifacts_shards_and_inputs_are_named_with_their_mends(small, mlalign):
    flip(shard(small, "prepare"))
    flip(shard(small, "score"))  # in place: the cache has the same file
    flip(small.model / "model.safetensors")
    small.source.unlink()
    status, told = differs(mlalign)
    assert status == 1
    for name in (
        shard(small, "prepare"),
        shard(small, "score"),
        ".shards/",
        small.model / "model.safetensors",
        small.source,
    ):
        assert str(name) in told, told
    assert (
        "force=rows" in told
        and "force=marks" in told
        and "is gone" in told
        and "mlalign gc" in told
    )


@pytest.mark.slow
def test_unfinished_work_is_looked_at(small, mlalign):
    partial = step.begin(
        small.plan().store,
        {
            "stage": "sft",
            "step": "base",
            "fingerprint": "ab" * 32,
            "inputs": {},
            "guards": [],
            "config": {},
        },
    )
    folder = partial / "checkpoints" / "trainer" / "checkpoint-5"
    folder.mkdir(parents=True)
    (folder / "optimizer.pt").write_bytes(b"abc")
    checkpoints.complete(folder, step=5, ranks=1)
    assert differs(mlalign) == (0, "")
    (folder / "optimizer.pt").write_bytes(b"abd")
    status, told = differs(mlalign)
    assert (
        status == 1 and "optimizer.pt is not what was saved" in told and "computes it again" in told
    )


@pytest.mark.slow
def test_only_what_a_run_refers_to(small, mlalign):
    from mlalign.running import run_dir

    run_dir.open_run(small.plan())
    other = small.root / "store" / "sft-00000000000000aa"
    other.mkdir()
    (other / "manifest.json").write_text("[]")
    assert differs(mlalign, "name=small") == (0, "")
    status, told = differs(mlalign)
    assert status == 1 and "manifest.json: is no manifest of an artifact" in told
    assert "there is no run 'smal'" in mlalign("verify", "name=smal").stderr


def test_mistakes(tmp_path, mlalign):
    assert "there is no store in" in mlalign("verify").stderr
    assert "unknown key" in mlalign("verify", "nam=x").stderr
