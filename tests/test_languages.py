from pathlib import Path

import pytest
from helpers import PROJECT

from mlalign.core import languages
from mlalign.core.errors import UserError
from mlalign.data import tiny_world

SETS = languages.sets(Path(__file__).parent.parent / "conf" / "languages")


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("sw", "swh_Latn"), ("swa", "swh_Latn"), ("swh_Latn", "swh_Latn"), ("Swahili", "swh_Latn"), ("sw-KE", "swh_Latn_KE"), ("sw_TZ", "swh_Latn"),
        ("zh", "cmn_Hans"), ("zh-TW", "cmn_Hant"), ("zh_hant", "cmn_Hant"), ("zh-HK", "cmn_Hant_HK"), ("cmn_Hant_TW", "cmn_Hant"),
        ("no", "nob_Latn"), ("nob_Latn", "nob_Latn"), ("nn", "nno_Latn"), ("arb", "arb_Arab"), ("ar", "arb_Arab"), ("et", "ekk_Latn"),
        ("qu", "que_Latn"), ("quy_Latn", "quy_Latn"), ("ht", "hat_Latn"), ("pt-BR", "por_Latn"), ("pt-PT", "por_Latn_PT"), ("ms", "zsm_Latn"),
        ("fa", "pes_Arab"), ("prs_Arab", "prs_Arab"), ("sr", "srp_Cyrl"), ("sr-Latn", "srp_Latn"), ("iw", "heb_Hebr"), ("ger", "deu_Latn"),
        ("tl", "tgl_Latn"), ("fil", "fil_Latn"), ("ku", "kmr_Latn"), ("es-419", "spa_Latn_419"), (" EN ", "eng_Latn"), ("日本語", "jpn_Jpan"),
        # what stands in brackets counts
        ("Serbian (Latin)", "srp_Latn"), ("Hindi (Romanized)", "hin_Latn"), ("Chinese (Taiwan)", "cmn_Hant"), ("中文（繁體）", "cmn_Hant"),
        ("Acehnese (Arabic script)", "ace_Arab"), ("Modern Standard Arabic", "arb_Arab"), ("Modern Standard Arabic (Romanized)", "arb_Latn"),
        ("Norwegian (Bokmål)", "nob_Latn"), ("Chinese (Cantonese)", "yue_Hant"), ("Kurdish (Sorani)", "ckb_Arab"), ("English (UK)", "eng_Latn_GB"),
        ("Serbian (Cyrillic, Bosnia & Herzegovina)", "srp_Cyrl_BA"), ("Swahili (individual language)", "swh_Latn"), ("Deutsch", "deu_Latn"),
        ("العربية", "arb_Arab"), ("简体中文", "cmn_Hans"), ("Tiếng Việt", "vie_Latn"),
        # one language has one code
        ("Korean", "kor_Kore"), ("kor_Hang", "kor_Kore"), ("jpn_Hira", "jpn_Jpan"), ("cmn_Hani", "cmn_Hans"), ("yue_Hani", "yue_Hant"), ("urd_Aran", "urd_Arab"),
        ("de-Latf", "deu_Latn"), ("ar-001", "arb_Arab"), ("en_XX", "eng_Latn"), ("en-UK", "eng_Latn_GB"), ("es-840", "spa_Latn_US"), ("Dari", "prs_Arab"),
        ("fa-AF", "prs_Arab"), ("cnr", "srp_Latn_ME"), ("zh-yue", "yue_Hant"), ("zh-cmn-Hans", "cmn_Hans"), ("mol", "ron_Latn"), ("scr", "hrv_Latn"),
        ("tw", "twi_Latn"), ("acm", "acm_Arab"), ("en_US.UTF-8", "eng_Latn"), ("sv-FI", "swe_Latn_FI"), ("fr-ca", "fra_Latn_CA"),
    ],
)  # fmt: skip
def test_normalise(written, canonical):
    assert languages.normalise(written) == canonical
    assert languages.normalise(canonical) == canonical


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("Swaili", "did you mean 'Swahili'"), ("xx", "unknown"), ("eng_Abcd", "unknown"), ("und", "no single language"), ("sh", "write one of bos_Latn"),
        ("abc", "abc_Latn"), ("", "expected a code"), (3, "expected a code"), (False, "quote it ('no')"),
        ("java", "a programming language"), ("lua", "the spoken language of this code is lua_Latn"), ("python", "unknown"), ("C++", "unknown"),
        ("English to French", "did you mean 'English' or 'French'?"), ("English/Spanish", "'English' or 'Spanish'"), ("en-fr", "a pair of languages?"),
        ("sv-fi", "swe_Latn_FI"), ("eng-fra", "unknown"), ("Serbian Latin", "did you mean 'Serbian (Latin)'?"), ("English language", "unknown"),
        ("English (pirate)", "unknown"), ("English (French)", "unknown"), ("jp", "a country, whose language is jpn_Jpan"), ("NaN", "a missing value"),
        ("eng_Zxxx", "no way of writing"), ("wu", "unknown"), ("x" * 5000, "too long"),
    ],
)  # fmt: skip
def test_what_names_no_language_is_told_with_the_mend(written, told):
    with pytest.raises(UserError) as error:
        languages.normalise(written)
    assert told in str(error.value)


