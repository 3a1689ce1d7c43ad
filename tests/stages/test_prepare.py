import json
from pathlib import Path

import pytest
import yaml

from mlalign.core import languages, rows, schema, stage, store
from mlalign.core.errors import UserError
from mlalign.stages import prepare

CONF = Path(__file__).parent.parent.parent / "conf"


@pytest.fixture
def run(tmp_path):
    """`run(kind=…, sources=[…])` -> (output, rows)."""
    count = iter(range(100))

    def call(inputs=None, **config):
        path = tmp_path / f"out{next(count)}"
        path.mkdir()
        out = stage.Output(path, store.Store(tmp_path), step="rows")
        cfg = schema.build(prepare.Config, config, "config")
        prepare.run(cfg, stage.Inputs(out.store, inputs or {}), out)
        return out, list(rows.read(path))

    return call


def write(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records), encoding="utf-8"
    )
    return str(path)


def pairs(n, **more):
    return [
        {"prompt": f"p{i}", "chosen": f"good {i}", "rejected": f"bad {i}", **more} for i in range(n)
    ]


def source(data, what, root):
    """One list of a shipped data set, resolved as the command line does."""
    from omegaconf import OmegaConf

    told = OmegaConf.create(
        {"seed": 0, "data": yaml.safe_load((CONF / "data" / f"{data}.yaml").read_text())}
    )
    told.data.root = root and str(root)
    return OmegaConf.to_container(told, resolve=True)["data"][what]


def errors_of(run, **config):
    with pytest.raises(UserError) as error:
        run(**config)
    return error.value.messages


# ------------------------------------------------------------------------------------- what is kept


def test_rows_are_dropped_and_counted_by_reason_and_language(tmp_path, run, capsys):
    good = pairs(3)
    bad = [
        {**good[0], "prompt": " "},
        {**good[0], "rejected": "good  0"},
        {**good[1], "chosen": ""},
        good[2],
        {**good[0], "chosen": "x" * 99},
    ]
    out, found = run(
        kind="preference",
        sources=[{"path": write(tmp_path / "a.jsonl", good + bad), "language": "sw"}],
        max_chars=50,
    )
    assert out.tally.to_dict()["rows"] == {"swh_Latn": 3}
    assert out.tally.to_dict()["dropped"] == {
        "empty_text": {"swh_Latn": 2},
        "rejected_equals_chosen": {"swh_Latn": 1},
        "duplicate": {"swh_Latn": 1},
        "too_long": {"swh_Latn": 1},
    }
    assert "swh_Latn              3        5  duplicate 1, empty_text 2" in capsys.readouterr().out
    row = next(r for r in found if r["prompt"][0]["content"] == "p0")
    assert row["id"] == rows.row_id("a.jsonl", "a.jsonl:1", "swh_Latn")
    assert (row["chosen_lang"], row["rejected_lang"], row["origin"], row["source"]) == (
        "swh_Latn",
        "swh_Latn",
        "native",
        "a.jsonl",
    )


def test_a_group_is_on_one_side_and_rows_of_one_prompt_are_a_group(tmp_path, run):
    told = [{"prompt": f"p{i % 100}", "chosen": f"good {i}", "rejected": "bad"} for i in range(400)]
    _, found = run(
        kind="preference",
        sources=[{"path": write(tmp_path / "a.jsonl", told), "language": "en"}],
        eval_frac=0.3,
    )
    sides = {}
    for row in found:
        sides.setdefault(row["group_id"], set()).add(row["split"])
    assert len(sides) == 100 and all(len(s) == 1 for s in sides.values())
    assert 15 < sum(s == {"eval"} for s in sides.values()) < 45


def test_parallel_files_share_groups_and_therefore_sides(tmp_path, run):
    for language in ("sw", "th"):
        write(tmp_path / f"a.{language}.jsonl", [{"prompt": f"{language} {i}"} for i in range(50)])
    _, found = run(
        kind="prompt",
        sources=[{"path": f"{tmp_path}/a.{{lang}}.jsonl", "parallel": True}],
        eval_frac=0.3,
    )
    by_language = [
        {r["group_id"]: r["split"] for r in found if r["prompt_lang"] == code}
        for code in ("swh_Latn", "tha_Thai")
    ]
    assert by_language[0] == by_language[1] and len(by_language[0]) == 50


