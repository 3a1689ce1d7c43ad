"""Memory and time of every step of a plan, and what of it does not fit the machine.

Reads configurations, `config.json` files and manifests; imports nothing heavy and starts nothing.
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import yaml

from mlalign.core.errors import UserError
from mlalign.models.training import precision
from mlalign.planner import mends, training
from mlalign.planner.architecture import Architecture
from mlalign.planner.jobs import BYTES, training_job
from mlalign.planner.models import Decoder, Models
from mlalign.planner.serving import Engine, forward, kv_of_sequence
from mlalign.planner.times import Times
from mlalign.planner.work import duration_text, size_text
from mlalign.recipes import config
from mlalign.recipes.device import Device, of_scale

DECODERS = ("classifier", "implicit")  # families of scorers that the planner can count
# vLLM's defaults for `vllm.LLM` (EngineArgs.get_batch_defaults), on large devices and on others.
LARGE_GIB = 70
VLLM_LARGE = {"max_num_batched_tokens": 16384, "max_num_seqs": 1024}
VLLM_OTHER = {"max_num_batched_tokens": 8192, "max_num_seqs": 256}
VLLM_UTILIZATION = 0.92
SMALL = "small"
CPU_CACHE = 2**30  # what the vllm engine asks for on the CPU (VLLM_CPU_KVCACHE_SPACE=1)


@dataclasses.dataclass
class Estimate:
    """What one step needs.

    `memory`: bytes on each device; if it is None, `note` says why. `tensors`: what the memory is
    made of.
    """

    step: str
    memory: int | None = None
    note: str = ""
    tensors: Mapping[str, int] = dataclasses.field(default_factory=Counter)
    seconds: float | None = None
    basis: str = ""
    warnings: list[str] = dataclasses.field(default_factory=list)

    def needs(self, tensors: Counter[str], note: str) -> int:
        self.tensors = tensors
        self.memory = tensors.total()
        self.note = note
        return self.memory


def of_plan(plan: Any, finished: Sequence[str] = ()) -> list[Estimate]:
    """An estimate for every step that is not finished."""
    planner = _Planner(plan)
    return [planner.of(node) for node in plan.nodes if node.name not in finished]


class _Planner:
    def __init__(self, plan: Any):
        root = plan.store.root
        nodes = {node.name: node for node in plan.nodes}
        self.plan = plan
        # Building the plan has already reported mistakes in the scale.
        self.device: Device = of_scale(plan.settings.root["scale"].get("device"), [])
        self.on_cpu = self.device.kind == "cpu"
        self.models = Models(root, {name: _origin(node) for name, node in nodes.items()})
        self.times = Times(root, nodes, self.models, self.device)

    def of(self, node: Any) -> Estimate:
        estimate = Estimate(node.name)
        work = getattr(node.module, "WORK", None)
        if work == "training":
            self._training(node, estimate)
        elif work == "generation":
            self._generate(node, estimate)
        elif work == "scoring":
            self._score(node, estimate)
        else:
            estimate.note = SMALL
        self._time(node, estimate)
        return estimate

    # ----------------------------------------------------------------------------- training

    def _training(self, node: Any, estimate: Estimate) -> None:
        decoder = self.models.of(node.inputs["model"])
        stored = "" if isinstance(decoder, str) else decoder.architecture.dtype
        default_rate = node.module.objective(node.config).learning_rate
        lost = precision.at_plan(node.config, default_rate, stored, self.on_cpu)
        if lost:
            estimate.warnings.append(lost)
        if isinstance(decoder, str):
            estimate.note = decoder
            return
        optimizer = node.config.trainer.get("optim", "adamw_torch_fused")
        if optimizer not in training.OPTIMIZERS:
            estimate.note = f"the planner does not know optim={optimizer}"
            return
        try:
            job = self._job(node, node.config, decoder, devices_of(node))
        except UserError as error:
            estimate.warnings += error.messages
            return
        moment, tensors = training.peak(job)
        needed = estimate.needs(tensors, moment)
        self._check_host(node, job, estimate)
        if self.device.memory is not None and needed > self.device.memory:
            estimate.warnings.append(self._too_large(node, job, decoder, tensors))

    def _job(self, node: Any, cfg: Any, decoder: Decoder, devices: int) -> training.Job:
        value = node.inputs.get("reference")
        reference = self.models.of(value) if value else decoder
        return training_job(
            node.module.objective(cfg),
            cfg,
            decoder.architecture,
            devices=devices,
            on_cpu=self.on_cpu,
            reference=isinstance(reference, Decoder) and reference.same != decoder.same,
            other_bytes=decoder.other_bytes,
        )

    def _too_large(
        self,
        node: Any,
        job: training.Job,
        decoder: Decoder,
        tensors: Counter[str],
    ) -> str:
        memory = self.device.memory or 0

        def fits(keys: Mapping[str, Any]) -> bool:
            cfg = mends.with_keys(node.config, keys, self._deepspeed)
            changed = self._job(node, cfg, decoder, keys.get("devices", job.n_devices))
            return training.peak(changed)[1].total() <= memory

        changes = mends.of_training(node.config, job, self._deepspeed)
        return f"{_needs(tensors, memory)}; {_mend(changes, fits)}"

    @cached_property
    def _deepspeed(self) -> dict[str, dict]:
        """The DeepSpeed configurations that can be chosen by name."""
        paths = config.options("deepspeed", self.plan.settings.folders)
        read = {}
        for name, path in sorted(paths.items()):
            read[name] = yaml.safe_load(path.read_text(encoding="utf-8"))
        return read

    def _check_host(self, node: Any, job: training.Job, estimate: Estimate) -> None:
        host = training.on_host(job).total() * node.resources.get("devices", 1)
        requested = bytes_of(node.resources.get("memory"))
        if requested and host > requested:
            estimate.warnings.append(
                f"offloads {size_text(host)} to main memory and asks for {size_text(requested)}; "
                f"set steps.STEP.resources.memory={-(-host // 2**30)}G or more"
            )

    # --------------------------------------------------------------------------- generation

    def _generate(self, node: Any, estimate: Estimate) -> None:
        engine = node.config.engine
        if engine.name == "openai":
            estimate.note = "on the server"
            return
        decoder = self.models.of(node.inputs["model"])
        if isinstance(decoder, str):
            estimate.note = decoder
            return
        a = decoder.architecture
        size = self._engine_bytes(engine, a)
        if engine.name == "vllm" and not self.on_cpu:
            self._vllm(a, self._engine(engine, a, size), estimate)
            return
        tensors = Counter(weights=a.parameters() * size)
        if engine.name == "transformers":
            tensors["keys and values"] = kv_of_sequence(a, engine.batch_tokens, size)
            tensors["activations"] = forward(a, engine.batch_tokens, size)
        else:
            tensors["keys and values"] = CPU_CACHE
        estimate.needs(tensors, "generation")

    def _engine_bytes(self, engine: Any, a: Architecture) -> int:
        """Bytes of a number; an engine chooses float32 on the CPU, and at most two bytes on a
        GPU."""
        automatic = 4 if self.on_cpu else min(BYTES.get(a.dtype, 4), 2)
        return BYTES.get(engine.dtype, automatic)

    def _engine(self, engine: Any, a: Architecture, size: int) -> Engine:
        is_large = (self.device.memory_gib or 0) >= LARGE_GIB
        args = {**(VLLM_LARGE if is_large else VLLM_OTHER), **engine.args}
        devices = args.get("tensor_parallel_size", 1) * args.get("pipeline_parallel_size", 1)
        return Engine(
            utilization=args.get("gpu_memory_utilization", VLLM_UTILIZATION),
            max_model_len=args.get("max_model_len") or a.context,
            batched_tokens=args["max_num_batched_tokens"],
            sequences=args["max_num_seqs"],
            devices=devices,
            size=size,
        )

    def _vllm(self, a: Architecture, engine: Engine, estimate: Estimate) -> None:
        """vLLM takes its share whatever the model is: what counts is how many sequences the rest
        holds."""
        sequence = Counter({"keys and values": engine.sequence(a)})
        note = f"one sequence of {engine.max_model_len:,} tokens"
        needed = estimate.needs(engine.fixed(a) + sequence, note)
        memory = self.device.memory
        if memory is None:
            return
        n = engine.concurrent(a, memory)
        if n > 0:
            estimate.memory = int(memory * engine.utilization)
            estimate.note = f"{n:,} sequences of {engine.max_model_len:,} tokens at once"
            return

        def fits(keys: Mapping[str, Any]) -> bool:
            return mends.engine_with(engine, keys).concurrent(a, memory) > 0

        room = size_text(memory * engine.utilization)
        problem = f"needs {size_text(needed)} for weights and {note}, and vLLM has {room}"
        estimate.warnings.append(f"{problem}; {_mend(mends.of_vllm(a, engine), fits)}")

    # ------------------------------------------------------------------------------ scoring

    def _score(self, node: Any, estimate: Estimate) -> None:
        decoders = []
        for value in node.inputs.get("scorers", []):
            has_model = "artifact" in value or "path" in value
            if not has_model or value.get("family", "classifier") not in DECODERS:
                continue
            decoder = self.models.of(value)
            if isinstance(decoder, str):
                estimate.note = decoder
                return
            decoders.append(decoder)
        if not decoders:
            estimate.note = SMALL
            return

        tokens = node.config.device_batch_tokens
        settings = {"dtype": node.config.dtype, "device_batch_tokens": tokens}
        tensors = scoring(decoders, **settings)
        plural = "s" if len(decoders) > 1 else ""
        needed = estimate.needs(tensors, f"{len(decoders)} model{plural}, {tokens:,} tokens")
        memory = self.device.memory
        if memory is None or needed <= memory:
            return

        def fits(keys: Mapping[str, Any]) -> bool:
            return scoring(decoders, **{**settings, **keys}).total() <= memory

        mend = _mend(mends.of_scoring(node.config), fits)
        estimate.warnings.append(f"{_needs(tensors, memory)}; {mend}")

    # --------------------------------------------------------------------------------- time

    def _time(self, node: Any, estimate: Estimate) -> None:
        seconds, basis = self.times.of(node, devices_of(node))
        estimate.seconds, estimate.basis = seconds, basis
        limit = seconds_of(node.resources.get("time"))
        if limit and seconds and seconds > limit:
            n_jobs = -(-seconds // limit)
            problem = f"takes about {duration_text(seconds)} ({basis})"
            jobs = f"{n_jobs:.0f} jobs, each going on where the one before stopped"
            allowed = f"and a job may take {duration_text(limit)}"
            estimate.warnings.append(f"{problem}, {allowed}: {jobs}")


def _origin(node: Any) -> Any:
    """The input that a step's model is made from."""
    slot = getattr(node.module, "CHOOSES", "model")
    return node.inputs.get(slot) or []


