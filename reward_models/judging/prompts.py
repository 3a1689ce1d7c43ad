"""The prompts of judges: Jinja templates over phrases of a rubric language.

Reads `reward_models/prompts/`, or your own template.

Templates run in Jinja's immutable sandbox. All text to judge is put between markers that occur
nowhere in it, so it cannot end its own block. The markers depend on the prompt alone, so that the
judge's prompts for answers to one prompt share their beginning.

A template may use: `phrases` (of the rubric language), `fenced(title, text)`, `conversation`
(messages of the prompt), `question` (its last message), `answer`, `answer_a`, `answer_b`,
`reference`, `check`, `criteria`, `language` (the name of the answer's language), `low`, `high`,
`max_questions`, `yes`, `no`, `verdict` (what precedes the verdict), `reasoning`, `ties`. It may
extend `base.j2`.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import jinja2
import yaml
from jinja2.sandbox import ImmutableSandboxedEnvironment

from mlalign.core import languages
from mlalign.core.errors import UserError, nearest
from reward_models.items import Item, readable

FOLDER = Path(__file__).parent.parent / "prompts"
ENGLISH = "eng_Latn"
ROW = "row"  # the rubric is in the language of each row
ROLES = ("system", "user", "assistant", "tool")


@cache
def rubric_languages() -> tuple[str, ...]:
    """The languages that have phrases."""
    return tuple(sorted(path.stem for path in (FOLDER / "phrases").glob("*.yaml")))


def rubric(name: str) -> str:
    """`row`, or the code of the rubric language of that name.

    Raises: UserError if there are no phrases in it.
    """
    if name == ROW:
        return ROW
    code = languages.normalise(name)
    if code not in rubric_languages():
        hint = nearest(code, [*rubric_languages(), ROW])
        raise UserError(
            f"rubric: there are no phrases in {name}{hint}; or give a `template` of your own"
        )
    return code


@cache
def phrases(code: str) -> Mapping[str, str]:
    return yaml.safe_load((FOLDER / "phrases" / f"{code}.yaml").read_text(encoding="utf-8"))


@dataclasses.dataclass(frozen=True)
class Prompts:
    """Renders prompts; `rubric` is a code or `row`.

    All prompts share `values`: low, high, criteria, reasoning, ties, max_questions.
    """

    rubric: str
    values: Mapping[str, Any]

    def language_of(self, item: Item) -> str | None:
        """The rubric language for an item; None where its own has no phrases, or it has none."""
        if self.rubric != ROW:
            return self.rubric
        return item.language if item.language in rubric_languages() else None

    def text(self, template: jinja2.Template, item: Item, code: str, **judged: str) -> str:
        """The prompt; `judged` are the texts to judge besides the conversation.

        Raises: UserError if the template fails.
        """
        words = phrases(code)
        settings = {**self.values, "language": _language_name(item, code)}
        # Phrases may name other phrases and settings, but no text to judge.
        names = {**words, **settings}
        formatted = {key: phrase.format(**names) for key, phrase in words.items()}
        variables = {
            **settings,
            "conversation": _conversation(item),
            "question": readable(item.prompt[-1]),
            **judged,
            "phrases": formatted,
            "yes": words["yes"],
            "no": words["no"],
            "verdict": words["verdict"],
            "fenced": _fence(item.prompt, list(judged.values())),
        }
        try:
            return template.render(variables).strip()
        except jinja2.TemplateError as error:
            raise UserError(f"template {template.filename or template.name}: {error}") from None


def _language_name(item: Item, code: str) -> str | None:
    """The name of the answer's language: in English, or else in that language."""
    if not item.language:
        return None
    if code == ENGLISH:
        return languages.english_name(item.language)
    return languages.autonym(item.language)


def _conversation(item: Item) -> list[dict]:
    messages = []
    for message in item.prompt:
        role = message["role"] if message["role"] in ROLES else "message"
        messages.append({"role": role, "content": readable(message)})
    return messages


def _fence(prompt: Sequence[Mapping], judged: Sequence[str]) -> Callable[[str, str], str]:
    """A function that puts a text between a pair of markers that none of the texts contains."""
    messages = [[message["role"], readable(message)] for message in prompt]
    seed = json.dumps(messages, ensure_ascii=False)
    texts = [*map(readable, prompt), *judged]
    for i in count():
        mark = hashlib.sha256(f"{i}{seed}".encode()).hexdigest()[:8]
        if not any(mark in text for text in texts):
            break
    return lambda title, text: f"<{title} {mark}>\n{text}\n</{title} {mark}>"


def template(name: str) -> jinja2.Template:
    """A template of this package (`scalar`), or your own (a path).

    Raises: UserError if there is none, or it is not valid Jinja.
    """
    environment = ImmutableSandboxedEnvironment(
        loader=jinja2.FileSystemLoader(FOLDER),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    try:
        if not name.endswith(".j2"):
            return environment.get_template(f"{name}.j2")
        path = Path(name).expanduser()
        if not path.is_file():
            raise UserError(f"template: there is no file {path}")
        own_template = environment.from_string(path.read_text(encoding="utf-8"))
        own_template.filename = str(path)
        return own_template
    except jinja2.TemplateNotFound as error:
        hint = nearest(name, built_in())
        raise UserError(
            f"template: there is none named {error}{hint}; a file of yours ends in .j2"
        ) from None
    except jinja2.TemplateSyntaxError as error:
        raise UserError(f"{name}:{error.lineno}: {error.message}") from None


def built_in() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.j2") if path.stem != "base")
