"""`rm-score evaluate`: every number against one worked out here, by hand or by plain loops; files,
reruns and bad input.
"""

import csv
import io
import itertools
import json
import math
import random
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections import Counter

import pytest

from reward_models.__main__ import main
from reward_models.evidence import evaluation, figures, measures, rendering, rewardbench
from reward_models.evidence.verdicts import Verdict

LANGUAGES = """
    arb_Arab ces_Latn cmn_Hans cmn_Hant deu_Latn ell_Grek fra_Latn heb_Hebr hin_Deva ind_Latn ita_Latn jpn_Jpan kor_Kore nld_Latn pes_Arab
    pol_Latn por_Latn ron_Latn rus_Cyrl spa_Latn tur_Latn ukr_Cyrl vie_Latn
""".split()
PLAN = measures.Plan(replicates=200)


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
    )
    return path


def pair(language, item, chosen, rejected, subset="", section=""):
    return Verdict(language, item, item, subset, section, (chosen,), (rejected,))


def found(records, measure, language="", section="", subset=""):
    (record,) = [
        r
        for r in records
        if (r.measure, r.language, r.section, r.subset) == (measure, language, section, subset)
    ]
    return record


@pytest.fixture
def evaluate(capsys):
    """The command; returns (exit status, stdout, stderr)."""

    def call(*arguments):
        status = main(["evaluate", *map(str, arguments)])
        out, err = capsys.readouterr()
        return status, out, err

    return call


def records_of(folder):
    return json.loads((folder / "results.json").read_text())["records"]


def one(records, **where):
    where = {"language": "", "section": "", "subset": "", **where}
    (record,) = [r for r in records if all(r[k] == v for k, v in where.items())]
    return record


# ---------------------------------------------------------------------------------- numbers by hand


def test_accuracy_ties_and_margins_by_hand():
    verdicts = [
        pair("eng_Latn", "a", 2.0, 1.0),
        pair("eng_Latn", "b", 1.0, 1.0),
        pair("eng_Latn", "c", 5.0, 1.0),
        pair("swh_Latn", "a", 0.0, 1.0),
        pair("swh_Latn", "b", 1.0, 1.0),
        Verdict("swh_Latn", "c", "c", "", "", (), ()),
    ]
    records = evaluation.evaluate(verdicts, PLAN)
    english, swahili = (
        found(records, "accuracy", "eng_Latn"),
        found(records, "accuracy", "swh_Latn"),
    )
    assert (english.value, swahili.value) == (pytest.approx(2.5 / 3, abs=1e-6), 0.25)
    assert (swahili.size.n, swahili.size.ties, swahili.size.unscored) == (2, 1, 1)
    assert found(records, "accuracy_ties_wrong", "eng_Latn").value == pytest.approx(2 / 3, abs=1e-6)
    assert found(records, "mean_margin", "eng_Latn").value == pytest.approx(5 / 3, abs=1e-6)
    assert found(records, "accuracy").value == 0.6
    assert found(records, "accuracy", "avg").value == pytest.approx((2.5 / 3 + 0.25) / 2, abs=1e-6)
    worst = found(records, "accuracy", "worst")
    assert (worst.value, worst.which) == (0.25, "swh_Latn")
    assert found(records, "accuracy", "gap_to_english").value == pytest.approx(
        2.5 / 3 - 0.25, abs=1e-6
    )


def test_intervals_draw_items_with_all_their_translations():
    """Two items, one right and one wrong in both languages: a draw is 0, 1/2 or 1 for all languages
    at once, so the gap is always 0.
    """
    verdicts = [
        pair(lang, item, score, 0.5)
        for lang in ("eng_Latn", "swh_Latn")
        for item, score in (("a", 1.0), ("b", 0.0))
    ]
    records = evaluation.evaluate(verdicts, PLAN)
    assert (found(records, "accuracy").low, found(records, "accuracy").high) == (0.0, 1.0)
    gap = found(records, "accuracy", "gap_to_english")
    assert (gap.value, gap.low, gap.high) == (0.0, 0.0, 0.0)


