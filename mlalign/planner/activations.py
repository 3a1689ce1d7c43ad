"""What autograd keeps of a forward pass until the backward pass, tensor by tensor, as transformers' decoders compute it.

The accounting is that of Korthikanti et al. 2022 ("Reducing Activation Recomputation in Large Transformer Models", section 4.1), done
anew for RMSNorm, gated MLPs, rotary positions, grouped queries and fused attention, in which no S x S scores are kept (Dao et al. 2022).
A test asks autograd itself (`saved_tensors_hooks`) and wants the same bytes.

Sizes are in bytes. T = sequences x length is the number of tokens that a device has at a time, padding included.
"""

from collections import Counter
from typing import NamedTuple

from mlalign.planner.architecture import Architecture


class Precision(NamedTuple):
    """Bytes of a weight as it is held, of a number in a matrix product (`compute`), and of the residual stream.

    Plain float32: 4, 4, 4. bfloat16 weights: 2, 2, 2. float32 weights under autocast: 4, 2, 4; then every linear layer casts its own
    copy of its input, and the cast weights are kept too.
    """

    weight: int
    compute: int
    stream: int

    @property
    def casts(self) -> bool:
        return self.stream > self.compute


def precision(weight_bytes: int, autocast: bool) -> Precision:
    compute = 2 if autocast else weight_bytes
    return Precision(weight_bytes, compute, weight_bytes)


class Batch(NamedTuple):
    """Sequences on a device at a time. `masked`: they differ in length, so attention gets a mask."""

    sequences: int
    length: int
    masked: bool = True

    @property
    def tokens(self) -> int:
        return self.sequences * self.length


class Trained(NamedTuple):
    """Which weights are trained: all, or LoRA matrices of `rank` on `targets`, whose dtype has `lora_bytes`."""

    rank: int = 0
    targets: frozenset[str] = frozenset()
    lora_bytes: int = 4

    @property
    def full(self) -> bool:
        return self.rank == 0


def of_layer(a: Architecture, batch: Batch, p: Precision, trained: Trained, *, sliding: bool, sparse: bool) -> Counter[str]:
    """What one layer keeps."""
    t, found = batch.tokens, Counter[str]()
    found["norms"] = 2 * _norm(a, t, a.hidden_size, 1, p.stream, trained.full)
    if a.traits.norms_per_layer == 4:
        found["norms"] += 2 * _norm(a, t, a.hidden_size, 1, p.compute if p.casts else p.stream, trained.full)
    found["attention"] = _attention(a, batch, p, trained, sliding)
    found["attention"] += _inputs(a, t, p, trained, ("q_proj", "k_proj", "v_proj"))
    found["mlp"] = _experts(a, t, p) if sparse else _mlp(a, t, p, trained)
    found["mlp"] += t * a.hidden_size * p.compute if sparse else _inputs(a, t, p, trained, ("gate_proj", "up_proj"))
    found["adapters"] = sum(t * trained.rank * p.compute for name in trained.targets if name in a.adaptable())
    found["weights in bfloat16"] = _cast_weights(a, p, trained, sparse)
    return found


def _cast_weights(a: Architecture, p: Precision, trained: Trained, sparse: bool) -> int:
    """What autocast makes of float32 weights: of all matrices, or of the adapters'."""
    if trained.full:
        return 2 * (a.attention_parameters() + (a.sparse_mlp(a.n_experts) if sparse else a.dense_mlp())) if p.casts else 0
    cast = _copies(p, trained)
    return 2 * trained.rank * sum(i + o for name, (i, o) in a.adaptable().items() if name in trained.targets) if cast else 0


def _norm(a: Architecture, t: int, size: int, groups: int, given: int, trained: bool) -> int:
    """RMSNorm of T rows of `size` numbers: the row in float32, 1/rms of each group, and, where its weight is trained, the normed row."""
    normed = 4 if a.traits.norm_in_float32 else given
    return 4 * t * size + 4 * t * groups + (normed * t * size if trained else 0)


