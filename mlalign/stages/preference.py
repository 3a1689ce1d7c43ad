"""Preference optimisation through TRL: every loss of its DPOTrainer, KTO, ORPO, CPO and SimPO,
behind `loss`.

Reads a policy (slot `model`), preference rows, and optionally the reference (slot `reference`; by
default the policy as it comes in). Writes `model/` (a plain Hugging Face directory, or a LoRA
adapter), `metrics.json` and `log_history.json`. The reference's log-probabilities are computed
once, before training, into TRL's own cache under `checkpoints/`; a continued run finds them there.

    loss=sigmoid                DPO (Rafailov et al. 2023); ipo, hinge, robust, apo_zero, … are the other losses of DPOTrainer
    loss=sigmoid+bco_pair+sft   a sum of them (MPO), with trainer.loss_weights
    loss=kto                    KTO (Ethayarajh et al. 2024) on pairs taken apart, or on unpaired rows; apo_zero_unpaired likewise
    loss=orpo | cpo | simpo     without a reference (Hong et al. 2024; Xu et al. 2024; Meng et al. 2024)
    loss=arpo                   a function of log-probabilities and columns of the rows: a file in
                                `mlalign/methods/losses/`, or `package.module:function`
"""

import dataclasses
import functools
import importlib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mlalign import methods
from mlalign.core import rows
from mlalign.core.errors import UserError, nearest
from mlalign.core.model import Model
from mlalign.core.schema import HOW_TRAINER, class_source, source_file, verbatim, what
from mlalign.core.stage import Inputs, Output
from mlalign.methods import losses
from mlalign.models.templates import ChatTemplate
from mlalign.models.training import config
from mlalign.models.training.config import (
    ALARMS,
    IMPORTS,
    RESERVED_TRAINER,
    Objective,
    TrainConfig,
    packages,
)

__all__ = ["ALARMS", "Config", "identity", "imports", "packages", "run"]

VERSION = 2
KIND = "model"
SLOTS = {"model": "model", "rows": "rows", "reference": "model?"}
SHARDED = None
DISTRIBUTED = True
WORK = "training"


class Method(NamedTuple):
    """A TRL trainer: where its configuration is defined, what it adds, and whether it measures
    against a reference.
    """

    name: str
    module: str
    config: str
    adds: Mapping[str, Any]
    reference: bool


DPO = Method("DPO", "trl", "trl.trainer.dpo_config", {}, reference=True)
OTHERS = {
    "kto": Method("KTO", "trl", "trl.trainer.kto_config", {"loss_type": "kto"}, reference=True),
    "apo_zero_unpaired": Method(
        "KTO", "trl", "trl.trainer.kto_config", {"loss_type": "apo_zero_unpaired"}, reference=True
    ),
    "orpo": Method(
        "ORPO", "trl.experimental.orpo", "trl.experimental.orpo.orpo_config", {}, reference=False
    ),
    "cpo": Method(
        "CPO",
        "trl.experimental.cpo",
        "trl.experimental.cpo.cpo_config",
        {"loss_type": "sigmoid"},
        reference=False,
    ),
    "simpo": Method(
        "CPO",
        "trl.experimental.cpo",
        "trl.experimental.cpo.cpo_config",
        {"loss_type": "simpo", "cpo_alpha": 0.0},
        reference=False,
    ),
}
# Arguments of DPOTrainer that belong to its own losses, or to a reference that a loss lacks.
NOT_READ = (
    "discopop_tau",
    "f_alpha_divergence_coef",
    "f_divergence_type",
    "ld_alpha",
    "loss_weights",
    "use_weighting",
)
OF_REFERENCE = ("precompute_ref_log_probs", "precompute_ref_batch_size", "sync_ref_model")
RESERVED = {**RESERVED_TRAINER, "loss_type": "set loss on the step", "beta": "set beta on the step"}


def _config_source(around: Mapping) -> str:
    method = OTHERS.get(around.get("loss", "sigmoid"), DPO)
    return f"{method.config}:{method.name}Config"


@dataclasses.dataclass
class Config(TrainConfig):
    loss: str = what("sigmoid", "the objective; see the list above")
    loss_args: dict[str, Any] = what(
        {},
        "options of a loss that is a function, by the names of its keyword parameters",
        added=True,
    )
    beta: float = what(
        0.1,
        "strength of the tie to the reference; ORPO: weight of the odds ratio; CPO and SimPO: scale"
        " of the rewards",
    )
    trainer: dict[str, Any] = verbatim(
        _config_source,
        "arguments of the TRL configuration that the loss belongs to, under their own names",
        how_keys=HOW_TRAINER,
        reserved=RESERVED,
    )


def identity(cfg: Config, digest: Callable[[Path], str]) -> dict[str, Any]:
    """As for every training stage; also refuses a loss that TRL does not have."""
    if found := problems(cfg):
        raise UserError(*found)
    own: dict[str, Any] = {}
    if _method(cfg).name == "KTO":
        # It estimates its KL term from the rows that a device takes at a time.
        own["kl_rows"] = cfg.device_batch_size
    if losses.is_name(cfg.loss):
        own["loss_source"] = methods.source_digest(losses.__name__, cfg.loss, "loss")
    return {**config.identity(cfg, digest), **own}


