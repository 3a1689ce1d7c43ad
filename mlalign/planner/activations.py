"""What autograd keeps of a forward pass until the backward pass, tensor by tensor.

The accounting follows Korthikanti et al. 2022 ("Reducing Activation Recomputation in Large
Transformer Models", section 4.1), redone for transformers' decoders: RMSNorm, gated MLPs, rotary
positions, grouped queries and fused attention, which keeps no S x S scores (Dao et al. 2022). A
test asks autograd itself (`saved_tensors_hooks`) and expects the same bytes.

Sizes are in bytes. T = sequences x length is the number of tokens on a device at a time, padding
included.
"""

from collections import Counter
from typing import NamedTuple

from mlalign.planner.architecture import Architecture


class Precision(NamedTuple):
    """Bytes of a stored weight, of a number in a product (`compute`), and of the residual stream.

    Plain float32: 4, 4, 4. bfloat16 weights: 2, 2, 2. float32 weights under autocast: 4, 2, 4; then
    every linear layer casts its input to a copy of its own, and the cast weights are kept too.
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
    """Sequences on a device at a time.

    `masked`: they differ in length, so attention gets a mask.
    """

    sequences: int
    length: int
    masked: bool = True

    @property
    def tokens(self) -> int:
        return self.sequences * self.length


class Trained(NamedTuple):
    """What is trained: all weights, or LoRA matrices of `rank` on `targets`.

    `lora_bytes`: bytes of a number in those matrices.
    """

    rank: int = 0
    targets: frozenset[str] = frozenset()
    lora_bytes: int = 4

    @property
    def full(self) -> bool:
        return self.rank == 0


def of_layer(
    a: Architecture,
    batch: Batch,
    p: Precision,
    trained: Trained,
    *,
    sliding: bool,
    sparse: bool,
) -> Counter[str]:
    """What one layer keeps."""
    t = batch.tokens
    kept = Counter[str]()
    kept["norms"] = 2 * _norm(a, t, a.hidden_size, 1, p.stream, trained.full)
    if a.traits.norms_per_layer == 4:
        given = p.compute if p.casts else p.stream
        kept["norms"] += 2 * _norm(a, t, a.hidden_size, 1, given, trained.full)

    kept["attention"] = _attention(a, batch, p, trained, sliding)
    kept["attention"] += _inputs(a, t, p, trained, ("q_proj", "k_proj", "v_proj"))
    if sparse:
        kept["mlp"] = _experts(a, t, p) + t * a.hidden_size * p.compute
    else:
        kept["mlp"] = _mlp(a, t, p, trained) + _inputs(a, t, p, trained, ("gate_proj", "up_proj"))

    n_adapters = len(trained.targets & a.adaptable().keys())
    kept["adapters"] = n_adapters * t * trained.rank * p.compute
    kept["weights in bfloat16"] = _cast_weights(a, p, trained, sparse)
    return kept


def _cast_weights(a: Architecture, p: Precision, trained: Trained, sparse: bool) -> int:
    """The copies that autocast makes of float32 weights: of all matrices, or of the adapters'."""
    if not trained.full:
        return 2 * a.lora_of_layer(trained.rank, trained.targets) if _copies(p, trained) else 0
    if not p.casts:
        return 0
    mlp = a.sparse_mlp(a.n_experts) if sparse else a.dense_mlp()
    return 2 * (a.attention_parameters() + mlp)


def _norm(a: Architecture, t: int, size: int, groups: int, given: int, trained: bool) -> int:
    """RMSNorm of T rows of `size` numbers, each of `given` bytes.

    Kept are the row in float32, 1/rms of each group, and the normed row where its weight is
    trained.
    """
    normed = 4 if a.traits.norm_in_float32 else given
    return 4 * t * size + 4 * t * groups + (normed * t * size if trained else 0)


def _inputs(
    a: Architecture,
    t: int,
    p: Precision,
    trained: Trained,
    names: tuple[str, ...],
) -> int:
    """The shared input of linear layers, or the cast copy of each; frozen layers keep none."""
    size = a.linears()[names[0]][0]
    if trained.full:
        n_copies = len(names) if p.casts else 1
    else:
        n_adapted = len(trained.targets & a.adaptable().keys() & set(names))
        n_copies = n_adapted if _copies(p, trained) else min(n_adapted, 1)
    return t * size * p.compute * n_copies


