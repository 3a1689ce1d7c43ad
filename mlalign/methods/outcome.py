"""What operators work on and what they made: rows as items, and results as rows."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mlalign.core import rows
from mlalign.core.errors import UserError
from mlalign.core.store import Tally
from mlalign.methods import made
from mlalign.methods.lockstep import Run
from mlalign.methods.operators import Item

NOTHING = "the operator made nothing"
Replies = Mapping[tuple[str, str], Mapping[str, Any]]  # (id of a run, text) -> the model's response


def items_of(row: Mapping, reads: str, language: str, pool: Sequence[made.Messages]) -> list[Item]:
    """The items in one row: the row itself, or each of its candidates."""
    common = Item(row["id"], language, row.get("prompt") or (), "", row.get("reference"), pool=pool)
    if reads == "prompt":
        return [common]
    if reads == "text":
        return [dataclasses.replace(common, text=row["text"])]
    texts = {response["candidate_id"]: response["text"] or "" for response in row["responses"]}
    items = []
    for identifier, text in texts.items():
        siblings = [other for name, other in texts.items() if name != identifier]
        items.append(dataclasses.replace(common, id=identifier, text=text, siblings=siblings))
    return items


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Makes rows of the results of an operator. `sampler` is the fingerprint of how it ran."""

    operator: str
    reads: str
    makes: Any
    sampler: str

    def rows_of(
        self,
        row: Mapping,
        runs: Sequence[Run],
        replies: Replies,
        tally: Tally,
    ) -> list[dict]:
        """The rows of all runs on one item, which is in `row`.

        Every reason is counted under `sums`. An item that gives no row is dropped under the first.
        """
        language = row["prompt_lang"]
        named: list[tuple[str, Run, Any]] = []
        reasons: list[str] = []
        for run in runs:
            named += self._named(run, reasons)
        for reason in reasons:
            tally.add(f"not made: {reason}", language)
        if not named:
            tally.drop(next(iter(reasons), NOTHING), language)
            return []
        if self.makes is made.Candidate:
            tally.keep(language)
            return [self._candidates(row, named, replies)]
        tally.keep(language, len(named))
        return [self._row(row, run, identifier, content) for identifier, run, content in named]

    def _named(self, run: Run, reasons: list[str]) -> Iterator[tuple[str, Run, Any]]:
        """(id, run, content) of what a run made.

        The first gets the run's own id, the others one that is hashed from it. Reasons why
        something was not made are appended to `reasons`.
        """
        result = run.result or NOTHING
        if isinstance(result, str):
            reasons.append(result)
            return
        contents = []
        for content in result:
            if isinstance(content, str):
                reasons.append(content)
            elif isinstance(content, self.makes):
                contents.append(content)
            else:
                expected = f"expected {self.makes.__name__}, or a text that is the reason for none"
                place = f"{run.item.id}: operator {self.operator}"
                raise UserError(f"{place}: returns {content!r}; {expected}")

        for number, content in enumerate(contents):
            identifier = run.id
            if number > 0:
                identifier = rows.candidate_id(run.id, self.sampler, number)
            yield identifier, run, content

    def _candidates(
        self,
        row: Mapping,
        named: Sequence[tuple[str, Run, Any]],
        replies: Replies,
    ) -> dict:
        """One row with all candidates.

        Those for a prompt keep its id. Those made from a candidate get an id hashed from that
        candidate and the sampler.
        """
        responses = []
        for identifier, run, content in named:
            response = dict(replies.get((run.id, content.text), {}))
            response |= {"candidate_id": identifier, "text": content.text}
            if self.reads == "candidate":
                response["parent"] = run.item.id
            responses.append(response)
        item = named[0][1].item
        common = {name: row[name] for name in rows.COMMON}
        if self.reads == "candidate":
            common["id"] = rows.derived_id(item.id, self.sampler)
        return {
            **common,
            "prompt": item.prompt,
            "reference": item.reference,
            "response_lang_requested": item.language,
            "responses": responses,
        }

    def _row(self, row: Mapping, run: Run, identifier: str, content: Any) -> dict:
        """A row of any other kind. Where its prompt is not the item's, it is a new item."""
        columns = made.columns(content)
        language = row["prompt_lang"]
        if columns.get("prompt_lang") not in (None, language):
            wrong = columns["prompt_lang"]
            raise UserError(
                f"{run.item.id}: operator {self.operator}: returns a row with prompt_lang "
                f"{wrong}; an operator stays in the prompt's language, {language}"
            )
        if isinstance(content, made.Judgement):
            columns |= {"candidate_id": run.item.id, "scorer": self.operator}
        else:
            columns["metadata"] = columns.get("metadata") or rows.to_json({"parent": run.item.id})
        for name in ("response_lang", "chosen_lang", "rejected_lang"):
            if name in columns:
                columns[name] = columns[name] or run.item.language
        is_judgement = isinstance(content, made.Judgement)
        is_same_item = is_judgement or columns.get("prompt") == run.item.prompt
        return {
            **columns,
            "id": identifier,
            "group_id": row["group_id"] if is_same_item else identifier,
            "prompt_lang": language,
            "source": row["source"],
            "origin": "synthetic",
            "split": row["split"],
        }