def test_one_item_has_no_interval():
    records = evaluation.evaluate(
        [
            pair("eng_Latn", "a", 1.0, 0.0),
            pair("eng_Latn", "b", 1.0, 0.0),
            pair("swh_Latn", "a", 1.0, 0.0),
        ],
        PLAN,
    )
    alone = found(records, "accuracy", "swh_Latn")
    assert (alone.value, alone.low, alone.high, alone.size.n) == (1.0, None, None, 1)
    assert (
        found(records, "kappa", "swh_Latn").value is None
    )  # both always prefer the chosen answer: nothing beyond chance to agree on


def test_kappa_and_agreement_by_hand():
    """English: chosen, chosen, rejected, tie; Swahili: chosen, rejected, rejected, tie and one item
    that English lacks.
    """
    english = [
        pair("eng_Latn", i, s, 0.0) for i, s in zip("abcd", (1.0, 1.0, -1.0, 0.0), strict=True)
    ]
    swahili = [
        pair("swh_Latn", i, s, 0.0)
        for i, s in zip("abcdx", (1.0, -1.0, -1.0, 0.0, 1.0), strict=True)
    ]
    records = evaluation.evaluate(english + swahili, PLAN)
    kappa, agreement = found(records, "kappa", "swh_Latn"), found(records, "agreement", "swh_Latn")
    expected = (2 * 1 + 1 * 2 + 1 * 1) / 16  # shares of chosen, rejected, tie in both
    assert agreement.value == 0.75 and kappa.value == pytest.approx(
        (0.75 - expected) / (1 - expected), abs=1e-6
    )
    assert (kappa.size.n, agreement.size.unlinked) == (4, 1)
    assert -1 <= kappa.low <= kappa.value <= kappa.high <= 1


def test_items_that_stand_twice_are_not_linked():
    verdicts = [
        pair("eng_Latn", "a", 1.0, 0.0),
        pair("eng_Latn", "a", 0.0, 1.0),
        pair("swh_Latn", "a", 1.0, 0.0),
    ]
    verdicts += [pair("eng_Latn", "b", 1.0, 0.0), pair("swh_Latn", "b", 0.0, 1.0)]
    agreement = found(evaluation.evaluate(verdicts, PLAN), "agreement", "swh_Latn")
    assert (agreement.value, agreement.size.n, agreement.size.unlinked) == (0.0, 1, 1)


def test_best_of_n_shares_the_highest_score():
    """1 of 4 alone, 1 of 2 that share the highest, 0: accuracy 1/2; ties are wrong in the strict
    one.
    """
    rows = [((3.0,), (1.0, 2.0, 0.0)), ((2.0,), (2.0, 1.0, 0.0)), ((1.0,), (2.0, 0.0, 0.0))]
    records = evaluation.evaluate(
        [Verdict("eng_Latn", str(i), str(i), "Math", "", *row) for i, row in enumerate(rows)], PLAN
    )
    assert found(records, "accuracy").value == 0.5
    assert found(records, "accuracy_ties_wrong").value == pytest.approx(1 / 3, abs=1e-6)
    assert found(records, "mean_margin").value == pytest.approx((1 + 0 - 1) / 3, abs=1e-6)
    assert found(records, "rewardbench_2", "eng_Latn", "Math").value == 0.5


def test_the_order_of_rows_changes_nothing():
    draw = random.Random(0)
    verdicts = [
        pair(lang, str(i), draw.random(), draw.random(), draw.choice(("math-prm", "hep-go")))
        for lang in ("eng_Latn", "swh_Latn")
        for i in range(40)
    ]
    shuffled = draw.sample(verdicts, len(verdicts))
    assert evaluation.evaluate(verdicts, PLAN) == evaluation.evaluate(shuffled, PLAN)


# ------------------------------------------------------------------------------------ M-RewardBench


