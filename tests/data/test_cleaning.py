import random

import pytest

from mlalign.core.rows import messages
from mlalign.data import cleaning, splits


def preference(prompt="p", chosen="good", rejected="bad"):
    sides = {"chosen": messages(chosen, "assistant"), "rejected": messages(rejected, "assistant")}
    return {"prompt": messages(prompt), "prompt_lang": "eng_Latn", **sides}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (preference(), None),
        (preference(prompt=" \n"), "empty_text"),
        (preference(rejected=""), "empty_text"),
        (preference("p", "caf\u00e9  noir", "cafe\u0301 noir "), "rejected_equals_chosen"),
        (preference(chosen="x" * 50), "too_long"),
        (preference(chosen="\ud83d"), "not_unicode"),
    ],
)
def test_problem(row, reason):
    assert cleaning.problem(row, "preference", max_chars=50) == reason


def test_an_empty_answer_may_be_an_answer():
    assert cleaning.problem(preference(rejected=""), "preference", keep_empty_answers=True) is None


def test_content_key_ignores_white_space_and_composition_only():
    key = cleaning.content_key(preference("a  b", "caf\u00e9"), "preference")
    assert key == cleaning.content_key(preference("a b ", "cafe\u0301"), "preference")
    assert key != cleaning.content_key(preference("a b", "cafe"), "preference")
    assert key != cleaning.content_key(
        {**preference("a b", "caf\u00e9"), "prompt_lang": "fra_Latn"}, "preference"
    )


def test_seen_is_a_set(monkeypatch):
    monkeypatch.setattr(cleaning, "NEW_KEYS", 64)
    rng, seen, known = random.Random(0), cleaning.Seen(), set()
    for _ in range(5000):
        key = rng.choice([rng.randrange(2000), 2**64 - 1 - rng.randrange(2000)])
        assert (key in seen) == (key in known)
        assert seen.add(key) == (key not in known)
        known.add(key)


def test_split_and_rank_depend_on_the_group_alone():
    groups = [f"g{i}" for i in range(4000)]
    held_out = sum(splits.split_of(g, 0, 0.1) == "eval" for g in groups)
    assert 340 < held_out < 460
    assert splits.split_of("g1", 0, 0.0) == "train" and splits.split_of("g1", 0, 1.0) == "eval"
    assert [splits.split_of(g, 0, 0.5) for g in groups] != [
        splits.split_of(g, 1, 0.5) for g in groups
    ]


def test_lowest_ranks_are_a_weighted_sample():
    # items of weight 3 and 1, half each, a tenth taken: the odds of the first are close to 3 to 1
    ranks = sorted((splits.rank(f"g{i}", 0, 3.0 if i % 2 else 1.0), i % 2) for i in range(10000))
    heavy = sum(kind for _, kind in ranks[:1000])
    assert 700 < heavy < 780
