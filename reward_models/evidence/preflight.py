"""What is wrong, or may be, with a model and rows before anything is scored. Reads tokenizer, configuration, card and file headers.

No weights are loaded. A finding is an `error` (scoring would stop, or the scores would not be the trained model's), a `warning` (scores may
not mean what one thinks) or a `note` (a trap elsewhere that does nothing here).
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
TASKS: dict[str, outline.Task] = {"classifier": "classifier", "implicit": "causal", "judge": "causal"}  # family -> what its model does
UNLIMITED = 10**9  # tokenizers without a limit say 10**30


@dataclasses.dataclass(frozen=True)
class Finding:
    level: Literal["error", "warning", "note"]
    where: str
    text: str


@dataclasses.dataclass
class Subject:
    """A scorer as far as it can be known without its weights; `tokenizer` is None where it has none of its own or it cannot be read."""

    told: Mapping[str, Any]
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
        known = self.card.template_hash if self.card else None
        return self.template is not None and known == cards.template_hash(templates.text_of(self.tokenizer))


def of_model(told: Mapping[str, Any], card: cards.Card | None) -> Subject:
    """What there is to know about a scorer's model; `told` are its settings."""
    subject = Subject(told, card, facts={"family": told["family"]})
    if not told.get("path"):
        subject.findings.append(Finding("note", told["family"], "has no model directory to look at: only the rows are checked"))
        return subject
    path = str(told["path"])
    for look in (_look_at_tokenizer, _look_at_config, _look_at_weights):
        try:
            subject.findings += look(subject, path)
        except UserError as error:
            subject.findings += [Finding("error", "model", message) for message in error.messages]
    subject.max_length = _max_length(subject)
    subject.facts |= {"path": path, "max_length": subject.max_length, "training_languages": getattr(subject.card, "training_languages", [])}
    if card is None:
        subject.findings.append(Finding("note", "card", f"no {cards.FILE} says how the model was trained; rm-score card create writes one"))
    return subject


def _look_at_tokenizer(subject: Subject, path: str) -> Iterator[Finding]:
    tokenizer = opening.tokenizer(path, subject.told.get("revision"))
    subject.facts["tokenizer"] = {"class": type(tokenizer).__name__, "tokens": len(tokenizer), **_special_tokens(tokenizer)}
    if not tokenizer.chat_template:
        raise UserError("its tokenizer has no chat template; save the one of its training with it")
    templates.install(tokenizer, read_template(subject.told.get("chat_template")))
    found = cards.template_hash(templates.text_of(tokenizer))
    subject.template = _template(subject, tokenizer)
    subject.tokenizer = tokenizer
    subject.facts["tokenizer"]["template_hash"] = found
    expected = subject.card.template_hash if subject.card else None
    if expected not in (None, found):
        yield Finding(
            "error", "template", f"its hash is {found}, the card's {expected}: the model was trained with another; put that one back"
        )
    yield from _date_findings(subject.template)
    yield from _padding_traps(tokenizer)


def _template(subject: Subject, tokenizer: Any) -> ChatTemplate:
    date = subject.told.get("date") or (subject.card and subject.card.date) or templates.DATE
    return ChatTemplate(tokenizer, subject.told.get("chat_template_kwargs") or {}, date)


def _date_findings(template: ChatTemplate) -> Iterator[Finding]:
    if template.writes_date:
        yield Finding("note", "template", f"writes the date: here always {template.date} (the setting date), elsewhere today's")


def _special_tokens(tokenizer: Any) -> dict[str, Any]:
    names = ("bos", "eos", "pad")
    return {name: [getattr(tokenizer, f"{name}_token_id"), getattr(tokenizer, f"{name}_token")] for name in names}


def _padding_traps(tokenizer: Any) -> Iterator[Finding]:
    here = "here batches are padded on the right with a token that they do not hold, and masked"
    if tokenizer.pad_token_id is None:
        yield Finding("note", "padding", f"the tokenizer has no pad token: elsewhere batches of more than one fail; {here}")
    elif tokenizer.pad_token_id == tokenizer.eos_token_id:
        yield Finding("note", "padding", f"pad is EOS: elsewhere the score may be read before the last EOS, a place too early; {here}")
    if tokenizer.padding_side == "left":
        yield Finding("note", "padding", f"the tokenizer pads on the left: elsewhere scores may change with the batch; {here}")


def _look_at_config(subject: Subject, path: str) -> Iterator[Finding]:
    revision = subject.told.get("revision")
    base = subject.told.get("base") or weight_files.base_of(path, revision)
    source = base or path
    config = opening.configuration(source, None if base else revision)
    subject.config = config
    subject.facts |= {"base": base, "architectures": config.architectures or []}
    if getattr(config, "quantization_config", None):
        yield Finding("warning", "weights", f"{source} is saved quantised: its scores are those of the quantised model")
    size = getattr(config.get_text_config(), "vocab_size", None)
    if subject.tokenizer is not None and size is not None and base is None:
        opening.check_tokens(subject.tokenizer, size, path, padding_is_read=False)
    if (statistics := opening.statistics(vars(config))) and subject.told.get("normalise") is None:
        numbers = "mean {:g}, std {:g}".format(*statistics)
        yield Finding("warning", "scores", f"config.json has their {numbers}, which are not applied unless you set normalise=true")
    if subject.told["family"] == "classifier" and base is None:
        yield from _outputs(subject, config)