def m_rewardbench(folder, languages):
    """A file for each language, as the benchmark has them, a tenth of its size.

    The family `length` prefers what this draws.

    Returns (language, subset, number) -> 1, 0 or -1: the chosen answer longer, as long, shorter.
    """
    draw, known = random.Random(5), {}
    for k, language in enumerate(languages):
        rows = []
        for subset, count in rewardbench.COUNTS["m_rewardbench"].items():
            for i in range(count // 10):
                known[language, subset, i] = draw.choices((1, 0, -1), (0.5 + k / 60, 0.1, 0.4))[0]
                longer = {1: ("aa", "b"), 0: ("a", "b"), -1: ("a", "bb")}[
                    known[language, subset, i]
                ]
                rows.append(
                    {
                        "id": i,
                        "prompt": "?",
                        "chosen": longer[0],
                        "rejected": longer[1],
                        "subset": subset,
                    }
                )
        write(folder / f"{language}.jsonl", rows)
    return known


def accuracy(known, language, subsets, tie):
    values = [
        {1: 1.0, 0: tie, -1: 0.0}[v]
        for (lang, subset, _), v in known.items()
        if lang == language and subset in subsets
    ]
    return sum(values) / len(values)


def score_of(known, language):
    total = 0.0
    for subsets in rewardbench.SECTIONS.values():
        weights = [rewardbench.COUNTS["m_rewardbench"][s] for s in subsets]
        total += (
            sum(
                w * accuracy(known, language, [s], 0.0)
                for w, s in zip(weights, subsets, strict=True)
            )
            / sum(weights)
            / 4
        )
    return total


def kappa_of(known, language):
    both = [
        (v, known["eng_Latn", subset, i])
        for (lang, subset, i), v in known.items()
        if lang == language
    ]
    ours, theirs, n = Counter(a for a, _ in both), Counter(b for _, b in both), len(both)
    expected = sum(ours[v] * theirs[v] for v in (1, 0, -1)) / n**2
    return (sum(a == b for a, b in both) / n - expected) / (1 - expected)


@pytest.mark.slow
def test_m_rewardbench(tmp_path, evaluate):
    known = m_rewardbench(tmp_path / "data", [*LANGUAGES, "eng_Latn"])
    status, out, _ = evaluate(
        "--family",
        "length",
        "--input",
        tmp_path / "data",
        "--replicates",
        100,
        "--output",
        tmp_path / "out",
    )
    records = records_of(tmp_path / "out")
    assert status == 0 and len(LANGUAGES) == 23
    for language in (*LANGUAGES, "eng_Latn"):
        assert one(records, measure="accuracy", language=language)["value"] == pytest.approx(
            accuracy(known, language, rewardbench.SECTION_OF, 0.5), abs=1e-6
        )
        for section, subsets in rewardbench.SECTIONS.items():
            expected = accuracy(known, language, subsets, 0.5)
            assert one(records, measure="accuracy", language=language, section=section)[
                "value"
            ] == pytest.approx(expected, abs=1e-6)
        score = one(records, measure="rewardbench", language=language)
        assert score["value"] == pytest.approx(score_of(known, language), abs=1e-6)
        assert score["low"] < score["value"] < score["high"]
    for language in LANGUAGES:
        kappa = one(records, measure="kappa", language=language)
        assert (
            kappa["value"] == pytest.approx(kappa_of(known, language), abs=1e-6)
            and kappa["unlinked"] == 0
        )
    average = sum(score_of(known, language) for language in LANGUAGES) / 23
    assert one(records, measure="rewardbench", language="avg")["value"] == pytest.approx(
        average, abs=1e-6
    )
    assert one(records, measure="rewardbench", language="gap_to_english")["value"] == pytest.approx(
        score_of(known, "eng_Latn") - average, abs=1e-6
    )
    assert one(records, measure="kappa", language="avg")["value"] == pytest.approx(
        sum(kappa_of(known, x) for x in LANGUAGES) / 23, abs=1e-6
    )
    assert (
        "score = mean of the sections" in out
        and "weights w of M-RewardBench" in out
        and f"{average:.3f}" in out
    )
    assert out.strip() == (tmp_path / "out" / "results.md").read_text().strip()


def test_rewardbench_2_with_ties(tmp_path, evaluate):
    """Domains by hand; the Ties formula on one prompt with its reference."""

    def row(subset, identifier, scores, n_chosen):
        return {
            "id": identifier,
            "subset": subset,
            "language": "eng_Latn",
            "scores": scores,
            "n_chosen": n_chosen,
        }

    rows = [
        row(d, f"{i}", [2.0, 1.0, 0.0, 0.0] if i else [0.0, 1.0, 0.0, 0.0], 1)
        for d in rewardbench.DOMAINS[:5]
        for i in range(4)
    ]
    rows += [row("Ties", "ref:1", [3.0, 1.0, 0.0], 1), row("Ties", "tied:1", [5.0, 4.0, 1.0], 2)]
    evaluate("--scores", write(tmp_path / "s.jsonl", rows), "--output", tmp_path / "out")
    records = records_of(tmp_path / "out")
    ties = 1.0 + 0.01 * math.tanh(1.0)
    assert one(records, measure="rewardbench_2", language="eng_Latn", section="Ties")[
        "value"
    ] == pytest.approx(ties, abs=1e-6)
    assert one(records, measure="rewardbench_2", language="eng_Latn")["value"] == pytest.approx(
        (5 * 0.75 + ties) / 6, abs=1e-6
    )


# ------------------------------------------------------------------------------- the command itself


def preferences(language="eng_Latn", n=4):
    return [
        {
            "id": f"p{i}",
            "prompt": "?",
            "chosen": "x" * (i + 1),
            "rejected": "xx",
            "language": language,
        }
        for i in range(n)
    ]


def test_answers_of_rewardbench_2_are_scored(tmp_path, evaluate):
    rows = [
        {
            "id": "1",
            "prompt": "?",
            "chosen": ["long answer"],
            "rejected": ["a", "b", "c"],
            "subset": "Math",
            "language": "en",
        },
        {
            "id": "tied:2",
            "prompt": "?",
            "chosen": ["bbbb", "aaa"],
            "rejected": ["c"],
            "subset": "Ties",
            "language": "en",
        },
    ]
    assert (
        evaluate(
            "--family",
            "length",
            "--input",
            write(tmp_path / "r.jsonl", rows),
            "--output",
            tmp_path / "out",
        )[0]
        == 0
    )
    kept = [
        json.loads(line)
        for line in (tmp_path / "out" / "length.scores.jsonl").read_text().splitlines()
    ]
    assert [(row["scores"], row["n_chosen"]) for row in kept] == [
        ([11.0, 1.0, 1.0, 1.0], 1),
        ([4.0, 3.0, 1.0], 2),
    ]
    assert one(records_of(tmp_path / "out"), measure="accuracy")["value"] == 1.0


@pytest.mark.slow
def test_what_is_scored_is_not_scored_again(tmp_path, evaluate):
    source = write(tmp_path / "rows.jsonl", preferences() + preferences("swh_Latn"))
    common = ("--input", source, "--output", tmp_path / "out")
    evaluate("--family", "length", *common)
    scores = tmp_path / "out" / "length.scores.jsonl"
    before = scores.stat().st_mtime_ns, scores.read_bytes()
    assert b"?" not in before[1]  # no texts
    other = tmp_path / "chance.yaml"
    other.write_text("{family: random, name: chance, seed: 3}")
    status, out, err = evaluate("--family", "length", "--scorer", other, *common)
    assert status == 0 and (scores.stat().st_mtime_ns, scores.read_bytes()) == before
    assert "length: scored already" in err and "chance: 8 rows" in err
    header = next(line for line in out.splitlines() if line.startswith("| language"))
    assert [cell.strip() for cell in header.split("|")[1:-1]] == [
        "language",
        "rows",
        "length",
        "chance",
    ]
    write(source, preferences())
    status, _, err = evaluate("--family", "length", *common)
    assert (
        status == 2
        and "length.scores.jsonl: exists already, from another run (rows.files.rows.jsonl.sha256 was"
        in err
        and "remove it or choose another --output" in err
    )
    assert scores.read_bytes() == before[1]


@pytest.mark.long
def test_several_scorers_in_processes_of_their_own(tmp_path, evaluate, classifier):
    source = write(tmp_path / "rows.jsonl", preferences())
    length = tmp_path / "length.yaml"
    length.write_text("family: length")
    status, out, _ = evaluate(
        "--model",
        f"tiny={classifier}",
        "--scorer",
        length,
        "--input",
        source,
        "--output",
        tmp_path / "out",
    )
    assert status == 0 and " tiny " in out and " length " in out
    assert (
        one(records_of(tmp_path / "out"), model="length", measure="accuracy")["value"] == 0.625
    )  # shorter, as long, longer, longer
    assert len((tmp_path / "out" / "tiny.scores.jsonl").read_text().splitlines()) == 4


def test_translations_of_an_item_are_scored_apart(tmp_path, evaluate):
    """The same id in two languages is one item, but two rows: a scorer that draws by id must not
    see one.
    """
    source = write(tmp_path / "rows.jsonl", preferences() + preferences("swh_Latn"))
    evaluate("--family", "random", "--input", source, "--output", tmp_path / "out")
    kept = [
        json.loads(line)
        for line in (tmp_path / "out" / "random.scores.jsonl").read_text().splitlines()
    ]
    assert len({row["score_chosen"] for row in kept}) == 8 and [row["id"] for row in kept[:4]] == [
        "p0",
        "p1",
        "p2",
        "p3",
    ]
    assert one(records_of(tmp_path / "out"), measure="agreement", language="swh_Latn")["n"] == 4


def test_scored_files_need_no_model_and_missing_scores_are_counted(tmp_path, evaluate):
    rows = [
        {"language": "sw", "score_chosen": 1.0, "score_rejected": None},
        {"language": "sw", "score_chosen": 1, "score_rejected": 0.5},
    ]
    status, out, _ = evaluate(
        "--scores", f"mine={write(tmp_path / 's.jsonl', rows)}", "--output", tmp_path / "out"
    )
    record = one(records_of(tmp_path / "out"), measure="accuracy", language="swh_Latn")
    assert status == 1 and (record["value"], record["n"], record["unscored"]) == (1.0, 1, 1)
    assert "| swh_Latn |" in out


def test_files_of_rm_score_are_read(tmp_path, evaluate):
    source = write(tmp_path / "rows.jsonl", preferences())
    assert (
        main(
            [
                "score",
                "--family",
                "length",
                "--input",
                str(source),
                "--output",
                str(tmp_path / "scored.jsonl"),
            ]
        )
        == 0
    )
    assert evaluate("--scores", tmp_path / "scored.jsonl", "--output", tmp_path / "out")[0] == 0
    assert one(records_of(tmp_path / "out"), model="scored", measure="accuracy")["value"] == 0.625


def test_languages_come_from_columns_names_of_files_and_options(tmp_path, evaluate):
    rows = [{"prompt": "?", "chosen": "aa", "rejected": "b"}]
    write(tmp_path / "data" / "arb_Arab" / "test-00000.jsonl", rows)
    write(tmp_path / "data" / "test.swh_Latn.jsonl", rows)
    write(tmp_path / "data" / "plain.jsonl", [*rows, {**rows[0], "prompt_lang": "tr"}])
    _, out, _ = evaluate(
        "--family", "length", "--input", tmp_path / "data", "--output", tmp_path / "out"
    )
    assert set(json.loads((tmp_path / "out" / "results.json").read_text())["rows"]) == {
        "arb_Arab",
        "swh_Latn",
        "tur_Latn",
        "und",
    }
    assert "1 rows name no language and stand under und" in out
    evaluate(
        "--family",
        "length",
        "--input",
        tmp_path / "data",
        "--language",
        "en",
        "--output",
        tmp_path / "other",
    )
    assert set(json.loads((tmp_path / "other" / "results.json").read_text())["rows"]) == {
        "arb_Arab",
        "eng_Latn",
        "swh_Latn",
        "tur_Latn",
    }


@pytest.mark.slow
def test_rows_artifacts_and_parquet_are_read(tmp_path, evaluate):
    """Rows as mlalign's stages write them; a folder may also be that of the results."""
    from mlalign.core import rows

    def row(lang, i):
        sides = {
            "chosen": rows.messages("x" * (i + 1), "assistant"),
            "rejected": rows.messages("xx", "assistant"),
        }
        placed = {
            "id": f"{lang}{i}",
            "group_id": f"g{i}",
            "prompt_lang": lang,
            "source": "s",
            "origin": "native",
            "split": "eval",
        }
        return {**placed, "prompt": rows.messages("?"), **sides}

    with rows.ShardWriter(tmp_path / "artifact", "preference") as writer:
        writer.write_all(row(lang, i) for lang in ("eng_Latn", "swh_Latn") for i in range(4))
    for _ in range(2):
        assert (
            evaluate(
                "--family",
                "length",
                "--input",
                tmp_path / "artifact",
                "--output",
                tmp_path / "artifact",
            )[0]
            == 0
        )
    records = records_of(tmp_path / "artifact")
    assert one(records, measure="accuracy", language="swh_Latn")["value"] == 0.625
    assert one(records, measure="agreement", language="swh_Latn")["n"] == 4


@pytest.mark.slow
def test_weights_follow_the_languages_or_the_option(tmp_path, evaluate):
    rows = [
        {"id": i, "prompt": "?", "chosen": c, "rejected": "xx", "subset": s, "language": "en"}
        for s in rewardbench.SECTION_OF
        for i, c in enumerate(
            ("xxx", "x") if s in ("mt-bench-easy", "hep-go", "shp") else ("xxx", "xxx")
        )
    ]
    source = write(tmp_path / "r.jsonl", rows)
    for options, name in (((), "rewardbench"), (("--weights", "m_rewardbench"), "m_rewardbench")):
        evaluate("--family", "length", "--input", source, *options, "--output", tmp_path / "out")
        weights = rewardbench.COUNTS[name]
        chat = 1 - 0.5 * weights["mt-bench-easy"] / sum(
            weights[s] for s in rewardbench.SECTIONS["Chat"]
        )
        assert one(
            records_of(tmp_path / "out"), measure="rewardbench", language="eng_Latn", section="Chat"
        )["value"] == pytest.approx(chat, abs=1e-6)


def test_unknown_subsets_are_listed_and_in_no_section(tmp_path, evaluate):
    rows = [
        {**row, "subset": s}
        for row, s in zip(preferences(), ("math-prm", "math-prm", "mine", "mine"), strict=True)
    ]
    _, out, _ = evaluate(
        "--family",
        "length",
        "--input",
        write(tmp_path / "r.jsonl", rows),
        "--output",
        tmp_path / "out",
    )
    records = records_of(tmp_path / "out")
    assert "in no section, counted in the overall accuracy only: mine" in out
    assert (
        one(records, measure="accuracy")["n"] == 4
        and one(records, measure="accuracy", section="Reasoning")["n"] == 2
    )
    assert not [
        r for r in records if r["measure"] == "rewardbench" and not r["section"]
    ]  # three sections are missing: no score


ROW = {"prompt": "?", "chosen": "a", "rejected": "b"}


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([], "there are no pairs at all"),
        ([{"prompt": "?", "response": "a"}], "r.jsonl:1: needs chosen and rejected; it has prompt, response"),
        ([ROW, {**ROW, "language": "qqqqq"}], "r.jsonl:2: language 'qqqqq': unknown"),
        ([{**ROW, "id": 1}, {**ROW, "id": 1}], "r.jsonl:2: id 1 is that of"),
        ([ROW, {"chosen": "a", "rejected": "b"}, {"chosen": 3, "rejected": "b"}], "r.jsonl:3: `chosen`: expected text or a list of messages"),
        ([{**ROW, "chosen": []}], "r.jsonl:1: needs at least one chosen and one rejected answer"),
    ],
)  # fmt: skip
def test_bad_rows_are_told_before_anything_is_scored(tmp_path, evaluate, rows, told):
    status, out, err = evaluate(
        "--family",
        "length",
        "--input",
        write(tmp_path / "r.jsonl", rows),
        "--output",
        tmp_path / "out",
    )
    assert status == 2 and told in err and not out
    assert not list(tmp_path.glob("out/*.scores.jsonl"))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "name what scores: --model"),
        (["--family", "length"], "--input is missing"),
        (["--input", "rows.jsonl", "--scores", "s.jsonl"], "--input is for what scores"),
        (
            ["--family", "lenght", "--input", "rows.jsonl"],
            "unknown family 'lenght'; did you mean 'length'",
        ),
        (["--scorer", "none.yaml", "--input", "rows.jsonl"], "none.yaml: cannot be read as YAML"),
        (
            ["--scores", "a/s.jsonl", "--scores", "b/s.jsonl"],
            "s: two are named like this; name them apart: s1=PATH s2=PATH",
        ),
        (["--scores", "none.jsonl"], "none.jsonl: there is no such file"),
    ],
)
def test_wrong_commands(tmp_path, monkeypatch, evaluate, arguments, told):
    monkeypatch.chdir(tmp_path)
    status, _, err = evaluate(*arguments, "--output", "out")
    assert status == 2 and told in err