def test_names_script_and_direction():
    assert languages.english_name("swh_Latn") == "Swahili"
    assert languages.english_name("cmn_Hans") == "Chinese"
    assert languages.english_name("cmn_Hant") == "Chinese (Traditional)"
    assert languages.english_name("eng_Latn_GB") == "English (United Kingdom)"
    assert languages.autonym("deu_Latn") == "Deutsch"
    assert languages.script("hin_Deva") == "Deva"
    assert [languages.direction(c) for c in ("arb_Arab", "heb_Hebr", "tha_Thai")] == [
        "rtl",
        "rtl",
        "ltr",
    ]


def test_resolve_takes_sets_comma_lists_and_lists_without_repeats():
    sets = {"two": ["eng_Latn", "swh_Latn"]}
    assert languages.resolve("two", sets) == ["eng_Latn", "swh_Latn"]
    assert languages.resolve("sw, de,two", sets) == ["swh_Latn", "deu_Latn", "eng_Latn"]
    assert languages.resolve(["two", "Thai", "th"], sets) == ["eng_Latn", "swh_Latn", "tha_Thai"]
    assert languages.resolve(None, sets) == []


@pytest.mark.parametrize("value", [3, 2.5, True])
def test_resolve_refuses_what_is_no_list(value):
    with pytest.raises(UserError, match=f"language {value}: "):
        languages.resolve(value, {})


def test_resolve_reports_every_mistake():
    with pytest.raises(UserError) as error:
        languages.resolve(["Swaili", "sw", False, "aya32"], {"aya23": ["eng_Latn"]})
    assert len(error.value.messages) == 3
    assert "'aya23'" in error.value.messages[2]
    with pytest.raises(UserError, match="quote it"):
        languages.resolve(False, {})


def test_a_long_list_of_mistakes_ends():
    with pytest.raises(UserError) as error:
        languages.resolve([f"nonsense{i}" for i in range(10_000)], {})
    assert len(error.value.messages) == languages.MOST_ERRORS + 1
    assert "9980 more" in error.value.messages[-1]


def test_too_many_sets_are_one_message(tmp_path):
    for i in range(languages.MOST_SETS + 1):
        (tmp_path / f"{i}.yaml").touch()
    with pytest.raises(UserError, match="holds 1,001 files"):
        languages.sets(tmp_path)


def test_shipped_sets_are_canonical():
    folder = Path(__file__).parent.parent / "conf" / "languages"
    assert languages.sets(folder, canonical=True) == languages.sets(folder)
    counts = {"aya23": 23, "xcopa": 11, "mgsm": 11, "tiny": 12, "european": 24, "top5": 5}
    assert {name: len(codes) for name, codes in SETS.items()} == counts
    for codes in SETS.values():
        assert [languages.normalise(c) for c in codes] == codes
    assert tuple(SETS["tiny"]) == tiny_world.LANGUAGES


def test_a_set_with_a_mistake_names_the_file(tmp_path):
    (tmp_path / "mine.yaml").write_text("languages: [sw, no, zz]\n")
    with pytest.raises(UserError) as error:
        languages.sets(tmp_path)
    assert len(error.value.messages) == 2 and all("mine.yaml" in m for m in error.value.messages)


def test_the_names_that_errors_suggest_are_those_of_langcodes():
    import langcodes

    told = (
        (PROJECT / "mlalign" / "core" / "language_names.txt")
        .read_text(encoding="utf-8")
        .splitlines()
    )
    assert told == sorted(
        f"{three} {langcodes.get(two).display_name()}"
        for three, two in languages._two_letters().items()
    )
