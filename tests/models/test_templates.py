"""Rendering conversations: dates, what templates leave out, how turns end, and templates that break
or never end.

Kind -> the one place where it is decided:
    applying a chat template, its errors, named templates      mlalign.models.templates.ChatTemplate, text_of, install
    the date that templates write                              mlalign.models.templates.read_date, fix_date (in trainers)
    loops, time and size of what templates write               mlalign.models.sandbox.Environment
    what a template leaves out of a conversation               mlalign.models.leftout.left_out
    where an assistant's turn ends, and reasoning tags         ChatTemplate.end_of_turn, ChatTemplate.reasoning_tags
"""

import ast
import threading
from pathlib import Path

import pytest
from helpers import PROJECT

import mlalign
from mlalign.core.errors import UserError
from mlalign.core.model import local_model
from mlalign.models import sandbox, templates
from mlalign.models.engine import chat
from mlalign.models.leftout import NOTHING, LeftOut
from mlalign.models.templates import ChatTemplate, EndOfTurn

TINY = Path(mlalign.__file__).parent / "data" / "tiny"
PLAIN = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}</s>{% endfor %}{% if"
    " add_generation_prompt %}<assistant>{% endif %}"
)
CUTS = PLAIN.replace(
    "m['content']",
    "m['content'].split('</think>')[-1] if m['role'] == 'assistant' else m['content']",
)
# As Qwen3 writes a last turn: an empty block of reasoning where the answer has none.
WRITES_EMPTY = (
    "{%- for m in messages -%}{{- '<|im_start|>' + m.role + '\\n' -}}{%- set c = m.content -%}{%-"
    " if m.role == 'assistant' -%}{%- set r = '' -%}{%- if '</think>' in c -%}{%- set r ="
    " c.split('</think>')[0].split('<think>')[-1].strip('\\n') -%}{%- set c ="
    " c.split('</think>')[-1].lstrip('\\n') -%}{%- endif -%}{%- if loop.last -%}{{- '<think>\\n' +"
    " r + '\\n</think>\\n\\n' -}}{%- endif -%}{%- endif -%}{{- c + '<|im_end|>\\n' -}}{%- endfor"
    " -%}{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)
LLAMA_DATE = (
    "{%- if not date_string is defined %}{%- if strftime_now is defined %}{%- set date_string ="
    " strftime_now('%d %b %Y') %}{%- else %}{%- set date_string = '26 Jul 2024' %}{%- endif %}{%-"
    " endif %}Today Date: {{ date_string }}"
)


@pytest.fixture(scope="module")
def tiny():
    return chat.load_tokenizer(local_model(TINY, "tiny"))


@pytest.fixture
def tokenizer(tiny):
    own = tiny.chat_template
    yield tiny
    tiny.chat_template = own
    tiny.__dict__.pop("apply_chat_template", None)


def template_of(tokenizer, text, **options) -> ChatTemplate:
    tokenizer.chat_template = text
    return ChatTemplate(tokenizer, **options)


def dialogue(*texts: str) -> list[dict]:
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


# ----------------------------------------------------------------------------------- the only place


APPLYING = ("apply_chat_template", "get_chat_template", "render_jinja_template")


@pytest.mark.slow
def test_templates_are_applied_in_one_place_only():
    """Every other call of `apply_chat_template` or `get_chat_template` in the packages is one too
    many.
    """
    calls = []
    files = [
        p for package in ("mlalign", "reward_models") for p in (PROJECT / package).rglob("*.py")
    ]
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Attribute) or node.attr not in APPLYING:
                continue
            is_option_of_a_stage = isinstance(node.value, ast.Name) and node.value.id == "cfg"
            if not is_option_of_a_stage:
                calls.append(path.relative_to(PROJECT).as_posix())
    assert len(files) > 150
    assert set(calls) == {"mlalign/models/templates.py"}