def _method(cfg: Config) -> Method:
    """The trainer that a loss belongs to."""
    if losses.is_name(cfg.loss):
        return DPO._replace(reference=losses.has_reference(losses.load(cfg.loss)))
    return OTHERS.get(cfg.loss, DPO)


def problems(cfg: Config) -> list[str]:
    """What is wrong with a configuration beyond its types, as messages that begin with the key."""
    found = config.problems(cfg)
    of_loss = _of_function(cfg) if losses.is_name(cfg.loss) else _of_trl(cfg)
    if losses.is_name(cfg.loss) and of_loss:
        return found + of_loss
    found += of_loss
    method = _method(cfg)
    if cfg.beta < 0 or (cfg.beta == 0 and method.reference):
        least = "above 0" if method.reference else "0 or more"
        found.append(
            f"beta: must be {least}, got {cfg.beta}: below 0, the rejected answers are learned"
        )
    if method.name == "KTO" and cfg.device_batch_size is None:
        found.append(
            f"device_batch_size: {cfg.loss} estimates its KL term from the rows a device takes at a"
            " time, so it has to be set"
        )
    return found


def _of_trl(cfg: Config) -> list[str]:
    """What is wrong with a loss that TRL computes, or a sum of such losses."""
    known = dpo_losses()
    every = known | set(OTHERS) | set(losses.names())
    parts = [cfg.loss] if cfg.loss in OTHERS else cfg.loss.split("+")
    found = []
    for part in parts:
        if len(parts) > 1 and part in OTHERS:
            found.append(f"loss: {part} has a trainer of its own and cannot be summed with others")
        elif len(parts) > 1 and losses.is_name(part):
            found.append(f"loss: {part} is a function of its own and cannot be summed with others")
        elif known and part not in every:
            found.append(f"loss: unknown loss {part!r}{nearest(part, every)}")
    if "exo_pair" in parts and not cfg.trainer.get("label_smoothing"):
        found.append("trainer.label_smoothing: exo_pair needs one above 0; the paper takes 1e-3")
    if cfg.loss_args:
        found.append(f"loss_args: {cfg.loss} is TRL's, which has its options under `trainer`")
    return found


def _of_function(cfg: Config) -> list[str]:
    """What is wrong with a loss of `mlalign.methods.losses`."""
    found = losses.problems(cfg.loss, cfg.loss_args)
    if found:
        return found
    loss = losses.load(cfg.loss)
    for name in cfg.trainer:
        if name in NOT_READ or (name in OF_REFERENCE and not losses.has_reference(loss)):
            found.append(f"trainer.{name}: {cfg.loss} does not use it; leave it out")
    if cfg.trainer.get("label_smoothing") and not methods.takes(loss, "label_smoothing"):
        found.append(f"trainer.label_smoothing: {cfg.loss} does not take it; leave it out")
    return found


@functools.cache
def dpo_losses() -> frozenset[str]:
    """The losses of TRL's DPOTrainer, read from the source of its configuration; empty if TRL is
    not installed.
    """
    path = source_file(DPO.config)
    if path is None:
        return frozenset()
    told = (
        class_source(path, "DPOConfig")
        .partition("\n    loss_type:")[2]
        .partition("\n    loss_weights:")[0]
    )
    return frozenset(re.findall(r"`\\*'(\w+)\\*'`", told))


def accepts(cfg: Config) -> dict[str, tuple[str, ...]]:
    on_one_side = OTHERS.get(cfg.loss, DPO).name == "KTO"
    return {"rows": ("preference", "unpaired") if on_one_side else ("preference",)}


def objective(cfg: Config) -> Objective:
    """KTO takes a pair apart into two examples. Losses without a reference hold all logits."""
    method = OTHERS.get(cfg.loss, DPO)
    takes_apart = method.name == "KTO"
    return Objective(
        learning_rate=1e-6,
        examples=2 if takes_apart else 1,
        sequences=1 if takes_apart else 2,
        loss="fused" if method.reference else "logits",
        reference=method.reference,
    )


def imports(cfg: Config, inputs: Mapping[str, Any]) -> list[str]:
    return ["trl.trainer.dpo_trainer", *IMPORTS]


