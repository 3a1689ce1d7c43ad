import json

import pytest

from mlalign.core import formats, languages
from mlalign.core.conversations import Dropped, Malformed
from mlalign.core.conversations.messages import transcript
from mlalign.data import adapters


def say(role, content):
    return {"role": role, "content": content}


U, A, B = say("user", "hi"), say("assistant", "good"), say("assistant", "bad")


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "hi", "chosen": "good", "rejected": "bad"},
        {"prompt": [U], "chosen": [A], "rejected": [B]},
        {"prompt": "hi", "chosen": [U, A], "rejected": [U, B]},
        {"chosen": [U, A], "rejected": [U, B]},
        {"chosen": [{**U, "name": "x"}, A], "rejected": [U, B]},
    ],
)
def test_preferences_in_all_of_trls_forms(record):
    row = adapters.columns(record, "preference", {})
    assert (row["prompt"], row["chosen"], row["rejected"]) == ([U], [A], [B])


def test_conversations_that_part_early_are_not_a_pair():
    for record in (
        {"chosen": [U, A], "rejected": [say("user", "ho"), B]},
        {"chosen": [U, A, U, A], "rejected": [U, B, U, B]},
    ):
        with pytest.raises(Dropped) as drop:
            adapters.columns(record, "preference", {})
        assert drop.value.reason == "prompts_differ"
    with pytest.raises(Dropped) as drop:
        adapters.columns(
            {"prompt": "hi", "chosen": [U, A], "rejected": [say("user", "ho"), B]}, "preference", {}
        )
    assert drop.value.reason == "prompt_not_in_conversation"


def test_columns_by_name_path_and_position():
    record = {"q": "hi", "answers": [{"text": "good"}, {"text": "bad"}], "gap": "0.5", "a.b": "key"}
    names = {
        "prompt": "q",
        "chosen": "answers.0.text",
        "rejected": "answers.1.text",
        "margin": "gap",
        "id": "a.b",
    }
    row = adapters.columns(record, "preference", names)
    assert (row["prompt"], row["chosen"], row["rejected"], row["margin"], row["key"]) == (
        [U],
        [A],
        [B],
        0.5,
        "key",
    )
    row = adapters.columns(["x", "hi", "18"], "prompt", {"prompt": 1, "reference": 2}, "numeric")
    assert row["prompt"] == [U] and json.loads(row["reference"]) == {
        "answer": "18",
        "match": "numeric",
    }


@pytest.mark.parametrize(
    ("record", "kind", "names", "told"),
    [
        ({"promt": "hi"}, "prompt", {}, "did you mean 'promt'"),
        ({"prompt": "hi"}, "prompt", {"prompt": "question"}, "no column 'question' (for `prompt`)"),
        ({"prompt": "hi"}, "prompt", {"reference": "answer"}, "no column 'answer' (for `reference`)"),
        (["hi"], "prompt", {"prompt": 1}, "only 1 columns"),
        ({"chosen": "a", "rejected": "b"}, "preference", {}, "an answer without a prompt; name its column with columns: {prompt: THEIRS}"),
        ({"prompt": 3}, "prompt", {}, "`prompt`: expected text or a list of messages {role, content}, got a number"),
        ({"prompt": "hi", "completion": "x", "label": "maybe"}, "unpaired", {}, "true or false"),
        ({"prompt": "hi", "split": "tset"}, "prompt", {}, "`split` must be"),
        ({"prompt": "hi", "chosen": "a", "rejected": "b", "margin": "much"}, "preference", {}, "`margin` must be a number"),
        ({"prompt": "hi", "chosen": "a", "rejected": "b", "margin": float("nan")}, "preference", {}, "`margin` must be a finite number"),
        ({"prompt": "hi", "chosen": "a", "rejected": "b", "margin": "Infinity"}, "preference", {}, "`margin` must be a finite number"),
        ({"prompt": "hi", "responses": ["a"], "ranks": [1, 2]}, "ranking", {}, "same length"),
        ({"text": 3}, "text", {}, "`text` must be text"),
    ],
)  # fmt: skip
def test_malformed(record, kind, names, told):
    with pytest.raises(Malformed) as error:
        adapters.columns(record, kind, names)
    assert told in str(error.value)


