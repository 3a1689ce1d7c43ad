"""Supervised fine-tuning with TRL's SFTTrainer: on demonstrations (loss on the completion), or on
plain text.

Reads a model and demonstration or text rows; the kind of row decides the objective. Writes `model/`
(a plain Hugging Face directory, or a LoRA adapter), `metrics.json` and `log_history.json`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from mlalign.core import rows
from mlalign.core.errors import UserError
from mlalign.core.schema import HOW_TRAINER, verbatim
from mlalign.core.stage import Inputs, Output
from mlalign.models.templates import ChatTemplate
from mlalign.models.training.config import (
    ALARMS,
    IMPORTS,
    RESERVED_TRAINER,
    Objective,
    TrainConfig,
    identity,
    packages,
    problems,
)

__all__ = ["ALARMS", "Config", "identity", "imports", "packages", "run"]

VERSION = 2
KIND = "model"
SLOTS = {"model": "model", "rows": "rows"}
SHARDED = None
DISTRIBUTED = True
WORK = "training"

METHODS = {
    "demonstration": (
        "Supervised fine-tuning on demonstrations, with the loss on the completions (TRL's"
        " SFTTrainer)."
    ),
    "text": "Language modelling on plain text (TRL's SFTTrainer).",
}


@dataclasses.dataclass
class Config(TrainConfig):
    trainer: dict[str, Any] = verbatim(
        "trl.trainer.sft_config:SFTConfig",
        "arguments of TRL's SFTConfig under their own names",
        how_keys=HOW_TRAINER,
        reserved=RESERVED_TRAINER,
    )


def accepts(cfg: Config) -> dict[str, tuple[str, ...]]:
    return {"rows": tuple(METHODS)}


def objective(cfg: Config) -> Objective:
    return Objective(learning_rate=2e-5)


def imports(cfg: Config, inputs: Mapping[str, Any]) -> list[str]:
    return ["trl.trainer.sft_trainer", *IMPORTS]


def run(cfg: Config, inputs: Inputs, out: Output) -> None:
    if found := problems(cfg):
        raise UserError(*found)
    model, source = inputs.model("model"), inputs.rows("rows")
    kind = rows.kind_of(source)
    if kind not in METHODS:
        raise UserError(f"{source}: holds {kind} rows; sft trains on {' or '.join(METHODS)} rows")

    from trl import SFTConfig, SFTTrainer

    from mlalign.models import modelling
    from mlalign.models.training import card, loop, trainset

    args = loop.arguments(SFTConfig, cfg, cfg.trainer, out)
    tokenizer = modelling.load_tokenizer(
        model, cfg.chat_template, needs_template=kind == "demonstration"
    )
    template = ChatTemplate(tokenizer, cfg.chat_template_kwargs, cfg.date)
    if kind == "demonstration":
        modelling.warn_of_no_end(out, template, tokenizer)
    columns = trainset.COLUMNS[kind][1]
    examples = trainset.Examples(kind, lambda row: [{c: row[c] for c in columns}], "truncated")
    train = trainset.load(cfg, source, out, tokenizer, examples, args.distributed_state)
    weights = loop.weights("causal", cfg, cfg.trainer, args)
    network, peft_config = modelling.open_for_training(model, weights, cfg.peft, cfg.seed)
    trainer = loop.trainer_of(SFTTrainer, cfg, network, args, train.dataset, tokenizer, peft_config)
    loop.fit(trainer, cfg, out)
    if kind == "demonstration":
        modelling.end_at(trainer, template)
    modelling.save(trainer, out.path / "model")
    if out.is_main:
        card.write(
            out.path / "model",
            card.gather(
                out, inputs, METHODS[kind], model, modelling.rank_of(trainer), True, train.sources
            ),
        )
    loop.leave_together(args)
