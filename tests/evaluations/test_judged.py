"""Evaluations by a judge: answers compared in both orders with stored ones, on the published forms."""

import json

import pytest
from evaluation_cases import evaluate, rows_of, table, value, write_lines

import mlalign
from mlalign.core.rows import messages
from reward_models import Item, open_scorer
from reward_models.judging import pairwise

pytestmark = pytest.mark.slow

TINY = f"{mlalign.__path__[0]}/data/tiny"
JUDGE = {
    "family": "judge",
    "path": TINY,
    "engine": {"name": "transformers"},
    "mode": "pairwise",
    "against": "reference",
}
ENGLISH = [f"Which number is the largest: {n} 1 2?" for n in (3, 9, 7)]
SPANISH = [f"¿Cuál es el número más grande: {n} 1 2?" for n in (3, 9, 7)]


def arena(folder):
    for language, prompts in (("en", ENGLISH), ("es", SPANISH)):
        rows = [
            {
                "question_id": f"q{number}",
                "cluster": "c",
                "category": "arena-hard",
                "prompt": prompt,
            }
            for number, prompt in enumerate(prompts)
        ]
        write_lines(folder / "arena" / language / "test.jsonl", rows)
    write_baseline(folder / "answers" / "en.jsonl", ENGLISH)
    write_baseline(folder / "answers" / "es.jsonl", SPANISH)


def alpaca(folder):
    for language, prompts in (("english", ENGLISH), ("spanish", SPANISH)):
        rows = [
            {"id": number, "dataset": "helpful_base", "instruction": p}
            for number, p in enumerate(prompts)
        ]
        path = folder / "alpaca" / f"{language}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(rows, indent=4, ensure_ascii=False), encoding="utf-8")


def omgeval(folder):
    for language, prompts in (
        ("spanish", SPANISH),
        ("russia", ["Какое число самое большое: 3 1 2?"]),
    ):
        path = folder / "omgeval" / language / "gpt3.5-turbo.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(stored(prompts), indent=4, ensure_ascii=False), encoding="utf-8")
    for language in ("arabic", "chinese", "french"):
        path = folder / "omgeval" / language / "gpt3.5-turbo.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(stored([f"{language}?"]), indent=4), encoding="utf-8")


def stored(prompts):
    return [
        {"instruction": p, "output": f"9. {'!' * number}", "generator": "baseline"}
        for number, p in enumerate(prompts)
    ]


def write_baseline(path, prompts):
    write_lines(path, stored(prompts))


@pytest.fixture(scope="module")
def steps(tmp_path_factory):
    """All three in one run, on the tiny model as policy and as (poor) judge."""
    folder = tmp_path_factory.mktemp("judged")
    arena(folder)
    alpaca(folder)
    omgeval(folder)
    names = {"m_arenahard": "arena", "x_alpacaeval": "alpaca", "omgeval": "omgeval"}
    settings = []
    for name, place in names.items():
        key = f"evaluation.{name}"
        settings += [
            f"{key}.root={folder / place}",
            f"{key}.judge.path={TINY}",
            f"{key}.judge.engine.name=transformers",
        ]
        settings += [f"{key}.ask.max_tokens=12"]
        if name != "omgeval":
            settings += [f"{key}.baseline={folder / 'answers'}"]
    # X-AlpacaEval's languages are called by their names; the answers are stored by code.
    return evaluate(folder, f"evaluation=[{','.join(names)}]", *settings)


