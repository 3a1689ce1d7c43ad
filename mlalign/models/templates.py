"""Turns messages into a model's text: the only place that applies chat templates.

A text depends on the messages, the template, its options and `date`, never on the clock or the time
zone. If a template refuses a conversation or fails, one message names the row and the template.
This module also finds out how a template ends an assistant's turn and how it marks reasoning.
"""

import dataclasses
import datetime
import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mlalign.core.errors import UserError, nearest
from mlalign.models import leftout
from mlalign.models.leftout import LeftOut

# The day that Llama's templates write where there is no clock. Any fixed day would do.
DATE = "2024-07-26"

# Arguments of `apply_chat_template` that are not variables of templates.
RESERVED = frozenset(
    "messages conversation add_generation_prompt continue_final_message tokenize return_dict"
    " return_tensors return_assistant_tokens_mask padding truncation max_length tokenizer_kwargs"
    " strftime_now".split()
)
TOOL_USE = "tool_use"  # the named template that transformers takes for conversations with tools
TURN = "end of this turn"  # an assistant's text, to see what the template writes after it
OPENING = re.compile(r"[<\[◁](?!/)[\w:|.-]*(?:think|thought|reason)[\w:|.-]*[>\]▷]", re.IGNORECASE)
CLOSING = re.compile(r"[<\[◁]/[\w:|.-]*(?:think|thought|reason)[\w:|.-]*[>\]▷]", re.IGNORECASE)
MARKUP = re.compile(r"[<\[{|#]")  # distinguishes a text that ends a turn from punctuation
CLOCK = re.compile(r"\bstrftime_now\b")


class EndOfTurn(NamedTuple):
    """How a template ends an assistant's turn: with a token, a text, or (both None) nothing."""

    token: int | None
    text: str | None


@dataclasses.dataclass(frozen=True)
class ChatTemplate:
    """A tokenizer's chat template, its options (`chat_template_kwargs`) and the date to write.

    Raises on construction: UserError for options or a date that cannot be used.
    """

    tokenizer: Any
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    date: str = DATE

    def __post_init__(self) -> None:
        errors = [*option_problems(self.options), *date_problems(self.date)]
        if errors:
            raise UserError(*errors)

    def prompt(self, messages: Sequence[Mapping], place: str, tools: Sequence | None = None) -> str:
        """The text that asks the model for its next turn.

        Raises: UserError naming `place` if the template fails on it.
        """
        return self._render(messages, place, tools, generation_prompt=True)

    def conversation(
        self, messages: Sequence[Mapping], place: str, tools: Sequence | None = None
    ) -> str:
        """The text of a whole conversation.

        Raises: UserError naming `place` if the template fails on it.
        """
        return self._render(messages, place, tools, generation_prompt=False)

    def left_out(
        self, text: str, messages: Sequence[Mapping], place: str, tools: Sequence | None = None
    ) -> LeftOut:
        """What `text`, which `conversation` wrote, lacks of its messages and tools."""
        tools = tools or self.options.get("tools")
        render = functools.partial(self.conversation, place=place, tools=tools)
        return leftout.left_out(text, messages, tools, render)

    def _render(
        self,
        messages: Sequence[Mapping],
        place: str,
        tools: Sequence | None,
        generation_prompt: bool,
    ) -> str:
        import jinja2

        from mlalign.models import sandbox

        tools = tools or self.options.get("tools")
        variables = {
            **self._variables,
            "messages": list(messages),
            "tools": tools,
            "add_generation_prompt": generation_prompt,
        }
        try:
            return sandbox.render(text_of(self.tokenizer, tools), variables)
        except UserError:
            raise
        except jinja2.UndefinedError as error:
            raise UserError(
                f"{self._failed(place, error)}; set what it lacks with chat_template_kwargs"
            ) from None
        except (jinja2.TemplateError, sandbox.TooMuch) as error:
            raise UserError(self._failed(place, error)) from None
        except Exception as error:  # noqa: BLE001  # a foreign template may raise anything
            raise UserError(self._failed(place, error, f"{type(error).__name__}: ")) from None

    def _failed(self, place: str, error: Exception, kind: str = "") -> str:
        """The message for a template that refused a conversation or failed on it."""
        reason = " ".join(str(error).split())[:500]
        line = getattr(error, "lineno", None)
        where = f" (line {line})" if line else ""
        name = _name(self.tokenizer)
        return (
            f"{place}: the chat template of {name} refuses this conversation: {kind}{reason}{where}"
        )

    @functools.cached_property
    def _variables(self) -> dict[str, Any]:
        clock = functools.partial(_format_time, read_date(self.date))
        return {
            "documents": None,
            **self.tokenizer.special_tokens_map,
            **self.options,
            "strftime_now": clock,
        }

    @functools.cached_property
    def writes_date(self) -> bool:
        """Whether the template may write the date."""
        return CLOCK.search(text_of(self.tokenizer)) is not None

    @functools.cached_property
    def end_of_turn(self) -> EndOfTurn:
        """What the template writes after an assistant's text, if generation can stop there.

        It is the first added token, or else the whole text if that is markup: punctuation and white
        space may be part of an answer. If the template refuses the trial conversation, we take it
        to write nothing.
        """
        after = self._after_turn()
        added = self.tokenizer.added_tokens_decoder
        for token in self.tokenizer(after, add_special_tokens=False)["input_ids"]:
            if token in added and not added[token].content.isspace():
                return EndOfTurn(token, added[token].content)

        text = after.strip()
        if not MARKUP.search(text):
            return EndOfTurn(None, None)
        tokens = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(tokens) == 1 and len(text) > 1:
            return EndOfTurn(tokens[0], text)
        return EndOfTurn(None, text)

    def _after_turn(self) -> str:
        messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": TURN}]
        try:
            text = self.conversation(messages, "a trial")
        except UserError:
            return ""
        if TURN not in text:
            return ""
        return text.rpartition(TURN)[2]

    @functools.cached_property
    def reasoning_tags(self) -> tuple[str, str] | None:
        """The opening and closing tag of reasoning (`<think>`, `</think>`) in the template.

        The opening tag may be alone, where the generation prompt ends with it.
        """
        template = text_of(self.tokenizer)
        for opening in dict.fromkeys(OPENING.findall(template)):
            closing = f"{opening[0]}/{opening[1:]}"
            if closing in template or self._asks_with(opening):
                return opening, closing
        return _closing_alone(template)

    def _asks_with(self, opening: str) -> bool:
        """Whether the text that asks for an answer ends with this tag."""
        try:
            text = self.prompt([{"role": "user", "content": "?"}], "a trial")
        except UserError:
            return False
        return text.rstrip().endswith(opening)

    def facts(self) -> dict[str, Any]:
        """What a manifest tells about the template."""
        end = self.end_of_turn
        return {
            "rendered_by": "mlalign",
            "writes_date": self.writes_date,
            "date": self.date,
            "end_of_turn": {"token": end.token, "text": end.text},
            "reasoning_tags": list(self.reasoning_tags or ()),
        }


