"""Memory of a training step on each device, as named tensors, at the moments when it can peak.

Model states follow Rajbhandari et al. 2020 ("ZeRO", section 3.1 and table 1). With mixed precision,
DeepSpeed holds 2 bytes a parameter for weights, 2 for gradients, and 12 for Adam (weights, momentum
and variance in float32). The devices share the optimizer from stage 1, gradients from 2, and
weights from 3. Without DeepSpeed, PyTorch keeps weights in `dtype`, gradients and both of Adam's
moments in the dtype of what is trained, and no further copy. Activations:
`mlalign.planner.activations`. The loss: TRL's fused head, which goes through the vocabulary in
tiles and never holds all logits (`trl.kernels.chunked_logprob`).

Only the training's tensors are counted: not Python and its libraries, the CUDA context, or what the
allocator holds in reserve.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from mlalign.planner import activations
from mlalign.planner.activations import Batch, Precision, Trained
from mlalign.planner.architecture import Architecture

# TRL's tiles of logits: tokens by entries of the vocabulary.
TILE_TOKENS, TILE_VOCABULARY = 4096, 32768
# Optimizer state by name of transformers' `optim`, as a multiple of the size of what is trained.
OPTIMIZERS = {
    "adamw_torch_fused": 2.0,
    "adamw_torch": 2.0,
    "adamw_hf": 2.0,
    "sgd": 0.0,
    "adamw_8bit": 0.5,
    "adamw_bnb_8bit": 0.5,
    "paged_adamw_8bit": 0.5,
    "lion_32bit": 1.0,
    "lion_8bit": 0.25,
}
FULL = Trained()
# DeepSpeed's own defaults, in elements.
REDUCE_BUCKET, LIVE_PARAMETERS = 500_000_000, 1_000_000_000
# NF4 with double quantisation: 0.127 bits for the constants (Dettmers et al. 2023, section 3).
QUANTIZED_BITS = {"nf4": 4.127, "int8": 8.0}


class Zero(NamedTuple):
    """What of a DeepSpeed configuration decides memory; bucket sizes in elements, 0 for `auto`."""

    stage: int
    bucket: int = REDUCE_BUCKET
    overlap: bool = False
    offload_optimizer: bool = False
    offload_weights: bool = False
    live: int = LIVE_PARAMETERS


def zero_of(config: Mapping[str, Any] | None) -> Zero | None:
    """The part of a DeepSpeed configuration that decides memory, with DeepSpeed's defaults."""
    if config is None:
        return None
    zero = config.get("zero_optimization") or {}
    stage = int(zero.get("stage", 0))
    bucket = zero.get("reduce_bucket_size", REDUCE_BUCKET)
    live = zero.get("stage3_max_live_parameters", LIVE_PARAMETERS)
    return Zero(
        stage=stage,
        bucket=0 if bucket == "auto" else int(bucket),
        overlap=bool(zero.get("overlap_comm", stage == 3)),
        offload_optimizer=_offloads(zero, "offload_optimizer"),
        offload_weights=_offloads(zero, "offload_param"),
        live=LIVE_PARAMETERS if live == "auto" else int(live),
    )


def _offloads(zero: Mapping[str, Any], key: str) -> bool:
    return (zero.get(key) or {}).get("device", "none") != "none"


class Job(NamedTuple):
    """One training step on `n_devices`.

    `loss`: what it takes from the last hidden states. `reference`: whether another model is held
    beside the policy: in training, only before it (for log-probabilities that are computed once),
    or not at all. `other_bytes`: weights beyond the decoder, such as a vision tower.
    """

    architecture: Architecture
    batch: Batch
    loss: Literal["fused", "logits", "classifier"] = "fused"
    weight_bytes: int = 4
    autocast: bool = False
    trained: Trained = FULL
    freeze_embeddings: bool = False
    optimizer: str = "adamw_torch_fused"
    zero: Zero | None = None
    n_devices: int = 1
    checkpointing: bool = False
    accumulates: bool = False
    on_cpu: bool = False
    reference: Literal["none", "before", "during"] = "none"
    quantization: str | None = None
    other_bytes: int = 0

    @property
    def task(self) -> str:
        return "classifier" if self.loss == "classifier" else "causal"

    @property
    def precision(self) -> Precision:
        deepspeed = self.zero is not None and self.autocast
        return activations.precision(2 if deepspeed else self.weight_bytes, self.autocast)

    @property
    def n_trained(self) -> int:
        """Trained parameters; under LoRA a classifier's head is trained with the adapter."""
        a = self.architecture
        if not self.trained.full:
            head = a.hidden_size if self.loss == "classifier" else 0
            return a.lora_parameters(self.trained.rank, self.trained.targets) + head
        frozen = a.embedding if self.freeze_embeddings else 0
        return a.parameters(self.task) - frozen

    @property
    def trained_bytes(self) -> int:
        """The size of one trained parameter, of its gradient, and of each moment of Adam."""
        return self.precision.weight if self.trained.full else self.trained.lora_bytes

    @property
    def partitions_gradients(self) -> bool:
        """ZeRO-2 and 3 allocate the partition of gradients once and keep it."""
        return self.zero is not None and self.zero.stage >= 2


