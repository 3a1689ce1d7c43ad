"""From messages to a model's token ids, and from its text to reasoning and answer.

Reads tokenizers; writes nothing.
"""

import itertools
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
    """A chat template as Jinja text, or as the name of one of the tokenizer's templates.

    `value` may be a path, Jinja text (which has braces), or such a name.

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
    """The model's own tokenizer, with `chat_template` in place of its own if given.

    `chat_template` is Jinja text, or the name of one of the tokenizer's templates.

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

    The template writes all special tokens; none is added, so BOS is not doubled.
    """
    if not texts:
        return []
    return tokenizer(list(texts), add_special_tokens=False)["input_ids"]


class Untrusted:
    """Tokenises untrusted texts, so that none of them can write a special token (`<|im_end|>`).

    The text of a special token stays text: its characters are tokenised one by one, and only the
    template starts or ends a turn. All other texts get the ids of `token_ids`.
    """

    def __init__(self, template: ChatTemplate):
        self._template = template
        self._tokenizer = template.tokenizer
        self._specials = special_texts(template.tokenizer)
        self._pattern = re.compile("|".join(map(re.escape, self._specials)) or r"(?!)")

    def prompt_ids(self, messages: Sequence[Mapping], place: str) -> tuple[list[int], bool]:
        """(token ids that ask for the next turn, whether a message tried to write a special token).

        Raises: UserError naming `place` if the template refuses the messages.
        """
        contents = [message["content"] for message in messages]
        mark = _unused("".join(contents))
        hidden = [self._hidden(content, mark) for content in contents]
        marked = [
            {**message, "content": content}
            for message, content in zip(messages, hidden, strict=True)
        ]
        ids = self._ids(self._template.prompt(marked, place), mark)
        return ids, hidden != contents

    def text_ids(self, text: str) -> list[int]:
        """Token ids of a text without a template."""
        mark = _unused(text)
        return self._ids(self._hidden(text, mark), mark)

    def _hidden(self, text: str, mark: str) -> str:
        """The text with every special token in it replaced by its number between two marks."""

        def number_of(special: re.Match) -> str:
            return f"{mark}{self._specials.index(special.group())}{mark}"

        return self._pattern.sub(number_of, text)

    def _ids(self, text: str, mark: str) -> list[int]:
        """Token ids of a text with hidden special tokens, whose characters are tokenised singly."""
        texts: list[str] = []
        for i, piece in enumerate(re.split(rf"{mark}(\d+){mark}", text)):
            if i % 2 == 0:
                texts.append(piece)
            else:
                texts += self._specials[int(piece)]
        return list(itertools.chain.from_iterable(token_ids(self._tokenizer, texts)))


def _unused(text: str) -> str:
    """A private-use character of Unicode that the text does not have."""
    return next(char for char in map(chr, range(0xE000, 0xF900)) if char not in text)


def special_texts(tokenizer: Any) -> list[str]:
    """The texts that the tokenizer reads as a token with a meaning of its own, longest first.

    These are its special tokens, and other added tokens that its chat template writes (`<think>`)
    except white space.
    """
    template = templates.text_of(tokenizer)
    texts = set()
    for token in tokenizer.added_tokens_decoder.values():
        in_template = token.content in template and not token.content.isspace()
        if token.special or in_template:
            texts.add(token.content)
    return sorted(texts, key=lambda text: (-len(text), text))


def stops_of(template: ChatTemplate) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """(end tokens, stop strings) with which the template ends an assistant's turn."""
    end = template.end_of_turn
    if end.token is not None:
        return (end.token,), ()
    if end.text:
        return (), (end.text,)
    return (), ()


def context_length(model: "Model") -> int | None:
    """How many tokens the model was built for, prompt and answer together; None if unknown."""
    base = model.base or model
    config = opening.configuration(base.path, base.revision).get_text_config()
    return getattr(config, "max_position_embeddings", None)


def split_reasoning(text: str, tags: Sequence[str], opened: bool) -> tuple[str, str | None]:
    """(answer, reasoning) of a text.

    `tags` is [opening, closing], or empty for models that do not reason. `opened`: the prompt
    itself ended with the opening tag. If reasoning is never closed, the answer is empty.
    """
    if not tags:
        return text, None
    start, end = tags
    body = text.lstrip()
    if end not in text:
        if opened or body.startswith(start):
            return "", body.removeprefix(start).strip()
        return text, None
    reasoning, _, answer = body.partition(end)
    return answer.lstrip(), reasoning.removeprefix(start).strip()
