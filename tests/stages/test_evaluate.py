"""The stage `evaluate` on real shards: what it measures, by hand."""

import csv
from pathlib import Path

import pytest
from helpers import write_manifest

from mlalign.core import rows, schema, stage, store
from mlalign.core.errors import UserError
from mlalign.core.store import read_json
from mlalign.stages import evaluate

# language -> prompts -> answers (text, {score: value})
OURS = {
    "eng_Latn": [
        [("aaaa", {"verifier": 1.0, "judge": 3.0}), ("bb", {"verifier": 0.0, "judge": 1.0})],
        [("cc", {"verifier": 1.0, "judge": 2.0})],
    ],
    "swh_Latn": [
        [("dddd", {"verifier": 0.0, "judge": 1.0})],
        [("ee", {"verifier": None, "judge": 0.0})],
    ],
}
THEIRS = {
    "eng_Latn": [
        [("ff", {"verifier": 1.0, "judge": 2.0})],
        [("gg", {"verifier": 1.0, "judge": 2.0})],
    ],
    "swh_Latn": [
        [("hh", {"verifier": 1.0, "judge": 2.0})],
        [("ii", {"verifier": None, "judge": 0.0})],
    ],
}

PROMPTS = {
    "eng_Latn": "12345",
    "swh_Latn": "1234567890",
    "fra_Latn": "é",
    "tha_Thai": "ไทย",
    "ell_Grek": "ναι",
}  # 5, 10, 2, 9, 6 bytes


def common(language: str, i: int) -> dict:
    """Prompt 0 is native, the others are translated."""
    origin = "human_translated" if i else "native"
    return {
        "id": rows.row_id("src", str(i), language),
        "group_id": f"g{i}",
        "prompt_lang": language,
        "source": "src",
        "origin": origin,
        "split": "eval",
    }


def write_answers(root: Path, name: str, world: dict) -> list[dict]:
    """Candidates and their scores (`detected` among them is the language found); returns the two
    inputs.
    """
    columns = sorted(
        {
            k
            for prompts in world.values()
            for answers in prompts
            for _, marks in answers
            for k in marks
        }
        - {"detected"}
    )
    for language, prompts in world.items():
        candidates, scores = [], []
        for i, answers in enumerate(prompts):
            base, responses = common(language, i), []
            for k, (text, marks) in enumerate(answers):
                identifier = rows.candidate_id(base["id"], name, k)
                responses.append(
                    {
                        "candidate_id": identifier,
                        "text": text,
                        "n_tokens": 2 * len(text),
                        "finish_reason": "stop",
                    }
                )
                told = {f"score.{n}": v for n, v in marks.items() if n != "detected"}
                scores.append(
                    {
                        **base,
                        "candidate_id": identifier,
                        "response_lang_detected": marks.get("detected"),
                        **told,
                    }
                )
            candidates.append(
                {
                    **base,
                    "prompt": rows.messages(PROMPTS[language]),
                    "response_lang_requested": language,
                    "responses": responses,
                }
            )
        shard = rows.shard_name(language, "eval", 0)
        rows.write_shard(root / name / "rows" / shard, "candidates", candidates)
        rows.write_shard(root / f"{name}_scores" / "rows" / shard, "scores", scores, columns)
    return [{"path": str(root / name)}, {"path": str(root / f"{name}_scores")}]


def write_preferences(
    root: Path, rewards: dict[str, dict[str, list[tuple[float, float]]]]
) -> list[dict]:
    """One artifact of scores for each reward model, as `foreach` gives them: reward -> language ->
    (chosen, rejected).
    """
    scored = []
    for source, by_language in rewards.items():
        for language, sides in by_language.items():
            marks = []
            for i, (chosen, rejected) in enumerate(sides):
                base = common(language, i)
                for side, value in (("chosen", chosen), ("rejected", rejected)):
                    marks.append(
                        {
                            **base,
                            "candidate_id": rows.side_id(base["id"], side),
                            "score.reward": value,
                        }
                    )
            shard = rows.shard_name(language, "eval", 0)
            rows.write_shard(
                root / f"scores-{source}" / "rows" / shard, "scores", marks, ("reward",)
            )
        write_manifest(root / f"scores-{source}", kind="scores")
        scored.append(
            {
                "artifact": f"scores-{source}",
                "step": f"scores[{source}]",
                "binding": {"lang": source},
            }
        )
    return scored


