"""One run of a TRL trainer: arguments, checkpoints, stopping and resuming, and the log of losses.

Trainers keep their state under `checkpoints/trainer/checkpoint-STEP`. A checkpoint counts once
every rank has written its part and the first rank has written `complete.json` with the digests of
its files; only then is the one before removed. A step that is killed while saving resumes from the
last complete checkpoint.
"""

import json
import math
import os
import re
import shutil
import socket
import sys
import time
from collections.abc import Collection, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from accelerate.utils import broadcast_object_list
from transformers import TrainerCallback

from mlalign.core import adapters
from mlalign.core.errors import UserError
from mlalign.core.refusals import keys, refusals
from mlalign.core.stage import Output, Stopped
from mlalign.core.store import read_json, write_json
from mlalign.core.terminal import say
from mlalign.models import checkpoints, modelling, saving
from mlalign.models.training import batches, divergence, extensions, precision
from mlalign.models.training.config import TrainConfig, accumulation, n_devices, zero_stage

# What trainers log about this machine and this process, not about the training.
RUNTIME = re.compile(
    r"train_(runtime|loss|samples_per_second|steps_per_second|tokens_per_second)"
    r"|total_flos|num_tokens|.*_memory"
)
ON_CPU = {
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "dataloader_pin_memory": False,
}
N_LOG_POINTS = 50


def arguments(kind: type, cfg: TrainConfig, trainer: Mapping, out: Output, **ours: Any) -> Any:
    """The TRL configuration `kind` with a person's keys (`trainer`) and the stage's own (`ours`).

    Without a CUDA device the defaults are `ON_CPU`.

    Raises: UserError for values that TRL refuses, and for batches that do not divide.
    """
    device_rows, n_accumulated = accumulation(cfg.batch_size, cfg.device_batch_size, n_devices())
    defaults: dict[str, Any] = {
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
        "logging_nan_inf_filter": False,
    }
    if not torch.cuda.is_available():
        defaults |= ON_CPU
    defaults |= _tracking(out)
    fixed = {
        "output_dir": str(out.checkpoints / "trainer"),
        "per_device_train_batch_size": device_rows,
        "gradient_accumulation_steps": n_accumulated,
        "seed": cfg.seed,
        "save_strategy": "steps" if cfg.checkpoint_every else "no",
        "save_steps": cfg.checkpoint_every or 1,
        "max_length": cfg.max_length,
        "deepspeed": _deepspeed(cfg.deepspeed),
    }
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    own = {name: value for name, value in trainer.items() if name != "model_init_kwargs"}
    with refusals(keys("trainer", own), "trainer"):
        args = kind(**{**defaults, **own, **fixed, **ours})
    device = "cpu" if args.use_cpu else torch.cuda.get_device_name()
    out.note(device=device, ranks=n_devices(), bf16=args.bf16)
    transformers.set_seed(cfg.seed)
    return args


def _tracking(out: Output) -> dict[str, Any]:
    """How trackers (`report_to`) name this step.

    The run is the project or the group, and the step (with its round) the tracker's run.
    TensorBoard writes to `runs/NAME/tensorboard/STEP`, which outlives the step. Environment
    variables that are set win.
    """
    if not out.run:
        return {}
    name = out.run["name"]
    step = out.run.get("step", out.step)
    folder = out.store.root.parent / "runs" / name / "tensorboard" / step
    environment = {
        "WANDB_PROJECT": out.run["recipe"],
        "WANDB_RUN_GROUP": name,
        "TENSORBOARD_LOGGING_DIR": str(folder),
    }
    for variable, value in environment.items():
        os.environ.setdefault(variable, value)
    return {"run_name": f"{name}/{step}", "project": name}


def weights(
    task: Literal["causal", "classifier"], cfg: TrainConfig, trainer: Mapping, args: Any
) -> modelling.Weights:
    """How this step loads weights. Call `arguments` first: it tells transformers of DeepSpeed."""
    deepspeed = args.hf_deepspeed_config if cfg.deepspeed else None
    options = trainer.get("model_init_kwargs") or {}
    return modelling.Weights(task, cfg.dtype, cfg.quantization, deepspeed, options)


