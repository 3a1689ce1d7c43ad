"""The family `classifier`: a sequence classifier, or a LoRA adapter on one, run by transformers.

Reads a directory or hub id as `save_pretrained` writes it. Conversations are rendered with the model's own chat template and
tokenizer, padded on the right and masked; the score is read at the last real token, whatever the model calls padding. So
it does not depend on batch, order or padding side (within 1e-5 in float32, the default everywhere; nothing is ever quantised).

A conversation longer than `max_length` loses tokens at its beginning (a BOS token stays) and is flagged `truncated`.
A value that is not finite becomes None and is flagged `not_finite`.
"""

import contextlib
import dataclasses
import math
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mlalign.errors import UserError, nearest
from reward_models import card as cards
from reward_models.batching import pack
from reward_models.items import Item, Scores

if TYPE_CHECKING:
    import torch

HEAD = re.compile(r"(^|\.)(score|classifier|classification_head|out_proj)\.(weight|bias)$")  # names of heads in an adapter's file


@dataclasses.dataclass(frozen=True)
class Settings:
    path: str  # directory or hub id
    base: str | None = None  # of an adapter: another place than the one that its configuration names
    revision: str | None = None
    output: str | int | None = None  # which output of a model that has several: label or number
    max_length: int | None = None  # tokens; by default what the card, or else the model, says
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    device_batch_tokens: int = 16384  # padded tokens in a batch
    chat_template_kwargs: dict = dataclasses.field(default_factory=dict)


def prepare(settings: Settings) -> Callable[[Sequence[Item]], Scores]:
    """Load tokenizer and model. Raises: UserError for a missing head, tokenizer or template, or one that the card contradicts."""
    import torch

    told = cards.read(settings.path, settings.revision) or cards.Card()
    tokenizer = _tokenizer(settings, told)
    model, config = _model(settings)
    output = _output(config, settings)
    sign = -1.0 if told.direction == "lower_is_better" else 1.0
    max_length = settings.max_length or told.max_length or _room(tokenizer, config)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device).eval()

    def run(items: Sequence[Item]) -> Scores:
        encoded = _encode(items, tokenizer, settings.chat_template_kwargs)
        cut = [_cut(ids, max_length, tokenizer.bos_token_id) for ids in encoded]
        raw: list[float] = [0.0] * len(items)
        for batch in pack([len(ids) for ids in cut], [item.id for item in items], settings.device_batch_tokens):
            logits = _forward(model, config, [cut[i] for i in batch], device)
            for i, value in zip(batch, logits[:, output].float().tolist(), strict=True):
                raw[i] = sign * value
        flags = {
            "truncated": [len(a) < len(b) for a, b in zip(cut, encoded, strict=True)],
            "not_finite": [not math.isfinite(v) for v in raw],
        }
        return Scores([v if math.isfinite(v) else None for v in raw], flags)

    return run


def _encode(items: Sequence[Item], tokenizer: Any, template_kwargs: dict) -> list[list[int]]:
    """Token ids of whole conversations. The template writes the special tokens, so the tokenizer adds none (no doubled BOS)."""
    from jinja2 import TemplateError

    texts = []
    for item in items:
        try:
            messages = [*item.prompt, {"role": "assistant", "content": item.response}]
            texts.append(tokenizer.apply_chat_template(messages, tokenize=False, **template_kwargs))
        except TemplateError as error:
            raise UserError(f"{item.id}: the scorer's chat template refuses this conversation: {error}") from None
    return tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"] if texts else []


def _cut(ids: list[int], max_length: int, bos: int | None) -> list[int]:
    """The last `max_length` tokens: the beginning of the prompt goes first, the end of the response never."""
    if len(ids) <= max_length:
        return ids
    return [bos, *ids[1 - max_length :]] if ids[0] == bos and max_length > 1 else ids[-max_length:]


def _forward(model: Any, config: Any, batch: Sequence[list[int]], device: "torch.device") -> "torch.Tensor":
    """Outputs (batch, outputs) for token ids of different lengths.

    Decoders of transformers read their score at the last token that is not `pad_token_id`: wrong where that is also a token
    of the text (pad = eos). So a batch is padded with an id that does not occur in it.
    """
    import torch

    pad = _unused(batch, config)
    config.pad_token_id = pad
    width = max(len(ids) for ids in batch)
    ids = torch.tensor([row + [pad] * (width - len(row)) for row in batch], device=device)
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in batch], device=device)
    with torch.inference_mode():
        return model(input_ids=ids, attention_mask=mask).logits