def run(root: Path, slots: dict, **config) -> tuple[stage.Output, dict]:
    out = stage.Output(root / "out.partial", store.Store(root), step="metrics")
    out.path.mkdir(exist_ok=True)
    evaluate.run(
        schema.build(evaluate.Config, {"n_bootstrap": 100, **config}),
        stage.Inputs(out.store, slots),
        out,
    )
    return out, {
        (r["metric"], r["by"], r["language"]): r
        for r in read_json(out.path / "metrics.json")["rows"]
    }


def test_answers_by_hand(tmp_path):
    ours, marks = write_answers(tmp_path, "ours", OURS)
    out, table = run(tmp_path, {"rows": [ours], "scores": [marks]})
    value = {(m, lang): r["value"] for (m, _, lang), r in table.items()}
    assert value["accuracy", "eng_Latn"] == 0.75  # prompts 1/2 and 1
    assert value["accuracy", "swh_Latn"] == 0.0  # the answer without a reference does not count
    assert (value["accuracy", "avg"], value["accuracy", "gap_to_english"]) == (0.375, 0.75)
    assert table["accuracy", "verifier", "worst"]["which"] == "swh_Latn"
    assert table["accuracy", "verifier", "swh_Latn"]["n"] == 1
    assert (value["characters", "eng_Latn"], value["tokens", "eng_Latn"]) == (2.5, 5.0)
    assert ("characters", "worst") not in value
    assert (value["bytes", "eng_Latn"], value["tokens_per_character", "swh_Latn"]) == (2.5, 2.0)
    assert (value["byte_premium", "swh_Latn"], value["content_bytes", "swh_Latn"]) == (
        2.0,
        1.5,
    )  # 3 bytes at 2 for 1
    assert value["truncated", "eng_Latn"] == 0.0
    assert (
        value["consistency", "swh_Latn"] == 0.5
    )  # prompt 0: half of the English answers are right, the Swahili one is not
    assert out.tally.rows == {"eng_Latn": 2, "swh_Latn": 2}


def test_what_lacks_its_columns_is_said_with_the_reason(tmp_path):
    ours, marks = write_answers(tmp_path, "ours", OURS)
    out, table = run(tmp_path, {"rows": [ours], "scores": [marks]})
    said = out.notes["not_computed"]
    assert said == read_json(out.path / "metrics.json")["not_computed"]
    assert (
        said[0]
        == "adherence: values in column 'language_adherence' for fewer than half of the answers"
    )
    assert said[1].startswith(
        "line_share, word_share, line_pass, word_pass, lcpr: no value in the columns of"
        " 'language_adherence' on lines"
    )
    assert said[2].startswith(
        "right_in_language, right_elsewhere, wrong_in_language, wrong_elsewhere,"
        " adherence_of_right, coco_cola: no answer"
    )
    assert said[3:] == [
        "breakdown by kind, quality, task, exposure: no `items` with metadata are given"
    ]
    measured = {metric for metric, _, _ in table}
    assert not measured & {"adherence", "lcpr", "coco_cola"}


@pytest.mark.slow
def test_win_rate_against_a_baseline(tmp_path):
    ours, marks = write_answers(tmp_path, "ours", OURS)
    theirs, their_marks = write_answers(tmp_path, "theirs", THEIRS)
    slots = {"rows": [ours], "scores": [marks], "baseline": theirs, "baseline_scores": their_marks}
    _, table = run(tmp_path, slots, win_by="judge")
    assert (
        table["win_rate", "judge", "eng_Latn"]["value"] == 0.5
    )  # prompt 0: 1 win, 1 loss; prompt 1: tie
    assert table["win_rate", "judge", "swh_Latn"]["value"] == 0.25  # a loss and a tie
    assert table["win_rate", "judge", "avg"]["value"] == 0.375
    assert (
        0.25 < table["win_rate_lc", "judge", "swh_Latn"]["value"] < 0.51
    )  # the loss was the longer answer
    low, high = (table["win_rate", "judge", "avg"][k] for k in ("low", "high"))
    assert low <= 0.375 <= high


