"""The family `guarded`: by language, a scorer where it is trusted, else its fallback or no score.

Reads a policy as `rm-score agree` writes it,
`{default: use, languages: {swh_Latn: {policy: fall_back}}}`; `default` is for languages that it
does not name and for answers without one. The text column `scored_by` has the name of the scorer
that was used. Where none may be, the score is None with the flag `abstained`.

Scores of two scorers are on different scales. A prompt has one language, so answers to one prompt
are never split between scorers. Compare across languages only after calibration, of this scorer and
not of its parts.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import reward_models
from mlalign.core import yaml_files
from mlalign.core.errors import UserError
from reward_models.evidence import agreement
from reward_models.families.together import Together
from reward_models.items import Item, Scores
from reward_models.settings import name_of


@dataclasses.dataclass(frozen=True)
class Settings:
    scorer: dict  # {family, …}
    policy: str | dict  # file as `rm-score agree` writes it, or what is in one
    fallback: dict | None = None  # {family, …}

    @staticmethod
    def problems(values: Mapping, key: str) -> list[str]:
        messages = []
        for part in ("scorer", "fallback"):
            if values.get(part) is not None:
                messages += reward_models.problems(values[part], f"{key}.{part}")
        policy = values["policy"]
        if isinstance(policy, Mapping):
            messages += _policy_problems(policy, values.get("fallback"), f"{key}.policy")
        return messages


@dataclasses.dataclass(frozen=True)
class Policies:
    """Which of `use`, `fall_back` and `abstain` holds, by language."""

    by_language: Mapping[str, str]
    default: str

    def choose(self, language: str | None) -> str:
        if language is None:
            return self.default
        return self.by_language.get(language, self.default)

    def parts(self, settings: Settings) -> dict[str, dict]:
        """Policy -> the scorer under it, for the policies that some language has."""
        used = {self.default, *self.by_language.values()}
        parts = {}
        if "use" in used:
            parts["use"] = settings.scorer
        if settings.fallback and "fall_back" in used:
            parts["fall_back"] = settings.fallback
        return parts


def prepare(settings: Settings) -> Callable[[Sequence[Item]], Scores]:
    """Open the scorers that the policy uses.

    Raises: UserError for a policy that is wrong or cannot be read.
    """
    policies = _policies(settings)
    scorers = {}
    for policy, spec in policies.parts(settings).items():
        scorers[policy] = reward_models.open_scorer(spec)

    def run(items: Sequence[Item]) -> Scores:
        chosen = [policies.choose(item.language) for item in items]
        _check_unmixed(items, chosen)

        parts: list[Part] = []
        scored_by: list[str | None] = [None] * len(items)
        for policy, scorer in scorers.items():
            places = [i for i, choice in enumerate(chosen) if choice == policy]
            if not places:
                continue
            parts.append((places, scorer.score_items([items[i] for i in places])))
            for i in places:
                scored_by[i] = scorer.name

        merged = _merged(len(items), parts)
        abstained = [policy == "abstain" for policy in chosen]
        flags = {**merged.flags, "abstained": abstained}
        texts = {**merged.texts, "scored_by": scored_by}
        return dataclasses.replace(merged, flags=flags, texts=texts)

    return Together(scorers.values(), run)


def acceptor(settings: Settings) -> Callable[[Sequence[Item]], None]:
    """A function that raises a UserError for an item that its language's scorer would refuse."""
    policies = _policies(settings)
    acceptors = {}
    for policy, spec in policies.parts(settings).items():
        accept_part = reward_models.acceptor(spec)
        if accept_part is not None:
            acceptors[policy] = accept_part

    def accept(items: Sequence[Item]) -> None:
        for item in items:
            policy = policies.choose(item.language)
            if policy in acceptors:
                acceptors[policy]([item])

    return accept


def _policies(settings: Settings) -> Policies:
    """The policies of the settings, or of the file that they name.

    Raises: UserError for a policy that is wrong or cannot be read.
    """
    if isinstance(settings.policy, dict):
        key = "scorer.policy"
        policy = settings.policy
    else:
        key = settings.policy
        policy = _read(Path(settings.policy))
    messages = _policy_problems(policy, settings.fallback, key)
    if messages:
        raise UserError(*messages)

    languages = policy.get("languages", {})
    by_language = {code: entry["policy"] for code, entry in languages.items()}
    return Policies(by_language, policy.get("default", "use"))


def _policy_problems(policy: Any, fallback: Mapping | None, key: str) -> list[str]:
    name = None if fallback is None else name_of(fallback)
    return agreement.policy_problems(policy, key, name)


def _read(file: Path) -> Any:
    try:
        return yaml_files.read(file)
    except UserError as error:
        raise UserError(f"policy: {error}; rm-score agree writes one") from None


def _check_unmixed(items: Sequence[Item], chosen: Sequence[str]) -> None:
    """Answers to one row's prompt must have one policy, hence one scorer.

    Raises: UserError if they do not.
    """
    policy_by_prompt: dict[tuple, str] = {}
    for item, policy in zip(items, chosen, strict=True):
        if item.row is None:
            continue
        contents = [message["content"] for message in item.prompt]
        prompt = (item.row, *contents)
        if policy_by_prompt.setdefault(prompt, policy) != policy:
            raise UserError(
                f"{item.row}: answers to its prompt are in several languages, which have different"
                " scorers; give rows ids of their own"
            )


Part = tuple[Sequence[int], Scores]  # places among all items, and the scores of these items


def _merged(n_items: int, parts: Sequence[Part]) -> Scores:
    """The scores of parts put back in their places.

    A flag or column that a part does not have is False or None at its places.
    """
    values: list[float | None] = [None] * n_items
    flags: dict[str, list[bool]] = {}
    columns: dict[str, list[float | None]] = {}
    texts: dict[str, list[str | None]] = {}
    detected: list[str | None] | None = None
    for places, scores in parts:
        _put(values, places, scores.values)
        for name, facts in scores.flags.items():
            _put(flags.setdefault(name, [False] * n_items), places, facts)
        for name, numbers in scores.columns.items():
            _put(columns.setdefault(name, [None] * n_items), places, numbers)
        for name, part_texts in scores.texts.items():
            _put(texts.setdefault(name, [None] * n_items), places, part_texts)
        if scores.detected is not None:
            detected = detected or [None] * n_items
            _put(detected, places, scores.detected)

    n_tokens = sum(scores.tokens for _, scores in parts)
    return Scores(values, flags, columns, texts, detected, n_tokens)


def _put(target: list, places: Sequence[int], values: Sequence) -> None:
    for place, value in zip(places, values, strict=True):
        target[place] = value
