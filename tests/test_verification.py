"""What a step reads is what was planned: swapped weights, rows and files are told, and nothing of
them is kept.
"""

import json
import os

import pytest
import yaml
from verification_cases import Small, rows_of

from mlalign.core import digests, identity, rows, stage, store
from mlalign.core.errors import UserError
from mlalign.running import step
from mlalign.running.verification import Verification
from mlalign.stages import score


@pytest.fixture
def small(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return Small(tmp_path)


def swap(path, content=None):
    """Other content of the same size, with the old times put back."""
    told, old = path.stat(), path.read_bytes()
    path.write_bytes(content if content is not None else bytes([old[0] ^ 1]) + old[1:])
    os.utime(path, ns=(told.st_atime_ns, told.st_mtime_ns))


def refused(config, *said):
    with pytest.raises(UserError) as caught:
        step.execute(config)
    for text in said:
        assert text in str(caught.value), str(caught.value)
    return str(caught.value)


# ----------------------------------------------------------------------------- between plan and use


@pytest.mark.slow
def test_nothing_changed_nothing_said(small):
    small.run("rows")
    assert store.read_manifest(small.run("marks"))["rows_by_language"] == {"eng_Latn": 12}


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer_config.json"])
@pytest.mark.slow
def test_a_model_that_was_swapped_after_the_plan_is_refused(small, name):
    small.run("rows")
    config = small.begin("marks")
    swap(small.model / name)
    refused(
        config,
        "marks: ",
        str(small.model / name),
        "was changed since it was planned",
        "run the same command again",
    )
    assert small.begin("marks").parent != config.parent  # planned again: another artifact


@pytest.mark.slow
def test_files_that_come_or_go_in_a_model_are_told(small):
    small.run("rows")
    config = small.begin("marks")
    (small.model / "adapter_model.safetensors").write_bytes(b"x")
    refused(config, "adapter_model.safetensors was not there when this was planned")
    (small.model / "adapter_model.safetensors").unlink()
    (small.model / "tokenizer_config.json").rename(small.root / "aside")
    refused(config, "tokenizer_config.json is gone")


@pytest.mark.slow
def test_a_model_behind_a_link_is_the_files_that_it_leads_to(small):
    small.run("rows")
    other, link = small.root / "other", small.root / "link"
    small.model.rename(other)
    link.symlink_to(other)
    config = small.begin(
        "marks", scorers=[{"family": "length", "unit": "tokens", "path": str(link)}]
    )
    swap(other / "tokenizer.json")
    refused(config, str(link / "tokenizer.json"))


@pytest.mark.slow
def test_touched_files_with_the_same_content_are_no_mistake(small):
    small.run("rows")
    config = small.begin("marks")
    for path in small.model.iterdir():
        os.utime(path, (0, 0))
        os.link(path, small.root / path.name)
    assert step.execute(config)


@pytest.mark.slow
def test_rows_sources_are_those_of_the_plan(small):
    config = small.begin("rows")
    swap(small.source, rows_of(word="evil").encode())
    refused(config, f"rows: {small.source} was changed since it was planned")


@pytest.mark.slow
def test_a_new_file_in_a_folder_of_rows_is_told(small):
    folder = small.source.parent
    small.source = folder
    config = small.begin("rows")
    (folder / "more.jsonl").write_text(rows_of(2))
    refused(config, "config.sources: its files are no longer those of the plan")


@pytest.mark.slow
def test_a_judges_prompt_counts_by_its_content(small):
    prompt = small.root / "prompt.j2"
    prompt.write_text("first")
    scorers = [
        {
            "family": "judge",
            "engine": {"name": "transformers"},
            "path": str(small.model),
            "template": str(prompt),
        }
    ]
    before = small.plan(scorers=scorers).nodes[-1]
    assert before.read["files"][str(prompt)] == digests.sha256(prompt)
    prompt.write_text("other")
    assert small.plan(scorers=scorers).nodes[-1].fingerprint != before.fingerprint


# ---------------------------------------------------------------------------------------- artifacts


def shard_of(artifact):
    return next((artifact / "rows").glob("*.parquet"))


@pytest.mark.slow
def test_an_input_artifact_is_verified_by_content(small):
    made = small.run("rows")
    config = small.begin("marks", "only=marks")
    swap(shard_of(made))
    refused(config, "its input rows: ", "was changed after it was written", "force=rows")


@pytest.mark.parametrize("damage", ["truncated", "empty", "gone"])
@pytest.mark.slow
def test_a_broken_input_artifact_is_one_message(small, damage):
    shard = shard_of(small.run("rows"))
    config = small.begin("marks")
    shard.unlink() if damage == "gone" else os.truncate(shard, 0 if damage == "empty" else 50)
    refused(config, "its input rows: ", shard.name)


@pytest.mark.slow
def test_an_artifact_named_by_its_path_is_verified(small):
    made = small.run("rows")
    config = small.begin("marks", f"use.rows={made}")
    swap(shard_of(made))
    refused(config, "its input rows: ", "was changed after it was written", "name another artifact")


@pytest.mark.slow
def test_a_rewritten_manifest_is_other_content(small):
    made = small.run("rows")
    config = small.begin("marks")
    told = store.read_json(made / "manifest.json")
    file = next(iter(told["files"]))
    told["files"][file]["sha256"] = "0" * 64
    store.write_json(made / "manifest.json", told)
    refused(config, "content_digest is not that of its files")
    told["content_digest"] = store.content_digest(told["files"])
    store.write_json(made / "manifest.json", told)
    refused(config, "has other content than when this step was planned")


@pytest.mark.slow
def test_rows_that_no_manifest_lists_are_not_read(small):
    made = small.run("rows")
    rows.write_shard(
        made / "rows" / "zzz_Zzzz.train.00000.parquet",
        "preference",
        rows.read_shard(shard_of(made)),
    )
    rows.write_shard(
        made / "rows" / "eng_Latn.train.00009.parquet",
        "preference",
        rows.read_shard(shard_of(made)),
    )
    assert len(list(rows.read(made))) == 6
    assert store.read_manifest(small.run("marks"))["rows_by_language"] == {"eng_Latn": 12}


def of_a_model(small, files):
    """A finished artifact of kind model, as a step leaves it."""
    partial = store.Store(small.root / "store").partial("sft", "ab" * 32)
    (partial / "model").mkdir(parents=True)
    for name in files:
        (partial / "model" / name).write_bytes((small.model / name).read_bytes())
    told = {
        "step": "base",
        "stage": "sft",
        "kind": "model",
        "status": "done",
        "fingerprint": "ab" * 32,
        "inputs": {},
        "rows_by_language": {},
        "dropped": {},
        "started": 0.0,
        "finished": 1.0,
    }
    return store.finish(partial, told)


@pytest.mark.parametrize(
    "stray", ["adapter_config.json", "model-00002.safetensors", "chat_template.jinja"]
)
@pytest.mark.slow
def test_a_stray_file_beside_a_model_is_refused(small, stray):
    made = of_a_model(
        small, ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    )
    small.run("rows")
    scorers = [{"family": "classifier", "path": str(made)}]
    config = small.begin("marks", scorers=scorers)
    (made / "model" / stray).write_text("{}")
    refused(config, f"{made / 'model' / stray} is no part of it", "move the file elsewhere")


def test_a_stray_selected_json_leads_nowhere(small):
    made = of_a_model(small, ["config.json"])
    (made / "selected.json").write_text(json.dumps({"external": {"path": "/elsewhere"}}))
    assert stage.selected(store.Artifact(made)).path == made


@pytest.mark.parametrize(
    "text",
    ["{", "[]", "null", "{}", '{"files": {}}', '{"status": "done", "files": [1]}', "[" * 100_000],
)
@pytest.mark.slow
def test_a_manifest_of_the_wrong_shape_is_one_message(small, text):
    made = small.run("rows")
    (made / "manifest.json").write_text(text)
    for act in (
        lambda: small.begin("marks"),
        lambda: list(rows.read(made)),
        lambda: small.plan(f"use.rows={made}"),
    ):
        with pytest.raises(UserError, match=r"manifest\.json"):
            act()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("files", {"../x": {"size": 1, "sha256": "0" * 64}}), ("files", {"x": 1}), ("kind", 3), ("dropped", {"a": 1}),
        ("rows_by_language", {"eng_Latn": "6"}), ("inputs", {"rows": 3}), ("finished", "now"), ("status", None),
    ],
)  # fmt: skip
@pytest.mark.slow
def test_a_manifest_with_a_value_of_another_type_names_the_key(small, key, value):
    made = small.run("rows")
    store.write_json(
        made / "manifest.json", {**store.read_json(made / "manifest.json"), key: value}
    )
    with pytest.raises(
        UserError, match=f"manifest.json: is no manifest of an artifact .*'{key}' is "
    ):
        store.read_manifest(made)


