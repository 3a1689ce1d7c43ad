"""The stage `pairs` on real shards: joining, gates, normalising, counting, bad input."""

from pathlib import Path

import pytest

from mlalign.core import rows, schema, stage, store
from mlalign.core.errors import UserError
from mlalign.stages import pairs

# language -> prompts, each a list of (text, reward, adherence)
WORLD = {
    "eng_Latn": [
        [("right", 2.0, 1.0), ("wrong", -1.0, 1.0), ("half", 0.5, 1.0)],
        [("same", 1.0, 1.0), ("same too", 1.0, 1.0)],
    ],
    "swh_Latn": [
        [("sawa", 1.0, 1.0), ("english", 3.0, 0.0), ("mbaya", 0.0, 1.0)],
        [("only english", 3.0, 0.0), ("more english", 1.0, None)],
        [("x", None, 1.0), ("  ", 4.0, 1.0)],
    ],
}


def write_world(
    root: Path, world: dict = WORLD, split: str = "train", sampler: str = "s"
) -> dict[str, dict]:
    """Candidates and scores artifacts; returns the inputs of the stage."""
    for language, prompts in world.items():
        candidates, scores = [], []
        for i, answers in enumerate(prompts):
            common = {
                "id": rows.row_id("src", str(i), language),
                "group_id": f"g{i}",
                "prompt_lang": language,
                "source": "src",
                "origin": "native",
                "split": split,
            }
            ids = [rows.candidate_id(common["id"], sampler, k) for k in range(len(answers))]
            responses = [
                {"candidate_id": c, "text": a[0], "n_tokens": 3, "finish_reason": "stop"}
                for c, a in zip(ids, answers, strict=True)
            ]
            candidates.append(
                {
                    **common,
                    "prompt": rows.messages(f"question {i}"),
                    "response_lang_requested": language,
                    "responses": responses,
                }
            )
            for c, (_, reward, adherence) in zip(ids, answers, strict=True):
                detected = None if adherence is None else language if adherence else "eng_Latn"
                marks = {
                    "score.reward": reward,
                    "score.language_adherence": adherence,
                    "response_lang_detected": detected,
                }
                scores.append({**common, "candidate_id": c, **marks})
        name = rows.shard_name(language, split, 0)
        rows.write_shard(root / "candidates" / "rows" / name, "candidates", candidates)
        rows.write_shard(
            root / "scores" / "rows" / name,
            "scores",
            scores[::-1],
            ("reward", "language_adherence"),
        )
    return {"rows": {"path": str(root / "candidates")}, "scores": {"path": str(root / "scores")}}


def run(root: Path, slots: dict, name: str = "out", **config) -> tuple[stage.Output, list[dict]]:
    out = stage.Output(root / f"{name}.partial", store.Store(root), step="pairs")
    out.path.mkdir()
    pairs.run(schema.build(pairs.Config, config), stage.Inputs(out.store, slots), out)
    return out, list(rows.read(out.path))


def texts(made: list[dict]) -> list[tuple[str, str, float]]:
    return [(rows.text_of(r["chosen"]), rows.text_of(r["rejected"]), r["margin"]) for r in made]


def test_best_worst_end_to_end(tmp_path):
    out, made = run(tmp_path, write_world(tmp_path))
    assert texts(made) == [("right", "wrong", 3.0), ("sawa", "mbaya", 1.0)]
    assert out.tally.to_dict() == {
        "rows": {"eng_Latn": 1, "swh_Latn": 1},
        "dropped": {
            "no candidate may be chosen": {"swh_Latn": 1},
            "no usable candidate": {"swh_Latn": 1},
            "tie": {"eng_Latn": 1},
        },
        "sums": {
            "candidates dropped: empty text": {"swh_Latn": 1},
            "candidates dropped: no score reward": {"swh_Latn": 1},
            "candidates: language not known": {"swh_Latn": 1},
        },
    }
    first = made[0]
    assert rows.kind_of(out.path) == "preference"
    assert first["prompt"] == rows.messages("question 0")
    assert first["chosen"] == [{"role": "assistant", "content": "right"}]
    assert (first["score_chosen"], first["score_rejected"], first["chosen_lang"]) == (
        2.0,
        -1.0,
        "eng_Latn",
    )
    assert (first["group_id"], first["source"], first["origin"], first["split"]) == (
        "g0",
        "src",
        "synthetic",
        "train",
    )
    assert (first["method"], out.notes["score"]) == ("best_worst", "reward")
    assert [p.name for p in rows.shards(out.path)] == [
        "eng_Latn.train.00000.parquet",
        "swh_Latn.train.00000.parquet",
    ]


def test_ids_are_stable_and_follow_the_candidates(tmp_path):
    for folder in ("a", "b", "c"):
        (tmp_path / folder).mkdir()
    one, two = (run(tmp_path / d, write_world(tmp_path / d)) for d in ("a", "b"))
    other = run(tmp_path / "c", write_world(tmp_path / "c", sampler="another"))
    assert [p.read_bytes() for p in rows.shards(one[0].path)] == [
        p.read_bytes() for p in rows.shards(two[0].path)
    ]
    assert not {r["id"] for r in one[1]} & {r["id"] for r in other[1]}


def test_wrong_language_off_and_penalise(tmp_path):
    slots = write_world(tmp_path)
    _, off = run(tmp_path, slots, "off", args={"wrong_language": "off"}, languages=["swh_Latn"])
    assert texts(off) == [("english", "mbaya", 3.0), ("only english", "more english", 2.0)]
    assert [r["chosen_lang"] for r in off] == ["eng_Latn", "eng_Latn"]
    _, penalised = run(
        tmp_path,
        slots,
        "penalise",
        args={"wrong_language": "penalise", "penalty": 10},
        languages=["swh_Latn"],
    )
    assert texts(penalised)[0] == ("sawa", "english", 8.0)
    assert penalised[0]["score_rejected"] == 3.0  # raw


