"""The preference stage on the tiny model: every loss, references, adapters, and the cache of
reference log-probabilities.
"""

import math

import pytest
import torch
from safetensors.torch import load_file
from training_cases import LANGUAGES, TINY, StopAt, answer, config, losses, train, write

from mlalign.core import rows, stage
from mlalign.core.errors import UserError
from mlalign.stages import preference
from mlalign.stages.preference import problems

LORA = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}
NEEDS = {"exo_pair": {"label_smoothing": 1e-3}, "robust": {"label_smoothing": 0.1}}
EVERY_LOSS = [*sorted(preference.dpo_losses()), *preference.OTHERS, "sigmoid+sft"]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return write(tmp_path_factory.mktemp("rows") / "pairs", "preference")


@pytest.fixture(scope="module")
def full(pairs, tmp_path_factory):
    return train("preference", pairs, tmp_path_factory.mktemp("full"))


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    """An adapter from supervised fine-tuning."""
    root = tmp_path_factory.mktemp("policy")
    return train("sft", write(root / "rows", "demonstration"), root, peft=LORA).path / "model"


def weights(out: stage.Output) -> dict[str, torch.Tensor]:
    return load_file(next((out.path / "model").glob("*.safetensors")))


def caches(root) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in root.rglob("cache-*.arrow")}


def test_the_losses_of_trl_are_read_from_its_source():
    assert {
        "sigmoid",
        "hinge",
        "ipo",
        "exo_pair",
        "nca_pair",
        "robust",
        "bco_pair",
        "sppo_hard",
        "aot",
        "apo_zero",
        "discopop",
    } <= preference.dpo_losses()
    assert len(EVERY_LOSS) >= 15 + 5 + 1


AT_ONCE = (
    "sigmoid",
    "ipo",
    "sigmoid+sft",
    "kto",
    "orpo",
    "simpo",
)  # one of each kind; the others are long


@pytest.mark.parametrize(
    "loss", [x if x in AT_ONCE else pytest.param(x, marks=pytest.mark.long) for x in EVERY_LOSS]
)
@pytest.mark.slow
def test_every_loss_trains(loss, pairs, tmp_path):
    trainer = {"max_steps": 1, **NEEDS.get(loss, {})}
    is_kto = preference.OTHERS.get(loss, preference.DPO).name == "KTO"
    out = train(
        "preference",
        pairs,
        tmp_path,
        loss=loss,
        trainer=trainer,
        device_batch_size=8 if is_kto else None,
    )
    assert all(math.isfinite(x) for x in losses(out)) and len(losses(out)) == 1
    before, after = load_file(TINY / "model.safetensors"), weights(out)
    assert any(not torch.equal(before[name].float(), after[name]) for name in before)
    assert out.tally.rows == dict.fromkeys(LANGUAGES, 32 if is_kto else 16)


@pytest.mark.slow
def test_without_a_reference_given_the_start_is_the_reference(full):
    assert (
        losses(full)[0] == pytest.approx(math.log(2), abs=1e-7)
        and losses(full)[-1] < losses(full)[0]
    )
    card = (full.path / "model" / "README.md").read_text()
    assert "the loss sigmoid, beta 0.1" in card and "vllm serve preference-test/model" in card


@pytest.mark.parametrize("precompute", [True, pytest.param(False, marks=pytest.mark.long)])
@pytest.mark.slow
def test_dpo_on_an_adapter_measures_against_that_adapter(precompute, pairs, policy, tmp_path):
    out = train(
        "preference",
        pairs,
        tmp_path,
        model=policy,
        peft=LORA,
        trainer={"precompute_ref_log_probs": precompute},
    )
    assert (
        losses(out)[0] == pytest.approx(math.log(2), abs=1e-6) and losses(out)[-1] != losses(out)[0]
    )
    assert (
        sorted(p.name for p in (out.path / "model").iterdir() if p.is_dir()) == []
    )  # no second adapter
    assert weights(out).keys() == load_file(policy / "adapter_model.safetensors").keys()
    assert stage.local_model(out.path / "model", "x").base.path == str(TINY)
    assert "vllm serve tiny --enable-lora" in (out.path / "model" / "README.md").read_text()


@pytest.mark.slow
def test_another_reference_is_measured_against(full, pairs, policy, tmp_path):
    same = train("preference", pairs, tmp_path / "same", reference=TINY)
    other = train("preference", pairs, tmp_path / "other", reference=policy)
    assert losses(same) == losses(full)
    assert losses(other)[0] != pytest.approx(math.log(2), abs=1e-4)
    adapter = train(
        "preference", pairs, tmp_path / "adapter", model=policy, peft=LORA, reference=TINY
    )
    assert losses(adapter)[0] != pytest.approx(math.log(2), abs=1e-4)


@pytest.mark.parametrize(
    "case", ["full", "adapter", *(pytest.param(c, marks=pytest.mark.long) for c in ("kto", "orpo"))]
)
@pytest.mark.slow
def test_a_stopped_step_goes_on_as_if_it_had_not_been(case, full, pairs, policy, tmp_path):
    given = {
        "full": {},
        "adapter": {"model": policy, "peft": {**LORA}},
        "kto": {"loss": "kto", "device_batch_size": 8},
        "orpo": {"loss": "orpo"},
    }[case]
    unbroken = (
        full if case == "full" else train("preference", pairs, tmp_path / "unbroken", **given)
    )
    with pytest.raises(stage.Stopped):
        train("preference", pairs, tmp_path / "stopped", kind=StopAt, **given)
    written = caches(tmp_path / "stopped")
    again = train("preference", pairs, tmp_path / "stopped", **given)
    assert losses(again) == losses(unbroken)
    assert all(
        torch.equal(a, b)
        for a, b in zip(weights(again).values(), weights(unbroken).values(), strict=True)
    )
    if (
        case != "orpo"
    ):  # reference log-probabilities and token ids are found again, not computed a second time
        assert written and caches(tmp_path / "stopped") == written


