"""Plans of many variants as one: shared steps once, names, mistakes of all variants."""

import pytest
from helpers import PROJECT

from mlalign.core.errors import UserError
from mlalign.recipes import config, plan
from mlalign.running import run_dir
from mlalign.sweep import grid, united

RECIPE = "recipe=reuse_your_rewards"
TWELVE = ("beta=0.05,0.1,0.3", "source_language=eng_Latn,spa_Latn,swh_Latn,hin_Deva")


def build(tmp_path, *argv):
    return united.build(grid.read([f"root={tmp_path}", RECIPE, *argv, "-m"]))


def single(tmp_path, *argv):
    return plan.build(config.load([f"root={tmp_path}", RECIPE, *argv]))


@pytest.fixture(scope="module")
def twelve(tmp_path_factory):
    return build(tmp_path_factory.mktemp("twelve"), *TWELVE)


@pytest.mark.slow
def test_shared_steps_stand_once(twelve):
    by_step = {}
    for node in twelve.nodes:
        by_step.setdefault(node.step.name, []).append(node.name)
    assert len(twelve.variants) == 12
    assert {s: len(n) for s, n in by_step.items()} == {
        **dict.fromkeys(
            (
                "rows.demonstrations",
                "rows.preferences",
                "rows.prompts",
                "base",
                "pairs.candidates",
                "measure.answers[base]",
            ),
            1,
        ),
        **dict.fromkeys(
            (
                "reward",
                "transfer.verdicts",
                "pairs.scores",
                "measure.marks[base]",
                "transfer",
                "pairs",
                "measure[base]",
            ),
            4,
        ),
        **dict.fromkeys(
            (
                "policy",
                "measure.answers[policy]",
                "measure.marks[policy]",
                "measure[policy]",
                "report",
            ),
            12,
        ),
    }
    assert by_step["base"] == ["base"]
    assert "reward[source_language=swh_Latn]" in by_step["reward"]
    assert "policy[beta=0.05,source_language=eng_Latn]" in by_step["policy"]
    assert united.counts(twelve) == {"in_all": 216, "different": 94, "shared": 34}


def test_every_step_stands_behind_what_it_needs(twelve):
    seen = set()
    for node in twelve.nodes:
        assert {s["artifact"] for s in node.sources()} <= seen
        seen.add(node.artifact)
    assert len(seen) == len({n.name for n in twelve.nodes}) == len(twelve.nodes)


@pytest.mark.slow
def test_a_variant_is_the_single_run(tmp_path, twelve):
    one = single(tmp_path, "beta=0.3", "source_language=swh_Latn")
    variant = next(
        v for v in twelve.variants if v.values == {"beta": 0.3, "source_language": "swh_Latn"}
    )
    nodes = {n.name: n for n in twelve.nodes}
    for node in one.nodes:
        same = nodes[variant.steps[node.name]]
        assert same.fingerprint == node.fingerprint
        ours, theirs = run_dir.frozen(twelve, same), run_dir.frozen(one, node)
        assert {k: v for k, v in ours.items() if k != "run"} == {
            k: v for k, v in theirs.items() if k != "run"
        }
    assert variant.overrides == ["beta=0.3", "source_language=swh_Latn"]


@pytest.mark.slow
def test_a_beta_sweep_trains_one_reward_model_and_samples_once(tmp_path):
    names = [n.name for n in build(tmp_path, "beta=0.05,0.1,0.3").nodes]
    assert {"reward", "pairs.candidates", "pairs"} <= set(names)
    assert [n for n in names if n.startswith("policy")] == [
        "policy[beta=0.05]",
        "policy[beta=0.1]",
        "policy[beta=0.3]",
    ]


@pytest.mark.slow
def test_groups_languages_seeds_and_full_keys_can_be_swept(tmp_path):
    for argument, step in (
        ("engine=vllm,transformers", "pairs.candidates[engine=vllm]"), ("seed=0,1", "base[seed=1]"), ("scale=tiny,node", "policy[scale=node]"),
        ("languages=[en,sw],[de]", "rows.prompts[languages=en+sw]"),
        ("steps.policy.config.trainer.learning_rate=1e-6,1e-5", "policy[learning_rate=1e-06]"), ("recipe=reuse_your_rewards,iterative_dpo", "base"),
    ):  # fmt: skip
        assert step in {n.name for n in build(tmp_path, argument).nodes}


@pytest.mark.slow
def test_steps_of_rounds_that_only_some_variants_have(tmp_path):
    planned = build(tmp_path, "recipe=iterative_dpo", "rounds=1,2")
    names = {n.name for n in planned.nodes}
    assert {"policy.r1", "policy.r2"} <= names  # the first round is shared
    assert {"report[rounds=1]", "report[rounds=2]"} <= names


@pytest.mark.slow
def test_values_that_read_alike_get_names_of_their_own(tmp_path):
    for folder in "ab":
        (tmp_path / folder).mkdir()
        for file in (PROJECT / "mlalign/data/tiny").iterdir():
            (tmp_path / folder / file.name).write_bytes(
                file.read_bytes() + (b"\n" if file.name == "config.json" and folder == "b" else b"")
            )
        (tmp_path / folder).rename(tmp_path / f"{folder}_")
        (tmp_path / folder).mkdir()
        (tmp_path / f"{folder}_").rename(tmp_path / folder / "model")
    names = {
        n.name
        for n in build(tmp_path, f"use.base={tmp_path}/a/model,{tmp_path}/b/model").nodes
        if n.step.name == "policy"
    }
    assert names == {"policy[base=model]", "policy[base=model~2]"}