@pytest.mark.parametrize(
    "text", [PLAIN, CUTS, WRITES_EMPTY, LLAMA_DATE.replace("strftime_now is defined", "false")]
)
def test_texts_are_those_of_transformers(tokenizer, text):
    template = template_of(tokenizer, text)
    for messages in (
        dialogue("Hi"),
        dialogue("Hi", "<think>a</think>b ~ c"),
        dialogue("Hi", "you", "again\n", ""),
    ):
        assert template.conversation(messages, "") == tokenizer.apply_chat_template(
            messages, tokenize=False
        )
        theirs = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert template.prompt(messages, "") == theirs


# -------------------------------------------------------------------------------------------- dates


@pytest.mark.parametrize("zone", ["Etc/GMT+12", "Pacific/Kiritimati"])
def test_the_date_is_the_setting_s_whatever_clock_and_zone_say(tokenizer, monkeypatch, zone):
    import time

    monkeypatch.setenv("TZ", zone)
    time.tzset()
    messages = dialogue("Hi", "Hello")
    assert (
        template_of(tokenizer, LLAMA_DATE).conversation(messages, "") == "Today Date: 26 Jul 2024"
    )
    dated = template_of(
        tokenizer, "{{ strftime_now('%Y-%m-%d %H:%M %s %%s') }}", date="2025-03-01T12:30"
    )
    assert dated.conversation(messages, "") == "2025-03-01 12:30 1740832200 %s"
    templates.fix_date(tokenizer, "2025-03-01")
    assert tokenizer.apply_chat_template(messages, tokenize=False).startswith("2025-03-01 00:00")
    monkeypatch.undo()
    time.tzset()


def test_only_templates_that_read_the_clock_write_the_date(tokenizer):
    assert template_of(tokenizer, LLAMA_DATE).writes_date
    assert not template_of(tokenizer, PLAIN).writes_date


def test_a_date_or_options_that_cannot_be_used_are_named(tokenizer):
    with pytest.raises(UserError, match=r"date: 'today' is no date; write one as 2024-07-26"):
        ChatTemplate(tokenizer, date="today")
    with pytest.raises(UserError, match=r"chat_template_kwargs\.tokenize: is no variable"):
        ChatTemplate(tokenizer, {"tokenize": True})


# ----------------------------------------------------------------------------- templates that break


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ messages[0]['content'] + 1 }}", "TypeError"),
        ("{{ raise_exception('no system turns') }}", "no system turns"),
        ("{{ now() }}", "'now' is undefined; set what it lacks with chat_template_kwargs"),
        ("{% for %}", "line 1"),
        ("{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}", "RecursionError"),
        ("{{ range(10 ** 9) | list }}", "OverflowError"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{{ [1, 2] | random }}", "at random"),
        (
            (
                "{% for i in range(99999) %}{% for j in range(99999) %}{% set x = 1 %}{% endfor"
                " %}{% endfor %}"
            ),
            "more than 1,000,000 times",
        ),
        (
            "{% for i in range(99999) %}{% for j in range(99999) %}a{% endfor %}{% endfor %}",
            "more than 1,000,000 times",
        ),
        (
            (
                "{% set n = namespace(s='ab') %}{% for i in range(60) %}{% set n.s = n.s + n.s %}{%"
                " endfor %}"
            ),
            "characters",
        ),
        (
            (
                "{% set n = namespace(s='ab') %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}{%"
                " endfor %}"
            ),
            "characters",
        ),
        ("{{ 'x' * 10 ** 11 }}", "characters"),
        ("{{ 9 ** (9 ** 9) }}", "a million bits"),
        ("{{ 'x' | center(10 ** 11) }}", "millions of places"),
        ("{{ 'x'.ljust(10 ** 11) }}", "millions of places"),
        ("{{ ('x' * 10 ** 6) | replace('', 'y' * 10 ** 6) }}", "characters"),
        ("{{ ('x' * 10 ** 6).join(['a'] * 10 ** 6) }}", "characters"),
        ("{{ '%99999999999d' % 1 }}", "millions of characters"),
        ("{{ '{:>99999999999}'.format(1) }}", "millions of characters"),
    ],
)
@pytest.mark.slow
def test_whatever_a_template_raises_is_one_message_with_row_and_template(tokenizer, text, said):
    with pytest.raises(
        UserError, match=r"row 7: the chat template of .*tiny refuses this conversation"
    ) as caught:
        template_of(tokenizer, text).conversation(dialogue("Hi", "Hello"), "row 7")
    assert said in str(caught.value)