def test_best_of_n_as_a_metric(tmp_path):
    ours, marks = write_answers(tmp_path, "ours", OURS)
    _, table = run(
        tmp_path, {"rows": [ours], "scores": [marks]}, select_by="judge", languages=["eng_Latn"]
    )
    assert table["selected_accuracy", "judge", "eng_Latn"]["value"] == 1.0
    assert table["oracle_accuracy", "verifier", "eng_Latn"]["value"] == 1.0
    assert table["accuracy", "verifier", "eng_Latn"]["value"] == 0.75


@pytest.mark.slow
def test_transfer_matrix_from_foreach(tmp_path):
    rewards = {
        "eng_Latn": {"eng_Latn": [(2, 1), (2, 1)], "swh_Latn": [(2, 1), (1, 1)]},
        "swh_Latn": {"eng_Latn": [(1, 2), (2, 1)], "swh_Latn": [(2, 1), (2, 1)]},
    }
    scored = write_preferences(tmp_path, rewards)
    out, table = run(tmp_path, {"scores": scored})
    assert table["reward_accuracy", "reward[eng_Latn]", "swh_Latn"]["value"] == 0.75
    assert table["reward_ties", "reward[eng_Latn]", "swh_Latn"]["value"] == 0.5
    matrix = read_json(out.path / "metrics.json")["matrix"]
    assert (matrix["sources"], matrix["targets"]) == (
        ["eng_Latn", "swh_Latn"],
        ["eng_Latn", "swh_Latn"],
    )
    assert matrix["values"] == [[1.0, 0.75], [0.5, 1.0]]


def test_csv_and_json_hold_the_same_and_twice_the_same(tmp_path):
    ours, marks = write_answers(tmp_path, "ours", OURS)
    out, table = run(tmp_path, {"rows": [ours], "scores": [marks]})
    first = {p.name: p.read_bytes() for p in out.path.glob("metrics.*")}
    with open(out.path / "metrics.csv", newline="") as f:
        read = list(csv.DictReader(f))
    assert [(r["metric"], r["by"], r["language"], float(r["value"])) for r in read] == [
        (*k, r["value"]) for k, r in table.items()
    ]
    run(tmp_path, {"rows": [ours], "scores": [marks]})
    assert {p.name: p.read_bytes() for p in out.path.glob("metrics.*")} == first


def test_answers_without_scores_are_counted(tmp_path):
    ours, marks = write_answers(tmp_path, "ours", OURS)
    (tmp_path / "ours_scores/rows/swh_Latn.eval.00000.parquet").unlink()
    out, table = run(tmp_path, {"rows": [ours], "scores": [marks]})
    assert out.tally.sums["answers without scores"] == {"swh_Latn": 2}
    assert ("accuracy", "verifier", "swh_Latn") not in table


@pytest.mark.parametrize(
    ("config", "baseline", "message"),
    [
        (
            {"accuracy_by": "verifer"},
            False,
            "accuracy_by: the scores have no column 'verifer'; did you mean 'verifier'",
        ),
        ({"reward_by": ["x"]}, False, r"reward_by\[0\]: the scores have no column 'x'"),
        (
            {"win_by": "juge"},
            True,
            "win_by: the scores have no column 'juge'; did you mean 'judge'",
        ),
        ({"split": "train"}, False, "no rows of split 'train'"),
    ],
)
def test_mistakes_are_named(tmp_path, config, baseline, message):
    ours, marks = write_answers(tmp_path, "ours", OURS)
    slots = {"rows": [ours], "scores": [marks], **({"baseline": ours} if baseline else {})}
    with pytest.raises(UserError, match=message):
        run(tmp_path, slots, **config)


def test_a_baseline_on_other_prompts(tmp_path):
    ours, marks = write_answers(tmp_path, "ours", OURS)
    other = write_answers(tmp_path, "other", {"fra_Latn": THEIRS["eng_Latn"]})
    with pytest.raises(UserError, match="baseline: answers none of the same prompts"):
        run(
            tmp_path,
            {"rows": [ours], "scores": [marks], "baseline": other[0], "baseline_scores": other[1]},
            win_by="judge",
        )


