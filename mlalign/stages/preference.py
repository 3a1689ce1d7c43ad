"""Preference optimisation through TRL, with the loss that `loss` names.

Reads a policy (slot `model`), preference rows, and optionally the reference (slot `reference`; by
default the policy as it comes in). Writes `model/` (a plain Hugging Face directory, or a LoRA
adapter), `metrics.json` and `log_history.json`. The reference's log-probabilities are computed
once, before training, into TRL's own cache under `checkpoints/`; a continued run finds them there.

    loss=sigmoid                DPO (Rafailov et al. 2023); ipo, hinge, robust, apo_zero, … are the
                                other losses of TRL's DPOTrainer
    loss=sigmoid+bco_pair+sft   a sum of them (MPO), with trainer.loss_weights
    loss=kto                    KTO (Ethayarajh et al. 2024) on pairs taken apart, or on unpaired
                                rows; apo_zero_unpaired likewise
    loss=orpo | cpo | simpo     without a reference (Hong et al. 2024; Xu et al. 2024;
                                Meng et al. 2024)
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
from mlalign.core import kinds, rows
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
    """A TRL trainer: where its configuration is, what it adds, and whether it has a reference."""

    name: str
    module: str
    config: str
    adds: Mapping[str, Any]
    reference: bool


DPO = Method("DPO", "trl", "trl.trainer.dpo_config", {}, reference=True)
KTO = Method("KTO", "trl", "trl.trainer.kto_config", {}, reference=True)
ORPO_MODULE, CPO_MODULE = "trl.experimental.orpo", "trl.experimental.cpo"
ORPO = Method("ORPO", ORPO_MODULE, f"{ORPO_MODULE}.orpo_config", {}, reference=False)
CPO = Method("CPO", CPO_MODULE, f"{CPO_MODULE}.cpo_config", {}, reference=False)
OTHERS = {
    "kto": KTO._replace(adds={"loss_type": "kto"}),
    "apo_zero_unpaired": KTO._replace(adds={"loss_type": "apo_zero_unpaired"}),
    "orpo": ORPO,
    "cpo": CPO._replace(adds={"loss_type": "sigmoid"}),
    "simpo": CPO._replace(adds={"loss_type": "simpo", "cpo_alpha": 0.0}),
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
    _check(cfg)
    own: dict[str, Any] = {}
    if _method(cfg).name == "KTO":
        # KTO estimates its KL term from the rows that a device takes at a time.
        own["kl_rows"] = cfg.device_batch_size
    if losses.is_name(cfg.loss):
        own["loss_source"] = methods.source_digest(losses.__name__, cfg.loss, "loss")
    return {**config.identity(cfg, digest), **own}


def _method(cfg: Config) -> Method:
    """The trainer that a loss belongs to."""
    if losses.is_name(cfg.loss):
        return DPO._replace(reference=losses.has_reference(losses.load(cfg.loss)))
    return OTHERS.get(cfg.loss, DPO)


def _check(cfg: Config) -> None:
    messages = problems(cfg)
    if messages:
        raise UserError(*messages)


def problems(cfg: Config) -> list[str]:
    """What is wrong with a configuration beyond its types, as messages that begin with the key."""
    messages = config.problems(cfg)
    if losses.is_name(cfg.loss):
        of_loss = _function_problems(cfg)
        if of_loss:
            return messages + of_loss
    else:
        messages += _trl_problems(cfg)

    method = _method(cfg)
    if cfg.beta < 0 or (cfg.beta == 0 and method.reference):
        least = "above 0" if method.reference else "0 or more"
        messages.append(
            f"beta: must be {least}, got {cfg.beta}: below 0, the rejected answers are learned"
        )
    if method.name == "KTO" and cfg.device_batch_size is None:
        messages.append(
            f"device_batch_size: {cfg.loss} estimates its KL term from the rows a device takes at a"
            " time, so it has to be set"
        )
    return messages


def _trl_problems(cfg: Config) -> list[str]:
    """What is wrong with a loss that TRL computes, or a sum of such losses."""
    known = dpo_losses()
    every = known | set(OTHERS) | set(losses.names())
    parts = [cfg.loss] if cfg.loss in OTHERS else cfg.loss.split("+")
    is_sum = len(parts) > 1
    messages = []
    for part in parts:
        if is_sum and part in OTHERS:
            own = "has a trainer of its own"
            messages.append(f"loss: {part} {own} and cannot be summed with others")
        elif is_sum and losses.is_name(part):
            own = "is a function of its own"
            messages.append(f"loss: {part} {own} and cannot be summed with others")
        elif known and part not in every:
            messages.append(f"loss: unknown loss {part!r}{nearest(part, every)}")
    if "exo_pair" in parts and not cfg.trainer.get("label_smoothing"):
        messages.append("trainer.label_smoothing: exo_pair needs one above 0; the paper takes 1e-3")
    if cfg.loss_args:
        messages.append(f"loss_args: {cfg.loss} is TRL's, which has its options under `trainer`")
    return messages


def _function_problems(cfg: Config) -> list[str]:
    """What is wrong with a loss of `mlalign.methods.losses`."""
    messages = losses.problems(cfg.loss, cfg.loss_args)
    if messages:
        return messages
    loss = losses.load(cfg.loss)
    unused = set(NOT_READ)
    if not losses.has_reference(loss):
        unused |= set(OF_REFERENCE)
    for name in cfg.trainer:
        if name in unused:
            messages.append(f"trainer.{name}: {cfg.loss} does not use it; leave it out")
    if cfg.trainer.get("label_smoothing") and not methods.takes(loss, "label_smoothing"):
        messages.append(f"trainer.label_smoothing: {cfg.loss} does not take it; leave it out")
    return messages


@functools.cache
def dpo_losses() -> frozenset[str]:
    """The losses of TRL's DPOTrainer, read from its source; empty if TRL is not installed."""
    path = source_file(DPO.config)
    if path is None:
        return frozenset()
    _, _, rest = class_source(path, "DPOConfig").partition("\n    loss_type:")
    documentation, _, _ = rest.partition("\n    loss_weights:")
    return frozenset(re.findall(r"`\\*'(\w+)\\*'`", documentation))


