"""The pairing methods and what they share: finding them, checking their options, accepting pairs."""

import pytest

from mlalign import methods
from mlalign.core.errors import UserError
from mlalign.methods import paired, pairing
from mlalign.methods.pairing import Pair, Scored
from mlalign.methods.pairing.best_of_n import best_of_n
from mlalign.methods.pairing.best_worst import best_worst


def candidate(name: str, score: float, in_language: bool | None = True, **more) -> Scored:
    return Scored(name, f"text {name}", score, in_language=in_language, **more)


def names(made: list[Pair] | list[Scored] | str):
    assert not isinstance(made, str), made
    return [
        (
            (m.chosen.candidate_id, m.rejected.candidate_id, m.margin)
            if isinstance(m, Pair)
            else m.candidate_id
        )
        for m in made
    ]


def test_best_worst_takes_the_extremes_and_the_first_among_equals():
    scored = [
        candidate("a", 1.0),
        candidate("b", 3.0),
        candidate("c", -1.0),
        candidate("d", 3.0),
        candidate("e", -1.0),
    ]
    assert names(best_worst(scored)) == [("b", "c", 4.0)]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("off", [("english", "low", 7.0)]),
        ("never_chosen", [("good", "low", 5.0)]),
        ("penalise", [("good", "english", 98.0)]),  # 5 - (7 - 100)
    ],
)
def test_wrong_language_rules(rule, expected):
    scored = [
        candidate("english", 7.0, in_language=False),
        candidate("good", 5.0),
        candidate("low", 0.0),
    ]
    assert names(best_worst(scored, wrong_language=rule)) == expected


def test_an_unknown_language_counts_as_wrong():
    scored = [candidate("unknown", 9.0, in_language=None), candidate("a", 2.0), candidate("b", 1.0)]
    assert names(best_worst(scored)) == [("a", "b", 1.0)]
    assert names(best_worst(scored, wrong_language="penalise", penalty=10.0)) == [
        ("a", "unknown", 3.0)
    ]


def test_wrong_language_may_be_rejected():
    scored = [candidate("a", 2.0), candidate("english", 1.0, in_language=False)]
    assert names(best_worst(scored)) == [("a", "english", 1.0)]


def test_gates_keep_a_candidate_from_being_chosen_only():
    scored = [
        candidate("gated", 5.0, choosable=False),
        candidate("a", 3.0),
        candidate("gated low", 0.0, choosable=False),
    ]
    assert names(best_worst(scored)) == [("a", "gated low", 3.0)]


@pytest.mark.parametrize(
    ("scored", "reason"),
    [
        ([candidate("a", 1.0)], "fewer than two candidates"),
        ([candidate("a", 1.0), candidate("b", 1.0)], "tie"),
        (
            [candidate("a", 1.0), candidate("b", 2.0, in_language=False)],
            "the best allowed candidate is the worst",
        ),
        (
            [candidate("a", 1.0, in_language=False), candidate("b", 2.0, in_language=None)],
            "no candidate may be chosen",
        ),
    ],
)
def test_best_worst_says_why_there_is_no_pair(scored, reason):
    assert best_worst(scored) == reason


def test_best_of_n():
    scored = [
        candidate("a", 1.0),
        candidate("english", 3.0, in_language=False),
        candidate("b", 2.0),
        candidate("c", 2.0),
    ]
    assert names(best_of_n(scored)) == ["b"]
    assert names(best_of_n(scored, wrong_language="off")) == ["english"]
    assert best_of_n(scored[1:2]) == "no candidate may be chosen"


def test_accept_counts_what_it_drops():
    a, b, same = candidate("a", 2.0), candidate("b", 1.5), Scored("c", "text a", 0.0)
    pairs = [Pair(a, same, 2.0), Pair(a, b, 0.5), Pair(a, b, 0.0), Pair(b, a, 1.0), Pair(b, a, 1.0)]
    kept, dropped = pairing.accept(pairs, min_margin=0.6, max_pairs=1)
    assert kept == [pairs[3]]
    assert dropped == {
        "equal text": 1,
        "margin below min_margin": 1,
        "tie": 1,
        "over max_pairs_per_prompt": 1,
    }


def test_every_file_is_a_method_of_its_name_whose_defaults_pass():
    assert set(pairing.names()) >= {"best_worst", "best_of_n"}
    for name in pairing.names():
        method = pairing.load(name)
        assert method.__name__ == name
        assert isinstance(methods.options(method, {}), dict)


def test_a_method_of_ones_own_by_module_and_function(tmp_path, monkeypatch):
    (tmp_path / "own_pairs.py").write_text(
        "def newest(scored, *, k: int, seed: int = 0):\n    return 'nothing'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    method = pairing.load("own_pairs:newest")
    assert methods.takes(method, "seed")
    assert methods.options(method, {"k": 2}) == {"k": 2}
    with pytest.raises(UserError, match=r"args\.k: missing; set it$"):
        methods.options(method, {})
    with pytest.raises(UserError, match="no function 'newst'; did you mean 'newest'"):
        pairing.load("own_pairs:newst")


@pytest.mark.parametrize(
    ("made", "returned"),
    [
        ("nothing to choose", None),
        ([], None),
        ([candidate("a", 1.0)], None),
        ([Pair(candidate("a", 1.0), candidate("b", 0.0), 1.0)], None),
        (None, "a NoneType"),
        (Pair(candidate("a", 1.0), candidate("b", 0.0), 1.0), "a Pair"),
        ([("a", "b")], "a list that holds a tuple"),
        (
            [Pair(candidate("a", 1.0), candidate("b", 0.0), float("nan"))],
            "a pair with the margin nan",
        ),
        ([Pair("a", candidate("b", 0.0), 1.0)], "a pair whose side is a str"),
    ],
)
def test_what_a_method_must_not_return_is_described(made, returned):
    assert paired.misreturned(made) == returned


def test_mistakes_name_the_nearest():
    with pytest.raises(
        UserError, match="method: 'best_wrst' is no pairing method; did you mean 'best_worst'"
    ):
        pairing.load("best_wrst")
    with pytest.raises(UserError, match="there is no module 'not_there'"):
        pairing.load("not_there:function")
    with pytest.raises(UserError, match=r"args\.penalti: unknown key; did you mean 'penalty'"):
        methods.options(best_worst, {"penalti": 1})
    with pytest.raises(UserError, match=r"args\.wrong_language: 'never' is not possible"):
        methods.options(best_worst, {"wrong_language": "never"})