def test_time_is_bounded_off_the_main_thread_too(tokenizer, monkeypatch):
    monkeypatch.setattr(sandbox, "MAX_SECONDS", 0.05)
    template = template_of(
        tokenizer, "{% for i in range(99999) %}{{ range(9999) | list | sort | length }}{% endfor %}"
    )
    found = []

    def render():
        try:
            template.conversation(dialogue("Hi", "Hello"), "row 7")
        except UserError as error:
            found.append(str(error))

    thread = threading.Thread(target=render)
    thread.start()
    thread.join(60)
    assert "takes more than" in found[0]


def test_bounds_count_for_each_render_anew(tokenizer, monkeypatch):
    monkeypatch.setattr(sandbox, "MAX_STEPS", 3)
    template = template_of(tokenizer, PLAIN)
    for _ in range(5):
        template.conversation(dialogue("Hi", "you"), "")
    with pytest.raises(UserError, match="loops more than"):
        template.conversation(dialogue("1", "2", "3", "4"), "")


def test_named_templates_the_default_or_the_one_that_is_named(tokenizer):
    tokenizer.chat_template = {"default": "D", "tool_use": "T", "rag": "R"}
    template, messages = ChatTemplate(tokenizer), dialogue("Hi", "Hello")
    assert template.conversation(messages, "") == "D"
    assert template.conversation(messages, "", [{"name": "f"}]) == "T"
    templates.install(tokenizer, "rag")
    assert ChatTemplate(tokenizer).conversation(messages, "") == "R"
    tokenizer.chat_template = {"tool_use": "T", "rag": "R"}
    with pytest.raises(
        UserError, match="none is called default; set chat_template to one of rag, tool_use"
    ):
        ChatTemplate(tokenizer).conversation(messages, "")
    with pytest.raises(
        UserError,
        match=r"no template of that name .its templates are rag, tool_use.; did you mean 'rag'",
    ):
        templates.install(tokenizer, "rags")


# ----------------------------------------------------------------------------------------- left out


@pytest.mark.parametrize(
    ("text", "messages", "expected"),
    [
        (PLAIN, dialogue("2+2?", "<think>two</think>4"), NOTHING),
        (PLAIN, dialogue("2+2?", ""), NOTHING),
        (CUTS, dialogue("2+2?", "4"), NOTHING),
        (CUTS, dialogue("2+2?", "<think>two</think>4"), LeftOut(part_of_answer=True)),
        (CUTS, dialogue("2+2?", "<think>it is 4</think>"), LeftOut(answer=True)),
        (CUTS, dialogue("Is it 4? Say 4.", "<think>x</think>4"), LeftOut(part_of_answer=True)),
        (CUTS, dialogue("Say <think>x</think>", "<think>x</think>"), LeftOut(answer=True)),
        (CUTS, dialogue("a", "<think>b</think>c", "d", "e"), LeftOut(part_of_prompt=True)),
        (WRITES_EMPTY, dialogue("2+2?", "<think>two</think>4"), NOTHING),
        (
            "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}",
            dialogue("4?", "4"),
            LeftOut(answer=True),
        ),
        (
            "{% for m in messages %}{{ m.content | tojson }}{% endfor %}",
            dialogue("a", 'say "b"\nc'),
            NOTHING,
        ),
        (
            "{% for m in messages %}{{ m.content | trim | replace('\n', ' ') }}|{% endfor %}",
            dialogue("a", " b\nc "),
            NOTHING,
        ),
        (
            "{% for m in messages %}{{ m.content | lower }}{% endfor %}",
            dialogue("a", "B"),
            LeftOut(part_of_answer=True),
        ),
        (
            "{% for m in messages if m.role != 'system' %}{{ m.content }}|{% endfor %}",
            [{"role": "system", "content": "Be brief."}, *dialogue("a", "b")],
            LeftOut(part_of_prompt=True),
        ),
        (
            PLAIN,
            [*dialogue("a"), {"role": "assistant", "content": "b", "reasoning_content": "because"}],
            LeftOut(part_of_answer=True),
        ),
        (
            PLAIN,
            [
                *dialogue("a"),
                {
                    "role": "assistant",
                    "content": "",
                    "tool_calls": [{"function": {"name": "f", "arguments": {"x": 1}}}],
                },
            ],
            LeftOut(answer=True),
        ),
    ],
)
def test_what_a_template_leaves_out_is_seen_in_its_text(tokenizer, text, messages, expected):
    template = template_of(tokenizer, text)
    assert template.left_out(template.conversation(messages, ""), messages, "") == expected