def accepts(cfg: Config) -> dict[str, tuple[str, ...]]:
    if OTHERS.get(cfg.loss, DPO).name == "KTO":
        return {"rows": ("preference", "unpaired")}
    return {"rows": ("preference",)}


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


def misfits(cfg: Config, inputs: kinds.Inputs) -> list[str]:
    """A reference that the loss would not use, unless it is just the model that is trained."""
    references = {given.name for given in inputs.get("reference", ())}
    models = {given.name for given in inputs.get("model", ())}
    unused = not _method(cfg).reference and not references <= models
    return [_no_reference(cfg)] if unused else []


def _no_reference(cfg: Config) -> str:
    return (
        f"inputs.reference: {cfg.loss} has no reference model; leave it out (in a recipe,"
        " `reference: null`)"
    )


def imports(cfg: Config, inputs: Mapping[str, Any]) -> list[str]:
    return ["trl.trainer.dpo_trainer", *IMPORTS]


def run(cfg: Config, inputs: Inputs, out: Output) -> None:
    _check(cfg)
    method = _method(cfg)
    model, source = inputs.model("model"), inputs.rows("rows")
    reference = _reference(cfg, inputs, method)
    columns = _columns(method, source)

    from mlalign.models import modelling, saving
    from mlalign.models.training import card, loop, trainset

    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    trl = importlib.import_module(method.module)
    args = _arguments(cfg, method, getattr(trl, f"{method.name}Config"), out)
    tokenizer = modelling.load_tokenizer(model, cfg.chat_template)
    template = ChatTemplate(tokenizer, cfg.chat_template_kwargs, cfg.date)
    saving.warn_of_no_end(out, template, tokenizer)
    objective = _objective(cfg) if losses.is_name(cfg.loss) else None
    examples = _examples(cfg, columns, objective)
    train = trainset.load(cfg, source, out, tokenizer, examples, args.distributed_state)

    weights = loop.weights("causal", cfg, cfg.trainer, args)
    network, peft_config = modelling.open_for_training(model, weights, cfg.peft, cfg.seed)
    precomputed = method.reference and args.precompute_ref_log_probs
    further: dict[str, Any] = {"objective": objective} if objective else {}
    reference = reference or _own_reference(cfg, model, method, precomputed)
    if reference:
        further["ref_model"] = modelling.load_merged(reference, weights)
    dataset = train.dataset
    if method.name == "KTO":
        dataset = dataset.shuffle(seed=cfg.seed)  # KTO goes through its rows in order
    kind = _trainer_kind(getattr(trl, f"{method.name}Trainer"), objective)
    trainer = loop.trainer_of(kind, cfg, network, args, dataset, tokenizer, peft_config, **further)
    if precomputed:
        further.clear()  # so that nothing holds the reference's weights
        modelling.drop_reference(trainer)
    loop.fit(trainer, cfg, out)

    saving.end_at(trainer, template)
    saving.save(trainer, out.path / "model")
    if out.is_main:
        text, rank = _description(cfg, method), saving.rank_of(trainer)
        facts = card.gather(out, inputs, text, model, rank, True, train.sources)
        card.write(out.path / "model", facts)
    loop.leave_together(args)