def _deepspeed(config: Mapping | None) -> dict | None:
    """A copy of the DeepSpeed configuration, which gathers the weights of ZeRO-3 to save them.

    A process that was started alone becomes a group of one.
    """
    if config is None:
        return None
    extensions.build_alone()
    extensions.leave_reducing_to_gloo()
    config = deepcopy(dict(config))
    if zero_stage(config) == 3:
        config["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"] = True
    if "RANK" not in os.environ:
        os.environ |= {
            "RANK": "0",
            "LOCAL_RANK": "0",
            "WORLD_SIZE": "1",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(_free_port()),
        }
    return config


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def trainer_of(
    kind: type,
    cfg: Any,
    network: Any,
    args: Any,
    data: Any,
    tokenizer: Any,
    adapter: Any,
    **more: Any,
) -> Any:
    """A TRL trainer of this kind, with the batches of `WholeSteps`.

    Raises: UserError for arguments that the trainer or peft refuses, for modules that the model
        lacks, and for fewer rows than a step needs.
    """
    if args.dataloader_drop_last and len(data) < cfg.batch_size:
        raise UserError(
            f"trainer.dataloader_drop_last: leaves nothing to train on, as the {len(data)} rows are"
            f" fewer than batch_size={cfg.batch_size}; leave it out, or lower batch_size"
        )
    whole = type(f"Whole{kind.__name__}", (batches.WholeSteps, kind), {})
    modules = [name for name, _ in network.named_modules()]
    with refusals(keys("trainer", cfg.trainer) | keys("peft", cfg.peft), "trainer and peft"):
        trainer = whole(
            network,
            args=args,
            train_dataset=data,
            processing_class=tokenizer,
            peft_config=adapter,
            **more,
        )
    if adapter is not None:
        _check_adapter(trainer, cfg.peft, modules)
    return trainer


def _check_adapter(trainer: Any, peft: Mapping, modules: Collection[str]) -> None:
    """Raises: UserError if a new adapter was to have modules or layers that its base lacks."""
    network = trainer.accelerator.unwrap_model(trainer.model)
    n_layers = getattr(network.config.get_text_config(), "num_hidden_layers", None)
    config = network.peft_config["default"].to_dict()
    # peft adds the names of heads, whether the model has them or not.
    config["modules_to_save"] = peft.get("modules_to_save")
    absent = adapters.absent(config, modules, n_layers)
    if absent:
        raise UserError(*absent)


def fit(trainer: Any, cfg: Any, out: Output) -> None:
    """Train to the end, from the last complete checkpoint if there is one.

    Writes `log_history.json` and `metrics.json`, and notes losses, steps and times for the
    manifest. Raises: Stopped once the state is saved, if the step was asked to stop; Diverged if a
    loss, a gradient or a trained weight is not finite; UserError for arguments that are refused
    before the first step.
    """
    folder = out.checkpoints / "trainer"
    checkpoint = newest_checkpoint(folder, out.is_main, sharded=trainer.is_deepspeed_enabled)
    watch = _Watch(out, folder, trainer)
    trainer.add_callback(watch)
    sizes = modelling.n_parameters(trainer.model)
    _warn(trainer, cfg, out)

    begun = time.monotonic()
    own = keys("trainer", cfg.trainer) | keys("deepspeed", cfg.deepspeed)
    with refusals(own, "trainer and deepspeed", lambda: not watch.begun):
        resumed_from = str(checkpoint) if checkpoint else None
        trainer.train(resume_from_checkpoint=resumed_from)
    seconds = time.monotonic() - begun

    if watch.stopped and trainer.state.global_step < trainer.state.max_steps:
        leave_together(trainer.args)
        raise Stopped
    watch.refuse(divergence.check_weights(trainer.model))
    _record(trainer, out, sizes, checkpoint, seconds)


def _warn(trainer: Any, cfg: Any, out: Output) -> None:
    """Warn of what can be known to go wrong before training begins."""
    network = trainer.accelerator.unwrap_model(trainer.model)
    args = trainer.args
    stored = str(network.dtype).removeprefix("torch.")
    warnings = [
        saving.make_generation_savable(network),
        precision.lost_updates(cfg, args.learning_rate, stored, args.bf16),
    ]
    for warning in warnings:
        if warning:
            out.warn(warning)


