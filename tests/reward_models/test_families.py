"""Verifier, length, random, combinations, rows, settings and cards: values worked out by hand."""

import subprocess
import sys

import pytest

import reward_models
from mlalign.core.errors import UserError
from reward_models import Item, card
from reward_models.families.combine import Combination, Gate, combine, problems, z_scores
from reward_models.families.verifier import verify
from reward_models.items import of_row
from reward_models.networks.batching import pack

NUMERIC = [
    ("The answer is 18.", "18", True),
    ("She has 3 + 15 = 18 dollars left, $18!", "18", True),
    ("The answer is 17.", "18", False),
    ("18 apples, then 20.", "18", False),
    ("", "18", False),
    ("no number", "18", False),
    ("أكبر رقم هو ٩.", "9", True),  # Arabic
    ("الجواب ۱۲۳۴ است", "1234", True),  # Persian
    ("সর্বমোট ১৮ টাকা", "18", True),  # Bengali
    ("योग १६ है।", "16", True),  # Devanagari
    ("సమాధానం ౧౮", "18", True),  # Telugu
    ("คำตอบคือ ๑๘ บาท", "18", True),  # Thai
    ("မြန်မာ ၄၂", "42", True),
    ("总和是 16 。", "16", True),
    ("答えは１，２３４円です。", "1234", True),  # full-width
    ("١٬٢٣٤٫٥", "1234.5", True),  # Arabic separators
    ("1,234,567", "1234567", True),
    ("1.234.567", "1234567", True),
    ("1.234.567,5", "1234567.5", True),
    ("12,34,567", "1234567", True),  # Indian grouping
    ("1'234.5", "1234.5", True),
    ("12\u202f000 euros", "12000", True),
    ("12 000", "12000", True),
    ("In 2020 300 people", "300", True),
    ("1.234", "1.234", True),
    ("1.234", "1234", True),  # both readings stand
    ("0.125", "125", False),
    ("0,5", "0.5", True),
    ("18.00", "18", True),
    ("3.14159", "3.14159", True),
    ("-5", "-5", True),
    ("\u22125 grad", "-5", True),
    ("\u200f-٥", "-5", True),
    ("between 3-5", "5", True),
    ("10-5", "-5", False),
    (r"so \boxed{42} and not 7", "42", True),
    (r"\boxed{1{,}234}", "1234", True),
    (r"\boxed{\frac{3}{4}} cups", "0.75", True),
    (r"\boxed{-\frac{1}{2}}", "-0.5", True),
    (r"\boxed{x = \text{about } 5}", "5", True),
    ("10 m²", "10", True),
    ("50%", "50", True),
]  # fmt: skip


@pytest.mark.parametrize(("response", "answer", "right"), NUMERIC)
def test_numeric(response, answer, right):
    assert verify(response, answer, "numeric") == float(right)


@pytest.mark.parametrize(
    ("response", "answer", "match", "right"),
    [
        ("Paris.", "paris", "exact", True),
        ("  Paris  !", "Paris", "exact", True),
        ("It is Paris", "Paris", "exact", False),
        (r"thus \boxed{B}", "B", "exact", True),
        ("ＫＤＦ", "KDF", "exact", True),
        ("Written backwards it is K D F.", "K D F", "contains", True),
        ("K F D", "K D F", "contains", False),
        ("Антоним слова: БЫСТРЫЙ", "быстрый", "contains", True),
    ],
)
def test_exact_and_contains(response, answer, match, right):
    assert verify(response, answer, match) == float(right)


def test_verifier_needs_a_reference_that_it_can_read():
    verifier = reward_models.open_scorer({"family": "verifier"})
    row = {"prompt": "2 + 2?", "response": "4"}
    assert verifier.score([row, {**row, "reference": {"answer": 4, "match": "numeric"}}]) == [
        None,
        1.0,
    ]
    for reference, message in [
        ("4", "row 0: its reference must be JSON"),
        ('{"answer": "x", "match": "numeric"}', "holds none"),
    ]:
        with pytest.raises(UserError, match=message):
            verifier.score([{**row, "reference": reference}])
    with pytest.raises(
        UserError, match="unknown match 'contain' in its reference; did you mean 'contains'"
    ):
        verifier.score([{**row, "reference": {"answer": "4", "match": "contain"}}])


def test_tiny_world_answers_are_right_in_every_language():
    from mlalign.data import tiny_world

    items = []
    for row in tiny_world.rows("prompts", tiny_world.LANGUAGES, 60, split="eval"):
        task, given = row["key"].split("-")[:2]
        item = next(i for i, _ in tiny_world.pool(task, "eval") if i.given == given)
        items.append(
            Item(
                row["key"],
                row["prompt"],
                tiny_world.answer_text(item, item.answer, row["prompt_lang"]),
                row["prompt_lang"],
                row["reference"],
            )
        )
    assert set(reward_models.open_scorer({"family": "verifier"}).score_items(items).values) == {1.0}


