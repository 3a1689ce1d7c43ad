"""Memory of training by hand: model states as in ZeRO's table, adapters, quantised bases, tiles of
logits.
"""

import pytest
from planner_cases import LLAMA2_7B, LLAMA3_8B

from mlalign.planner import architecture, training
from mlalign.planner.activations import Batch, Trained
from mlalign.planner.training import Job, Zero

SEVEN = architecture.from_config(LLAMA2_7B)
N = 6_738_415_616  # parameters of Llama 2 7B
EIGHT = architecture.from_config(LLAMA3_8B)
JOB = Job(SEVEN, Batch(2, 128), weight_bytes=2, autocast=True)


@pytest.mark.parametrize(
    ("stage", "weights", "gradients", "optimizer"),
    [
        (0, 2 * N, 2 * N, 12 * N),
        (1, 2 * N, 2 * N, 12 * N // 8),
        (2, 2 * N, 2 * N // 8, 12 * N // 8),
        (3, 2 * N // 8, 2 * N // 8, 12 * N // 8),
    ],
)
def test_model_states_are_those_of_the_zero_paper(stage, weights, gradients, optimizer):
    """Rajbhandari et al. 2020, figure 1: (2 + 2 + 12) bytes a parameter; each part divided from its
    stage on.
    """
    found = training.states(JOB._replace(zero=Zero(stage), n_devices=8))
    assert found == {"weights": weights, "gradients": gradients, "optimizer": optimizer}


def test_without_deepspeed_there_is_no_copy_in_float32():
    assert training.states(JOB) == {"weights": 2 * N, "gradients": 2 * N, "optimizer": 4 * N}
    in_float32 = JOB._replace(weight_bytes=4, autocast=False)
    assert training.states(in_float32) == {"weights": 4 * N, "gradients": 4 * N, "optimizer": 8 * N}


def test_float32_weights_under_deepspeed_become_bfloat16():
    found = training.states(JOB._replace(weight_bytes=4, zero=Zero(0)))
    assert found == {"weights": 2 * N, "gradients": 2 * N, "optimizer": 12 * N}


def test_offloading_moves_the_optimizer_and_its_gradients_to_main_memory():
    job = JOB._replace(zero=Zero(3, offload_optimizer=True, offload_weights=True), n_devices=4)
    assert training.states(job).total() == 0
    assert training.on_host(job) == {
        "optimizer": 12 * N // 4,
        "gradients": 4 * N // 4,
        "weights": 2 * N // 4,
    }
    assert training.on_host(JOB).total() == 0


def test_an_adapter_has_gradients_and_moments_in_float32_on_a_frozen_base():
    """Rank 16 on all matrices of Llama 3 8B: 41,943,040 parameters."""
    adapter, base = 41_943_040, 8_030_261_248
    job = JOB._replace(architecture=EIGHT, trained=Trained(16, frozenset(EIGHT.linears())))
    assert training.states(job) == {
        "weights": 2 * base + 4 * adapter,
        "gradients": 4 * adapter,
        "optimizer": 8 * adapter,
    }


def test_a_quantised_base():
    """NF4: 4.127 bits for the matrices of the layers; embeddings, head and norms stay in bfloat16."""
    matrices = 32 * (4096 * 4096 * 2 + 4096 * 1024 * 2 + 3 * 4096 * 14336)
    rest = 8_030_261_248 - matrices
    job = JOB._replace(
        architecture=EIGHT, quantization="nf4", trained=Trained(16, frozenset({"q_proj"}), 2)
    )
    assert training.weights(job) == round(matrices * 4.127 / 8) + 2 * rest + 2 * 32 * 16 * 8192


def test_frozen_embeddings_and_a_classifiers_head():
    job = Job(SEVEN, Batch(2, 128), loss="classifier", freeze_embeddings=True)
    layers_and_norm_and_head = N - 2 * 32000 * 4096 + 4096
    assert job.n_trained == layers_and_norm_and_head
    assert training.weights(job) == 4 * (layers_and_norm_and_head + 32000 * 4096)


def test_logits_are_made_in_tiles():
    """2 x 127 scored tokens.

    On a GPU one tile of 32,768 columns in bfloat16; on the CPU in float32 it has the vocabulary's
    width, and seven tensors and a mask beside it.
    """
    assert training.moments(JOB)["loss"]["logits"] == 254 * 32768 * 2
    on_cpu = JOB._replace(weight_bytes=4, autocast=False, on_cpu=True)
    assert training.moments(on_cpu)["loss"]["logits"] == 254 * 32000 * (4 + 7 * 4 + 1)
    long = JOB._replace(batch=Batch(8, 4096))
    assert (
        training.moments(long)["loss"]["logits"] == 4096 * 32768 * 2
    )  # no more than 4,096 tokens at a time


def test_checkpointing_keeps_the_input_of_each_layer():
    job = JOB._replace(checkpointing=True)
    found = training.moments(job)["last layer's gradients"]
    assert (
        found["activations"] == 32 * 256 * 4096 * 2 + 2 * 128 * 128
    )  # inputs, and one mask for all layers
    assert (
        found["one layer computed anew"]
        < training.moments(JOB)["last layer's gradients"]["activations"] / 20
    )


def test_gradients_are_there_from_the_first_micro_batch_on():
    once, often = (
        training.moments(JOB._replace(accumulates=a))["loss"]["gradients"] for a in (False, True)
    )
    assert (once, often) == (0, 2 * N)


def test_a_reference_counts_before_training_or_during_it():
    before, during = (JOB._replace(reference=when) for when in ("before", "during"))
    assert training.moments(before)["log-probabilities of the reference"]["reference"] == 2 * N
    assert training.moments(before)["update"]["reference"] == 0
    assert (
        training.moments(during)["loss"]["reference"]
        == training.moments(during)["update"]["reference"]
        == 2 * N
    )


def test_buffers_of_deepspeed_and_ddp():
    zero2 = training.zero_of({"zero_optimization": {"stage": 2, "overlap_comm": True}})
    assert training.buffers(JOB._replace(zero=zero2)) == {
        "buckets of gradients": 2 * 2 * 500_000_000
    }
    zero3 = training.zero_of({"zero_optimization": {"stage": 3, "reduce_bucket_size": "auto"}})
    found = training.buffers(JOB._replace(zero=zero3))
    assert found == {"buckets of gradients": 2 * 2 * 4096**2, "gathered weights": 2 * 1_000_000_000}
    assert training.buffers(JOB._replace(n_devices=2)) == {"buckets of gradients": 2 * N}
    assert training.buffers(JOB).total() == 0


def test_the_update_under_deepspeed_makes_gradients_in_float32():
    job = JOB._replace(zero=Zero(2), n_devices=8)
    assert training.moments(job)["update"]["gradients in float32"] == 4 * N // 8
