"""Finds what is wrong, or may be, with a model before anything is scored.

Reads tokenizer, configuration, card and file headers; no weights are loaded. A finding is an
`error` (scoring would stop, or the scores would not be the trained model's), a `warning` (scores
may not mean what one thinks) or a `note` (a trap elsewhere that does nothing here).
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from mlalign.core import weight_files
from mlalign.core.errors import UserError
from mlalign.core.weight_files import BYTES
from mlalign.models import opening, outline, templates
from mlalign.models.engine.chat import read_template
from mlalign.models.templates import ChatTemplate
from reward_models import card as cards
from reward_models.networks import loading

HEAD = re.compile(r"(^|\.)(score|classifier|classification_head)\.")
# Family -> what its model does.
TASKS: dict[str, outline.Task] = {
    "classifier": "classifier",
    "implicit": "causal",
    "judge": "causal",
}
UNLIMITED = 10**9  # tokenizers without a limit say 10**30


@dataclasses.dataclass(frozen=True)
class Finding:
    level: Literal["error", "warning", "note"]
    where: str
    text: str


@dataclasses.dataclass
class Subject:
    """A scorer as far as it can be known without its weights.

    `tokenizer` is None if it has none of its own or it cannot be read.
    """

    settings: Mapping[str, Any]
    card: cards.Card | None = None
    tokenizer: Any = None
    template: ChatTemplate | None = None
    config: Any = None
    max_length: int | None = None
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)
    findings: list[Finding] = dataclasses.field(default_factory=list)

    @property
    def template_is_known(self) -> bool:
        """Whether the card says that the model was trained with the very template that it has."""
        if self.template is None or self.card is None:
            return False
        own_hash = cards.template_hash(templates.text_of(self.tokenizer))
        return self.card.template_hash == own_hash


def of_model(settings: Mapping[str, Any], card: cards.Card | None) -> Subject:
    """What can be known about a scorer's model without its weights."""
    family = settings["family"]
    path = settings.get("path")
    subject = Subject(settings, card, facts={"family": family})
    if not path:
        text = "has no model directory to look at: only the rows are checked"
        subject.findings.append(Finding("note", family, text))
        return subject

    path = str(path)
    for look in (_look_at_tokenizer, _look_at_config, _look_at_weights):
        try:
            subject.findings += look(subject, path)
        except UserError as error:
            subject.findings += [Finding("error", "model", message) for message in error.messages]
    subject.max_length = _max_length(subject)
    subject.facts["path"] = path
    subject.facts["max_length"] = subject.max_length
    subject.facts["training_languages"] = card.training_languages if card else []
    if card is None:
        text = f"no {cards.FILE} says how the model was trained; rm-score card create writes one"
        subject.findings.append(Finding("note", "card", text))
    return subject


def _look_at_tokenizer(subject: Subject, path: str) -> Iterator[Finding]:
    tokenizer = opening.tokenizer(path, subject.settings.get("revision"))
    facts = {"class": type(tokenizer).__name__, "tokens": len(tokenizer)}
    subject.facts["tokenizer"] = facts | _special_tokens(tokenizer)
    if not tokenizer.chat_template:
        raise UserError("its tokenizer has no chat template; save the one of its training with it")

    templates.install(tokenizer, read_template(subject.settings.get("chat_template")))
    template_hash = cards.template_hash(templates.text_of(tokenizer))
    subject.template = _template(subject, tokenizer)
    subject.tokenizer = tokenizer
    subject.facts["tokenizer"]["template_hash"] = template_hash
    expected = subject.card.template_hash if subject.card else None
    if expected not in (None, template_hash):
        text = (
            f"its hash is {template_hash}, the card's {expected}: the model was trained with"
            " another; put that one back"
        )
        yield Finding("error", "template", text)
    yield from _date_findings(subject.template)
    yield from _padding_traps(tokenizer)


def _template(subject: Subject, tokenizer: Any) -> ChatTemplate:
    card_date = subject.card.date if subject.card else None
    date = subject.settings.get("date") or card_date or templates.DATE
    return ChatTemplate(tokenizer, subject.settings.get("chat_template_kwargs") or {}, date)


