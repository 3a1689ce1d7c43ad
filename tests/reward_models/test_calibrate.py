"""Calibration: numbers by hand and by numpy, a map that keeps every order, and the command on a
real tiny classifier.
"""

import dataclasses
import json
import math
import random
import shutil
import statistics

import numpy as np
import pytest
import yaml
from tiny_classifier import TEXTS

import reward_models
from mlalign.core.errors import UserError
from reward_models import Item, Scorer, Scores, card
from reward_models.__main__ import main
from reward_models.evidence import calibration
from reward_models.items import of_row


def scorer_of(values):
    """A scorer that knows its scores by the items' ids."""
    return Scorer("known", "known", lambda items: Scores([values[item.id] for item in items]))


def item(i, language):
    return Item(str(i), [{"role": "user", "content": "q"}], "a", language)


def test_fit_by_hand():
    found = calibration.fit([3.0, 1.0, 2.0, 4.0])
    assert (found["n"], found["mean"], found["std"]) == (4, 2.5, 1.11803399)
    # Hazen: position 4p - 1/2 in [1, 2, 3, 4]; at p = 25.5/101 it is 0.509900990
    assert found["quantiles"][25] == 1.50990099
    assert (
        found["quantiles"][0] == 1.0
        and found["quantiles"][100] == 4.0
        and found["quantiles"][50] == 2.5
    )


@pytest.mark.parametrize("n", [2, 17, 101, 1000])
def test_fit_equals_numpy_and_knows_no_order(n):
    values = np.random.default_rng(n).normal(3, 10, n).tolist()
    found = calibration.fit(values)
    assert found["mean"] == pytest.approx(np.mean(values), rel=1e-8) and found[
        "std"
    ] == pytest.approx(np.std(values), rel=1e-8)
    assert found["quantiles"] == pytest.approx(
        np.quantile(values, (np.arange(101) + 0.5) / 101, method="hazen").tolist(), rel=1e-8
    )
    assert calibration.fit(random.Random(0).sample(values, n)) == found


def test_quantile_map_is_exact_at_knots_and_linear_between():
    values = np.random.default_rng(1).gamma(2.0, 3.0, 101)
    entry = calibration.fit(values.tolist())
    change = calibration.transform(entry, "quantile")
    normal = [statistics.NormalDist().inv_cdf((k + 0.5) / 101) for k in range(101)]
    assert entry["quantiles"] == pytest.approx(
        sorted(values), rel=1e-8
    )  # 101 scores are their own quantiles
    assert [change(q) for q in entry["quantiles"]] == normal
    inside = np.linspace(entry["quantiles"][0], entry["quantiles"][-1], 777)
    assert [change(x) for x in inside] == pytest.approx(
        np.interp(inside, entry["quantiles"], normal).tolist(), abs=1e-12
    )
    below, above = entry["quantiles"][0] - 5, entry["quantiles"][-1] + 5
    assert change(below) == pytest.approx(normal[0] - 5 / entry["std"]) and change(
        above
    ) == pytest.approx(normal[-1] + 5 / entry["std"])


@pytest.mark.parametrize("values", [
    np.random.default_rng(2).normal(0, 1e-6, 300), np.random.default_rng(3).standard_cauchy(300),
    np.random.default_rng(4).integers(1, 6, 300).astype(float), np.array([0.0] * 299 + [1.0]), np.array([1e15, 1e15 + 2, 1e15 + 4] * 40),
], ids=["tiny", "heavy-tailed", "marks", "nearly-constant", "huge"])  # fmt: skip
@pytest.mark.parametrize("method", calibration.METHODS)
def test_calibration_never_changes_an_order(values, method):
    entry = calibration.fit(values.tolist())
    change = calibration.transform(entry, method)
    seen = np.unique(
        np.concatenate(
            [
                values,
                np.linspace(values.min() - 3 * values.std(), values.max() + 3 * values.std(), 2000),
            ]
        )
    )
    mapped = [change(float(x)) for x in seen]
    assert all(math.isfinite(y) for y in mapped) and mapped == sorted(mapped)
    distinct = np.unique(values)
    assert len({change(float(x)) for x in distinct}) == len(distinct)  # no two scores become one


