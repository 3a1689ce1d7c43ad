"""Replies of servers as people meet them: proxies, gateways, half-compatible servers."""

import json
import math

import pytest

from mlalign.core import secrecy
from mlalign.models.engine import replies


def reply(**message) -> dict:
    return {
        "choices": [{"finish_reason": "stop", "message": message}],
        "usage": {"completion_tokens": 3},
    }


def read(value: object, **options) -> replies.Response:
    return replies.response(
        value if isinstance(value, bytes) else json.dumps(value).encode(), **options
    )


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (b"", "nothing instead of JSON"),
        (
            b"<!doctype html><html><body>502 Bad Gateway</body></html>",
            "an HTML page instead of JSON: <!doctype html>",
        ),
        (b"\xff\xfe\x00", "no .whole. JSON"),
        (b'{"choices": [{"mess', "no .whole. JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"choices": ' + b"[" * 100_000, "nested too deeply"),
        (b'{"created": ' + b"1" * 5000 + b"}", "no .whole. JSON"),
        (None, "should be a JSON object"),
        ([reply(content="4")], "should be a JSON object"),
        ({"detail": "Not Found"}, "`choices` should be a list"),
        ({"choices": []}, "`choices` should be a list"),
        ({"choices": None}, "`choices` should be a list"),
        ({"choices": {"0": {}}}, "`choices` should be a list"),
        ({"choices": [None]}, "message` should be a mapping"),
        ({"choices": [{"text": "4"}]}, "message` should be a mapping"),
        ({"choices": [{"message": "4"}]}, "message` should be a mapping"),
        (reply(content=4), "content` should be text"),
        (reply(content=[{"type": "image_url"}]), "content` should be text"),
        (reply(content=["4"]), "content` should be text"),
        (
            {"error": {"message": "no \x1b[31mquota", "code": 402}, "choices": []},
            "an error instead of an answer: no",
        ),
        ({"error": "overloaded"}, "an error instead of an answer: overloaded"),
    ],
)
def test_what_holds_no_answer_is_said_why(value, why):
    with pytest.raises(replies.Unusable, match=why) as caught:
        read(value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": "4"}, "4"),
        ({"content": None}, ""),
        ({}, ""),
        ({"content": None, "refusal": "I cannot"}, ""),
        ({"content": [{"type": "text", "text": "4"}, {"type": "text", "text": "!"}]}, "4!"),
        ({"content": "half \ud83d of it"}, "half \ufffd of it"),
        ({"content": "whole \ud83d\ude00"}, "whole 😀"),
    ],
)
def test_the_text_of_an_answer(message, text):
    found = read(reply(**message))
    assert found.text == text
    found.text.encode("utf-8")


@pytest.mark.parametrize(
    "usage",
    [
        None,
        [],
        "3",
        {},
        {"completion_tokens": "3"},
        {"completion_tokens": True},
        {"completion_tokens": -1},
    ],
)
def test_a_count_that_is_no_count_is_not_told(usage):
    found = read({**reply(content="4", reasoning_content=["no text"]), "usage": usage})
    assert (found.n_tokens, found.reasoning) == (None, None)
    assert (
        read({"choices": [{"message": {"content": "4"}, "finish_reason": {}}]}).finish_reason
        == "unknown"
    )


def test_log_probabilities_are_read_where_they_are_numbers():
    tops = [
        {"token": "Yes", "logprob": -0.1},
        {"token": "No", "logprob": float("-inf")},
        {"token": "?", "logprob": None},
        {"token": "!", "logprob": 10**400},
        7,
    ]
    one = reply(content="Yes")
    one["choices"][0]["logprobs"] = {
        "content": [{"top_logprobs": [*tops, {"token": "Si", "logprob": 1e300}]}]
    }
    assert read(one, wants_logprobs=True).top_logprobs == {
        "Yes": -0.1,
        "No": -1e9,
        "!": 0.0,
        "Si": 0.0,
    }
    assert math.exp(-1e9) == 0.0


@pytest.mark.parametrize(
    "logprobs",
    [
        None,
        {},
        {"content": None},
        {"content": []},
        {"content": [{"top_logprobs": []}]},
        {"content": ["x"]},
    ],
)
def test_log_probabilities_that_were_asked_for_must_be_there(logprobs):
    one = reply(content="Yes")
    one["choices"][0]["logprobs"] = logprobs
    with pytest.raises(replies.Unusable, match="no `logprobs`"):
        read(one, wants_logprobs=True)
    assert read(one).text == "Yes"
    assert read(reply(content=None), wants_logprobs=True).text == ""


def test_a_secret_that_a_server_echoes_is_not_read(monkeypatch):
    monkeypatch.setattr(secrecy, "_known", set())
    secrecy.keep("sk-echoed")
    assert read(reply(content="Your key is sk-echoed.")).text == "Your key is ***."
    with pytest.raises(replies.Unusable) as caught:
        read({"headers": "Bearer sk-echoed"})
    assert "sk-echoed" not in str(caught.value)
