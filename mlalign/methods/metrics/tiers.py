"""How well a language is provided with text: the classes of Joshi et al. 2020, "The State and Fate of Linguistic Diversity and Inclusion
in the NLP World", from 5 ("the winners") to 0 ("the left-behinds").

Reads `resource_tiers.yaml`, which holds all languages of classes 5 to 2 and the better-known ones of class 1.
"""

from functools import cache
from pathlib import Path

import yaml

UNKNOWN = "unclassified"


@cache
def _classes() -> dict[str, str]:
    told = yaml.safe_load(Path(__file__).with_name("resource_tiers.yaml").read_text(encoding="utf-8"))
    return {language: str(tier) for tier, languages in told.items() for language in languages}


def tier(code: str) -> str:
    """`2` for `swh_Latn`: the class of the language, whatever its script and region; `unclassified` if it is not in the table."""
    return _classes().get(code.partition("_")[0], UNKNOWN)
