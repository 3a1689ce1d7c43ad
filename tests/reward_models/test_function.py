"""Scorers that are functions of a person's own: `family: module:function`."""

import json
import sys

import pytest

import reward_models
from mlalign.core.errors import UserError
from reward_models import Item
from reward_models.__main__ import main
from reward_models.jobs.identity import of_run

OWN = '''
def shouting(response, *, weight: float = 1.0):
    """Exclamation marks."""
    return weight * response.count("!") if response else None


def in_swahili(messages, language):
    return float(language == "swh_Latn") + len(messages)


def longest(items, *, unit: int = 1):
    return [len(item.response) * unit for item in items]


def typo(respons):
    return 1.0


def nonsense(response):
    return float("nan")


def fails(response):
    return response["x"]


def too_few(items):
    return [1.0]
'''


@pytest.fixture(autouse=True)
def own(tmp_path, monkeypatch):
    (tmp_path / "own_scorer.py").write_text(OWN, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("own_scorer", None)


ROWS = [
    {"id": "a", "prompt": "Hi", "response": "Hello!!", "language": "en"},
    {"id": "b", "prompt": "Hujambo", "response": "Sijambo", "language": "sw"},
]


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({"family": "own_scorer:shouting"}, [2.0, 0.0]),
        ({"family": "own_scorer:shouting", "weight": 0.5}, [1.0, 0.0]),
        ({"family": "own_scorer:in_swahili"}, [2.0, 3.0]),
        ({"family": "own_scorer:longest", "unit": 2}, [14.0, 14.0]),
    ],
)
def test_a_function_scores(told, expected):
    with reward_models.open_scorer(told) as scorer:
        assert scorer.score(ROWS) == expected
        assert scorer.name == told["family"].partition(":")[2]


def test_none_is_kept():
    scorer = reward_models.open_scorer({"family": "own_scorer:shouting", "name": "loud"})
    assert scorer.name == "loud"
    assert scorer.score_items([Item("x", [{"role": "user", "content": "Hi"}], "")]).values == [None]


def test_it_stands_in_another_scorer():
    inner = [{"family": "own_scorer:shouting"}, {"family": "length"}]
    told = {"family": "composite", "scorers": inner, "weights": {"shouting": 10.0, "length": 1.0}}
    assert reward_models.open_scorer(told).score(ROWS) == [27.0, 7.0]


@pytest.mark.parametrize(
    ("told", "message"),
    [
        (
            {"family": "own_scorer:shoutin"},
            r"scorer\.family: own_scorer has no function 'shoutin'; did you mean 'shouting'",
        ),
        ({"family": "own_scorr:shouting"}, r"scorer\.family: there is no module 'own_scorr'"),
        (
            {"family": "own_scorer:shouting", "wieght": 1},
            r"scorer\.wieght: unknown key; did you mean 'weight'",
        ),
        ({"family": "own_scorer:shouting", "weight": "x"}, r"scorer\.weight: expected float"),
        (
            {"family": "own_scorer:typo"},
            (
                r"scorer\.family: own_scorer:typo takes 'respons', which is no attribute of an"
                r" item; did you mean 'response'"
            ),
        ),
    ],
)
def test_mistakes_are_told_before_anything_is_scored(told, message):
    with pytest.raises(UserError, match=message):
        reward_models.open_scorer(told)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nonsense", "a: scorer own_scorer:nonsense gave nan; give a finite number, or None"),
        ("fails", r"a: scorer own_scorer:fails: .*own_scorer\.py:\d+: TypeError"),
        ("too_few", "scorer own_scorer:too_few: gave 1 values for 2 items"),
    ],
)
def test_what_it_gives_is_checked(name, message):
    with pytest.raises(UserError, match=message):
        reward_models.open_scorer({"family": f"own_scorer:{name}"}).score(ROWS)


def test_its_code_is_part_of_what_a_run_is(tmp_path):
    told = {"family": "own_scorer:shouting"}
    before = of_run(told)
    (tmp_path / "own_scorer.py").write_text("# a comment\n" + OWN, encoding="utf-8")
    assert of_run(told) == before
    (tmp_path / "own_scorer.py").write_text(
        OWN.replace('count("!")', 'count("?")'), encoding="utf-8"
    )
    assert of_run(told) != before
    nested = of_run({"family": "composite", "scorers": [told], "weights": {"shouting": 1.0}})
    assert "family_source" in json.dumps(nested)
    assert "family_source" not in json.dumps(of_run({"family": "length"}))


def test_a_models_card_cannot_name_code(tmp_path):
    (tmp_path / "card.yaml").write_text("family: own_scorer:shouting\n", encoding="utf-8")
    with pytest.raises(
        UserError, match=r"its card\.yaml names code \('own_scorer:shouting'\), which is not run"
    ):
        reward_models.load(tmp_path)
    assert "own_scorer" not in sys.modules


def test_the_command_scores_with_it(tmp_path, capfd):
    (tmp_path / "rows.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8"
    )
    out = tmp_path / "scores.jsonl"
    arguments = [
        "--family",
        "own_scorer:shouting",
        "--set",
        "weight=3",
        "--input",
        tmp_path / "rows.jsonl",
        "--output",
        out,
    ]
    assert main(["score", *map(str, arguments)]) == 0, capfd.readouterr().err
    assert [json.loads(line)["score"] for line in out.read_text().splitlines()] == [6.0, 0.0]
    assert "own_scorer:shouting" in out.with_name("scores.jsonl.json").read_text()
