"""What a judge is asked: Jinja templates over phrases of a rubric language.

Reads `reward_models/prompts/`, or a person's own template.

Templates run in Jinja's immutable sandbox. All text that is judged stands between markers that
occur nowhere in it, so it cannot end its own block; the markers follow from the prompt alone, so
that answers to one prompt share the beginning of their prompts.

A template may use: `phrases` (of the rubric language), `fenced(title, text)`, `conversation`
(messages of the prompt), `question` (its last message), `answer`, `answer_a`, `answer_b`,
`reference`, `check`, `criteria`, `language` (the name of the answer's language), `low`, `high`,
`max_questions`, `yes`, `no`, `verdict` (what precedes the verdict), `reasoning`, `ties`. It may
extend `base.j2`.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import yaml
from jinja2.sandbox import ImmutableSandboxedEnvironment

from mlalign.core import languages
from mlalign.core.errors import UserError, nearest
from reward_models.items import Item, readable

FOLDER = Path(__file__).parent.parent / "prompts"
ENGLISH, ROW = "eng_Latn", "row"
ROLES = ("system", "user", "assistant", "tool")


@cache
def rubric_languages() -> tuple[str, ...]:
    """The languages that there are phrases in."""
    return tuple(sorted(p.stem for p in (FOLDER / "phrases").glob("*.yaml")))


def rubric(told: str) -> str:
    """`row`, or the code of the rubric language that a person named.

    Raises: UserError if there are no phrases in it.
    """
    if told == ROW:
        return ROW
    code = languages.normalise(told)
    if code not in rubric_languages():
        raise UserError(
            f"rubric: there are no phrases in {told}{nearest(code, [*rubric_languages(), ROW])}; or"
            " give a `template` of your own"
        )
    return code


@cache
def phrases(code: str) -> Mapping[str, str]:
    return yaml.safe_load((FOLDER / "phrases" / f"{code}.yaml").read_text(encoding="utf-8"))


@dataclasses.dataclass(frozen=True)
class Prompts:
    """`rubric` is a code or `row`; `values` are what all prompts share: low, high, criteria,
    reasoning, ties, max_questions.
    """

    rubric: str
    values: Mapping[str, Any]

    def language_of(self, item: Item) -> str | None:
        """The rubric language for an item; None where its own has no phrases, or it has none."""
        if self.rubric != ROW:
            return self.rubric
        return item.language if item.language in rubric_languages() else None

    def text(self, template: jinja2.Template, item: Item, code: str, **given: str) -> str:
        """The prompt. `given` are the texts to judge besides the conversation.

        Raises: UserError if the template fails.
        """
        told = {
            **self.values,
            **_names(item, code),
            "conversation": _conversation(item),
            "question": readable(item.prompt[-1]),
            **given,
        }
        own = phrases(code)
        plain = {k: v for k, v in told.items() if k not in ("conversation", "question", *given)}
        told |= {
            "phrases": {k: v.format(**{**own, **plain}) for k, v in own.items()},
            "yes": own["yes"],
            "no": own["no"],
        }
        told |= {"verdict": own["verdict"], "fenced": _fence(item.prompt, list(given.values()))}
        try:
            return template.render(told).strip()
        except jinja2.TemplateError as error:
            raise UserError(f"template {template.filename or template.name}: {error}") from None


def _names(item: Item, code: str) -> dict[str, str | None]:
    name = languages.english_name if code == ENGLISH else languages.autonym
    return {"language": name(item.language) if item.language else None}


def _conversation(item: Item) -> list[dict]:
    return [
        {"role": m["role"] if m["role"] in ROLES else "message", "content": readable(m)}
        for m in item.prompt
    ]


def _fence(prompt: Sequence[Mapping], others: Sequence[str]) -> Any:
    """A function that puts a text between a pair of markers that none of the texts contains."""
    texts = [*map(readable, prompt), *others]
    seed = json.dumps([[m["role"], readable(m)] for m in prompt], ensure_ascii=False)
    marks = (hashlib.sha256(f"{i}{seed}".encode()).hexdigest()[:8] for i in range(1 << 16))
    mark = next(m for m in marks if not any(m in text for text in texts))
    return lambda title, text: f"<{title} {mark}>\n{text}\n</{title} {mark}>"


def template(name: str) -> jinja2.Template:
    """A template that comes along (`scalar`), or a person's own (a path).

    Raises: UserError if it is not there or no Jinja.
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
        made = environment.from_string(path.read_text(encoding="utf-8"))
        made.filename = str(path)
        return made
    except jinja2.TemplateNotFound as error:
        raise UserError(
            f"template: there is none named {error}{nearest(name, built_in())}; a file of yours"
            " ends in .j2"
        ) from None
    except jinja2.TemplateSyntaxError as error:
        raise UserError(f"{name}:{error.lineno}: {error.message}") from None


def built_in() -> list[str]:
    return sorted(p.stem for p in FOLDER.glob("*.j2") if p.stem != "base")
