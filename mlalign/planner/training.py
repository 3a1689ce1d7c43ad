"""Memory of a training step on each device, as tensors with names, in the moments at which it can be highest.

Model states follow Rajbhandari et al. 2020 ("ZeRO", section 3.1 and table 1): with mixed precision under DeepSpeed 2 bytes a parameter for
weights, 2 for gradients, 12 for Adam (weights, momentum and variance in float32), each divided by the number of devices from stage 1
(optimizer), 2 (gradients) or 3 (weights) on. Without DeepSpeed, PyTorch keeps weights in `dtype`, gradients and both of Adam's moments
in the dtype of what is trained, and no further copy. Activations: `mlalign.planner.activations`. The loss: TRL's fused head, which goes
through the vocabulary in tiles and never holds all logits (`trl.kernels.chunked_logprob`).

What is not a tensor of the training is not counted: Python and its libraries, the CUDA context, and what an allocator keeps without need.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from mlalign.planner import activations
from mlalign.planner.activations import Batch, Precision, Trained
from mlalign.planner.architecture import Architecture

# TRL's tiles of logits: so many tokens by so many entries of the vocabulary.
TILE_TOKENS, TILE_VOCABULARY = 4096, 32768
# Bytes of optimizer state for each trained parameter, where its own size is 4 bytes; names of transformers' `optim`.
OPTIMIZERS = {
    "adamw_torch_fused": 2.0, "adamw_torch": 2.0, "adamw_hf": 2.0, "sgd": 0.0,
    "adamw_8bit": 0.5, "adamw_bnb_8bit": 0.5, "paged_adamw_8bit": 0.5, "lion_32bit": 1.0, "lion_8bit": 0.25,
}  # fmt: skip
FULL = Trained()
# DeepSpeed's own defaults, in elements.
REDUCE_BUCKET, LIVE_PARAMETERS = 500_000_000, 1_000_000_000
# NF4 with double quantisation: 4 bits, and 0.127 for the constants (Dettmers et al. 2023, section 3).
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
    told = config.get("zero_optimization") or {}
    stage = int(told.get("stage", 0))
    bucket = told.get("reduce_bucket_size", REDUCE_BUCKET)
    moved = {part: (told.get(f"offload_{part}") or {}).get("device", "none") != "none" for part in ("optimizer", "param")}
    live = told.get("stage3_max_live_parameters", LIVE_PARAMETERS)
    overlap = bool(told.get("overlap_comm", stage == 3))
    live = LIVE_PARAMETERS if live == "auto" else int(live)
    return Zero(stage, 0 if bucket == "auto" else int(bucket), overlap, moved["optimizer"], moved["param"], live)


class Job(NamedTuple):
    """One training step on `n_devices`. `loss`: how it reads the last hidden states.

    `reference` is another model that is held beside the policy: in training, only before it (for log-probabilities that are computed
    once), or not at all. `other_bytes`: weights beyond the decoder, such as a vision tower.
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
            return a.lora_parameters(self.trained.rank, self.trained.targets) + (a.hidden_size if self.loss == "classifier" else 0)
        return a.parameters(self.task) - (a.embedding if self.freeze_embeddings else 0)

    @property
    def trained_bytes(self) -> int:
        """The size of one trained parameter, of its gradient, and of each moment of Adam."""
        return self.precision.weight if self.trained.full else self.trained.lora_bytes


def weights(job: Job) -> int:
    """All weights of the model as they are held, whole."""
    a, total = job.architecture, job.architecture.parameters(job.task)
    own = total * job.precision.weight
    if job.quantization:
        matrices = a.n_layers * sum(i * o for i, o in a.linears().values())
        own = round(matrices * QUANTIZED_BITS[job.quantization] / 8) + (total - matrices) * job.precision.weight
    adapter = 0 if job.trained.full else a.lora_parameters(job.trained.rank, job.trained.targets) * job.trained_bytes
    return own + adapter + job.other_bytes


def states(job: Job) -> Counter[str]:
    """Weights, gradients and optimizer on one device."""
    n, zero, size = job.n_trained, job.zero, job.trained_bytes
    if zero is None:
        return Counter(weights=weights(job), gradients=n * size, optimizer=round(n * size * OPTIMIZERS[job.optimizer]))
    share = {part: job.n_devices if zero.stage >= first else 1 for first, part in enumerate(("optimizer", "gradients", "weights"), 1)}
    gradients_on_host = zero.offload_optimizer and zero.stage >= 2
    return Counter(
        weights=0 if zero.offload_weights else weights(job) // share["weights"],
        gradients=0 if gradients_on_host else n * job.precision.weight // share["gradients"],
        optimizer=0 if zero.offload_optimizer else 12 * n // share["optimizer"],
    )


