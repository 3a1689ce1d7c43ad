"""Builders: rows of an item in, rows out; and which functions are builders."""

import sys
import types

import pytest

from mlalign.core import rows
from mlalign.core.errors import UserError
from mlalign.methods import builders
from mlalign.methods.builders import Group
from mlalign.methods.builders.cross_lingual import cross_lingual
from mlalign.methods.made import Demonstration, Prompt


def demonstration(question, answer, language):
    prompt, completion = rows.messages(question), rows.messages(answer, "assistant")
    return Demonstration(prompt, completion, language)


GROUP = Group(
    "item",
    {
        "deu_Latn": [demonstration("2 + 2 ist?", "Vier.", "deu_Latn")],
        "eng_Latn": [demonstration("2 + 2?", "Four.", "eng_Latn")],
        "spa_Latn": [demonstration("¿2 + 2?", "Cuatro.", "spa_Latn")],
    },
)


def texts(built):
    return [(rows.text_of(b.prompt), rows.text_of(b.completion)) for b in built]


def test_a_question_in_the_pivot_language_with_the_answers_of_the_others():
    built = cross_lingual(GROUP)
    assert texts(built) == [("2 + 2?", "Vier."), ("2 + 2?", "Cuatro.")]
    assert [b.prompt_lang for b in built] == ["eng_Latn", "eng_Latn"]
    assert [b.response_lang for b in built] == ["deu_Latn", "spa_Latn"]


def test_the_other_directions():
    to_pivot = cross_lingual(GROUP, direction="to_pivot")
    assert texts(to_pivot) == [("2 + 2 ist?", "Four."), ("¿2 + 2?", "Four.")]
    assert len(cross_lingual(GROUP, direction="any")) == 6


def test_so_many_pairs_of_an_item_are_drawn_by_the_seed():
    drawn = [texts(cross_lingual(GROUP, direction="any", per_item=2, seed=s)) for s in range(20)]
    everything = texts(cross_lingual(GROUP, direction="any"))
    assert all(len(d) == 2 and set(d) <= set(everything) for d in drawn)
    assert drawn[0] == texts(cross_lingual(GROUP, direction="any", per_item=2, seed=0))
    assert len({tuple(d) for d in drawn}) > 1


def test_an_instruction_names_the_language_of_the_answer():
    built = cross_lingual(GROUP, instruction="Answer in {language}.")
    assert texts(built)[0] == ("2 + 2?\nAnswer in German.", "Vier.")


def test_reasons_for_no_rows():
    assert cross_lingual(Group("item", {"eng_Latn": GROUP.rows["eng_Latn"]})) == "only one language"
    assert cross_lingual(GROUP, pivot="fra_Latn") == "not in the pivot language"


def read_and_make(group: Group[Demonstration]) -> list[Prompt] | str:
    return []


def makes_nothing_known(group: Group[Demonstration]) -> list[str]:
    return []


def test_annotations_say_what_a_builder_reads_and_makes(monkeypatch):
    mine = types.ModuleType("my_builders")
    mine.read_and_make, mine.makes_nothing_known = read_and_make, makes_nothing_known
    monkeypatch.setitem(sys.modules, "my_builders", mine)
    builder = builders.load("my_builders:read_and_make")
    assert (builders.reads(builder), builders.makes(builder)) == ("demonstration", "prompt")
    shipped = builders.load("cross_lingual")
    assert (builders.reads(shipped), builders.makes(shipped)) == ("demonstration", "demonstration")
    with pytest.raises(UserError, match="does not say what it reads and makes; write it as"):
        builders.load("my_builders:makes_nothing_known")
    with pytest.raises(UserError, match="builder: 'cross_linguall' is no builder; did"):
        builders.load("cross_linguall")