def weights(job: Job) -> int:
    """All weights of the model as they are held, whole."""
    a = job.architecture
    total = a.parameters(job.task)
    held = total * job.precision.weight
    if job.quantization:
        matrices = a.n_layers * sum(i * o for i, o in a.linears().values())
        quantized = round(matrices * QUANTIZED_BITS[job.quantization] / 8)
        held = quantized + (total - matrices) * job.precision.weight
    adapter = a.lora_parameters(job.trained.rank, job.trained.targets) * job.trained_bytes
    return held + adapter + job.other_bytes


def states(job: Job) -> Counter[str]:
    """Weights, gradients and optimizer on one device."""
    n, zero, size = job.n_trained, job.zero, job.trained_bytes
    if zero is None:
        optimizer = round(n * size * OPTIMIZERS[job.optimizer])
        return Counter(weights=weights(job), gradients=n * size, optimizer=optimizer)

    shards = [job.n_devices if zero.stage >= first else 1 for first in (1, 2, 3)]
    kept = Counter(
        weights=weights(job) // shards[2],
        gradients=n * job.precision.weight // shards[1],
        optimizer=12 * n // shards[0],
    )
    if zero.offload_weights:
        kept["weights"] = 0
    if zero.offload_optimizer:
        kept["optimizer"] = 0
        if zero.stage >= 2:
            kept["gradients"] = 0
    return kept


def on_host(job: Job) -> Counter[str]:
    """What one process offloads to main memory; gradients are in float32 there."""
    zero = job.zero
    kept = Counter[str]()
    if zero is not None and zero.offload_optimizer:
        kept["optimizer"] = 12 * job.n_trained // job.n_devices
        kept["gradients"] = 4 * job.n_trained // job.n_devices
    if zero is not None and zero.offload_weights:
        kept["weights"] = weights(job) // job.n_devices
    return kept


def buffers(job: Job) -> Counter[str]:
    """What DeepSpeed or DistributedDataParallel holds for communication."""
    zero, size = job.zero, job.precision.weight
    kept = Counter[str]()
    if zero is None:
        if job.n_devices > 1:
            kept["buckets of gradients"] = job.n_trained * job.trained_bytes
        return kept
    if zero.stage:
        bucket = zero.bucket or job.architecture.hidden_size**2
        kept["buckets of gradients"] = bucket * size * (2 if zero.overlap else 1)
    if zero.stage == 3:
        kept["gathered weights"] = min(job.architecture.parameters(job.task), zero.live) * size
    return kept


def moments(job: Job) -> dict[str, Counter[str]]:
    """What is held at each moment that can be the peak: name of the moment -> tensor -> bytes."""
    state = states(job)
    held = state + buffers(job)
    forward = Counter(held)
    if not job.accumulates and not job.partitions_gradients:
        del forward["gradients"]
    reference = Counter[str]()
    if job.reference == "during":
        reference["reference"] = weights(job)
    forward += reference + _kept(job)

    by_moment = {
        "loss": forward + _loss(job),
        "last layer's gradients": forward + _last_layer(job),
        "end of the backward pass": held + _embedding_gradient(job) + reference,
        "update": held + _update(job) + reference,
    }
    if job.reference == "before":
        models = Counter(weights=state["weights"], reference=weights(job))
        by_moment["log-probabilities of the reference"] = models + _forward_only(job)
    return by_moment


def peak(job: Job) -> tuple[str, Counter[str]]:
    """The highest moment, and what is held then."""
    return max(moments(job).items(), key=lambda item: item[1].total())


