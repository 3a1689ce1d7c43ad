"""Every shipped configuration is planned; fingerprints change with what changes a result, and with
nothing else.
"""

import dataclasses
import itertools

import pytest
from helpers import PROJECT

from mlalign.core.errors import UserError
from mlalign.recipes import conf_files, config, plan

CONF = PROJECT / "conf"
COMMIT = "0" * 40


def build(tmp_path, *arguments):
    return plan.build(config.load([f"root={tmp_path}", *arguments]))


def prints(planned):
    return {node.name: node.fingerprint for node in planned.nodes}


def names(group):
    return sorted(conf_files.options(group, [CONF]))


def test_the_number_of_shipped_files_is_known():
    found = {
        p.name: len(list(p.rglob("*.yaml")))
        for p in CONF.iterdir()
        if p.is_dir() and list(p.rglob("*.yaml"))
    }
    assert found == {
        "recipe": 6,
        "model": 5,
        "data": 5,
        "engine": 3,
        "scale": 3,
        "launcher": 5,
        "languages": 6,
        "deepspeed": 5,
        "sweep": 7,
        "part": 9,
        "evaluation": 12,
    }


@pytest.mark.parametrize(
    ("recipe", "scale"), list(itertools.product(names("recipe"), names("scale")))
)
@pytest.mark.slow
def test_every_recipe_is_planned_at_every_scale(tmp_path, recipe, scale):
    planned = build(tmp_path, f"recipe={recipe}", f"scale={scale}")
    assert len(planned.nodes) >= 5
    assert len(set(prints(planned).values())) == len(planned.nodes)
    assert all(dataclasses.is_dataclass(node.config) for node in planned.nodes)


@pytest.mark.parametrize("data", [d for d in names("data") if d != "tiny_world"])
def test_every_data_file_is_planned(tmp_path, real_data, data):
    folder = {"hh_rlhf": "hh_harmless"}.get(data, data)
    recipe = "candidates" if data == "mgsm" else "rm_transfer"
    assert build(
        tmp_path, f"recipe={recipe}", f"data={data}", f"data.root={real_data / folder}"
    ).nodes


@pytest.mark.parametrize("model", [m for m in names("model") if m not in ("tiny", "custom")])
@pytest.mark.parametrize("engine", names("engine"))
@pytest.mark.slow
def test_every_model_and_engine_is_planned(tmp_path, model, engine):
    more = ["engine.base_url=http://localhost:1/v1"] if engine == "openai" else []
    assert build(
        tmp_path,
        "recipe=candidates",
        f"model={model}",
        f"model.revision={COMMIT}",
        f"engine={engine}",
        "scale=one_gpu",
        *more,
    ).nodes


@pytest.mark.parametrize("deepspeed", names("deepspeed"))
@pytest.mark.slow
def test_every_deepspeed_file_is_planned(tmp_path, deepspeed):
    planned = build(tmp_path, "recipe=reuse_your_rewards", f"deepspeed={deepspeed}", "devices=2")
    trained = [n for n in planned.nodes if n.module.DISTRIBUTED]
    assert {n.step.stage for n in trained} == {"sft", "reward", "preference"}
    assert all(
        n.config.deepspeed["zero_optimization"]["stage"] == int(deepspeed[4]) for n in trained
    )
    assert all(n.resources["devices"] == 2 for n in trained)


@pytest.mark.parametrize(
    "how",
    ["devices=2", "deepspeed=zero2", "steps.policy.config.device_batch_size=2", "steps.policy.config.trainer.logging_steps=3",
     "steps.pairs.candidates.config.engine.args.max_num_seqs=4", "name=another", "steps.pairs.scores.config.device_batch_tokens=99"],
)  # fmt: skip
@pytest.mark.slow
def test_how_fields_change_no_fingerprint(tmp_path, how):
    assert prints(build(tmp_path, "recipe=reuse_your_rewards", how)) == prints(
        build(tmp_path, "recipe=reuse_your_rewards")
    )


def changed(tmp_path, argument, *base):
    before, after = (
        prints(build(tmp_path, "recipe=reuse_your_rewards", *base, *more))
        for more in ([], [argument])
    )
    return {name for name in after if after[name] != before[name]}


AFTER_POLICY = {
    "policy",
    "measure.answers[policy]",
    "measure.marks[policy]",
    "measure[policy]",
    "report",
}


@pytest.mark.slow
def test_beta_changes_what_follows_from_policy(tmp_path):
    assert changed(tmp_path, "beta=0.05") == AFTER_POLICY


@pytest.mark.slow
def test_n_changes_what_follows_from_candidates(tmp_path):
    assert changed(tmp_path, "n=4") == AFTER_POLICY | {"pairs.candidates", "pairs.scores", "pairs"}


