"""Parameters counted from config.json are those of transformers' own models; cache and adapters by
hand.
"""

import json

import pytest
from planner_cases import GEMMA3_4B, LLAMA3_8B

from mlalign.planner import architecture

SMALL = {
    "vocab_size": 1000,
    "hidden_size": 64,
    "intermediate_size": 176,
    "num_hidden_layers": 7,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
CASES = [
    ("llama", {}),
    (
        "llama",
        {"attention_bias": True, "mlp_bias": True, "head_dim": 24, "tie_word_embeddings": True},
    ),
    ("mistral", {}),
    ("qwen2", {"tie_word_embeddings": True}),
    ("qwen2", {"tie_word_embeddings": False, "use_sliding_window": True, "max_window_layers": 3}),
    ("qwen3", {"head_dim": 32}),
    ("qwen3", {"head_dim": 32, "tie_word_embeddings": True, "attention_bias": True}),
    ("gemma2", {"head_dim": 32}),
    ("gemma3_text", {"head_dim": 32}),
    ("mixtral", {"num_local_experts": 4}),
    (
        "qwen3_moe",
        {"num_experts": 6, "moe_intermediate_size": 40, "decoder_sparse_step": 2, "head_dim": 16},
    ),
    (
        "qwen3_moe",
        {"num_experts": 6, "moe_intermediate_size": 40, "mlp_only_layers": [0], "head_dim": 16},
    ),
]


def on_meta(config, task):
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    config.num_labels = 1
    kind = AutoModelForCausalLM if task == "causal" else AutoModelForSequenceClassification
    with torch.device("meta"):
        return kind.from_config(config)


@pytest.mark.parametrize("task", ["causal", "classifier"])
@pytest.mark.parametrize(
    ("family", "values"),
    CASES,
    ids=lambda v: str(v) if isinstance(v, str) else "-".join(v) or "plain",
)
def test_parameters_are_those_of_transformers(family, values, task):
    from transformers import AutoConfig

    config = AutoConfig.for_model(family, **SMALL, **values)
    counted = architecture.from_config(json.loads(config.to_json_string()))
    assert counted.parameters(task) == sum(p.numel() for p in on_meta(config, task).parameters())


def test_sliding_layers_are_those_of_transformers():
    from transformers import AutoConfig

    for family, values in CASES:
        config = AutoConfig.for_model(family, **SMALL, **values)
        told = {k: v for k, v in json.loads(config.to_json_string()).items() if k != "layer_types"}
        expected = (getattr(config, "layer_types", None) or []).count("sliding_attention")
        if family not in ("mistral", "mixtral"):  # there every layer slides where there is a window
            assert architecture.from_config(told).n_sliding == expected, family


def test_what_a_config_leaves_out_is_the_default_of_its_class():
    """The text part of google/gemma-3-4b-it's config.json names no heads, no vocabulary and no tie."""
    gemma = architecture.from_config(GEMMA3_4B)
    assert (gemma.vocab_size, gemma.n_heads, gemma.n_kv_heads, gemma.head_dim, gemma.tied) == (
        262208,
        8,
        4,
        256,
        True,
    )
    assert (
        gemma.parameters() == 3_880_263_168
    )  # 3.88 B: the 4.3 B of the whole model without its vision tower
    assert (gemma.window, gemma.n_sliding) == (1024, 29)


def test_a_published_model():
    llama = architecture.from_config(LLAMA3_8B)
    assert llama.parameters() == 8_030_261_248  # as on the model's page
    assert llama.dtype == "bfloat16"
    # rank 16 on all seven matrices: 32 layers * 16 * (8192 + 5120 + 5120 + 8192 + 3 * 18432)
    assert llama.lora_parameters(16, frozenset(llama.linears())) == 41_943_040


def test_experts_count_wholly_in_memory_and_by_token_in_work():
    """Mixtral 8x7B: 46.7 B parameters, 12.9 B of them see a token."""
    told = {
        "model_type": "mixtral",
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
    }
    mixtral = architecture.from_config(told)
    assert mixtral.parameters() == 46_702_792_704
    assert round((mixtral.matmul_parameters() + mixtral.embedding) / 1e9, 1) == 12.9


def test_an_unknown_family_is_none():
    assert architecture.from_config({"model_type": "mamba"}) is None