def _kept(job: Job) -> Counter[str]:
    a, batch, p = job.architecture, job.batch, job.precision
    if job.checkpointing:
        return Counter(activations=activations.checkpointed(a, batch, p))
    return Counter(activations=activations.of_model(a, batch, p, job.trained).total())


def _scored(job: Job) -> int:
    """Tokens whose logits are needed: all but the last of each sequence."""
    return job.batch.sequences * (job.batch.length - 1)


def _loss(job: Job) -> Counter[str]:
    """The backward pass of the loss: hidden states, logits, what is made of them, and gradients."""
    a, n, compute = job.architecture, _scored(job), job.precision.compute
    if job.loss == "classifier":
        return Counter({"hidden states": job.batch.tokens * a.hidden_size * compute})
    kept = Counter({"hidden states": n * a.hidden_size * compute})
    if job.loss == "logits":
        # Logits, their log-softmax, and the gradient of both.
        kept["logits"] = n * a.vocab_size * (compute + 4 + 4)
        return kept
    kept["gradients of hidden states"] = 4 * n * a.hidden_size
    kept["logits"] = _tile(job)
    if job.trained.full:
        cast = job.precision.weight if job.precision.weight < 4 else 0
        kept["gradients of the output matrix"] = a.embedding * (4 + cast)
    return kept


def _tile(job: Job) -> int:
    """One tile of logits in the backward pass.

    Without Triton (on the CPU) PyTorch makes the tile's gradient step by step. At the widest step
    there are besides the tile, in float32: scaled logits, those at temperature, log-probabilities,
    probabilities, gradient and two results; a final soft cap adds its tanh. And there is a mask of
    one byte.
    """
    n_copies = 8 if job.architecture.softcap else 7
    return _tile_with(job, n_copies * 4 + 1)


def _tile_with(job: Job, bytes_on_cpu: int) -> int:
    """One tile of logits, and on the CPU so many further bytes for each of them."""
    n, compute = min(_scored(job), TILE_TOKENS), job.precision.compute
    if not job.on_cpu:
        return n * TILE_VOCABULARY * compute
    return n * min(job.architecture.vocab_size, TILE_VOCABULARY) * (compute + bytes_on_cpu)


def _last_layer(job: Job) -> Counter[str]:
    """The backward pass of the last layer's MLP, after its product is gone.

    There are gradients of the product and its two factors, of the residual stream and the MLP's
    output, of the last matrix, and of the output matrix, which came first. With gradient
    checkpointing the layer has just been recomputed.
    """
    a, t, p = job.architecture, job.batch.tokens, job.precision
    inner = a.experts_per_token * a.expert_size if a.n_sparse else a.intermediate_size
    kept = Counter[str]()
    kept["gradients of activations"] = 2 * t * (inner * p.compute + a.hidden_size * p.stream)
    if job.trained.full and not job.partitions_gradients and not job.accumulates:
        head = 0 if job.loss == "classifier" else a.embedding
        last_matrix = a.hidden_size * a.intermediate_size
        kept["gradients so far"] = (head + last_matrix) * job.trained_bytes
    if job.checkpointing:
        layer = activations.largest_layer(a, job.batch, p, job.trained)
        kept["one layer computed anew"] = layer.total()
    return kept


def _embedding_gradient(job: Job) -> Counter[str]:
    """Tied embeddings briefly hold two gradients: the output's, and the input's to be added."""
    a = job.architecture
    if not (job.trained.full and a.tied) or job.loss == "classifier" or job.freeze_embeddings:
        return Counter()
    return Counter({"gradients of the embedding": a.embedding * job.trained_bytes})


def _update(job: Job) -> Counter[str]:
    """DeepSpeed's float32 copy of its gradients for the optimizer; fused AdamW needs none."""
    if job.zero is None or job.zero.offload_optimizer or not job.autocast:
        return Counter()
    n_shards = job.n_devices if job.zero.stage else 1
    return Counter({"gradients in float32": 4 * job.n_trained // n_shards})


def _forward_only(job: Job) -> Counter[str]:
    """A forward pass that keeps nothing.

    Either one layer's stream, gate, factor and product; or the stream and a tile of logits, on the
    CPU with four results.
    """
    a, t, p = job.architecture, job.batch.tokens, job.precision
    layer = t * (2 * a.hidden_size * p.stream + 3 * a.intermediate_size * p.compute)
    end = _tile_with(job, 4 * 4) + t * a.hidden_size * p.stream
    return Counter(activations=max(layer, end))