@pytest.mark.slow
def test_a_language_more_leaves_the_models_alone(tmp_path):
    moved = changed(
        tmp_path, "languages=[eng_Latn,swh_Latn,hin_Deva]", "languages=[eng_Latn,swh_Latn]"
    )
    assert (
        moved
        & {
            "base",
            "reward",
            "rows.demonstrations",
            "rows.preferences",
            "transfer",
            "transfer.verdicts",
        }
        == set()
    )
    assert {"rows.prompts", "pairs.candidates"} <= moved


@pytest.mark.slow
def test_the_seed_changes_everything_that_draws(tmp_path):
    assert {"base", "reward", "pairs.candidates", "policy"} <= changed(tmp_path, "seed=1")


@pytest.mark.slow
def test_precedence(tmp_path):
    def config_of(step, *arguments):
        return next(
            n
            for n in build(tmp_path, "recipe=reuse_your_rewards", *arguments).nodes
            if n.name == step
        ).config

    assert (
        config_of("policy").trainer["learning_rate"] == 2e-4
    )  # the model's, for a recipe's parameter
    assert config_of("policy", "learning_rate=3e-5").trainer["learning_rate"] == 3e-5
    assert (
        config_of(
            "policy", "learning_rate=3e-5", "steps.policy.config.trainer.learning_rate=1e-6"
        ).trainer["learning_rate"]
        == 1e-6
    )
    assert config_of("pairs.candidates").max_tokens == 28  # the scale's
    assert (
        config_of("pairs.candidates", "steps.pairs.candidates.config.max_tokens=9").max_tokens == 9
    )
    assert config_of("pairs.candidates", "engine=transformers").engine.name == "transformers"
    assert config_of("pairs.candidates", "engine=transformers").engine.args == {}


@pytest.mark.slow
def test_an_engine_that_a_step_names_has_its_own_arguments(tmp_path):
    planned = build(
        tmp_path,
        "recipe=reuse_your_rewards",
        "engine.args.max_num_seqs=8",
        "steps.measure.answers.config.engine.name=transformers",
    )
    engines = {n.name: n.config.engine for n in planned.nodes if n.step.stage == "generate"}
    assert engines["pairs.candidates"].args["max_num_seqs"] == 8
    assert engines["measure.answers[base]"].name == "transformers"
    assert engines["measure.answers[base]"].args == {}


@pytest.mark.slow
def test_languages_are_canonical_everywhere(tmp_path):
    planned = build(
        tmp_path, "recipe=rm_transfer", "languages=[sw,English,zh-CN]", "source_languages=[sw,en]"
    )
    assert planned.settings.root["languages"] == ["swh_Latn", "eng_Latn", "cmn_Hans"]
    rewards = [n for n in planned.nodes if n.step.stage == "reward"]
    assert [n.config.languages for n in rewards] == [["swh_Latn"], ["eng_Latn"]]


@pytest.mark.slow
def test_a_stand_in_leaves_out_what_only_it_needed(tmp_path):
    planned = build(
        tmp_path, "recipe=reuse_your_rewards", f"use.base={PROJECT / 'mlalign/data/tiny'}"
    )
    assert {"base", "rows.demonstrations"} & {n.name for n in planned.nodes} == set()
    policy = next(n for n in planned.nodes if n.name == "policy")
    assert policy.inputs["model"]["path"] == str(PROJECT / "mlalign/data/tiny")


@pytest.mark.slow
def test_a_hub_id_without_a_known_commit_can_be_looked_at_offline_but_not_run(
    tmp_path, monkeypatch, mlalign
):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    with pytest.raises(
        UserError,
        match="'org/name' is no directory here, not in the hub cache, and the hub does not give it",
    ):
        build(tmp_path, "recipe=candidates", "model=org/name")
    told = mlalign("plan", "recipe=candidates", "model=org/name", "show=steps")
    assert told.returncode == 0, told.stderr
    steps = {
        line.split()[0]: line.split()[1:5] for line in told.stdout.split("\n\n")[1].splitlines()[1:]
    }
    assert steps["candidates"][1:3] == ["not", "known"] and steps["rows.prompts"][1] == "todo"
    assert (
        f"generate-{'?' * 16}" in told.stdout
        and "missing model org/name, for candidates" in told.stdout
    )
    assert "not known yet: " in told.stdout and "'org/name' is no directory here" in told.stdout
    refused = mlalign("run", "recipe=candidates", "model=org/name")
    assert (
        refused.returncode == 1
        and "and the hub does not give it" in refused.stderr
        and not (tmp_path / "runs").exists()
    )
    refs = tmp_path / "hub" / "models--org--name" / "refs"
    refs.mkdir(parents=True)
    (refs / "main").write_text("a" * 40)
    assert build(tmp_path, "recipe=candidates", "model=org/name").nodes


