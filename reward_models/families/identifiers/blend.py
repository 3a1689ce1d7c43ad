"""langid, helped by fastText's lid.176 on texts of one or two words. The default: fast and light.

langid is the more accurate of the two on sentences, fastText on single words of large languages.
There the weight of a language is p_langid * (p_fasttext + FLOOR) ** POWER. Languages that fastText
does not know, or seldom recognises, get NEUTRAL in the place of p_fasttext, so that its silence
does not count against them. The three numbers were chosen on windows of one or two words from MGSM
and XCOPA; `benchmarks/identifiers.py` measures on other windows.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np

from reward_models.families.identifiers import fasttext, langid

MAX_WORDS = 2  # of a text that fastText is asked about too
POWER = 0.5
FLOOR = 0.003
NEUTRAL = 0.03
MIN_PROBABILITY = 0.001  # of a language in fastText's answer; below FLOOR it changes little
SELDOM_RECOGNISED = frozenset({"ekk", "hat", "que", "swh"})  # on one or two words, recall below .45


class Blend:
    unreliable: frozenset[str] = frozenset()
    prior = 5.0

    def __init__(self) -> None:
        self._langid = langid.open_default()
        self._fasttext = fasttext.open_default(MIN_PROBABILITY)
        self.codes = self._langid.codes
        column = {code: i for i, code in enumerate(self._fasttext.codes)}
        self._shared = [i for i, code in enumerate(self.codes) if code in column]
        self._of_fasttext = [column[self.codes[i]] for i in self._shared]
        lowest = [_lowest(code, code in column) for code in self.codes]
        self._lowest = np.array(lowest, dtype=np.float32)

    def probabilities(self, texts: Sequence[str]) -> np.ndarray:
        weights = self._langid.probabilities(texts)
        short = [i for i, text in enumerate(texts) if len(text.split(None, MAX_WORDS)) <= MAX_WORDS]
        if short:
            weights[short] *= self._factors([texts[i] for i in short])
        return weights

    def _factors(self, texts: Sequence[str]) -> np.ndarray:
        second = np.zeros((len(texts), len(self.codes)), dtype=np.float32)
        second[:, self._shared] = self._fasttext.probabilities(texts)[:, self._of_fasttext]
        return (np.maximum(second, self._lowest) + FLOOR) ** POWER


def _lowest(code: str, known: bool) -> float:
    """The least probability that fastText's verdict may give to a language."""
    reliable = known and code.split("_", maxsplit=1)[0] not in SELDOM_RECOGNISED
    return 0.0 if reliable else NEUTRAL


@cache
def open_default() -> Blend:
    return Blend()
