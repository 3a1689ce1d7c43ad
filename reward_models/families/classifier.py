"""The family `classifier`: a sequence classifier, or a LoRA adapter on one, run by transformers or
by vLLM.

Reads a directory or hub id as `save_pretrained` writes it. Conversations are rendered with the
model's own chat template and tokenizer, and the score is a raw output (no activation) of the model
at the last real token. It does not depend on batch, order, padding side, shared beginnings or
backend: within 1e-5 in float32, the default everywhere. In bfloat16 and float16 the weights and the
network are rounded, the head computes in float32. Nothing is ever quantised; a checkpoint that was
saved so is loaded as saved, with a warning.

Columns: `cut_tokens`, what a conversation longer than `max_length` lost. It loses its beginning (a
    BOS token stays), flag
`truncated`; an answer that is too long by itself keeps its end, flag `response_truncated`; never is
an answer cut to nothing. A value that is not finite becomes None, flag `not_finite`.

Each distinct token sequence is read once, and with `prefix_reuse` so are beginnings that several
share, wherever the model can continue from them exactly: causal attention over all tokens in every
layer (network.py says how that is found). Other models (encoders, sliding windows, recurrent
states) read each sequence in whole.
"""

import dataclasses
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from mlalign.core.errors import UserError
from mlalign.models import opening, templates
from reward_models import card as cards
from reward_models.items import Item, Scores
from reward_models.networks import encoding, pooling
from reward_models.networks.prefix import Ids

log = logging.getLogger(__name__)

RESERVED = {
    **dict.fromkeys(("model", "tokenizer"), "is what `path` says"),
    **dict.fromkeys(("dtype", "torch_dtype"), "set `dtype`"),
    **dict.fromkeys(
        ("runner", "convert", "num_labels", "output_loading_info"), "follows from the family"
    ),
    "revision": "set `revision`",
    "max_model_len": "set `max_length`",
    "enable_prefix_caching": "set `prefix_reuse`",
    "trust_remote_code": "code from a model's repository is never run",
    "use_safetensors": "weights are read from safetensors alone",
}


REPORTS = (*encoding.LEFT_OUT, "truncated", "response_truncated", "not_finite", "cut_tokens")


@dataclasses.dataclass(frozen=True)
class Settings:
    path: str  # directory or hub id
    base: str | None = (
        None  # of an adapter: another place than the one that its configuration names
    )
    revision: str | None = None
    output: str | int | None = None  # which output of a model that has several: label or number
    max_length: int | None = None  # tokens; by default what the card, or else the model, says
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    backend: Literal["transformers", "vllm"] = "transformers"  # never changed by itself
    backend_args: dict = dataclasses.field(
        default_factory=dict
    )  # passed to from_pretrained, or to vllm.LLM
    prefix_reuse: bool = (
        True  # beginnings that several conversations share are read once, where that is exact
    )
    # (output - mean) / std with the numbers in config.json (OpenRLHF writes them); null: the output
    # as it is, with a warning
    normalise: bool | None = None
    device_batch_tokens: int = (
        16384  # most padded tokens in a batch of transformers (on a CPU 1024 at most)
    )
    chat_template: str | None = (
        # name of one of the tokenizer's templates, if it has several (or a file of Jinja text, or
        # the text)
        None
    )
    chat_template_kwargs: dict = dataclasses.field(default_factory=dict)
    date: str | None = (
        # what a template that writes the date writes; by default what the card, or else
        # templates.DATE, says
        None
    )

    @staticmethod
    def problems(values: Mapping, key: str) -> list[str]:
        found = [f"{key}.{p}" for p in templates.setting_problems(values)]
        found += [
            f"{key}.backend_args.{name}: {RESERVED[name]}"
            for name in values.get("backend_args", {})
            if name in RESERVED
        ]
        return found + (
            [f"{key}.{p}" for p in pooling.problems()] if values.get("backend") == "vllm" else []
        )