def _inputs(a: Architecture, t: int, p: Precision, trained: Trained, names: tuple[str, ...]) -> int:
    """The input that several linear layers share: one tensor, or a cast copy for each of them; frozen layers need none."""
    size = a.linears()[names[0]][0]
    if trained.full:
        return t * size * p.compute * (len(names) if p.casts else 1)
    adapted = len([n for n in names if n in trained.targets and n in a.adaptable()])
    return t * size * p.compute * (adapted if _copies(p, trained) else min(adapted, 1))


def _copies(p: Precision, trained: Trained) -> bool:
    """Whether peft casts the input of each adapter: it does where the adapter has another dtype than the products."""
    return trained.lora_bytes != p.compute


def _attention(a: Architecture, batch: Batch, p: Precision, trained: Trained, sliding: bool) -> int:
    """Queries, keys and values after rotation, the output, the log of each softmax's sum, and the mask as numbers.

    Keys and values are repeated for grouped queries where there is a mask.
    """
    t, masked = batch.tokens, batch.masked or (sliding and batch.length >= (a.window or 0))
    kept = a.q_size + 2 * (a.q_size if masked else a.kv_size) + a.q_size
    found = t * kept * p.compute + 4 * t * a.n_heads
    if masked:
        found += batch.sequences * batch.length**2 * p.compute
    if a.traits.qk_norm:
        found += _norm(a, t, a.q_size, a.n_heads, p.compute, trained.full) + _norm(a, t, a.kv_size, a.n_kv_heads, p.compute, trained.full)
    if not trained.full and "o_proj" in trained.targets and _copies(p, trained):
        found += t * a.q_size * p.compute
    return found


def _mlp(a: Architecture, t: int, p: Precision, trained: Trained) -> int:
    """Gate before and after its activation function, the other factor, and their product (the input of the last matrix)."""
    product = trained.full or "down_proj" in trained.targets
    return t * a.intermediate_size * p.compute * (4 if product else 3)


def _experts(a: Architecture, t: int, p: Precision) -> int:
    """For each token and each of its experts: input, gate and other factor, activation, product, output; and the router's softmax."""
    each = 4 * a.expert_size + 2 * a.hidden_size
    return t * a.experts_per_token * each * p.compute + 4 * t * a.n_experts


def of_model(a: Architecture, batch: Batch, p: Precision, trained: Trained) -> Counter[str]:
    """What all layers and the last norm keep, and the rotary angles."""
    found = Counter[str]()
    for sliding, sparse, n in _kinds(a):
        for name, size in of_layer(a, batch, p, trained, sliding=sliding, sparse=sparse).items():
            found[name] += n * size
    found["norms"] += _norm(a, batch.tokens, a.hidden_size, 1, p.stream, trained.full)
    found["norms"] -= 0 if trained.full else _first_norm(batch.tokens, a)
    found["attention"] += 2 * batch.length * a.head_dim * p.stream
    return found


def _first_norm(t: int, a: Architecture) -> int:
    """Below the first adapter nothing is trained, so the first norm keeps nothing."""
    return 4 * t * (a.hidden_size + 1)


def checkpointed(a: Architecture, batch: Batch, p: Precision) -> int:
    """With gradient checkpointing a layer keeps its input alone (Chen et al. 2016); masks are shared by all layers."""
    mask = batch.sequences * batch.length**2 if batch.masked or a.n_sliding else 0
    return a.n_layers * batch.tokens * a.hidden_size * p.stream + mask


def largest_layer(a: Architecture, batch: Batch, p: Precision, trained: Trained) -> Counter[str]:
    """What the layer that keeps most keeps."""
    kinds = [of_layer(a, batch, p, trained, sliding=sliding, sparse=sparse) for sliding, sparse, n in _kinds(a) if n]
    return max(kinds, key=lambda found: found.total())


def _kinds(a: Architecture) -> list[tuple[bool, bool, int]]:
    """(sliding, sparse, how many layers are so); which of both a layer is does not matter, so the two are counted apart."""
    if a.n_sparse in (0, a.n_layers):
        sparse = bool(a.n_sparse)
        return [(True, sparse, a.n_sliding), (False, sparse, a.n_layers - a.n_sliding)]
    return [(bool(a.n_sliding), True, a.n_sparse), (bool(a.n_sliding), False, a.n_layers - a.n_sparse)]
