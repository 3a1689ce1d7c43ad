"""Which files of the hub a plan needs, and whether the cache has them."""

import pytest
import yaml

from mlalign.recipes import config, plan
from mlalign.running import hub
from mlalign.running.hub import Need

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PROMPTS = {"stage": "prepare", "config": {"kind": "prompt", "sources": "${data.prompts}"}}


@pytest.fixture
def planned(tmp_path, monkeypatch):
    """`planned({step: body}, *arguments)`: a plan, on a cache that knows the branch main of every
    repository asked for.
    """
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    (tmp_path / "conf" / "recipe").mkdir(parents=True)

    def make(steps, *arguments, known=("org/model", "org/judge", "org/reward", "org/words")):
        for name in known:
            repository(tmp_path, name)
        (tmp_path / "conf" / "recipe" / "mine.yaml").write_text(
            yaml.safe_dump({"steps": {"prompts": PROMPTS, **steps}})
        )
        return plan.build(
            config.load(
                ["recipe=mine", f"conf_dir={tmp_path / 'conf'}", f"root={tmp_path}", *arguments]
            )
        )

    return make


def repository(tmp_path, name, *files):
    folder = tmp_path / "hub" / f"models--{name.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True, exist_ok=True)
    (folder / "refs" / "main").write_text(COMMIT)
    for file in files:
        (folder / "snapshots" / COMMIT).mkdir(parents=True, exist_ok=True)
        (folder / "snapshots" / COMMIT / file).write_text("{}")


def marks(*scorers):
    return {"stage": "score", "inputs": {"rows": "answers", "scorers": list(scorers)}}


ANSWERS = {"stage": "generate", "inputs": {"model": {"path": "org/model"}, "rows": "prompts"}}


@pytest.mark.slow
def test_models_of_steps_and_of_scorers_at_any_depth(planned):
    judge = {"family": "judge", "name": "judge", "path": "org/judge", "mode": "scalar"}
    whole = {
        "family": "composite",
        "name": "both",
        "scorers": [
            {"family": "classifier", "name": "rm", "path": "org/reward"},
            {"family": "length"},
        ],
        "weights": {"rm": 1.0, "length": 0.1},
    }
    needed = hub.needed(planned({"answers": ANSWERS, "marks": marks(judge, whole)}))
    assert needed == {
        Need("model", "org/model", COMMIT): ["answers"],
        Need("model", "org/judge", COMMIT): ["marks"],
        Need("model", "org/reward", COMMIT): ["marks"],
    }


@pytest.mark.slow
def test_what_a_server_holds_is_not_needed_here(planned):
    served = {"name": "openai", "base_url": "http://x/v1"}
    judge = {
        "family": "judge",
        "name": "judge",
        "path": "org/judge",
        "mode": "scalar",
        "engine": served,
    }
    answers = {**ANSWERS, "config": {"engine": served}}
    assert (
        hub.needed(
            planned(
                {"answers": answers, "marks": marks(judge)},
                "engine=openai",
                "engine.base_url=http://x/v1",
            )
        )
        == {}
    )


@pytest.mark.slow
def test_scorers_that_download_on_their_own(planned):
    scorers = [
        {"family": "length", "name": "tokens", "unit": "tokens", "path": "org/words"},
        {"family": "translation", "name": "bleu", "metric": "bleu", "tokenize": "flores200"},
        {"family": "language_adherence"},
    ]
    needed = list(hub.needed(planned({"answers": ANSWERS, "marks": marks(*scorers)})))[1:]
    assert needed == [
        Need("tokenizer", "org/words", COMMIT),
        Need("sacrebleu tokenizer", "flores200"),
    ]


@pytest.mark.slow
def test_an_adapter_here_on_a_base_there(planned, tmp_path):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"base_model_name_or_path": "org/model"}')
    (adapter / "tokenizer.json").write_text("{}")
    answers = {**ANSWERS, "inputs": {"model": {"path": str(adapter)}, "rows": "prompts"}}
    assert list(hub.needed(planned({"answers": answers}))) == [Need("model", "org/model", COMMIT)]


@pytest.mark.slow
def test_a_model_is_here_when_all_its_shards_are(planned, tmp_path):
    made = planned({"answers": ANSWERS})
    assert hub.missing(made)[0].startswith(
        f"answers: model org/model @{COMMIT[:12]} is not in the cache {tmp_path / 'hub'}; run"
        " mlalign fetch"
    )
    repository(tmp_path, "org/model", "config.json", "a.safetensors")
    assert hub.missing(made) == [] and "here    model org/model" in hub.summary(made)
    index = (
        tmp_path
        / "hub"
        / "models--org--model"
        / "snapshots"
        / COMMIT
        / "model.safetensors.index.json"
    )
    index.write_text('{"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}')
    assert len(hub.missing(made)) == 1
    (index.parent / "b.safetensors").symlink_to(tmp_path / "nowhere")
    assert len(hub.missing(made)) == 1, "a broken link is no file"


@pytest.mark.slow
def test_data_sets_by_commit(planned, tmp_path):
    source = {"hub": "org/rows", "revision": COMMIT, "config": "small", "language": "eng_Latn"}
    rows = {"stage": "prepare", "config": {"kind": "demonstration", "sources": [source]}}
    made = planned({"rows": rows})
    (need,) = hub.needed(made)
    assert need == Need("data set", "org/rows", None, COMMIT, "small", "train") and not hub.here(
        need
    )
    (tmp_path / "datasets" / "org___rows" / "small" / "0.0.0" / COMMIT).mkdir(parents=True)
    assert hub.here(need)


@pytest.mark.slow
def test_a_plan_that_needs_nothing_says_nothing(planned):
    answers = {**ANSWERS, "inputs": {"model": {"path": "${model.path}"}, "rows": "prompts"}}
    made = planned({"answers": answers})
    assert hub.summary(made) == "" and hub.missing(made) == []


def test_jobs_look_where_this_machine_looks(planned, monkeypatch, tmp_path):
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.delenv("HF_DATASETS_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    told = hub.offline_environment()
    assert (
        told["HF_HUB_OFFLINE"] == "1"
        and told["HF_HUB_CACHE"] == f"{tmp_path}/home/hub"
        and told["HF_DATASETS_CACHE"] == f"{tmp_path}/home/datasets"
    )