def test_other_kinds():
    assert adapters.columns({"messages": [U, A]}, "demonstration", {})["completion"] == [A]
    assert adapters.columns({"messages": [U, A]}, "prompt", {})["prompt"] == [U]
    assert (
        adapters.columns({"prompt": "hi", "completion": "good", "label": "0"}, "unpaired", {})[
            "label"
        ]
        is False
    )
    assert adapters.columns(
        {"prompt": "hi", "responses": ["a", "b"], "ranks": [2, 1]}, "ranking", {}
    )["ranks"] == [2, 1]
    assert adapters.columns({"text": "hi"}, "text", {}) == {"text": "hi"}
    assert (
        adapters.columns({"prompt": "hi", "split": "validation"}, "prompt", {})["split"] == "eval"
    )


def test_references_that_are_json_stay():
    assert json.loads(adapters.reference('{"answer": "a", "match": "exact"}', "contains")) == {
        "answer": "a",
        "match": "exact",
    }
    assert json.loads(adapters.reference("{set}", "contains")) == {
        "answer": "{set}",
        "match": "contains",
    }


def test_transcripts():
    start = "\n\nHuman: hi\n\nAssistant: yes?\n\nHuman: tell me"
    row = adapters.hh_rlhf(
        {"chosen": start + "\n\nAssistant: good", "rejected": start + "\n\nAssistant: bad"},
        "preference",
    )
    assert row["prompt"] == [U, say("assistant", "yes?"), say("user", "tell me")]
    assert (row["chosen"], row["rejected"]) == ([A], [B])
    other = start + ", please\n\nAssistant: bad"
    with pytest.raises(Dropped, match="differ before"):
        adapters.hh_rlhf({"chosen": start + "\n\nAssistant: good", "rejected": other}, "preference")
    assert transcript("\n\nHuman: a\n\nAssistant: b\n\nAssistant: c\n\nHuman: d") == [
        say("user", "a"), say("assistant", "b\n\nc"), say("user", "d"),
    ]  # fmt: skip
    with pytest.raises(Malformed, match="no transcript"):
        adapters.hh_rlhf({"chosen": "good", "rejected": "bad"}, "preference")


def test_xcopa():
    record = {
        "premise": "It rained.",
        "choice1": "It got wet.",
        "choice2": "It burnt.",
        "question": "effect",
        "label": 0,
        "idx": 7,
    }
    pair = adapters.xcopa(record, "preference", "eng_Latn")
    assert pair["prompt"] == [say("user", "It rained. What happened as a result?")]
    assert (pair["chosen"][0]["content"], pair["rejected"][0]["content"], pair["group_id"]) == (
        "It got wet.",
        "It burnt.",
        "7",
    )
    assert adapters.xcopa(record, "demonstration", "eng_Latn")["completion"] == pair["chosen"]
    prompt = adapters.xcopa(record, "prompt", "eng_Latn")
    assert prompt["prompt"][0]["content"].endswith("?\nIt got wet.\nIt burnt.")
    assert json.loads(prompt["reference"])["answer"] == "It got wet."
    with pytest.raises(Malformed, match="no language deu_Latn"):
        adapters.xcopa(record, "preference", "deu_Latn")
    assert all(languages.normalise(code) == code for code in formats.xcopa_questions())


def test_mgsm():
    row = adapters.mgsm(["How many?", "2,125"], "swh_Latn")
    assert json.loads(row["reference"]) == {"answer": "2125", "match": "numeric"}
    assert (
        row["origin"] == "human_translated"
        and adapters.mgsm(["How many?", "1"], "eng_Latn")["origin"] == "native"
    )
