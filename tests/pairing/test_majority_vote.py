"""`majority_vote`: exact pairs and margins, and every reason for none."""

import pytest

from mlalign.core.errors import UserError
from mlalign.methods.pairing import Group, Scored
from mlalign.methods.pairing.majority_vote import majority_vote

EN, SW, AR = "eng_Latn", "swh_Latn", "arb_Arab"


def group(**texts: list[str]) -> Group:
    languages = {"en": EN, "sw": SW, "ar": AR}
    candidates = {}
    for short, answers in texts.items():
        scored = [
            Scored(f"{short}{k}", text, 0.0, in_language=True) for k, text in enumerate(answers)
        ]
        candidates[languages[short]] = scored
    return Group("g", candidates)


def made(pairs):
    assert not isinstance(pairs, str), pairs
    return [(p.chosen.candidate_id, p.rejected.candidate_id, p.margin) for p in pairs]


def test_the_example_of_its_docstring():
    item = group(en=["It is 4.", "It is 5."], sw=["Ni 4", "4", "Sijui"])
    expected = [("en0", "en1", 0.5), ("sw0", "sw2", 0.75), ("sw1", "sw2", 0.75)]
    assert made(majority_vote(item)) == expected


def test_numbers_agree_across_scripts_and_separators():
    item = group(en=["1,234", "7"], sw=["1.234"], ar=["الجواب ١٢٣٤", "٧"])
    # 1234: three votes; 7: two
    assert made(majority_vote(item)) == [
        ("en0", "en1", pytest.approx(0.2)),
        ("ar0", "ar1", pytest.approx(0.2)),
    ]


def test_texts_and_patterns():
    item = group(
        en=["The answer is (B)", "The answer is (A) because"],
        sw=["Jibu ni (b).", "Jibu: (B)", "(A)"],
    )
    pairs = made(majority_vote(item, pattern=r"\(([A-Da-d])\)"))
    assert pairs == [
        ("en0", "en1", pytest.approx(0.2)),
        ("sw0", "sw2", pytest.approx(0.2)),
        ("sw1", "sw2", pytest.approx(0.2)),
    ]
    words = group(en=["Paris.", "London"], sw=["paris"])
    assert made(majority_vote(words, answer="text")) == [("en0", "en1", pytest.approx(1 / 3))]
    with pytest.raises(UserError, match=r"args\.pattern: '\(' is no regular expression"):
        majority_vote(words, pattern="(")


@pytest.mark.parametrize(
    ("item", "options", "reason"),
    [
        (group(en=["4", "5"]), {}, "fewer than 2 languages"),
        (group(en=["who knows"], sw=["?"]), {}, "no response has a final answer"),
        (group(en=["4", "5"], sw=["5", "4"]), {}, "tie between answers"),
        (
            group(en=["4", "5"], sw=["4", "6"]),
            {"min_share": 0.6},
            "no answer has min_share of the votes",
        ),
        (
            group(en=["4"], sw=["4"]),
            {},
            "no language has both a response to choose and one to reject",
        ),
    ],
)
def test_reasons_for_none(item, options, reason):
    assert majority_vote(item, **options) == reason


def test_a_response_in_another_language_votes_and_is_never_chosen():
    english = Scored("sw0", "the answer is 4", 0.0, in_language=False)
    item = Group(
        "g",
        {
            EN: group(en=["4", "5"]).candidates[EN],
            SW: [english, Scored("sw1", "5", 0.0), Scored("sw2", "4", 0.0)],
        },
    )
    # 4 has three of five votes; nothing in Swahili is known to be in Swahili
    assert made(majority_vote(item)) == [("en0", "en1", pytest.approx(0.2))]
    assert len(made(majority_vote(item, wrong_language="off"))) == 3
