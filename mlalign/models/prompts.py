"""The templates of operators: Jinja by operator and language, with English where there is none.

`conf/prompts/OPERATOR/LANGUAGE.j2` holds all prompts of an operator. `ask` is the name of the one
that is wanted, and `language` the English name of the language asked for; the operator gives the
other variables.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from mlalign.core import languages
from mlalign.core.errors import UserError

FALLBACK = "eng_Latn"


def problems(name: str, templates: Mapping[str, str]) -> list[str]:
    """What is wrong with an operator's templates (language -> text), as messages."""
    messages = []
    if FALLBACK not in templates:
        messages.append(
            f"operator: {name} has no template for {FALLBACK}, which other languages fall back "
            f"to; write prompts/{name}/{FALLBACK}.j2 in a folder of conf_dir="
        )
    for language, text in sorted(templates.items()):
        try:
            _environment().parse(text)
        except jinja2.TemplateSyntaxError as error:
            where = f"prompts/{name}/{language}.j2:{error.lineno}"
            messages.append(f"operator: {where}: {error.message}")
    return messages


def chosen(templates: Mapping[str, str], language: str) -> tuple[str, str]:
    """(language of the template, its text) that prompts in a language are written with."""
    used = language if language in templates else FALLBACK
    return used, templates.get(used, "")


def speaker(
    name: str,
    templates: Mapping[str, str],
    language: str,
    **own: Any,
) -> Callable[..., str]:
    """`say(ASK, key=value, …)`, which writes prompts in one language; `own` are further variables.

    What it returns raises a UserError that names the template if it lacks that prompt, or fails.
    """
    used, text = chosen(templates, language)
    place = f"prompts/{name}/{used}.j2"
    variables = {"language": languages.english_name(language), **own}

    def say(ask: str, **values: Any) -> str:
        try:
            written = _compiled(text).render(variables | values, ask=ask).strip()
        except Exception as error:  # noqa: BLE001  # a template may raise anything
            raise UserError(f"{place}: {type(error).__name__}: {error} (ask: {ask})") from None
        if not written:
            raise UserError(f"{place}: writes nothing for ask == {ask!r}")
        return written

    return say


@functools.cache
def _environment() -> jinja2.Environment:
    strict = jinja2.StrictUndefined
    return ImmutableSandboxedEnvironment(undefined=strict, trim_blocks=True, lstrip_blocks=True)


@functools.lru_cache(maxsize=256)
def _compiled(text: str) -> jinja2.Template:
    return _environment().from_string(text)
