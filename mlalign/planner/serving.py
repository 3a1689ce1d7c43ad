"""Memory of a model that generates or scores: weights, keys and values, widest activations."""

from collections import Counter
from typing import NamedTuple

from mlalign.planner.architecture import Architecture


def kv_per_token(a: Architecture, size: int) -> int:
    """Keys and values of one token in all layers (Pope et al. 2022, section 3.3)."""
    return 2 * a.n_layers * a.kv_size * size


def kv_of_sequence(a: Architecture, length: int, size: int) -> int:
    """Keys and values of a sequence; sliding layers keep only their window."""
    n_full = a.n_layers - a.n_sliding
    tokens = n_full * length + a.n_sliding * min(length, a.window or length)
    return 2 * a.kv_size * size * tokens


def forward(a: Architecture, tokens: int, size: int, logits: int = 0, devices: int = 1) -> int:
    """The widest moment of a forward pass that keeps nothing, in bytes.

    Either a layer: two residual streams, gate, factor and product of the MLP, each token's experts
    one by one. Or the end: the stream and `logits` rows of logits in float32.
    """
    all_sparse = a.n_sparse and a.n_sparse == a.n_layers
    inner = a.experts_per_token * a.expert_size if all_sparse else a.intermediate_size
    layer = tokens * (2 * a.hidden_size + 3 * inner // devices) * size
    end = 4 * logits * a.vocab_size + tokens * a.hidden_size * size
    return max(layer, end)


class Engine(NamedTuple):
    """How vLLM is started.

    It takes `utilization` of the device, and fills what weights and its trial run leave with keys
    and values.
    """

    utilization: float
    max_model_len: int
    batched_tokens: int
    sequences: int
    devices: int  # that share the weights: tensor_parallel_size x pipeline_parallel_size
    size: int  # bytes of a number

    def fixed(self, a: Architecture) -> Counter[str]:
        """Weights of one device, and the trial run in which vLLM measures its own peak."""
        logits = min(self.sequences, self.batched_tokens)
        return Counter(
            weights=a.parameters() * self.size // self.devices,
            activations=forward(a, self.batched_tokens, self.size, logits, self.devices),
        )

    def sequence(self, a: Architecture) -> int:
        """Keys and values of the longest sequence, on one device; heads are repeated if too few."""
        shared = min(self.devices, a.n_kv_heads)
        return kv_of_sequence(a, self.max_model_len, self.size) // shared

    def room(self, a: Architecture, memory: int) -> int:
        """Bytes that are left for keys and values."""
        return int(memory * self.utilization) - self.fixed(a).total()

    def concurrent(self, a: Architecture, memory: int) -> int:
        """How many sequences of the full length fit at once; 0 or less: vLLM will not start."""
        return self.room(a, memory) // self.sequence(a)