# -------------------------------------------------------------------------------- while a step runs


@pytest.mark.slow
def test_what_is_swapped_while_a_step_runs_is_neither_published_nor_kept_for_others(
    small, monkeypatch
):
    small.run("rows")
    config, real = small.begin("marks"), score.score_rows
    weights, before = (
        small.model / "model.safetensors",
        (small.model / "model.safetensors").read_bytes(),
    )

    def swapped(*given):
        swap(weights)
        return real(*given)

    monkeypatch.setattr(score, "score_rows", swapped)
    refused(config, f"{weights} was changed")
    assert not list((small.root / "store" / ".shards").glob("*/*")) and not list(
        config.parent.glob("shards/*")
    )
    monkeypatch.setattr(score, "score_rows", real)
    weights.write_bytes(before)
    assert step.execute(config)


def test_rows_that_change_while_they_are_prepared_are_told(small, monkeypatch):
    config = small.begin("rows")
    real = stage.Inputs.sources

    def late(inputs):
        small.source.write_text(rows_of(9))
        return real(inputs)

    monkeypatch.setattr(stage.Inputs, "sources", late)
    refused(config, str(small.source))


@pytest.mark.slow
def test_an_in_place_write_to_a_shared_shard_is_seen_in_every_artifact(small):
    """The cache hard-links files into artifacts."""
    small.run("rows")
    marks = small.run("marks")
    in_cache = (small.root / "store" / ".shards").glob("*/*")
    cached = next(p for p in in_cache if p.stat().st_ino == shard_of(marks).stat().st_ino)
    swap(cached)
    the_store = store.Store(small.root / "store")
    assert "was changed" in store.damage(marks, store.read_manifest(marks), the_store.digests)