@pytest.mark.parametrize("name", ["m_arenahard", "x_alpacaeval", "omgeval"])
def test_the_win_rate_is_the_mean_of_both_orders(steps, name):
    verdicts = {
        row["candidate_id"]: row["raw"]
        for row in judgements(steps / f"measure_{name}.marks[model]")
    }
    answers = rows_of(steps / f"measure_{name}.answers[model]")
    shares: dict[str, list[float]] = {}
    for row in answers:
        (answer,) = row["responses"]
        reference = json.loads(row["reference"])
        assert reference["match"] == "stored"
        (told,) = json.loads(verdicts[answer["candidate_id"]])
        (first,), (second,) = told["shown_first"], told["shown_second"]
        shares.setdefault(row["prompt_lang"], []).append(by_hand(first, second))
    step = steps / f"measure_{name}[model]"
    for language, own in shares.items():
        assert value(step, "stored_win_rate", language) == pytest.approx(
            sum(own) / len(own), abs=1e-6
        )
    (low,) = [
        row["low"]
        for row in table(step)
        if (row["metric"], row["language"]) == ("stored_win_rate", "spa_Latn")
    ]
    assert low is not None
    assert any(row["metric"] == "stored_win_rate_lc" for row in table(step))


def judgements(step):
    import pyarrow.parquet as pq

    paths = sorted((step / "judgements").glob("*.parquet"))
    return [
        row
        for path in paths
        for row in pq.read_table(path).to_pylist()
        if row["scorer"] == "judge.verdict"
    ]


def by_hand(first: str, second: str) -> float:
    """1 where the answer won in both orders; `A` is the one that was shown first."""
    ours = (first == "A", second == "B")
    theirs = (first == "B", second == "A")
    if all(ours):
        return 1.0
    return 0.0 if all(theirs) else 0.5


def test_every_answer_is_compared_with_its_own_reference_only():
    def item(name, text, reference):
        told = None if reference is None else json.dumps({"answer": reference, "match": "stored"})
        return Item(
            name, messages("Which number is the largest: 3 1 2?"), text, "eng_Latn", told, "row"
        )

    items = [
        item("a", "The largest number is 3.", "3 is."),
        item("b", "Same.", "Same."),
        item("c", "3", None),
    ]
    with open_scorer(JUDGE) as scorer:
        scores = scorer.score_items(items)
    assert scores.values[0] in (0.0, 0.5, 1.0)
    assert scores.values[1:] == [0.5, None]
    assert scores.columns["comparisons"] == [1.0, 1.0, None]
    assert scores.flags["no_reference"] == [False, False, True]
    assert pairwise.REFERENCE == "reference"


def test_a_comparison_with_the_reference_is_that_of_a_row_of_two():
    prompt, texts = (
        messages("Which number is the largest: 3 1 2?"),
        ["The largest number is 3.", "1.", "2 2 2"],
    )
    graded = {**JUDGE, "expectation": True}
    referring = [
        Item(
            f"r{n}",
            prompt,
            text,
            "eng_Latn",
            json.dumps({"answer": "3.", "match": "stored"}),
            "row",
        )
        for n, text in enumerate(texts)
    ]
    with open_scorer(graded) as scorer:
        found = scorer.score_items(referring).values
    rows = [
        [
            Item(f"{n}:a", prompt, text, "eng_Latn", None, f"row{n}"),
            Item(f"{n}:b", prompt, "3.", "eng_Latn", None, f"row{n}"),
        ]
        for n, text in enumerate(texts)
    ]
    with open_scorer({**graded, "against": "all"}) as scorer:
        expected = scorer.score_items([item for row in rows for item in row]).values[::2]
    assert found == pytest.approx(expected, abs=1e-6)
    assert len(set(found)) == 3


def test_a_prompt_without_a_stored_answer_is_an_error(tmp_path):
    from helpers import run_here

    arena(tmp_path)
    write_baseline(tmp_path / "answers" / "es.jsonl", SPANISH[:2])
    key = "evaluation.m_arenahard"
    done = run_here(
        tmp_path,
        "run",
        "recipe=evaluate",
        "engine=transformers",
        "evaluation=m_arenahard",
        f"{key}.root={tmp_path / 'arena'}",
        f"{key}.baseline={tmp_path / 'answers'}",
        f"{key}.judge.path={TINY}",
        f"{key}.judge.engine.name=transformers",
    )
    assert done.returncode != 0
    assert (
        "es/test.jsonl:3" in done.stdout + done.stderr
        and "holds no answer to this prompt" in done.stdout + done.stderr
    )