def test_marks_get_their_mean_normal_score():
    """Half of the marks are 1, half 2: the mean normal score of a half, symmetrical around 0."""
    change = calibration.transform(calibration.fit([1.0] * 50 + [2.0] * 50), "quantile")
    expected = statistics.fmean(
        statistics.NormalDist().inv_cdf((k + 0.5) / 101) for k in range(51, 101)
    )
    assert (
        change(2.0) == pytest.approx(expected)
        and change(1.0) == pytest.approx(-expected)
        and change(1.5) == pytest.approx(0)
    )


def test_location_scale_by_hand():
    assert calibration.transform({"mean": 3.0, "std": 2.0}, "location_scale")(7.0) == 2.0
    assert calibration.transform({"mean": 3.0, "std": 0.0}, "location_scale") is None
    assert calibration.transform({"mean": 3.0, "std": 2.0}, "quantile") is None


@pytest.mark.parametrize("method", calibration.METHODS)
def test_languages_on_other_scales_become_the_same(method):
    raw = np.random.default_rng(5).normal(size=400).tolist()
    values = {f"e{i}": v for i, v in enumerate(raw)} | {
        f"s{i}": 7 + 0.2 * v for i, v in enumerate(raw)
    }
    told = card.Card(
        calibration={
            "eng_Latn": calibration.fit(raw),
            "swh_Latn": calibration.fit([7 + 0.2 * v for v in raw]),
        }
    )
    found = calibration.calibrated(scorer_of(values), told, method)
    english = found.score_items([item(f"e{i}", "eng_Latn") for i in range(400)])
    swahili = found.score_items([item(f"s{i}", "swh_Latn") for i in range(400)])
    assert english.values == pytest.approx(swahili.values, abs=1e-5)
    assert statistics.fmean(english.values) == pytest.approx(0, abs=0.02) and statistics.pstdev(
        english.values
    ) == pytest.approx(1, abs=0.03)
    assert swahili.columns["raw"] == [values[f"s{i}"] for i in range(400)]


def test_what_has_no_calibration_has_no_score_and_says_so():
    told = card.Card(
        calibration={"eng_Latn": {"mean": 1.0, "std": 2.0}, "tur_Latn": {"mean": 1.0, "std": 0.0}}
    )
    items = [
        item(1, "eng_Latn"),
        item(2, "swh_Latn"),
        item(3, None),
        item(4, "tur_Latn"),
        item(5, "eng_Latn"),
    ]
    found = calibration.calibrated(
        scorer_of({"1": 5.0, "2": 5.0, "3": 5.0, "4": 5.0, "5": None}), told, "location_scale"
    ).score_items(items)
    assert found.values == [2.0, None, None, None, None]
    assert found.flags["uncalibrated"] == [
        False,
        True,
        True,
        True,
        False,
    ]  # the last has no score at all: another reason
    assert found.columns["raw"] == [5.0, 5.0, 5.0, 5.0, None]
    with pytest.raises(
        UserError, match=r"no quantile calibration of any language.*rm-score calibrate"
    ):
        calibration.calibrated(scorer_of({}), told, "quantile")
    with pytest.raises(UserError, match="of output 'help'"):
        calibration.calibrated(scorer_of({}), told, "location_scale", "help")


def test_comparisons_across_languages_warn():
    both = card.Card(
        calibration={code: {"mean": 0.0, "std": 1.0} for code in ("eng_Latn", "swh_Latn")}
    )
    assert calibration.warning(["eng_Latn", "eng_Latn", None], None) is None
    assert calibration.warning(["eng_Latn", "swh_Latn"], both, "location_scale") is None
    assert "compare them with --calibrated" in calibration.warning(["eng_Latn", "swh_Latn"], both)
    assert "swh_Latn, tha_Thai have no calibration" in calibration.warning(
        ["eng_Latn", "tha_Thai", "swh_Latn"],
        card.Card(calibration={"eng_Latn": {"mean": 0.0, "std": 1.0}}),
    )
    assert "tha_Thai has no calibration" in calibration.warning(
        ["eng_Latn", "tha_Thai"], both, "location_scale"
    )
    assert "rm-score calibrate" in calibration.warning(["eng_Latn", "swh_Latn"], both, "quantile")


