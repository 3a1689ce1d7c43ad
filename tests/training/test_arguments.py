"""Trainer and LoRA arguments: what is refused before anything is loaded, which packages they need,
and the libraries' own refusals.
"""

import dataclasses
import importlib

import pytest
from training_cases import TINY, config, train, write

from mlalign import stages
from mlalign.core import adapters
from mlalign.core.errors import UserError
from mlalign.core.refusals import keys, refusals
from mlalign.models.training import arguments
from mlalign.models.training.config import accumulation, problems


@pytest.mark.parametrize(
    ("trainer", "peft", "told"),
    [
        ({"learning_rate": -0.01}, None, "trainer.learning_rate: must be 0 or more"),
        ({"max_steps": 0}, None, "trainer.max_steps: 0 steps train nothing"),
        ({"num_train_epochs": 0}, None, "trainer.num_train_epochs: must be above 0"),
        ({"adam_beta2": 1.0}, None, "trainer.adam_beta2: must be from 0 to below 1"),
        (
            {"label_smoothing_factor": 1.5},
            None,
            "trainer.label_smoothing_factor: must be from 0 to below 1",
        ),
        ({"report_to": "wandbb"}, None, "trainer.report_to: 'wandbb' is no tracker"),
        ({"bf16": True, "fp16": True}, None, "trainer.fp16: bf16 is on too"),
        (
            {"train_sampling_strategy": "batch_rebalance"},
            None,
            "trainer.train_sampling_strategy: batch_rebalance fills",
        ),
        ({}, {"r": 0}, "peft.r: must be at least 1"),
        (
            {},
            {"target_modules": "all-linear", "layers_to_transform": [0]},
            "peft.layers_to_transform: needs target_modules as a list",
        ),
        (
            {},
            {"init_lora_weights": "pissa_niter_4"},
            "peft.init_lora_weights: pissa_niter_4 changes the weights of the base",
        ),
        ({}, {"init_lora_weights": "olora"}, "olora changes the weights of the base"),
        ({}, {"init_lora_weights": "corda"}, "corda changes the weights of the base"),
        ({}, {"init_lora_weights": "loftq"}, "loftq changes the weights of the base"),
        ({}, {"init_lora_weights": "eva"}, "eva needs a pass over data"),
        ({}, {"init_lora_weights": "pizza"}, "pizza is no initialisation that peft has"),
    ],
)
def test_values_that_spoil_a_training_are_named_with_their_key(trainer, peft, told):
    found = problems(config("sft", trainer=trainer, peft=peft))
    assert len(found) == 1 and told in found[0]


@pytest.mark.parametrize("value", [0.5, 1.5, -0.1])
def test_labels_that_are_as_often_wrong_as_right_are_refused(value):
    (found,) = problems(config("preference", trainer={"label_smoothing": value}))
    assert found.startswith(f"trainer.label_smoothing: must be from 0 to below 0.5, got {value}")


@pytest.mark.parametrize("start", [True, False, "gaussian", "orthogonal"])
def test_initialisations_that_leave_the_base_alone_are_taken(start):
    assert adapters.not_of_its_base({"init_lora_weights": start}) is None


@pytest.mark.parametrize(
    ("zero", "told"),
    [
        ("zero2", "deepspeed.zero_optimization: expected a mapping, got 'zero2'"),
        ({"stage": "two"}, "deepspeed.zero_optimization.stage: must be 0, 1, 2 or 3, got 'two'"),
        (
            {"stage": 3, "offload_param": "cpu"},
            "deepspeed.zero_optimization.offload_param: expected a mapping",
        ),
        (
            {"stage": 2, "reduce_bucket_size": "large"},
            "deepspeed.zero_optimization.reduce_bucket_size: expected a number or auto",
        ),
    ],
)
def test_a_deepspeed_configuration_of_the_wrong_shape_is_named(zero, told):
    (found,) = problems(config("sft", deepspeed={"zero_optimization": zero}))
    assert found.startswith(told)


