from collections import Counter

import pytest
import yaml
from helpers import PROJECT

from mlalign.core import languages
from mlalign.methods.metrics import tiers


def test_well_known_classes():
    known = {
        "eng_Latn": "5",
        "cmn_Hant": "5",
        "arb_Arab": "5",
        "hin_Deva": "4",
        "ben_Beng": "3",
        "swh_Latn": "2",
        "yor_Latn": "2",
        "tel_Telu": "1",
        "por_Latn_PT": "4",
    }
    assert {code: tiers.tier(code) for code in known} == known
    assert tiers.tier("zzz_Latn") == "unclassified"


def test_sizes_of_the_complete_classes():
    """7, 18 and 19 languages; 28 and Filipino, which counts as Tagalog (table 1 of the paper: 7,
    18, 28, 19).
    """
    counts = Counter(tiers._classes().values())
    assert [counts[c] for c in "5432"] == [7, 18, 29, 19]


def test_every_language_stands_once_and_as_mlalign_writes_it():
    table = yaml.safe_load(
        (PROJECT / "mlalign/methods/metrics/resource_tiers.yaml").read_text(encoding="utf-8")
    )
    told = [language for group in table.values() for language in group]
    assert sorted(told) == sorted(tiers._classes())
    scripts = {"Latn", "Arab", "Deva"}  # for the few whose usual script langcodes does not know
    for language in told:
        codes = [language, *(f"{language}_{s}" for s in sorted(scripts))]
        assert language in {normalised(c) for c in codes}


def normalised(code: str) -> str | None:
    try:
        return languages.normalise(code).split("_")[0]
    except languages.UserError:
        return None


@pytest.mark.parametrize("name", ["aya23", "european", "mgsm", "tiny", "top5", "xcopa"])
def test_the_languages_of_our_sets_are_classified(name):
    assert tiers.UNKNOWN not in {
        tiers.tier(code) for code in languages.sets(PROJECT / "conf" / "languages")[name]
    }