def scoring(decoders: Sequence[Decoder], dtype: str, device_batch_tokens: int) -> Counter[str]:
    """All models that score are open at once, and one of them computes."""
    size = BYTES[dtype]
    return Counter(
        weights=sum(d.architecture.parameters("classifier") * size for d in decoders),
        activations=max(forward(d.architecture, device_batch_tokens, size) for d in decoders),
    )


def _needs(tensors: Counter[str], memory: int) -> str:
    largest = ", ".join(f"{name} {size_text(size)}" for name, size in tensors.most_common(3))
    needed, available = size_text(tensors.total()), size_text(memory)
    return f"needs {needed} on each device, which has {available} ({largest})"


def _mend(changes: Iterable[mends.Keys], fits: Callable[[mends.Keys], bool]) -> str:
    change = mends.first(changes, fits)
    if change is None:
        return "none of the changes that are tried makes it fit"
    return f"set {mends.as_arguments(change)}"


def warnings(estimates: Sequence[Estimate]) -> list[str]:
    """What does not fit: one message for all steps that share it, in which STEP stands for each."""
    steps_of: dict[str, list[str]] = {}
    for estimate in estimates:
        for text in estimate.warnings:
            steps_of.setdefault(text, []).append(estimate.step)

    messages = []
    for text, steps in steps_of.items():
        message = text.replace("STEP", steps[0]) if len(steps) == 1 else text
        messages.append(f"{', '.join(steps)}: {message}")
    return messages