def _date_findings(template: ChatTemplate) -> Iterator[Finding]:
    if template.writes_date:
        text = f"writes the date: here always {template.date} (the setting date), elsewhere today's"
        yield Finding("note", "template", text)


def _special_tokens(tokenizer: Any) -> dict[str, Any]:
    return {
        "bos": [tokenizer.bos_token_id, tokenizer.bos_token],
        "eos": [tokenizer.eos_token_id, tokenizer.eos_token],
        "pad": [tokenizer.pad_token_id, tokenizer.pad_token],
    }


def _padding_traps(tokenizer: Any) -> Iterator[Finding]:
    traps = []
    if tokenizer.pad_token_id is None:
        traps.append("the tokenizer has no pad token: elsewhere batches of more than one fail")
    elif tokenizer.pad_token_id == tokenizer.eos_token_id:
        traps.append(
            "pad is EOS: elsewhere the score may be read before the last EOS, a place too early"
        )
    if tokenizer.padding_side == "left":
        traps.append("the tokenizer pads on the left: elsewhere scores may change with the batch")
    here = "here batches are padded on the right with a token that they do not hold, and masked"
    for trap in traps:
        yield Finding("note", "padding", f"{trap}; {here}")


def _look_at_config(subject: Subject, path: str) -> Iterator[Finding]:
    revision = subject.settings.get("revision")
    base = subject.settings.get("base") or weight_files.base_of(path, revision)
    source = base or path
    config = opening.configuration(source, None if base else revision)
    subject.config = config
    subject.facts |= {"base": base, "architectures": config.architectures or []}
    if getattr(config, "quantization_config", None):
        text = f"{source} is saved quantised: its scores are those of the quantised model"
        yield Finding("warning", "weights", text)
    size = getattr(config.get_text_config(), "vocab_size", None)
    if subject.tokenizer is not None and size is not None and base is None:
        opening.check_tokens(subject.tokenizer, size, path, padding_is_read=False)

    statistics = opening.statistics(vars(config))
    if statistics and subject.settings.get("normalise") is None:
        mean, std = statistics
        text = (
            f"config.json has their mean {mean:g}, std {std:g}, which are not applied unless you"
            " set normalise=true"
        )
        yield Finding("warning", "scores", text)
    if subject.settings["family"] == "classifier" and base is None:
        yield from _outputs(subject, config)


def _outputs(subject: Subject, config: Any) -> Iterator[Finding]:
    labels = [str(config.id2label[i]) for i in sorted(config.id2label)] if config.id2label else []
    subject.facts["outputs"] = labels
    try:
        loading.output_of(config, str(subject.settings["path"]), subject.settings.get("output"))
    except UserError as error:
        yield Finding("error", "head", f"{error}; as in --set output=NAME")
    stated = subject.card.outputs if subject.card else []
    if stated and stated != labels:
        text = f"its outputs are {', '.join(labels)}, the card's {', '.join(stated)}"
        yield Finding("warning", "head", text)


def _look_at_weights(subject: Subject, path: str) -> Iterator[Finding]:
    if subject.config is None:
        return  # the reason is reported already
    weights = weight_files.weights(Path(path)) if Path(path).is_dir() else None
    if weights is not None:
        _note_weights(subject, weights)
        stored = weights.dtypes
        if len(stored) > 1 and next(iter(stored)) not in BYTES:
            text = f"are stored as {', '.join(stored)}: quantised, or not a plain checkpoint"
            yield Finding("warning", "weights", text)
    task = TASKS.get(subject.settings["family"])
    if task is None:
        return
    if Path(subject.facts["base"] or path).is_dir():
        _check_weights(subject, path, task)
    else:
        outline.check_class(path, subject.config, task)
        text = "are on the hub: head, number type and size are not checked before they are fetched"
        yield Finding("note", "weights", text)