def _copies(p: Precision, trained: Trained) -> bool:
    """Whether peft casts each adapter's input: if its dtype is not that of the products."""
    return trained.lora_bytes != p.compute


def _attention(a: Architecture, batch: Batch, p: Precision, trained: Trained, sliding: bool) -> int:
    """Rotated queries, keys and values, the output, each softmax's log-sum, and the mask as
    numbers.

    With a mask, keys and values are repeated for grouped queries.
    """
    t = batch.tokens
    masked = batch.masked or (sliding and batch.length >= (a.window or 0))
    kv_size = a.q_size if masked else a.kv_size
    kept = t * (2 * a.q_size + 2 * kv_size) * p.compute + 4 * t * a.n_heads
    if masked:
        kept += batch.sequences * batch.length**2 * p.compute
    if a.traits.qk_norm:
        kept += _norm(a, t, a.q_size, a.n_heads, p.compute, trained.full)
        kept += _norm(a, t, a.kv_size, a.n_kv_heads, p.compute, trained.full)
    if not trained.full and "o_proj" in trained.targets and _copies(p, trained):
        kept += t * a.q_size * p.compute
    return kept


def _mlp(a: Architecture, t: int, p: Precision, trained: Trained) -> int:
    """The gate before and after its activation, the other factor, and their product where it is
    needed.

    The product is the input of the last matrix.
    """
    keeps_product = trained.full or "down_proj" in trained.targets
    return t * a.intermediate_size * p.compute * (4 if keeps_product else 3)


def _experts(a: Architecture, t: int, p: Precision) -> int:
    """For each token and expert: input, gate, other factor, activation, product and output.

    The router's softmax comes on top.
    """
    each = 4 * a.expert_size + 2 * a.hidden_size
    return t * a.experts_per_token * each * p.compute + 4 * t * a.n_experts


def of_model(a: Architecture, batch: Batch, p: Precision, trained: Trained) -> Counter[str]:
    """What all layers and the last norm keep, and the rotary angles."""
    kept = Counter[str]()
    for sliding, sparse, n in _kinds(a):
        layer = of_layer(a, batch, p, trained, sliding=sliding, sparse=sparse)
        for name, size in layer.items():
            kept[name] += n * size
    kept["norms"] += _norm(a, batch.tokens, a.hidden_size, 1, p.stream, trained.full)
    if not trained.full:
        # Nothing is trained below the first adapter, so the first norm keeps nothing.
        kept["norms"] -= 4 * batch.tokens * (a.hidden_size + 1)
    kept["attention"] += 2 * batch.length * a.head_dim * p.stream
    return kept


def checkpointed(a: Architecture, batch: Batch, p: Precision) -> int:
    """With gradient checkpointing a layer keeps only its input (Chen et al. 2016).

    Layers share masks.
    """
    mask = batch.sequences * batch.length**2 if batch.masked or a.n_sliding else 0
    return a.n_layers * batch.tokens * a.hidden_size * p.stream + mask


def largest_layer(a: Architecture, batch: Batch, p: Precision, trained: Trained) -> Counter[str]:
    """What the layer that keeps most keeps."""
    layers = []
    for sliding, sparse, n in _kinds(a):
        if n:
            layers.append(of_layer(a, batch, p, trained, sliding=sliding, sparse=sparse))
    return max(layers, key=Counter.total)


def _kinds(a: Architecture) -> list[tuple[bool, bool, int]]:
    """(sliding, sparse, number of such layers); how the two kinds coincide changes no size."""
    if a.n_sparse in (0, a.n_layers):
        sparse = bool(a.n_sparse)
        return [(True, sparse, a.n_sliding), (False, sparse, a.n_layers - a.n_sliding)]
    sliding = bool(a.n_sliding)
    return [(sliding, True, a.n_sparse), (sliding, False, a.n_layers - a.n_sparse)]
