"""The family `translation`: how close the answer is to a reference translation.

The measure is sacrebleu's chrF, chrF++ or BLEU.

Reads the row's `reference`: a text, `{"text": …}` or `{"answer": …}`, or a list of texts (several
references). Values are of single sentences, on sacrebleu's scale of 0 to 100. Without a reference
the score is None, with the flag `no_reference`.

BLEU needs words. By default the tokenizer follows the language: `zh` for Chinese, `char` for other
scripts without spaces, `13a` otherwise; `tokenize` names another of sacrebleu's (`ja-mecab`,
`ko-mecab`, `flores200`, …, which need packages or a download of their own). Sentence BLEU is
smoothed (exponential) and leaves out orders longer than the sentence. COMET is not offered:
docs/scoring.md says why, and how to add its scores.
"""

import dataclasses
import json
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Literal

from mlalign.core.errors import UserError, nearest
from reward_models.families.scripts import SPACELESS, written_with
from reward_models.items import Item, Scores

Metric = Callable[[Item, list[str]], float]


@dataclasses.dataclass(frozen=True)
class Settings:
    metric: Literal["chrf", "chrf++", "bleu"] = "chrf"
    tokenize: str | None = None  # of BLEU; by default by language


def prepare(settings: Settings) -> Callable[[Sequence[Item]], Scores]:
    """Raises: UserError if sacrebleu is missing, or does not have the tokenizer."""
    metric = _sacrebleu(settings)

    def run(items: Sequence[Item]) -> Scores:
        values: list[float | None] = []
        for item in items:
            texts = references(item.reference)
            values.append(metric(item, texts) if texts else None)
        return Scores(values, {"no_reference": [value is None for value in values]})

    return run


def references(reference: str | None) -> list[str]:
    """The reference translations of a row; none if it has none.

    Text that is no JSON object or list is the reference itself.
    """
    if not reference:
        return []
    try:
        value = json.loads(reference)
    except ValueError:
        return [reference]
    if isinstance(value, dict):
        value = value.get("text", value.get("answer"))

    if isinstance(value, list):
        texts = value
    elif isinstance(value, str):
        texts = [value]
    else:
        texts = [reference]
    return [text for text in texts if isinstance(text, str) and text]


def tokenizer_for(language: str | None) -> str:
    """sacrebleu's tokenizer for BLEU in a language; `13a`, its default, where none is known."""
    if not language:
        return "13a"
    if language.startswith(("cmn_", "yue_")):
        return "zh"
    if SPACELESS.isdisjoint(written_with(language)):
        return "13a"
    return "char"


def _sacrebleu(settings: Settings) -> Metric:
    try:
        from sacrebleu.metrics.bleu import _TOKENIZERS, BLEU
        from sacrebleu.metrics.chrf import CHRF
    except ModuleNotFoundError:
        raise UserError(
            f"translation with metric: {settings.metric} needs the package: pip install sacrebleu"
        ) from None
    if settings.metric != "bleu":
        chrf = CHRF(word_order=2 if settings.metric == "chrf++" else 0)
        return lambda item, texts: chrf.sentence_score(item.response, texts).score
    if settings.tokenize is not None and settings.tokenize not in _TOKENIZERS:
        hint = nearest(settings.tokenize, _TOKENIZERS)
        raise UserError(f"translation.tokenize: sacrebleu has no {settings.tokenize!r}{hint}")

    @cache
    def bleu(tokenizer: str) -> Any:
        try:
            return BLEU(tokenize=tokenizer, effective_order=True)
        except (ImportError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"translation.tokenize: {tokenizer} needs a package ({reason})"
            ) from None

    def score(item: Item, texts: list[str]) -> float:
        tokenizer = settings.tokenize or tokenizer_for(item.language)
        return bleu(tokenizer).sentence_score(item.response, texts).score

    return score
