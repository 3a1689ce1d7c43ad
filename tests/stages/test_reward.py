"""The reward stage on the tiny model: the new head, margins, long pairs, adapters that carry the
head, and the card.
"""

import math
import shutil

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from training_cases import LANGUAGES, TINY, StopAt, answer, losses, train, write
from transformers import AutoTokenizer

import reward_models
from mlalign.core import rows, stage, store
from mlalign.core.errors import UserError
from mlalign.models import modelling
from mlalign.stages.reward import tolerance
from reward_models import card as cards

LORA = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return write(tmp_path_factory.mktemp("rows") / "pairs", "preference")


@pytest.fixture(scope="module")
def full(pairs, tmp_path_factory):
    return train("reward", pairs, tmp_path_factory.mktemp("full"))


def weights(out: stage.Output) -> dict[str, torch.Tensor]:
    return load_file(next((out.path / "model").glob("*.safetensors")))


def scores(out: stage.Output, source) -> list[float]:
    return reward_models.load(out.path / "model").score(
        list(rows.read(source, "eval", columns=["prompt", "chosen", "rejected"]))
    )


@pytest.mark.slow
def test_a_new_head_is_drawn_from_the_normal_distribution_of_the_paper():
    weights_of = modelling.Weights("classifier", "float32")
    first, again, other = (
        modelling.load_full(stage.Model(str(TINY), "tiny"), weights_of, seed).score.weight
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)
    d = first.shape[-1]
    assert first.shape == (1, 160) and float(first.detach().std()) == pytest.approx(
        1 / math.sqrt(d + 1), rel=0.2
    )


@pytest.mark.slow
def test_the_saved_model_scores_as_the_trained_one_did(full):
    told = full.notes["reload"]
    assert told["rows"] == 32 and told["max_abs_difference"] <= 1e-4
    first, second, third, fourth = losses(full)
    assert third + fourth < first + second
    assert "score.weight" in weights(full) and full.tally.rows == dict.fromkeys(LANGUAGES, 16)


@pytest.mark.slow
def test_the_card_tells_what_a_scorer_must_know(full, pairs):
    told, tokenizer = (
        cards.read(full.path / "model"),
        AutoTokenizer.from_pretrained(full.path / "model"),
    )
    assert (told.family, told.direction, told.scale, told.max_length) == (
        "classifier",
        "higher_is_better",
        "logits",
        64,
    )
    assert told.template_hash == cards.template_hash(
        tokenizer.chat_template
    ) and told.training_languages == list(LANGUAGES)
    assert told.training == {"measured_on": "eval", "base_model": "tiny"}
    found = scores(full, pairs)
    for i, language in enumerate(
        LANGUAGES
    ):  # four held-out pairs of each language, in the order of the languages
        mine = found[8 * i : 8 * i + 8]
        right = sum(
            chosen > rejected for chosen, rejected in zip(mine[::2], mine[1::2], strict=True)
        )
        assert told.accuracy[language] == {"n": 4, "accuracy": right / 4}
        mean = sum(mine) / 8
        assert told.calibration[language]["mean"] == pytest.approx(mean, abs=1e-5)
        assert told.calibration[language]["std"] == pytest.approx(
            math.sqrt(sum((x - mean) ** 2 for x in mine) / 8), abs=1e-5
        )
    assert str(full.path.parent) not in yaml.safe_dump(vars(told))


@pytest.mark.slow
def test_without_held_out_rows_calibration_comes_from_the_training_rows(tmp_path):
    out = train("reward", write(tmp_path / "rows", "preference", n_eval=0), tmp_path)
    told = cards.read(out.path / "model")
    assert (
        told.accuracy == {}
        and sorted(told.calibration) == list(LANGUAGES)
        and told.training["measured_on"] == "train"
    )


@pytest.mark.slow
def test_a_stopped_step_goes_on_as_if_it_had_not_been(full, pairs, tmp_path):
    with pytest.raises(stage.Stopped):
        train("reward", pairs, tmp_path, kind=StopAt)
    again = train("reward", pairs, tmp_path)
    assert losses(again) == losses(full)
    assert all(
        torch.equal(a, b)
        for a, b in zip(weights(again).values(), weights(full).values(), strict=True)
    )


@pytest.mark.slow
def test_an_adapter_carries_the_head_and_scores_the_same_when_reloaded(pairs, tmp_path):
    out = train("reward", pairs, tmp_path, peft=LORA)
    names = set(weights(out))
    assert any(name.endswith("score.weight") for name in names) and any(
        "lora_A" in name for name in names
    )
    assert out.notes["reload"]["max_abs_difference"] <= 1e-4
    assert "score" in store.read_json(out.path / "model" / "adapter_config.json")["modules_to_save"]
    further = train("reward", pairs, tmp_path / "further", model=out.path / "model", peft=LORA)
    assert (
        further.notes["reload"]["max_abs_difference"] <= 1e-4
        and losses(further)[0] < losses(out)[0]
    )