# ------------------------------------------------------------------------------------------ command


@pytest.fixture
def model(tmp_path, classifier):
    return shutil.copytree(classifier, tmp_path / "model")


def write_rows(path, rows):
    path.write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
    )
    return path


@pytest.fixture
def rows(tmp_path):
    """60 pairs in each of two languages, 3 in a third, one without a language."""
    draw = random.Random(0)
    pairs = [
        {
            "language": language,
            "prompt": draw.choice(TEXTS),
            "chosen": " ".join(draw.choices(TEXTS, k=2)),
            "rejected": draw.choice(TEXTS) + str(i),
        }
        for language, n in (("tr", 60), ("eng_Latn", 60), ("hi", 3), (None, 1))
        for i in range(n)
    ]
    return write_rows(tmp_path / "rows.jsonl", pairs)


@pytest.mark.slow
def test_calibrate_writes_the_card_and_keeps_the_rest(model, rows, capsys):
    card.write(
        model,
        card.Card(
            licence="mit",
            calibration={
                "swh_Latn": {"mean": 1.0, "std": 2.0},
                "eng_Latn": {"mean": 9.0, "std": 9.0},
            },
        ),
    )
    assert (
        main(["calibrate", "--model", str(model), "--input", str(rows)]) == 1
    )  # Hindi has too few rows, one row no language
    out, err = capsys.readouterr()
    assert (
        "left out: hin_Deva: 6 scored answers, 100 are needed" in err
        and "not counted: 2 answers without a language" in err
    )
    assert "kept as the card has them: swh_Latn" in err and "eng_Latn" in out
    found = card.read(model)
    assert found.licence == "mit" and found.calibration["swh_Latn"] == {"mean": 1.0, "std": 2.0}
    pairs = [
        row for row in map(json.loads, rows.read_text().splitlines()) if row["language"] == "tr"
    ]
    values = reward_models.load(model).score(pairs)
    assert found.calibration["tur_Latn"]["n"] == 120 and found.calibration["tur_Latn"][
        "mean"
    ] == pytest.approx(np.mean(values), abs=1e-6)
    assert found.calibration["tur_Latn"]["quantiles"] == pytest.approx(
        np.quantile(values, (np.arange(101) + 0.5) / 101, method="hazen").tolist(), abs=1e-5
    )
    assert (
        set(found.calibration) == {"swh_Latn", "eng_Latn", "tur_Latn"}
        and [p for p in model.iterdir() if "tmp" in p.name] == []
    )


@pytest.mark.slow
def test_calibrated_scores_do_not_depend_on_batch_or_order(model, rows):
    assert (
        main(["calibrate", "--model", str(model), "--input", str(rows), "--min-answers", "6"]) == 1
    )
    told, scorer = card.read(model), reward_models.load(model)
    items = [
        i for row in map(json.loads, rows.read_text().splitlines()) for i in of_row(row, "here")
    ][:64]
    items = [dataclasses.replace(x, id=str(i)) for i, x in enumerate(items)]
    for method in calibration.METHODS:
        change = calibration.calibrated(scorer, told, method)
        expected = change.score_items(items).values
        shuffled = random.Random(1).sample(items, len(items))
        by_id = dict(
            zip((x.id for x in shuffled), change.score_items(shuffled).values, strict=True)
        )
        assert [by_id[x.id] for x in items] == pytest.approx(expected, abs=1e-4)
        for size in (1, 7):
            found = [
                v
                for i in range(0, 21, size)
                for v in change.score_items(items[i : i + size]).values
            ]
            assert found == pytest.approx(expected[:21], abs=1e-4)