@dataclasses.dataclass(frozen=True)
class Scale:
    """From a model's output to the score: sign * (output - mean) / std.

    Example: Scale(-1.0, 1.0, 2.0)(5.0) is -2.0.
    """

    sign: float = 1.0
    mean: float = 0.0
    std: float = 1.0

    def __call__(self, output: float) -> float:
        return self.sign * (output - self.mean) / self.std


@dataclasses.dataclass(frozen=True)
class Classifier:
    """Scores items; `close` gives back memory and processes."""

    encode: Callable[[Sequence[Item]], list[encoding.Encoded]]
    outputs: Callable[
        [Sequence[Ids]], list[list[float]]
    ]  # of distinct sequences in ascending order
    output: int
    scale: "Scale"
    close: Callable[[], None]

    def __call__(self, items: Sequence[Item]) -> Scores:
        encoded = self.encode(items)
        own = [tuple(e.ids) for e in encoded]
        distinct = sorted(
            {ids for ids, e in zip(own, encoded, strict=True) if not e.left_out.answer}
        )
        found = dict(
            zip(distinct, (row[self.output] for row in self.outputs(distinct)), strict=True)
        )
        raw = [
            None if e.left_out.answer else self.scale(found[ids])
            for ids, e in zip(own, encoded, strict=True)
        ]
        flags = {
            "truncated": [e.cut_tokens > 0 for e in encoded],
            "response_truncated": [e.response_truncated for e in encoded],
            **encoding.left_out_flags([e.left_out for e in encoded]),
            "not_finite": [v is not None and not math.isfinite(v) for v in raw],
        }
        columns: dict[str, list[float | None]] = {"cut_tokens": [e.cut_tokens for e in encoded]}
        values = [v if v is not None and math.isfinite(v) else None for v in raw]
        return Scores(values, flags, columns, tokens=sum(map(len, own)))


def prepare(settings: Settings) -> Classifier:
    """Load tokenizer and model.

    Raises: UserError for a missing head, tokenizer or template, or one that the card contradicts.
    """
    from reward_models.networks import loading

    told = cards.read(settings.path, settings.revision) or cards.Card()
    template = _template(settings, told)
    tokenizer = template.tokenizer
    if settings.backend == "vllm":
        model, start = _vllm(settings)
    else:
        model, start = _transformers(settings)
    n_rows = model.get_input_embeddings().weight.shape[0]
    opening.check_tokens(tokenizer, n_rows, settings.path, padding_is_read=False)
    scale = _scale(settings, told, opening.statistics(vars(model.config)))
    output = loading.output_of(model.config, settings.path, settings.output)
    max_length = loading.room(
        tokenizer, model, settings.max_length or told.max_length, settings.path
    )
    outputs = start(max_length)

    def encode(items: Sequence[Item]) -> list[encoding.Encoded]:
        encoded = encoding.encode(items, template, max_length)
        _check_rows(items, encoded, n_rows)
        if getattr(model.config, "is_encoder_decoder", False):
            _check_ends(items, encoded, model.config.eos_token_id)
        return encoded

    return Classifier(encode, outputs, output, scale, outputs.close)


def _check_rows(items: Sequence[Item], encoded: Sequence[encoding.Encoded], n_rows: int) -> None:
    """Raises: UserError for a conversation with a token that the model has no embedding for
    (`n_rows` of them).
    """
    for item, text in zip(items, encoded, strict=True):
        if max(text.ids) >= n_rows:
            raise UserError(
                f"{item.id}: holds token number {max(text.ids)}, and the model has embeddings for"
                f" {n_rows} tokens"
            )


def _check_ends(items: Sequence[Item], encoded: Sequence[encoding.Encoded], end: int) -> None:
    """Raises: UserError for a conversation without the end token at which an encoder-decoder reads
    its output.
    """
    for item, text in zip(items, encoded, strict=True):
        if end not in text.ids:
            raise UserError(
                f"{item.id}: the chat template writes no end token (number {end}), and the model"
                " reads its output there; put the template of its training back"
            )


