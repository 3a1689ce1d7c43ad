"""The prepare stage with a builder and with mixing rules."""

import pytest

from mlalign.core import kinds, rows, schema, stage, store
from mlalign.core.errors import UserError
from mlalign.stages import prepare

TINY = {"adapter": "tiny_world", "split": "train"}


def prepared(folder, inputs=None, **config):
    """(output, rows) of one prepare step in a folder of its own."""
    folder.mkdir()
    out = stage.Output(folder, store.Store(folder.parent), step="rows")
    cfg = schema.build(prepare.Config, config, "config")
    prepare.run(cfg, stage.Inputs(out.store, inputs or {}), out)
    return out, list(rows.read(folder))


@pytest.fixture
def demonstrations(tmp_path):
    """Twelve items in three languages; one of them lacks English."""
    by_language = {"eng_Latn": "Four {i}.", "deu_Latn": "Vier {i}.", "spa_Latn": "Cuatro {i}."}
    with rows.ShardWriter(tmp_path / "demonstrations", "demonstration", shard_rows=5) as writer:
        for i in range(12):
            for language, answer in by_language.items():
                if (i, language) != (11, "eng_Latn"):
                    writer.write(demonstration_row(i, language, answer.format(i=i)))
    return {"rows": {"path": str(tmp_path / "demonstrations")}}


def demonstration_row(i, language, answer):
    return {
        "id": rows.row_id("test", str(i), language),
        "group_id": f"item{i:02d}",
        "prompt_lang": language,
        "source": "test",
        "origin": "native",
        "split": "eval" if i < 2 else "train",
        "prompt": rows.messages(f"{language} {i}?"),
        "completion": rows.messages(answer, "assistant"),
        "response_lang": language,
    }


# ---------------------------------------------------------------------------------------- builders


def test_rows_are_built_of_each_item_in_its_languages(tmp_path, demonstrations):
    config = {"kind": "demonstration", "builder": "cross_lingual"}
    out, built = prepared(tmp_path / "built", demonstrations, **config)
    assert len(built) == 22
    by_group = {}
    for row in built:
        by_group.setdefault(row["group_id"], []).append(row)
    first = by_group["item00"]
    assert [rows.text_of(row["completion"]) for row in first] == ["Vier 0.", "Cuatro 0."]
    assert {rows.text_of(row["prompt"]) for row in first} == {"eng_Latn 0?"}
    assert {row["split"] for row in first} == {"eval"}
    assert [row["response_lang"] for row in first] == ["deu_Latn", "spa_Latn"]
    assert {(row["prompt_lang"], row["origin"]) for row in built} == {("eng_Latn", "synthetic")}
    assert len({row["id"] for row in built}) == 22
    dropped = {"not in the pivot language": {"deu_Latn": 1, "spa_Latn": 1}}
    assert out.tally.to_dict()["dropped"] == dropped


def test_how_rows_lie_in_shards_changes_nothing(tmp_path, demonstrations):
    config = {"kind": "demonstration", "builder": "cross_lingual"}
    config["builder_args"] = {"direction": "any", "per_item": 2}
    _, first = prepared(tmp_path / "first", demonstrations, **config)
    with rows.ShardWriter(tmp_path / "other", "demonstration") as writer:
        writer.write_all(reversed(list(rows.read(tmp_path / "demonstrations"))))
    _, second = prepared(tmp_path / "second", {"rows": {"path": str(tmp_path / "other")}}, **config)
    assert first == second


def test_languages_are_those_of_the_rows_that_are_made(tmp_path, demonstrations):
    config = {"kind": "demonstration", "builder": "cross_lingual", "languages": ["deu_Latn"]}
    config["builder_args"] = {"direction": "any"}
    out, built = prepared(tmp_path / "built", demonstrations, **config)
    assert {row["prompt_lang"] for row in built} == {"deu_Latn"}
    assert out.tally.dropped["language_not_asked_for"] == {"eng_Latn": 22, "spa_Latn": 23}