def test_length_counts_characters():
    assert reward_models.open_scorer({"family": "length"}).score(
        [{"prompt": "?", "responses": ["", "abc", "数字"]}]
    ) == [0.0, 3.0, 2.0]


def test_length_in_words_and_tokens(classifier):
    texts = ["Das ist ein Satz.", "数字是九", "", "naïve café's"]

    def score(**told):
        return reward_models.open_scorer({"family": "length", **told}).score(
            [{"prompt": "?", "responses": texts}]
        )

    assert score(unit="words") == [4.0, 4.0, 0.0, 2.0]
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(classifier)
    assert score(unit="tokens", path=str(classifier)) == [
        float(len(tokenizer.encode(t, add_special_tokens=False))) for t in texts
    ]


# text, share of 3-grams that occur more than once, distinct-3, units in the longest run
REPEATS = [
    ("a b c d e", 0.0, 1.0, 0),
    ("a b c a b c a b c", 1.0, 3 / 7, 9),
    ("x y z w x y z", 2 / 5, 4 / 5, 0),
    ("no no no no", 1.0, 1 / 2, 4),
    ("one two", 0.0, 1.0, 0),
    ("so A b, a B: a b! end", 2 / 3, 2 / 3, 6),
]


@pytest.mark.parametrize(("text", "repeated", "distinct", "run"), REPEATS)
def test_repetition(text, repeated, distinct, run):
    item = Item("i", [], text)
    found = {
        m: reward_models.open_scorer({"family": "repetition", "measure": m}).score_items([item])
        for m in ("repeated", "distinct", "run")
    }
    n = len(text.split())
    assert [found[m].values[0] for m in ("repeated", "distinct", "run")] == pytest.approx(
        [-repeated, distinct, -run / n]
    )
    assert [c[0] for c in found["run"].columns.values()] == pytest.approx([repeated, distinct, run])


def test_repetition_in_scripts_without_spaces_is_of_letters():
    score = reward_models.open_scorer({"family": "repetition"}).score_items
    natural, looping = "最大的数字是九，最小的数字是三。", "我不知道" * 6
    found = score([Item("a", [], natural), Item("b", [], looping), Item("c", [], "!?")])
    assert found.values == [0.0, -1.0, None] and found.flags["empty"] == [False, False, True]
    assert found.columns["longest_run"] == [0.0, 24.0, None]


def test_random_depends_on_id_and_seed_only():
    items = [Item(f"c{i}", [], "same") for i in range(400)]
    first = reward_models.open_scorer({"family": "random"}).score_items(items).values
    assert (
        reward_models.open_scorer({"family": "random"}).score_items(items[::-1]).values
        == first[::-1]
    )
    assert (
        reward_models.open_scorer({"family": "random", "seed": 1}).score_items(items).values
        != first
    )
    assert all(0 <= v < 1 for v in first) and sum(first) / 400 == pytest.approx(0.5, abs=0.06)


def test_weighted_sum_and_z_scores():
    scores = {"a": [1.0, 3.0, None], "b": [10.0, 10.0, 10.0]}
    assert combine(scores, Combination({"a": 2.0, "b": -0.5})) == [-3.0, 1.0, None]
    assert z_scores([1.0, 3.0, None]) == [-1.0, 1.0, None]
    assert combine(scores, Combination({"a": 2.0, "b": 1.0}, "prompt")) == [-2.0, 2.0, None]
    assert z_scores([None, None]) == [None, None]


def test_gates_drop_or_floor_and_say_what_missing_means():
    scores = {"r": [1.0, 2.0, 3.0], "a": [1.0, 0.0, None]}
    assert combine(scores, Combination({"r": 1.0}, gates=[Gate("a")])) == [1.0, None, 3.0]
    assert combine(
        scores,
        Combination({"r": 1.0}, gates=[Gate("a", policy="floor", floor=-9.0, missing="fail")]),
    ) == [1.0, -9.0, -9.0]
    assert (
        problems(Combination({"rewards": 1.0}, gates=[Gate("b")]), ["reward", "a"], "c")[0]
        == "c.weights: no scorer here is named 'rewards'; did you mean 'reward'?"
    )


def test_pack_fills_a_budget_and_ignores_order():
    lengths, ids = [3, 5, 2, 3, 50], ["d", "a", "b", "c", "e"]
    assert pack(lengths, ids, 10) == [[2, 3, 0], [1], [4]]
    order = [4, 2, 0, 3, 1]
    again = pack([lengths[i] for i in order], [ids[i] for i in order], 10)
    assert [[ids[order[i]] for i in b] for b in again] == [
        [ids[i] for i in b] for b in pack(lengths, ids, 10)
    ]


