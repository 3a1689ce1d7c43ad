"""A reward model: a classifier with one output, trained on preference pairs by TRL's RewardTrainer
(Bradley-Terry).

Reads a model and preference rows. Writes `model/` (a plain Hugging Face directory, or a LoRA
adapter that carries the head) with `card.yaml`, `metrics.json` and `log_history.json`. A new head
is drawn from N(0, 1/sqrt(d+1)) with d the hidden size (Hong et al. 2025). At the end the saved
model is opened as a scorer and must give the scores that the trained one gave in memory.
"""

import dataclasses
import gc
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import reward_models
from mlalign.core import rows
from mlalign.core.errors import UserError
from mlalign.core.schema import HOW_TRAINER, verbatim, what
from mlalign.core.stage import Inputs, Output
from mlalign.models import templates
from mlalign.models.training.card import Facts
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
from reward_models import card as cards

__all__ = ["ALARMS", "Config", "identity", "imports", "packages", "run"]

VERSION = 2
KIND = "model"
SLOTS = {"model": "model", "rows": "rows"}
SHARDED = None
DISTRIBUTED = True
WORK = "training"

METHOD = (
    "A reward model: one score per conversation, trained on preference pairs with the Bradley-Terry"
    " loss (TRL's RewardTrainer)."
)
N_CHECKED = 32
LARGEST = 2.0**127  # margins are trained with in float32
# How far a score may move by saving and loading, by the dtype of the weights: float noise, nothing
# more. Of a head of norm 1, or of the spread of the scores if that is larger:
TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2, "float16": 1e-2}
# and of the largest score, which is itself rounded to the dtype:
ROUNDING = {"float32": 2**-23, "bfloat16": 2**-7, "float16": 2**-10}


@dataclasses.dataclass
class Config(TrainConfig):
    trainer: dict[str, Any] = verbatim(
        "trl.trainer.reward_config:RewardConfig",
        "arguments of TRL's RewardConfig under their own names",
        how_keys=HOW_TRAINER,
        reserved=RESERVED_TRAINER,
    )
    use_margin: bool | None = what(
        None, "require the chosen score to win by the row's margin; null: if any row has one"
    )
    freeze_embeddings: bool = what(
        False, "keep the input embeddings as they are, so that unseen languages keep their place"
    )
    card_rows: int = what(
        256, "rows of each language, at most, from which the card's accuracy and calibration come"
    )


def accepts(cfg: Config) -> dict[str, tuple[str, ...]]:
    return {"rows": ("preference",)}


def objective(cfg: Config) -> Objective:
    return Objective(learning_rate=1e-4, sequences=2, loss="classifier")


def imports(cfg: Config, inputs: Mapping[str, Any]) -> list[str]:
    return ["trl.trainer.reward_trainer", *IMPORTS]


def run(cfg: Config, inputs: Inputs, out: Output) -> None:
    if found := problems(cfg):
        raise UserError(*found)
    model, source = inputs.model("model"), inputs.rows("rows")
    if (kind := rows.kind_of(source)) != "preference":
        raise UserError(f"{source}: holds {kind} rows; reward trains on preference rows")
    columns = "margin" if _uses_margin(cfg, source, out) else "preference"

    from trl import RewardConfig, RewardTrainer

    from mlalign.models import modelling
    from mlalign.models.training import card, loop, trainset

    args = loop.arguments(RewardConfig, cfg, cfg.trainer, out)
    tokenizer = modelling.load_tokenizer(model, cfg.chat_template, padding_is_read=False)
    modelling.ensure_padding(tokenizer)
    examples = trainset.Examples(columns, lambda row: [_example(row, columns)], "dropped")
    train = trainset.load(cfg, source, out, tokenizer, examples, args.distributed_state)
    weights = loop.weights("classifier", cfg, cfg.trainer, args)
    network, peft_config = modelling.open_for_training(model, weights, cfg.peft, cfg.seed)
    modelling.fit_vocabulary(network, tokenizer, frozen=cfg.peft is not None)
    if cfg.freeze_embeddings:
        network.get_input_embeddings().weight.requires_grad_(False)
    trainer = loop.trainer_of(
        RewardTrainer, cfg, network, args, train.dataset, tokenizer, peft_config
    )
    loop.fit(trainer, cfg, out)
    checked = [
        row["prompt"] + row["chosen"]
        for row in train.dataset.select(range(min(N_CHECKED, len(train.dataset))))
    ]
    tokenized: Any = trainer.train_dataset
    before, dtype = (
        modelling.scores(trainer, tokenized[: len(checked)]["chosen_ids"]),
        str(network.dtype).removeprefix("torch."),
    )
    modelling.save(trainer, out.path / "model")
    facts = card.gather(
        out, inputs, METHOD, model, modelling.rank_of(trainer), False, train.sources
    )
    del trainer, network, tokenized
    gc.collect()
    if out.is_main:
        card.write(out.path / "model", facts)
        with modelling.whole_weights(weights):
            scorer = _reopened(cfg, out, checked, before, dtype)
        _write_card(cfg, out, source, scorer, facts, tokenizer)
    loop.leave_together(args)


