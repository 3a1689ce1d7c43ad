"""What a search proposes and refuses; that a broken one goes on as an unbroken one would."""

import pytest
from optuna.trial import TrialState

from mlalign.errors import UserError
from mlalign.sweep import grid, search, space

RECIPE = "recipe=reuse_your_rewards"
SPACE = ("beta=tag(log,interval(0.01,1))", "n=int(interval(2,8))", "loss=choice(sigmoid,ipo)", "epochs=range(1,4)")


def searching(tmp_path, *argv, trials=6):
    return search.Search(grid.read([f"root={tmp_path}", RECIPE, *argv, f"search.trials={trials}", "metric=accuracy"]))


def test_hydras_grammar_gives_the_space(tmp_path):
    found = {a.key: str(space.distribution(a)) for a in searching(tmp_path, *SPACE, "temperature=interval(0.5,1)").asked.axes}
    assert found == {
        "beta": "FloatDistribution(high=1.0, log=True, low=0.01, step=None)",
        "n": "IntDistribution(high=8, log=False, low=2, step=1)",
        "loss": "CategoricalDistribution(choices=('sigmoid', 'ipo'))",
        "epochs": "IntDistribution(high=3, log=False, low=1, step=1)",
        "temperature": "FloatDistribution(high=1.0, log=False, low=0.5, step=None)",
    }


def test_what_is_proposed_can_be_typed_again(tmp_path):
    beta, n, loss, _ = searching(tmp_path, *SPACE).asked.axes
    assert space.value(beta, 0.0374540118).overrides == ("beta=0.03745",)
    assert space.value(beta, 0.0100001).overrides == ("beta=0.01",)
    assert space.value(n, 5).overrides == ("n=5",)
    assert space.value(loss, "ipo").overrides == ("loss=ipo",)


def test_only_what_depends_on_a_searched_key_is_a_trials_own(tmp_path):
    made = searching(tmp_path, "beta=interval(0.01,1)", "n=range(2,9,2)")
    assert made.depends["policy"] == ["beta", "n"]
    assert made.depends["pairs"] == ["n"]
    assert not {"base", "reward", "prompts"} & set(made.depends)
    assert "18 steps a trial, 8 of them its own; one round or none: no trial is pruned" in made.outline()
    loop = search.Search(grid.read([f"root={tmp_path}", "recipe=iterative_dpo", "sweep=search"]))
    assert "the metric of each round goes to the pruner" in loop.outline()


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


def proposals(root, n, broken):
    """The first n proposals where accuracy is worked out from the settings; at the places in `broken` a new process takes over."""
    root.mkdir()
    made, found = None, []
    while len(found) < n:
        if made is None or len(found) in broken:
            made = searching(root, *SPACE, trials=n)
            made.probed.run_dir.mkdir(parents=True, exist_ok=True)
            if len(found) in broken:  # the last one died while a trial was under way
                study = made._open()
                made._ask(study)
                made = searching(root, *SPACE, trials=n)
            study = made._open()
        (trial,) = made._ask(study)
        study.tell(trial, 1 - abs(trial.params["beta"] - 0.2) + (trial.params["loss"] == "ipo") / 9)
        made.trials.append(search._Trial(made._plan(trial.params)))
        found.append(trial.params)
    return found


def test_a_broken_search_proposes_what_an_unbroken_one_would(tmp_path):
    whole = proposals(tmp_path / "whole", 14, ())
    assert proposals(tmp_path / "broken", 14, (3, 12)) == whole
    assert len({p["beta"] for p in whole}) == 14  # a sampler with the same seed each time would repeat itself


def test_another_search_in_the_same_directory_is_refused(tmp_path):
    made = searching(tmp_path, "beta=interval(0.01,1)", "name=x")
    made.probed.run_dir.mkdir(parents=True)
    made._open()
    searching(tmp_path, "beta=interval(0.01,1)", "name=x", trials=9)._open()  # more trials are the same search
    for other in (["beta=interval(0.01,2)"], ["beta=interval(0.01,1)", "n=4"], ["beta=interval(0.01,1)", "search.seed=1"]):
        with pytest.raises(UserError, match="holds another search"):
            searching(tmp_path, *other, "name=x")._open()


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["search.trials=3", "beta=interval(0,1)"], "metric: say what the search is for"),
        (["search.trials=3", "beta=interval(1,1)", "metric=accuracy"], "beta: there is nothing between 1"),
        (["search.trials=3", "beta=tag(log,interval(0,1))", "metric=accuracy"], "a logarithmic interval begins above 0"),
        (["search.trials=3", "beta=interval(0.1,1)", "metric=accuracy", "search.parallel=0"], "search.parallel"),
        (["search.trials=3", "beta=interval(0.1,1)", "metric=accuracy", "force=policy"], "force: has no meaning in a search"),
        (["search.trials=3", "bta=interval(0.1,1)", "metric=accuracy"], "bta: unknown key; did you mean 'beta'"),
        (["search.trials=3", "beta=interval(0.1,1)", "metric=acuracy"], "did you mean 'accuracy'"),
        (["search.trials=3", "metric=accuracy"], "no key has several values"),
    ],
)
def test_mistakes_are_told_before_anything_runs(mlalign, argv, told):
    done = mlalign("run", RECIPE, *argv)
    assert done.returncode == 1
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_plan_shows_the_search(mlalign):
    done = mlalign("plan", RECIPE, "sweep=search", "search.trials=7")
    assert done.returncode == 0, done.stderr
    assert "search reuse_your_rewards_search: 7 trials for the best accuracy" in done.stdout
    assert "beta: tag(log,interval(0.01,1))" in done.stdout


def test_several_at_a_time_differ_and_a_failed_one_is_not_proposed_again(tmp_path):
    made = searching(tmp_path, *SPACE, trials=8)
    made.probed.run_dir.mkdir(parents=True)
    study, seen = made._open(), []
    for _ in range(2):
        for trial in made._ask(study, 4):
            seen.append(trial.params)
            study.tell(trial, state=TrialState.FAIL)
    assert len({p["beta"] for p in seen}) == 8