@pytest.mark.slow
def test_mistakes_of_all_variants_are_told_together_and_once(tmp_path):
    with pytest.raises(UserError) as error:
        build(tmp_path, "beta=0.1,abc,xyz", "n=4,8", "bta=1")
    assert [m.partition(":")[0] for m in error.value.messages] == [
        "bta",
        "steps.policy.config.beta",
        "steps.policy.config.beta",
    ]
    assert "'abc' (in the variant beta=abc,n=4 and 1 more)" in error.value.messages[1]


@pytest.mark.slow
def test_a_key_that_changes_nothing_is_refused(tmp_path):
    with pytest.raises(UserError, match="devices: makes no difference to any step"):
        build(tmp_path, "devices=1,2", "beta=0.1,0.3")


@pytest.mark.slow
def test_steps_are_named_with_and_without_their_variant(tmp_path):
    planned = build(tmp_path, "beta=0.1,0.3", "force=policy[beta=0.3]")
    assert run_dir.selection(planned)["anew"] == {"policy[beta=0.3]"}
    planned = build(tmp_path, "beta=0.1,0.3", "from=policy")
    assert {n.partition("[")[0] for n in run_dir.selection(planned)["anew"]} == {
        "policy",
        "measure.answers",
        "measure.marks",
        "measure",
        "report",
    }
    with pytest.raises(
        UserError, match=r"only: no variant has a step 'policy\[beta=0.2\]'; did you mean"
    ):
        build(tmp_path, "beta=0.1,0.3", "only=policy[beta=0.2]")


@pytest.mark.slow
def test_the_run_directory_belongs_to_a_sweep_or_to_a_run(tmp_path):
    sweep, one = build(tmp_path, "beta=0.1,0.3", "name=x"), single(tmp_path, "name=x")
    run_dir.open_run(sweep)
    with pytest.raises(UserError, match="belongs to a sweep, and this is a run"):
        one.check_name()
    other = single(tmp_path, "name=y")
    run_dir.open_run(other)
    with pytest.raises(UserError, match="belongs to a run, and this is a sweep"):
        build(tmp_path, "beta=0.1,0.3", "name=y").check_name()


@pytest.mark.slow
def test_the_command_shows_the_united_plan(mlalign):
    done = mlalign("plan", RECIPE, *TWELVE, "-m")
    assert done.returncode == 0, done.stderr
    assert "12 variants of beta (3) x source_language (4)" in done.stdout
    assert (
        "216 steps in all variants, 94 different ones: 34 shared, 60 of one variant alone"
        in done.stdout
    )
    assert (
        mlalign("plan", RECIPE, *TWELVE, "-m", "show=commands").stdout.count("mlalign.step") == 94
    )
    assert (
        mlalign("plan", "recipe=candidates", "n=1,2", "-m", "metric=acuracy").stderr.count(
            "did you mean 'accuracy'"
        )
        == 1
    )
    assert (
        mlalign("plan", "recipe=candidates", "n=1,2", "-m", "metric=tokens").stderr.count(
            "neither good nor bad"
        )
        == 1
    )
    assert mlalign("prepare", "kind=preference", "seed=1,2", "-m", "dry=true").returncode == 0


@pytest.mark.parametrize("preset", sorted(config.options("sweep", [PROJECT / "conf"])))
@pytest.mark.slow
def test_every_preset_is_planned(tmp_path, preset):
    from mlalign.sweep.search import Search

    asked = grid.read([RECIPE, f"sweep={preset}", "scale=tiny", f"root={tmp_path}"])
    planned = Search(asked).probed if asked.searches else united.build(asked)
    assert len(planned.variants) >= 2
    assert planned.name == f"reuse_your_rewards_{preset}"
    with pytest.raises(UserError) as error:
        asked = grid.read(["recipe=rm_transfer", f"sweep={preset}", f"root={tmp_path}"])
        _ = Search(asked).probed if asked.searches else united.build(asked)
    assert all(f"sweep={preset} does not fit this recipe" in m for m in error.value.messages)


@pytest.mark.slow
def test_presets_set_what_they_say(tmp_path):
    def configs(preset, step, read, *more):
        planned = united.build(grid.read([RECIPE, f"sweep={preset}", f"root={tmp_path}", *more]))
        return [read(n.config) for n in planned.nodes if n.step.name == step]

    rates = configs("learning_rate", "policy", lambda c: c.trainer["learning_rate"])
    assert rates == pytest.approx([2e-5, 6e-5, 2e-4, 6e-4, 2e-3])
    assert [len(x) for x in configs("n_languages", "pairs", lambda c: c.languages)] == [1, 2, 5, 10]
    tuned = configs(
        "lora_or_full", "policy", lambda c: (c.peft and c.peft["r"], c.trainer["learning_rate"])
    )
    assert tuned == [(None, 2e-4), (16, 2e-3)]
    assert (
        len(configs("source_language", "reward", lambda c: c.languages, "data=tiny_world_parallel"))
        == 10
    )
    one = single(tmp_path)
    assert next(n for n in one.nodes if n.name == "policy").fingerprint in {
        n.fingerprint
        for n in united.build(grid.read([RECIPE, "sweep=learning_rate", f"root={tmp_path}"])).nodes
    }
    with pytest.raises(UserError, match="the first 10 of 2 cannot be taken"):
        united.build(
            grid.read([RECIPE, "sweep=n_languages", "languages=[en,sw]", f"root={tmp_path}"])
        )