def _scale(settings: Settings, card: cards.Card, statistics: tuple[float, float] | None) -> Scale:
    """How outputs become scores; statistics that the model carries and nobody decided about are
    told.

    Raises: UserError if the statistics are asked for, and there are none or they cannot be used.
    """
    sign = -1.0 if card.direction == "lower_is_better" else 1.0
    usable = statistics is not None and all(map(math.isfinite, statistics)) and statistics[1] > 0
    if settings.normalise and not (statistics and usable):
        found = f"mean {statistics[0]}, std {statistics[1]}" if statistics else "none"
        raise UserError(
            f"{settings.path}: normalise needs mean and std (above 0) in config.json; there:"
            f" {found}; set normalise: false"
        )
    if settings.normalise and statistics:
        return Scale(sign, *statistics)
    if statistics and not usable and settings.normalise is None:
        log.warning(
            "%s: config.json has statistics of the model's scores that cannot be used (mean %g, std"
            " %g): scores are the model's own outputs. Set normalise: false if you mean the"
            " outputs",
            settings.path,
            *statistics,
        )
    elif statistics and settings.normalise is None:
        log.warning(
            "%s: config.json has statistics of the model's scores (mean %g, std %g), which are not"
            " applied: scores are the model's own outputs. Set normalise: true for (output - mean)"
            " / std, or false if you mean the outputs",
            settings.path,
            *statistics,
        )
    return Scale(sign)


def acceptor(settings: Settings) -> Callable[[Sequence[Item]], None]:
    """What raises a UserError for a conversation that the chat template refuses, or writes nothing
    for.
    """
    template = _template(settings, cards.read(settings.path, settings.revision) or cards.Card())

    def accept(items: Sequence[Item]) -> None:
        for item in items:
            if not encoding.render(item, template):
                raise UserError(
                    f"{item.id}: the scorer's chat template writes nothing for this conversation"
                )

    return accept


def _template(settings: Settings, card: cards.Card) -> templates.ChatTemplate:
    """The chat template that conversations are rendered with, on its tokenizer."""
    from reward_models.networks import loading

    tokenizer = loading.tokenizer(settings.path, settings.revision, card, settings.chat_template)
    date = settings.date or card.date or templates.DATE
    return templates.ChatTemplate(tokenizer, settings.chat_template_kwargs, date)


def _transformers(settings: Settings) -> tuple[Any, Callable[[int], Any]]:
    """The model, and what makes a backend of it for conversations of so many tokens."""
    import torch

    from reward_models.networks import kernels, loading
    from reward_models.networks.network import Network

    model = loading.network(
        settings.path, settings.revision, settings.base, settings.dtype, settings.backend_args
    )
    if "device_map" not in settings.backend_args and not loading.is_quantised(model.config):
        model.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    kernels.float32_head(model)
    kernels.use_onednn(model)
    rope = loading.length_dependent_rope(model.config.get_text_config())
    return model, lambda _: Network(
        model, settings.device_batch_tokens, settings.prefix_reuse, rope and rope[1]
    )


def _vllm(settings: Settings) -> tuple[Any, Callable[[int], Any]]:
    from reward_models.networks import loading

    told = {
        "dtype": settings.dtype,
        **({} if settings.prefix_reuse else {"enable_prefix_caching": False}),
        **settings.backend_args,
    }
    if not opening.is_adapter(settings.path, settings.revision):
        model = loading.outline(settings.path, settings.revision)
        path, revision, in_parts = settings.path, settings.revision, loading.is_decoder(model)
        return model, lambda length: pooling.Pooling(path, revision, path, length, in_parts, told)
    merged = loading.network(settings.path, settings.revision, settings.base, settings.dtype, {})
    if loading.is_quantised(merged.config):
        raise UserError(
            f"{settings.path}: its base was saved quantised, and vLLM gets adapters merged: choose"
            " backend: transformers"
        )
    return merged, lambda length: pooling.of_network(
        merged, settings.path, length, loading.is_decoder(merged), told
    )