def on_host(job: Job) -> Counter[str]:
    """What one process keeps in main memory instead of on its device: the offloaded part of the states, gradients there in float32."""
    zero, n = job.zero, job.n_trained
    if zero is None or not (zero.offload_optimizer or zero.offload_weights):
        return Counter()
    found = Counter(optimizer=12 * n // job.n_devices, gradients=4 * n // job.n_devices) if zero.offload_optimizer else Counter[str]()
    found["weights"] = weights(job) // job.n_devices if zero.offload_weights else 0
    return found


def buffers(job: Job) -> Counter[str]:
    """What DeepSpeed, or DistributedDataParallel, holds to talk to the other devices."""
    zero, size, found = job.zero, job.precision.weight, Counter[str]()
    if zero is None:
        found["buckets of gradients"] = job.n_trained * job.trained_bytes if job.n_devices > 1 else 0
    elif zero.stage:
        bucket = zero.bucket or job.architecture.hidden_size**2
        found["buckets of gradients"] = bucket * size * (2 if zero.overlap else 1)
    if zero is not None and zero.stage == 3:
        found["gathered weights"] = min(job.architecture.parameters(job.task), zero.live) * size
    return found


def moments(job: Job) -> dict[str, Counter[str]]:
    """What is held at each moment that can be the highest one: name of the moment -> tensor -> bytes."""
    state, extra = states(job), buffers(job)
    resting = Counter({**state, "gradients": state["gradients"] if job.accumulates or _partitioned(job) else 0}) + extra
    if job.reference == "during":
        resting["reference"] = weights(job)
    found = {
        "loss": resting + _kept(job) + _loss(job),
        "last layer's gradients": resting + _kept(job) + _last_layer(job),
        "end of the backward pass": state + extra + _embedding_gradient(job) + Counter(reference=resting["reference"]),
        "update": state + extra + _update(job) + Counter(reference=resting["reference"]),
    }
    if job.reference == "before":
        before = Counter(weights=state["weights"], reference=weights(job))
        found["log-probabilities of the reference"] = before + _forward_only(job)
    return found


def peak(job: Job) -> tuple[str, Counter[str]]:
    """The highest moment, and what is held then."""
    return max(moments(job).items(), key=lambda item: item[1].total())


def _partitioned(job: Job) -> bool:
    """ZeRO-2 and 3 allocate the partition of gradients once and keep it."""
    return job.zero is not None and job.zero.stage >= 2


def _kept(job: Job) -> Counter[str]:
    a, batch, p = job.architecture, job.batch, job.precision
    if not job.checkpointing:
        return Counter(activations=activations.of_model(a, batch, p, job.trained).total())
    return Counter(activations=activations.checkpointed(a, batch, p))


def _scored(job: Job) -> int:
    """Tokens whose logits are needed: all but the last of each sequence."""
    return job.batch.sequences * (job.batch.length - 1)


def _loss(job: Job) -> Counter[str]:
    """The backward pass of the loss: hidden states, a tile of logits and what is made of it, and gradients in float32."""
    a, n, b = job.architecture, _scored(job), job.precision.compute
    if job.loss == "classifier":
        return Counter({"hidden states": job.batch.tokens * a.hidden_size * b})
    if job.loss == "logits":  # logits, their log-softmax, and the gradient of both
        return Counter({"hidden states": n * a.hidden_size * b, "logits": n * a.vocab_size * (b + 4 + 4)})
    found = Counter({"hidden states": n * a.hidden_size * b, "gradients of hidden states": 4 * n * a.hidden_size})
    found["logits"] = _tile(job)
    if job.trained.full:
        cast = job.precision.weight if job.precision.weight < 4 else 0
        found["gradients of the output matrix"] = a.embedding * (4 + cast)
    return found


def _tile(job: Job) -> int:
    """One tile of logits. Without Triton (on the CPU) the gradient of the tile is made by PyTorch step by step, and at the widest
    step there are besides the tile: scaled, at temperature, log-probabilities, probabilities, gradient, and two results, in float32,
    and a mask; a final soft cap adds its tanh."""
    n, columns, b = min(_scored(job), TILE_TOKENS), min(job.architecture.vocab_size, TILE_VOCABULARY), job.precision.compute
    if not job.on_cpu:
        return n * TILE_VOCABULARY * b
    return n * columns * (b + (8 if job.architecture.softcap else 7) * 4 + 1)


def _last_layer(job: Job) -> Counter[str]:
    """The backward pass of the last layer's MLP, whose product is gone by then: gradients of the product and its two factors, of the
    residual stream and of the MLP's output, of the last matrix, and of the output matrix, which came first. With gradient
    checkpointing the layer has been computed anew."""
    a, t, p = job.architecture, job.batch.tokens, job.precision
    inner = a.experts_per_token * a.expert_size if a.n_sparse else a.intermediate_size
    found = Counter({"gradients of activations": 2 * t * inner * p.compute + 2 * t * a.hidden_size * p.stream})
    if job.trained.full and not _partitioned(job) and not job.accumulates:
        head = 0 if job.loss == "classifier" else a.embedding
        found["gradients so far"] = (head + a.hidden_size * a.intermediate_size) * job.trained_bytes
    if job.checkpointing:
        found["one layer computed anew"] = activations.largest_layer(a, job.batch, p, job.trained).total()
    return found


def _embedding_gradient(job: Job) -> Counter[str]:
    """A tied embedding has a gradient from the output already when its own, as large again, is made and added."""
    twice = job.trained.full and job.architecture.tied and job.loss != "classifier" and not job.freeze_embeddings
    return Counter({"gradients of the embedding": job.architecture.embedding * job.trained_bytes if twice else 0})


def _update(job: Job) -> Counter[str]:
    """DeepSpeed makes a float32 copy of its part of the gradients for the optimizer; fused AdamW needs nothing more."""
    if job.zero is None or job.zero.offload_optimizer or not job.autocast:
        return Counter()
    return Counter({"gradients in float32": 4 * job.n_trained // (job.n_devices if job.zero.stage else 1)})


def _forward_only(job: Job) -> Counter[str]:
    """A forward pass that keeps nothing: one layer's stream, gate, factor and product; or a tile of logits with four results."""
    a, t, p = job.architecture, job.batch.tokens, job.precision
    layer = t * (2 * a.hidden_size * p.stream + 3 * a.intermediate_size * p.compute)
    n, columns = min(_scored(job), TILE_TOKENS), min(a.vocab_size, TILE_VOCABULARY)
    tile = n * (columns * (p.compute + 4 * 4) if job.on_cpu else TILE_VOCABULARY * p.compute) + t * a.hidden_size * p.stream
    return Counter(activations=max(layer, tile))
