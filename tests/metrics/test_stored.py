"""Wins over stored answers: the share of an answer's comparisons, and the rate at equal length."""

import json

import numpy as np
import pyarrow as pa
import pytest

from mlalign.methods.metrics import bootstrap, columns
from mlalign.methods.metrics.answers import Answers, Items, stored
from mlalign.methods.metrics.measures import of_stored
from mlalign.methods.metrics.tables import Tables, add_length_controlled

SHARES = [1.0, 0.5, 0.0, 1.0]


def answers(shares, lengths, references) -> Answers:
    n = len(shares)
    items = Items.of([(str(i), "swh_Latn", f"g{i}", "native") for i in range(n)], np.zeros(n), {})
    characters = np.array(lengths, float)[:, None]
    told = {"characters": characters, "bytes": characters, "tokens": characters}
    found = Answers(
        items, {"judge": np.array(shares)[:, None]}, told, np.full((n, 1), None, object)
    )
    texts = [
        None if r is None else json.dumps({"answer": r, "match": "stored"}) for r in references
    ]
    return columns.with_stored(found, pa.table({"reference": pa.array(texts, pa.string())}))


def rate(found: Answers, name: str) -> float:
    tables = Tables(bootstrap.draw(found.items.group, 20, 0), "eng_Latn", 0.95)
    tables.add(found.items, of_stored(found, "judge"))
    add_length_controlled(
        tables, found, stored(found, "judge"), "judge", "characters", "stored_win_rate_lc"
    )
    (value,) = [
        r["value"] for r in tables.rows if (r["metric"], r["language"]) == (name, "swh_Latn")
    ]
    return value


def test_the_rate_is_the_mean_of_the_shares():
    found = answers(SHARES, [3, 3, 3, 3], ["abc"] * 4)
    assert rate(found, "stored_win_rate") == pytest.approx(0.625)
    # At equal lengths there is nothing to control for, but for a small penalty on the fit.
    assert rate(found, "stored_win_rate_lc") == pytest.approx(0.625, abs=0.01)


def test_wins_of_longer_answers_count_for_less():
    longer = answers([1.0, 1.0, 0.0, 0.0], [9, 8, 2, 3], ["abcde"] * 4)
    mostly = answers([1.0, 1.0, 1.0, 0.0], [9, 8, 8, 2], ["abcde"] * 4)
    assert rate(longer, "stored_win_rate_lc") < rate(longer, "stored_win_rate") == 0.5
    assert rate(mostly, "stored_win_rate_lc") < rate(mostly, "stored_win_rate")


def test_lengths_of_references_are_in_characters_and_bytes():
    found = answers([1.0, 0.0], [1, 1], ["añ", None])
    assert found.lengths["stored.characters"][:, 0].tolist()[0] == 2.0
    assert found.lengths["stored.bytes"][:, 0].tolist()[0] == 3.0
    assert np.isnan(found.lengths["stored.bytes"][1, 0])
