import csv
import io

import numpy as np
import pytest

from mlalign.metrics import table
from mlalign.metrics.bootstrap import Estimate


def estimate() -> Estimate:
    replicates = np.array([[0.9, 0.4, 0.5], [0.7, 0.6, np.nan]])
    return Estimate(["eng_Latn", "hin_Deva", "swh_Latn"], np.array([0.8, 0.5, 0.6]), replicates, [10, 20, 5], [10, 10, 1], 12)


def test_average_worst_and_gap_by_hand():
    rows = {r["language"]: r for r in table.summarise("accuracy", "verifier", estimate(), "eng_Latn", 0.95)}
    assert list(rows) == ["eng_Latn", "hin_Deva", "swh_Latn", "avg", "worst", "gap_to_english"]
    assert rows["avg"]["value"] == pytest.approx(0.633333)
    assert (rows["avg"]["n"], rows["avg"]["n_groups"]) == (35, 12)
    assert (rows["worst"]["value"], rows["worst"]["which"], rows["worst"]["low"]) == (0.5, "hin_Deva", rows["hin_Deva"]["low"])
    assert rows["gap_to_english"]["value"] == pytest.approx(0.25)
    assert rows["gap_to_english"]["low"] == pytest.approx(0.1 + 0.025 * 0.35)  # replicates 0.45 and 0.7 - 0.6 = 0.1
    assert (rows["swh_Latn"]["low"], rows["swh_Latn"]["high"]) == (None, None)  # one group


def test_lengths_have_no_worst_and_no_anchor_no_gap():
    rows = table.summarise("tokens", "", estimate(), "fra_Latn", 0.95, higher_is_better=False)
    assert [r["language"] for r in rows][3:] == ["avg"]


def test_matrix_reads_the_source_from_the_column():
    cells = [("reward[eng_Latn]", "hin_Deva", 0.7), ("reward[hin_Deva]", "hin_Deva", 0.9), ("reward[eng_Latn]", "eng_Latn", 0.8)]
    rows = [
        {"metric": "reward_accuracy", "by": by, "language": lang, "value": v} for by, lang, v in [*cells, ("reward[eng_Latn]", "avg", 0.1)]
    ]
    found = table.matrix(rows, "reward_accuracy")
    assert (found["sources"], found["targets"]) == (["eng_Latn", "hin_Deva"], ["eng_Latn", "hin_Deva"])
    assert found["values"] == [[0.8, 0.7], [None, 0.9]]


def test_csv_round_trip():
    rows = table.summarise("accuracy", 'a "column", with comma', estimate(), "eng_Latn", 0.95)
    read = list(csv.DictReader(io.StringIO(table.to_csv(rows))))
    assert list(read[0]) == list(table.COLUMNS)
    assert read[0]["by"] == 'a "column", with comma'
    assert read[2]["low"] == ""
