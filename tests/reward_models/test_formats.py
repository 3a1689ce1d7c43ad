"""Published sets in their own form: which rows they give, and what is said of those that give none."""

from collections import Counter
from pathlib import Path

import pytest

from mlalign.core import formats
from mlalign.core.errors import UserError

XCOPA = {
    "premise": "Ilianguka.",
    "choice1": "Ilivunjika.",
    "choice2": "Iliruka.",
    "question": "effect",
    "label": 0,
    "idx": 7,
}


def test_xcopa_takes_language_and_groups_from_the_name_of_the_file():
    (row,) = [
        row
        for _, row in formats.convert(
            "xcopa", Path("x/test.sw.jsonl"), [("here", XCOPA)], Counter()
        )
    ]
    assert (row["language"], row["group_id"], row["id"]) == (
        "swh_Latn",
        "test:7",
        "test:7:swh_Latn",
    )
    assert (row["chosen"][0]["content"], row["rejected"][0]["content"]) == (
        "Ilivunjika.",
        "Iliruka.",
    )
    assert row["prompt"][0]["content"].startswith("Ilianguka. ")
    with pytest.raises(UserError, match=r"test\.jsonl: expected a name such as test\.sw\.jsonl"):
        list(formats.convert("xcopa", Path("test.jsonl"), [("here", XCOPA)], Counter()))
    with pytest.raises(UserError, match="here: XCOPA has no language deu_Latn"):
        list(formats.convert("xcopa", Path("test.de.jsonl"), [("here", XCOPA)], Counter()))


def test_hh_rlhf_counts_pairs_with_different_prompts():
    start = "\n\nHuman: hi\n\nAssistant: yes?\n\nHuman: go on"
    pair = {"chosen": start + "\n\nAssistant: good", "rejected": start + "\n\nAssistant: bad"}
    other = {**pair, "rejected": start + ", please\n\nAssistant: bad"}
    dropped = Counter()
    rows = list(
        formats.convert("hh_rlhf", Path("test.jsonl.gz"), [("a", pair), ("b", other)], dropped)
    )
    assert [(where, row["language"], len(row["prompt"])) for where, row in rows] == [
        ("a", "eng_Latn", 3)
    ]
    assert dropped == {("prompts_differ", "eng_Latn"): 1}


@pytest.mark.parametrize(
    ("record", "told"),
    [
        ({"chosen": "good", "rejected": "bad"}, "file:3: `chosen` is no transcript"),
        ({"chosen": "\n\nHuman: a\n\nAssistant: b"}, "file:3: no column 'rejected'; it has chosen"),
    ],
)
def test_records_of_another_form_are_named(record, told):
    with pytest.raises(UserError) as error:
        list(formats.convert("hh_rlhf", Path("f.jsonl"), [("file:3", record)], Counter()))
    assert told in str(error.value) and "--format hh_rlhf" in str(error.value)
