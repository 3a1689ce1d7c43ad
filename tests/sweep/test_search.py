"""What a search proposes and refuses; that a broken one goes on as an unbroken one would."""

import pytest

from mlalign.core.errors import UserError
from mlalign.sweep import grid, search, space
from mlalign.sweep.proposals import Proposals

RECIPE = "recipe=reuse_your_rewards"
SPACE = (
    "beta=tag(log,interval(0.01,1))",
    "n=int(interval(2,8))",
    "loss=choice(sigmoid,ipo)",
    "epochs=range(1,4)",
)


def searching(tmp_path, *argv, trials=6):
    return search.Search(
        grid.read([f"root={tmp_path}", RECIPE, *argv, f"search.trials={trials}", "metric=accuracy"])
    )


@pytest.mark.slow
def test_hydras_grammar_gives_the_space(tmp_path):
    found = {
        a.key: str(space.distribution(a))
        for a in searching(tmp_path, *SPACE, "temperature=interval(0.5,1)").request.axes
    }
    assert found == {
        "beta": "FloatDistribution(high=1.0, log=True, low=0.01, step=None)",
        "n": "IntDistribution(high=8, log=False, low=2, step=1)",
        "loss": "CategoricalDistribution(choices=('sigmoid', 'ipo'))",
        "epochs": "IntDistribution(high=3, log=False, low=1, step=1)",
        "temperature": "FloatDistribution(high=1.0, log=False, low=0.5, step=None)",
    }


@pytest.mark.slow
def test_what_is_proposed_can_be_typed_again(tmp_path):
    beta, n, loss, _ = searching(tmp_path, *SPACE).request.axes
    assert space.value(beta, 0.0374540118).overrides == ("beta=0.03745",)
    assert space.value(beta, 0.0100001).overrides == ("beta=0.01",)
    assert space.value(n, 5).overrides == ("n=5",)
    assert space.value(loss, "ipo").overrides == ("loss=ipo",)


@pytest.mark.slow
def test_only_what_depends_on_a_searched_key_is_a_trials_own(tmp_path):
    made = searching(tmp_path, "beta=interval(0.01,1)", "n=range(2,9,2)")
    assert made.depends["policy"] == ["beta", "n"]
    assert made.depends["pairs"] == ["n"]
    assert not {"base", "reward", "prompts"} & set(made.depends)
    assert (
        "18 steps a trial, 8 of them its own; one round or none: no trial is pruned"
        in made.outline()
    )
    loop = search.Search(grid.read([f"root={tmp_path}", "recipe=iterative_dpo", "sweep=search"]))
    assert "the metric of each round goes to the pruner" in loop.outline()


@pytest.mark.slow
def test_a_trial_goes_round_by_round(tmp_path):
    """So that a round is measured before the next begins; the plan's own order mixes them."""
    made = search.Search(grid.read([f"root={tmp_path}", "recipe=iterative_dpo", "sweep=search"]))
    first = made.probed.variants[0].steps
    rounds = search._by_round([n for n in made.probed.nodes if n.name in first.values()])
    assert list(rounds) == [0, 1, 2]
    assert {n.step.round for n in rounds[2] if n.step.stage != "report"} == {2}
    seen = set()
    for node in (n for nodes in rounds.values() for n in nodes):
        assert {s["artifact"] for s in node.sources()} <= seen
        seen.add(node.artifact)


def opened(root, *argv, trials):
    """The proposals of a search as a new process finds them."""
    made = searching(root, *argv, trials=trials)
    made.probed.run_dir.mkdir(parents=True, exist_ok=True)
    return Proposals(made.probed.run_dir, made.request, made.planner, made.wanted, minimize=False)


def carried_out(root, n, *, parallel=1, broken=(), fails=()):
    """All settings in their order, where accuracy is worked out from them.

    In batches that begin with a trial in `broken` a process dies: before
    anything of it is told; trials in `fails` fail, once.
    """
    root.mkdir()
    argv = (*SPACE, f"search.parallel={parallel}")
    found, left = opened(root, *argv, trials=n), {*broken}
    while batch := found.batch():
        first = found.trials.index(batch[0])
        if first in left:
            left.remove(first)
            found = opened(root, *argv, trials=n)
            continue
        for trial in batch:
            if found.trials.index(trial) in fails:
                trial.state, trial.why = "failed", "no memory"
            found.tell(
                trial, 1 - abs(trial.params["beta"] - 0.2) + (trial.params["loss"] == "ipo") / 9
            )
    return found


def settings(found):
    return [(trial.params, trial.state) for trial in found.trials]


@pytest.mark.parametrize("parallel", [1, pytest.param(4, marks=pytest.mark.long)])
@pytest.mark.long
def test_a_broken_search_proposes_what_an_unbroken_one_would(tmp_path, parallel):
    whole = settings(carried_out(tmp_path / "whole", 14, parallel=parallel, fails=(2, 5)))
    assert (
        settings(
            carried_out(tmp_path / "broken", 14, parallel=parallel, broken=(4, 12), fails=(2, 5))
        )
        == whole
    )
    assert [state for _, state in whole].count("failed") == 2
    assert (
        len({p["beta"] for p, _ in whole}) == 14
    )  # a sampler with the same seed each time would repeat itself


