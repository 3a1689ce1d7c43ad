"""Shards: computed once, linked where they are equal, checked before they are trusted."""

import json
import os
import shutil

import pytest

from mlalign.core import rows, shards, store
from mlalign.core.errors import UserError


def row(i, language="eng_Latn"):
    return {
        "id": f"{language}{i}",
        "group_id": str(i),
        "prompt_lang": language,
        "source": "s",
        "origin": "native",
        "split": "train",
        "text": f"text {i}",
    }


@pytest.fixture
def source(tmp_path):
    with rows.ShardWriter(tmp_path / "in", "text", shard_rows=4) as writer:
        writer.write_all(
            row(i, language) for language in ("eng_Latn", "swh_Latn") for i in range(6)
        )
    return rows.shards(tmp_path / "in")


def copy(source, target, tally):
    given = rows.read_shard(source)
    for own in given:
        tally.keep(own["prompt_lang"])
    rows.write_shard(target, "text", given)


def run(source, partial, the_store, work=copy, **more):
    partial.mkdir(parents=True, exist_ok=True)
    return shards.run_shards(
        source, partial, the_store, {"stage": "copy", "version": 1}, work, **more
    )


def noting(names):
    """`copy` that adds the name of each shard it computes to `names`."""

    def work(source, target, tally):
        names.append(source.name)
        copy(source, target, tally)

    return work


def test_a_shard_has_one_language_and_split(source):
    assert [p.name for p in source] == [
        "eng_Latn.train.00000.parquet",
        "eng_Latn.train.00001.parquet",
        "swh_Latn.train.00000.parquet",
        "swh_Latn.train.00001.parquet",
    ]
    assert [r["id"] for r in rows.read(source[0].parent.parent, languages=["swh_Latn"])] == [
        f"swh_Latn{i}" for i in range(6)
    ]


def test_finished_shards_are_not_computed_again(tmp_path, source):
    the_store, partial = store.Store(tmp_path / "store"), tmp_path / "store" / "a.partial"
    stops = iter([False, False, True])
    assert not run(source, partial, the_store, should_stop=lambda: next(stops))
    assert len(shards.pending(source, partial)) == 2
    computed = []
    assert run(source, partial, the_store, work=noting(computed))
    assert computed == [p.name for p in source[2:]]
    assert shards.total(source, partial).to_dict()["rows"] == {"eng_Latn": 6, "swh_Latn": 6}


def test_another_artifact_links_equal_shards(tmp_path, source):
    the_store = store.Store(tmp_path / "store")
    run(source[:2], tmp_path / "store" / "a.partial", the_store)
    computed = []
    run(source, tmp_path / "store" / "b.partial", the_store, noting(computed))
    assert computed == [p.name for p in source[2:]]
    first = the_store.root / "a.partial" / "rows" / source[0].name
    second = the_store.root / "b.partial" / "rows" / source[0].name
    assert first.stat().st_ino == second.stat().st_ino


def test_a_shard_that_comes_to_nothing_is_done(tmp_path, source):
    partial = tmp_path / "store" / "a.partial"

    def nothing(source, target, tally):
        tally.drop("all", "eng_Latn", 4)

    assert run(source[:1], partial, store.Store(tmp_path / "store"), work=nothing)
    assert shards.pending(source[:1], partial) == []
    other = tmp_path / "store" / "b.partial"
    assert run(source[:1], other, store.Store(tmp_path / "store"), work=None)
    assert shards.total(source[:1], other).dropped["all"] == {"eng_Latn": 4}


def test_shard_bytes_depend_on_rows_alone(tmp_path):
    rows.write_shard(tmp_path / "a.parquet", "text", [row(0)])
    rows.write_shard(tmp_path / "b.parquet", "text", [row(0)])
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_seeds_and_ids_are_stable():
    assert (
        rows.row_id("hh", "1", "eng_Latn")
        == rows.row_id("hh", "1", "eng_Latn")
        != rows.row_id("hh", "1", "swh_Latn")
    )
    seeds = {rows.seed_of(rows.candidate_id("a", "sampler", i)) for i in range(1000)}
    assert len(seeds) == 1000
    assert all(0 <= s < 2**31 for s in seeds)


def test_a_shard_whose_input_changed_is_computed_again(tmp_path, source):
    the_store, partial = store.Store(tmp_path / "store"), tmp_path / "store" / "a.partial"
    run(source[:1], partial, the_store)
    rows.write_shard(source[0], "text", [row(99)])
    run(source[:1], partial, the_store)
    assert [r["id"] for r in rows.read(partial)] == ["eng_Latn99"]


