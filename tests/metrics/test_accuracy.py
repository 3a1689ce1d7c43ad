from mlalign.metrics import Answer, Item, accuracy


def item(*scores: dict) -> Item:
    return Item("i", "swh_Latn", "g", tuple(Answer(s, 10 * (n + 1), 5) for n, s in enumerate(scores)))


def test_mean_score_leaves_out_missing_values():
    assert accuracy.mean_score(item({"verifier": 1.0}, {"verifier": None}, {}, {"verifier": 0.0}), "verifier") == 0.5
    assert accuracy.mean_score(item({"verifier": None}), "verifier") is None


def test_lengths():
    assert accuracy.mean_tokens(item({}, {})) == 15
    assert accuracy.mean_tokens(Item("i", "l", "g", (Answer({}, None, 3),))) is None
    assert accuracy.mean_characters(item({}, {})) == 5


def test_reward_accuracy_counts_a_tie_as_half():
    values = [accuracy.reward_accuracy(item({"r": c}, {"r": r}), "r") for c, r in ((2, 1), (1, 1), (1, 2), (None, 1))]
    assert values == [1.0, 0.5, 0.0, None]
    assert [accuracy.tie(item({"r": c}, {"r": 1.0}), "r") for c in (1.0, 2.0, None)] == [1.0, 0.0, None]


def test_selected_and_oracle():
    answers = item({"r": 0.1, "v": 1.0}, {"r": 0.9, "v": 0.0}, {"r": 0.9, "v": 1.0}, {"r": None, "v": 1.0})
    assert accuracy.selected(answers, "r", "v") == 0.5  # two share the highest score, one of them is right
    assert accuracy.oracle(answers, "v") == 1.0
    assert accuracy.selected(item({"v": 1.0}), "r", "v") is None
    assert accuracy.oracle(item({"r": 1.0}), "v") is None