def test_tools_that_a_template_does_not_write_are_left_out(tokenizer):
    messages, tools = dialogue("a", "b"), [{"type": "function", "function": {"name": "weather"}}]
    template = template_of(tokenizer, PLAIN)
    text = template.conversation(messages, "", tools)
    assert template.left_out(text, messages, "", tools) == LeftOut(part_of_prompt=True)
    template = template_of(tokenizer, "{{ tools | tojson }}" + PLAIN)
    text = template.conversation(messages, "", tools)
    assert template.left_out(text, messages, "", tools) == NOTHING


# ------------------------------------------------------------------------- ends of turns, reasoning


def ends(tokenizer, after: str) -> EndOfTurn:
    return template_of(
        tokenizer, "{% for m in messages %}{{ m.content }}" + after + "{% endfor %}"
    ).end_of_turn


def test_the_end_of_a_turn_is_what_the_template_writes(tokenizer):
    end, pad = (tokenizer.convert_tokens_to_ids(t) for t in ("<|end|>", "<|pad|>"))
    assert ends(tokenizer, "<|end|>") == EndOfTurn(end, "<|end|>")
    assert ends(tokenizer, "\n<|pad|>\n") == EndOfTurn(pad, "<|pad|>")
    assert ends(tokenizer, "</s>\n") == EndOfTurn(
        None, "</s>"
    )  # text that is no token of this tokenizer
    assert ends(tokenizer, "{{ eos_token }}") == EndOfTurn(end, "<|end|>")
    for nothing in ("", "\n", ".\n"):
        assert ends(tokenizer, nothing) == EndOfTurn(None, None)
    assert template_of(tokenizer, "{{ 1 / 0 }}").end_of_turn == EndOfTurn(None, None)


def test_generation_stops_at_the_token_or_at_the_text(tokenizer):
    text = "{% for m in messages %}{{ m.content }}END{% endfor %}"
    assert chat.stops_of(template_of(tokenizer, text.replace("END", "<|pad|>"))) == (
        (tokenizer.pad_token_id,),
        (),
    )
    assert chat.stops_of(template_of(tokenizer, text.replace("END", "</s>"))) == ((), ("</s>",))
    assert chat.stops_of(template_of(tokenizer, text.replace("END", "\n"))) == ((), ())


@pytest.mark.parametrize(
    ("text", "tags"),
    [
        (PLAIN, None),
        (CUTS, ("<think>", "</think>")),
        (WRITES_EMPTY, ("<think>", "</think>")),
        ("{{ '[THINK]' + messages[0]['thinking'] + '[/THINK]' }}", ("[THINK]", "[/THINK]")),
        ("<seed:think></seed:think>", ("<seed:think>", "</seed:think>")),
        ("{{ m['thinking'] }}", None),
    ],
)
def test_reasoning_tags_are_the_template_s_own(tokenizer, text, tags):
    assert template_of(tokenizer, text).reasoning_tags == tags


def test_an_opening_tag_alone_counts_where_the_generation_prompt_ends_with_it(tokenizer):
    said = "{% for m in messages %}{{ m.content }}{% endfor %}"
    asked = said + "{% if add_generation_prompt %}<think>\n{% endif %}"
    assert template_of(tokenizer, asked).reasoning_tags == ("<think>", "</think>")
    assert template_of(tokenizer, "<think>" + said).reasoning_tags is None