def _outputs(subject: Subject, config: Any) -> Iterator[Finding]:
    labels = [str(config.id2label[i]) for i in sorted(config.id2label)] if config.id2label else []
    subject.facts["outputs"] = labels
    try:
        loading.output_of(config, str(subject.told["path"]), subject.told.get("output"))
    except UserError as error:
        yield Finding("error", "head", f"{error}; as in --set output=NAME")
    stated = subject.card.outputs if subject.card else []
    if stated and stated != labels:
        yield Finding("warning", "head", f"its outputs are {', '.join(labels)}, the card's {', '.join(stated)}")


def _look_at_weights(subject: Subject, path: str) -> Iterator[Finding]:
    if subject.config is None:
        return  # why not is told already
    weights = weight_files.weights(Path(path)) if Path(path).is_dir() else None
    if weights is not None:
        _note_weights(subject, weights)
        stored = weights.dtypes
        if len(stored) > 1 and next(iter(stored)) not in BYTES:
            yield Finding("warning", "weights", f"are stored as {', '.join(stored)}: quantised, or not a plain checkpoint")
    task = TASKS.get(subject.told["family"])
    if task is None:
        return
    if Path(subject.facts["base"] or path).is_dir():
        _check_weights(subject, path, task)
    else:
        outline.check_class(path, subject.config, task)
        yield Finding("note", "weights", "lie on the hub: head, number type and size are not checked before they are fetched")


def _note_weights(subject: Subject, weights: weight_files.Tensors) -> None:
    heads = {name: list(shape) for name, (_, shape) in weights.by_name.items() if HEAD.search(name)}
    used = subject.told.get("dtype", "float32")
    subject.facts["weights"] = {
        "parameters": weights.parameters, "dtypes": weights.dtypes, "head": heads,
        "used_as": used, "bytes": weights.parameters * BYTES.get(used, 4),
    }  # fmt: skip
    if subject.told["family"] == "classifier" and "outputs" not in subject.facts and heads:  # an adapter that brings its head
        subject.facts["outputs"] = [f"LABEL_{i}" for i in range(list(heads.values())[-1][0])]


def _check_weights(subject: Subject, path: str, task: outline.Task) -> None:
    """Look at the headers of the weights as scoring will. Raises: UserError if the model is not what its files say."""
    base = subject.facts["base"]
    if base is None:
        opening.outline(path, task)
        return
    adapter = opening.adapter_outline(path, subject.told.get("revision"))
    n_outputs = adapter.n_outputs if task == "classifier" else None
    opening.outline(base, task, n_outputs=n_outputs, on_it=adapter)


def _max_length(subject: Subject) -> int | None:
    """As the classifier takes it: settings, card, else what tokenizer and model allow."""
    stated = subject.told.get("max_length") or (subject.card.max_length if subject.card else None)
    positions = getattr(subject.config.get_text_config(), "max_position_embeddings", None) if subject.config is not None else None
    room = [n for n in (getattr(subject.tokenizer, "model_max_length", None), positions) if n and n < UNLIMITED]
    return stated or min(room, default=None)


def special_findings(ids: Sequence[int], subject: Subject) -> Iterator[Finding]:
    """BOS and EOS of a rendered conversation, doubled or missing, against what the tokenizer itself would write and the card says."""
    tokenizer, known = subject.tokenizer, subject.template_is_known
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    adds_bos = bos is not None and tokenizer("a")["input_ids"][:1] == [bos]
    agreed = "; the card's template is the same, so training had none either" if known else ""
    if bos is not None and list(ids[:2]) == [bos, bos]:
        yield Finding("error", "BOS", "is doubled: the template writes it twice")
    elif adds_bos and list(ids[:1]) == [bos]:
        yield Finding(
            "note", "BOS", "the tokenizer adds one to text and the template writes one: doubled elsewhere, once here (none is added)"
        )
    elif adds_bos:
        yield Finding("note" if known else "warning", "BOS", f"the tokenizer adds one to text, but the template writes none{agreed}")
    end = _without_blank_end(ids, tokenizer)
    special = set(tokenizer.all_special_ids) | {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    if eos is not None and end[-2:] == [eos, eos]:
        yield Finding("note" if known else "warning", "EOS", "is doubled at the end of the conversation")
    elif end and end[-1] not in special:
        yield Finding("note" if known else "warning", "EOS", f"the answer ends without EOS or another special token{agreed}")


def _without_blank_end(ids: Sequence[int], tokenizer: Any) -> list[int]:
    end = list(ids[-4:])
    while end and not tokenizer.decode(end[-1:]).strip():
        end.pop()
    return end