def test_a_baseline_without_references_is_said_not_an_error(tmp_path):
    world = {"eng_Latn": [[("a", {"verifier": None})]]}
    (ours, marks), (theirs, their_marks) = (
        write_answers(tmp_path, "ours", world),
        write_answers(tmp_path, "theirs", world),
    )
    out, table = run(
        tmp_path,
        {"rows": [ours], "scores": [marks], "baseline": [theirs], "baseline_scores": [their_marks]},
    )
    assert out.notes["not_computed"][0] == "accuracy, win_rate: no value in column 'verifier'"
    assert not [key for key in table if key[0].startswith("win_rate")]
    assert out.tally.sums["prompts without a comparison to the baseline"] == {"eng_Latn": 1}


def test_answers_must_be_candidates(tmp_path):
    _, marks = write_answers(tmp_path, "ours", OURS)
    with pytest.raises(UserError, match="holds scores rows, `rows` takes candidates"):
        run(tmp_path, {"rows": [marks], "scores": [marks]})


# ------------------------------------------------------- adherence, concept and language, confusion

FULL = {"verifier": 1.0, "lid": 1.0, "lid.line_pass": 1.0, "lid.word_pass": 1.0}
MIXED = {
    "eng_Latn": [[("a", {**FULL, "lid.word_pass": None, "detected": "eng_Latn"})]],
    "tha_Thai": [
        [
            ("a", {**FULL, "detected": "tha_Thai"}),
            (
                "b",
                {
                    **FULL,
                    "lid": 0.0,
                    "lid.line_pass": 0.0,
                    "lid.word_pass": None,
                    "detected": "eng_Latn",
                },
            ),
        ],
        [
            ("c", {**FULL, "verifier": 0.0, "lid.word_pass": 0.0, "detected": "tha_Thai"}),
            ("5", {"verifier": 1.0, "lid": None, "detected": None}),
        ],
    ],
    "swh_Latn": [
        [("x", {"verifier": 1.0, "lid": None, "detected": None})] * 2,
        [("ไทย", {"verifier": 0.0, "lid": 0.0, "detected": "tha_Thai"})],
    ],
}


def test_lines_and_words_may_be_another_score(tmp_path):
    world = {
        "tha_Thai": [
            [
                (
                    "a",
                    {
                        "lid": 0.0,
                        "inside": 0.7,
                        "inside.line_share": 0.9,
                        "inside.line_pass": 1.0,
                        "inside.word_pass": 0.0,
                    },
                )
            ]
        ]
    }
    ours, marks = write_answers(tmp_path, "ours", world)
    _, table = run(
        tmp_path, {"rows": [ours], "scores": [marks]}, adherence_by="lid", words_by="inside"
    )
    found = {(m, by): r["value"] for (m, by, lang), r in table.items() if lang == "tha_Thai"}
    assert found["adherence", "lid"] == 0.0
    assert [found[m, "inside"] for m in ("line_share", "line_pass", "word_pass", "lcpr")] == [
        0.9,
        1.0,
        0.0,
        0.0,
    ]


def test_adherence_by_line_and_word_and_right_in_which_language(tmp_path):
    ours, marks = write_answers(tmp_path, "ours", MIXED)
    out, table = run(tmp_path, {"rows": [ours], "scores": [marks]}, adherence_by="lid")
    thai = {
        metric: row["value"]
        for (metric, _, language), row in table.items()
        if language == "tha_Thai"
    }
    assert thai["adherence"] == 0.75  # prompts 1/2 and 1
    assert (thai["line_pass"], thai["word_pass"]) == pytest.approx((2 / 3, 1 / 2))
    assert thai["lcpr"] == pytest.approx(4 / 7, abs=1e-6)
    assert ("lcpr", "lid", "eng_Latn") not in table
    shares = [
        thai[m]
        for m in ("right_in_language", "right_elsewhere", "wrong_in_language", "wrong_elsewhere")
    ]
    assert shares == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0])
    assert (thai["adherence_of_right"], thai["coco_cola"]) == (0.5, 0.5)
    # the identifier does not know Swahili: that one answer is not in Latin script makes no
    # adherence of 0
    assert ("adherence", "lid", "swh_Latn") not in table
    assert (
        "adherence (swh_Latn): values in column 'lid' for fewer than half of the answers"
        in out.notes["not_computed"]
    )
    assert read_json(out.path / "confusion.json") == {
        "by": "lid",
        "asked": ["eng_Latn", "swh_Latn", "tha_Thai"],
        "detected": ["eng_Latn", "tha_Thai", "unknown"],
        "counts": [[1, 0, 0], [0, 1, 2], [1, 2, 1]],
    }


