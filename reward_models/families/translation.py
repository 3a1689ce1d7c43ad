"""The family `translation`: how close the answer is to a reference translation, by sacrebleu's
chrF, chrF++ or BLEU.

Reads the row's `reference`: a text, `{"text": …}` or `{"answer": …}`, or a list of texts (several
references). Values are on sacrebleu's scale, 0 to 100, of single sentences. Without a reference:
None, flag `no_reference`.

BLEU needs words. By default the tokenizer follows the language: `zh` for Chinese, `char` for other
scripts without spaces, `13a` otherwise; `tokenize` names another of sacrebleu's (`ja-mecab`,
`ko-mecab`, `flores200`, …, which need packages or a download of their own). Sentence BLEU is
smoothed (exponential) and leaves out orders longer than the sentence. COMET is none of them:
docs/scoring.md says why, and how its scores get beside these.
"""

import dataclasses
import json
from collections.abc import Callable, Sequence
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
    """Raises: UserError if the package of the metric is missing, or sacrebleu has no such
    tokenizer.
    """
    metric = _sacrebleu(settings)

    def run(items: Sequence[Item]) -> Scores:
        told = {i: texts for i, item in enumerate(items) if (texts := references(item.reference))}
        found = {i: metric(items[i], texts) for i, texts in told.items()}
        return Scores(
            [found.get(i) for i in range(len(items))],
            {"no_reference": [i not in told for i in range(len(items))]},
        )

    return run


def references(told: str | None) -> list[str]:
    """The reference translations of a row; none if it has none.

    Text that is no JSON object or list is the reference itself.
    """
    if not told:
        return []
    try:
        value = json.loads(told)
    except ValueError:
        return [told]
    if isinstance(value, dict):
        value = value.get("text", value.get("answer"))
    texts = value if isinstance(value, list) else [value if isinstance(value, str) else told]
    return [t for t in texts if isinstance(t, str) and t]


def tokenizer_for(language: str | None) -> str:
    """sacrebleu's tokenizer for BLEU in a language; `13a`, its default, where none is known."""
    written = written_with(language) if language else ()
    if language and language.startswith(("cmn_", "yue_")):
        return "zh"
    return "char" if any(script in SPACELESS for script in written) else "13a"


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
        raise UserError(
            "translation.tokenize: sacrebleu has no"
            f" {settings.tokenize!r}{nearest(settings.tokenize, _TOKENIZERS)}"
        )
    opened: dict[str, Any] = {}

    def bleu(item: Item, texts: list[str]) -> float:
        name = settings.tokenize or tokenizer_for(item.language)
        if name not in opened:
            try:
                opened[name] = BLEU(tokenize=name, effective_order=True)
            except (ImportError, RuntimeError) as error:
                raise UserError(
                    f"translation.tokenize: {name} needs a package ({' '.join(str(error).split())})"
                ) from None
        return opened[name].sentence_score(item.response, texts).score

    return bleu
