"""The family `classifier`: a sequence classifier, or a LoRA adapter on one.

Reads a directory or hub id as `save_pretrained` writes it, and runs it by transformers or vLLM.
Conversations are rendered with the model's own chat template and tokenizer, and the score is a raw
output (no activation) of the model at the last real token. It does not depend on batch, order,
padding side, shared beginnings or backend: within 1e-5 in float32, the default everywhere. In
bfloat16 and float16 the weights and the network are rounded, and the head computes in float32.
Nothing is ever quantised; a checkpoint that was saved quantised is loaded as it is, with a warning.

A conversation longer than `max_length` loses its beginning (a BOS token stays), with the flag
`truncated`. An answer that is too long by itself keeps its end, with the flag `response_truncated`;
no answer is ever cut to nothing. A value that is not finite becomes None, with the flag
`not_finite`. Columns: `cut_tokens`, how many tokens a conversation lost.

Each distinct token sequence is read once. With `prefix_reuse`, so are beginnings that several
sequences share, wherever the model can continue from them exactly: it needs causal attention over
all tokens in every layer (network.py says how that is checked). Other models (encoders, sliding
windows, recurrent states) read each sequence whole.
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

# Keys of `backend_args` that are set in another way, and how.
RESERVED = {
    "model": "is what `path` says",
    "tokenizer": "is what `path` says",
    "dtype": "set `dtype`",
    "torch_dtype": "set `dtype`",
    "runner": "follows from the family",
    "convert": "follows from the family",
    "num_labels": "follows from the family",
    "output_loading_info": "follows from the family",
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
    base: str | None = None  # of an adapter, in place of the one that its configuration names
    revision: str | None = None
    output: str | int | None = None  # which output of a model that has several: label or number
    max_length: int | None = None  # tokens; by default what the card, or else the model, says
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    backend: Literal["transformers", "vllm"] = "transformers"  # never changed by itself
    # passed to from_pretrained, or to vllm.LLM
    backend_args: dict = dataclasses.field(default_factory=dict)
    prefix_reuse: bool = True  # read shared beginnings once, where that is exact
    # (output - mean) / std with the numbers in config.json (OpenRLHF writes them); null: the output
    # as it is, with a warning
    normalise: bool | None = None
    # most padded tokens in a batch of transformers (on a CPU 1024 at most)
    device_batch_tokens: int = 16384
    # the name of one of the tokenizer's templates, a file of Jinja text, or the text
    chat_template: str | None = None
    chat_template_kwargs: dict = dataclasses.field(default_factory=dict)
    # for chat templates that write the date; by default the card's, or else templates.DATE
    date: str | None = None

    @staticmethod
    def problems(values: Mapping, key: str) -> list[str]:
        messages = templates.setting_problems(values)
        for name in values.get("backend_args", {}):
            if name in RESERVED:
                messages.append(f"backend_args.{name}: {RESERVED[name]}")
        if values.get("backend") == "vllm":
            messages += pooling.problems()
        return [f"{key}.{message}" for message in messages]


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
    # the model's outputs for distinct sequences in ascending order
    outputs: Callable[[Sequence[Ids]], list[list[float]]]
    output: int  # which of the model's outputs is the score
    scale: Scale
    close: Callable[[], None]

    def __call__(self, items: Sequence[Item]) -> Scores:
        encoded = self.encode(items)
        distinct = sorted({tuple(text.ids) for text in encoded if not text.left_out.answer})
        score_of_ids = {}
        for ids, outputs in zip(distinct, self.outputs(distinct), strict=True):
            score_of_ids[ids] = self.scale(outputs[self.output])

        values: list[float | None] = []
        not_finite = []
        for text in encoded:
            score = None if text.left_out.answer else score_of_ids[tuple(text.ids)]
            is_bad = score is not None and not math.isfinite(score)
            not_finite.append(is_bad)
            values.append(None if is_bad else score)

        flags = {
            "truncated": [text.cut_tokens > 0 for text in encoded],
            "response_truncated": [text.response_truncated for text in encoded],
            **encoding.left_out_flags([text.left_out for text in encoded]),
            "not_finite": not_finite,
        }
        columns: dict[str, list[float | None]] = {
            "cut_tokens": [text.cut_tokens for text in encoded]
        }
        n_tokens = sum(len(text.ids) for text in encoded)
        return Scores(values, flags, columns, tokens=n_tokens)


def prepare(settings: Settings) -> Classifier:
    """Load tokenizer and model.

    Raises: UserError for a missing head, tokenizer or template, or one that the card contradicts.
    """
    from reward_models.networks import loading

    card = cards.read(settings.path, settings.revision) or cards.Card()
    template = _template(settings, card)
    tokenizer = template.tokenizer
    if settings.backend == "vllm":
        model, start = _vllm(settings)
    else:
        model, start = _transformers(settings)
    n_rows = model.get_input_embeddings().weight.shape[0]
    opening.check_tokens(tokenizer, n_rows, settings.path, padding_is_read=False)
    scale = _scale(settings, card, opening.statistics(vars(model.config)))
    output = loading.output_of(model.config, settings.path, settings.output)
    requested_length = settings.max_length or card.max_length
    max_length = loading.room(tokenizer, model, requested_length, settings.path)
    outputs = start(max_length)

    def encode(items: Sequence[Item]) -> list[encoding.Encoded]:
        encoded = encoding.encode(items, template, max_length)
        _check_rows(items, encoded, n_rows)
        if getattr(model.config, "is_encoder_decoder", False):
            _check_ends(items, encoded, model.config.eos_token_id)
        return encoded

    return Classifier(encode, outputs, output, scale, outputs.close)


def _check_rows(items: Sequence[Item], encoded: Sequence[encoding.Encoded], n_rows: int) -> None:
    """Raises: UserError for a token without an embedding; the model has `n_rows` of them."""
    for item, text in zip(items, encoded, strict=True):
        largest = max(text.ids)
        if largest >= n_rows:
            raise UserError(
                f"{item.id}: holds token number {largest}, and the model has embeddings for"
                f" {n_rows} tokens"
            )


def _check_ends(items: Sequence[Item], encoded: Sequence[encoding.Encoded], end: int) -> None:
    """Raises: UserError for a conversation without an end token.

    It is where an encoder-decoder reads its output.
    """
    for item, text in zip(items, encoded, strict=True):
        if end not in text.ids:
            raise UserError(
                f"{item.id}: the chat template writes no end token (number {end}), and the model"
                " reads its output there; put the template of its training back"
            )


def _scale(settings: Settings, card: cards.Card, statistics: tuple[float, float] | None) -> Scale:
    """How outputs become scores.

    `statistics` are mean and std in config.json, about which `normalise` decides; if it does not, a
    warning says that they are there.

    Raises: UserError if the statistics are needed, and there are none or they cannot be used.
    """
    sign = -1.0 if card.direction == "lower_is_better" else 1.0
    if statistics is None:
        if settings.normalise:
            raise _unusable(settings, "none")
        return Scale(sign)

    mean, std = statistics
    usable = math.isfinite(mean) and math.isfinite(std) and std > 0
    if settings.normalise:
        if not usable:
            raise _unusable(settings, f"mean {mean}, std {std}")
        return Scale(sign, mean, std)
    if settings.normalise is None:
        message = STATISTICS_NOT_APPLIED if usable else STATISTICS_UNUSABLE
        log.warning(message, settings.path, mean, std)
    return Scale(sign)


STATISTICS_UNUSABLE = (
    "%s: config.json has statistics of the model's scores that cannot be used (mean %g, std %g):"
    " scores are the model's own outputs. Set normalise: false if you mean the outputs"
)
STATISTICS_NOT_APPLIED = (
    "%s: config.json has statistics of the model's scores (mean %g, std %g), which are not applied:"
    " scores are the model's own outputs. Set normalise: true for (output - mean) / std, or false"
    " if you mean the outputs"
)


def _unusable(settings: Settings, statistics: str) -> UserError:
    return UserError(
        f"{settings.path}: normalise needs mean and std (above 0) in config.json; there:"
        f" {statistics}; set normalise: false"
    )


def acceptor(settings: Settings) -> Callable[[Sequence[Item]], None]:
    """A function that raises a UserError for conversations that the chat template cannot write.

    They are those that it refuses, or for which it writes nothing.
    """
    card = cards.read(settings.path, settings.revision) or cards.Card()
    template = _template(settings, card)

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
    """The model, and a function that makes a backend for conversations of so many tokens."""
    import torch

    from reward_models.networks import kernels, loading
    from reward_models.networks.network import Network

    model = loading.network(
        settings.path, settings.revision, settings.base, settings.dtype, settings.backend_args
    )
    if "device_map" not in settings.backend_args and not loading.is_quantised(model.config):
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model.to(torch.device(device))
    kernels.float32_head(model)
    kernels.use_onednn(model)
    rope = loading.length_dependent_rope(model.config.get_text_config())
    split_at = rope and rope[1]

    def start(_: int) -> Network:
        return Network(model, settings.device_batch_tokens, settings.prefix_reuse, split_at)

    return model, start


def _vllm(settings: Settings) -> tuple[Any, Callable[[int], Any]]:
    from reward_models.networks import loading

    path = settings.path
    revision = settings.revision
    options = {"dtype": settings.dtype, **settings.backend_args}
    if not settings.prefix_reuse:
        options["enable_prefix_caching"] = False
    if not opening.is_adapter(path, revision):
        model = loading.outline(path, revision)
        in_parts = loading.is_decoder(model)
        return model, lambda length: pooling.Pooling(
            path, revision, path, length, in_parts, options
        )

    merged = loading.network(path, revision, settings.base, settings.dtype, {})
    if loading.is_quantised(merged.config):
        raise UserError(
            f"{path}: its base was saved quantised, and vLLM gets adapters merged: choose"
            " backend: transformers"
        )
    in_parts = loading.is_decoder(merged)
    return merged, lambda length: pooling.of_network(merged, path, length, in_parts, options)
