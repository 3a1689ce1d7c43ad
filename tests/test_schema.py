import dataclasses
from typing import Literal

import pytest

from mlalign.core import schema
from mlalign.core.errors import UserError
from mlalign.core.schema import how, verbatim, what


@dataclasses.dataclass
class Inner:
    name: str = what("vllm")
    workers: int = how(1)


@dataclasses.dataclass
class Config:
    method: Literal["a", "b"] = what("a")
    beta: float = what(0.1)
    languages: list[str] | None = what(None)
    inner: Inner = dataclasses.field(default_factory=Inner)
    trainer: dict = verbatim(
        "trl.trainer.dpo_config:DPOConfig",
        how_keys=schema.HOW_TRAINER,
        reserved={"output_dir": "set by mlalign"},
    )
    devices: int = how(1)


def test_fills_and_converts():
    cfg = schema.build(
        Config, {"beta": 1, "inner": {"name": "openai"}, "trainer": {"learning_rate": 1e-6}}
    )
    assert (cfg.beta, cfg.inner.name, cfg.inner.workers, cfg.trainer) == (
        1.0,
        "openai",
        1,
        {"learning_rate": 1e-6},
    )
    assert schema.build(Config, {"beta": "1e-6"}).beta == 1e-6


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"bta": 1}, "c.bta: unknown key; did you mean 'beta'"),
        ({"method": "c"}, "c.method: 'c' is not possible"),
        ({"beta": "x"}, "c.beta: expected a number, got 'x'"),
        ({"beta": True}, "c.beta: expected a number, got True"),
        ({"devices": 1.5}, "c.devices: expected a whole number, got 1.5"),
        (
            {"languages": [False]},
            "c.languages[0]: expected text, got False; a bare `no` in YAML is False",
        ),
        ({"inner": {"nam": "x"}}, "c.inner.nam: unknown key; did you mean 'name'"),
        ({"inner": 3}, "c.inner: expected a mapping"),
        (
            {"trainer": {"learning_rat": 1}},
            "c.trainer.learning_rat: DPOConfig has no such argument; did you mean 'learning_rate'",
        ),
        ({"trainer": {"output_dir": "x"}}, "c.trainer.output_dir: set by mlalign"),
    ],
)
def test_mistakes_name_the_key_and_the_nearest(values, told):
    with pytest.raises(UserError) as error:
        schema.build(Config, values, "c")
    assert told in str(error.value)


def test_all_mistakes_come_together():
    errors = []
    assert (
        schema.build(Config, {"bta": 1, "devices": "x", "trainer": {"nope": 1}}, "c", errors)
        is None
    )
    assert len(errors) == 3


def test_only_what_is_hashed():
    base = schema.hashed(Config())
    assert (
        schema.hashed(Config(devices=8, inner=Inner(workers=9), trainer={"logging_steps": 1}))
        == base
    )
    assert schema.hashed(Config(beta=0.2)) != base
    assert schema.hashed(Config(trainer={"learning_rate": 1.0})) != base
    assert schema.hashed(Config(inner=Inner(name="x"))) != base


def test_field_names_are_read_from_source_without_import():
    import sys

    before = "trl" in sys.modules
    names = schema.fields_of("trl.trainer.dpo_config:DPOConfig")
    assert {"beta", "learning_rate", "per_device_train_batch_size"} <= names
    assert ("trl" in sys.modules) == before
    assert schema.fields_of("no_such_package.x:Y") is None


@pytest.mark.slow
@pytest.mark.parametrize(
    "source",
    ["trl.trainer.dpo_config:DPOConfig", "trl.trainer.sft_config:SFTConfig", "trl.trainer.reward_config:RewardConfig",
     "trl.trainer.kto_config:KTOConfig", "trl.experimental.orpo.orpo_config:ORPOConfig", "trl.experimental.cpo.cpo_config:CPOConfig",
     "peft.tuners.lora.config:LoraConfig"],
)  # fmt: skip
def test_field_names_are_those_of_the_class(source):
    import importlib

    module, _, cls = source.partition(":")
    real = {f.name for f in dataclasses.fields(getattr(importlib.import_module(module), cls))}
    assert {n for n in real if not n.startswith("_")} <= schema.fields_of(source)
    assert len(schema.fields_of(source) - real) <= 1  # an init-only one


def test_a_later_field_is_hashed_only_away_from_its_default():
    @dataclasses.dataclass
    class Config:
        old: int = schema.what(1, "")
        new: list[str] = schema.what([], "", added=True)

    assert schema.hashed(Config()) == {"old": 1}
    assert schema.hashed(Config(new=["x"])) == {"old": 1, "new": ["x"]}