def _reference(cfg: Config, inputs: Inputs, method: Method) -> Model | None:
    """The reference, if it is another model than the policy that comes in.

    Raises: UserError if it is another model, and the loss takes none.
    """
    if "reference" not in inputs:
        return None
    reference = inputs.model("reference")
    if reference.path == inputs.model("model").path:
        return None
    if not method.reference:
        raise UserError(_no_reference(cfg))
    return reference


def _own_reference(
    cfg: Config,
    model: Model,
    method: Method,
    precomputed: bool,
) -> Model | None:
    """The policy as it comes in, where the trainer cannot take it from the policy itself.

    In training the policy keeps no second adapter: transformers would go on from the wrong one.
    """
    continues_adapter = model.base is not None and cfg.peft is not None
    if continues_adapter and method.reference and not precomputed:
        return model
    return None


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


def _arguments(cfg: Config, method: Method, kind: Any, out: Output) -> Any:
    """The trainer's arguments: what the method adds, and a person's own, which may override it.

    Raises: UserError if KTO gets fewer than two rows at a time.
    """
    from mlalign.models.training import loop

    adds = dict(method.adds)
    if method.name in ("DPO", "KTO"):
        adds["precompute_ref_log_probs"] = not cfg.trainer.get("sync_ref_model", False)
    if method.name == "DPO" and not losses.is_name(cfg.loss):
        adds["loss_type"] = cfg.loss.split("+")
    settings = {**adds, **cfg.trainer}
    args = loop.arguments(kind, cfg, settings, out, beta=cfg.beta)
    if method.name == "KTO" and args.per_device_train_batch_size < 2:
        raise UserError(
            "device_batch_size: KTO needs at least 2 rows on a device at a time: it estimates its"
            " KL term from mismatched pairs"
        )
    return args


def _objective(cfg: Config) -> Any:
    """A loss with all its options, as `training.pair_loss` takes it."""
    from mlalign.models.training.pair_loss import Objective

    loss = losses.load(cfg.loss)
    options = losses.options(loss, cfg.loss_args)
    filled = {"beta": cfg.beta, "label_smoothing": cfg.trainer.get("label_smoothing", 0.0)}
    for name, value in filled.items():
        if methods.takes(loss, name):
            options[name] = value
    apply = functools.partial(losses.apply, cfg.loss, options)
    return Objective(apply, losses.columns(loss), losses.has_reference(loss))


def _trainer_kind(kind: type, objective: Any) -> type:
    """TRL's trainer, with our loss in it if there is one."""
    if objective is None:
        return kind
    from mlalign.models.training.pair_loss import PairLoss

    return type("PairLossTrainer", (PairLoss, kind), {})


def _description(cfg: Config, method: Method) -> str:
    """How the model was trained, for its card."""
    trainer = "on TRL's DPOTrainer" if losses.is_name(cfg.loss) else f"TRL's {method.name}Trainer"
    return f"Preference optimisation with the loss {cfg.loss}, beta {cfg.beta} ({trainer})."


def _examples(cfg: Config, columns: str, objective: Any) -> Any:
    """How rows become training examples."""
    from mlalign.models.training import trainset

    further = list(objective.columns) if objective else []
    of_row: Callable[[Mapping], list[dict]] = functools.partial(_pair, further=further)
    if columns == "unpaired":
        of_row = _taken_apart
    keep_end = cfg.trainer.get("truncation_mode") == "keep_end"
    return trainset.Examples(columns, of_row, "truncated", keep_end=keep_end, further=further)


def _pair(row: Mapping, further: Sequence[str] = ()) -> list[dict]:
    """The example of a pair. Raises: UserError for a row without a value that the loss reads."""
    example = {name: row[name] for name in ("prompt", "chosen", "rejected", *further)}
    for name in further:
        if example[name] is None:
            place = f"row {row['id']} ({row['prompt_lang']})"
            mend = "give rows that have it, such as those of `pairs`, or take another loss"
            raise UserError(f"{place}: has no {name}, which the loss reads; {mend}")
    return [example]


def _taken_apart(row: Mapping) -> list[dict]:
    """The two halves of a pair, labelled; an unpaired row as it is."""
    if "label" in row:
        return [{name: row[name] for name in ("prompt", "completion", "label")}]
    halves = []
    for side in ("chosen", "rejected"):
        half = {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
        halves.append(half)
    return halves