@pytest.mark.parametrize("sampling", [{}, {"max_rows_per_language": 40}])
def test_one_more_language_changes_no_shard_of_the_others(tmp_path, run, sampling):
    names = {"sw": "swh_Latn", "th": "tha_Thai", "de": "deu_Latn"}
    for language in names:
        write(tmp_path / f"a.{language}.jsonl", [{"prompt": f"{language} {i}"} for i in range(100)])
    config = {
        "kind": "prompt",
        "sources": [{"path": f"{tmp_path}/a.{{lang}}.jsonl", "parallel": True}],
        "eval_frac": 0.2,
        **sampling,
    }
    two, _ = run(**config, languages=["swh_Latn", "tha_Thai"])
    three, _ = run(**config, languages=["deu_Latn", "swh_Latn", "tha_Thai"])
    files = [p.name for p in rows.shards(two.path)]
    assert {name.split(".")[0] for name in files} == {"swh_Latn", "tha_Thai"}
    assert all(
        (two.path / "rows" / name).read_bytes() == (three.path / "rows" / name).read_bytes()
        for name in files
    )
    assert len(rows.shards(three.path)) == len(files) + 2


def test_sub_sampling_keeps_translations_together_and_prints_shares(tmp_path, run, capsys):
    for language, n in (("en", 400), ("sw", 100)):
        write(tmp_path / f"a.{language}.jsonl", [{"prompt": f"{language} {i}"} for i in range(n)])
    config = {
        "kind": "prompt",
        "sources": [{"path": f"{tmp_path}/a.{{lang}}.jsonl", "parallel": True, "split": "train"}],
    }
    out, found = run(**config, temperature=2.0, total_rows=90)
    # sqrt(400) : sqrt(100) = 2 : 1
    assert out.tally.to_dict()["rows"] == {"eng_Latn": 60, "swh_Latn": 30}
    assert out.tally.to_dict()["dropped"] == {"not_sampled": {"eng_Latn": 340, "swh_Latn": 70}}
    printed = capsys.readouterr().out
    assert "eng_Latn            400  80.0%       60  66.7%" in printed
    assert len({r["id"] for r in found}) == 90 and not out.checkpoints.joinpath("all").exists()
    out, found = run(**config, max_rows_per_language=20)
    groups = [
        {r["group_id"] for r in found if r["prompt_lang"] == code}
        for code in ("eng_Latn", "swh_Latn")
    ]
    assert [len(g) for g in groups] == [20, 20]
    assert any(g in groups[1] for g in groups[0])


def test_rows_of_an_earlier_step_are_a_source(tmp_path, run):
    first, _ = run(
        kind="preference",
        sources=[{"path": write(tmp_path / "a.jsonl", pairs(10)), "language": "en"}],
    )
    _, again = run(inputs={"rows": [{"path": str(first.path)}]}, kind="demonstration")
    assert {r["completion"][0]["content"] for r in again} == {f"good {i}" for i in range(10)}
    assert {r["id"] for r in again} == {r["id"] for r in rows.read(first.path)}
    with pytest.raises(UserError, match="unpaired rows cannot be made"):
        run(inputs={"rows": [{"path": str(first.path)}]}, kind="unpaired")


