"""What a person may write for a sweep, and what is said of what they may not."""

import pytest

from mlalign.core.errors import UserError
from mlalign.sweep import grid


def axes(*argv):
    return {
        a.key: [(v.shown, v.overrides) for v in a.values] for a in grid.read([*argv, "-m"]).axes
    }


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("beta=0.1,0.3", [0.1, 0.3]),
        ("n=range(2,9,3)", [2, 5, 8]),
        ("loss=choice(sigmoid,ipo)", ["sigmoid", "ipo"]),
        ("languages=[en,sw],[de]", [["en", "sw"], ["de"]]),
        ("seed=sort(3,1,2)", [1, 2, 3]),
        ("steps.policy.config.peft=null,{r:8}", [None, {"r": 8}]),
        ("model='a,b',c", ["a,b", "c"]),
        ("scale=glob(*,exclude=tiny)", ["node", "one_gpu"]),
        ("use.base=/a/x,/b/y", ["/a/x", "/b/y"]),
    ],
)
def test_hydras_grammar_gives_the_values(text, shown):
    (found,) = axes(text).values()
    assert [s for s, _ in found] == shown


def test_a_value_is_written_so_that_it_is_read_again():
    texts = [
        o for _, overrides in axes("name_='a=b',\"it's\",[x,y],null")["name_"] for o in overrides
    ]
    assert [grid.config.by_grammar(t, []).value() for t in texts] == [
        "a=b",
        "it's",
        ["x", "y"],
        None,
    ]


def test_of_two_arguments_with_one_key_the_later_counts():
    asked = grid.read(["beta=1,2", "n=1,2", "beta=3", "-m"])
    assert [a.key for a in asked.axes] == ["n"]
    assert asked.shared == ["beta=3"]


def test_every_combination_the_last_key_fastest():
    asked = grid.read(["a=1,2", "b=x,y", "--multirun"])
    assert [[v.shown for _, v in point] for point in grid.combinations(asked.axes)] == [
        [1, "x"],
        [1, "y"],
        [2, "x"],
        [2, "y"],
    ]


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["beta=0.1"], "-m: no key has several values"),
        (["beta=0.1,0.1"], "beta: duplicate value"),
        (["beta=interval(0,1)"], "a grid cannot take an interval"),
        (["beta=shuffle(1,2)"], "the order of variants has no effect"),
        (["name=a,b"], "name: one value for the whole sweep"),
        (["launcher=local,slurm"], "launcher: one value for the whole sweep"),
        (["beta=0.1,"], "beta=0.1,"),
        (["data=glob(zz*)"], "matches no file of a group 'data'"),
        (["dta=glob(*)"], "did you mean 'data'"),
        (["sweep=bta"], "there is no sweep 'bta'; did you mean 'beta'"),
        (
            ["search.trails=3", "beta=interval(0,1)"],
            "search.trails: unknown key; did you mean 'search.trials'",
        ),
        (
            ["search.trials=0", "beta=interval(0,1)"],
            "search.trials: expected a whole number from 1",
        ),
        (["search.trials=2", "search.pruner=medium", "beta=1,2"], "did you mean 'median'"),
        (["beta=1,2", "direction=up", "metric=accuracy"], "direction: 'up' is not possible"),
        (["beta=1,2", "direction=minimize"], "name it with metric="),
        (["seed=range(2000)"], "variants or more are above the 1000 allowed"),
    ],
)
def test_mistakes_name_the_key_and_the_mend(argv, told):
    with pytest.raises(UserError) as error:
        grid.read([*argv, "-m"])
    assert told in str(error.value)


def test_mistakes_are_told_together():
    with pytest.raises(UserError) as error:
        grid.read(["name=a,b", "beta=1,1", "sweep=x", "-m"])
    assert len(error.value.messages) == 3


def test_names_hold_no_character_that_a_path_or_a_shell_minds():
    told = grid.label(
        {
            "model": "/models/a b'\"$(x)\n",
            "x.y.beta": 0.05,
            "l": ["en", "sw"],
            "p": None,
            "d": {"r": 8},
            "t": "w" * 99,
        }
    )
    assert not set(told) & set("/ '\"$()\n[]{}\\")
    assert "beta=0.05" in told
    assert "l=en+sw" in told
    assert len(told) < 140


def test_a_key_is_short_where_that_says_enough():
    assert (
        grid.label({"steps.a.config.lr": 1, "steps.b.config.lr": 2})
        == "steps.a.config.lr=1,steps.b.config.lr=2"
    )


@pytest.fixture
def own(tmp_path):
    (tmp_path / "sweep").mkdir()

    def write(text):
        (tmp_path / "sweep/mine.yaml").write_text(text)
        return ["recipe=reuse_your_rewards", "sweep=mine", f"conf_dir={tmp_path}"]

    return write


def test_a_preset_of_ones_own_is_refined_on_the_command_line(own):
    argv = own(
        "grid: {size: 'small,large', beta: '1,2'}\nsets: {size: {small: [n=2], large: [n=8,"
        " temperature=0.7]}}\nmetric: accuracy"
    )
    asked = grid.read([*argv, "beta=3,4", "size=large"])
    assert {a.key: [v.overrides for v in a.values] for a in asked.axes} == {
        "size": [("n=8", "temperature=0.7")], "beta": [("beta=3",), ("beta=4",)]
    }  # fmt: skip
    assert asked.options == {"metric": "accuracy"}
    with pytest.raises(UserError, match="size: 'lage' is not possible; did you mean 'large'"):
        grid.read([*argv, "size=lage"])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("grdi: {beta: '1,2'}", "needs a mapping `grid`"),
        ("grid: {beta: '1,2'}\nmetrc: x", "unknown key 'metrc'; did you mean 'metric'"),
        ("grid: {", "cannot be read"),
        ("grid: {beta: '${languges}'}", "cannot be resolved"),
    ],
)
@pytest.mark.slow
def test_mistakes_in_a_preset(own, text, told):
    with pytest.raises(UserError) as error:
        grid.read(own(text))
    assert told in str(error.value)
