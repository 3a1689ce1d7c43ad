"""What a step kept of its work is trusted only as it was written."""

import os

import pytest

from mlalign.models import checkpoints


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "checkpoint-10"
    (path / "global_step10").mkdir(parents=True)
    (path / "model.safetensors").write_bytes(b"weights")
    (path / "global_step10" / "rank_0.pt").write_bytes(b"state")
    checkpoints.complete(path, step=10, ranks=1)
    return path


def test_a_checkpoint_as_it_was_saved(checkpoint):
    assert checkpoints.problem(checkpoint) is None


def cut(path):
    os.truncate(path / "model.safetensors", 3)


def swap(path):
    (path / "model.safetensors").rename(path / "x")
    (path / "global_step10" / "rank_0.pt").rename(path / "model.safetensors")
    (path / "x").rename(path / "global_step10" / "rank_0.pt")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (cut, "model.safetensors is not what was saved"),
        (swap, "is not what was saved"),
        (lambda p: (p / "global_step10" / "rank_0.pt").unlink(), "rank_0.pt is not what was saved"),
        (
            lambda p: (p / "adapter_model.safetensors").write_bytes(b"x"),
            "adapter_model.safetensors is not what was saved",
        ),
        (lambda p: (p / checkpoints.COMPLETE).unlink(), "was never completed"),
        (lambda p: (p / checkpoints.COMPLETE).write_text("{"), "is malformed"),
        (
            lambda p: (p / checkpoints.COMPLETE).write_text('{"step": 10, "ranks": 1}'),
            "does not list its files",
        ),
        (lambda p: (p / checkpoints.COMPLETE).write_text("[]"), "does not list its files"),
    ],
)
def test_damage_is_told(checkpoint, damage, said):
    damage(checkpoint)
    assert said in checkpoints.problem(checkpoint)
