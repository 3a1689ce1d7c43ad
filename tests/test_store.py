import json
import time

import pytest

from mlalign.core import claims, digests, store
from mlalign.core.errors import UserError


@pytest.fixture
def partial(tmp_path):
    path = tmp_path / "sft-0123456789abcdef.partial"
    path.mkdir()
    return path


def test_fingerprint_ignores_key_order_and_sees_values():
    assert store.fingerprint({"a": 1, "b": [1, 2]}) == store.fingerprint({"b": [1, 2], "a": 1})
    assert store.fingerprint({"a": 1}) != store.fingerprint({"a": 2})


def test_tallies_add_up():
    a, b = store.Tally(), store.Tally()
    a.keep("eng_Latn", 2)
    a.drop("empty", "swh_Latn")
    b.drop("empty", "swh_Latn", 2)
    b.add("tokens", "eng_Latn", 7)
    a.merge(b)
    assert a.to_dict() == {
        "rows": {"eng_Latn": 2},
        "dropped": {"empty": {"swh_Latn": 3}},
        "sums": {"tokens": {"eng_Latn": 7}},
    }
    assert store.Tally(a.to_dict()).to_dict() == a.to_dict()


def test_finish_publishes_only_content_and_the_manifest_last(partial):
    (partial / "logs").mkdir()
    (partial / "logs" / "step.log").write_text("told")
    (partial / "rows").mkdir()
    (partial / "rows" / "a.txt").write_text("abc")
    final = store.finish(partial, {"status": "done", "finished": time.time()})
    manifest = json.loads((final / "manifest.json").read_text())
    assert list(manifest["files"]) == ["rows/a.txt"]
    assert manifest["files"]["rows/a.txt"]["size"] == 3
    assert not partial.exists()
    assert store.damage(final, manifest, digests.Digests()) is None


@pytest.mark.parametrize(("text", "told"), [("abcd", "4 bytes"), ("xyz", "was changed")])
def test_damage_names_the_file(partial, text, told):
    (partial / "a.txt").write_text("abc")
    final = store.finish(partial, {"status": "done", "finished": time.time() - 100})
    (final / "a.txt").write_text(text)
    assert told in store.damage(final, store.read_json(final / "manifest.json"), digests.Digests())
    (final / "a.txt").unlink()
    assert "is missing" in store.damage(
        final, store.read_json(final / "manifest.json"), digests.Digests()
    )


def test_retire_puts_aside(tmp_path, partial):
    (partial / "a.txt").write_text("abc")
    store.finish(partial, {"status": "done", "finished": 0})
    the_store = store.Store(tmp_path)
    fingerprint = "0123456789abcdef"
    assert the_store.done("sft", fingerprint)
    the_store.retire("sft", fingerprint)
    assert not the_store.done("sft", fingerprint)
    assert (tmp_path / "sft-0123456789abcdef.replaced" / "a.txt").read_text() == "abc"


def test_broken_json_is_named(tmp_path):
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(UserError, match=r"manifest\.json: cannot be read as JSON"):
        store.read_json(tmp_path / "manifest.json")


def test_a_living_owners_artifact_is_not_put_aside(tmp_path, partial):
    with claims.claim(partial), pytest.raises(UserError, match="is working on this step"):
        store.Store(tmp_path).retire("sft", "0123456789abcdef")
    assert partial.is_dir()


def test_a_directory_without_manifest_makes_room(partial):
    (partial.parent / "sft-0123456789abcdef").mkdir()
    (partial.parent / "sft-0123456789abcdef" / "left.txt").write_text("x")
    final = store.finish(partial, {"status": "done", "finished": 0})
    assert (final / "manifest.json").is_file()
