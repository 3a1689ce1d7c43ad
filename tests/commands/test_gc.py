"""What `gc` finds, what it leaves alone, and that sizes are those of the disk."""

import json
import os
import re
import subprocess
import time

import pytest

from mlalign.cli.commands import gc
from mlalign.core import claims
from mlalign.models import checkpoints

KEPT, BASE, ALONE, BEGUN = (f"sft-{i:016x}" for i in range(4))


def artifact(root, name, *, done=True, **files):
    """A directory in the store with files of so many bytes, complete or partial."""
    path = root / "store" / (name if done else f"{name}.partial")
    path.mkdir(parents=True)
    for file, n_bytes in files.items():
        target = path / file.replace("__", "/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(os.urandom(n_bytes))
    if done:
        (path / "manifest.json").write_text("{}")
    (path / "config.yaml").write_text("inputs: {}\n")
    return path


def checkpoint(partial, step, complete=True, n_bytes=100_000):
    path = partial / "checkpoints" / "trainer" / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "optimizer.pt").write_bytes(os.urandom(n_bytes))
    if complete:
        checkpoints.complete(path, ranks=1)


def run_of(root, *artifacts, name="mine"):
    folder = root / "runs" / name
    (folder / "steps").mkdir(parents=True)
    steps = [{"step": f"s{i}", "stage": "sft", "artifact": a} for i, a in enumerate(artifacts)]
    (folder / "plan.json").write_text(json.dumps({"recipe": "r", "name": name, "steps": steps}))
    return folder


def found(root, keep=1, days=0.0):
    return {
        str(item.path.relative_to(root / "store")): item.why for item in gc.find(root, keep, days)
    }