def test_a_builder_that_fails_names_the_group_and_the_line(tmp_path, demonstrations, monkeypatch):
    text = (
        "from mlalign.methods.builders import Group\n"
        "from mlalign.methods.made import Demonstration\n"
        "def broken(group: Group[Demonstration]) -> list[Demonstration] | str:\n"
        "    return group.rows['xxx']\n"
        "def strange(group: Group[Demonstration]) -> list[Demonstration] | str:\n"
        "    return [1]\n"
    )
    (tmp_path / "broken_builder.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    config = {"kind": "demonstration", "builder": "broken_builder:broken"}
    where = r"group item\d\d: builder broken_builder:broken: .*broken_builder.py:4: KeyError: 'xxx'"
    with pytest.raises(UserError, match=where):
        prepared(tmp_path / "built", demonstrations, **config)
    config["builder"] = "broken_builder:strange"
    with pytest.raises(UserError, match="gave 1; expected demonstration rows with a prompt_lang"):
        prepared(tmp_path / "strange", demonstrations, **config)


def test_what_a_builder_reads_and_makes_is_known_before():
    config = {"kind": "demonstration", "builder": "cross_lingual"}
    cfg = schema.build(prepare.Config, config, "config")
    assert prepare.accepts(cfg) == {"rows": ("demonstration", "preference")}
    assert prepare.gives(cfg, {}) == kinds.Gives("demonstration")
    assert list(prepare.identity(cfg, str)) == ["sources", "builder_source"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"builder": "cross_lingul"}, "builder: 'cross_lingul' is no builders method; did you"),
        (
            {"builder": "cross_lingual", "builder_args": {"pivots": "x"}},
            "builder_args.pivots: unknown key; did you mean 'pivot'",
        ),
        (
            {"builder": "cross_lingual", "builder_args": {"per_item": "x"}},
            "builder_args.per_item: expected a whole number, got 'x'",
        ),
        ({"builder_args": {"pivot": "x"}}, "builder_args: there is no builder that they belong to"),
        (
            {"builder": "cross_lingual", "kind": "prompt"},
            "kind: prompt; the builder cross_lingual makes demonstration rows",
        ),
        ({"builder": "cross_lingual", "sources": [TINY]}, "sources: a builder reads rows of"),
        ({"mixing": "unimx", "total_rows": 5}, "mixing: 'unimx' is no mixing method; did you mean"),
        ({"mixing": "unimax"}, "total_rows: missing; the mixing rule unimax divides it"),
        ({"mixing": "cap", "mixing_args": {"rows": 3}, "total_rows": 5}, "total_rows: the mixing"),
        ({"mixing": "cap"}, "mixing_args.rows: missing"),
        ({"mixing_args": {"rows": 3}}, "mixing_args: there is no rule that they belong to"),
        ({"mixing": "temperature", "temperature": 2.0}, "temperature: is the same as mixing"),
    ],
)
def test_mistakes_are_told_before_a_row_is_read(config, message):
    cfg = schema.build(prepare.Config, {"kind": "demonstration", **config}, "config")
    with pytest.raises(UserError) as caught:
        prepare.identity(cfg, str)
    assert [m for m in caught.value.messages if m.startswith(message)], caught.value.messages


def test_new_settings_at_their_defaults_are_not_hashed():
    cfg = schema.build(prepare.Config, {"kind": "demonstration"}, "config")
    assert not {"mixing", "mixing_args", "builder", "builder_args"} & schema.hashed(cfg).keys()
    assert list(prepare.identity(cfg, str)) == ["sources"]


# ------------------------------------------------------------------------------------------ mixing


def counts(read):
    by_language = {}
    for row in read:
        if row["split"] == "train":
            by_language[row["prompt_lang"]] = by_language.get(row["prompt_lang"], 0) + 1
    return by_language


@pytest.mark.slow
def test_the_rule_named_temperature_is_the_setting_temperature(tmp_path, demonstrations):
    config = {"kind": "demonstration", "total_rows": 20}
    _, plain = prepared(tmp_path / "plain", demonstrations, temperature=2.0, **config)
    rule = {"mixing": "temperature", "mixing_args": {"temperature": 2.0}}
    _, named = prepared(tmp_path / "named", demonstrations, **rule, **config)
    assert plain == named


def test_a_cap_for_each_language(tmp_path, demonstrations):
    rule = {"mixing": "cap", "mixing_args": {"rows": 4, "by_language": {"spa_Latn": 6}}}
    out, read = prepared(tmp_path / "rows", demonstrations, kind="demonstration", **rule)
    assert counts(read) == {"eng_Latn": 4, "deu_Latn": 4, "spa_Latn": 6}
    assert out.tally.dropped == {"not_sampled": {"eng_Latn": 5, "deu_Latn": 6, "spa_Latn": 4}}


def test_unimax_repeats_rows_under_ids_of_their_own(tmp_path, demonstrations):
    """English has 9 rows and may be seen twice; the others have 10."""
    rule = {"mixing": "unimax", "mixing_args": {"max_epochs": 2.0}, "total_rows": 48}
    out, read = prepared(tmp_path / "rows", demonstrations, kind="demonstration", **rule)
    assert counts(read) == {"eng_Latn": 16, "deu_Latn": 16, "spa_Latn": 16}
    assert out.tally.sums == {"repeated": {"eng_Latn": 7, "deu_Latn": 6, "spa_Latn": 6}}
    assert len({row["id"] for row in read}) == len(read) == out.tally.rows.total()
    groups = [row["group_id"] for row in read if row["prompt_lang"] == "eng_Latn"]
    times = {groups.count(group) for group in groups}
    assert times == {1, 2}


def test_a_rule_that_gives_no_counts_is_named(tmp_path, demonstrations, monkeypatch):
    text = "def some(available):\n    return {'eng_Latn': 1.5}\n"
    (tmp_path / "my_mixing.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"mixing my_mixing:some: gave .*expected a number of rows"):
        prepared(tmp_path / "r", demonstrations, kind="demonstration", mixing="my_mixing:some")
