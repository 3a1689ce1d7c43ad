"""Composites and ensembles: values worked out by hand, parts reported, nesting, every mistake with
its full key.
"""

import random
import statistics

import pytest
from tiny_classifier import save_classifier

import reward_models
from mlalign.core.errors import UserError
from reward_models import Item, card
from reward_models.families.combine import Combination, combine

GERMAN = "Das ist die größte Zahl von allen."
ENGLISH = "The largest number of them all is nine."


@pytest.fixture(scope="module")
def answers():
    """Three rows of different size; German asked for."""
    texts = [[GERMAN, ENGLISH, "9 9 9 9"], [GERMAN * 2, GERMAN], [ENGLISH]]
    return [
        Item(f"{r}{i}", [{"role": "user", "content": "?"}], text, "deu_Latn", row=f"r{r}")
        for r, row in enumerate(texts)
        for i, text in enumerate(row)
    ]


def opened(family, **told):
    return reward_models.open_scorer({"family": family, **told}).score_items


LENGTH, ADHERENCE = {"family": "length"}, {"family": "language_adherence"}


@pytest.mark.slow
@pytest.mark.long
def test_weighted_sum_with_a_gate(answers):
    gates = [{"scorer": "language_adherence", "missing": "fail"}]
    found = opened(
        "composite",
        scorers=[LENGTH, ADHERENCE],
        weights={"length": 0.1, "language_adherence": 2.0},
        gates=gates,
    )(answers)
    n = len(GERMAN)
    assert found.values == [
        pytest.approx(0.1 * n + 2),
        None,
        None,
        pytest.approx(0.2 * n + 2),
        pytest.approx(0.1 * n + 2),
        None,
    ]
    assert found.columns["length"] == [len(a.response) for a in answers]
    assert found.columns["language_adherence"] == [1.0, 0.0, None, 1.0, 1.0, 0.0]
    assert (
        set(found.columns) >= {"language_adherence.confidence"} and found.detected[1] == "eng_Latn"
    )
    assert found.flags["incomplete"] == [False, False, True, False, False, False]
    assert found.flags["gated"] == [False, True, False, False, False, True]
    assert found.flags["language_adherence.undetected"] == [False, False, True, False, False, False]


def test_minimum_and_normalisation_within_a_row(answers):
    scorers = [LENGTH, {"family": "length", "name": "words", "unit": "words"}]
    smallest = opened(
        "composite", scorers=scorers, weights={"length": 0.1, "words": 1.0}, combine="minimum"
    )(answers).values
    expected = [
        min(0.1 * len(a.response), n) for a, n in zip(answers, (7, 8, 4, 13, 7, 8), strict=True)
    ]  # "allen.Das" is two words
    assert smallest[0] == pytest.approx(expected[0]) and smallest[2] == pytest.approx(0.7)
    assert [s <= 0.1 * len(a.response) + 1e-9 for s, a in zip(smallest, answers, strict=True)] == [
        True
    ] * 6
    z = opened("composite", scorers=[LENGTH], weights={"length": 1.0}, normalise="prompt")(
        answers
    ).values
    lengths = [len(a.response) for a in answers[:3]]
    assert z[:3] == pytest.approx(
        [(x - statistics.fmean(lengths)) / statistics.pstdev(lengths) for x in lengths]
    )
    assert z[3:5] == pytest.approx([1.0, -1.0]) and z[5] == 0.0


def test_a_value_depends_on_its_row_alone(answers):
    score = opened("composite", scorers=[LENGTH], weights={"length": 1.0}, normalise="prompt")
    whole = dict(zip((a.id for a in answers), score(answers).values, strict=True))
    order = random.Random(1).sample(answers, len(answers))
    assert dict(zip((a.id for a in order), score(order).values, strict=True)) == whole
    assert {
        a.id: v
        for row in (answers[:3], answers[3:5], answers[5:])
        for a, v in zip(row, score(row).values, strict=True)
    } == whole
    without_row = [Item("a", [], "x"), Item("b", [], "xy")]
    assert score(without_row).values == [0.0, 0.0]


@pytest.mark.slow
def test_calibration_takes_the_card_of_the_model(tmp_path, answers):
    path = save_classifier(tmp_path / "rm")
    raw = opened("classifier", path=str(path))(answers).values
    told = {
        "scorers": [{"family": "classifier", "path": str(path)}, LENGTH],
        "weights": {"classifier": 2.0, "length": 0.01},
        "normalise": "calibration",
    }
    with pytest.raises(UserError, match="has no card"):
        opened("composite", **told)
    card.write(path, card.Card(calibration={"deu_Latn": {"mean": 0.5, "std": 4.0}}))
    found = opened("composite", **told)(answers)
    assert found.values == pytest.approx(
        [2 * (v - 0.5) / 4 + 0.01 * len(a.response) for v, a in zip(raw, answers, strict=True)],
        abs=1e-5,
    )
    assert found.columns["classifier.raw"] == pytest.approx(raw, abs=1e-6)