def leave_together(args: Any) -> None:
    """Wait for all ranks, then close the process group.

    A rank that exits with the group open can bring down one that still writes.
    """
    args.distributed_state.wait_for_everyone()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def newest_checkpoint(folder: Path, is_main: bool, sharded: bool = False) -> Path | None:
    """The newest intact checkpoint; the first rank looks for it, and removes newer ones.

    Raises: UserError if it is sharded over another number of ranks than there are now.
    """
    name = _newest_intact(folder) if is_main else None
    if n_devices() > 1:
        (name,) = broadcast_object_list([name])
    if name is None:
        return None
    checkpoint = folder / name
    ranks = read_json(checkpoint / checkpoints.COMPLETE)["ranks"]
    if sharded and ranks != n_devices():
        raise UserError(
            f"{checkpoint}: DeepSpeed saved it from {ranks} devices, and now there are"
            f" {n_devices()}; go on with devices={ranks}, or start this step again with force=STEP"
        )
    return checkpoint


def _newest_intact(folder: Path) -> str | None:
    """The name of the newest checkpoint that can be trusted.

    Newer ones are removed: the trainer will write them again.
    """
    for path in reversed(checkpoints.ordered(folder)):
        problem = checkpoints.problem(path)
        if problem is None:
            return path.name
        say(
            f"{path}: {problem}; it is left out, and training goes on from an older one or begins"
            " anew",
            file=sys.stderr,
            flush=True,
        )
        shutil.rmtree(path)
    return None


class _Watch(TrainerCallback):
    """Reports progress, marks checkpoints as complete, and ends training that diverged.

    If the step is asked to stop, all ranks stop after the same optimizer step.
    """

    def __init__(self, out: Output, folder: Path, trainer: Any):
        self.out = out
        self.folder = folder
        self.trainer = trainer
        self.begun = False
        self.stopped = False

    def on_step_begin(self, args, state, control, **_):
        self.begun = True

    def on_step_end(self, args, state, control, **_):
        self.out.progress(state.global_step, state.max_steps, "steps")
        self.refuse(divergence.check_step(self.trainer))
        if _any_rank(self.out.should_stop(), args.device):
            self.stopped = True
            control.should_save = True
            control.should_training_stop = True

    def refuse(self, what: str | None) -> None:
        """End training on all ranks if `what` is not finite on one of them.

        Raises: Diverged.
        """
        if _any_rank(what is not None, self.trainer.args.device):
            what = what or "a number of another device"
            raise divergence.Diverged(divergence.message(self.trainer, what))

    def on_save(self, args, state, control, **_):
        self.refuse(divergence.check_weights(self.trainer.model))
        if n_devices() > 1:
            torch.distributed.barrier()
        if not self.out.is_main:
            return
        self.out.check_inputs()
        saved = self.folder / f"checkpoint-{state.global_step}"
        checkpoints.complete(saved, step=state.global_step, ranks=n_devices())
        for older in self.folder.glob("checkpoint-*"):
            if older != saved:
                shutil.rmtree(older)


def _any_rank(flag: bool, device: torch.device) -> bool:
    if n_devices() == 1:
        return flag
    flags = torch.tensor([int(flag)], device=device)
    torch.distributed.all_reduce(flags, op=torch.distributed.ReduceOp.MAX)
    return bool(flags.item())


def _record(
    trainer: Any, out: Output, sizes: dict[str, int], checkpoint: Path | None, seconds: float
) -> None:
    """Write metrics and losses; `seconds` were spent on the steps since `checkpoint`."""
    n_steps = trainer.state.global_step
    log = [_without_runtime(entry) for entry in trainer.state.log_history if "loss" in entry]
    losses = [(entry["step"], entry["loss"]) for entry in log]
    metrics = {
        "steps": n_steps,
        "first_loss": losses[0][1] if losses else None,
        "final_loss": losses[-1][1] if losses else None,
        **sizes,
    }

    first_step = int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0
    order = trainer.steps
    n_rows = sum(order.rows_of(step % order.n_steps) for step in range(first_step, n_steps))
    every = max(1, math.ceil(len(losses) / N_LOG_POINTS))
    train = {
        **metrics,
        "resumed_from": checkpoint.name if checkpoint else None,
        "rows": n_rows,
        "seconds": round(seconds, 2),
        "log": losses[::every],
    }
    out.note(train=train)
    if out.is_main:
        write_json(out.path / "metrics.json", metrics)
        lines = [json.dumps(entry, sort_keys=True) for entry in log]
        text = "[\n" + ",\n".join(lines) + "\n]\n"
        (out.path / "log_history.json").write_text(text, encoding="utf-8")


def _without_runtime(entry: Mapping) -> dict:
    return {name: value for name, value in entry.items() if not RUNTIME.fullmatch(name)}
