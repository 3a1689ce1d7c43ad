"""`majority_vote`: the answer on which most responses in all languages agree, against the others.

The pairs of CALM (Wang et al. 2025, "CALM: Unleashing the Cross-Lingual Self-Aligning Ability of
Language Model Question Answering"): the responses to a question in all its languages vote, and in
each language those that give the majority's answer are chosen over those that do not.

For a group with responses y and their final answers a(y):

    a* = argmax_a |{y : a(y) = a}|
    pairs of language l = {y in l : a(y) = a*} x {y in l : a(y) != a*}

Ours: a tie gives no pairs, `min_share` can ask for more than a plurality, and responses without a
final answer vote for none but may be rejected.
"""

import re
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from itertools import product
from typing import Literal

from mlalign.core.errors import UserError
from mlalign.core.final_answers import boxed, plain, readings
from mlalign.methods.pairing import Group, Pair, Scored, WrongLanguage, may_be_chosen

Answers = Mapping[str, Hashable]  # candidate_id -> final answer, where there is one


def majority_vote(
    group: Group,
    *,
    answer: Literal["number", "text"] = "number",
    pattern: str | None = None,
    min_share: float = 0.0,
    min_languages: int = 2,
    wrong_language: WrongLanguage = "never_chosen",
) -> list[Pair] | str:
    """All pairs of a response with the majority's answer and one without it, within each language.

    The final answer is the response's last number, in digits of any script; with `answer="text"`
    the content of its last `\\boxed{}`, else the whole response; with `pattern` the last match of
    that regular expression, or of its first group. Texts are compared without case and final
    punctuation. An answer wins with more votes than any other, and at least `min_share` of all.

    The margin of a pair is the share of a* less that of the rejected response's answer, in (0, 1].

        en: "4", "5"; sw: "4", "4", "?"  ->  a* is 4 with 3 of 4 votes
        en: ("4", "5", margin 0.5); sw: ("4", "?", margin 0.75) twice
    """
    if len(group.candidates) < min_languages:
        return f"fewer than {min_languages} languages"
    responses = [c for scored in group.candidates.values() for c in scored]
    answers = _numbers(responses) if answer == "number" and pattern is None else {}
    if answer == "text" or pattern is not None:
        answers = _texts(responses, pattern)

    votes = Counter(answers.values()).most_common(2)
    if not votes:
        return "no response has a final answer"
    if len(votes) > 1 and votes[0][1] == votes[1][1]:
        return "tie between answers"
    winner, n_votes = votes[0]
    if n_votes / len(answers) < min_share:
        return "no answer has min_share of the votes"

    pairs: list[Pair] = []
    for scored in group.candidates.values():
        pairs += _pairs(scored, answers, winner, wrong_language)
    return pairs or "no language has both a response to choose and one to reject"


def _pairs(
    scored: Sequence[Scored],
    answers: Answers,
    winner: Hashable,
    wrong_language: WrongLanguage,
) -> list[Pair]:
    votes = Counter(answers.values())
    allowed = may_be_chosen(scored, wrong_language)
    chosen = [c for c in allowed if answers.get(c.candidate_id) == winner]
    rejected = [c for c in scored if answers.get(c.candidate_id) != winner]
    pairs = []
    for good, bad in product(chosen, rejected):
        n_more = votes[winner] - votes[answers.get(bad.candidate_id)]
        pairs.append(Pair(good, bad, n_more / len(answers)))
    return pairs


def _numbers(responses: Iterable[Scored]) -> dict[str, Hashable]:
    """The last number of each response.

    "1.234" can mean two numbers: it means the one that more responses can mean, else the smaller.
    """
    possible = {c.candidate_id: readings(c.text) for c in responses}
    support = Counter(value for values in possible.values() for value in values)
    meant: dict[str, Hashable] = {}
    for identifier, values in possible.items():
        if values:
            meant[identifier] = min(values, key=lambda value: (-support[value], value))
    return meant


def _texts(responses: Iterable[Scored], pattern: str | None) -> dict[str, Hashable]:
    try:
        expression = re.compile(pattern) if pattern is not None else None
    except re.error as error:
        raise UserError(f"args.pattern: {pattern!r} is no regular expression ({error})") from None
    answers: dict[str, Hashable] = {}
    for candidate in responses:
        text = _last_match(candidate.text, expression)
        if text:
            answers[candidate.candidate_id] = text
    return answers


def _last_match(text: str, expression: re.Pattern[str] | None) -> str:
    if expression is None:
        return plain(boxed(text) or text)
    matches = list(expression.finditer(text))
    if not matches:
        return ""
    return plain(matches[-1][1 if expression.groups else 0] or "")
