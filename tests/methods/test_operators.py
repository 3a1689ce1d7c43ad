"""Operators alone: texts are sent into the generator, and what it asks and makes is looked at."""

import sys
import types

import pytest
from helpers import PROJECT

from mlalign.core import rows
from mlalign.core.errors import UserError
from mlalign.methods import lockstep, operators
from mlalign.methods.made import Candidate, Demonstration, Prompt
from mlalign.methods.operators import Ask, Item, Say, Steps
from mlalign.methods.operators.self_instruct import self_instruct
from mlalign.methods.operators.self_refine import self_refine
from mlalign.models import prompts

ITEM = Item("c1", "eng_Latn", rows.messages("How much is 2 + 2?"), "Five.")


def say(ask, **values):
    """Shows what an operator gives to its template."""
    return f"{ask} {values}"


def shipped(name, item):
    """The operator's own English template."""
    text = (PROJECT / "conf" / "prompts" / name / "eng_Latn.j2").read_text(encoding="utf-8")
    prompt = rows.text_of(item.prompt)
    return prompts.speaker(name, {"eng_Latn": text}, item.language, prompt=prompt)


def play(steps, *replies):
    """(everything asked, what was returned) of a generator that gets these lists of texts."""
    asked = [next(steps)]
    try:
        for texts in replies:
            asked.append(steps.send(texts))
    except StopIteration as end:
        return asked, end.value
    return asked, None


# ------------------------------------------------------------------------------------- self_refine


def test_an_answer_is_criticised_and_written_anew():
    steps = self_refine(ITEM, say, critique_tokens=9)
    asked, made = play(steps, ["2 + 2 is 4."], ["So: <answer> Four. </answer>"])
    assert asked == [
        [Ask("critique {'answer': 'Five.'}", max_tokens=9)],
        [Ask("refine {'answer': 'Five.', 'critique': '2 + 2 is 4.'}")],
    ]
    assert made == [Candidate("Four.")]


def test_refinement_ends_when_the_critic_is_content():
    assert play(self_refine(ITEM, say), ["[[GOOD]]"])[1] == [Candidate("Five.")]
    steps = self_refine(ITEM, say, rounds=3, tag="")
    asked, made = play(steps, ["bad"], [" Three. "], ["bad"], ["Four."], ["[[GOOD]] now"])
    assert [ask.prompt.split()[0] for [ask] in asked] == ["critique", "refine"] * 2 + ["critique"]
    assert asked[2] == [Ask("critique {'answer': 'Three.'}")]
    assert made == [Candidate("Four.")]


@pytest.mark.parametrize(
    ("replies", "reason"),
    [
        ([[" "]], "empty critique"),
        ([["bad"], ["Four."]], "no <answer> in the refinement"),
        ([["bad"], ["<answer> </answer>"]], "no <answer> in the refinement"),
    ],
)
def test_what_cannot_be_parsed_has_a_reason(replies, reason):
    assert play(self_refine(ITEM, say), *replies)[1] == reason


def test_the_shipped_template_of_self_refine():
    asked, _ = play(self_refine(ITEM, shipped("self_refine", ITEM)), ["2 + 2 is 4."])
    critique, refine = asked[0][0].prompt, asked[1][0].prompt
    assert "How much is 2 + 2?" in critique and "Five." in critique
    assert "[[GOOD]]" in critique and "not in English" in critique
    assert "2 + 2 is 4." in refine and "between <answer> and </answer>" in refine


# ----------------------------------------------------------------------------------- self_instruct


POOL = [rows.messages(text) for text in ("Name a river.", "Add 3 and 4.", "Spell 'cat'.")]


def test_new_prompts_are_read_from_a_numbered_list():
    item = Item("p1", "eng_Latn", POOL[0], pool=POOL)
    listed = "Sure:\n1. Translate 'dog' to French.\n2) NAME A RIVER!\n٣. What is a comet?\n4. x"
    asked, made = play(self_instruct(item, say, n_tasks=3, n_examples=2), [listed])
    assert made == [
        Prompt(rows.messages("Translate 'dog' to French.")),
        "task too similar to another",
        Prompt(rows.messages("What is a comet?")),
    ]
    (text,) = [ask.prompt for ask in asked[0]]
    assert "'Name a river.']" in text and "'n_tasks': 3" in text


def test_a_text_without_a_list_has_a_reason():
    item = Item("p1", "eng_Latn", POOL[0], pool=POOL)
    assert play(self_instruct(item, say), ["I cannot."])[1] == "no numbered list"


def test_examples_are_drawn_by_the_seed():
    item = Item("p1", "eng_Latn", POOL[0], pool=POOL)
    drawn = {next(self_instruct(item, say, n_examples=2, seed=s))[0].prompt for s in range(20)}
    assert len(drawn) == 2
    everything = next(self_instruct(item, shipped("self_instruct", item)))[0].prompt
    assert all(rows.text_of(messages) in everything for messages in POOL)
    assert "Write 4 new tasks in English" in everything


# ---------------------------------------------------------------------------------------- lockstep


def echo(prompt: Item, *, turns: dict) -> Steps[Candidate]:
    """Asks as many questions, one after the other, as `turns` says of an item."""
    texts = []
    for turn in range(turns[prompt.id]):
        texts += yield [Ask(f"{prompt.id}{turn}")]
    return [Candidate(" ".join(texts))]


