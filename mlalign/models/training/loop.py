"""One run of a TRL trainer: its arguments, checkpoints, stopping and going on, and the log of its
losses.

Trainers keep their state under `checkpoints/trainer/checkpoint-STEP`. A checkpoint counts once
every rank has written its part and the first rank has left the file `complete.json` in it, with the
digests of its files; only then is the one before removed. A step that is killed while it saves goes
on from the last complete one.
"""

import json
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
    r"train_(runtime|loss|samples_per_second|steps_per_second|tokens_per_second)|total_flos|num_tokens|.*_memory"
)
N_LOG_POINTS = 50


def arguments(kind: type, cfg: TrainConfig, trainer: Mapping, out: Output, **ours: Any) -> Any:
    """The TRL configuration `kind` with a person's keys (`trainer`) and what the step decides
    (`ours`).

    Without a CUDA device: `use_cpu`, no bf16, no gradient checkpointing, unless the person says
    otherwise.
    Raises: UserError for values that TRL refuses, and for batches that do not divide.
    """
    device, steps = accumulation(cfg.batch_size, cfg.device_batch_size, n_devices())
    cpu = not torch.cuda.is_available()
    weak: dict[str, Any] = {
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
        "logging_nan_inf_filter": False,
    }
    weak |= (
        {
            "use_cpu": True,
            "bf16": False,
            "gradient_checkpointing": False,
            "dataloader_pin_memory": False,
        }
        if cpu
        else {}
    )
    weak |= _tracked(out)
    strong = {
        "output_dir": str(out.checkpoints / "trainer"),
        "per_device_train_batch_size": device,
        "gradient_accumulation_steps": steps,
        "seed": cfg.seed,
        "save_strategy": "steps" if cfg.checkpoint_every else "no",
        "save_steps": cfg.checkpoint_every or 1,
        "max_length": cfg.max_length,
        "deepspeed": _deepspeed(cfg.deepspeed),
    }
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    given = {k: v for k, v in trainer.items() if k != "model_init_kwargs"}
    with refusals(keys("trainer", given), "trainer"):
        args = kind(**{**weak, **given, **strong, **ours})
    out.note(
        device="cpu" if args.use_cpu else torch.cuda.get_device_name(),
        ranks=n_devices(),
        bf16=args.bf16,
    )
    transformers.set_seed(cfg.seed)
    return args


def _tracked(out: Output) -> dict[str, Any]:
    """How trackers (`report_to`) name a step: its run is the project or the group, its step (with
    its round) the run in it.

    What TensorBoard writes goes to `runs/NAME/tensorboard/STEP`: it outlives the step. Environment
    variables that are set win.
    """
    if not out.run:
        return {}
    name, step = out.run["name"], out.run.get("step", out.step)
    folder = out.store.root.parent / "runs" / name / "tensorboard" / step
    told = {
        "WANDB_PROJECT": out.run["recipe"],
        "WANDB_RUN_GROUP": name,
        "TENSORBOARD_LOGGING_DIR": str(folder),
    }
    for variable, value in told.items():
        os.environ.setdefault(variable, value)
    return {"run_name": f"{name}/{step}", "project": name}


def weights(
    task: Literal["causal", "classifier"], cfg: TrainConfig, trainer: Mapping, args: Any
) -> modelling.Weights:
    """How this step loads weights; call it after `arguments`, which tell transformers of DeepSpeed."""
    deepspeed = args.hf_deepspeed_config if cfg.deepspeed else None
    return modelling.Weights(
        task, cfg.dtype, cfg.quantization, deepspeed, trainer.get("model_init_kwargs") or {}
    )


