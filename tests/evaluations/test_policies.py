"""Evaluations of policies: MGSM, XCOPA and the Language Confusion Benchmark, on their own rows and
forms.
"""

import csv
import json

import pytest
from evaluation_cases import evaluate, rows_of, table, value

pytestmark = pytest.mark.slow

LINES = {
    "fr": [
        "Quelle est la plus grande ville de France ?",
        "Écrivez un court poème sur la mer, s'il vous plaît.",
    ],
    "ru": [
        "Какое самое большое число: 3 1 2?",
        "Напишите короткое стихотворение о море, пожалуйста.",
    ],
}


@pytest.fixture(scope="module")
def steps(tmp_path_factory, real_data):
    """Eight real rows of MGSM and of XCOPA in two languages, and a small set of the form of the
    LCB.
    """
    folder = tmp_path_factory.mktemp("policies")
    for code in ("en", "es"):
        lines = (
            (real_data / "mgsm" / f"mgsm_{code}.tsv").read_text(encoding="utf-8").splitlines()[:4]
        )
        (folder / f"mgsm_{code}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for code in ("sw", "tr"):
        lines = (
            (real_data / "xcopa" / f"test.{code}.jsonl")
            .read_text(encoding="utf-8")
            .splitlines()[:8]
        )
        (folder / f"test.{code}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    language_confusion(folder / "lcb")
    return evaluate(
        folder,
        "evaluation=[mgsm,xcopa,language_confusion]",
        f"evaluation.mgsm.root={folder}",
        "evaluation.mgsm.ask.max_tokens=24",
        "evaluation.mgsm.scorers=[{family: verifier}]",
        f"evaluation.xcopa.root={folder}",
        f"evaluation.language_confusion.root={folder / 'lcb'}",
        "evaluation.language_confusion.ask.max_tokens=24",
    )


def language_confusion(folder):
    for dataset in ("aya", "native", "dolly", "okapi"):
        for code, prompts in LINES.items():
            write_csv(
                folder / "monolingual" / dataset / f"{code}.csv",
                [{"prompt": p, "source": dataset, "language": code} for p in prompts],
            )
    for dataset in ("okapi", "sharegpt", "complex_prompts"):
        for code, name in (("fr", "French"), ("ru", "Russian")):
            told = {
                "location": "Start",
                "phrasing": "reply in {language_requested}",
                "language": code,
                "source": dataset,
            }
            write_csv(
                folder / "crosslingual" / dataset / f"{code}.csv",
                [{"prompt": f"Reply in {name}. How are you?", **told}],
            )


def write_csv(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_mgsm_is_the_exact_match_of_the_last_number(steps):
    scores = {
        row["candidate_id"]: row["score.verifier"]
        for row in rows_of(steps / "measure_mgsm.marks[model]")
    }
    answers = rows_of(steps / "measure_mgsm.answers[model]")
    assert len(answers) == 8
    for language in ("eng_Latn", "spa_Latn"):
        own = [
            scores[row["responses"][0]["candidate_id"]]
            for row in answers
            if row["prompt_lang"] == language
        ]
        assert value(steps / "measure_mgsm[model]", "accuracy", language) == pytest.approx(
            sum(own) / 4, abs=1e-6
        )
    asked = {row["prompt"][0]["content"] for row in answers if row["prompt_lang"] == "spa_Latn"}
    assert asked == {"Solve the problem step by step in Spanish. End with the answer as a number."}
    assert {json.loads(row["reference"])["match"] for row in answers} == {"numeric"}


def test_mgsm_tells_the_original_from_translations(steps):
    told = {
        row["member"]: row["n"]
        for row in table(steps / "measure_mgsm[model]", "breakdown")
        if (row["part"], row["metric"], row["language"]) == ("origin", "accuracy", "avg")
    }
    assert told == {"native": 4, "human_translated": 4}


def test_xcopa_is_the_likelier_choice(steps):
    marks = rows_of(steps / "measure_xcopa.marks[model]")
    scores = {row["candidate_id"]: row["score.likelihood"] for row in marks}
    assert len(scores) == 32 and all(score < 0 for score in scores.values())
    for language in ("swh_Latn", "tur_Latn"):
        ids = {row["id"] for row in marks if row["prompt_lang"] == language}
        right = [scores[f"{name}:chosen"] > scores[f"{name}:rejected"] for name in ids]
        assert len(right) == 8
        assert value(steps / "measure_xcopa[model]", "accuracy", language) == pytest.approx(
            sum(right) / 8, abs=1e-6
        )


def test_language_confusion_has_both_settings_and_no_average_of_them(steps):
    for setting, n in (("monolingual", 8), ("crosslingual", 3)):
        marks = rows_of(steps / f"measure_language_confusion_{setting}.marks[model]")
        assert len(marks) == 2 * n
        step = steps / f"measure_language_confusion_{setting}[model]"
        for language in ("fra_Latn", "rus_Cyrl"):
            own = [r["score.words.line_pass"] for r in marks if r["prompt_lang"] == language]
            known = [passed for passed in own if passed is not None]
            if known:
                assert value(step, "line_pass", language) == pytest.approx(
                    sum(known) / len(known), abs=1e-6
                )
        # Word-level rates are not defined for languages in Latin script.
        assert not any(
            (r["metric"], r["language"]) == ("word_pass", "fra_Latn") for r in table(step)
        )


def test_crosslingual_rows_stand_under_the_language_that_is_asked_for(steps):
    rows = rows_of(steps / "rows_language_confusion_crosslingual")
    assert {row["prompt_lang"] for row in rows} == {"fra_Latn", "rus_Cyrl"}
    assert all(row["prompt"][0]["content"].startswith("Reply in ") for row in rows)
