"""lingua: accurate on single words, but slow; the first Latin text takes many seconds of CPU."""

from collections.abc import Sequence
from functools import cache

import numpy as np
from lingua import Language, LanguageDetectorBuilder

from reward_models.families.identifiers import labels

DIGITS = 9  # lingua adds terms in random order, so the last digits differ


class Lingua:
    unreliable: frozenset[str] = frozenset()
    prior = 2.0

    def __init__(self) -> None:
        names = [_name(language) for language in Language.all()]
        self.codes, columns = labels.columns(names)
        self._column = dict(zip(names, columns, strict=True))
        self._detector = LanguageDetectorBuilder.from_all_languages().build()

    def probabilities(self, texts: Sequence[str]) -> np.ndarray:
        weights = np.zeros((len(texts), len(self.codes)))
        confidences = self._detector.compute_language_confidence_values_in_parallel(list(texts))
        for row, values in zip(weights, confidences, strict=True):
            for value in values:
                row[self._column[_name(value.language)]] += round(value.value, DIGITS)
        return weights


def _name(language: Language) -> str:
    return language.iso_code_639_1.name.lower()


@cache
def open_default() -> Lingua:
    return Lingua()