def test_a_data_set_by_its_hub_name(tmp_path, run, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    write(
        tmp_path / "set" / "train.jsonl",
        [
            {
                "chosen": [
                    {"role": "user", "content": f"p{i}"},
                    {"role": "assistant", "content": "good"},
                ],
                "rejected": [
                    {"role": "user", "content": f"p{i}"},
                    {"role": "assistant", "content": "bad"},
                ],
            }
            for i in range(5)
        ],
    )
    out, _ = run(
        kind="preference",
        sources=[
            {"hub": str(tmp_path / "set"), "language": "en", "source": "mine", "licence": "MIT"}
        ],
    )
    assert out.tally.rows["eng_Latn"] == 5
    assert out.notes["sources"][0] == {
        "source": "mine",
        "path": None,
        "hub": str(tmp_path / "set"),
        "revision": None,
        "licence": "MIT",
        "sensitive": False,
    }


def test_max_rows_and_languages_of_a_source(tmp_path, run):
    told = [{"prompt": f"p{i}", "lang": ("en", "sw")[i % 2]} for i in range(20)]
    path = write(tmp_path / "a.jsonl", told)
    out, _ = run(
        kind="prompt",
        sources=[
            {"path": path, "columns": {"language": "lang"}, "languages": ["sw"], "max_rows": 10}
        ],
    )
    assert out.tally.to_dict()["rows"] == {"swh_Latn": 5}
    assert out.tally.to_dict()["dropped"] == {"language_not_asked_for": {"eng_Latn": 5}}


# --------------------------------------------------------------------------------- what is an error


def test_mistakes_in_the_form_are_reported_together_with_place(tmp_path, run):
    a = tmp_path / "a.jsonl"
    a.write_bytes(
        b'{"prompt": "p", "lang": "en"}\n{"prompt": \n{"prompt": "caf\xe9", "lang":'
        b' "en"}\n{"prompt": "p", "lang": "Swaili"}\n'
    )
    b = write(tmp_path / "b.jsonl", [{"question": "p", "lang": "en"}] * 30)
    found = errors_of(
        run,
        kind="prompt",
        sources=[{"path": str(p), "columns": {"language": "lang"}} for p in (a, b)],
    )
    assert [m.split(": ")[0] for m in found] == [f"{a}:2", f"{a}:3", f"{a}:4", f"{b}:1"]
    for message, told in zip(
        found,
        ["broken JSON", "not UTF-8", "did you mean 'Swahili'", "columns: {prompt: THEIRS}"],
        strict=True,
    ):
        assert told in message


@pytest.mark.parametrize(
    ("told", "config"),
    [
        ("sources[0].path: there is no file", {"sources": [{"path": "/none.jsonl", "language": "en"}]}),
        ("sources[0].path: data.root: missing", {"sources": [{"path": "None/a.jsonl", "language": "en"}]}),
        ("sources[0].path: give either", {"sources": [{"language": "en"}]}),
        ("sources[0].revision: missing", {"sources": [{"hub": "org/none", "language": "en"}]}),
        ("sources[0].columns.promt: prompt rows have no such column; did you mean 'prompt'", {"sources": [{"path": "A", "language": "en", "columns": {"promt": "x"}}]}),
        ("sources[0].language: missing", {"sources": [{"path": "A"}]}),
        ("sources[0].language: language 'Swaili': unknown", {"sources": [{"path": "A", "language": "Swaili"}]}),
        ("sources[0].weight: must be above 0", {"sources": [{"path": "A", "language": "en", "weight": 0}]}),
        ("sources[0].adapter: mgsm gives prompt rows", {"kind": "preference", "sources": [{"adapter": "mgsm", "path": "A", "language": "en"}]}),
        ("sources[0].options.n: missing", {"sources": [{"adapter": "tiny_world"}]}),
        ("sources[0].adapter: 'hh' is not possible", {"sources": [{"adapter": "hh", "path": "A"}]}),
        ("sources[0].format: 'xml' is not possible", {"sources": [{"format": "xml", "path": "A"}]}),
        ("quote it", {"sources": [{"path": "A", "language": False}]}),
        ("sources: null", {"sources": None}),
        ("sources: none", {"sources": []}),
        ("eval_frac: a share", {"eval_frac": 5.0, "sources": [{"path": "A", "language": "en"}]}),
        ("temperature: must be above 0", {"temperature": 0.0, "sources": [{"path": "A", "language": "en"}]}),
        ("no prompt row is left in tha_Thai: no source has it (they have eng_Latn)", {"languages": ["eng_Latn", "tha_Thai"], "sources": [{"path": "A", "language": "en"}]}),
        ("no prompt row is left in eng_Latn: dropped 2 too_long", {"languages": ["eng_Latn"], "max_chars": 1, "sources": [{"path": "A", "language": "en"}]}),
    ],
)  # fmt: skip
def test_mistakes_in_the_configuration(tmp_path, run, told, config):
    path = write(tmp_path / "a.jsonl", [{"prompt": "one"}, {"prompt": "two"}])
    told_sources = [
        {**s, "path": path} if s.get("path") == "A" else s for s in config["sources"] or []
    ]
    found = errors_of(
        run,
        **{
            "kind": "prompt",
            **config,
            "sources": told_sources if config["sources"] is not None else None,
        },
    )
    assert any(told in message for message in found), found


def test_a_group_in_both_splits_and_an_id_twice_are_errors(tmp_path, run):
    told = [{"prompt": "a", "g": 1, "s": "train"}, {"prompt": "b", "g": 1, "s": "test"}]
    columns = {"group_id": "g", "split": "s"}
    found = errors_of(
        run,
        kind="prompt",
        sources=[{"path": write(tmp_path / "a.jsonl", told), "language": "en", "columns": columns}],
    )
    assert "is in train and in eval" in found[0] and "a.jsonl:2" in found[0]
    told = [{"prompt": "a", "id": 1}, {"prompt": "b", "id": 1}]
    found = errors_of(
        run, kind="prompt", sources=[{"path": write(tmp_path / "a.jsonl", told), "language": "en"}]
    )
    assert "has the same id" in found[0]


def test_a_file_read_twice_is_an_error(tmp_path, run):
    told = {"path": write(tmp_path / "a.jsonl", [{"prompt": "a"}]), "language": "en"}
    assert "read twice" in errors_of(run, kind="prompt", sources=[told, told])[0]


def test_a_fingerprint_follows_content_and_not_place(tmp_path):
    def identity(folder, text):
        write(tmp_path / folder / "a.sw.jsonl", [{"prompt": text}])
        write(tmp_path / folder / "a.th.jsonl", [{"prompt": "other"}])
        sources = [{"path": f"{tmp_path}/{folder}/a.{{lang}}.jsonl"}]
        cfg = schema.build(
            prepare.Config,
            {"kind": "prompt", "sources": sources, "languages": ["swh_Latn"]},
            "config",
        )
        return prepare.identity(cfg, store.sha256)

    assert identity("here", "x") == identity("there", "x") != identity("here", "y")


@pytest.mark.slow
def test_flipped_preferences_are_a_fixed_share_of_training_rows(tmp_path, run):
    told = [
        {**p, "chosen_lang": "sw", "split": "eval" if i % 4 == 0 else "train", "margin": 2.0}
        for i, p in enumerate(pairs(800))
    ]
    config = {
        "kind": "preference",
        "sources": [{"path": write(tmp_path / "a.jsonl", told), "language": "sw"}],
    }
    straight, (out, flipped) = run(**config)[1], run(**config, flip_frac=0.5)
    assert run(**config, flip_frac=0.5)[1] == flipped != run(**config, flip_frac=0.5, seed=1)[1]
    assert run(**config, flip_frac=0.0)[1] == straight
    swapped = [
        a["id"]
        for a, b in zip(straight, flipped, strict=True)
        if (a["chosen"], a["rejected"]) == (b["rejected"], b["chosen"])
    ]
    assert [a for a in straight if a["id"] not in swapped] == [
        b for b in flipped if b["id"] not in swapped
    ]
    assert {r["split"] for r in flipped if r["id"] in swapped} == {"train"} and {
        r["margin"] for r in flipped
    } == {2.0}
    assert len(swapped) / 600 == pytest.approx(0.5, abs=0.06) and out.tally.to_dict()["sums"] == {
        "flipped": {"swh_Latn": len(swapped)}
    }
    everything = run(**config, flip_frac=1.0)[1]
    assert all(
        r["chosen"][0]["content"].startswith("bad") == (r["split"] == "train") for r in everything
    )


def test_only_preferences_can_be_flipped(run):
    wrong = {"sources": [{"adapter": "tiny_world", "options": {"n": 1}}]}
    assert errors_of(run, kind="prompt", flip_frac=0.5, **wrong) == [
        "flip_frac: swaps the sides of preferences; prompt rows have none"
    ]
    assert errors_of(run, kind="preference", flip_frac=1.5, **wrong) == [
        "flip_frac: a share between 0 and 1, got 1.5"
    ]


# -------------------------------------------------------------------------------- shipped data sets


@pytest.mark.parametrize("kind", ["demonstration", "preference", "prompt"])
@pytest.mark.slow
def test_tiny_world(run, kind):
    out, found = run(kind=kind, sources=source("tiny_world", f"{kind}s", None))
    held_out = {"deu_Latn", "tha_Thai"}
    assert len(+out.tally.rows) == (10 if kind == "demonstration" else 12)
    assert not held_out & {
        r[column]
        for r in found
        if r["split"] == "train"
        for column in ("prompt_lang", "response_lang")
        if column in r
    }
    assert {r["origin"] for r in found} == {"synthetic"}
    if kind == "preference":
        assert {r["prompt_lang"] for r in found if r["split"] == "train"} == {"eng_Latn"}
        assert {json.loads(r["metadata"])["kind"] for r in found if r["split"] == "eval"} == {
            "wrong",
            "habit",
            "cut",
            "other_language",
        }
        assert sum(r["split"] == "eval" for r in found) == 12 * 120
    if kind == "prompt":
        assert len(found) == 10 * 80 + 12 * 60
        assert {
            r["prompt_lang"] for r in found if json.loads(r["metadata"])["exposure"] == "held_out"
        } == held_out


@pytest.mark.data
@pytest.mark.slow
def test_hh_rlhf_uses_2307_of_2312(run, real_data):
    out, found = run(
        kind="preference", sources=source("hh_rlhf", "preferences", real_data / "hh_harmless")
    )
    assert out.tally.to_dict() == {
        "rows": {"eng_Latn": 2307},
        "dropped": {"prompts_differ": {"eng_Latn": 5}},
        "sums": {"empty_answers_kept": {"eng_Latn": 4}},
    }
    assert out.notes["sensitive"] is True and out.notes["sources"][0]["licence"] == "MIT"
    for row in found:
        roles = [m["role"] for m in row["prompt"]]
        assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"]
        assert "\n\nHuman:" not in row["chosen"][0]["content"]


@pytest.mark.data
@pytest.mark.slow
def test_xcopa_is_parallel_in_11_languages(run, real_data):
    codes = languages.sets(CONF / "languages")["xcopa"]
    out, found = run(
        kind="preference",
        sources=source("xcopa", "preferences", real_data / "xcopa"),
        languages=codes,
    )
    assert out.tally.to_dict() == {
        "rows": dict.fromkeys(sorted(codes), 600),
        "dropped": {},
        "sums": {},
    }
    groups = {
        code: {(r["group_id"], r["split"]) for r in found if r["prompt_lang"] == code}
        for code in codes
    }
    assert all(g == groups["swh_Latn"] and len(g) == 600 for g in groups.values())


@pytest.mark.data
def test_mgsm_is_parallel_in_11_languages(run, real_data):
    codes = languages.sets(CONF / "languages")["mgsm"]
    out, found = run(
        kind="prompt", sources=source("mgsm", "prompts", real_data / "mgsm"), languages=codes
    )
    assert out.tally.to_dict() == {
        "rows": dict.fromkeys(sorted(codes), 250),
        "dropped": {},
        "sums": {},
    }
    answers = {}
    for row in found:
        answers.setdefault(row["group_id"], set()).add(row["reference"])
    assert len(answers) == 250 and all(len(a) == 1 for a in answers.values())


@pytest.mark.data
def test_adding_a_language_of_xcopa_keeps_the_shards(run, real_data):
    config = {"kind": "preference", "sources": source("xcopa", "preferences", real_data / "xcopa")}
    one, _ = run(**config, languages=["swh_Latn"])
    two, _ = run(**config, languages=["que_Latn", "swh_Latn"])
    assert [(p.name, p.read_bytes()) for p in rows.shards(one.path)] == [
        (p.name, p.read_bytes()) for p in rows.shards(two.path, None, ["swh_Latn"])
    ]