@pytest.mark.slow
def test_a_batch_that_was_broken_off_while_it_was_proposed_is_completed(tmp_path):
    whole = settings(carried_out(tmp_path / "whole", 6, parallel=3))
    (tmp_path / "broken").mkdir()
    argv = (*SPACE, "search.parallel=3")
    found = opened(tmp_path / "broken", *argv, trials=6)
    found._propose()
    found = opened(tmp_path / "broken", *argv, trials=6)
    assert [t.params for t in found.batch()] == [p for p, _ in whole[:3]]


@pytest.mark.slow
def test_failed_trials_are_tried_again_by_the_next_command_and_keep_their_place(tmp_path):
    before = settings(carried_out(tmp_path / "a", 5, fails=(0, 3)))
    found = opened(tmp_path / "a", *SPACE, "search.parallel=1", trials=5)
    assert settings(found) == before
    assert [t.why for t in found.trials] == ["no memory", "", "", "no memory", ""]
    while batch := found.batch():
        for trial in batch:
            found.tell(trial, 0.5)
    assert settings(found) == [(params, "done") for params, _ in before]
    assert settings(opened(tmp_path / "a", *SPACE, "search.parallel=1", trials=5)) == settings(
        found
    )


@pytest.mark.slow
def test_a_setting_is_proposed_once_and_a_small_space_ends(tmp_path):
    found = opened(tmp_path, "n=choice(2,4,8)", "search.parallel=2", trials=9)
    while batch := found.batch():
        for trial in batch:
            found.tell(trial, int(trial.params["n"]) / 8)
    assert sorted(t.params["n"] for t in found.trials) == ["2", "4", "8"]
    assert found.exhausted


@pytest.mark.slow
def test_in_a_small_space_what_failed_is_tried_again_too(tmp_path):
    found = opened(tmp_path, "n=choice(2,4)", "search.parallel=1", trials=9)
    while batch := found.batch():
        batch[0].state = "failed" if batch[0].params["n"] == "2" else "running"
        found.tell(batch[0], 0.5)
    found = opened(tmp_path, "n=choice(2,4)", "search.parallel=1", trials=9)
    (again,) = found.batch()
    assert again.params == {"n": "2"}
    assert found.batch() == []


@pytest.mark.slow
def test_a_value_that_is_no_number_is_a_failure(tmp_path):
    found = opened(tmp_path, *SPACE, trials=1)
    (trial,) = found.batch()
    found.tell(trial, float("nan"))
    assert (trial.state, trial.why) == ("failed", "the metric is not a number")


@pytest.mark.slow
def test_another_search_in_the_same_directory_is_refused(tmp_path):
    opened(tmp_path, "beta=interval(0.01,1)", "name=x", trials=6)
    opened(
        tmp_path, "beta=interval(0.01,1)", "name=x", "launcher=slurm", trials=9
    )  # more trials, elsewhere: the same search
    for other in (
        ["beta=interval(0.01,2)"],
        ["beta=interval(0.01,1)", "n=4"],
        ["beta=interval(0.01,1)", "search.seed=1"],
    ):
        with pytest.raises(UserError, match="holds another search"):
            opened(tmp_path, *other, "name=x", trials=6)


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["search.trials=3", "beta=interval(0,1)"], "metric: say what the search is for"),
        (
            ["search.trials=3", "beta=interval(1,1)", "metric=accuracy"],
            "beta: there is nothing between 1",
        ),
        (
            ["search.trials=3", "beta=tag(log,interval(0,1))", "metric=accuracy"],
            "a logarithmic interval begins above 0",
        ),
        (
            ["search.trials=3", "beta=interval(0.1,1)", "metric=accuracy", "search.parallel=0"],
            "search.parallel",
        ),
        (
            ["search.trials=3", "beta=interval(0.1,1)", "metric=accuracy", "force=policy"],
            "force: has no meaning in a search",
        ),
        (
            ["search.trials=3", "bta=interval(0.1,1)", "metric=accuracy"],
            "bta: unknown key; did you mean 'beta'",
        ),
        (["search.trials=3", "beta=interval(0.1,1)", "metric=acuracy"], "did you mean 'accuracy'"),
        (["search.trials=3", "metric=accuracy"], "no key has several values"),
    ],
)
@pytest.mark.slow
def test_mistakes_are_told_before_anything_runs(mlalign, argv, told):
    done = mlalign("run", RECIPE, *argv)
    assert done.returncode == 1
    assert told in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_plan_shows_the_search(mlalign):
    done = mlalign("plan", RECIPE, "sweep=search", "search.trials=7")
    assert done.returncode == 0, done.stderr
    assert "search reuse_your_rewards_search: 7 trials for the best accuracy" in done.stdout
    assert "beta: tag(log,interval(0.01,1))" in done.stdout