@pytest.mark.long
def test_ensembles(tmp_path, answers):
    import torch

    paths = []
    for seed in range(3):
        paths.append(save_classifier(tmp_path / str(seed)))
        if seed:
            from safetensors.torch import load_file, save_file

            file = paths[-1] / "model.safetensors"
            state, noise = load_file(file), torch.Generator().manual_seed(seed)
            save_file(
                {k: v + 0.3 * torch.randn(v.shape, generator=noise) for k, v in state.items()},
                file,
                metadata={"format": "pt"},
            )
    members = [
        {"family": "classifier", "name": f"m{i}", "path": str(p)} for i, p in enumerate(paths)
    ]
    values = list(
        zip(*(opened("classifier", path=str(p))(answers).values for p in paths), strict=True)
    )
    assert statistics.pstdev(values[0]) > 0.01
    for reduce, by_hand in (
        ("mean", statistics.fmean),
        ("median", statistics.median),
        ("min", min),
    ):
        found = opened("ensemble", scorers=members, reduce=reduce)(answers)
        assert found.values == pytest.approx([by_hand(v) for v in values], abs=1e-5)
        assert found.columns["disagreement"] == pytest.approx(
            [statistics.pstdev(v) for v in values], abs=1e-5
        )
        assert [found.columns[f"m{i}"][0] for i in range(3)] == pytest.approx(values[0], abs=1e-5)
    bound = opened("ensemble", scorers=members, penalty=1.5)(answers).values
    assert bound == pytest.approx(
        [statistics.fmean(v) - 1.5 * statistics.pstdev(v) for v in values], abs=1e-5
    )


def test_an_ensemble_is_silent_where_a_member_is(answers):
    members = [ADHERENCE, {"family": "length"}]
    found = opened("ensemble", scorers=members)(answers)
    assert found.values[2] is None and found.flags["incomplete"] == [
        False,
        False,
        True,
        False,
        False,
        False,
    ]
    assert found.columns["disagreement"][2] is None
    z = opened(
        "ensemble",
        scorers=[LENGTH, {"family": "length", "name": "words", "unit": "words"}],
        normalise="prompt",
    )(answers)
    assert z.values[3:5] == pytest.approx([1.0, -1.0]) and z.columns["disagreement"][
        3:5
    ] == pytest.approx([0, 0])


def test_they_nest(answers):
    inner = {
        "family": "ensemble",
        "name": "lengths",
        "scorers": [LENGTH, {"family": "length", "name": "twice"}],
    }
    found = opened(
        "composite",
        scorers=[inner, ADHERENCE],
        weights={"lengths": 1.0},
        gates=[{"scorer": "language_adherence", "policy": "floor", "floor": -1.0}],
    )(answers)
    assert found.values[:2] == [float(len(GERMAN)), -1.0]
    assert (
        found.columns["lengths.twice"] == found.columns["lengths"]
        and found.columns["lengths.disagreement"] == [0.0] * 6
    )


def test_minimum_by_hand():
    scores = {"a": [1.0, 2.0, None], "b": [3.0, -1.0, 1.0]}
    assert combine(scores, Combination({"a": 2.0, "b": 1.0}, combine="minimum")) == [
        2.0,
        -1.0,
        None,
    ]


@pytest.mark.parametrize(
    ("told", "messages"),
    [
        ({"family": "composite", "scorers": [{"family": "lenght"}, LENGTH], "weights": {"length": 1}}, ["scorer.scorers[0]: unknown family 'lenght'; did you mean 'length'?"]),
        ({"family": "composite", "scorers": [LENGTH, LENGTH], "weights": {"length": 1}}, ["scorer.scorers: two are named 'length'; give one another `name`"]),
        ({"family": "composite", "scorers": [LENGTH], "weights": {"lenght": 1}}, ["scorer.weights: no scorer here is named 'lenght'; did you mean 'length'?"]),
        ({"family": "composite", "scorers": [LENGTH], "weights": {"length": "1"}}, ["scorer.weights.length: expected a number, got '1'"]),
        ({"family": "composite", "scorers": [LENGTH], "weights": {"length": 1}, "gates": [{"scorer": "length", "mni": 1}]}, ["scorer.gates[0].mni: unknown key; did you mean 'min'?"]),
        ({"family": "composite", "scorers": [], "weights": {}}, ["scorer.scorers: empty; name at least one scorer"]),
        ({"family": "composite", "scorers": [LENGTH], "weights": {}}, ["scorer.weights: empty; name at least one scorer"]),
        ({"family": "ensemble", "scorers": [{"family": "composite", "name": "c", "scorers": [{"family": "length", "unit": "word"}], "weights": {"length": 1}}]},
         ["scorer.scorers[0].scorers[0].unit: 'word' is not possible; did you mean 'words'?"]),
        ({"family": "ensemble", "scorers": ["length"]}, ["scorer.scorers[0]: expected a mapping, got 'length'"]),
        ({"family": "length", "unit": "tokens"}, ["scorer.path: missing; name the directory of a tokenizer"]),
    ],
)  # fmt: skip
def test_mistakes_are_told_with_their_full_key(told, messages):
    assert reward_models.problems(told) == messages


def test_closing_a_scorer_closes_those_that_it_stands_on():
    from reward_models.families.together import Together

    class Part:
        closed = 0

        def __call__(self, items):
            return reward_models.Scores([0.0] * len(items))

        def close(self):
            self.closed += 1

    part = Part()
    inner = reward_models.Scorer("a", "x", part)
    with reward_models.Scorer(
        "b", "y", Together([reward_models.Scorer("c", "z", Together([inner], part))], part)
    ) as scorer:
        assert scorer.score([{"prompt": "q", "response": "r"}]) == [0.0]
    assert part.closed == 1
    reward_models.open_scorer({"family": "length"}).close()
