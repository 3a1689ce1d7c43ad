"""The score stage: candidates and preference rows through several scorers, end to end, resumed, reused, and refused."""

import json
import re
import shutil
from pathlib import Path

import pytest

from mlalign import rows, schema, shards
from mlalign.errors import UserError
from mlalign.stage import Inputs, Output, Stopped
from mlalign.stages import score
from mlalign.store import Store, write_json

LANGUAGES = {"eng_Latn": "The largest number is {}.", "tur_Latn": "En büyük sayı {} olur.", "cmn_Hans": "最大的数字是 {} 。"}


def prompt_row(language, i, split="eval"):
    return {"id": rows.row_id("t", str(i), language), "group_id": str(i), "prompt_lang": language, "source": "t", "origin": "synthetic",
            "split": split, "prompt": rows.messages(f"max {i} 2 1?")}  # fmt: skip


@pytest.fixture
def candidates(tmp_path):
    """Two prompts in three languages, with a right answer, a wrong one, one in English and one without words."""
    with rows.ShardWriter(tmp_path / "candidates", "candidates", shard_rows=1) as out:
        for language, sentence in LANGUAGES.items():
            for i in (7, 8):
                row = prompt_row(language, i)
                texts = [sentence.format(i), sentence.format(3), LANGUAGES["eng_Latn"].format(i), "5"]
                responses = [{"candidate_id": rows.candidate_id(row["id"], "s", k), "text": t} for k, t in enumerate(texts)]
                reference = rows.to_json({"answer": str(i), "match": "numeric"})
                out.write({**row, "response_lang_requested": language, "reference": reference, "responses": responses})
    return tmp_path / "candidates"