def _note_weights(subject: Subject, weights: weight_files.Tensors) -> None:
    heads = {}
    for name, (_, shape) in weights.by_name.items():
        if HEAD.search(name):
            heads[name] = list(shape)
    used_as = subject.settings.get("dtype", "float32")
    subject.facts["weights"] = {
        "parameters": weights.parameters,
        "dtypes": weights.dtypes,
        "head": heads,
        "used_as": used_as,
        "bytes": weights.parameters * BYTES.get(used_as, 4),
    }
    is_classifier = subject.settings["family"] == "classifier"
    brings_head = is_classifier and heads and "outputs" not in subject.facts  # as adapters do
    if brings_head:
        n_outputs = list(heads.values())[-1][0]
        subject.facts["outputs"] = [f"LABEL_{i}" for i in range(n_outputs)]


def _check_weights(subject: Subject, path: str, task: outline.Task) -> None:
    """Look at the headers of the weights as scoring will.

    Raises: UserError if the model is not what its files say.
    """
    base = subject.facts["base"]
    if base is None:
        opening.outline(path, task)
        return
    adapter = opening.adapter_outline(path, subject.settings.get("revision"))
    n_outputs = adapter.n_outputs if task == "classifier" else None
    opening.outline(base, task, n_outputs=n_outputs, on_it=adapter)


def _max_length(subject: Subject) -> int | None:
    """As the classifier takes it: settings, card, else what tokenizer and model allow."""
    card_length = subject.card.max_length if subject.card else None
    stated = subject.settings.get("max_length") or card_length
    if stated:
        return stated
    limits = [getattr(subject.tokenizer, "model_max_length", None)]
    if subject.config is not None:
        text_config = subject.config.get_text_config()
        limits.append(getattr(text_config, "max_position_embeddings", None))
    return min((n for n in limits if n and n < UNLIMITED), default=None)


def special_findings(ids: Sequence[int], subject: Subject) -> Iterator[Finding]:
    """BOS and EOS of a rendered conversation, if doubled or missing.

    They are compared with what the tokenizer itself would write, and with the card.
    """
    level: Literal["note", "warning"] = "note" if subject.template_is_known else "warning"
    agreed = ""
    if subject.template_is_known:
        agreed = "; the card's template is the same, so training had none either"
    yield from _bos_findings(ids, subject.tokenizer, level, agreed)
    yield from _eos_findings(ids, subject.tokenizer, level, agreed)


def _bos_findings(
    ids: Sequence[int],
    tokenizer: Any,
    level: Literal["note", "warning"],
    agreed: str,
) -> Iterator[Finding]:
    bos = tokenizer.bos_token_id
    if bos is None:
        return
    first = list(ids[:1])
    second = list(ids[1:2])
    adds_bos = tokenizer("a")["input_ids"][:1] == [bos]
    if first == second == [bos]:
        yield Finding("error", "BOS", "is doubled: the template writes it twice")
    elif adds_bos and first == [bos]:
        text = (
            "the tokenizer adds one to text and the template writes one: doubled elsewhere, once"
            " here (none is added)"
        )
        yield Finding("note", "BOS", text)
    elif adds_bos:
        text = f"the tokenizer adds one to text, but the template writes none{agreed}"
        yield Finding(level, "BOS", text)


def _eos_findings(
    ids: Sequence[int],
    tokenizer: Any,
    level: Literal["note", "warning"],
    agreed: str,
) -> Iterator[Finding]:
    eos = tokenizer.eos_token_id
    end = _without_blank_end(ids, tokenizer)
    special = set(tokenizer.all_special_ids)
    special |= {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    if eos is not None and end[-2:] == [eos, eos]:
        yield Finding(level, "EOS", "is doubled at the end of the conversation")
    elif end and end[-1] not in special:
        text = f"the answer ends without EOS or another special token{agreed}"
        yield Finding(level, "EOS", text)


def _without_blank_end(ids: Sequence[int], tokenizer: Any) -> list[int]:
    end = list(ids[-4:])
    while end and not tokenizer.decode(end[-1:]).strip():
        end.pop()
    return end
