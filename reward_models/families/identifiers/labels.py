"""The labels of identifiers as canonical codes."""

from collections.abc import Sequence

from mlalign.core import languages
from mlalign.core.errors import UserError

# Labels that mean something else, or have no script, to `languages.normalise`.
OWN = {
    "als": "gsw_Latn",
    "azb": "azb_Arab",
    "bh": "bho_Deva",
    "bxr": "bxr_Cyrl",
    "mhr": "mhr_Cyrl",
    "pnb": "pnb_Arab",
    "sh": "srp_Latn",
    "xal": "xal_Cyrl",
}


def canonical(label: str) -> str:
    """`sw` gives `swh_Latn`; an unknown label becomes a Latin-script language of its own."""
    if label in OWN:
        return OWN[label]
    try:
        return languages.normalise(label)
    except UserError:
        return label if "_" in label else f"{label}_Latn"


def columns(labels: Sequence[str]) -> tuple[list[str], list[int]]:
    """The sorted codes of labels, and each label's column among them. Two labels may share a code.

    `["sw", "en"]` gives `(["eng_Latn", "swh_Latn"], [1, 0])`.
    """
    codes_of_labels = [canonical(label) for label in labels]
    codes = sorted(set(codes_of_labels))
    place = {code: i for i, code in enumerate(codes)}
    return codes, [place[code] for code in codes_of_labels]