def _deepspeed(config: Mapping | None) -> dict | None:
    """A copy for DeepSpeed, which gathers the weights of ZeRO-3 when it saves; one process alone is
    made a group of one.
    """
    if config is None:
        return None
    extensions.build_alone()
    extensions.leave_reducing_to_gloo()
    config = deepcopy(dict(config))
    if zero_stage(config) == 3:
        config["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"] = True
    if "RANK" not in os.environ:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        os.environ |= {
            "RANK": "0",
            "LOCAL_RANK": "0",
            "WORLD_SIZE": "1",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
    return config


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
    config["modules_to_save"] = peft.get(
        "modules_to_save"
    )  # peft adds names of heads, there or not
    if absent := adapters.absent(config, modules, n_layers):
        raise UserError(*absent)


def fit(trainer: Any, cfg: Any, out: Output) -> None:
    """Train to the end, or go on from the last complete checkpoint; notes losses, steps and times
    for the manifest.

    Writes `log_history.json` and `metrics.json`. Raises: Stopped once the state is saved, if the
    step was asked to stop; Diverged if a loss, a gradient or a trained weight is no finite number;
    UserError for arguments that are refused before the first step.
    """
    folder = out.checkpoints / "trainer"
    begin = newest_checkpoint(folder, out.is_main, sharded=trainer.is_deepspeed_enabled)
    watch = _Watch(out, folder, trainer)
    trainer.add_callback(watch)
    sizes = modelling.n_parameters(trainer.model)
    network = trainer.accelerator.unwrap_model(trainer.model)
    stored = str(network.dtype).removeprefix("torch.")
    told = [
        saving.make_generation_savable(network),
        precision.lost_updates(cfg, trainer.args.learning_rate, stored, trainer.args.bf16),
    ]
    for warning in filter(None, told):
        out.warn(warning)
    started = time.monotonic()
    with refusals(
        keys("trainer", cfg.trainer) | keys("deepspeed", cfg.deepspeed),
        "trainer and deepspeed",
        lambda: not watch.begun,
    ):
        trainer.train(resume_from_checkpoint=str(begin) if begin else None)
    seconds = time.monotonic() - started
    if watch.stopped and trainer.state.global_step < trainer.state.max_steps:
        leave_together(trainer.args)
        raise Stopped
    watch.refuse(divergence.check_weights(trainer.model))
    _record(trainer, out, {**sizes, "resumed_from": begin and begin.name}, seconds)


def leave_together(args: Any) -> None:
    """Wait for all ranks, then close the process group: a rank that exits with it open can bring
    down one that still writes.
    """
    args.distributed_state.wait_for_everyone()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def newest_checkpoint(folder: Path, is_main: bool, sharded: bool = False) -> Path | None:
    """The newest checkpoint whose files are those that were saved; the first rank looks, and
    removes the others.

    Raises: UserError if it is sharded over another number of ranks than there are now.
    """
    newest = [_newest_whole(folder) if is_main else None]
    if n_devices() > 1:
        newest = broadcast_object_list(newest)
    if newest[0] is None:
        return None
    checkpoint = folder / newest[0]
    ranks = read_json(checkpoint / checkpoints.COMPLETE)["ranks"]
    if sharded and ranks != n_devices():
        raise UserError(
            f"{checkpoint}: DeepSpeed saved it from {ranks} devices, and now there are"
            f" {n_devices()}; go on with devices={ranks}, or start this step again with force=STEP"
        )
    return checkpoint


def _newest_whole(folder: Path) -> str | None:
    """The name of the newest checkpoint that can be trusted.

    Newer ones are removed: the trainer will write them again.
    """
    for path in reversed(checkpoints.ordered(folder)):
        if (wrong := checkpoints.problem(path)) is None:
            return path.name
        say(
            f"{path}: {wrong}; it is left out, and training goes on from an older one or begins"
            " anew",
            file=sys.stderr,
            flush=True,
        )
        shutil.rmtree(path)
    return None


class _Watch(TrainerCallback):
    """Tells progress, stops when asked (all ranks at the same step), ends training that diverged,
    and marks checkpoints as complete.
    """

    def __init__(self, out: Output, folder: Path, trainer: Any):
        self.out, self.folder, self.trainer = out, folder, trainer
        self.begun = self.stopped = False

    def on_step_begin(self, args, state, control, **_):
        self.begun = True

    def on_step_end(self, args, state, control, **_):
        self.out.progress(state.global_step, state.max_steps, "steps")
        self.refuse(divergence.check_step(self.trainer))
        if _any_rank(self.out.should_stop(), args.device):
            self.stopped = control.should_save = control.should_training_stop = True

    def refuse(self, what: str | None) -> None:
        """End training on all ranks if one of them found something that is no number.

        Raises: Diverged.
        """
        if _any_rank(what is not None, self.trainer.args.device):
            raise divergence.Diverged(
                divergence.message(self.trainer, what or "a number of another device")
            )

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


def _record(trainer: Any, out: Output, sizes: dict[str, Any], seconds: float) -> None:
    log = [entry for entry in map(_of_training, trainer.state.log_history) if "loss" in entry]
    steps, losses = trainer.state.global_step, [(entry["step"], entry["loss"]) for entry in log]
    metrics = {
        "steps": steps,
        "first_loss": losses[0][1] if losses else None,
        "final_loss": losses[-1][1] if losses else None,
    }
    metrics |= {k: sizes[k] for k in ("parameters", "trainable_parameters")}
    every = -(-len(losses) // N_LOG_POINTS) or 1
    here = steps - int(
        (sizes["resumed_from"] or "-0").rpartition("-")[2]
    )  # steps that `seconds` stands for
    order = trainer.steps
    rows = sum(order.rows_of(step % order.n_steps) for step in range(steps - here, steps))
    work = {"rows": rows, "seconds": round(seconds, 2)}
    out.note(
        train={**metrics, "resumed_from": sizes["resumed_from"], **work, "log": losses[::every]}
    )
    if out.is_main:
        write_json(out.path / "metrics.json", metrics)
        (out.path / "log_history.json").write_text(
            "[\n" + ",\n".join(json.dumps(e, sort_keys=True) for e in log) + "\n]\n",
            encoding="utf-8",
        )


def _of_training(entry: Mapping) -> dict:
    return {k: v for k, v in entry.items() if not RUNTIME.fullmatch(k)}