def test_best_of_n_makes_demonstrations(tmp_path):
    out, made = run(tmp_path, write_world(tmp_path), method="best_of_n")
    assert rows.kind_of(out.path) == "demonstration"
    assert [rows.text_of(r["completion"]) for r in made] == ["right", "same", "sawa"]
    assert [r["response_lang"] for r in made] == ["eng_Latn", "eng_Latn", "swh_Latn"]


def test_gates_on_chosen_and_on_both(tmp_path):
    slots = write_world(tmp_path)
    gate = {"score": "reward", "max": 1.5}
    _, chosen = run(tmp_path, slots, "chosen", gates=[gate], languages=["eng_Latn"])
    assert texts(chosen) == [("half", "wrong", 1.5)]
    out, both = run(
        tmp_path,
        slots,
        "both",
        gates=[{"score": "reward", "min": 0.0, "applies_to": "both"}],
        languages=["eng_Latn"],
    )
    assert texts(both) == [("right", "half", 1.5)]
    assert out.tally.sums["candidates dropped: gate reward"] == {"eng_Latn": 1}


def test_min_margin_and_z_scores(tmp_path):
    slots = write_world(tmp_path)
    out, made = run(tmp_path, slots, "margin", min_margin=1.5)
    assert texts(made) == [("right", "wrong", 3.0)]
    assert out.tally.dropped["margin below min_margin"] == {"swh_Latn": 1}
    _, by_prompt = run(tmp_path, slots, "prompt", normalise="prompt", languages=["eng_Latn"])
    assert by_prompt[0]["margin"] == pytest.approx(
        3.0 / 1.5**0.5
    )  # scores 2, -1, 0.5: mean 0.5, variance 1.5
    assert by_prompt[0]["score_chosen"] == 2.0
    _, by_language = run(tmp_path, slots, "language", normalise="language", languages=["eng_Latn"])
    # scores 2, -1, 0.5, 1, 1: mean 0.7, variance 0.96
    assert by_language[0]["margin"] == pytest.approx(3.0 / 0.96**0.5)


def test_a_method_of_ones_own_gets_a_seed_for_each_prompt(tmp_path, monkeypatch):
    method = "def draw(scored, *, seed: int = 0):\n    return [scored[seed % len(scored)]]\n"
    (tmp_path / "own_draw.py").write_text(method)
    monkeypatch.syspath_prepend(tmp_path)
    slots = write_world(tmp_path, {"eng_Latn": [[(f"t{k}", float(k), 1.0) for k in range(5)]] * 12})
    drawn = [
        [
            rows.text_of(r["completion"])
            for r in run(tmp_path, slots, f"o{i}", method="own_draw:draw", seed=s)[1]
        ]
        for i, s in enumerate((0, 0, 1))
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(set(drawn[0])) > 1


def test_identity_checks_the_method_and_follows_its_text(tmp_path, monkeypatch):
    digest = store.sha256
    assert pairs.identity(pairs.Config(), digest) != pairs.identity(
        pairs.Config(method="best_of_n"), digest
    )
    (tmp_path / "own_id.py").write_text("def own(scored):\n    return 'nothing'\n")
    monkeypatch.syspath_prepend(tmp_path)
    before = pairs.identity(pairs.Config(method="own_id:own"), digest)
    (tmp_path / "own_id.py").write_text("def own(scored):\n    return 'else'\n")
    assert pairs.identity(pairs.Config(method="own_id:own"), digest) != before
    with pytest.raises(UserError, match=r"args\.penalti: unknown key"):
        pairs.identity(pairs.Config(args={"penalti": 1}), digest)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"score": "rewrd"}, "score: .* have no column 'rewrd'; did you mean 'reward'"),
        ({"gates": [{"score": "lenght"}]}, r"gates\[0\]\.score: .* have no column 'lenght'"),
        ({"adherence": "language"}, "adherence: .* have no column 'language'.*wrong_language=off"),
        ({"languages": ["swa_Latn"]}, "no candidates in 'swa_Latn'; did you mean 'swh_Latn'"),
        ({"split": "eval"}, "no candidates of split 'eval'"),
        ({"min_margin": 99}, "pairs: no prompt gave a row .*2 x margin below min_margin"),
    ],
)
def test_mistakes_are_named(tmp_path, config, message):
    with pytest.raises(UserError, match=message):
        run(tmp_path, write_world(tmp_path), **config)


def test_scores_of_other_candidates(tmp_path):
    slots = write_world(tmp_path)
    (tmp_path / "scores/rows/swh_Latn.train.00000.parquet").unlink()
    with pytest.raises(UserError, match=r"lacks swh_Latn\.train\.00000\.parquet \(1 of 2 shards\)"):
        run(tmp_path, slots)
    with pytest.raises(UserError, match="holds scores rows, `pairs` needs candidates"):
        run(tmp_path, {**slots, "rows": slots["scores"]}, "swapped")


def test_it_stops_when_asked(tmp_path):
    slots = write_world(tmp_path)
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial/STOP").touch()
    out = stage.Output(tmp_path / "out.partial", store.Store(tmp_path))
    with pytest.raises(stage.Stopped):
        pairs.run(pairs.Config(), stage.Inputs(out.store, slots), out)
