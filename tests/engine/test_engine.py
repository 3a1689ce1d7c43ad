"""What can be known of an engine without opening it, and its configuration."""

import sys

import pytest

from mlalign.core import schema
from mlalign.core.errors import UserError
from mlalign.models import engine
from mlalign.models.engine import EngineConfig


def test_missing_names_package_and_remedy_for_every_engine():
    for name, traits in engine.ENGINES.items():
        message = engine.missing(name, find=lambda package: None)
        assert repr(traits.package) in message
        assert "pip install" in message


def test_missing_is_silent_when_the_package_is_found_and_imports_nothing():
    before = set(sys.modules)
    assert engine.missing("transformers") is None
    assert "vllm" not in set(sys.modules) - before


def test_open_engine_refuses_a_missing_package_instead_of_taking_another(monkeypatch, tiny):
    hide = type("Hide", (), {"find_spec": staticmethod(lambda name, path=None, target=None: None)})
    monkeypatch.setattr(sys, "meta_path", [hide])
    monkeypatch.delitem(sys.modules, "vllm", raising=False)
    with pytest.raises(UserError, match="engine=vllm needs the package 'vllm'"):
        engine.open_engine(EngineConfig("vllm"), tiny)


def test_a_misspelt_engine_argument_names_the_nearest():
    pytest.importorskip("vllm")
    with pytest.raises(UserError, match=r"engine\.args\.max_modl_len.*max_model_len"):
        schema.build(EngineConfig, {"args": {"max_modl_len": 64}}, "engine")


@pytest.mark.parametrize("name", ["vllm", "transformers", "openai"])
def test_code_from_a_repository_is_refused(name):
    with pytest.raises(UserError, match="never run"):
        schema.build(EngineConfig, {"name": name, "args": {"trust_remote_code": True}}, "engine")


def test_speed_arguments_leave_the_fingerprint_alone():
    plain = schema.hashed(EngineConfig(args={"max_model_len": 64}))
    assert (
        schema.hashed(
            EngineConfig(
                args={"max_model_len": 64, "tensor_parallel_size": 8},
                concurrency=2,
                api_key_env="KEY",
            )
        )
        == plain
    )
    assert schema.hashed(EngineConfig(args={"max_model_len": 65})) != plain


def test_problems_of_an_openai_configuration_never_repeat_the_key():
    found = engine.problems(EngineConfig("openai", api_key_env="sk-secret", concurrency=0))
    assert [f.partition(":")[0] for f in found] == [
        "engine.base_url",
        "engine.api_key_env",
        "engine.concurrency",
    ]
    assert "sk-secret" not in " ".join(found)