def run(cfg: Config, inputs: Inputs, out: Output) -> None:
    if found := problems(cfg):
        raise UserError(*found)
    method = _method(cfg)
    model, reference, source = (
        inputs.model("model"),
        _reference(cfg, inputs, method),
        inputs.rows("rows"),
    )
    columns = _columns(method, source)

    from mlalign.models import modelling
    from mlalign.models.training import card, loop, pair_loss, trainset

    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    trl = importlib.import_module(method.module)
    adds = _arguments(cfg, method)
    args = loop.arguments(
        getattr(trl, f"{method.name}Config"), cfg, {**adds, **cfg.trainer}, out, beta=cfg.beta
    )
    if method.name == "KTO" and args.per_device_train_batch_size < 2:
        raise UserError(
            "device_batch_size: KTO needs at least 2 rows on a device at a time: it estimates its"
            " KL term from mismatched pairs"
        )
    tokenizer = modelling.load_tokenizer(model, cfg.chat_template)
    template = ChatTemplate(tokenizer, cfg.chat_template_kwargs, cfg.date)
    modelling.warn_of_no_end(out, template, tokenizer)
    objective = _objective(cfg) if losses.is_name(cfg.loss) else None
    further = list(objective.columns) if objective else []
    examples = trainset.Examples(
        columns,
        _taken_apart if columns == "unpaired" else functools.partial(_pair, further=further),
        "truncated",
        keep_end=cfg.trainer.get("truncation_mode") == "keep_end",
        further=further,
    )
    train = trainset.load(cfg, source, out, tokenizer, examples, args.distributed_state)
    weights = loop.weights("causal", cfg, cfg.trainer, args)
    network, peft_config = modelling.open_for_training(model, weights, cfg.peft, cfg.seed)
    precomputed = method.reference and args.precompute_ref_log_probs
    if model.base and cfg.peft is not None and method.reference and not precomputed:
        reference = (
            reference or model
        )  # in training the policy keeps no second adapter: transformers would go on from the wrong one
    given: dict[str, Any] = {}
    if reference:
        given["ref_model"] = modelling.load_merged(reference, weights)
    # KTO goes through its rows in order, so they are mixed here.
    dataset = train.dataset.shuffle(seed=cfg.seed) if method.name == "KTO" else train.dataset
    kind = getattr(trl, f"{method.name}Trainer")
    if objective:
        kind = type("PairLossTrainer", (pair_loss.PairLoss, kind), {})
        given["objective"] = objective
    trainer = loop.trainer_of(kind, cfg, network, args, dataset, tokenizer, peft_config, **given)
    if precomputed:
        given.clear()
        modelling.drop_reference(trainer)
    loop.fit(trainer, cfg, out)
    modelling.end_at(trainer, template)
    modelling.save(trainer, out.path / "model")
    if out.is_main:
        trained_by = "on TRL's DPOTrainer" if objective else f"TRL's {method.name}Trainer"
        text = f"Preference optimisation with the loss {cfg.loss}, beta {cfg.beta} ({trained_by})."
        card.write(
            out.path / "model",
            card.gather(out, inputs, text, model, modelling.rank_of(trainer), True, train.sources),
        )
    loop.leave_together(args)


def _reference(cfg: Config, inputs: Inputs, method: Method) -> Model | None:
    """The reference if it is another model than the policy that comes in.

    Raises: UserError if the loss takes none.
    """
    if "reference" not in inputs:
        return None
    if not method.reference:
        raise UserError(
            f"inputs.reference: {cfg.loss} has no reference model; leave it out (set it to null)"
        )
    reference = inputs.model("reference")
    return None if reference.path == inputs.model("model").path else reference


def _columns(method: Method, source: Path) -> str:
    kind = rows.kind_of(source)
    if kind == "preference":
        return "unpaired" if method.name == "KTO" else "preference"
    if kind == "unpaired" and method.name == "KTO":
        return "unpaired"
    raise UserError(
        f"{source}: holds {kind} rows; preference trains on preference rows (loss=kto on unpaired"
        " rows too)"
    )


def _arguments(cfg: Config, method: Method) -> dict[str, Any]:
    """What the method adds to a person's trainer arguments, which may override it."""
    if method.name in ("DPO", "KTO"):
        precompute = not cfg.trainer.get("sync_ref_model", False)
        losses = {"loss_type": cfg.loss.split("+")} if method is DPO else {}
        return {**method.adds, **losses, "precompute_ref_log_probs": precompute}
    return dict(method.adds)


def _objective(cfg: Config) -> Any:
    """A loss with all its options, as `training.pair_loss` takes it."""
    from mlalign.models.training.pair_loss import Objective

    loss = losses.load(cfg.loss)
    options = losses.options(loss, cfg.loss_args)
    filled = {"beta": cfg.beta, "label_smoothing": cfg.trainer.get("label_smoothing", 0.0)}
    options |= {name: value for name, value in filled.items() if methods.takes(loss, name)}
    has_reference = losses.has_reference(loss)
    apply = functools.partial(losses.apply, cfg.loss, options)
    return Objective(apply, losses.columns(loss), has_reference)


def _pair(row: Mapping, further: Sequence[str] = ()) -> list[dict]:
    """The example of a pair. Raises: UserError for a row without a value that the loss reads."""
    example = {c: row[c] for c in ("prompt", "chosen", "rejected", *further)}
    for name in further:
        if example[name] is None:
            place = f"row {row['id']} ({row['prompt_lang']})"
            mend = "give rows that have it, such as those of `pairs`, or take another loss"
            raise UserError(f"{place}: has no {name}, which the loss reads; {mend}")
    return [example]


def _taken_apart(row: Mapping) -> list[dict]:
    """The two halves of a pair, labelled; an unpaired row as it is."""
    if "label" in row:
        return [{c: row[c] for c in ("prompt", "completion", "label")}]
    return [
        {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
        for side in ("chosen", "rejected")
    ]