@pytest.mark.parametrize(
    "row",
    [
        {"score_chosen": 1.0},
        {"score_chosen": "1", "score_rejected": 0},
        {"scores": [1.0], "n_chosen": 1},
    ],
)
def test_scores_that_are_none(tmp_path, evaluate, row):
    status, _, err = evaluate(
        "--scores", write(tmp_path / "s.jsonl", [row]), "--output", tmp_path / "out"
    )
    assert status == 2 and "s.jsonl:1: " in err


# ---------------------------------------------------------------------------------------- rendering

HOSTILE = (
    '=HYPERLINK("http://x")',
    "a|b",
    "<script>alert(1)</script>",
    "line\nend\x1b[2J",
    "\u202eevil",
    "`code` *bold*",
    "@sum",
    '"&quote',
)


def hostile():
    verdicts = [pair("eng_Latn", f"{s}{i}", float(i), 1.0, s, s) for s in HOSTILE for i in range(3)]
    return rendering.Report(
        {"m|1": evaluation.evaluate(verdicts, PLAN)},
        {"eng_Latn": len(verdicts)},
        PLAN,
        ["<b>note</b>"],
    )


def test_markdown_keeps_its_columns_whatever_names_say():
    text = rendering.markdown(hostile())
    rows = [line.replace("\\|", "") for line in text.splitlines() if line.startswith("|")]
    assert all(row.count("|") in (3, 4, 6) for row in rows) and len(rows) > 2 * len(HOSTILE)
    assert "<script" not in text.replace("\\<", "") and "<b>" not in text.replace("\\<", "")
    assert "](" not in text and "\x1b" not in text and "\u202e" not in text


