"""Adapters as files: their base wherever it is named from, and what vLLM serves of them, in a plan
and as vLLM itself says.
"""

import json

import pytest
from training_cases import TINY, write

from mlalign.core import adapters
from mlalign.core.errors import UserError
from mlalign.core.model import local_model
from mlalign.core.weight_files import base_of

GOOD = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"], "bias": "none"}
REFUSED = [
    {"use_dora": True},
    {"lora_bias": True},
    {"bias": "all"},
    {"modules_to_save": ["embed_tokens"]},
    {"init_lora_weights": "pissa_niter_8"},
    {"init_lora_weights": "olora"},
    {"r": 1024},
    {"rank_pattern": {"q_proj": 600}},
    {"layer_replication": [[0, 2]]},
    {"alora_invocation_tokens": [1]},
    {"use_qalora": True},
]
OURS = [
    {"trainable_token_indices": [1]},
    {"target_parameters": ["mlp.weight"]},
    {"peft_type": "IA3"},
]
SERVED = [
    {},
    {"init_lora_weights": "gaussian"},
    {"modules_to_save": ["score"]},
    {"use_rslora": True},
    {"r": 512},
]


def adapter(folder, base, **more):
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(
        json.dumps({**GOOD, "base_model_name_or_path": base, **more})
    )
    return folder


def test_a_base_is_named_from_the_adapter_from_the_working_directory_or_by_a_hub_id(
    tmp_path, monkeypatch
):
    (tmp_path / "models" / "base").mkdir(parents=True)
    beside = adapter(tmp_path / "models" / "beside", "../base")
    monkeypatch.chdir(tmp_path)
    from_here = adapter(tmp_path / "elsewhere" / "adapter", "models/base")
    assert (
        base_of(str(beside))
        == base_of(str(from_here))
        == str((tmp_path / "models" / "base").resolve())
    )
    hub = adapter(tmp_path / "hub", "org/name")
    assert base_of(str(hub)) == "org/name" and local_model(hub, "x").base.path == "org/name"


@pytest.mark.parametrize(
    "base", [None, "", [], ["a"], {"a": 1}, "./gone", "/nowhere/model", "a/b/c"]
)
def test_an_adapter_without_a_base_is_named_with_its_file(base, tmp_path):
    folder = adapter(tmp_path / "adapter", base)
    with pytest.raises(
        UserError, match=r"adapter_config.json: base_model_name_or_path .*write the directory"
    ):
        local_model(folder, "x")


@pytest.mark.parametrize("text", ["[]", "null", "{", "3"])
def test_a_configuration_that_is_no_mapping_is_named(text, tmp_path):
    folder = adapter(tmp_path / "adapter", "org/name")
    (folder / "adapter_config.json").write_text(text)
    with pytest.raises(UserError, match=r"adapter_config.json: .*fetch it again or mend it"):
        local_model(folder, "x")


@pytest.mark.parametrize("settings", [*REFUSED, *OURS])
def test_what_vllm_refuses_is_known_without_it(settings):
    found = adapters.refused_by_vllm({**GOOD, **settings})
    assert len(found) == 1 and next(iter(settings)).replace("rank_pattern", "r") in found[0]


@pytest.mark.parametrize("settings", SERVED)
def test_what_vllm_serves_is_not_refused(settings):
    assert adapters.refused_by_vllm({**GOOD, **settings}) == []


@pytest.mark.long
@pytest.mark.parametrize(
    ("settings", "legal"), [*((s, False) for s in REFUSED), *((s, True) for s in SERVED)]
)
def test_vllm_agrees(settings, legal):
    pytest.importorskip("vllm")
    from vllm.config.lora import LoRAConfig
    from vllm.lora.peft_helper import PEFTHelper

    helper = PEFTHelper.from_dict({**GOOD, **settings})
    limits = LoRAConfig(max_lora_rank=adapters.RANKS[-1])
    if legal:
        helper.validate_legal(limits)
    else:
        with pytest.raises(ValueError):  # its words are vLLM's own
            helper.validate_legal(limits)


def recipe(tmp_path, answers: str) -> None:
    """A recipe that trains an adapter and generates with it."""
    rows = {
        kind: str(write(tmp_path / "rows" / kind, kind)) for kind in ("demonstration", "prompt")
    }
    (tmp_path / "recipe").mkdir(exist_ok=True)
    (tmp_path / "recipe" / "own.yaml").write_text(f"""
params: {{peft: null, engine: vllm}}
steps:
  base:
    stage: sft
    inputs: {{model: {{path: "{TINY}"}}, rows: {{path: "{rows["demonstration"]}"}}}}
    config: {{peft: "${{params.peft}}", batch_size: 8}}
  answers:
    stage: generate
    inputs: {{model: {answers}, rows: {{path: "{rows["prompt"]}"}}}}
    config: {{engine: {{name: "${{params.engine}}"}}}}
""")


def planned(mlalign, *arguments):
    return mlalign("plan", "recipe=own", "conf_dir=.", "model=tiny", *arguments)


@pytest.mark.parametrize(
    "peft", ["{r: 8, use_dora: true}", "{r: 600}", "{r: 8, modules_to_save: [embed_tokens]}"]
)
@pytest.mark.slow
def test_a_plan_refuses_to_train_an_adapter_that_vllm_could_not_serve(peft, mlalign, tmp_path):
    recipe(tmp_path, "base")
    told = planned(mlalign, f"params.peft={peft}")
    assert told.returncode == 1
    assert (
        "steps.answers.inputs.model: vLLM serves no adapter with" in told.stderr
        and "steps.base.config.peft" in told.stderr
    )
    assert planned(mlalign, f"params.peft={peft}", "params.engine=transformers").returncode == 0
    assert planned(mlalign, "params.peft={r: 8}").returncode == 0


def test_a_plan_looks_into_adapters_from_outside(mlalign, tmp_path):
    folder = adapter(tmp_path / "adapter", str(TINY), use_dora=True)
    (folder / "tokenizer.json").write_bytes((TINY / "tokenizer.json").read_bytes())
    recipe(tmp_path, f'{{path: "{folder}"}}')
    told = planned(mlalign)
    assert (
        told.returncode == 1 and f"use_dora: true ({folder / 'adapter_config.json'})" in told.stderr
    )