def _closing_alone(template: str) -> tuple[str, str] | None:
    """Tags of a template that only cuts at the closing one, as DeepSeek's does."""
    closing = CLOSING.search(template)
    if closing is None:
        return None
    return closing[0].replace("/", "", 1), closing[0]


# ----------------------------------------------------------------------------------- which template


def text_of(tokenizer: Any, tools: Sequence | None = None) -> str:
    """The text of the chat template.

    Of several named templates it is `tool_use` for conversations with tools, else `default`.

    Raises: UserError if there is none, or none of several is the default.
    """
    templates = tokenizer.chat_template
    name = _name(tokenizer)
    if not templates:
        raise UserError(f"{name}: its tokenizer has no chat template")
    if isinstance(templates, str):
        return templates
    if tools and TOOL_USE in templates:
        return templates[TOOL_USE]
    if "default" not in templates:
        names = ", ".join(sorted(templates))
        raise UserError(
            f"{name}: its tokenizer has several chat templates and none is called default; set"
            f" chat_template to one of {names}"
        )
    return templates["default"]


def install(tokenizer: Any, wanted: str | None) -> None:
    """Replace the tokenizer's template by Jinja text, or by one of its named templates.

    Raises: UserError if it has no template of that name.
    """
    if wanted is None:
        return
    if not is_name(wanted):
        tokenizer.chat_template = wanted
        return
    own = tokenizer.chat_template
    named = own if isinstance(own, Mapping) else {}
    if wanted not in named:
        known = "its tokenizer has no named templates"
        if named:
            known = f"its templates are {', '.join(sorted(named))}"
        raise UserError(
            f"chat_template: there is no file {wanted}, and {_name(tokenizer)} has no template of"
            f" that name ({known}){nearest(wanted, named)}"
        )
    tokenizer.chat_template = named[wanted]


def _name(tokenizer: Any) -> str:
    return getattr(tokenizer, "name_or_path", "") or "the tokenizer"


def is_name(value: str) -> bool:
    """Whether a `chat_template` could name one of a tokenizer's templates."""
    return re.fullmatch(r"[A-Za-z][\w-]*", value) is not None


def option_problems(options: Mapping[str, Any], key: str = "chat_template_kwargs") -> list[str]:
    """What is wrong with options of a template, as messages that begin with the key."""
    errors = []
    for name in options:
        if name in RESERVED:
            errors.append(f"{key}.{name}: is no variable of templates; leave it out")
    if "chat_template" in options:
        errors.append(f"{key}.chat_template: set chat_template itself")
    return errors


def setting_problems(values: Mapping[str, Any]) -> list[str]:
    """What is wrong with a scorer's `chat_template_kwargs` and `date`, as messages with the key."""
    errors = option_problems(values.get("chat_template_kwargs") or {})
    if values.get("date") is not None:
        errors += date_problems(values["date"])
    return errors


# --------------------------------------------------------------------------------------------- date


def read_date(value: str) -> datetime.datetime:
    """A date, or a date with a time, as ISO 8601 writes them; without a time zone.

    Raises: ValueError.
    """
    return datetime.datetime.fromisoformat(value).replace(tzinfo=None)


def date_problems(value: Any, key: str = "date") -> list[str]:
    """What is wrong with a date, as messages that begin with the key."""
    try:
        read_date(value)
    except (ValueError, TypeError):
        return [f"{key}: {value!r} is no date; write one as {DATE} or {DATE}T12:00"]
    return []


def _format_time(time: datetime.datetime, form: str) -> str:
    """`strftime` of a fixed time, with `%s` (seconds since 1970) in UTC.

    The C library would count `%s` in this machine's time zone.
    """
    seconds = str(int(time.replace(tzinfo=datetime.UTC).timestamp()))

    def replace_seconds(code: re.Match) -> str:
        return seconds if code[1] == "s" else code[0]

    return time.strftime(re.sub(r"%(.)", replace_seconds, form))


# ----------------------------------------------------------------------------------------- trainers


def fix_date(tokenizer: Any, date: str) -> None:
    """Make `apply_chat_template`, which trainers call, write this date and not the clock's."""
    clock = functools.partial(_format_time, read_date(date))
    tokenizer.apply_chat_template = functools.partial(_apply_dated, tokenizer, clock)


def _apply_dated(
    tokenizer: Any, clock: functools.partial, conversation: Any, **options: Any
) -> Any:
    options.setdefault("strftime_now", clock)
    return type(tokenizer).apply_chat_template(tokenizer, conversation, **options)