def _uses_margin(cfg: Config, source: Path, out: Output) -> bool:
    """Whether the margin column goes to the trainer; rows without a margin then have 0.

    Raises: UserError if there is none
    at all, or one is no finite number.
    """
    read = rows.read(source, cfg.split, cfg.languages, ["margin"])
    margins = [row["margin"] for row in read if row["margin"] is not None]
    n_margins = len(margins)
    if cfg.use_margin and not n_margins:
        raise UserError(f"use_margin: no row of {source} has a margin; set use_margin=false")
    used = cfg.use_margin if cfg.use_margin is not None else n_margins > 0
    if used and (n := sum(not abs(margin) <= LARGEST for margin in margins)):
        raise UserError(
            f"use_margin: {n} rows of {source} have a margin that is no finite number; mend them in"
            " its source, or set use_margin=false"
        )
    out.note(margin={"used": used, "rows_with_margin": n_margins})
    return used


def _example(row: Mapping, columns: str) -> dict:
    pair = {c: row[c] for c in ("prompt", "chosen", "rejected")}
    return {**pair, "margin": row["margin"] or 0.0} if columns == "margin" else pair


def _reopened(
    cfg: Config, out: Output, checked: Sequence[list], before: Sequence[float], dtype: str
) -> reward_models.Scorer:
    """The saved model as a scorer, which must score the conversations as the trained one did in
    memory.

    Raises: UserError if a score moved by more than float noise (a quantized base comes back
        unquantized: there it is only noted).
    """
    from mlalign.models import modelling

    folder = out.path / "model"
    options = {
        "dtype": dtype,
        "max_length": cfg.max_length,
        "chat_template_kwargs": cfg.chat_template_kwargs,
        "date": cfg.date,
    }
    scorer = reward_models.load(folder, **options)
    after = scorer.score([{"messages": conversation} for conversation in checked])
    moved = max(
        abs(a - b) if a is not None else float("inf") for a, b in zip(after, before, strict=True)
    )
    noise = tolerance(before, modelling.head_norm(folder), dtype)
    out.note(
        reload={
            "rows": len(before),
            "max_abs_difference": moved,
            "dtype": dtype,
            "tolerance": noise,
        }
    )
    if not moved <= noise and cfg.quantization is None:
        raise UserError(
            f"{folder}: saved and loaded again, the model scores up to {moved:.2g} differently"
            f" ({dtype}; float noise is at most {noise:.2g}): it is not published; its weights or"
            " its chat template did not survive saving"
        )
    return scorer


def tolerance(scores: Sequence[float], head_norm: float, dtype: str) -> float:
    """How far scores may move by float noise, which grows with the head and with the scores.

    tolerance([0.5, -0.5], 1.0, "float32") == 1e-4 + 0.5 * 2**-23
    """
    spread = max(head_norm, statistics.pstdev(scores))
    return TOLERANCE[dtype] * spread + ROUNDING[dtype] * max(map(abs, scores))


def _write_card(
    cfg: Config,
    out: Output,
    source: Path,
    scorer: reward_models.Scorer,
    facts: Facts,
    tokenizer: Any,
) -> None:
    """What the model gives on held-out pairs, by language; without any, calibration comes from the
    training rows.
    """
    split = "eval" if rows.shards(source, "eval") else cfg.split
    measured = {
        language: _measured(scorer, pairs)
        for language, pairs in _samples(source, split, cfg.card_rows)
    }
    told = cards.Card(
        template_hash=cards.template_hash(templates.text_of(tokenizer)),
        scale="logits",
        max_length=cfg.max_length,
        date=cfg.date if templates.ChatTemplate(tokenizer).writes_date else None,
        training_languages=sorted(out.tally.rows),
        accuracy=(
            {x: {"n": m["n"], "accuracy": m["accuracy"]} for x, m in measured.items()}
            if split == "eval"
            else {}
        ),
        calibration={x: {"mean": m["mean"], "std": m["std"]} for x, m in measured.items()},
        licence=facts.base_licence,
        training={"measured_on": split, "base_model": facts.base},
    )
    cards.write(out.path / "model", told)


def _samples(source: Path, split: str, limit: int) -> Iterator[tuple[str, list[dict]]]:
    """The first rows of each language, in the order of languages."""
    found: dict[str, list[dict]] = defaultdict(list)
    for shard in rows.shards(source, split):
        language = shard.stem.split(".")[0]
        found[language] += rows.read_shard(shard, ["prompt", "chosen", "rejected"])[
            : limit - len(found[language])
        ]
    yield from sorted((language, sample) for language, sample in found.items() if sample)


def _measured(scorer: reward_models.Scorer, pairs: Sequence[Mapping]) -> dict[str, float]:
    """Share of pairs whose chosen answer scores higher, and mean and standard deviation of all
    scores.
    """
    found = scorer.score(pairs)
    scores = [score for score in found if score is not None]
    if len(scores) < len(found):
        raise UserError(
            "the trained model gives scores that are no numbers: training diverged; lower"
            " trainer.learning_rate"
        )
    won = [chosen > rejected for chosen, rejected in zip(scores[::2], scores[1::2], strict=True)]
    numbers = {
        "accuracy": statistics.fmean(won),
        "mean": statistics.fmean(scores),
        "std": statistics.pstdev(scores),
    }
    return {"n": len(won), **{name: round(value, 6) for name, value in numbers.items()}}
