"""Training that leaves the numbers ends with a message, keeps no checkpoint and publishes nothing."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from training_cases import TINY, train, write

from mlalign.models.training.divergence import Diverged

LORA = {"r": 4, "target_modules": "all-linear"}
WILD = {"learning_rate": 1e30, "max_grad_norm": 0.0, "warmup_steps": 0}


@pytest.fixture(scope="module")
def demonstrations(tmp_path_factory):
    return write(tmp_path_factory.mktemp("rows") / "demonstrations", "demonstration")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return write(tmp_path_factory.mktemp("rows") / "pairs", "preference")


def message(stage, source, root, **values) -> str:
    with pytest.raises(Diverged) as error:
        train(stage, source, root, **values)
    partial = root / f"{stage}-test.partial"
    assert not (partial / "model").exists() and not (partial / "metrics.json").exists()
    assert not list(partial.glob("checkpoints/trainer/*/complete.json"))
    return str(error.value)


@pytest.mark.parametrize(
    ("stage", "peft"), [("sft", None), ("sft", LORA), ("reward", None), ("preference", LORA)]
)
@pytest.mark.slow
def test_a_wild_learning_rate_ends_the_step(stage, peft, demonstrations, pairs, tmp_path):
    source = demonstrations if stage == "sft" else pairs
    told = message(stage, source, tmp_path, peft=peft, trainer=WILD, checkpoint_every=0)
    assert "is no finite number at step 2 (loss" in told and "gradient norm nan" in told
    assert "Lower trainer.learning_rate (now 1e+30)" in told and "trainer.max_grad_norm=1.0" in told


@pytest.mark.slow
def test_the_last_update_is_looked_at_too(demonstrations, tmp_path):
    told = message(
        "sft", demonstrations, tmp_path, trainer={**WILD, "learning_rate": 1e38, "max_steps": 1}
    )
    assert (
        "diverged: the weight model.embed_tokens.weight is no finite number at step 1 (loss 8.28"
        in told
    )


@pytest.mark.slow
def test_a_model_that_is_no_numbers_from_the_start_is_not_blamed_on_the_rate(
    demonstrations, tmp_path
):
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in TINY.iterdir():
        if file.name != "model.safetensors":
            (broken / file.name).write_bytes(file.read_bytes())
    weights = load_file(TINY / "model.safetensors")
    first = next(iter(weights))
    weights[first] = torch.full_like(weights[first], float("nan"))
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    told = message("sft", demonstrations, tmp_path, model=broken)
    assert "at step 1" in told and "look at the model's own weights" in told
