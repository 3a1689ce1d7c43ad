"""How much text a language has, by the classes of Joshi et al. 2020.

"The State and Fate of Linguistic Diversity and Inclusion in the NLP World": from 5 ("the winners")
to 0 ("the left-behinds"). `resource_tiers.yaml` holds all languages of classes 5 to 2 and the
better-known ones of class 1.
"""

from functools import cache
from pathlib import Path

import yaml

UNKNOWN = "unclassified"


@cache
def _classes() -> dict[str, str]:
    path = Path(__file__).with_name("resource_tiers.yaml")
    tiers = yaml.safe_load(path.read_text(encoding="utf-8"))
    classes: dict[str, str] = {}
    for number, languages in tiers.items():
        classes |= dict.fromkeys(languages, str(number))
    return classes


def tier(code: str) -> str:
    """The class of a language, or `unclassified`. Script and region do not matter.

    swh_Latn  ->  2
    """
    return _classes().get(code.partition("_")[0], UNKNOWN)