def devices_of(node: Any) -> int:
    """How many devices a step has, over all its nodes."""
    return int(node.resources.get("devices") or 1) * int(node.resources.get("nodes") or 1)


def bytes_of(size: Any) -> int | None:
    """`64G` as bytes; None for anything else."""
    match = re.fullmatch(r"(\d+)([KMGT])", str(size))
    return int(match[1]) * 1024 ** ("KMGT".index(match[2]) + 1) if match else None


def seconds_of(limit: Any) -> int | None:
    """`12:00:00`, `2-00:00:00`, `90 min` or `3 h` in seconds; None for anything else."""
    if match := re.fullmatch(r"(\d+) ?(min|h)", str(limit)):
        return int(match[1]) * (60 if match[2] == "min" else 3600)
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", str(limit))
    if not match or not (match[1] or match[4]):
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


HEADER = ("step", "memory per device", "at", "time", "by")


def shown(estimates: Sequence[Estimate], nodes: Sequence[Any]) -> list[list[str]]:
    """The table of `plan`, with the columns of `HEADER`.

    `at` is the moment at which memory is highest, or why it is not known; `by` what the time is
    based on.
    """
    devices = {node.name: devices_of(node) for node in nodes}
    rows = []
    for estimate in estimates:
        if estimate.note == SMALL and estimate.seconds is None:
            continue
        memory = "-" if estimate.memory is None else size_text(estimate.memory)
        if estimate.memory is not None and devices[estimate.step] > 1:
            memory += f" x {devices[estimate.step]}"
        time = "-" if estimate.seconds is None else duration_text(estimate.seconds)
        rows.append([estimate.step, memory, estimate.note, time, estimate.basis])
    return rows