@pytest.mark.slow
def test_the_command_line_beats_the_scale(tmp_path):
    planned = build(
        tmp_path,
        "recipe=reuse_your_rewards",
        "scale=node",
        "deepspeed=zero2",
        "engine.dtype=float32",
    )
    by_name = {n.name: n.config for n in planned.nodes}
    assert by_name["policy"].deepspeed["zero_optimization"]["stage"] == 2
    assert by_name["pairs.candidates"].engine.dtype == "float32"
    assert {
        n.name: n.config
        for n in build(tmp_path, "recipe=reuse_your_rewards", "scale=node", "deepspeed=null").nodes
    }["policy"].deepspeed is None


@pytest.mark.slow
def test_only_of_a_round_that_is_not_there_is_refused(tmp_path):
    for argument in ("only=policy.r9", "force=policy.r9", "only=reward[eng_Latn]"):
        with pytest.raises(UserError, match="the recipe has no step"):
            build(tmp_path, "recipe=iterative_dpo", argument)
    assert build(tmp_path, "recipe=rm_transfer", "only=reward[eng_Latn]").nodes


@pytest.mark.slow
def test_the_base_of_an_adapter_is_part_of_its_identity(tmp_path):
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    for folder in (base, adapter):
        folder.mkdir()
        (folder / "tokenizer.json").write_text("{}")
    (base / "config.json").write_text("{}")
    (adapter / "adapter_config.json").write_text('{"base_model_name_or_path": "../base"}')
    before = prints(build(tmp_path, "recipe=candidates", f"model={adapter}"))
    (base / "model.safetensors").write_text("other weights")
    assert (
        prints(build(tmp_path, "recipe=candidates", f"model={adapter}"))["candidates"]
        != before["candidates"]
    )


@pytest.mark.slow
def test_kto_hashes_the_rows_that_a_device_takes(tmp_path):
    one, other = (
        prints(
            build(
                tmp_path,
                "recipe=reuse_your_rewards",
                "loss=kto",
                f"steps.policy.config.device_batch_size={n}",
            )
        )
        for n in (4, 8)
    )
    assert one["policy"] != other["policy"]


@pytest.mark.slow
def test_the_control_arms_share_everything_but_the_scores_that_pick_pairs(tmp_path):
    nodes = {
        node.name: node for node in build(tmp_path, "recipe=reuse_your_rewards_controls").nodes
    }
    arms = ("random", "flipped", "reward")
    for step in ("pairs", "policy"):
        assert {name for name in nodes if name.startswith(f"{step}[")} == {
            f"{step}[{arm}]" for arm in arms
        }
    for step in (
        "sampled.answers",
        "sampled.marks",
        "sampled",
        "greedy.answers",
        "greedy.marks",
        "greedy",
    ):
        assert {name for name in nodes if name.startswith(f"{step}[")} == {
            f"{step}[{arm}]" for arm in (*arms, "base")
        }
    assert (
        "pairs.candidates[random]" in nodes and "pairs.candidates[reward]" not in nodes
    )  # they share them
    assert [nodes[f"pairs[{arm}]"].config.score for arm in arms] == list(arms)
    assert (
        len({str(dataclasses.replace(nodes[f"pairs[{arm}]"].config, score="")) for arm in arms})
        == 1
    )
    assert len({str(nodes[f"policy[{arm}]"].config) for arm in arms}) == 1
    assert (nodes["rows.preferences"].config.flip_frac, nodes["flipped_rows"].config.flip_frac) == (
        0.0,
        0.5,
    )
    assert [
        nodes[f"{name}.answers[reward]"].config.temperature for name in ("sampled", "greedy")
    ] == [1.0, 0.0]
    assert {node.config.win_by for node in nodes.values() if node.step.stage == "evaluate"} == {
        "verifier"
    }


@pytest.mark.parametrize(
    "recipe", ["reuse_your_rewards", "reuse_your_rewards_controls", "iterative_dpo"]
)
@pytest.mark.slow
def test_the_identifier_that_gates_is_not_the_one_that_measures(tmp_path, recipe):
    asked = {}
    for node in build(tmp_path, f"recipe={recipe}").nodes:
        scorers = [
            s for s in node.inputs.get("scorers", []) if s.get("family") == "language_adherence"
        ]
        if scorers:
            asked.setdefault(node.step.template, set()).update(
                s.get("identifier", "blend") for s in scorers
            )
    assert asked.pop("pairs.scores") == {"lingua"}
    assert asked and set.union(*asked.values()) == {"blend"}


@pytest.mark.slow
def test_another_seed_draws_other_rows_of_the_tiny_world(tmp_path):
    zero, one = (
        prints(build(tmp_path, "recipe=reuse_your_rewards", f"seed={seed}")) for seed in (0, 1)
    )
    assert all(
        zero[name] != one[name]
        for name in ("rows.demonstrations", "rows.preferences", "rows.prompts")
    )
