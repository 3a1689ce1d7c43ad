"""From messages to a model's token ids, and from its text to reasoning and answer.

Reads tokenizers; writes nothing.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlalign.core.errors import UserError
from mlalign.core.weight_files import TOKENIZER_FILES
from mlalign.models import opening, templates
from mlalign.models.templates import ChatTemplate

if TYPE_CHECKING:
    from mlalign.core.model import Model


def tokenizer_source(model: "Model") -> "Model":
    """Where a model's tokenizer lies: with an adapter if it brings one, otherwise with its base."""
    brings = any((Path(model.path) / name).is_file() for name in TOKENIZER_FILES)
    return model if model.base is None or brings else model.base


def read_template(value: str | None) -> str | None:
    """A chat template given as a path, as Jinja text (which has braces), or as the name of one of
    the tokenizer's templates.

    Raises: UserError if it is a path and there is no such file.
    """
    if value is None or "{" in value:
        return value
    path = Path(value).expanduser()
    if not path.is_file():
        if templates.is_name(value):
            return value
        raise UserError(
            f"chat_template: there is no file {path}; give a file of Jinja text, or the text itself"
        )
    return path.read_text(encoding="utf-8")


def load_tokenizer(model: "Model", chat_template: str | None = None) -> Any:
    """The model's own tokenizer, with `chat_template` (Jinja text, or the name of one of several)
    in place of its own if given.

    Raises: UserError if there is no tokenizer, or neither it nor the caller has a chat template.
    """
    source = tokenizer_source(model)
    tokenizer = opening.tokenizer(source.path, source.revision)
    templates.install(tokenizer, chat_template)
    if not tokenizer.chat_template:
        raise UserError(
            f"{source.path}: its tokenizer has no chat template and none is configured; set"
            " chat_template=FILE.jinja on the step, or model.chat_template=FILE.jinja for all"
            " steps"
        )
    templates.text_of(tokenizer)
    return tokenizer


def token_ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of rendered texts.

    Special tokens are those that the template wrote: none is added, so no BOS is doubled.
    """
    return tokenizer(list(texts), add_special_tokens=False)["input_ids"] if texts else []


class Untrusted:
    """Tokenises texts that nobody vouches for, so that none of them writes a special token
    (`<|im_end|>`).

    Such text stays text: its characters are tokenised one by one, and nothing but the template
    starts or ends a turn. All other texts get the ids of `token_ids`.
    """

    def __init__(self, template: ChatTemplate):
        self._template, self._tokenizer = template, template.tokenizer
        self._specials = special_texts(template.tokenizer)
        self._pattern = re.compile("|".join(map(re.escape, self._specials)) or r"(?!)")

    def prompt_ids(self, messages: Sequence[Mapping], place: str) -> tuple[list[int], bool]:
        """Token ids that ask for the next turn, and whether a message tried to write a special
        token.

        Raises: UserError naming `place` if the template refuses the messages.
        """
        mark = _unused("".join(m["content"] for m in messages))
        hidden = [{**m, "content": self._hidden(m["content"], mark)} for m in messages]
        ids = self._ids(self._template.prompt(hidden, place), mark)
        return ids, any(
            new["content"] != old["content"] for new, old in zip(hidden, messages, strict=True)
        )

    def text_ids(self, text: str) -> list[int]:
        """Token ids of a text without a template."""
        mark = _unused(text)
        return self._ids(self._hidden(text, mark), mark)

    def _hidden(self, text: str, mark: str) -> str:
        """The text with every special token in it replaced by its number between two marks."""
        return self._pattern.sub(
            lambda found: f"{mark}{self._specials.index(found.group())}{mark}", text
        )

    def _ids(self, text: str, mark: str) -> list[int]:
        pieces = re.split(rf"{mark}(\d+){mark}", text)
        texts = [
            part
            for i, piece in enumerate(pieces)
            for part in (self._specials[int(piece)] if i % 2 else [piece])
        ]
        return [token for ids in token_ids(self._tokenizer, texts) for token in ids]


def _unused(text: str) -> str:
    """A character of private use, which means nothing to anybody, that the text does not have."""
    return next(c for c in map(chr, range(0xE000, 0xF900)) if c not in text)


def special_texts(tokenizer: Any) -> list[str]:
    """The texts that the tokenizer reads as a token with a meaning of its own, longest first.

    These are its special tokens, and what else it added that its chat template writes (`<think>`),
    but for white space.
    """
    template = templates.text_of(tokenizer)
    added = tokenizer.added_tokens_decoder.values()
    found = {
        t.content for t in added if t.special or (t.content in template and not t.content.isspace())
    }
    return sorted(found, key=lambda s: (-len(s), s))


def stops_of(template: ChatTemplate) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """(end tokens, stop strings) that end generation where the template ends an assistant's turn."""
    end = template.end_of_turn
    if end.token is not None:
        return (end.token,), ()
    return (), (end.text,) if end.text else ()


def context_length(model: "Model") -> int | None:
    """How many tokens the model was built for, prompt and answer together; None if its
    configuration does not say.
    """
    base = model.base or model
    config = opening.configuration(base.path, base.revision).get_text_config()
    return getattr(config, "max_position_embeddings", None)


def split_reasoning(text: str, tags: Sequence[str], opened: bool) -> tuple[str, str | None]:
    """(answer, reasoning) of a text; `tags` is [opening, closing], or empty for models that do not
    reason.

    `opened`: the prompt itself ended with the opening tag. Reasoning that is never closed leaves
        the answer empty.
    """
    if not tags:
        return text, None
    start, end = tags
    body = text.lstrip()
    begun = opened or body.startswith(start)
    if end not in text:
        return ("", body.removeprefix(start).strip()) if begun else (text, None)
    reasoning, _, answer = body.partition(end)
    return answer.lstrip(), reasoning.removeprefix(start).strip()
