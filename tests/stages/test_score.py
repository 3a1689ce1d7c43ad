"""The score stage: candidates and preference rows through several scorers, resumed and reused."""

import json
import re
import shutil
from pathlib import Path

import pytest
from helpers import run_here, write_manifest

from mlalign.core import rows, schema, shards
from mlalign.core.errors import UserError
from mlalign.core.stage import Inputs, Output, Stopped
from mlalign.core.store import Store
from mlalign.stages import score

LANGUAGES = {
    "eng_Latn": "The largest number is {}.",
    "tur_Latn": "En büyük sayı {} olur.",
    "cmn_Hans": "最大的数字是 {} 。",
}


def prompt_row(language, i, split="eval"):
    return {
        "id": rows.row_id("t", str(i), language),
        "group_id": str(i),
        "prompt_lang": language,
        "source": "t",
        "origin": "synthetic",
        "split": split,
        "prompt": rows.messages(f"max {i} 2 1?"),
    }


@pytest.fixture
def candidates(tmp_path):
    """Two prompts in three languages; their answers: right, wrong, in English, without words."""
    with rows.ShardWriter(tmp_path / "candidates", "candidates", shard_rows=1) as out:
        for language, sentence in LANGUAGES.items():
            for i in (7, 8):
                row = prompt_row(language, i)
                texts = [
                    sentence.format(i),
                    sentence.format(3),
                    LANGUAGES["eng_Latn"].format(i),
                    "5",
                ]
                responses = [
                    {"candidate_id": rows.candidate_id(row["id"], "s", k), "text": t}
                    for k, t in enumerate(texts)
                ]
                reference = rows.to_json({"answer": str(i), "match": "numeric"})
                out.write(
                    {
                        **row,
                        "response_lang_requested": language,
                        "reference": reference,
                        "responses": responses,
                    }
                )
    return tmp_path / "candidates"


@pytest.fixture
def preferences(tmp_path):
    with rows.ShardWriter(tmp_path / "preferences", "preference") as out:
        for language, sentence in LANGUAGES.items():
            sides = {
                side: rows.messages(sentence.format(n), "assistant")
                for side, n in (("chosen", 7), ("rejected", 33))
            }
            out.write(
                {
                    **prompt_row(language, 7, "train"),
                    **sides,
                    "chosen_lang": language,
                    "rejected_lang": language,
                }
            )
    return tmp_path / "preferences"


