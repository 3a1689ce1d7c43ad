"""langid: naive Bayes on byte sequences, with py3langid's model and formula.

py3langid walks a text byte by byte in Python and multiplies half-precision numbers, about 100 us
for a short text. The same sums over a batch take a tenth of that.
"""

import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import pairwise

import numpy as np
from py3langid.langid import MODEL_FILE, LanguageIdentifier

from reward_models.families.identifiers import labels


class LangId:
    unreliable: frozenset[str] = frozenset()
    prior = 5.0  # its probabilities are flat

    def __init__(self) -> None:
        model = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
        self.codes, self._column = labels.columns(model.nb_classes)
        # log P(feature | language), [n_features, n_labels], and log P(language)
        self._table = model.nb_ptc.astype(np.float32)
        self._start = np.asarray(model.nb_pc, dtype=np.float32)
        # The automaton: the next state after a byte, and the feature that ends in a state, or -1.
        self._next = np.asarray(model.tk_nextmove)
        self._row = np.asarray(model.tk_row, dtype=np.int64) << 8
        self._feature = np.asarray(model.tk_output, dtype=np.int32)

    def probabilities(self, texts: Sequence[str]) -> np.ndarray:
        encoded = [_encode(text) for text in texts]
        scores = np.zeros((len(texts), len(self._start)), dtype=np.float32)
        for i, features, counts in self._features(encoded):
            scores[i] = np.log1p(counts) @ self._table.take(features, axis=0) + self._start

        # Softmax at temperature sqrt(bytes), which keeps probabilities calibrated across lengths.
        lengths = np.array([len(text) or 1 for text in encoded], dtype=np.float32)
        scores /= np.sqrt(lengths)[:, None]
        np.exp(scores - scores.max(axis=1, keepdims=True), out=scores)
        scores /= scores.sum(axis=1, keepdims=True)

        weights = np.zeros((len(texts), len(self.codes)), dtype=np.float32)
        for label, column in enumerate(self._column):
            weights[:, column] += scores[:, label]
        return weights

    def _features(self, texts: Sequence[bytes]) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """The number, features and their counts of every text that has any."""
        hits = self._walk(texts)
        hits, counts = np.unique(hits, return_counts=True)
        owners, features = np.divmod(hits, len(self._table))
        starts = np.flatnonzero(np.diff(owners, prepend=-1))
        floats = counts.astype(np.float32)
        for first, last in pairwise([*starts.tolist(), len(owners)]):
            yield int(owners[first]), features[first:last], floats[first:last]

    def _walk(self, texts: Sequence[bytes]) -> np.ndarray:
        """The features of all texts, each as `text * n_features + feature`.

        All texts advance by one byte at a time, the longest ones first in order.
        """
        order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
        lengths = np.array([len(texts[i]) for i in order], dtype=np.int64)
        data = np.frombuffer(b"".join(texts[i] for i in order), dtype=np.uint8)
        starts = np.cumsum(lengths) - lengths
        offsets = np.array(order, dtype=np.int64) * len(self._table)

        states = np.zeros(len(texts), dtype=np.int64)
        hits = [np.zeros(0, dtype=np.int64)]
        for step in range(int(lengths.max(initial=0))):
            n_longer = int(np.searchsorted(-lengths, -step))
            bytes_here = data[starts[:n_longer] + step]
            states = self._next[self._row[states[:n_longer]] + bytes_here]
            features = self._feature[states]
            ends = np.flatnonzero(features >= 0)
            hits.append(offsets[ends] + features[ends])
        return np.concatenate(hits)


def _encode(text: str) -> bytes:
    if text.isupper():
        text = text.lower()
    return unicodedata.normalize("NFC", text).encode("utf-8", errors="surrogatepass")


@cache
def open_default() -> LangId:
    return LangId()
