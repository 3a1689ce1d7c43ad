import numpy as np
import pyarrow as pa
import pytest

from mlalign.core import rows
from mlalign.methods.metrics import columns

NAN = np.nan
ROW = {
    "prompt_lang": "tha_Thai",
    "group_id": "g",
    "origin": "native",
    "source": "s",
    "split": "eval",
}


def candidates(*responses: list[dict], prompt: list[dict] | None = None) -> pa.Table:
    told = [
        {**ROW, "id": f"p{i}", "prompt": prompt or rows.messages("?"), "responses": r}
        for i, r in enumerate(responses)
    ]
    return pa.Table.from_pylist(told, schema=rows.schema("candidates"))


def scores(told: dict[str, dict], *names: str) -> pa.Table:
    return pa.Table.from_pylist(
        [{**ROW, "id": "p", "candidate_id": c, **values} for c, values in told.items()],
        schema=rows.schema("scores", names),
    )


def test_lengths_of_answers_of_different_number():
    table = candidates(
        [
            {"candidate_id": "a", "text": "ไทย", "n_tokens": 7, "finish_reason": "length"},
            {"candidate_id": "b", "text": None, "finish_reason": "stop"},
        ],
        [],
        [{"candidate_id": "c", "text": "abc"}],
    )
    answers, without = columns.of_candidates(table, [], "lid", {}, [])
    assert answers.items.id == ["p0", "p1", "p2"]
    assert without.tolist() == [2, 0, 1]
    assert answers.present.tolist() == [[True, True], [False, False], [True, False]]
    expected = {
        "tokens": [7, NAN, NAN],
        "characters": [3, 0, 3],
        "bytes": [9, 0, 3],
        "truncated": [1, 0, NAN],
    }
    for name, values in expected.items():
        assert answers.lengths[name][answers.present] == pytest.approx(values, nan_ok=True), name


def test_only_what_the_user_says_counts_as_prompt():
    prompt = [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "ไทย"},
        {"role": "user", "content": "ab"},
    ]
    answers, _ = columns.of_candidates(candidates([], [], prompt=prompt), [], "lid", {}, [])
    assert answers.items.prompt_bytes.tolist() == [11, 11]


def test_scores_of_several_tables_are_joined_by_answer():
    table = candidates(
        [{"candidate_id": "a", "text": "x"}, {"candidate_id": "b", "text": "y"}],
        [{"candidate_id": "c", "text": "z"}],
    )
    one = scores({"b": {"score.v": 0.5}, "a": {"score.v": None}, "other": {"score.v": 9.0}}, "v")
    two = scores(
        {"a": {"score.v": 2.0, "score.lid": 1.0, "response_lang_detected": "tha_Thai"}}, "v", "lid"
    )
    answers, without = columns.of_candidates(
        table, [(one, {"score.v": "v"}), (two, {"score.v": "v", "score.lid": "lid"})], "lid", {}, []
    )
    assert answers.score("v") == pytest.approx(np.array([[2.0, 0.5], [NAN, NAN]]), nan_ok=True)
    assert answers.detected.tolist() == [["tha_Thai", None], [None, None]]
    assert without.tolist() == [0, 1]


def test_sides_of_preference_rows():
    marks = [
        {**ROW, "id": i, "candidate_id": rows.side_id(i, side), "score.r": v}
        for i, side, v in (("p", "rejected", 1.0), ("q", "chosen", 2.0), ("p", "chosen", 3.0))
    ]
    table = pa.Table.from_pylist(marks, schema=rows.schema("scores", ("r",)))
    answers, both = columns.of_sides(
        [(table, {"score.r": "r"})], {"p": {"kind": "cut"}}, ["kind", "task"]
    )
    assert answers.items.id == ["p", "q"]
    assert answers.items.parts == {"kind": ["cut", ""]}
    assert answers.score("r") == pytest.approx(np.array([[3, 1], [2, NAN]]), nan_ok=True)
    assert both.tolist() == [True, False]


def test_metadata_of_the_wanted_keys():
    told = [
        {**ROW, "id": "a", "metadata": rows.to_json({"kind": "cut", "n": 3, "x": None})},
        {**ROW, "id": "b", "metadata": None},
    ]
    table = pa.Table.from_pylist(told, schema=rows.schema("prompt"))
    assert columns.of_metadata(table, ["kind", "n", "x"]) == {
        "a": {"kind": "cut", "n": "3"},
        "b": {},
    }