def test_a_damaged_or_forgotten_shard_is_not_taken_from_the_cache(tmp_path, source):
    the_store, partial = store.Store(tmp_path / "store"), tmp_path / "store" / "a.partial"
    run(source[:2], partial, the_store)
    whole = (partial / "rows" / source[0].name).read_bytes()
    # In place: the cache holds the same file.
    with open(partial / "rows" / source[0].name, "r+b") as f:
        f.write(b"BAD!")
    computed = []
    run(source[:2], tmp_path / "store" / "b.partial", the_store, noting(computed))
    assert computed == [source[0].name]
    assert (tmp_path / "store" / "b.partial" / "rows" / source[0].name).read_bytes() == whole
    shards.forget(tmp_path / "store" / "b.partial", the_store)
    run(source[:2], tmp_path / "store" / "c.partial", the_store, noting(computed))
    assert len(computed) == 3


def beside(source, target, tally):
    """A shard with a file in a folder of its own beside it."""
    copy(source, target, tally)
    judged = target.parent.parent / "judgements" / target.name
    rows.write_shard(judged, "text", rows.read_shard(source))


def files_of(partial, name):
    return (
        partial / "rows" / name,
        partial / "judgements" / name,
        partial / "shards" / f"{name.removesuffix('.parquet')}.json",
    )


def swap(first, second):
    aside = first.with_name("aside")
    first.rename(aside)
    second.rename(first)
    aside.rename(second)


DAMAGES = {
    "truncated": lambda shard, judged, marker, other: os.truncate(shard, 40),
    "empty": lambda shard, judged, marker, other: os.truncate(shard, 0),
    "gone": lambda shard, judged, marker, other: shard.unlink(),
    "another shard's": lambda shard, judged, marker, other: swap(shard, other),
    "judgements cut": lambda shard, judged, marker, other: os.truncate(judged, 40),
    "judgements gone": lambda shard, judged, marker, other: judged.unlink(),
    "marker empty": lambda shard, judged, marker, other: marker.write_text(""),
    "marker a list": lambda shard, judged, marker, other: marker.write_text("[]"),
    "marker without key": lambda shard, judged, marker, other: marker.write_text(
        '{"sha256": null, "rows": {}}'
    ),
    "marker with text for counts": lambda shard, judged, marker, other: marker.write_text(
        json.dumps({**json.loads(marker.read_text()), "rows": {"eng_Latn": "4"}})
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.slow
def test_unfinished_shards_are_checked_before_they_are_trusted(
    tmp_path, source, damage, cached, capsys
):
    the_store, partial = store.Store(tmp_path / "store"), tmp_path / "store" / "a.partial"
    run(source, partial, the_store, beside, beside=["judgements"])
    whole = {p: p.read_bytes() for p in sorted(partial.rglob("*.parquet"))}
    if not cached:
        shutil.rmtree(the_store.root / ".shards")
    DAMAGES[damage](*files_of(partial, source[0].name), files_of(partial, source[1].name)[0])
    tallies = []
    assert run(
        source,
        partial,
        the_store,
        beside,
        beside=["judgements"],
        on_shard=lambda path, tally: tallies.append(tally.rows.total()),
    )
    assert {p: p.read_bytes() for p in sorted(partial.rglob("*.parquet"))} == whole
    assert tallies == [4, 2, 4, 2]
    assert "computed again" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["{", "[]", "foreign"])
def test_a_damaged_or_foreign_marker_in_the_cache_gives_nothing(tmp_path, source, damage):
    the_store = store.Store(tmp_path / "store")
    run(source[:2], tmp_path / "store" / "a.partial", the_store)
    first, second = (the_store.root / ".shards").glob("*/*.json")
    first.write_text(second.read_text() if damage == "foreign" else damage)
    computed = []
    run(source[:2], tmp_path / "store" / "b.partial", the_store, noting(computed))
    assert len(computed) == 1


def test_an_input_that_changes_while_a_shard_is_computed_gives_nothing(tmp_path, source):
    the_store, partial = store.Store(tmp_path / "store"), tmp_path / "store" / "a.partial"

    def changing(shard, target, tally):
        copy(shard, target, tally)
        rows.write_shard(shard, "text", [row(77)])

    with pytest.raises(UserError, match="was changed while it was being read"):
        run(source[:1], partial, the_store, changing)
    assert not (partial / "shards").exists() and not (the_store.root / ".shards").exists()


def test_what_was_written_over_before_publishing_is_not_published(tmp_path, source):
    the_store, partial = store.Store(tmp_path / "store"), tmp_path / "store" / "a.partial"
    run(source[:1], partial, the_store)
    (partial / "rows" / "zzz_Zzzz.train.00000.parquet").write_bytes(b"stray")
    os.truncate(partial / "rows" / source[0].name, 30)
    with pytest.raises(
        UserError, match="is not what was written there; run the same command again"
    ):
        store.finish(partial, {}, shards.recorded(partial), shards.FOLDERS)
    run(source[:1], partial, the_store)
    final = store.finish(partial, {}, shards.recorded(partial), shards.FOLDERS)
    assert list(store.read_json(final / "manifest.json")["files"]) == [f"rows/{source[0].name}"]