@pytest.mark.slow
def test_kto_takes_unpaired_rows_and_mixes_languages(tmp_path):
    source = write(tmp_path / "rows", "unpaired")
    out = train("preference", source, tmp_path, loss="kto", device_batch_size=4)
    assert out.tally.rows == dict.fromkeys(LANGUAGES, 16)
    with pytest.raises(UserError, match="KTO needs at least 2 rows"):
        train("preference", source, tmp_path / "one", loss="kto", device_batch_size=1)
    with pytest.raises(
        UserError, match="holds unpaired rows; preference trains on preference rows"
    ):
        train("preference", source, tmp_path / "dpo")


@pytest.mark.slow
def test_sequences_that_are_too_long_are_counted(pairs, tmp_path):
    told = train(
        "preference", pairs, tmp_path, max_length=14, trainer={"max_steps": 1}
    ).tally.to_dict()
    cut = sum(told["sums"].get("truncated", {}).values())
    dropped = sum(told["dropped"].get("over_length", {}).values())
    assert cut > 0 and sum(told["rows"].values()) + dropped == 32


@pytest.mark.slow
def test_pairs_that_truncation_makes_equal_are_dropped_and_counted(tmp_path):
    source = write(tmp_path / "rows", "preference")
    path = rows.shards(source, "train", ["swh_Latn"])[0]
    found = rows.read_shard(path)
    long = "Ni " + "1 2 3 " * 30
    found[3].update(chosen=answer(long + "4"), rejected=answer(long + "5"))
    found[4]["rejected"] = found[4]["chosen"]
    rows.write_shard(path, "preference", found)
    out = train("preference", source, tmp_path, trainer={"max_steps": 1})
    assert out.tally.to_dict()["dropped"] == {
        "equal_sides": {"swh_Latn": 1},
        "sides_are_the_same_text": {"swh_Latn": 1},
    }
    with pytest.raises(
        UserError,
        match=(
            r"swh_Latn: no row .* chosen and a rejected answer that the chat template makes the"
            r" same text"
        ),
    ):
        rows.write_shard(path, "preference", [{**row, "rejected": row["chosen"]} for row in found])
        train("preference", source, tmp_path / "none", max_length=14, trainer={"max_steps": 1})


@pytest.mark.slow
def test_an_adapter_that_changes_its_base_is_refused():
    # its loss would not begin at ln 2, as the reference is a base without what the adapter begins
    # with
    found = problems(config("preference", peft={**LORA, "init_lora_weights": "pissa"}))
    assert (
        found
        == [
            message
            for message in found
            if message.startswith("peft.init_lora_weights: pissa changes")
        ]
        and found
    )


@pytest.mark.parametrize("start", ["gaussian", "orthogonal"])
@pytest.mark.slow
def test_with_any_other_adapter_the_loss_begins_at_ln_2(start, pairs, tmp_path):
    out = train(
        "preference",
        pairs,
        tmp_path,
        peft={**LORA, "init_lora_weights": start},
        trainer={"max_steps": 1},
    )
    assert losses(out)[0] == pytest.approx(math.log(2), abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["orpo", "cpo", "simpo"])
def test_a_reference_is_refused_where_the_loss_has_none(loss, pairs, policy, tmp_path):
    with pytest.raises(UserError, match=f"{loss} has no reference model; leave it out"):
        train("preference", pairs, tmp_path, loss=loss, reference=policy)


def test_settings_that_no_loss_has_are_refused():
    def mistakes(**values) -> str:
        with pytest.raises(UserError) as error:
            preference.identity(config("preference", **values), lambda path: "")
        return str(error.value)

    assert "unknown loss 'sigmod'; did you mean 'sigmoid'" in mistakes(loss="sigmod")
    assert "exo_pair needs one above 0" in mistakes(loss="exo_pair")
    assert "kto has a trainer of its own" in mistakes(loss="sigmoid+kto")
    assert "device_batch_size: kto estimates its KL term" in mistakes(loss="kto")
    assert "beta: must be above 0, got -0.1" in mistakes(beta=-0.1)
    assert "beta: must be above 0, got 0" in mistakes(beta=0.0, loss="kto", device_batch_size=4)
    assert "beta: must be 0 or more, got -0.1" in mistakes(beta=-0.1, loss="orpo")
    assert not problems(config("preference", beta=0.0, loss="orpo"))
    with pytest.raises(UserError, match=r"trainer.simpo_gamma: DPOConfig has no such argument"):
        config("preference", trainer={"simpo_gamma": 1.0})
    with pytest.raises(UserError, match=r"trainer.beta: set beta on the step"):
        config("preference", trainer={"beta": 1.0})
    assert (
        config("preference", loss="simpo", trainer={"simpo_gamma": 1.0}).trainer["simpo_gamma"]
        == 1.0
    )


def test_what_kto_takes_at_a_time_is_hashed():
    few, many = (
        preference.identity(config("preference", loss="kto", device_batch_size=n), lambda path: "")
        for n in (2, 8)
    )
    assert few != many
    few, many = (
        preference.identity(config("preference", device_batch_size=n), lambda path: "")
        for n in (2, 8)
    )
    assert few == many
