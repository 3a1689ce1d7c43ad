"""What a pairing method made of a prompt, as preference or demonstration rows."""

import dataclasses
import math
import numbers
from collections.abc import Iterator, Mapping
from typing import Any

from mlalign.core import rows
from mlalign.core.store import Tally
from mlalign.methods import pairing
from mlalign.methods.pairing import Pair, Scored

NOTHING = "the method returned nothing"
COPIED = ("group_id", "prompt_lang", "source", "split", "prompt")


@dataclasses.dataclass(frozen=True)
class Paired:
    """Makes rows of what a method returns. `score` is the column that was compared."""

    method: str
    score: str
    min_margin: float
    max_pairs: int | None

    def rows_of(
        self,
        prompt: Mapping,
        made: pairing.Made,
        tally: Tally,
    ) -> Iterator[dict]:
        """The rows of one prompt. A prompt that gives none is counted under one reason."""
        language = prompt["prompt_lang"]
        reason = made if isinstance(made, str) else NOTHING
        kept: list[Any] = [] if isinstance(made, str) else list(made)
        if kept and isinstance(kept[0], Pair):
            kept, refused = pairing.accept(kept, self.min_margin, self.max_pairs)
            if not kept:
                reason = next(iter(refused), reason)
            else:
                for refusal, n in refused.items():
                    tally.add(f"pairs dropped: {refusal}", language, n)
        if not kept:
            tally.drop(reason, language)
        for item in kept:
            tally.keep(language)
            if isinstance(item, Pair):
                yield self._preference(prompt, item)
            else:
                yield self._demonstration(prompt, item)

    def _preference(self, prompt: Mapping, pair: Pair) -> dict:
        """A preference row; `margin` is in units of what was compared, `score_*` are raw."""
        chosen, rejected = pair.chosen, pair.rejected
        ids = {
            "prompt_id": prompt["id"],
            "chosen_id": chosen.candidate_id,
            "rejected_id": rejected.candidate_id,
        }
        return {
            **self._common(prompt, f"{chosen.candidate_id}:{rejected.candidate_id}"),
            "chosen": rows.messages(chosen.text, "assistant"),
            "rejected": rows.messages(rejected.text, "assistant"),
            "chosen_lang": chosen.language,
            "rejected_lang": rejected.language,
            "margin": pair.margin,
            "method": self.method,
            "score_chosen": chosen.scores[self.score],
            "score_rejected": rejected.scores[self.score],
            "metadata": rows.to_json(ids),
        }

    def _demonstration(self, prompt: Mapping, best: Scored) -> dict:
        ids = {
            "prompt_id": prompt["id"],
            "candidate_id": best.candidate_id,
            "score": best.scores[self.score],
        }
        return {
            **self._common(prompt, best.candidate_id),
            "completion": rows.messages(best.text, "assistant"),
            "response_lang": best.language or best.requested,
            "metadata": rows.to_json(ids),
        }

    def _common(self, prompt: Mapping, key: str) -> dict:
        copied = {name: prompt[name] for name in COPIED}
        identifier = rows.row_id(self.method, key, prompt["prompt_lang"])
        return {**copied, "id": identifier, "origin": "synthetic"}


def misreturned(made: Any) -> str | None:
    """What a method returned that it should not, in words; None if it did as it should."""
    if isinstance(made, str):
        return None
    if not isinstance(made, list | tuple):
        return f"a {type(made).__name__}"
    for item in made:
        if not isinstance(item, Pair | Scored):
            return f"a list that holds a {type(item).__name__}"
        if isinstance(item, Pair) and (problem := _misshapen(item)):
            return problem
    return None


def _misshapen(pair: Pair) -> str | None:
    for side in (pair.chosen, pair.rejected):
        if not isinstance(side, Scored):
            return f"a pair whose side is a {type(side).__name__}"
    if not isinstance(pair.margin, numbers.Real) or not math.isfinite(pair.margin):
        return f"a pair with the margin {pair.margin!r}"
    return None