def test_tables_stand_in_line():
    table = [line for line in rendering.markdown(hostile()).splitlines() if line.startswith("|")]
    assert all(len(a) == len(b) for a, b in itertools.pairwise(table) if "---" in b)


def test_csv_has_no_formulas():
    rows = list(csv.DictReader(io.StringIO(rendering.to_csv(hostile()))))
    assert not [v for row in rows for v in row.values() if v[:1] in ("=", "+", "@", "\t", "\r")]
    assert {row["subset"] for row in rows} >= {"'" + HOSTILE[0], "'@sum", "a|b"}
    assert all(row["which"][:1] != "-" for row in rows)


def test_heat_map_is_xml_without_scripts():
    svg = figures.heat_map(
        "<title>",
        HOSTILE,
        ("eng_Latn", "<x>"),
        {(HOSTILE[2], "<x>"): (0.9, 0.8, 1.0), (HOSTILE[1], "eng_Latn"): (0.2, None, None)},
    )
    tree = ET.fromstring(svg)
    tags = {element.tag.rpartition("}")[2] for element in tree.iter()}
    assert tags == {"svg", "rect", "text", "g", "title"}
    texts = [element.text for element in tree.iter() if element.text]
    assert (
        "<script>alert(1)</script>, <x>: 0.900 [0.800, 1.000]" in texts
        and "0.200" in texts
        and texts.count("–") == 2 * len(HOSTILE) - 2
    )