def test_the_identifier_that_measures_need_not_be_the_one_that_gates(tmp_path):
    gate = {"eng_Latn": [[("a", {"gate": 1.0, "detected": "eng_Latn"})]]}
    measure = {"eng_Latn": [[("a", {"measured": 0.0, "detected": "fra_Latn"})]]}
    ours, _ = write_answers(tmp_path, "ours", gate)
    (tmp_path / "ours_scores").rename(tmp_path / "gates")
    _, measures = write_answers(tmp_path, "ours", measure)
    for scores in (
        [{"path": str(tmp_path / "gates")}, measures],
        [measures, {"path": str(tmp_path / "gates")}],
    ):
        out, table = run(tmp_path, {"rows": [ours], "scores": scores}, adherence_by="measured")
        assert table["adherence", "measured", "eng_Latn"]["value"] == 0.0
        assert read_json(out.path / "confusion.json")["detected"] == ["fra_Latn"]


def test_consistency_matrix(tmp_path):
    ours, marks = write_answers(tmp_path, "ours", OURS)
    out, _ = run(tmp_path, {"rows": [ours], "scores": [marks]})
    found = read_json(out.path / "consistency.json")
    assert (found["by"], found["languages"], found["n_groups"]) == (
        "verifier",
        ["eng_Latn", "swh_Latn"],
        [[2, 1], [1, 1]],
    )
    assert found["values"] == [[None, 0.5], [0.5, None]]


# ---------------------------------------------------------------------------------------- breakdown


def broken_down(out: stage.Output) -> dict:
    return {
        (r["part"], r["member"], r["metric"], r["language"]): r
        for r in read_json(out.path / "breakdown.json")["rows"]
    }


def test_breakdown_by_script_tier_origin_and_number_of_answers(tmp_path):
    ours, marks = write_answers(tmp_path, "ours", OURS)
    out, _ = run(tmp_path, {"rows": [ours], "scores": [marks]}, select_by="judge")
    found = broken_down(out)
    assert found["script", "Latn", "accuracy", "avg"]["value"] == 0.375
    assert (
        found["tier", "5", "accuracy", "avg"]["value"],
        found["tier", "2", "accuracy", "avg"]["value"],
    ) == (0.75, 0.0)
    assert found["origin", "native", "accuracy", "eng_Latn"]["value"] == 0.5
    assert found["origin", "human_translated", "accuracy", "eng_Latn"]["value"] == 1.0
    assert found["k", "1", "oracle_accuracy", "eng_Latn"]["value"] == 0.75
    assert found["k", "2", "oracle_accuracy", "eng_Latn"]["value"] == 1.0
    assert (
        found["k", "2", "oracle_accuracy", "eng_Latn"]["n"] == 1
    )  # the other prompt has one answer
    assert found["k", "1", "selected_accuracy", "eng_Latn"]["value"] == 0.75
    with open(out.path / "breakdown.csv", newline="") as f:
        read = list(csv.DictReader(f))
    assert len(read) == len(found)
    assert list(read[0]) == [
        "part",
        "member",
        "metric",
        "by",
        "language",
        "value",
        "low",
        "high",
        "n",
        "n_groups",
    ]


def write_items(root: Path, kind: str, metadata: dict[str, list[dict]]) -> dict:
    """Prompts or preference rows with these metadata, by language."""
    for language, told in metadata.items():
        text = rows.messages("?")
        sides = {"chosen": text, "rejected": text} if kind == "preference" else {}
        written = [
            {**common(language, i), "prompt": text, **sides, "metadata": rows.to_json(m)}
            for i, m in enumerate(told)
        ]
        rows.write_shard(
            root / "items" / "rows" / rows.shard_name(language, "eval", 0), kind, written
        )
    return {"path": str(root / "items")}


