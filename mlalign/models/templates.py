"""Turns messages into a model's text: the only place that applies chat templates.

A text depends on the messages, the template, its options and `date`, never on the clock or the time
zone. What a template refuses or breaks on is one message that names the row and the template.
`Untrusted` and the engines read what is found out here about a template: how it ends an assistant's
turn, and how it marks reasoning.
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

# What Llama's templates write where there is no clock. Any fixed day does.
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
MARKUP = re.compile(r"[<\[{|#]")  # what tells a text that ends a turn from punctuation
CLOCK = re.compile(r"\bstrftime_now\b")


class EndOfTurn(NamedTuple):
    """How a template ends an assistant's turn: with a token, with a text of several tokens, or
    (both None) with nothing.
    """

    token: int | None
    text: str | None


@dataclasses.dataclass(frozen=True)
class ChatTemplate:
    """A tokenizer's chat template with the options (`chat_template_kwargs`) and the date that it is
    used with.

    Raises on construction: UserError for options or a date that cannot be used.
    """

    tokenizer: Any
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    date: str = DATE

    def __post_init__(self) -> None:
        if found := [*option_problems(self.options), *date_problems(self.date)]:
            raise UserError(*found)

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
        """What `text`, a conversation as `conversation` gave it, lacks of its messages and tools."""
        tools = tools or self.options.get("tools")
        return leftout.left_out(
            text, messages, tools, lambda other: self.conversation(other, place, tools)
        )

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
        given = {
            "messages": list(messages),
            "tools": tools,
            "add_generation_prompt": generation_prompt,
        }
        try:
            return sandbox.render(text_of(self.tokenizer, tools), {**self._variables, **given})
        except UserError:
            raise
        except jinja2.UndefinedError as error:
            raise UserError(
                f"{self._failed(place, error)}; set what it lacks with chat_template_kwargs"
            ) from None
        except (jinja2.TemplateError, sandbox.TooMuch) as error:
            raise UserError(self._failed(place, error)) from None
        except Exception as error:  # noqa: BLE001  # a template is code from outside, which may raise anything
            raise UserError(self._failed(place, error, f"{type(error).__name__}: ")) from None

    def _failed(self, place: str, error: Exception, kind: str = "") -> str:
        said = " ".join(str(error).split())[:500]
        line = getattr(error, "lineno", None)
        where = f" (line {line})" if line else ""
        name = getattr(self.tokenizer, "name_or_path", "") or "the tokenizer"
        return (
            f"{place}: the chat template of {name} refuses this conversation: {kind}{said}{where}"
        )

    @functools.cached_property
    def _variables(self) -> dict[str, Any]:
        clock = functools.partial(_written, read_date(self.date))
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
        """What the template writes after an assistant's text, as far as generation can stop there.

        The first added token there, else the text if it is markup and not only punctuation or white
        space: an answer may have those in it. A template that refuses the trial conversation is
        taken to write nothing.
        """
        after = self._after_turn()
        ids = self.tokenizer(after, add_special_tokens=False)["input_ids"]
        added = self.tokenizer.added_tokens_decoder
        ends = [i for i in ids if i in added and not added[i].content.isspace()]
        text = after.strip()
        if ends:
            return EndOfTurn(ends[0], added[ends[0]].content)
        if not MARKUP.search(text):
            return EndOfTurn(None, None)
        own = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return EndOfTurn(own[0] if len(own) == 1 and len(text) > 1 else None, text)

    def _after_turn(self) -> str:
        messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": TURN}]
        try:
            text = self.conversation(messages, "a trial")
        except UserError:
            return ""
        _, found, after = text.rpartition(TURN)
        return after if found else ""

    @functools.cached_property
    def reasoning_tags(self) -> tuple[str, str] | None:
        """The opening and the closing tag of reasoning (`<think>`, `</think>`), as the template has
        them.

        A template may have the opening tag alone, where the generation prompt ends with it.
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
    found = re.search(
        r"[<\[◁]/[\w:|.-]*(?:think|thought|reason)[\w:|.-]*[>\]▷]", template, re.IGNORECASE
    )
    return (found[0].replace("/", "", 1), found[0]) if found else None


# ----------------------------------------------------------------------------------- which template


def text_of(tokenizer: Any, tools: Sequence | None = None) -> str:
    """The text of the chat template: of several named ones `tool_use` for conversations with tools,
    else `default`.

    Raises: UserError if there is none, or none of several is the default.
    """
    templates = tokenizer.chat_template
    name = getattr(tokenizer, "name_or_path", "") or "the tokenizer"
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
    """Put the wanted template in the place of the tokenizer's own: Jinja text, or the name of one
    of its templates.

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
        known = (
            f"its templates are {', '.join(sorted(named))}"
            if named
            else "its tokenizer has no named templates"
        )
        name = getattr(tokenizer, "name_or_path", "") or "the tokenizer"
        missing = f"there is no file {wanted}, and {name} has no template of that name"
        raise UserError(f"chat_template: {missing} ({known}){nearest(wanted, named)}")
    tokenizer.chat_template = named[wanted]


def is_name(value: str) -> bool:
    """Whether a `chat_template` is the name of one of a tokenizer's templates, not Jinja text or a
    path.
    """
    return re.fullmatch(r"[A-Za-z][\w-]*", value) is not None


def option_problems(options: Mapping[str, Any], key: str = "chat_template_kwargs") -> list[str]:
    """What is wrong with options of a template, as messages that begin with the key."""
    found = [
        f"{key}.{name}: is no variable of templates; leave it out"
        for name in options
        if name in RESERVED
    ]
    if "chat_template" in options:
        found.append(f"{key}.chat_template: set chat_template itself")
    return found


def setting_problems(values: Mapping[str, Any]) -> list[str]:
    """What is wrong with a scorer's settings `chat_template_kwargs` and `date`, as messages that
    begin with the key.
    """
    dated = [] if values.get("date") is None else date_problems(values["date"])
    return [*option_problems(values.get("chat_template_kwargs") or {}), *dated]


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


def _written(when: datetime.datetime, form: str) -> str:
    """`strftime` of a fixed time.

    The C library would count `%s` from midnight of this machine's time zone; here it is UTC.
    """
    seconds = str(int(when.replace(tzinfo=datetime.UTC).timestamp()))
    return when.strftime(
        re.sub(r"%(.)", lambda found: seconds if found[1] == "s" else found[0], form)
    )


# ----------------------------------------------------------------------------------------- trainers


def fix_date(tokenizer: Any, date: str) -> None:
    """Make the tokenizer's own `apply_chat_template`, which trainers call, write this date instead
    of the clock's.
    """
    clock = functools.partial(_written, read_date(date))
    tokenizer.apply_chat_template = functools.partial(_apply_dated, tokenizer, clock)


def _apply_dated(tokenizer: Any, clock: functools.partial, conversation: Any, **given: Any) -> Any:
    return type(tokenizer).apply_chat_template(
        tokenizer, conversation, **{"strftime_now": clock, **given}
    )