@pytest.mark.parametrize(
    ("trainer", "package"),
    [
        ({"optim": "adamw_bnb_8bit"}, "bitsandbytes"), ({"optim": "paged_adamw_32bit"}, "bitsandbytes"),
        ({"optim": "galore_adamw_8bit"}, "bitsandbytes"), ({"optim": "galore_adamw_8bit"}, "galore_torch"),
        ({"optim": "adamw_torch_8bit"}, "torchao"), ({"optim": "schedule_free_adamw"}, "schedulefree"),
        ({"report_to": "wandb"}, "wandb"), ({"report_to": ["mlflow", "none"]}, "mlflow"),
        ({"use_liger_kernel": True}, "liger_kernel"),
        ({"model_init_kwargs": {"attn_implementation": "flash_attention_2"}}, "flash_attn"),
        ({"model_init_kwargs": {"attn_implementation": "kernels-community/flash-attn"}}, "kernels"),
    ],
)  # fmt: skip
def test_options_name_the_packages_that_they_need(trainer, package):
    assert package in arguments.packages(trainer)


def test_usual_options_need_no_package():
    assert arguments.packages({"optim": "adamw_torch_fused", "report_to": "none"}) == []


def test_the_trackers_are_those_of_transformers():
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    assert set(arguments.TRACKERS) == set(INTEGRATION_TO_CALLBACK)


@pytest.mark.parametrize(
    ("stage", "source"),
    [
        ("sft", "trl:SFTConfig"),
        ("reward", "trl:RewardConfig"),
        ("preference", "trl:DPOConfig"),
        ("preference", "trl:KTOConfig"),
    ],
)
def test_the_learning_rates_are_those_of_trl(stage, source):
    module, _, name = source.partition(":")
    fields = {
        f.name: f.default
        for f in dataclasses.fields(getattr(importlib.import_module(module), name))
    }
    module = stages.load(stage)
    assert module.objective(module.Config()).learning_rate == fields["learning_rate"]


@pytest.mark.slow
def test_a_missing_package_and_a_wrong_type_are_told_before_anything_runs(mlalign, tmp_path):
    source = write(tmp_path / "rows", "demonstration")
    base = ("sft", f"rows={source}", f"model={TINY}", "batch_size=8")
    planned = mlalign(*base, "trainer={report_to: neptune}", "dry=true")
    assert (
        planned.returncode == 0
        and "would not run here: steps.sft: the package 'neptune' is not installed"
        in planned.stdout
    )
    typed = mlalign(*base, "trainer={learning_rate: fast}")
    assert (
        typed.returncode == 1
        and "trainer.learning_rate: expected a number, got 'fast'" in typed.stderr
    )


@pytest.fixture(scope="module")
def demonstrations(tmp_path_factory):
    return write(tmp_path_factory.mktemp("rows") / "demonstrations", "demonstration")


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (
            {"trainer": {"lr_scheduler_type": "cosine_with_min_lr"}},
            r"trainer.lr_scheduler_type|trainer \(",
        ),
        ({"trainer": {"optim": "no_such"}}, "trainer.optim: ValueError"),
        ({"trainer": {"lr_scheduler_kwargs": {"no_such": 1}}}, "trainer"),
        ({"peft": {"target_modules": ["no_such"]}}, "peft.target_modules"),
        (
            {"peft": {"target_modules": ["q_proj", "v_prj"]}},
            "peft.target_modules: the model has no module 'v_prj'; did you mean 'v_proj'",
        ),
        (
            {"peft": {"modules_to_save": ["head"]}},
            "peft.modules_to_save: the model has no module 'head'",
        ),
        (
            {"peft": {"layers_to_transform": [0, 99]}},
            "peft.layers_to_transform: the model has no layer 99; it has ",
        ),
    ],
)
@pytest.mark.slow
def test_what_the_libraries_refuse_is_one_message(values, told, demonstrations, tmp_path):
    with pytest.raises(UserError, match=told) as error:
        train("sft", demonstrations, tmp_path, **values)
    assert len(error.value.messages) == 1 and "\n" not in str(error.value)


def test_a_mistake_of_our_own_stays_a_traceback():
    with pytest.raises(TypeError), refusals(keys("trainer", {"a": 1}), "trainer"):
        accumulation("a", None, 1)  # type: ignore[arg-type]
