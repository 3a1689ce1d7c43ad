"""The family `classifier`: a sequence classifier, or a LoRA adapter on one, run by transformers or by vLLM.

Reads a directory or hub id as `save_pretrained` writes it. Conversations are rendered with the model's own chat template and
tokenizer, and the score is a raw output (no activation) of the model at the last real token. It does not depend on batch, order,
padding side, shared beginnings or backend: within 1e-5 in float32, the default everywhere. In bfloat16 and float16 the
weights and the network are rounded, the head computes in float32. Nothing is ever quantised; a checkpoint that was saved so is
loaded as saved, with a warning.

Columns: `cut_tokens`, what a conversation longer than `max_length` lost. It loses its beginning (a BOS token stays), flag
`truncated`; an answer that is too long by itself keeps its end, flag `response_truncated`; never is an answer cut to nothing.
A value that is not finite becomes None, flag `not_finite`.

Each distinct token sequence is read once, and with `prefix_reuse` so are beginnings that several share, wherever the model can
continue from them exactly: causal attention over all tokens in every layer (network.py says how that is found). Other models
(encoders, sliding windows, recurrent states) read each sequence in whole.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from mlalign.errors import UserError
from reward_models import card as cards
from reward_models.items import Item, Scores
from reward_models.networks import encoding, pooling
from reward_models.networks.prefix import Ids

RESERVED = {
    **dict.fromkeys(("model", "tokenizer"), "is what `path` says"),
    **dict.fromkeys(("dtype", "torch_dtype"), "set `dtype`"),
    **dict.fromkeys(("runner", "convert", "num_labels", "output_loading_info"), "follows from the family"),
    "revision": "set `revision`",
    "max_model_len": "set `max_length`",
    "enable_prefix_caching": "set `prefix_reuse`",
    "trust_remote_code": "code from a model's repository is never run",
}


REPORTS = ("truncated", "response_truncated", "not_finite", "cut_tokens")


@dataclasses.dataclass(frozen=True)
class Settings:
    path: str  # directory or hub id
    base: str | None = None  # of an adapter: another place than the one that its configuration names
    revision: str | None = None
    output: str | int | None = None  # which output of a model that has several: label or number
    max_length: int | None = None  # tokens; by default what the card, or else the model, says
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    backend: Literal["transformers", "vllm"] = "transformers"  # never changed by itself
    backend_args: dict = dataclasses.field(default_factory=dict)  # passed to from_pretrained, or to vllm.LLM
    prefix_reuse: bool = True  # beginnings that several conversations share are read once, where that is exact
    device_batch_tokens: int = 16384  # most padded tokens in a batch of transformers (on a CPU 1024 at most)
    chat_template_kwargs: dict = dataclasses.field(default_factory=dict)

    @staticmethod
    def problems(values: Mapping, key: str) -> list[str]:
        found = [f"{key}.backend_args.{name}: {RESERVED[name]}" for name in values.get("backend_args", {}) if name in RESERVED]
        return found + ([f"{key}.{p}" for p in pooling.problems()] if values.get("backend") == "vllm" else [])


@dataclasses.dataclass(frozen=True)
class Classifier:
    """Scores items; `close` gives back memory and processes."""

    encode: Callable[[Sequence[Item]], list[encoding.Encoded]]
    outputs: Callable[[Sequence[Ids]], list[list[float]]]  # of distinct sequences in ascending order
    output: int
    sign: float
    close: Callable[[], None]

    def __call__(self, items: Sequence[Item]) -> Scores:
        encoded = self.encode(items)
        own = [tuple(e.ids) for e in encoded]
        distinct = sorted(set(own))
        found = dict(zip(distinct, (row[self.output] for row in self.outputs(distinct)), strict=True))
        raw = [self.sign * found[ids] for ids in own]
        flags = {
            "truncated": [e.cut_tokens > 0 for e in encoded],
            "response_truncated": [e.response_truncated for e in encoded],
            "not_finite": [not math.isfinite(v) for v in raw],
        }
        columns: dict[str, list[float | None]] = {"cut_tokens": [e.cut_tokens for e in encoded]}
        return Scores([v if math.isfinite(v) else None for v in raw], flags, columns, tokens=sum(map(len, own)))


def prepare(settings: Settings) -> Classifier:
    """Load tokenizer and model. Raises: UserError for a missing head, tokenizer or template, or one that the card contradicts."""
    from reward_models.networks import loading

    told = cards.read(settings.path, settings.revision) or cards.Card()
    tokenizer = loading.tokenizer(settings.path, settings.revision, told)
    if settings.backend == "vllm":
        model, start = _vllm(settings)
    else:
        model, start = _transformers(settings)
    output = loading.output_of(model.config, settings.path, settings.output)
    max_length = loading.room(tokenizer, model, settings.max_length or told.max_length, settings.path)
    outputs = start(max_length)

    def encode(items: Sequence[Item]) -> list[encoding.Encoded]:
        return encoding.encode(items, tokenizer, max_length, settings.chat_template_kwargs)

    return Classifier(encode, outputs, output, -1.0 if told.direction == "lower_is_better" else 1.0, outputs.close)


def acceptor(settings: Settings) -> Callable[[Sequence[Item]], None]:
    """What raises a UserError for a conversation that the chat template refuses, or writes nothing for."""
    from reward_models.networks import loading

    told = cards.read(settings.path, settings.revision) or cards.Card()
    tokenizer = loading.tokenizer(settings.path, settings.revision, told)

    def accept(items: Sequence[Item]) -> None:
        for item in items:
            if not encoding.render(item, tokenizer, settings.chat_template_kwargs):
                raise UserError(f"{item.id}: the scorer's chat template writes nothing for this conversation")

    return accept


def _transformers(settings: Settings) -> tuple[Any, Callable[[int], Any]]:
    """The model, and what makes a backend of it for conversations of so many tokens."""
    import torch

    from reward_models.networks import kernels, loading
    from reward_models.networks.network import Network

    model = loading.network(settings.path, settings.revision, settings.base, settings.dtype, settings.backend_args)
    if "device_map" not in settings.backend_args and not loading.is_quantised(model.config):
        model.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    kernels.float32_head(model)
    kernels.use_onednn(model)
    rope = loading.length_dependent_rope(model.config.get_text_config())
    return model, lambda _: Network(model, settings.device_batch_tokens, settings.prefix_reuse, rope and rope[1])


def _vllm(settings: Settings) -> tuple[Any, Callable[[int], Any]]:
    from reward_models.networks import loading

    told = {"dtype": settings.dtype, **({} if settings.prefix_reuse else {"enable_prefix_caching": False}), **settings.backend_args}
    if not loading.is_adapter(settings.path, settings.revision):
        model = loading.outline(settings.path, settings.revision)
        path, revision, in_parts = settings.path, settings.revision, loading.is_decoder(model)
        return model, lambda length: pooling.Pooling(path, revision, path, length, in_parts, told)
    merged = loading.network(settings.path, settings.revision, settings.base, settings.dtype, {})
    if loading.is_quantised(merged.config):
        raise UserError(f"{settings.path}: its base was saved quantised, and vLLM gets adapters merged: choose backend: transformers")
    return merged, lambda length: pooling.of_network(merged, settings.path, length, loading.is_decoder(merged), told)