def test_breakdown_by_what_metadata_tells(tmp_path):
    ours, marks = write_answers(tmp_path, "ours", OURS)
    items = write_items(
        tmp_path, "prompt", {lang: [{"task": "max", "n": 4}, {"task": "min"}] for lang in OURS}
    )
    out, _ = run(
        tmp_path, {"rows": [ours], "scores": [marks], "items": [items]}, parts=["task", "n"]
    )
    found = broken_down(out)
    assert found["task", "max", "accuracy", "eng_Latn"]["value"] == 0.5
    assert found["task", "min", "accuracy", "avg"]["value"] == 1.0
    assert found["n", "4", "accuracy", "avg"]["value"] == 0.25
    assert not [said for said in out.notes["not_computed"] if said.startswith("breakdown")]


def test_a_key_that_tells_each_row_apart_is_no_kind(tmp_path):
    world = {"eng_Latn": [[("a", {"verifier": 1.0})] for _ in range(51)]}
    ours, marks = write_answers(tmp_path, "ours", world)
    items = write_items(tmp_path, "prompt", {"eng_Latn": [{"task": str(i)} for i in range(51)]})
    out, _ = run(tmp_path, {"rows": [ours], "scores": [marks], "items": [items]})
    assert "accuracy by task: more than 50 values" in out.notes["not_computed"]
    assert "oracle_accuracy: one answer to each prompt" in out.notes["not_computed"]
    assert {part for part, *_ in broken_down(out)} == {"script", "tier", "origin"}


def test_reward_accuracy_by_kind_and_kappa_with_english(tmp_path):
    """English is right, right, wrong, wrong; Swahili right, wrong, wrong, right: they agree on
    half, as chance would.
    """
    scored = write_preferences(
        tmp_path,
        {
            "eng_Latn": {
                "eng_Latn": [(2, 1), (2, 1), (1, 2), (1, 2)],
                "swh_Latn": [(2, 1), (1, 2), (1, 2), (2, 1)],
            }
        },
    )
    items = write_items(
        tmp_path,
        "preference",
        {lang: [{"kind": k} for k in ("wrong", "cut", "wrong", "wrong")] for lang in OURS},
    )
    out, table = run(tmp_path, {"scores": scored, "items": [items]})
    assert table["reward_agreement", "reward", "swh_Latn"]["value"] == 0.5
    assert table["reward_kappa", "reward", "swh_Latn"]["value"] == 0.0
    assert ("reward_kappa", "reward", "eng_Latn") not in table
    right = write_preferences(
        tmp_path / "right", {"eng_Latn": {lang: [(2, 1)] * 3 for lang in OURS}}
    )
    out, table = run(tmp_path / "right", {"scores": right})
    assert "reward_kappa" not in {
        metric for metric, _, _ in table
    }  # always right in both: nothing to agree on
    assert any(
        said.startswith("reward_kappa (swh_Latn): not defined there")
        for said in out.notes["not_computed"]
    )
    out, table = run(tmp_path, {"scores": scored, "items": [items]})
    found = broken_down(out)
    assert found["kind", "cut", "reward_accuracy", "eng_Latn"]["value"] == 1.0
    assert found["kind", "wrong", "reward_accuracy", "avg"]["value"] == pytest.approx(
        (1 / 3 + 2 / 3) / 2
    )
    assert not (out.path / "confusion.json").exists()


def test_what_a_scorer_tells_besides_is_no_reward(tmp_path):
    scored = write_preferences(tmp_path, {"eng_Latn": {"eng_Latn": [(2, 1)]}})
    path = tmp_path / "scores-eng_Latn" / "rows" / "eng_Latn.eval.00000.parquet"
    marks = [{**row, "score.reward.n_tokens": 1.0} for row in rows.read_shard(path)]
    rows.write_shard(path, "scores", marks, ("reward", "reward.n_tokens"))
    _, table = run(tmp_path, {"scores": scored})
    assert {by for _, by, _ in table} == {"reward"}


# -------------------------------------------------------------------------- differences of policies


