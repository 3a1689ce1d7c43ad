"""Each published shape with a tiny row of it, and what it says.

The columns are those of the data sets' own cards.
"""

import json

import pytest
from conversation_cases import CALL, DROPPED, MALFORMED, SHAPES, A, B, S, U, say

from mlalign.core.conversations import Dropped, Malformed, read


@pytest.mark.parametrize("name", SHAPES)
def test_what_a_shape_says(name):
    record, shape, prompt, answers = SHAPES[name]
    row = read(record)
    assert (row.shape, row.prompt, [a["content"] for a in row.answers]) == (shape, prompt, answers)
    assert all(a["role"] == "assistant" for a in row.answers)


def test_right_answers_come_first_and_are_counted():
    assert read(SHAPES["reward bench 2"][0]).n_chosen == 1
    assert read({"prompt": "hi", "chosen": ["a", "b"], "rejected": ["c"]}).n_chosen == 2
    assert read(SHAPES["candidates"][0]).names == ["c", None]


@pytest.mark.parametrize(("record", "reason"), DROPPED)
def test_what_gives_no_row_has_a_reason(record, reason):
    with pytest.raises(Dropped) as drop:
        read(record)
    assert drop.value.reason == reason


@pytest.mark.parametrize(("record", "message"), MALFORMED)
def test_what_is_no_row_says_why(record, message):
    with pytest.raises(Malformed, match=message):
        read(record)


V, W = say("user", "and?"), say("user", "hi \n")
JOINED = [
    ("hi", [S, U], [S, U]),  # the conversation has a system message besides
    ("hi", [W], [W]),  # white space
    ("hi", [U, A, V], [U, A, V]),  # its beginning
    ("and?", [U, A, V], [U, A, V]),  # its last turn
    ([S, U], [U], [S, U]),  # the prompt has the system message
    ([U, A, V], [V], [U, A, V]),  # the conversation has the last turn alone
    (
        [U],
        [say("assistant", "let me see")],
        [U, say("assistant", "let me see")],
    ),  # it goes on where the prompt ends
    ([U, A, V], [], [U, A, V]),
]


@pytest.mark.parametrize(("prompt", "before", "whole"), JOINED)
def test_what_prompt_and_conversations_share_is_taken_once(prompt, before, whole):
    row = read({"prompt": prompt, "chosen": [*before, A], "rejected": [*before, B]})
    assert row.prompt == whole and row.answers == [A, B]
    assert read({"prompt": prompt, "completion": [*before, A]}).prompt == whole


@pytest.mark.parametrize("column", ["system", "system_prompt"])
@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "hi", "response": "good"},
        {"messages": [U, A]},
        {"messages": [S, U, A]},
        {"prompt": "hi", "chosen": "good", "rejected": [U, B]},
        {"prompt": "hi", "responses": ["good", "bad"]},
        {"instruction": "hi", "input": "", "output": "good"},
    ],
)
def test_text_in_a_column_is_the_system_message_of_every_shape(record, column):
    assert read({**record, column: S["content"]}).prompt == [S, U]
    assert read({**record, column: S["content"]}, "prompt").prompt == [S, U]
    assert read({**record, column: ""}) == read(record)


def test_tool_calls_reasoning_and_tools_are_carried():
    called = say("assistant", None, tool_calls=[CALL])
    tools = [{"type": "function", "function": {"name": "weather"}}]
    row = read(
        {
            "messages": [
                U,
                called,
                say("tool", "5", tool_call_id="1"),
                say("assistant", "Five.", reasoning_content="so"),
            ],
            "tools": json.dumps(tools),
        }
    )
    assert row.prompt == [U, called, say("tool", "5", tool_call_id="1")]
    assert row.answers == [say("assistant", "Five.", reasoning_content="so")]
    assert row.tools == tools and row.unstorable() == "tool_calls"
    assert read({"prompt": "hi", "response": "a", "tools": tools}).unstorable() == "tools"
    # tables have every key in every message
    assert (
        read(
            {
                "messages": [
                    {**U, "tool_calls": None},
                    {**A, "tool_calls": [], "reasoning_content": ""},
                ],
                "tools": [],
            }
        ).unstorable()
        is None
    )
