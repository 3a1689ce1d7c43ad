import numpy as np
import pytest

from mlalign.methods.metrics import accuracy, consistency, ratios
from mlalign.methods.metrics.answers import Items, counterparts

NAN = np.nan
# group -> language -> share of right answers
WORLD = {
    "g1": {"eng_Latn": 1.0, "swh_Latn": 1.0, "tha_Thai": 0.0},
    "g2": {"eng_Latn": 0.0, "swh_Latn": 0.0},
    "g3": {"eng_Latn": 1.0, "swh_Latn": 0.5, "tha_Thai": NAN},
    "g4": {"tha_Thai": 1.0},
}


def items() -> tuple[Items, np.ndarray]:
    told = [(f"{g}{lang}", lang, g, "native") for g, langs in WORLD.items() for lang in langs]
    return Items.of(told, np.full(len(told), NAN), {}), np.array(
        [v for langs in WORLD.values() for v in langs.values()]
    )


def test_agreement_with_english_by_hand():
    world, right = items()
    cells = consistency.table_columns(right, counterparts(world, "eng_Latn"))
    swahili = np.array([lang == "swh_Latn" for lang in world.language])
    assert cells[swahili].tolist() == [[1, 0, 0, 0], [0, 0, 0, 1], [0.5, 0, 0.5, 0]]
    assert np.isnan(cells[[lang == "eng_Latn" for lang in world.language]]).all()
    total = cells[swahili].sum(0)
    assert ratios.ratio(accuracy.on_diagonal(cells[swahili]).sum(0)) == pytest.approx(2.5 / 3)
    # margins 0.5 right in Swahili, 2/3 in English: expected 1/3 + 1/6 = 0.5
    assert ratios.kappa(total) == pytest.approx((2.5 / 3 - 0.5) / 0.5)


def test_agreement_with_all_others_by_hand():
    world, right = items()
    columns = consistency.all_columns(world, right)
    told = dict(zip(world.id, columns.tolist(), strict=True))
    assert told["g1eng_Latn"] == [1.0, 2.0]  # with Swahili, not with Thai
    assert told["g1tha_Thai"] == [0.0, 2.0]
    assert told["g3swh_Latn"] == [0.5, 1.0]
    assert np.isnan([told["g3tha_Thai"], told["g4tha_Thai"]]).all()  # no value; no other language


def test_occurrences_of_an_item_are_compared_with_their_own():
    """Two seeds: the first is right everywhere, the second nowhere. Each agrees with itself."""
    told = [(lang, lang, "g", "native") for _ in range(2) for lang in ("a", "b")]
    world, right = Items.of(told, np.full(4, NAN), {}), np.array([1.0, 1.0, 0.0, 0.0])
    assert consistency.all_columns(world, right).tolist() == [[1, 1]] * 4
    assert consistency.table_columns(right, counterparts(world, "a"))[[1, 3]].tolist() == [
        [1, 0, 0, 0],
        [0, 0, 0, 1],
    ]


def test_matrix_against_a_loop():
    rng = np.random.default_rng(0)
    languages, groups = (
        [x for x in "abc" for _ in range(20)],
        [f"g{i}" for _ in "abc" for i in range(20)],
    )
    right = np.where(rng.random(60) < 0.2, NAN, rng.integers(0, 3, 60) / 2)
    found = consistency.matrix(languages, groups, right, 0.95)
    for i, j in ((0, 1), (2, 0)):
        p, q = right[20 * i : 20 * i + 20], right[20 * j : 20 * j + 20]
        agree = p * q + (1 - p) * (1 - q)
        agree = agree[~np.isnan(agree)]
        half = (
            2.1 * agree.std(ddof=1) / len(agree) ** 0.5
        )  # t of 11 to 19 degrees of freedom: 2.09 to 2.20
        assert found["values"][i][j] == pytest.approx(agree.mean(), abs=1e-6)
        assert found["n_groups"][i][j] == len(agree)
        assert found["high"][i][j] - found["values"][i][j] == pytest.approx(half, rel=0.05)
    assert [found["values"][i][i] for i in range(3)] == [None] * 3


def test_matrix_without_common_groups():
    found = consistency.matrix(["a", "b"], ["g1", "g2"], np.array([1.0, 0.0]), 0.95)
    assert (found["values"], found["low"]) == ([[None, None], [None, None]],) * 2