@pytest.mark.parametrize("peft", [LORA, pytest.param(None, marks=pytest.mark.long)])
@pytest.mark.slow
def test_a_policy_adapter_becomes_a_reward_model(peft, pairs, tmp_path):
    policy = train("sft", write(tmp_path / "rows", "demonstration"), tmp_path, peft=LORA)
    out = train("reward", pairs, tmp_path, model=policy.path / "model", peft=peft)
    assert stage.local_model(out.path / "model", "x").base == (
        None if peft is None else stage.local_model(TINY, str(TINY))
    )
    assert out.notes["reload"]["max_abs_difference"] <= 1e-4


@pytest.mark.slow
def test_frozen_embeddings_stay_as_they_were(pairs, tmp_path):
    out, name = (
        train("reward", pairs, tmp_path, freeze_embeddings=True),
        "model.embed_tokens.weight",
    )
    assert torch.equal(weights(out)[name], load_file(TINY / "model.safetensors")[name].float())
    assert out.notes["train"]["trainable_parameters"] < out.notes["train"]["parameters"]


@pytest.mark.long
def test_margins_are_used_when_there_and_only_then(full, pairs, tmp_path):
    far = write(tmp_path / "rows", "preference", margin=3.0)
    used, ignored = (
        train("reward", far, tmp_path / "a"),
        train("reward", far, tmp_path / "b", use_margin=False),
    )
    assert (
        used.notes["margin"] == {"used": True, "rows_with_margin": 32}
        and ignored.notes["margin"]["used"] is False
    )
    assert losses(ignored) == losses(full) and losses(used)[0] > losses(full)[0] + 0.5
    with pytest.raises(UserError, match=r"no row of .* has a margin"):
        train("reward", pairs, tmp_path / "c", use_margin=True)


@pytest.mark.slow
@pytest.mark.parametrize("margin", [float("nan"), 1e39])
def test_a_margin_that_is_no_number_in_float32_is_refused(margin, tmp_path):
    source = write(tmp_path / "rows", "preference", margin=margin)
    with pytest.raises(
        UserError, match=r"use_margin: 32 rows of .* have a margin that is no finite number"
    ):
        train("reward", source, tmp_path / "a")


@pytest.mark.slow
def test_pairs_that_are_too_long_are_dropped_and_counted(tmp_path):
    source = write(tmp_path / "rows", "preference")
    path = rows.shards(source, "train", ["swh_Latn"])[0]
    found = rows.read_shard(path)
    found[3]["rejected"] = answer("Ni " + "1 2 3 " * 30)
    rows.write_shard(path, "preference", found)
    out = train("reward", source, tmp_path)
    assert out.tally.to_dict()["rows"] == {"eng_Latn": 16, "swh_Latn": 15} and out.tally.to_dict()[
        "dropped"
    ] == {"over_length": {"swh_Latn": 1}}


@pytest.mark.slow
def test_a_tokenizer_without_padding_gets_a_token_of_its_own():
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    tokenizer.pad_token = tokenizer.eos_token
    modelling.ensure_padding(tokenizer)
    assert tokenizer.pad_token == "<|pad|>" and tokenizer.pad_token_id == 0


@pytest.mark.slow
def test_the_tolerance_of_a_reload_grows_with_head_and_scores():
    few = tolerance([0.5, -0.5], 1.0, "bfloat16")
    assert few == pytest.approx(0.05 + 0.5 / 128)
    assert tolerance([50.0, -50.0], 1.0, "bfloat16") == pytest.approx(0.05 * 50 + 50 / 128)
    assert tolerance([50.1, 50.1], 1.0, "bfloat16") < 0.5  # an offset alone is only rounded
    assert tolerance([0.1, -0.1], 100.0, "bfloat16") > 5  # large terms that cancel
    assert tolerance([50.0, -50.0], 1.0, "float32") < 0.006


@pytest.mark.long
def test_a_bfloat16_model_with_large_scores_is_published(full, pairs, tmp_path):
    big = tmp_path / "big"
    shutil.copytree(full.path / "model", big)
    scaled = {
        name: tensor * 100 if name == "score.weight" else tensor
        for name, tensor in weights(full).items()
    }
    save_file(scaled, big / "model.safetensors", {"format": "pt"})
    out = train(
        "reward",
        pairs,
        tmp_path,
        model=big,
        dtype="bfloat16",
        trainer={"learning_rate": 1e-6, "max_steps": 1},
    )
    told = out.notes["reload"]
    assert 0 < told["max_abs_difference"] <= told["tolerance"] < 10
    assert any(
        "most updates are lost at learning_rate=1e-06" in text for text in out.notes["warnings"]
    )


@pytest.mark.slow
def test_rows_that_are_no_pairs_are_refused(tmp_path):
    with pytest.raises(
        UserError, match="holds demonstration rows; reward trains on preference rows"
    ):
        train("reward", write(tmp_path / "rows", "demonstration"), tmp_path)
