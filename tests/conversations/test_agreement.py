"""`score`, `evaluate`, `check` and `mlalign prepare` take a row for the same thing."""

import json
from collections import Counter
from pathlib import Path

import pytest
from conversation_cases import CALL, DROPPED, MALFORMED, SHAPES, A, S, U, say

from mlalign.core import sources, store
from mlalign.core.conversations import read
from mlalign.core.errors import UserError
from mlalign.data import reading
from reward_models import items
from reward_models.evidence import preferences, preflight, preflight_rows
from reward_models.items import Scores
from reward_models.jobs import scoring, survey

GOOD = [record for record, *_ in SHAPES.values()]
CALLED = [
    {"messages": [U, say("assistant", None, tool_calls=[CALL]), say("tool", "5"), A]},
    {"messages": [S, U, say("assistant", "4", reasoning_content="two and two")]},
    {
        "prompt": "hi",
        "chosen": [U, say("assistant", "", tool_calls=[CALL])],
        "rejected": [U, A],
        "tools": [{"type": "function"}],
    },
]
ROWS = [*GOOD, *CALLED, *(record for record, _ in DROPPED), *(record for record, _ in MALFORMED)]


def said(item):
    return item.prompt, item.response, item.answer_extra, item.tools


def of_score(path):
    """What reaches the scorer, or None for a row that the survey refuses."""
    inputs, how = (
        survey.sources([path]),
        scoring.Reading(column="mine"),
    )  # some sets have a column score_chosen
    seen = []

    class Seen:
        def score_items(self, own):
            seen.extend(own)
            return Scores([0.0] * len(own))

    try:
        found = survey.take(inputs, 8, how.check)
    except UserError:
        return None
    for window in found.windows:
        scoring.of_window(Seen(), survey.Reader(inputs).entries(window), how)
    return [said(item) for item in seen]


def of_evaluate(path):
    """The same for `evaluate`; the reason for a row that gives nothing."""
    dropped = Counter()
    try:
        rows = list(preferences.prepared(preferences.Source([path]), dropped))
    except UserError:
        return next(iter(dropped))[0] if dropped else None
    return [said(item) for row in rows for item in items.of_row(row, "here")]


def of_check(path):
    subject = preflight.Subject({"family": "length"})
    looked = preflight_rows.look([(str(path), json.loads(path.read_text()))], subject)
    return sum(tally.counts["answers"] for tally in looked.languages.values()), looked.n_unreadable


def of_prepare(path, kind):
    """Prompt and texts of the answers, the reason, or None for a refusal."""
    work = reading.Reading(kind, None, sources.Problems(), store.Tally())
    rows = [
        row
        for row, _, _ in reading.all_rows(work, [sources.Source(path=str(path), language="en")], [])
    ]
    if work.problems.n:
        return None
    if not rows:
        return next(iter(work.tally.dropped))
    sides = ("chosen", "rejected") if kind == "preference" else ("completion",)
    return [(rows[0]["prompt"], rows[0][side][0]["content"], {}, None) for side in sides]


@pytest.mark.parametrize("number", range(len(ROWS)))
def test_all_readers_agree(number, tmp_path):
    record = ROWS[number]
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(record), encoding="utf-8")
    scored = of_score(path)
    answers, unreadable = of_check(path)
    assert (answers, unreadable) == ((0, 1) if scored is None else (len(scored), 0))
    reason = dict((json.dumps(r), why) for r, why in DROPPED).get(json.dumps(record))
    if scored is None:
        assert of_evaluate(path) == reason and of_prepare(path, "preference") == reason
        return
    row = read(record)
    if row.shape == "pair" or row.n_chosen is not None:
        assert of_evaluate(path) == scored
    stored = f"has_{row.unstorable()}" if row.unstorable() else scored
    if row.shape == "pair":
        assert of_prepare(path, "preference") == stored
    elif row.shape == "one":
        assert of_prepare(path, "demonstration") == stored
        assert of_evaluate(path) is None  # no preference
    else:
        assert of_prepare(path, "preference") is None  # several answers


def test_the_rows_are_of_every_kind():
    assert len(ROWS) > 60 and {row.shape for row in map(read, GOOD)} == {"one", "many", "pair"}
    assert Path(reading.__file__).parent.name == "data"
