"""The bytes that autograd keeps, as it says itself, are those that are counted."""

import contextlib

import pytest

from mlalign.planner import activations, architecture
from mlalign.planner.activations import Batch, Trained

torch = pytest.importorskip("torch")

SHAPE = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 192,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "num_labels": 1,
}
ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
FLOAT32, BFLOAT16, MIXED = ("float32", False), ("bfloat16", True), ("float32", True)


def kept_by_autograd(family, values, batch, dtype, autocast, targets):
    """Bytes of all floating-point tensors that a forward pass of a classifier saves, parameters
    apart, each storage once.
    """
    from transformers import AutoConfig, AutoModelForSequenceClassification

    config = AutoConfig.for_model(family, **SHAPE, **values)
    network = AutoModelForSequenceClassification.from_config(
        config, dtype=getattr(torch, dtype), attn_implementation="sdpa"
    ).train()
    if targets:
        from peft import LoraConfig, get_peft_model

        network = get_peft_model(
            network, LoraConfig(r=4, target_modules=list(targets), task_type="SEQ_CLS")
        )
    own, found = {p.untyped_storage().data_ptr() for p in network.parameters()}, {}

    def keep(tensor):
        place = tensor.untyped_storage().data_ptr()
        if tensor.is_floating_point() and place not in own:
            found[place] = tensor  # held, so that no later tensor has its address
        return tensor

    ids = torch.randint(1, 500, (batch.sequences, batch.length))
    mask = torch.ones_like(ids)
    mask[0, batch.length - 5 :] = 0 if batch.masked else 1
    mixed = torch.autocast("cpu", dtype=torch.bfloat16) if autocast else contextlib.nullcontext()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t), mixed:
        network(input_ids=ids, attention_mask=mask, use_cache=False)
    return sum(t.untyped_storage().nbytes() for t in found.values())


@pytest.mark.parametrize(
    ("family", "values", "masked", "numbers", "targets"),
    [
        ("llama", {}, True, FLOAT32, ()), ("llama", {}, False, FLOAT32, ()), ("llama", {}, True, BFLOAT16, ()), ("llama", {}, True, MIXED, ()),
        ("qwen3", {}, True, FLOAT32, ()), ("qwen3", {}, False, BFLOAT16, ()), ("qwen3", {}, True, MIXED, ()), ("qwen2", {}, True, FLOAT32, ()),
        ("gemma2", {}, True, FLOAT32, ()), ("gemma3_text", {"sliding_window": 16}, False, FLOAT32, ()), ("gemma3_text", {}, True, BFLOAT16, ()), ("gemma2", {}, True, MIXED, ()),
        ("mixtral", {"num_local_experts": 4}, True, FLOAT32, ()),
        ("qwen3_moe", {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48}, False, FLOAT32, ()),
        ("llama", {}, True, FLOAT32, ALL), ("llama", {}, True, BFLOAT16, ALL), ("llama", {}, False, BFLOAT16, ("q_proj", "v_proj")),
    ],
)  # fmt: skip
@pytest.mark.slow
def test_what_autograd_keeps_is_what_is_counted(family, values, masked, numbers, targets):
    dtype, autocast = numbers
    batch, counted = (
        Batch(5, 40, masked),
        architecture.from_config({"model_type": family, **SHAPE, **values}),
    )
    p = activations.precision(4 if dtype == "float32" else 2, autocast)
    told = activations.of_model(counted, batch, p, Trained(4 if targets else 0, frozenset(targets)))
    head = (
        batch.tokens * counted.hidden_size * p.compute
    )  # the last norm's output, which the head reads
    measured = kept_by_autograd(family, values, batch, dtype, autocast, targets)
    assert told.total() + head == pytest.approx(measured, rel=0.005)


def test_a_layer_by_hand():
    """Llama, T = 10 tokens in two sequences of 5, float32: sizes 8 (hidden), 8 (queries), 4 (keys),
    12 (MLP), 2 heads.
    """
    llama = architecture.from_config(
        {
            "model_type": "llama",
            "vocab_size": 9,
            "hidden_size": 8,
            "intermediate_size": 12,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "max_position_embeddings": 16,
        }
    )
    found = activations.of_layer(
        llama, Batch(2, 5), activations.precision(4, False), Trained(), sliding=False, sparse=False
    )
    norms = 2 * (320 + 40 + 320)  # twice: row, 1/rms, normed row
    attention = (
        4 * 320 + 80 + 200 + 320
    )  # q, k, v repeated, output; log-sums; mask; the input of q, k, v
    mlp = 4 * 480 + 320  # gate, its activation, the other factor, the product; the input
    assert found == {
        "norms": norms,
        "attention": attention,
        "mlp": mlp,
        "adapters": 0,
        "weights in bfloat16": 0,
    }