def policy(name: str, rights: dict[str, list[list[float]]]) -> dict:
    """A world of answers that a verifier marks; the text is as long as the policy's name, so that
    policies differ in length.
    """
    return {
        lang: [[(name, {"verifier": v}) for v in answers] for answers in prompts]
        for lang, prompts in rights.items()
    }


@pytest.fixture
def three(tmp_path):
    """Ours, a baseline and a control on the same twelve English prompts: right in 12, 3 and 6."""
    rights = {"ours": [1.0] * 12, "base": [1.0] * 3 + [0.0] * 9, "control": [1.0] * 6 + [0.0] * 6}
    found = {
        n: write_answers(tmp_path, n, policy(n, {"eng_Latn": [[v] for v in values]}))
        for n, values in rights.items()
    }
    return {
        "rows": [found["ours"][0]],
        "scores": [found["ours"][1]],
        "baseline": [found["base"][0]],
        "baseline_scores": [found["base"][1]],
        "control": [found["control"][0]],
        "control_scores": [found["control"][1]],
    }


def test_paired_differences_over_baseline_and_control(tmp_path, three):
    _, table = run(tmp_path, three)
    value = {m: r["value"] for (m, _, lang), r in table.items() if lang == "eng_Latn"}
    assert (value["accuracy_over_baseline"], value["accuracy_over_control"]) == (0.75, 0.5)
    # ours wins 9 of 12 and ties 3; the control wins 3, ties 3 + 6
    assert (value["win_rate"], value["win_rate_over_control"]) == pytest.approx(
        (10.5 / 12, 10.5 / 12 - 7.5 / 12)
    )
    assert value["win_rate_lc_over_control"] == pytest.approx(
        value["win_rate_over_control"], abs=0.01
    )  # one length each
    row = table["accuracy_over_control", "verifier", "eng_Latn"]
    assert 0 < row["low"] < 0.5 < row["high"]


def test_the_interval_of_a_difference_is_of_pairs(tmp_path, three):
    """Ours is right on all the control is, so what varies is only where they differ; against itself
    nothing does.
    """
    itself = {**three, "control": three["rows"], "control_scores": three["scores"]}
    _, table = run(tmp_path, itself)
    for metric in (
        "accuracy_over_control",
        "win_rate_over_control",
        "win_rate_lc_over_control",
        "characters_over_control",
    ):
        row = next(r for (m, _, lang), r in table.items() if (m, lang) == (metric, "avg"))
        assert (row["value"], row["low"], row["high"]) == (0, 0, 0)


def test_several_seeds_are_one_sample(tmp_path):
    """Two seeds of a policy and of its baseline, as `foreach` gives them: one column, each seed
    against its own baseline.
    """
    write_manifest(tmp_path)
    slots = {"rows": [], "scores": [], "baseline": [], "baseline_scores": []}
    for seed, (ours, theirs) in {
        "0": ([1.0, 1.0], [0.0, 0.0]),
        "1": ([0.0, 1.0], [0.0, 1.0]),
    }.items():
        for slot, values in (("rows", ours), ("baseline", theirs)):
            write_answers(
                tmp_path,
                f"{slot}{seed}",
                policy(f"{slot}{seed}", {"eng_Latn": [[v] for v in values]}),
            )
            for name, part in (
                (f"{slot}{seed}", slot),
                (f"{slot}{seed}_scores", "scores" if slot == "rows" else "baseline_scores"),
            ):
                write_manifest(tmp_path / name)
                slots[part].append(
                    {"artifact": name, "step": f"{part}[{seed}]", "binding": {"seed": seed}}
                )
    _, table = run(tmp_path, slots)
    row = table["accuracy", "verifier", "eng_Latn"]
    assert (row["value"], row["n"], row["n_groups"]) == (0.75, 4, 2)
    assert table["win_rate", "verifier", "eng_Latn"]["value"] == 0.75  # 1, 1, 0.5, 0.5
    assert table["accuracy_over_baseline", "verifier", "eng_Latn"]["value"] == 0.5


def test_a_control_on_other_prompts(tmp_path, three):
    other = write_answers(tmp_path, "other", {"fra_Latn": THEIRS["eng_Latn"]})
    with pytest.raises(UserError, match="control: answers none of the same prompts"):
        run(tmp_path, {**three, "control": [other[0]], "control_scores": [other[1]]})