def driven(operator, items, refused=(), **options):
    """(batches of questions, results) where every answer repeats its question."""
    batches = []

    def answer(questions):
        batches.append([(q.id, q.ask.prompt) for q in questions])
        return [None if q.ask.prompt in refused else q.ask.prompt.upper() for q in questions]

    runs = [lockstep.Run(f"run-{name}", Item(name, "eng_Latn"), None) for name in items]
    for run in runs:
        run.steps = operator(run.item, **options)
    lockstep.drive(operator, runs, answer, "too long")
    return batches, [run.result for run in runs]


def test_what_all_runs_wait_for_is_asked_at_once():
    batches, results = driven(echo, "abc", turns={"a": 2, "b": 1, "c": 3})
    assert batches == [
        [("run-a:0", "a0"), ("run-b:0", "b0"), ("run-c:0", "c0")],
        [("run-a:1", "a1"), ("run-c:1", "c1")],
        [("run-c:2", "c2")],
    ]
    assert results == [[Candidate("A0 A1")], [Candidate("B0")], [Candidate("C0 C1 C2")]]


def test_a_refused_request_ends_its_run_alone():
    batches, results = driven(echo, "ab", refused=["a0"], turns={"a": 2, "b": 2})
    assert results == ["too long", [Candidate("B0 B1")]]
    assert batches[1:] == [[("run-b:1", "b1")]]


def test_a_run_may_ask_nothing():
    assert driven(echo, "a", turns={"a": 0}) == ([], [[Candidate("")]])


def strange(prompt: Item) -> Steps[Candidate]:
    yield "a text"


def test_an_operator_that_fails_names_the_item_and_the_line():
    with pytest.raises(UserError, match=r"a \(eng_Latn\): operator echo: .*: KeyError: 'a'"):
        driven(echo, "a", turns={})
    with pytest.raises(UserError, match="operator strange: yields 'a text'; expected a list of"):
        driven(strange, "a")


def texts_for_messages(prompt: Item) -> Steps[Demonstration]:
    [answer] = yield [Ask("a")]
    return [Demonstration(prompt.prompt, answer)]


def test_a_text_in_the_place_of_messages_is_refused_where_it_is_given():
    message = (
        r"test_operators\.py:\d+: TypeError: Demonstration\.completion is a text, not messages;"
        r' write rows\.messages\(text, "assistant"\)'
    )
    with pytest.raises(UserError, match=message):
        driven(texts_for_messages, "a")


# ----------------------------------------------------------------------------- which are operators


def no_generator(prompt: Item) -> Steps[Candidate]:
    return []


def reads_what(promt: Item) -> Steps[Candidate]:
    yield []


def option_first(prompt: Item, say: Say, n: int = 1) -> Steps[Candidate]:
    yield []


def makes_what(prompt: Item, say: Say):
    yield []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("self_refin", "operator: 'self_refin' is no operator; did you mean 'self_refine'"),
        ("mine:no_generator", "operator: mine:no_generator yields no requests; write it as"),
        ("mine:reads_what", "operator: mine:reads_what reads promt; did you mean 'prompt'"),
        (
            "mine:option_first",
            "operator: mine:option_first takes say, n; only `say` may follow the",
        ),
        ("mine:makes_what", "operator: mine:makes_what does not say what it makes; write it as"),
    ],
)
def test_a_function_that_is_no_operator_is_refused(monkeypatch, name, message):
    mine = types.ModuleType("mine")
    mine.no_generator, mine.reads_what = no_generator, reads_what
    mine.makes_what, mine.option_first = makes_what, option_first
    monkeypatch.setitem(sys.modules, "mine", mine)
    with pytest.raises(UserError) as caught:
        operators.load(name)
    assert caught.value.messages[0].startswith(message)


def test_what_the_shipped_operators_read_and_make():
    kinds = {}
    for name in ("self_refine", "self_instruct"):
        operator = operators.load(name)
        kinds[name] = (operators.reads(operator), operators.makes(operator))
    assert kinds == {"self_refine": ("candidate", Candidate), "self_instruct": ("prompt", Prompt)}


# --------------------------------------------------------------------------------------- templates


def test_a_language_without_a_template_has_the_english_one():
    templates = {"eng_Latn": "{{ ask }} in {{ language }}", "deu_Latn": "{{ ask }} auf Deutsch"}
    assert prompts.speaker("x", templates, "deu_Latn")("Frage") == "Frage auf Deutsch"
    assert prompts.speaker("x", templates, "spa_Latn")("ask") == "ask in Spanish"


def test_what_is_wrong_with_templates_names_file_and_line():
    (message,) = prompts.problems("x", {"deu_Latn": "a"})
    assert "x has no template for eng_Latn" in message
    (message,) = prompts.problems("x", {"eng_Latn": "a\n{% if %}"})
    assert message.startswith("operator: prompts/x/eng_Latn.j2:2: ")
    with pytest.raises(UserError, match=r"prompts/x/eng_Latn.j2: UndefinedError: 'nothing' is"):
        prompts.speaker("x", {"eng_Latn": "{{ nothing }}"}, "deu_Latn")("ask")
    with pytest.raises(UserError, match=r"eng_Latn.j2: writes nothing for ask == 'refin'"):
        prompts.speaker("x", {"eng_Latn": "{% if ask == 'a' %}a{% endif %}"}, "eng_Latn")("refin")
    sandboxed = {"eng_Latn": "{{ ''.__class__.__mro__ }}"}
    with pytest.raises(UserError, match="SecurityError"):
        prompts.speaker("x", sandboxed, "eng_Latn")("ask")