# ------------------------------------------------------------------------------------------ the hub


def snapshot(small, commit):
    """A repository in the local cache, as the hub's client writes it."""
    import hashlib

    repository = small.root / "hub" / "models--org--name"
    for folder in ("blobs", "refs", f"snapshots/{commit}"):
        (repository / folder).mkdir(parents=True, exist_ok=True)
    (repository / "refs" / "main").write_text(commit)
    for file in small.model.iterdir():
        content = file.read_bytes()
        large = file.suffix == ".safetensors"
        blob = (
            hashlib.sha256(content).hexdigest()
            if large
            else hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        )
        (repository / "blobs" / blob).write_bytes(content)
        link = repository / "snapshots" / commit / file.name
        link.unlink(missing_ok=True)
        link.symlink_to(f"../../blobs/{blob}")
    return repository / "snapshots" / commit


@pytest.mark.slow
def test_a_hub_model_is_used_at_the_commit_of_the_plan(small):
    snapshot(small, "a" * 40)
    small.run("rows")
    config = small.begin(
        "marks", scorers=[{"family": "length", "unit": "tokens", "path": "org/name"}]
    )
    swap(small.model / "tokenizer_config.json")
    snapshot(small, "b" * 40)  # the branch moves on
    told = yaml.safe_load(config.read_text())
    the_store = store.Store(small.root / "store")
    assert stage.Inputs(the_store, told["inputs"]).scorers("scorers")[0]["revision"] == "a" * 40
    assert (
        stage.external_model({"path": "org/name", "identity": f"org/name@{'a' * 40}"}).revision
        == "a" * 40
    )
    Verification(told, the_store).check()


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer_config.json"])
@pytest.mark.slow
def test_a_hub_snapshot_that_was_written_to_is_refused(small, name):
    folder = snapshot(small, "a" * 40)
    small.run("rows")
    config = small.begin(
        "marks", scorers=[{"family": "length", "unit": "tokens", "path": "org/name"}]
    )
    assert identity.snapshot_damages(folder, digests.Digests()) == []
    swap((folder / name).resolve())
    refused(config, f"{folder / name} was changed after it was fetched", "fetch it again")