def test_heat_map_colours_say_which_side_of_chance():
    shades = [figures._colour(v, 0.5) for v in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert shades[2] == "#f7f7f7" and len(set(shades)) == 5
    red, blue = (int(shades[0][i : i + 2], 16) for i in (1, 5))
    assert red > blue and int(shades[4][1:3], 16) < int(shades[4][5:], 16)


@pytest.mark.slow
def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom reward_models import __main__\n__main__._parser()\nprint([m for m in"
        " ('numpy', 'torch', 'pyarrow') if m in sys.modules])"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], text=True, capture_output=True, check=True
        ).stdout.strip()
        == "[]"
    )


# ---------------------------------------------------------------------------------------- real data


@pytest.mark.data
@pytest.mark.slow
def test_xcopa_in_one_command(real_data, tmp_path, evaluate):
    files = sorted((real_data / "xcopa").glob("val.*.jsonl"))
    status, _, _ = evaluate(
        "--family",
        "length",
        "--input",
        *files,
        "--format",
        "xcopa",
        "--anchor",
        "it",
        "--output",
        tmp_path / "out",
    )
    records = records_of(tmp_path / "out")
    assert status == 0 and len(files) == 11
    lengths = {}
    for file in files:
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        sides = [
            (len(r[f"choice{1 + r['label']}"]), len(r[f"choice{2 - r['label']}"])) for r in rows
        ]
        lengths[file.name.split(".")[1]] = sum((a > b) + (a == b) / 2 for a, b in sides) / len(
            sides
        )
    for short, code in (("sw", "swh_Latn"), ("qu", "que_Latn"), ("zh", "cmn_Hans")):
        assert one(records, measure="accuracy", language=code)["value"] == pytest.approx(
            lengths[short], abs=1e-6
        )
    assert one(records, measure="kappa", language="tam_Taml")["n"] == 100