def disk(root):
    return int(
        subprocess.run(
            ["du", "-s", "--block-size=1", root / "store"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()[0]
    )


@pytest.fixture
def root(tmp_path):
    """A kept artifact on a base that only its configuration names, one that nobody needs, and a
    begun one.
    """
    run_of(tmp_path, KEPT, BEGUN)
    kept = artifact(tmp_path, KEPT, model__weights=50_000)
    (kept / "config.yaml").write_text(
        f"inputs: {{model: {{path: {tmp_path}/store/{BASE}/model}}}}\n"
    )
    artifact(tmp_path, BASE, model__weights=50_000)
    artifact(tmp_path, ALONE, model__weights=200_000)
    artifact(tmp_path, BEGUN, done=False)
    return tmp_path


def test_only_what_no_run_needs_goes(root):
    assert found(root) == {ALONE: "no run refers to it"}
    run_of(root, ALONE, name="other")
    assert found(root) == {}


def test_any_link_of_a_run_keeps_what_it_leads_to(root):
    (root / "runs" / "mine" / "report").symlink_to(f"../../store/{ALONE}")
    assert found(root) == {}


def test_checkpoints_by_rule(root):
    partial = root / "store" / f"{BEGUN}.partial"
    for step in (20, 40, 100):
        checkpoint(partial, step)
    checkpoint(partial, 120, complete=False)
    checkpoint(root / "store" / KEPT, 10)
    left = {f"{BEGUN}.partial/checkpoints/trainer/checkpoint-{step}" for step in (20, 40)}
    assert set(found(root)) - {ALONE} == {
        *left,
        f"{BEGUN}.partial/checkpoints/trainer/checkpoint-120",
        f"{KEPT}/checkpoints",
    }
    assert len(found(root, keep=0)) == len(found(root)) + 1
    assert set(found(root, keep=3)) - {ALONE} == {
        f"{BEGUN}.partial/checkpoints/trainer/checkpoint-120",
        f"{KEPT}/checkpoints",
    }


def test_leftovers(root):
    artifact(root, f"{KEPT}.replaced")
    artifact(root, f"{KEPT}.partial.replaced")
    artifact(root, f"{ALONE}.deleting")
    artifact(root, "reward-00000000000000aa", done=False)
    broken = artifact(root, "reward-00000000000000bb")
    (broken / "manifest.json").unlink()
    run_of(root, "reward-00000000000000bb", name="third")
    (root / "store" / "notes of mine").mkdir()
    (root / "store" / "report-2024").mkdir()
    assert set(found(root)) == {
        ALONE,
        f"{KEPT}.replaced",
        f"{KEPT}.partial.replaced",
        f"{ALONE}.deleting",
        "reward-00000000000000aa.partial",
        "reward-00000000000000bb",
    }


def test_what_a_process_has_claimed_is_never_touched(root, mlalign):
    other = artifact(root, "reward-00000000000000aa", done=False)
    with claims.claim(other), claims.claim(root / "store" / f"{BEGUN}.partial", "part-3"):
        for step in (20, 40):
            checkpoint(root / "store" / f"{BEGUN}.partial", step)
        assert set(found(root, keep=0)) == {ALONE}
    assert len(found(root, keep=0)) == 4


def test_a_claim_that_comes_between_looking_and_deleting_is_respected(root, capsys):
    items = gc.find(root, 1, 0)
    with claims.claim(root / "store" / ALONE):
        assert gc._delete_all(items, root / "store") is False
    assert (
        "stays:" in capsys.readouterr().out and (root / "store" / ALONE / "manifest.json").is_file()
    )


def test_what_is_young_stays(root):
    old = time.time() - 3 * 86400
    assert found(root, days=2) == {}
    for path in [*(root / "store" / ALONE).rglob("*"), root / "store" / ALONE]:
        os.utime(path, (old, old))
    assert set(found(root, days=2)) == {ALONE}
    assert found(root, days=4) == {}


def test_hard_links_count_once_and_only_if_no_other_name_stays(root, mlalign):
    """ALONE shares a file with a kept artifact, one with the cache, and one with itself."""
    alone, kept = root / "store" / ALONE, root / "store" / KEPT
    cache = root / "store" / ".shards" / "ab"
    cache.mkdir(parents=True)
    for name, target in (
        ("shared", kept / "shared"),
        ("shard", cache / ("ab" * 32)),
        ("twice", alone / "again"),
    ):
        (alone / name).write_bytes(os.urandom(300_000))
        os.link(alone / name, target)
    os.link(kept / "shared", cache / ("cd" * 32))
    (cache / ("ab" * 32)).with_suffix(".json").write_text("{}")
    assert set(found(root)) == {ALONE, ".shards/ab/" + "ab" * 32}
    before = disk(root)
    told = mlalign("gc", f"root={root}").stdout
    assert disk(root) == before and "nothing was deleted; delete=true does it" in told
    items = gc.find(root, 1, 0)
    gc.measure(items)
    done = mlalign("gc", f"root={root}", "delete=true")
    assert done.returncode == 0 and "2 deleted" in done.stdout
    files = sum(i.n_bytes for i in items)
    assert 0 <= before - disk(root) - files < 50_000  # folders and the small marker
    assert 800_000 < files < 900_000
    assert (
        sorted(p.name for p in cache.iterdir()) == ["cd" * 32]
        and (kept / "shared").stat().st_size == 300_000
    )
    assert mlalign("gc", f"root={root}").stdout.startswith("nothing in")


def test_deletion_leaves_what_a_run_can_go_on_from(root, mlalign):
    partial = root / "store" / f"{BEGUN}.partial"
    for step in (20, 40):
        checkpoint(partial, step)
    assert mlalign("gc", f"root={root}", "delete=true").returncode == 0
    assert [p.name for p in (partial / "checkpoints" / "trainer").iterdir()] == ["checkpoint-40"]
    assert not (partial / "claims").exists() and (partial / "config.yaml").is_file()


def test_a_run_with_jobs_is_left_alone_while_slurm_cannot_be_asked(
    root, mlalign, monkeypatch, tmp_path
):
    folder = root / "runs" / "mine" / "slurm"
    folder.mkdir()
    line = {
        "job": "7",
        "step": "s1",
        "artifact": BEGUN,
        "tasks": 1,
        "script": "s1.sbatch",
        "log": "logs/s1-%j.log",
        "submitted": 0,
    }
    (folder / "jobs.jsonl").write_text(json.dumps(line) + "\n")
    checkpoint(root / "store" / f"{BEGUN}.partial", 20)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert set(found(root, keep=0)) == {ALONE}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["keep_checkpoints=-1"], "keep_checkpoints: expected a number from 0 up"),
        (["keep_checkpoints=1.5"], "keep_checkpoints: expected a whole number"),
        (["older_than=week"], "older_than: expected a number"),
        (["delete=perhaps"], "delete: expected true or false"),
        (["keep_checkpoint=1"], "keep_checkpoint: unknown key; did you mean 'keep_checkpoints'"),
        (["root=nowhere"], "there is no store in"),
    ],
)
def test_mistakes(root, mlalign, arguments, told):
    done = mlalign("gc", f"root={root}", *arguments)
    assert done.returncode == 1 and re.search(re.escape(told), done.stderr), done.stderr


def test_an_unreadable_plan_stops_everything(root, mlalign):
    (root / "runs" / "mine" / "plan.json").write_text("{")
    done = mlalign("gc", f"root={root}", "delete=true")
    assert done.returncode == 1 and "plan.json" in done.stderr and (root / "store" / ALONE).is_dir()
