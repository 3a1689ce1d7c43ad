import csv
import io

import numpy as np
import pytest

from mlalign.methods.metrics import table
from mlalign.methods.metrics.bootstrap import Estimate

MANY = 10**6  # groups: intervals are the percentiles


def estimate() -> Estimate:
    replicates = np.array([[0.9, 0.4, 0.5], [0.7, 0.6, np.nan]])
    return Estimate(
        ["eng_Latn", "hin_Deva", "swh_Latn"],
        np.array([0.8, 0.5, 0.6]),
        replicates,
        [10, 20, 5],
        [MANY, MANY, 1],
        MANY,
    )


def test_average_worst_and_gap_by_hand():
    rows = {
        r["language"]: r
        for r in table.summarise("accuracy", "verifier", estimate(), "eng_Latn", 0.95)
    }
    assert list(rows) == ["eng_Latn", "hin_Deva", "swh_Latn", "avg", "worst", "gap_to_english"]
    assert rows["avg"]["value"] == pytest.approx(0.633333)
    assert (rows["avg"]["n"], rows["avg"]["n_groups"]) == (35, MANY)
    assert (rows["worst"]["value"], rows["worst"]["which"], rows["worst"]["low"]) == (
        0.5,
        "hin_Deva",
        rows["hin_Deva"]["low"],
    )
    assert rows["gap_to_english"]["value"] == pytest.approx(0.25)
    assert (rows["gap_to_english"]["low"], rows["gap_to_english"]["high"]) == (
        0.1,
        0.45,
    )  # replicates 0.9 - 0.45 and 0.7 - 0.6
    assert (rows["swh_Latn"]["low"], rows["swh_Latn"]["high"]) == (None, None)  # one group


def test_lengths_have_no_worst_and_no_anchor_no_gap():
    rows = table.summarise("tokens", "", estimate(), "fra_Latn", 0.95, higher_is_better=False)
    assert [r["language"] for r in rows][3:] == ["avg"]


def test_a_language_where_the_metric_is_not_defined_has_no_row_and_counts_in_no_summary():
    told = Estimate(
        ["a", "b"],
        np.array([np.nan, 0.5]),
        np.array([[np.nan, 0.4], [0.1, 0.6]]),
        [3, 3],
        [3, 3],
        3,
    )
    rows = {r["language"]: r for r in table.summarise("reward_kappa", "r", told, "a", 0.95)}
    assert list(rows) == ["b", "avg", "worst"]
    assert (rows["avg"]["value"], rows["avg"]["n"], rows["worst"]["which"]) == (0.5, 3, "b")
    nowhere = Estimate(["a"], np.array([np.nan]), np.full((2, 1), np.nan), [3], [3], 3)
    assert table.summarise("reward_kappa", "r", nowhere, "a", 0.95) == []


def test_averages_of_members_by_hand():
    rows = table.members("accuracy", "verifier", estimate(), "script", lambda code: code[-4:], 0.95)
    assert [(r["part"], r["member"], r["language"], r["value"], r["n"]) for r in rows] == [
        ("script", "Deva", "avg", 0.5, 20),
        ("script", "Latn", "avg", 0.7, 15),
    ]
    assert rows[1]["low"] == pytest.approx(
        0.7, abs=1e-5
    )  # replicates (0.9 + 0.5) / 2 and, Swahili not drawn, 0.7
    assert list(rows[0])[:2] == list(table.BREAKDOWN[:2])


def test_one_member_by_language():
    rows = table.member("accuracy", "verifier", estimate(), "origin", "native", 0.95)
    assert [r["language"] for r in rows] == ["eng_Latn", "hin_Deva", "swh_Latn", "avg"]
    assert {(r["part"], r["member"]) for r in rows} == {("origin", "native")}


def test_matrix_reads_the_source_from_the_column():
    cells = [
        ("reward[eng_Latn]", "hin_Deva", 0.7),
        ("reward[hin_Deva]", "hin_Deva", 0.9),
        ("reward[eng_Latn]", "eng_Latn", 0.8),
    ]
    rows = [
        {"metric": "reward_accuracy", "by": by, "language": lang, "value": v}
        for by, lang, v in [*cells, ("reward[eng_Latn]", "avg", 0.1)]
    ]
    found = table.matrix(rows, "reward_accuracy")
    assert (found["sources"], found["targets"]) == (
        ["eng_Latn", "hin_Deva"],
        ["eng_Latn", "hin_Deva"],
    )
    assert found["values"] == [[0.8, 0.7], [None, 0.9]]


def test_csv_round_trip():
    rows = table.summarise("accuracy", 'a "column", with comma', estimate(), "eng_Latn", 0.95)
    read = list(csv.DictReader(io.StringIO(table.to_csv(rows))))
    assert list(read[0]) == list(table.COLUMNS)
    assert read[0]["by"] == 'a "column", with comma'
    assert read[2]["low"] == ""
