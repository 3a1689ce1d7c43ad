"""JSON as other people write it."""

import json

import pytest

from mlalign.core import json_text


def test_values_and_byte_order_marks():
    assert json_text.load(' \ufeff {"a": [1, 2]} ') == {"a": [1, 2]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("{} {}", "Extra data"),
        ("[" * 100_000, "nested more than 100 deep"),
        ("[" * 200 + "]" * 200, "nested more than 100 deep"),
        ('{"a":' * 150 + "1" + "}" * 150, "nested more than 100 deep"),
        ("1" * 5000, "is not JSON"),
    ],
)
def test_what_is_wrong_is_said(text, message):
    with pytest.raises(ValueError, match=message):
        json_text.load(text)


def test_wide_is_not_deep():
    assert len(json_text.load("[" + ",".join(["[]"] * 5000) + "]")) == 5000


def test_arrays_give_their_items_with_their_lines():
    text = json.dumps([{"a": 1}, {"a": 2}, 3], indent=1)
    assert list(json_text.items("\ufeff" + text)) == [(2, {"a": 1}), (5, {"a": 2}), (8, 3)]
    assert list(json_text.items(" [ ] \n")) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"a": 1},\n{"a": }]', "line 2: is not JSON"),
        ('[{"a": 1}\n{"a": 1}]', "line 2: expected a comma"),
        ('[{"a": 1}]\nmore', "more text after the array"),
        ('[{"a": 1},', "is not JSON"),
    ],
)
def test_broken_arrays_name_the_line(text, message):
    with pytest.raises(ValueError, match=message):
        list(json_text.items(text))


def test_half_of_a_surrogate_pair_is_no_text():
    for text, good in (
        ('{"a": "\\ud83d\\ude00"}', True),
        ('{"a": "\\ud83d"}', False),
        ('{"a": "\\\\ud"}', True),
    ):
        assert json_text.is_text(json.loads(text), text) is good
