"""Changes that may make a step fit, in a fixed order. The first that fits is the smallest.

For training, from the cheapest to the one that changes most; all but the first are tried with every
smaller device batch too:

    device_batch_size              same result, more passes
    gradient_checkpointing         same result, one more forward pass
    deepspeed=zero1, zero2, zero3  with several devices: same result, more communication
    deepspeed=…_offload            same result, far slower
    resources.devices              twice, four times, … as many, up to 64, under zero3
    peft                           an adapter instead of full weights: another result

For vLLM: a larger share of the device, more devices, a shorter context. For scoring: fewer tokens
at once, bfloat16, both.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from mlalign.planner import training
from mlalign.planner.architecture import Architecture
from mlalign.planner.serving import Engine

LORA = {"r": 16, "target_modules": "all-linear"}
MOST_DEVICES = 64
CHECKPOINTING = "trainer.gradient_checkpointing"
# vLLM's argument -> field of `Engine`.
VLLM = {
    "gpu_memory_utilization": "utilization",
    "tensor_parallel_size": "devices",
    "max_model_len": "max_model_len",
}

Keys = dict[str, Any]


def first(changes: Iterable[Keys], fits: Callable[[Keys], bool]) -> Keys | None:
    """The first change that fits; None if none does."""
    return next((keys for keys in changes if fits(keys)), None)


def as_arguments(keys: Mapping[str, Any]) -> str:
    """A change as command-line arguments; STEP stands for the step."""
    arguments = []
    for key, value in keys.items():
        section = "resources" if key == "devices" else "config"
        arguments.append(f"steps.STEP.{section}.{key}={_value(value)}")
    return " ".join(arguments)


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_value(inner)}" for key, inner in value.items()) + "}"
    return str(value).lower() if isinstance(value, bool) else str(value)


def of_training(cfg: Any, job: training.Job, deepspeed: Mapping[str, Any]) -> Iterator[Keys]:
    """Changes of a training step; `deepspeed`: name -> configuration."""
    for n in smaller(cfg, job.n_devices):
        yield {"device_batch_size": n}

    checkpointing: Keys = {} if job.checkpointing else {CHECKPOINTING: True}
    if checkpointing:
        yield from _with_batches(checkpointing, cfg, job.n_devices)
    for name in _sharding(job, deepspeed):
        yield from _with_batches({**checkpointing, "deepspeed": name}, cfg, job.n_devices)

    n = job.n_devices * 2
    while "zero3" in deepspeed and n <= MOST_DEVICES and cfg.batch_size % n == 0:
        yield from _with_batches({**checkpointing, "deepspeed": "zero3", "devices": n}, cfg, n)
        n *= 2
    if cfg.peft is None:
        yield from _with_batches({**checkpointing, "peft": LORA}, cfg, job.n_devices)


def _sharding(job: training.Job, deepspeed: Mapping[str, Any]) -> list[str]:
    """DeepSpeed configurations that leave less on a device: higher stages, then offloading."""
    if job.on_cpu:
        return []
    current = job.zero or training.Zero(0)
    ranked = []
    for name, config in deepspeed.items():
        zero = training.zero_of(config)
        if zero is None or zero.stage < current.stage:
            continue
        rank = _rank(zero)
        shards = job.n_devices > 1 or rank[0] > 0
        if shards and rank > _rank(current):
            ranked.append((rank, name))
    return [name for _, name in sorted(ranked)]


def _rank(zero: training.Zero) -> tuple[int, int]:
    """(how many kinds of state are offloaded, stage)."""
    return zero.offload_optimizer + zero.offload_weights, zero.stage


def _with_batches(keys: Keys, cfg: Any, devices: int) -> Iterator[Keys]:
    """A change alone, if the devices can share the batch, then with each smaller device batch."""
    if not cfg.batch_size % ((cfg.device_batch_size or 1) * devices):
        yield dict(keys)
    for n in smaller(cfg, devices):
        yield {**keys, "device_batch_size": n}


def smaller(cfg: Any, devices: int) -> list[int]:
    """Smaller device batches that divide a device's share of the batch, from the largest."""
    share = cfg.batch_size // devices
    current = min(cfg.device_batch_size or share, share)
    return [n for n in range(current - 1, 0, -1) if share % n == 0]


def with_keys(cfg: Any, keys: Mapping[str, Any], deepspeed: Mapping[str, Any]) -> Any:
    """A training step's configuration with some keys changed."""
    changes = {key: keys[key] for key in ("device_batch_size", "peft") if key in keys}
    if CHECKPOINTING in keys:
        changes["trainer"] = {**cfg.trainer, "gradient_checkpointing": True}
    if "deepspeed" in keys:
        changes["deepspeed"] = deepspeed[keys["deepspeed"]]
    return dataclasses.replace(cfg, **changes)


def of_vllm(a: Architecture, engine: Engine) -> Iterator[Keys]:
    for share in (0.9, 0.95):
        if share > engine.utilization:
            yield {"engine.args.gpu_memory_utilization": share}
    for n in (2, 4, 8):
        if n > engine.devices and a.n_heads % n == 0:
            yield {"engine.args.tensor_parallel_size": n}
    for length in (32768, 16384, 8192, 4096, 2048, 1024):
        if length < engine.max_model_len:
            yield {"engine.args.max_model_len": length}


def engine_with(engine: Engine, keys: Mapping[str, Any]) -> Engine:
    return engine._replace(**{VLLM[key.rpartition(".")[2]]: value for key, value in keys.items()})


def of_scoring(cfg: Any) -> Iterator[Keys]:
    """Changes of a score step; fewer tokens first, since bfloat16 changes scores."""
    fewer: list[Keys] = []
    for divisor in (2, 4, 8):
        n = cfg.device_batch_tokens // divisor
        if n >= 1024:
            fewer.append({"device_batch_tokens": n})
    yield from fewer
    if cfg.dtype == "float32":
        yield {"dtype": "bfloat16"}
        yield from ({"dtype": "bfloat16", **keys} for keys in fewer)
