"""Which rows become training examples, as the chat template writes them."""

import pytest
from training_cases import TINY, answer, common, config

from mlalign.core import rows
from mlalign.core.errors import UserError
from mlalign.core.model import local_model
from mlalign.core.store import Tally
from mlalign.models.engine import chat
from mlalign.models.training import trainset

CUTS = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'].split('</think>')[-1] }}<|end|>{%"
    " endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
MARKS_LAST = (
    "{% for m in messages %}<|{{ m['role'] }}|>{% if m['role'] == 'assistant' and loop.last"
    " %}<think></think>{% endif %}{{ m['content'] }}<|end|>{% endfor %}{% if add_generation_prompt"
    " %}<|assistant|>{% endif %}"
)


def kept(
    tmp_path, columns: str, template: str, written: list[dict], halves: bool = False
) -> tuple[list[str], Tally]:
    """Ids of the rows that are left, and what was counted."""
    shard, kind = (
        tmp_path / rows.shard_name("eng_Latn", "train", 0),
        "demonstration" if columns == "demonstration" else "preference",
    )
    empty = {c: None for c in rows.COLUMNS[kind]}
    rows.write_shard(
        shard,
        kind,
        [{**common("eng_Latn", str(i), "train"), **empty, **row} for i, row in enumerate(written)],
    )
    names = trainset.COLUMNS[columns][1]

    def of_row(row):
        if halves:
            return [
                {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
                for side in ("chosen", "rejected")
            ]
        return [{name: row[name] for name in names}]

    tally, tokenizer = Tally(), chat.load_tokenizer(local_model(TINY, "tiny"), template)
    examples = trainset.Examples(columns, of_row, "truncated")
    fitting = trainset._fitting(config("sft"), shard, tokenizer, examples, tally)
    return [row["group_id"] for row, _ in fitting], tally


def pair(chosen: str, rejected: str) -> dict:
    return {"prompt": rows.messages("2+2?"), "chosen": answer(chosen), "rejected": answer(rejected)}


PAIRS = [
    pair("<think>two</think>4", "<think>guess</think>4"),
    pair("<think>two</think>4", "<think>guess</think>5"),
    pair("4", "5"),
    pair("4", "4"),
    pair("<think>4</think>", "5"),
]


@pytest.mark.parametrize("halves", [False, True])
def test_pairs_that_the_template_makes_the_same_text_are_dropped_and_counted(tmp_path, halves):
    left, tally = kept(tmp_path, "unpaired" if halves else "preference", CUTS, PAIRS, halves)
    n = 2 if halves else 1
    assert left == (["1", "1", "2", "2", "4"] if halves else ["1", "2"])
    assert tally.dropped == {
        "sides_are_the_same_text": {"eng_Latn": 2 * n},
        "answer_left_out": {"eng_Latn": 1},
    }
    assert tally.sums["answer_partly_left_out"] == {"eng_Latn": 4 if halves else 1}


def test_answers_that_would_begin_within_the_prompt_are_dropped_and_counted(tmp_path):
    talk = [*rows.messages("2+2?"), *answer("Well."), *rows.messages("So?")]
    written = [
        {"prompt": talk, "completion": answer("4")},
        {"prompt": talk[:2], "completion": answer("4")},
        {"prompt": talk[:1], "completion": answer("4")},
    ]
    left, tally = kept(tmp_path, "demonstration", MARKS_LAST, written)
    assert left == ["0", "2"] and tally.dropped == {"answer_begins_in_prompt": {"eng_Latn": 1}}


@pytest.mark.slow
def test_a_template_that_fails_names_the_row(tmp_path):
    with pytest.raises(
        UserError,
        match=(
            r"row \w+ \(eng_Latn\): the chat template of .* refuses this conversation:"
            r" ZeroDivisionError"
        ),
    ):
        kept(tmp_path, "preference", "{{ 1 / 0 }}", PAIRS)
