"""Memory and time of every step of a plan, and what of it does not fit what is asked for.

Reads configurations, `config.json` files and manifests; imports nothing heavy and starts nothing.
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import yaml

from mlalign.core.errors import UserError
from mlalign.models.training import precision
from mlalign.planner import mends, training
from mlalign.planner.jobs import BYTES, training_job
from mlalign.planner.models import Decoder, Models
from mlalign.planner.serving import Engine, forward, kv_of_sequence
from mlalign.planner.times import Times
from mlalign.planner.work import size_told, told
from mlalign.recipes import config
from mlalign.recipes.device import Device, of_scale

TRAINING = ("sft", "reward", "preference")
# vLLM's defaults for `vllm.LLM` (EngineArgs.get_batch_defaults): tokens and sequences at a time, on large and on other devices.
VLLM_LARGE, VLLM_OTHER, LARGE_GIB, VLLM_UTILIZATION = (16384, 1024), (8192, 256), 70, 0.92
SMALL = "small"
CPU_CACHE = 2**30  # what the vllm engine asks for on the CPU (VLLM_CPU_KVCACHE_SPACE=1)


@dataclasses.dataclass
class Estimate:
    """What one step needs. `memory`: bytes on each device (None: not known, `note` says why); `tensors`: what it is made of."""

    step: str
    memory: int | None = None
    note: str = ""
    tensors: Mapping[str, int] = dataclasses.field(default_factory=Counter)
    seconds: float | None = None
    basis: str = ""
    warnings: list[str] = dataclasses.field(default_factory=list)


def of_plan(plan: Any, finished: Sequence[str] = ()) -> list[Estimate]:
    """An estimate for every step that is not finished."""
    planner = _Planner(plan)
    return [planner.of(node) for node in plan.nodes if node.name not in finished]


class _Planner:
    def __init__(self, plan: Any):
        self.plan: Any = plan
        self.device: Device = of_scale(plan.settings.root["scale"].get("device"), [])  # its mistakes are told with the other keys'
        nodes = {node.name: node for node in plan.nodes}
        self.models = Models(plan.store.root, {name: node.inputs for name, node in nodes.items()})
        self.times = Times(plan.store.root, nodes, self.models, self.device)

    def of(self, node: Any) -> Estimate:
        stage, found = node.step.stage, Estimate(node.name)
        if stage in TRAINING:
            self._training(node, found)
        elif stage == "generate":
            self._generate(node, found)
        elif stage == "score":
            self._score(node, found)
        else:
            found.note = SMALL
        self._time(node, found)
        return found

    # ------------------------------------------------------------------------------------------------------------- memory

    def _training(self, node: Any, found: Estimate) -> None:
        decoder = self.models.of(node.inputs["model"])
        stored = "" if isinstance(decoder, str) else decoder.architecture.dtype
        if lost := precision.at_plan(node.step.stage, node.config, stored, self.device.kind == "cpu"):
            found.warnings.append(lost)
        if isinstance(decoder, str) or node.config.trainer.get("optim", "adamw_torch_fused") not in training.OPTIMIZERS:
            found.note = decoder if isinstance(decoder, str) else f"the planner does not know optim={node.config.trainer['optim']}"
            return
        try:
            job = self._job(node, node.config, decoder, devices_of(node))
        except UserError as error:
            found.note = ""
            found.warnings += error.messages
            return
        moment, tensors = training.peak(job)
        found.memory, found.note, found.tensors = tensors.total(), moment, tensors
        host = training.on_host(job).total() * node.resources.get("devices", 1)
        self._check_host(node, host, found)
        if self.device.memory is not None and found.memory > self.device.memory:
            found.warnings.append(self._too_large(node, job, decoder, found))

    def _job(self, node: Any, cfg: Any, decoder: Decoder, devices: int) -> training.Job:
        other = node.inputs.get("reference")
        reference = self.models.of(other) if other else decoder
        differs = isinstance(reference, Decoder) and reference.same != decoder.same
        on_cpu = self.device.kind == "cpu"
        return training_job(
            node.step.stage, cfg, decoder.architecture, devices=devices, on_cpu=on_cpu, reference=differs, other_bytes=decoder.other_bytes
        )

    def _too_large(self, node: Any, job: training.Job, decoder: Decoder, found: Estimate) -> str:
        memory = self.device.memory or 0

        def fits(keys: Mapping[str, Any]) -> bool:
            changed = mends.with_keys(node.config, keys, self._deepspeed)
            return training.peak(self._job(node, changed, decoder, keys.get("devices", job.n_devices)))[1].total() <= memory

        change = mends.first(mends.of_training(node.config, job, self._deepspeed), fits)
        return f"{_needs(found.memory or 0, memory, found.tensors)}; {_mend(change)}"

    @cached_property
    def _deepspeed(self) -> dict[str, dict]:
        """The DeepSpeed configurations that a person can choose by name."""
        found = config.options("deepspeed", self.plan.settings.folders)
        return {name: yaml.safe_load(path.read_text(encoding="utf-8")) for name, path in sorted(found.items())}

    def _check_host(self, node: Any, host: int, found: Estimate) -> None:
        asked = bytes_of(node.resources.get("memory"))
        if asked and host > asked:
            found.warnings.append(
                f"offloads {size_told(host)} to main memory and asks for {size_told(asked)}; "
                f"set steps.STEP.resources.memory={-(-host // 2**30)}G or more"
            )

    def _generate(self, node: Any, found: Estimate) -> None:
        name, decoder = node.config.engine.name, self.models.of(node.inputs["model"])
        if name == "openai" or isinstance(decoder, str):
            found.note = "on the server" if name == "openai" else str(decoder)
            return
        a, size = decoder.architecture, self._engine_bytes(node, decoder)
        if name == "transformers":
            tokens = node.config.engine.batch_tokens
            found.tensors = Counter({"weights": a.parameters() * size, "keys and values": kv_of_sequence(a, tokens, size)})
            found.tensors["activations"] = forward(a, tokens, size)
            found.memory, found.note = found.tensors.total(), "generation"
        elif self.device.kind == "cpu":
            found.tensors = Counter({"weights": a.parameters() * size, "keys and values": CPU_CACHE})
            found.memory, found.note = found.tensors.total(), "generation"
        else:
            self._vllm(node, a, self._engine(node, a, size), found)

    def _engine_bytes(self, node: Any, decoder: Decoder) -> int:
        stored = BYTES.get(decoder.architecture.dtype, 4)
        return BYTES.get(node.config.engine.dtype, 4 if self.device.kind == "cpu" else min(stored, 2))

    def _engine(self, node: Any, a: Any, size: int) -> Engine:
        args, large = node.config.engine.args, (self.device.memory_gib or 0) >= LARGE_GIB
        tokens, sequences = VLLM_LARGE if large else VLLM_OTHER
        length = args.get("max_model_len") or a.context
        share = args.get("tensor_parallel_size", 1) * args.get("pipeline_parallel_size", 1)
        return Engine(
            args.get("gpu_memory_utilization", VLLM_UTILIZATION), length, args.get("max_num_batched_tokens", tokens),
            args.get("max_num_seqs", sequences), share, size,
        )  # fmt: skip

    def _vllm(self, node: Any, a: Any, engine: Engine, found: Estimate) -> None:
        """vLLM takes its share whatever the model is, so what counts is how many sequences fit into the rest."""
        found.tensors = engine.fixed(a) + Counter({"keys and values": engine.sequence(a)})
        found.memory, found.note = found.tensors.total(), f"one sequence of {engine.max_model_len:,} tokens"
        if self.device.memory is None:
            return
        n = engine.concurrent(a, self.device.memory)
        if n > 0:
            found.memory = int(self.device.memory * engine.utilization)
            found.note = f"{n:,} sequences of {engine.max_model_len:,} tokens at once"
            return
        memory, room = self.device.memory, size_told(self.device.memory * engine.utilization)
        change = mends.first(mends.of_vllm(a, engine), lambda keys: mends.engine_with(engine, keys).concurrent(a, memory) > 0)
        found.warnings.append(f"needs {size_told(found.memory)} for weights and {found.note}, and vLLM has {room}; {_mend(change)}")

    def _score(self, node: Any, found: Estimate) -> None:
        scorers = [value for value in node.inputs.get("scorers", []) if value.get("family", "classifier") in ("classifier", "implicit")]
        named = [v for v in scorers if "artifact" in v or "path" in v]
        opened = [self.models.of(value) for value in named]
        unknown = [d for d in opened if isinstance(d, str)]
        if unknown or not opened:
            found.note = unknown[0] if unknown else SMALL
            return
        decoders = [d for d in opened if isinstance(d, Decoder)]
        now = {"dtype": node.config.dtype, "device_batch_tokens": node.config.device_batch_tokens}
        found.tensors, tokens = scoring(decoders, **now), node.config.device_batch_tokens
        found.memory, found.note = found.tensors.total(), f"{len(decoders)} model{'s' if len(decoders) > 1 else ''}, {tokens:,} tokens"
        memory = self.device.memory
        if memory is not None and found.memory > memory:
            change = mends.first(mends.of_scoring(node.config), lambda keys: scoring(decoders, **{**now, **keys}).total() <= memory)
            found.warnings.append(f"{_needs(found.memory, memory, found.tensors)}; {_mend(change)}")

    # --------------------------------------------------------------------------------------------------------------- time

    def _time(self, node: Any, found: Estimate) -> None:
        found.seconds, found.basis = self.times.of(node, devices_of(node))
        limit = seconds_of(node.resources.get("time"))
        if limit and found.seconds and found.seconds > limit:
            jobs = -(-found.seconds // limit)
            found.warnings.append(
                f"takes about {told(found.seconds)} ({found.basis}), and a job may take {told(limit)}: {jobs:.0f} jobs, each going on "
                f"where the one before stopped"
            )


def scoring(decoders: Sequence[Decoder], dtype: str, device_batch_tokens: int) -> Counter[str]:
    """All models that score are open at once, and one of them computes."""
    size = BYTES[dtype]
    widest = max(forward(d.architecture, device_batch_tokens, size) for d in decoders)
    return Counter(weights=sum(d.architecture.parameters("classifier") * size for d in decoders), activations=widest)


def _needs(memory: int, there: int, tensors: Mapping[str, int]) -> str:
    largest = ", ".join(f"{name} {size_told(size)}" for name, size in Counter(tensors).most_common(3))
    return f"needs {size_told(memory)} on each device, which has {size_told(there)} ({largest})"


def _mend(change: Mapping[str, Any] | None) -> str:
    return f"set {mends.told(change)}" if change else "none of the changes that are tried makes it fit"


def warnings(estimates: Sequence[Estimate]) -> list[str]:
    """What does not fit, one message for all steps of which the same is true; STEP stands for each of them."""
    steps: dict[str, list[str]] = {}
    for e in estimates:
        for text in e.warnings:
            steps.setdefault(text, []).append(e.step)
    return [f"{', '.join(names)}: {text.replace('STEP', names[0]) if len(names) == 1 else text}" for text, names in steps.items()]


def devices_of(node: Any) -> int:
    """How many devices a step has, over all its nodes."""
    return int(node.resources.get("devices") or 1) * int(node.resources.get("nodes") or 1)


def bytes_of(size: Any) -> int | None:
    """`64G` as bytes; None for what is no size."""
    found = re.fullmatch(r"(\d+)([KMGT])", str(size))
    return int(found[1]) * 1024 ** ("KMGT".index(found[2]) + 1) if found else None


def seconds_of(limit: Any) -> int | None:
    """`12:00:00`, `2-00:00:00`, `90 min` or `3 h` in seconds; None for what is no time."""
    if found := re.fullmatch(r"(\d+) ?(min|h)", str(limit)):
        return int(found[1]) * (60 if found[2] == "min" else 3600)
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", str(limit))
    if not found or not (found[1] or found[4]):
        return None
    return sum(int(part or 0) * size for part, size in zip(found.groups(), (86400, 3600, 60, 1), strict=True))


HEADER = ("step", "memory per device", "at", "time", "by")


def shown(estimates: Sequence[Estimate], nodes: Sequence[Any]) -> list[list[str]]:
    """Rows of the table in `plan`: memory on each device, the moment at which it is highest (or why it is not known), time, its basis."""
    devices = {node.name: devices_of(node) for node in nodes}
    told_of = [e for e in estimates if e.note != SMALL or e.seconds is not None]
    return [
        [e.step, "-" if e.memory is None else size_told(e.memory) + (f" x {devices[e.step]}" if devices[e.step] > 1 else ""), e.note,
         "-" if e.seconds is None else told(e.seconds), e.basis]
        for e in told_of
    ]  # fmt: skip