@pytest.mark.data
@pytest.mark.slow
def test_hh_rlhf_in_one_command(real_data, tmp_path, evaluate):
    source = real_data / "hh_harmless" / "test.jsonl.gz"
    status, out, _ = evaluate(
        "--family", "length", "--input", source, "--format", "hh_rlhf", "--output", tmp_path / "out"
    )
    assert status == 0 and "5 rows dropped: prompts_differ (eng_Latn)" in out
    assert one(records_of(tmp_path / "out"), measure="accuracy", language="eng_Latn")["n"] == 2307


def test_rows_that_give_nothing_are_counted_by_reason(tmp_path, evaluate):
    user, answers = (
        {"role": "user", "content": "?"},
        [{"role": "assistant", "content": text} for text in ("long", "b")],
    )
    tie = {
        "conversation_a": [user, answers[0]],
        "conversation_b": [user, answers[1]],
        "winner": "tie",
        "language": "sw",
    }
    won = {**tie, "winner": "model_a"}
    ends = {
        "chosen": [user, answers[0], user],
        "rejected": [user, answers[1], user],
        "language": "sw",
    }
    told = (
        "--family",
        "length",
        "--input",
        write(tmp_path / "r.jsonl", [won, tie, tie, ends]),
        "--output",
        tmp_path / "out",
    )
    status, out, _ = evaluate(*told)
    assert status == 0 and "1 rows in 1 language." in out
    assert (
        "2 rows dropped: tie (swh_Latn)" in out
        and "1 rows dropped: ends\\_with\\_user (swh_Latn)".replace("\\", "") in out
    )