@pytest.fixture(scope="module")
def reward_model(tmp_path_factory):
    """A classifier on the tiny tokenizer, with random weights."""
    import torch
    from transformers import AutoTokenizer, Qwen3Config, Qwen3ForSequenceClassification

    from mlalign.data import tiny_world

    path = tmp_path_factory.mktemp("reward") / "model"
    tokenizer = AutoTokenizer.from_pretrained(Path(tiny_world.__file__).parent / "tiny")
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        num_labels=1,
        max_position_embeddings=256,
        initializer_range=0.3,
    )
    Qwen3ForSequenceClassification(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def run(tmp_path, source, scorers, name="x", store="store", part=(0, 1), **config):
    cfg = schema.build(score.Config, config)
    out = Output(
        tmp_path / store / f"score-{name}.partial", Store(tmp_path / store), "scores", part
    )
    out.path.mkdir(parents=True, exist_ok=True)
    score.run(cfg, Inputs(out.store, {"rows": {"path": str(source)}, "scorers": scorers}), out)
    return out


def by_candidate(out):
    return {r["candidate_id"]: r for r in rows.read(out.path)}


PLAIN = [{"family": "verifier"}, {"family": "language_adherence"}, {"family": "length"}]


@pytest.mark.slow
def test_candidates_through_several_scorers(tmp_path, candidates, reward_model):
    out = run(
        tmp_path,
        candidates,
        [*PLAIN, {"family": "classifier", "name": "reward[eng_Latn]", "path": str(reward_model)}],
    )
    scores = by_candidate(out)
    assert len(scores) == 24 and rows.kind_of(out.path) == "scores"
    for row in rows.read(candidates):
        right, wrong, english, bare = (scores[r["candidate_id"]] for r in row["responses"])
        assert {k: right[k] for k in rows.COMMON} == {k: row[k] for k in rows.COMMON}
        assert [r["score.verifier"] for r in (right, wrong, english, bare)] == [1.0, 0.0, 1.0, 0.0]
        in_english = row["prompt_lang"] == "eng_Latn"
        assert [r["score.language_adherence"] for r in (right, wrong, english, bare)] == [
            1.0,
            1.0,
            float(in_english),
            None,
        ]
        assert [r["response_lang_detected"] for r in (right, english, bare)] == [
            row["prompt_lang"],
            "eng_Latn",
            None,
        ]
        assert right["score.length"] == len(row["responses"][0]["text"])
        assert (
            isinstance(right["score.reward[eng_Latn]"], float)
            and 0 < right["score.language_adherence.confidence"] <= 1
        )
    counts = out.tally.to_dict()
    assert counts["rows"] == dict.fromkeys(sorted(LANGUAGES), 8)
    assert (
        counts["sums"]["unscored.language_adherence"]
        == counts["sums"]["undetected.language_adherence"]
        == dict.fromkeys(sorted(LANGUAGES), 2)
    )


@pytest.mark.slow
def test_a_score_does_not_depend_on_sharding(tmp_path, candidates, reward_model):
    with rows.ShardWriter(tmp_path / "one", "candidates") as writer:
        writer.write_all(reversed(list(rows.read(candidates))))
    scorers = [
        {"family": "classifier", "name": "r", "path": str(reward_model)},
        {"family": "random"},
    ]
    several, one = (
        by_candidate(run(tmp_path, p, scorers, name=p.name)) for p in (candidates, tmp_path / "one")
    )
    for identifier, row in several.items():
        assert one[identifier]["score.r"] == pytest.approx(row["score.r"], abs=1e-5)
        assert one[identifier]["score.random"] == row["score.random"]


def test_both_sides_of_preference_rows(tmp_path, preferences):
    scores = by_candidate(
        run(tmp_path, preferences, [{"family": "length"}, {"family": "verifier"}])
    )
    assert len(scores) == 6
    for row in rows.read(preferences):
        chosen, rejected = (
            scores[rows.side_id(row["id"], side)] for side in ("chosen", "rejected")
        )
        assert rejected["score.length"] - chosen["score.length"] == 1
        assert chosen["score.verifier"] is None


@pytest.mark.slow
def test_combinations(tmp_path, candidates):
    combine = {
        "gated": {
            "weights": {"verifier": 1, "length": -0.01},
            "gates": [{"scorer": "language_adherence"}],
        },
        "z": {"weights": {"length": 1.0}, "normalise": "prompt"},
    }
    out = run(tmp_path, candidates, PLAIN, combine=combine)
    for row in rows.read(candidates, languages=["tur_Latn"]):
        answers = [by_candidate(out)[r["candidate_id"]] for r in row["responses"]]
        lengths = [r["score.length"] for r in answers]
        assert [r["score.gated"] for r in answers] == pytest.approx(
            [1 - 0.01 * lengths[0], -0.01 * lengths[1], None, -0.01 * lengths[3]]
        )
        assert sum(r["score.z"] for r in answers) == pytest.approx(0, abs=1e-9)
    assert out.tally.to_dict()["sums"]["unscored.gated"] == {"cmn_Hans": 2, "tur_Latn": 2}


@pytest.mark.slow
def test_stopped_and_continued_equals_unbroken(tmp_path, candidates, reward_model, monkeypatch):
    scorers = [*PLAIN, {"family": "classifier", "name": "r", "path": str(reward_model)}]
    unbroken = run(tmp_path, candidates, scorers, store="unbroken")
    calls = iter([False, False, True])
    monkeypatch.setattr(Output, "should_stop", lambda self: next(calls, False))
    with pytest.raises(Stopped):
        run(tmp_path, candidates, scorers)
    again = run(tmp_path, candidates, scorers)
    files = sorted(p.name for p in (unbroken.path / "rows").iterdir())
    assert len(files) == 6
    for name in files:
        assert (again.path / "rows" / name).read_bytes() == (
            unbroken.path / "rows" / name
        ).read_bytes()
    assert again.tally.to_dict() == unbroken.tally.to_dict()


@pytest.mark.slow
def test_finished_shards_are_reused_and_need_no_model(tmp_path, candidates, reward_model):
    model = shutil.copytree(reward_model, tmp_path / "gone" / "model")
    settings = {
        "family": "classifier",
        "name": "r",
        "path": str(model),
        "identity": "a digest that the plan found",
    }
    first = run(tmp_path, candidates, [settings])
    shutil.rmtree(model)
    again = run(tmp_path, candidates, [settings], name="again", device_batch_tokens=100)
    assert by_candidate(again) == by_candidate(first)
    with pytest.raises(UserError):
        run(tmp_path, candidates, [{**settings, "max_length": 12}], name="other")


def test_array_tasks_share_the_shards(tmp_path, candidates):
    parts = [run(tmp_path, candidates, [{"family": "length"}], part=(i, 4)) for i in range(4)]
    sources = rows.shards(candidates)
    assert not shards.pending(sources, parts[0].path)
    assert (
        shards.total(sources, parts[0].path).to_dict()
        == run(tmp_path, candidates, [{"family": "length"}], store="one").tally.to_dict()
    )


@pytest.mark.slow
def test_a_reward_artifact_of_a_foreach_step(tmp_path, candidates, reward_model):
    artifact = tmp_path / "store" / "reward-0"
    shutil.copytree(reward_model, artifact / "model")
    write_manifest(artifact, content_digest="d")
    of_step = run(
        tmp_path,
        candidates,
        [{"step": "reward[eng_Latn]", "artifact": "reward-0", "binding": {"lang": "eng_Latn"}}],
    )
    assert all(isinstance(r["score.reward[eng_Latn]"], float) for r in rows.read(of_step.path))
    external = run(
        tmp_path,
        candidates,
        [{"family": "classifier", "name": "r", "path": str(artifact)}],
        name="external",
    )
    assert [r["score.r"] for r in rows.read(external.path)] == [
        r["score.reward[eng_Latn]"] for r in rows.read(of_step.path)
    ]


def test_one_split_only(tmp_path, candidates):
    assert (
        by_candidate(run(tmp_path, candidates, [{"family": "length"}], split="train", name="none"))
        == {}
    )


@pytest.mark.parametrize(
    ("scorers", "config", "messages"),
    [
        ([{"name": "verifier"}], {}, [r"inputs.scorers\[0\]: .* has no family; did you mean 'verifier'"]),
        ([{"model": "somewhere"}], {}, [r"inputs.scorers\[0\]: .* has no family"]),
        ([{"family": "verifyer"}], {}, [r"inputs.scorers\[0\]: unknown family 'verifyer'; did you mean 'verifier'"]),
        ([{"family": "length"}, {"family": "length"}], {}, ["two are named 'length'"]),
        ([{"family": "length", "units": "words"}, {"family": "language_adherence", "identifer": "x"}], {}, ["units: unknown key", "identifer: unknown key; did you mean 'identifier'"]),
        ([{"family": "length"}], {"combine": {"c": {"weights": {"lenght": 1}, "gates": [{"scorer": "a"}]}}}, ["did you mean 'length'", r"c.gates\[0\].scorer"]),
        ([{"family": "length"}], {"combine": {"length": {"weights": {"length": 1}}}}, ["a scorer has this name already"]),
        ([], {}, ["inputs.scorers: empty"]),
    ],
)  # fmt: skip
def test_bad_settings_are_reported_together(tmp_path, candidates, scorers, config, messages):
    with pytest.raises(UserError) as error:
        run(tmp_path, candidates, scorers, **config)
    for message in messages:
        assert re.search(message, str(error.value)), str(error.value)


def test_rows_of_another_kind_are_refused(tmp_path):
    with rows.ShardWriter(tmp_path / "prompts", "prompt") as out:
        out.write(prompt_row("eng_Latn", 1))
    with pytest.raises(
        UserError, match="holds prompt rows, and `score` takes candidates or preference"
    ):
        run(tmp_path, tmp_path / "prompts", [{"family": "length"}])


def test_what_is_hashed():
    hashed = schema.hashed(schema.build(score.Config, {"combine": {"c": {"weights": {"a": 1}}}}))
    assert sorted(hashed) == ["combine", "date", "dtype", "seed", "split"]
    assert json.dumps(hashed, default=str) == json.dumps(
        schema.hashed(schema.build(score.Config, {"combine": {"c": {"weights": {"a": 1}}}})),
        default=str,
    )


# ---------------------------------------------------------------------------- models within scorers


@pytest.fixture(scope="module")
def policies(tmp_path_factory):
    """Two changed copies of the tiny model."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from mlalign.data import tiny_world

    tiny = Path(tiny_world.__file__).parent / "tiny"
    out = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_pretrained(tiny)
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(0.05 * weight.std() * torch.randn_like(weight))
        out.append(tmp_path_factory.mktemp("policy") / "model")
        model.save_pretrained(out[-1])
        AutoTokenizer.from_pretrained(tiny).save_pretrained(out[-1])
    return out


def artifact_of(tmp_path, name, model, digest):
    """A finished step's artifact with a model in it, as a planned input."""
    path = tmp_path / "store" / name
    shutil.copytree(model, path / "model")
    write_manifest(path, content_digest=digest)
    return {"step": name, "artifact": name}


@pytest.mark.slow
def test_models_of_steps_within_settings(tmp_path, candidates, policies):
    policy, base = (
        artifact_of(tmp_path, n, p, n) for n, p in zip(("policy", "base"), policies, strict=True)
    )
    of_steps = run(
        tmp_path, candidates, [{"family": "implicit", "path": policy, "reference": base}]
    )
    plain = run(
        tmp_path,
        candidates,
        [{"family": "implicit", "path": str(policies[0]), "reference": str(policies[1])}],
        name="plain",
    )
    assert by_candidate(of_steps) == by_candidate(plain)
    assert len({r["score.implicit"] for r in by_candidate(plain).values()}) > 10
    part = {
        "family": "implicit",
        "path": policy,
        "reference": {"path": str(policies[1]), "identity": "base"},
    }
    composite = {
        "family": "composite",
        "scorers": [part, {"family": "length"}],
        "weights": {"implicit": 2.0, "length": -0.01},
    }
    whole = by_candidate(run(tmp_path, candidates, [composite], name="composite"))
    for identifier, row in by_candidate(plain).items():
        own = whole[identifier]
        assert own["score.composite.implicit"] == pytest.approx(row["score.implicit"], abs=1e-6)
        assert own["score.composite"] == pytest.approx(
            2 * row["score.implicit"] - 0.01 * own["score.composite.length"], abs=1e-6
        )


@pytest.mark.slow
def test_a_model_counts_by_its_content(tmp_path, candidates, policies):
    """The same content elsewhere, and other settings of speed, need no model; another content does."""
    gone = {
        "family": "implicit",
        "path": {"path": "/gone", "identity": "p"},
        "reference": {"path": "/gone too", "identity": "r"},
    }
    here = {
        "family": "implicit",
        "path": {"path": str(policies[0]), "identity": "p"},
        "reference": {"path": str(policies[1]), "identity": "r"},
    }
    first = run(tmp_path, candidates, [here])
    again = run(tmp_path, candidates, [{**gone, "device_batch_tokens": 64}], name="again")
    assert by_candidate(again) == by_candidate(first)
    for other in (
        {**gone, "beta": 0.2},
        {**gone, "reference": {"path": "/gone too", "identity": "x"}},
    ):
        with pytest.raises(UserError):
            run(tmp_path, candidates, [other], name="other")


@pytest.mark.slow
def test_english_prompts_are_found_by_group(tmp_path, candidates, policies):
    settings = {
        "family": "implicit",
        "path": str(policies[0]),
        "reference": str(policies[1]),
        "condition_on": "english_prompt",
    }
    with_english = run(tmp_path, candidates, [settings], name="own")
    assert all(r["score.implicit"] is not None for r in rows.read(with_english.path))
    with rows.ShardWriter(tmp_path / "turkish", "candidates") as out:
        out.write_all(rows.read(candidates, languages=["tur_Latn"]))
    alone = run(tmp_path, tmp_path / "turkish", [settings], name="alone")
    assert all(r["score.implicit"] is None for r in rows.read(alone.path))
    assert alone.tally.to_dict()["sums"]["no_english_prompt.implicit"] == {"tur_Latn": 8}
    cfg, out = (
        score.Config(),
        Output(tmp_path / "store/score-beside.partial", Store(tmp_path / "store"), "scores"),
    )
    out.path.mkdir(parents=True)
    slots = {
        "rows": {"path": str(tmp_path / "turkish")},
        "scorers": [settings],
        "english": {"path": str(candidates)},
    }
    score.run(cfg, Inputs(out.store, slots), out)
    own = by_candidate(with_english)
    for identifier, row in by_candidate(out).items():
        assert row["score.implicit"] == pytest.approx(own[identifier]["score.implicit"], abs=1e-5)


# --------------------------------------------------------------------------- windows and judgements


@pytest.fixture
def preferences_of_many(tmp_path):
    with rows.ShardWriter(tmp_path / "many", "preference") as out:
        for i in range(50):
            sides = {
                side: rows.messages(f"{side} {i}", "assistant") for side in ("chosen", "rejected")
            }
            out.write(
                {
                    **prompt_row("eng_Latn", i, "train"),
                    **sides,
                    "chosen_lang": "eng_Latn",
                    "rejected_lang": "eng_Latn",
                }
            )
    return tmp_path / "many"


@pytest.mark.slow
def test_a_stop_within_a_shard_keeps_finished_windows(
    tmp_path, preferences_of_many, reward_model, monkeypatch
):
    scorers = [
        {"family": "classifier", "name": "r", "path": str(reward_model)},
        {"family": "repetition"},
    ]
    unbroken = run(tmp_path, preferences_of_many, scorers, store="unbroken", window_rows=8)
    done = []
    score_rows = score.score_rows
    monkeypatch.setattr(
        score, "score_rows", lambda *args: done.append(len(args[2])) or score_rows(*args)
    )
    calls = iter([False, False, False, True])
    monkeypatch.setattr(Output, "should_stop", lambda self: next(calls, False))
    with pytest.raises(Stopped):
        run(tmp_path, preferences_of_many, scorers, window_rows=8)
    assert done == [8, 8, 8]
    assert (
        json.loads((tmp_path / "store/score-x.partial/progress.json").read_text())["unit"] == "rows"
    )
    again = run(tmp_path, preferences_of_many, scorers, window_rows=8)
    assert done == [8, 8, 8, 8, 8, 8, 2]
    name = "eng_Latn.train.00000.parquet"
    assert (again.path / "rows" / name).read_bytes() == (unbroken.path / "rows" / name).read_bytes()
    assert again.tally.to_dict() == unbroken.tally.to_dict()
    assert not list(again.checkpoints.iterdir())


def test_windows_of_other_settings_are_not_taken(tmp_path, preferences_of_many, monkeypatch):
    calls = iter([False, True])
    monkeypatch.setattr(Output, "should_stop", lambda self: next(calls, False))
    with pytest.raises(Stopped):
        run(tmp_path, preferences_of_many, [{"family": "length"}], window_rows=8)
    again = run(
        tmp_path, preferences_of_many, [{"family": "length", "unit": "words"}], window_rows=8
    )
    assert {r["score.length"] for r in rows.read(again.path)} == {2.0}


def test_damaged_windows_are_scored_again(tmp_path, preferences_of_many, monkeypatch, capsys):
    scorers = [{"family": "length"}]
    unbroken = run(tmp_path, preferences_of_many, scorers, store="unbroken", window_rows=8)
    calls = iter([False, False, True])
    monkeypatch.setattr(Output, "should_stop", lambda self: next(calls, False))
    with pytest.raises(Stopped):
        run(tmp_path, preferences_of_many, scorers, window_rows=8)

    checkpoints = tmp_path / "store" / "score-x.partial" / "checkpoints"
    parts = sorted(checkpoints.glob("eng_Latn.train.00000/part-*.jsonl"))
    parts[0].write_bytes(parts[0].read_bytes().replace(b"8.0", b"9.0", 1))
    again = run(tmp_path, preferences_of_many, scorers, window_rows=8)
    assert f"{parts[0]}: 1 of " in capsys.readouterr().err
    name = "eng_Latn.train.00000.parquet"
    assert (again.path / "rows" / name).read_bytes() == (unbroken.path / "rows" / name).read_bytes()


def test_what_scorers_say_is_kept_as_judgements(tmp_path, preferences):
    """`guarded` says who scored; verdicts of judges go the same way.

    They come from the shard cache with the scores.
    """
    settings = {
        "family": "guarded",
        "name": "g",
        "scorer": {"family": "length"},
        "policy": {"default": "use", "languages": {"tur_Latn": {"policy": "abstain"}}},
    }
    first = run(tmp_path, preferences, [settings], window_rows=1)
    again = run(tmp_path, preferences, [settings], name="again")
    for out in (first, again):
        shard = out.path / "judgements" / "eng_Latn.train.00000.parquet"
        judgements = rows.read_shard(shard)
        assert [(r["scorer"], r["raw"], r["parse_status"]) for r in judgements] == [
            ("g.scored_by", "length", "ok")
        ] * 2
        scores = by_candidate(out)
        assert all(r["value"] == scores[r["candidate_id"]]["score.g"] for r in judgements)
        assert not (out.path / "judgements" / "tur_Latn.train.00000.parquet").exists()
    assert rows.kind_of(first.path) == "scores"


# ------------------------------------------------------------------------------------------ recipes

RECIPE = """
params: {reference: null}
steps:
  prompts: {stage: prepare, config: {kind: prompt, sources: "${data.prompts}", languages: "${languages}"}}
  rows: {stage: prepare, config: {kind: demonstration, sources: "${data.demonstrations}", languages: "${languages}"}}
  base: {stage: sft, inputs: {model: {path: "${model.path}"}, rows: rows}, config: {trainer: {max_steps: 2}}}
  policy: {stage: sft, inputs: {model: base, rows: rows}, config: {trainer: {max_steps: 2, learning_rate: 1.0e-3}}}
  candidates: {stage: generate, inputs: {model: policy, rows: prompts}, config: {split: eval, n: 2, max_tokens: 24}}
  marks:
    stage: score
    inputs:
      rows: candidates
      english: prompts
      scorers:
        - {family: implicit, path: {step: policy}, reference: {step: base}, condition_on: english_prompt}
        - {family: composite, scorers: [{family: implicit, path: {step: POLICY}, reference: "${model.path}"}, {family: length}], weights: {implicit: 1.0}}
"""


def planned(tmp_path, recipe, *arguments):
    from mlalign.recipes import config, plan

    (tmp_path / "conf/recipe").mkdir(parents=True, exist_ok=True)
    (tmp_path / "conf/recipe/implicit.yaml").write_text(recipe)
    overrides = [
        "recipe=implicit",
        f"conf_dir={tmp_path / 'conf'}",
        f"root={tmp_path}",
        "scale=tiny",
        "model=tiny",
        "data=tiny_world",
        *arguments,
    ]
    return {node.name: node for node in plan.build(config.load(overrides)).nodes}


@pytest.mark.slow
def test_a_recipe_names_models_within_scorers(tmp_path):
    nodes = planned(tmp_path, RECIPE.replace("POLICY", "policy"))
    scorer, composite = nodes["marks"].inputs["scorers"]
    assert scorer["path"] == {"step": "policy", "artifact": nodes["policy"].artifact}
    assert scorer["reference"]["artifact"] == nodes["base"].artifact
    part = composite["scorers"][0]
    assert (
        part["path"]["artifact"] == nodes["policy"].artifact
        and len(part["reference"]["identity"]) == 64
    )
    assert {s["step"] for s in nodes["marks"].sources()} == {
        "candidates",
        "prompts",
        "policy",
        "base",
    }
    other = planned(
        tmp_path, RECIPE.replace("POLICY", "policy"), "steps.base.config.trainer.learning_rate=1e-4"
    )
    assert other["marks"].fingerprint != nodes["marks"].fingerprint
    swapped = planned(tmp_path, RECIPE.replace("POLICY", "base"))
    assert swapped["marks"].fingerprint != nodes["marks"].fingerprint


@pytest.mark.slow
def test_a_stand_in_reaches_models_within_scorers(tmp_path, policies):
    nodes = planned(
        tmp_path,
        RECIPE.replace("POLICY", "policy"),
        f"use.policy={policies[0]}",
        f"use.base={policies[1]}",
    )
    scorer = nodes["marks"].inputs["scorers"][0]
    assert scorer["path"]["path"] == str(policies[0]) and len(scorer["reference"]["identity"]) == 64
    assert not {"policy", "base", "rows"} & set(nodes)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "POLICY",
            "polcy",
            r"steps.marks.inputs.scorers: there is no step 'polcy'; did you mean 'policy'",
        ),
        (
            "POLICY",
            "prompts",
            r"steps.marks.inputs.scorers\[1\]: prompts gives rows, but this needs model",
        ),
        (
            "condition_on",
            "conditon_on",
            r"scorers\[0\].conditon_on: unknown key; did you mean 'condition_on'",
        ),
        (
            "{family: length}]",
            "{family: lenght}]",
            r"scorers\[1\].scorers\[1\]: unknown family 'lenght'",
        ),
        (
            "weights: {implicit",
            "weights: {implict",
            r"scorers\[1\].weights: no scorer here is named 'implict'",
        ),
        (
            '"${model.path}"}, {',
            '"/no/such/model"}, {',
            r"there is no file or directory /no/such/model",
        ),
    ],
)
@pytest.mark.slow
def test_mistakes_within_scorers_are_found_in_planning(tmp_path, old, new, message):
    recipe = RECIPE.replace(old, new).replace("POLICY", "policy")
    with pytest.raises(UserError) as error:
        planned(tmp_path, recipe)
    assert re.search(message, str(error.value)), str(error.value)


@pytest.mark.slow
@pytest.mark.long
def test_a_recipe_with_an_implicit_reward_runs(tmp_path):
    planned(tmp_path, RECIPE.replace("POLICY", "policy"))
    arguments = [
        "recipe=implicit",
        "conf_dir=conf",
        "engine=transformers",
        "scale=tiny",
        "model=tiny",
        "data=tiny_world",
        "languages=[eng_Latn,tur_Latn]",
    ]
    done = run_here(tmp_path, "run", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    again = run_here(tmp_path, "run", *arguments)
    assert again.returncode == 0 and "computed again" not in again.stdout, (
        again.stdout + again.stderr
    )
    steps = tmp_path / "runs/implicit/steps"
    scores = list(rows.read(steps / "marks"))
    assert scores and all(
        isinstance(r["score.implicit"], float) and isinstance(r["score.composite.implicit"], float)
        for r in scores
    )
    manifest = json.loads((steps / "marks/manifest.json").read_text())
    assert [m["step"] for m in manifest["inputs"]["scorers"][0]["models"]] == ["policy", "base"]
