"""Keys and values, and what vLLM can hold of them, by hand."""

import pytest
from planner_cases import GEMMA3_4B, LLAMA3_8B, QWEN3_8B

from mlalign.planner import architecture, mends, serving
from mlalign.planner.serving import Engine

LLAMA = architecture.from_config(LLAMA3_8B)
GIB = 2**30


def test_keys_and_values_of_a_token():
    """Llama 3 8B in 16 bits: 2 x 32 layers x 8 heads x 128 x 2 bytes."""
    assert serving.kv_per_token(LLAMA, 2) == 131_072
    assert serving.kv_per_token(architecture.from_config(QWEN3_8B), 2) == 147_456
    assert serving.kv_of_sequence(LLAMA, 8192, 2) == GIB


def test_sliding_layers_keep_their_window():
    """Gemma 3 4B: 5 of 34 layers see everything, 29 the last 1,024 tokens; 2 x 4 heads x 256 x 2
    bytes for each.
    """
    gemma = architecture.from_config(GEMMA3_4B)
    assert serving.kv_of_sequence(gemma, 8192, 2) == 4096 * (5 * 8192 + 29 * 1024)
    assert serving.kv_of_sequence(gemma, 100, 2) == 4096 * 34 * 100


def engine(**values):
    return Engine(
        **{
            "utilization": 0.9,
            "max_model_len": 8192,
            "batched_tokens": 8192,
            "sequences": 256,
            "devices": 1,
            "size": 2,
            **values,
        }
    )


def test_what_fits_beside_the_weights():
    """0.9 x 24 GiB = 23.19 GB; 16.06 GB weights; trial run: 8192 tokens x (2 x 4096 + 3 x 14336) x
    2 bytes = 0.84 GB; 1.07 GB a sequence.
    """
    told = engine()
    assert told.fixed(LLAMA) == {
        "weights": 16_060_522_496,
        "activations": 8192 * (8192 + 43008) * 2,
    }
    assert told.room(LLAMA, 24 * GIB) == int(0.9 * 24 * GIB) - 16_060_522_496 - 838_860_800
    assert told.concurrent(LLAMA, 24 * GIB) == 5


def test_tensor_parallel_shares_weights_and_heads():
    two = engine(devices=2)
    assert two.fixed(LLAMA)["weights"] == 8_030_261_248
    assert two.sequence(LLAMA) == GIB // 2
    assert (
        engine(devices=16).sequence(LLAMA) == GIB // 8
    )  # eight heads of keys and values: above that they are repeated


@pytest.mark.parametrize(
    ("values", "memory", "mend"),
    [
        ({"utilization": 0.8}, 20, {"engine.args.gpu_memory_utilization": 0.9}),
        ({}, 16, {"engine.args.tensor_parallel_size": 2}),
        ({"devices": 8, "max_model_len": 131072}, 4, {"engine.args.max_model_len": 32768}),
        ({"devices": 8}, 1, None),
    ],
)
def test_the_smallest_change_of_vllm(values, memory, mend):
    told = engine(**values)
    assert told.concurrent(LLAMA, memory * GIB) <= 0
    assert (
        mends.first(
            mends.of_vllm(LLAMA, told),
            lambda keys: mends.engine_with(told, keys).concurrent(LLAMA, memory * GIB) > 0,
        )
        == mend
    )