def test_rows_of_every_shape():
    user, answer = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
    pair = {"id": "p", "prompt": [user], "chosen": "a", "rejected": [answer]}
    assert [(i.id, i.response) for i in of_row(pair, "w")] == [
        ("p:chosen", "a"),
        ("p:rejected", "a"),
    ]
    assert [
        i.id
        for i in of_row(
            {"prompt": "q", "responses": [{"candidate_id": "c1", "text": "a"}, "b"]}, "w"
        )
    ] == ["c1", "w:1"]
    implicit = of_row({"chosen": [user, answer], "rejected": [user, answer]}, "w")
    assert implicit[0].prompt == [user] and implicit[0].response == "a"
    assert of_row({"messages": [user, answer], "language": "sw"}, "w")[0].language == "swh_Latn"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "q"}, "f:3: needs prompt and response"),
        ({"prompt": "", "response": "a"}, "f:3: needs prompt and response"),
        ({"prompt": "q", "response": 4}, "f:3: `response`: expected text or a list of messages"),
        (
            {"chosen": "a", "rejected": "b"},
            "f:3: needs prompt.*`chosen` is an answer without a prompt",
        ),
        (
            {"messages": [{"role": "user", "content": "q"}]},
            "f:3: `messages`: a conversation has a prompt and ends with",
        ),
        ({"prompt": "q", "response": "a", "language": "swahilli"}, "f:3: language 'swahilli'"),
    ],
)
def test_bad_rows_are_named(row, message):
    with pytest.raises(UserError, match=message):
        of_row(row, "f:3")


def test_settings_errors_come_together_and_name_the_nearest():
    assert reward_models.problems({"name": "length"})[0].endswith(
        "has no family; did you mean 'length'?"
    )
    assert reward_models.problems({"family": "lenght"}) == [
        "scorer: unknown family 'lenght'; did you mean 'length'?"
    ]
    found = reward_models.problems(
        {"family": "classifier", "dtype": "float23", "max_length": "x", "bse": 1}
    )
    assert [f.split(":")[0] for f in found] == [
        "scorer.bse",
        "scorer.path",
        "scorer.dtype",
        "scorer.max_length",
    ]
    assert reward_models.problems({"family": "language_adherence", "prior": 3}) == []


def test_card_round_trip_and_errors(tmp_path):
    told = card.Card(
        template_hash="ab",
        max_length=512,
        training_languages=["eng_Latn"],
        accuracy={"eng_Latn": 0.9},
        licence="apache-2.0",
    )
    card.write(tmp_path, told)
    assert card.read(tmp_path) == told
    (tmp_path / "card.yaml").write_text("famly: classifier\n")
    with pytest.raises(UserError, match=r"card.yaml.famly: unknown key; did you mean 'family'"):
        card.read(tmp_path)


def rm(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "reward_models", *map(str, arguments)],
        text=True,
        capture_output=True,
        timeout=120,
        check=False,
    )


@pytest.mark.slow
def test_card_show(tmp_path):
    card.write(tmp_path, card.Card(licence="mit"))
    assert "licence: mit" in rm("card", "show", tmp_path).stdout
    (tmp_path / "none").mkdir()
    done = rm("card", "show", tmp_path / "none")
    assert done.returncode == 2 and "has no card.yaml" in done.stderr


@pytest.mark.long
def test_works_without_training_packages(classifier):
    """Importing is light, and scoring needs none of the packages that train or serve."""
    code = f"""
import sys
for name in ("trl", "deepspeed", "hydra", "omegaconf", "vllm", "datasets"):
    sys.modules[name] = None
import reward_models, reward_models.__main__
heavy = [m for m in ("torch", "transformers", "peft", "lingua", "pyarrow") if m in sys.modules]
assert not heavy, heavy
rows = [{{"prompt": "q", "response": "The largest number is nine.", "language": "en"}}]
assert len(reward_models.load({str(classifier)!r}).score(rows)) == 1
assert reward_models.open_scorer({{"family": "language_adherence"}}).score(rows) == [1.0]
"""
    done = subprocess.run(
        [sys.executable, "-c", code], text=True, capture_output=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_random_score_is_of_an_answer_or_of_its_text():
    items = [
        Item(str(i), [{"role": "user", "content": prompt}], text)
        for i, (prompt, text) in enumerate([("p", "a"), ("p", "a"), ("p", "b"), ("q", "a")])
    ]
    own, told = (
        reward_models.open_scorer({"family": "random", "per": per}).score_items(items).values
        for per in ("answer", "text")
    )
    assert len(set(own)) == 4
    assert told[0] == told[1] and len(set(told)) == 3
    other = (
        reward_models.open_scorer({"family": "random", "per": "text", "seed": 1})
        .score_items(items)
        .values
    )
    assert not set(other) & set(told) and all(0 <= v < 1 for v in other + told)