@pytest.mark.slow
def test_dry_run_and_failures_write_nothing(model, rows, tmp_path, capsys):
    card.write(model, card.Card(licence="mit"))
    before = (model / "card.yaml").read_bytes()
    command = ["calibrate", "--model", str(model), "--input", str(rows)]
    assert main([*command, "--dry-run"]) == 1 and "tur_Latn" in capsys.readouterr().out
    assert main([*command, "--min-answers", "1000"]) == 2
    assert (
        "error: left out: tur_Latn: 120 scored answers, 1000 are needed" in capsys.readouterr().err
    )
    assert (
        main([*command, "--card", str(tmp_path / "x.json")]) == 2
        and "ending in .yaml" in capsys.readouterr().err
    )
    (model.parent / "manifest.json").write_text("{}")
    assert (
        main(command) == 2
        and "finished artifact, whose files never change" in capsys.readouterr().err
    )
    assert (model / "card.yaml").read_bytes() == before
    assert main([*command, "--card", str(tmp_path / "own.yaml")]) == 1
    assert (
        card.read(tmp_path / "own.yaml").licence == "mit"
        and "tur_Latn" in card.read(tmp_path / "own.yaml").calibration
    )


def test_calibrate_without_a_model(rows, tmp_path, capsys):
    assert main(["calibrate", "--family", "length", "--input", str(rows)]) == 2
    assert "name a file with --card FILE.yaml" in capsys.readouterr().err
    same = write_rows(
        tmp_path / "same.jsonl", [{"prompt": "q", "response": "abc", "language": "en"}] * 120
    )
    assert (
        main(
            [
                "calibrate",
                "--family",
                "length",
                "--input",
                str(same),
                "--card",
                str(tmp_path / "c.yaml"),
            ]
        )
        == 2
    )
    assert (
        "eng_Latn: all its 120 scores are 3" in capsys.readouterr().err
        and not (tmp_path / "c.yaml").exists()
    )
    assert (
        main(
            [
                "calibrate",
                "--family",
                "length",
                "--input",
                str(rows),
                "--card",
                str(tmp_path / "c.yaml"),
            ]
        )
        == 1
    )
    assert card.read(tmp_path / "c.yaml").family == "length"
    assert (
        main(
            [
                "calibrate",
                "--family",
                "random",
                "--input",
                str(rows),
                "--card",
                str(tmp_path / "c.yaml"),
            ]
        )
        == 2
    )
    assert "is the card of a length, not of a random" in capsys.readouterr().err


def test_unscored_answers_are_counted(tmp_path, capsys):
    rows = [
        {
            "prompt": "q",
            "response": "This is quite certainly English." if i % 2 else "12",
            "language": "en",
        }
        for i in range(20)
    ]
    rows += [{"prompt": "q", "response": "Hii ni Kiswahili.", "language": "en"}] * 5
    source = write_rows(tmp_path / "rows.jsonl", rows)
    told = [
        "--family",
        "language_adherence",
        "--set",
        "identifier=fasttext",
        "--card",
        str(tmp_path / "c.yaml"),
        "--min-answers",
        "10",
    ]
    assert main(["calibrate", *told, "--input", str(source)]) == 1
    assert "not counted: 10 answers in eng_Latn without a score" in capsys.readouterr().err
    assert card.read(tmp_path / "c.yaml").calibration["eng_Latn"]["n"] == 15


@pytest.mark.slow
def test_one_output_s_calibration_is_not_another_s(tmp_path, rows):
    from tiny_classifier import save_classifier

    path = save_classifier(tmp_path / "two", num_labels=2)
    assert (
        main(["calibrate", "--model", str(path), "--input", str(rows), "--set", "output=LABEL_1"])
        == 1
    )
    told, scorer = card.read(path), reward_models.load(path, output="LABEL_1")
    assert told.calibration["tur_Latn"]["output"] == "LABEL_1"
    calibration.calibrated(scorer, told, "quantile", "LABEL_1")
    with pytest.raises(UserError, match="no quantile calibration of output 'LABEL_0'"):
        calibration.calibrated(scorer, told, "quantile", "LABEL_0")