@pytest.fixture
def preferences(tmp_path):
    with rows.ShardWriter(tmp_path / "preferences", "preference") as out:
        for language, sentence in LANGUAGES.items():
            sides = {side: rows.messages(sentence.format(n), "assistant") for side, n in (("chosen", 7), ("rejected", 33))}
            out.write({**prompt_row(language, 7, "train"), **sides, "chosen_lang": language, "rejected_lang": language})
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
    config = Qwen3Config(vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
                         num_key_value_heads=2, head_dim=8, num_labels=1, max_position_embeddings=256, initializer_range=0.3)  # fmt: skip
    Qwen3ForSequenceClassification(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def run(tmp_path, source, scorers, name="x", store="store", part=(0, 1), **config):
    cfg = schema.build(score.Config, config)
    out = Output(tmp_path / store / f"score-{name}.partial", Store(tmp_path / store), "scores", part)
    out.path.mkdir(parents=True, exist_ok=True)
    score.run(cfg, Inputs(out.store, {"rows": {"path": str(source)}, "scorers": scorers}), out)
    return out


def by_candidate(out):
    return {r["candidate_id"]: r for r in rows.read(out.path)}


PLAIN = [{"family": "verifier"}, {"family": "language_adherence"}, {"family": "length"}]


def test_candidates_through_several_scorers(tmp_path, candidates, reward_model):
    out = run(tmp_path, candidates, [*PLAIN, {"family": "classifier", "name": "reward[eng_Latn]", "path": str(reward_model)}])
    found = by_candidate(out)
    assert len(found) == 24 and rows.kind_of(out.path) == "scores"
    for row in rows.read(candidates):
        right, wrong, english, bare = (found[r["candidate_id"]] for r in row["responses"])
        assert {k: right[k] for k in rows.COMMON} == {k: row[k] for k in rows.COMMON}
        assert [r["score.verifier"] for r in (right, wrong, english, bare)] == [1.0, 0.0, 1.0, 0.0]
        in_english = row["prompt_lang"] == "eng_Latn"
        assert [r["score.language_adherence"] for r in (right, wrong, english, bare)] == [1.0, 1.0, float(in_english), None]
        assert [r["response_lang_detected"] for r in (right, english, bare)] == [row["prompt_lang"], "eng_Latn", None]
        assert right["score.length"] == len(row["responses"][0]["text"])
        assert isinstance(right["score.reward[eng_Latn]"], float) and 0 < right["score.language_adherence.confidence"] <= 1
    counts = out.tally.to_dict()
    assert counts["rows"] == dict.fromkeys(sorted(LANGUAGES), 8)
    assert (
        counts["sums"]["unscored.language_adherence"]
        == counts["sums"]["undetected.language_adherence"]
        == dict.fromkeys(sorted(LANGUAGES), 2)
    )


def test_a_score_does_not_depend_on_sharding(tmp_path, candidates, reward_model):
    with rows.ShardWriter(tmp_path / "one", "candidates") as writer:
        writer.write_all(reversed(list(rows.read(candidates))))
    scorers = [{"family": "classifier", "name": "r", "path": str(reward_model)}, {"family": "random"}]
    several, one = (by_candidate(run(tmp_path, p, scorers, name=p.name)) for p in (candidates, tmp_path / "one"))
    for identifier, row in several.items():
        assert one[identifier]["score.r"] == pytest.approx(row["score.r"], abs=1e-5)
        assert one[identifier]["score.random"] == row["score.random"]


def test_both_sides_of_preference_rows(tmp_path, preferences):
    found = by_candidate(run(tmp_path, preferences, [{"family": "length"}, {"family": "verifier"}]))
    assert len(found) == 6
    for row in rows.read(preferences):
        chosen, rejected = (found[rows.side_id(row["id"], side)] for side in ("chosen", "rejected"))
        assert rejected["score.length"] - chosen["score.length"] == 1
        assert chosen["score.verifier"] is None


def test_combinations(tmp_path, candidates):
    combine = {"gated": {"weights": {"verifier": 1, "length": -0.01}, "gates": [{"scorer": "language_adherence"}]},
               "z": {"weights": {"length": 1.0}, "normalise": "prompt"}}  # fmt: skip
    out = run(tmp_path, candidates, PLAIN, combine=combine)
    for row in rows.read(candidates, languages=["tur_Latn"]):
        found = [by_candidate(out)[r["candidate_id"]] for r in row["responses"]]
        lengths = [r["score.length"] for r in found]
        assert [r["score.gated"] for r in found] == pytest.approx([1 - 0.01 * lengths[0], -0.01 * lengths[1], None, -0.01 * lengths[3]])
        assert sum(r["score.z"] for r in found) == pytest.approx(0, abs=1e-9)
    assert out.tally.to_dict()["sums"]["unscored.gated"] == {"cmn_Hans": 2, "tur_Latn": 2}


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
        assert (again.path / "rows" / name).read_bytes() == (unbroken.path / "rows" / name).read_bytes()
    assert again.tally.to_dict() == unbroken.tally.to_dict()


def test_finished_shards_are_reused_and_need_no_model(tmp_path, candidates, reward_model):
    model = shutil.copytree(reward_model, tmp_path / "gone" / "model")
    told = {"family": "classifier", "name": "r", "path": str(model), "identity": "a digest that the plan found"}
    first = run(tmp_path, candidates, [told])
    shutil.rmtree(model)
    again = run(tmp_path, candidates, [told], name="again", device_batch_tokens=100)
    assert by_candidate(again) == by_candidate(first)
    with pytest.raises(UserError):
        run(tmp_path, candidates, [{**told, "max_length": 12}], name="other")


def test_array_tasks_share_the_shards(tmp_path, candidates):
    parts = [run(tmp_path, candidates, [{"family": "length"}], part=(i, 4)) for i in range(4)]
    sources = rows.shards(candidates)
    assert not shards.pending(sources, parts[0].path)
    assert shards.total(sources, parts[0].path).to_dict() == run(tmp_path, candidates, [{"family": "length"}], store="one").tally.to_dict()


def test_a_reward_artifact_of_a_foreach_step(tmp_path, candidates, reward_model):
    artifact = tmp_path / "store" / "reward-0"
    shutil.copytree(reward_model, artifact / "model")
    write_json(artifact / "manifest.json", {"status": "done", "content_digest": "d"})
    found = run(tmp_path, candidates, [{"step": "reward[eng_Latn]", "artifact": "reward-0", "binding": {"lang": "eng_Latn"}}])
    assert all(isinstance(r["score.reward[eng_Latn]"], float) for r in rows.read(found.path))
    external = run(tmp_path, candidates, [{"family": "classifier", "name": "r", "path": str(artifact)}], name="external")
    assert [r["score.r"] for r in rows.read(external.path)] == [r["score.reward[eng_Latn]"] for r in rows.read(found.path)]


def test_one_split_only(tmp_path, candidates):
    assert by_candidate(run(tmp_path, candidates, [{"family": "length"}], split="train", name="none")) == {}


@pytest.mark.parametrize(
    ("scorers", "config", "messages"),
    [
        ([{"name": "verifier"}], {}, [r"inputs.scorers\[0\]: .* has no family; did you mean 'verifier'"]),
        ([{"model": "somewhere"}], {}, [r"inputs.scorers\[0\]: .* has no family"]),
        ([{"family": "verifyer"}], {}, [r"inputs.scorers\[0\]: unknown family 'verifyer'; did you mean 'verifier'"]),
        ([{"family": "length"}, {"family": "length"}], {}, ["two are named 'length'"]),
        ([{"family": "length", "unit": "words"}, {"family": "language_adherence", "identifer": "x"}], {}, ["unit: unknown key", "identifer: unknown key; did you mean 'identifier'"]),
        ([{"family": "length"}], {"combine": {"c": {"weights": {"lenght": 1}, "gates": [{"scorer": "a"}]}}}, ["did you mean 'length'", r"c.gates\[0\].scorer"]),
        ([{"family": "length"}], {"combine": {"length": {"weights": {"length": 1}}}}, ["a scorer has this name already"]),
        ([], {}, ["inputs.scorers: empty"]),
    ],
)  # fmt: skip
def test_bad_settings_are_told_together(tmp_path, candidates, scorers, config, messages):
    with pytest.raises(UserError) as error:
        run(tmp_path, candidates, scorers, **config)
    for message in messages:
        assert re.search(message, str(error.value)), str(error.value)


def test_rows_of_another_kind_are_refused(tmp_path):
    with rows.ShardWriter(tmp_path / "prompts", "prompt") as out:
        out.write(prompt_row("eng_Latn", 1))
    with pytest.raises(UserError, match="holds prompt rows, and `score` takes candidates or preference"):
        run(tmp_path, tmp_path / "prompts", [{"family": "length"}])


def test_what_is_hashed():
    told = schema.hashed(schema.build(score.Config, {"combine": {"c": {"weights": {"a": 1}}}}))
    assert sorted(told) == ["combine", "dtype", "seed", "split"]
    assert json.dumps(told, default=str) == json.dumps(
        schema.hashed(schema.build(score.Config, {"combine": {"c": {"weights": {"a": 1}}}})), default=str
    )
