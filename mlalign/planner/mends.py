"""What would make a step fit: changes in a stated order, each tried with the same formulas. The first that fits is the smallest.

For training, from what costs least to what changes most; each but the first is tried with every smaller device batch too:

    device_batch_size              same result, more passes
    gradient_checkpointing         same result, one more forward pass
    deepspeed=zero1, zero2, zero3  with several devices: same result, more communication
    deepspeed=…_offload            same result, far slower
    resources.devices              twice, four times, … as many, up to 64, under zero3
    peft                           an adapter instead of full weights: another result

For vLLM: a larger share of the device, more devices, a shorter context. For scoring: fewer tokens at once, bfloat16, both.
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
VLLM = {"gpu_memory_utilization": "utilization", "tensor_parallel_size": "devices", "max_model_len": "max_model_len"}

Keys = dict[str, Any]


def first(changes: Iterable[Keys], fits: Callable[[Keys], bool]) -> Keys | None:
    """The first change that fits; None if none does."""
    return next((keys for keys in changes if fits(keys)), None)


def told(keys: Mapping[str, Any]) -> str:
    """A change as command-line arguments; STEP stands for the step."""
    return " ".join(f"steps.STEP.{'resources' if k == 'devices' else 'config'}.{k}={_value(v)}" for k, v in keys.items())


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{k}:{_value(v)}" for k, v in value.items()) + "}"
    return str(value).lower() if isinstance(value, bool) else str(value)


def of_training(cfg: Any, job: training.Job, deepspeed: Mapping[str, Any]) -> Iterator[Keys]:
    """Changes of a training step; `deepspeed`: name -> configuration."""
    saving = {} if job.checkpointing else {CHECKPOINTING: True}
    yield from ({"device_batch_size": n} for n in smaller(cfg, job.n_devices))
    for more in [*([{}] if saving else []), *({"deepspeed": name} for name in _sharding(job, deepspeed))]:
        yield from _with_batches({**saving, **more}, cfg, job.n_devices)
    n = job.n_devices * 2
    while "zero3" in deepspeed and n <= MOST_DEVICES and cfg.batch_size % n == 0:
        yield from _with_batches({**saving, "deepspeed": "zero3", "devices": n}, cfg, n)
        n *= 2
    if cfg.peft is None:
        yield from _with_batches({**saving, "peft": LORA}, cfg, job.n_devices)


def _sharding(job: training.Job, deepspeed: Mapping[str, Any]) -> list[str]:
    """DeepSpeed configurations that leave less on a device than the present one: higher stages, then those that offload."""
    now, found = training.zero_of({}) if job.zero is None else job.zero, []
    for name, config in deepspeed.items():
        zero = training.zero_of(config)
        offloads = zero is not None and (zero.offload_optimizer + zero.offload_weights)
        if zero is None or now is None or job.on_cpu or (not offloads and job.n_devices == 1):
            continue
        if (offloads, zero.stage) > (now.offload_optimizer + now.offload_weights, now.stage) and zero.stage >= now.stage:
            found.append((offloads, zero.stage, name))
    return [name for _, _, name in sorted(found)]


def _with_batches(keys: Keys, cfg: Any, devices: int) -> Iterator[Keys]:
    if not cfg.batch_size % ((cfg.device_batch_size or 1) * devices):
        yield dict(keys)
    yield from ({**keys, "device_batch_size": n} for n in smaller(cfg, devices))


def smaller(cfg: Any, devices: int) -> list[int]:
    """Device batches below the present one that divide a device's share of the batch, from the largest."""
    share = cfg.batch_size // devices
    now = min(cfg.device_batch_size or share, share)
    return [n for n in range(now - 1, 0, -1) if share % n == 0]


def with_keys(cfg: Any, keys: Mapping[str, Any], deepspeed: Mapping[str, Any]) -> Any:
    """A training step's configuration with some keys changed."""
    own = {k: v for k, v in keys.items() if k in ("device_batch_size", "peft")}
    if CHECKPOINTING in keys:
        own["trainer"] = {**cfg.trainer, "gradient_checkpointing": True}
    if "deepspeed" in keys:
        own["deepspeed"] = deepspeed[keys["deepspeed"]]
    return dataclasses.replace(cfg, **own)


def of_vllm(a: Architecture, engine: Engine) -> Iterator[Keys]:
    yield from ({"engine.args.gpu_memory_utilization": u} for u in (0.9, 0.95) if u > engine.utilization)
    yield from ({"engine.args.tensor_parallel_size": n} for n in (2, 4, 8) if n > engine.devices and a.n_heads % n == 0)
    shorter = (n for n in (32768, 16384, 8192, 4096, 2048, 1024) if n < engine.max_model_len)
    yield from ({"engine.args.max_model_len": n} for n in shorter)


def engine_with(engine: Engine, keys: Mapping[str, Any]) -> Engine:
    return engine._replace(**{VLLM[k.rpartition(".")[2]]: v for k, v in keys.items()})


def of_scoring(cfg: Any) -> Iterator[Keys]:
    """Changes of a score step; fewer tokens first, since bfloat16 changes scores."""
    now = cfg.device_batch_tokens
    fewer: list[Keys] = [{"device_batch_tokens": n} for n in (now // 2, now // 4, now // 8) if n >= 1024]
    yield from fewer
    if cfg.dtype == "float32":
        yield from ({"dtype": "bfloat16", **keys} for keys in [{}, *fewer])