def test_the_reward_stage_s_card_is_calibration_too(tmp_path):
    """{mean, std} alone, as that stage writes it."""
    (tmp_path / "card.yaml").write_text(
        yaml.safe_dump({"calibration": {"eng_Latn": {"mean": 1.5, "std": 0.5}}})
    )
    found = calibration.calibrated(
        scorer_of({"1": 2.0}), card.read(tmp_path), "location_scale"
    ).score_items([item(1, "eng_Latn")])
    assert found.values == [1.0]


@pytest.mark.slow
def test_score_calibrated(model, rows, tmp_path, capsys):
    """The whole way: measured, written, used; and the warning without it."""
    two = write_rows(
        tmp_path / "two.jsonl",
        [
            r
            for r in map(json.loads, rows.read_text().splitlines())
            if r["language"] in ("tr", "eng_Latn")
        ],
    )
    score = ["score", "--model", str(model), "--input", str(two), "--quiet"]
    assert main([*score, "--output", str(tmp_path / "none.jsonl"), "--calibrated", "quantile"]) == 2
    assert (
        "rm-score calibrate" in capsys.readouterr().err and not (tmp_path / "none.jsonl").exists()
    )
    assert main(["calibrate", "--model", str(model), "--input", str(two)]) == 0
    assert main([*score, "--output", str(tmp_path / "raw.jsonl")]) == 0
    assert (
        "warning: scores of eng_Latn, tur_Latn are on scales of their own"
        in capsys.readouterr().err
    )
    raw = [json.loads(line) for line in (tmp_path / "raw.jsonl").read_text().splitlines()]
    for method in calibration.METHODS:
        assert (
            main([*score, "--output", str(tmp_path / f"{method}.jsonl"), "--calibrated", method])
            == 0
        )
        assert "warning" not in capsys.readouterr().err
        found = [
            json.loads(line) for line in (tmp_path / f"{method}.jsonl").read_text().splitlines()
        ]
        assert [r["raw_chosen"] for r in found] == pytest.approx(
            [r["score_chosen"] for r in raw], abs=1e-5
        )
        for language in ("tr", "eng_Latn"):
            values = [
                r[f"score_{side}"]
                for r in found
                if r["language"] == language
                for side in ("chosen", "rejected")
            ]
            assert statistics.fmean(values) == pytest.approx(0, abs=0.05) and statistics.pstdev(
                values
            ) == pytest.approx(1, abs=0.05)
    told = write_rows(tmp_path / "thai.jsonl", [{"prompt": "q", "response": "a", "language": "th"}])
    command = [
        "score",
        "--model",
        str(model),
        "--input",
        str(told),
        "--quiet",
        "--output",
        str(tmp_path / "thai.out.jsonl"),
        "--calibrated",
        "quantile",
    ]
    assert main(command) == 1 and "1 uncalibrated" in capsys.readouterr().err


def test_calibration_from_another_card(tmp_path, rows, capsys):
    """A scorer without a directory, and its card in a file."""
    two = write_rows(
        tmp_path / "two.jsonl",
        [
            r
            for r in map(json.loads, rows.read_text().splitlines())
            if r["language"] in ("tr", "eng_Latn")
        ],
    )
    own = ["--card", str(tmp_path / "length.yaml")]
    assert main(["calibrate", "--family", "length", "--input", str(two), *own]) == 0
    score = [
        "score",
        "--family",
        "length",
        "--input",
        str(two),
        "--quiet",
        "--calibrated",
        "location_scale",
    ]
    assert (
        main([*score, "--output", str(tmp_path / "none.jsonl")]) == 2
        and "length has no card" in capsys.readouterr().err
    )
    assert (
        main([*score, "--output", str(tmp_path / "out.jsonl"), *own]) == 0
        and "warning" not in capsys.readouterr().err
    )
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    entry = card.read(tmp_path / "length.yaml").calibration["tur_Latn"]
    assert found[0]["score_chosen"] == pytest.approx(
        (len(found[0]["chosen"]) - entry["mean"]) / entry["std"]
    )