def _unused(batch: Sequence[list[int]], config: Any) -> int:
    used = set().union(*batch)
    free = next((i for i in range(config.vocab_size) if i not in used), None)
    if free is None:
        raise UserError("a batch uses every token of the scorer's vocabulary: lower device_batch_tokens")
    return free


# ---------------------------------------------------------------------------------------------------------------- loading


def _tokenizer(settings: Settings, told: cards.Card) -> Any:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(settings.path, revision=settings.revision)
    except (OSError, ValueError) as error:
        raise UserError(f"{settings.path}: no tokenizer can be loaded from it ({_first_line(error)}); save the model's own there") from None
    if not tokenizer.chat_template:
        raise UserError(f"{settings.path}: its tokenizer has no chat template; a scorer needs the one it was trained with: save it there")
    found = cards.template_hash(tokenizer.get_chat_template())
    if told.template_hash not in (None, found):
        raise UserError(
            f"{settings.path}: {cards.FILE} says template_hash {told.template_hash}, the tokenizer's chat template has {found}: "
            "scores would not be those of the trained model; put the template of its training back"
        )
    return tokenizer


def _model(settings: Settings) -> tuple[Any, Any]:
    """The model, and the configuration from which it reads its padding id."""
    if (Path(settings.path) / "adapter_config.json").is_file() or _hub_adapter(settings):
        return _adapter(settings)
    model, missing = _load(settings.path, settings, revision=settings.revision)
    if missing:
        raise UserError(_no_head(settings.path, missing))
    return model, model.config.get_text_config()


def _load(path: str, settings: Settings, **options: Any) -> tuple[Any, list[str]]:
    """A classifier and the names of the weights that its files lack (transformers would draw them at random)."""
    import torch
    from transformers import AutoModelForSequenceClassification as Classifier

    try:
        with _quiet():  # what transformers would say about missing weights is decided, and said, here
            model, told = Classifier.from_pretrained(path, dtype=getattr(torch, settings.dtype), output_loading_info=True, **options)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: no sequence classifier can be loaded from it ({_first_line(error)})") from None
    return model, sorted(told["missing_keys"])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _adapter(settings: Settings) -> tuple[Any, Any]:
    """An adapter on its base; the head comes from the adapter's file, or is the base's own."""
    from peft import PeftModel
    from peft.utils import load_peft_weights

    saved = load_peft_weights(settings.path, device="cpu", revision=settings.revision)
    heads = {name.removeprefix("base_model.model."): len(w) for name, w in saved.items() if HEAD.search(name)}
    outputs = {"num_labels": max(heads.values())} if heads else {}
    model, missing = _load(settings.base or _base_of(settings.path), settings, **outputs)
    lost = [name for name in missing if name not in heads]
    if lost:
        raise UserError(_no_head(settings.path, lost))
    return PeftModel.from_pretrained(model, settings.path, revision=settings.revision), model.config.get_text_config()


def _base_of(path: str) -> str:
    """The base that an adapter names: a directory beside it or elsewhere, or a hub id."""
    from peft import PeftConfig

    told = PeftConfig.from_pretrained(path).base_model_name_or_path
    beside = Path(path) / told
    return str(beside.resolve()) if beside.is_dir() else told


def _hub_adapter(settings: Settings) -> bool:
    from transformers.utils import cached_file

    if Path(settings.path).is_dir():
        return False
    return (
        cached_file(settings.path, "adapter_config.json", revision=settings.revision, _raise_exceptions_for_missing_entries=False)
        is not None
    )


def _no_head(path: str, missing: Sequence[str]) -> str:
    return (
        f"{path}: holds no weights for {', '.join(missing[:4])}{', …' if len(missing) > 4 else ''}: newly initialised weights score "
        "nothing; give a model that was saved as a sequence classifier (for an adapter: with its head, modules_to_save=['score'])"
    )


def _output(config: Any, settings: Settings) -> int:
    """Which column of the outputs is the score."""
    labels = {str(name): int(i) for i, name in (config.id2label or {}).items()}
    if settings.output is None:
        if config.num_labels != 1:
            raise UserError(f"{settings.path}: the model has {config.num_labels} outputs ({', '.join(labels)}); name one with `output`")
        return 0
    if isinstance(settings.output, int) and settings.output < config.num_labels:
        return settings.output
    if settings.output not in labels:
        raise UserError(f"{settings.path}: has no output {settings.output!r}{nearest(str(settings.output), labels)}")
    return labels[settings.output]


def _room(tokenizer: Any, config: Any) -> int:
    """The most tokens that tokenizer and model allow."""
    return min(tokenizer.model_max_length, getattr(config, "max_position_embeddings", None) or tokenizer.model_max_length)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
