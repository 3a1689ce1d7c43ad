"""The family `guarded`: a scorer where it may be used, its fallback where it failed, nobody
elsewhere, by language.

Reads a policy as `rm-score agree` writes it,
`{default: use, languages: {swh_Latn: {policy: fall_back}}}`; `default` is for languages that it
does not name and for answers without one. Text column `scored_by`: the name of the scorer that
spoke. Where nobody may, the score is None with the flag `abstained`. Scores of two scorers are on
different scales: a prompt has one language, so answers to one prompt are never split between them;
across languages compare only after calibration (of this scorer, not of its parts).
"""

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
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
        parts = [part for part in ("scorer", "fallback") if values.get(part) is not None]
        found = [p for part in parts for p in reward_models.problems(values[part], f"{key}.{part}")]
        if isinstance(values["policy"], Mapping):
            found += _policy_problems(values["policy"], values.get("fallback"), f"{key}.policy")
        return found


def prepare(settings: Settings) -> Callable[[Sequence[Item]], Scores]:
    """Opens the scorers that the policy uses.

    Raises: UserError for a policy that is wrong or cannot be read.
    """
    policies, default = _policies(settings)
    scorers = {
        policy: reward_models.open_scorer(part)
        for policy, part in _parts(settings, {default, *policies.values()}).items()
    }

    def run(items: Sequence[Item]) -> Scores:
        chosen = [
            policies.get(item.language, default) if item.language else default for item in items
        ]
        _check_unmixed(items, chosen)
        places = {policy: [i for i, c in enumerate(chosen) if c == policy] for policy in scorers}
        found = {
            policy: scorers[policy].score_items([items[i] for i in at])
            for policy, at in places.items()
            if at
        }
        names = {policy: scorer.name for policy, scorer in scorers.items()}
        out = _merged(len(items), [(places[policy], scores) for policy, scores in found.items()])
        flags = {**out.flags, "abstained": [c == "abstain" for c in chosen]}
        return dataclasses.replace(
            out, flags=flags, texts={**out.texts, "scored_by": [names.get(c) for c in chosen]}
        )

    return Together(scorers.values(), run)


def acceptor(settings: Settings) -> Callable[[Sequence[Item]], None]:
    """What raises a UserError for an item that the scorer of its language would refuse."""
    policies, default = _policies(settings)
    parts = _parts(settings, {default, *policies.values()})
    acceptors = {
        policy: found for policy, part in parts.items() if (found := reward_models.acceptor(part))
    }

    def accept(items: Sequence[Item]) -> None:
        for item in items:
            policy = policies.get(item.language, default) if item.language else default
            if policy in acceptors:
                acceptors[policy]([item])

    return accept


def _policies(settings: Settings) -> tuple[dict[str, str], str]:
    """Language -> policy, and that of all other languages.

    Raises: UserError for a policy that is wrong or cannot be read.
    """
    told = settings.policy if isinstance(settings.policy, dict) else _read(Path(settings.policy))
    wrong = _policy_problems(
        told,
        settings.fallback,
        "scorer.policy" if isinstance(settings.policy, dict) else settings.policy,
    )
    if wrong:
        raise UserError(*wrong)
    return {code: entry["policy"] for code, entry in told.get("languages", {}).items()}, told.get(
        "default", "use"
    )


def _parts(settings: Settings, used: Collection[str]) -> dict[str, dict]:
    """Policy -> the scorer that speaks under it, for those that are used."""
    parts = {
        "use": settings.scorer,
        **({"fall_back": settings.fallback} if settings.fallback else {}),
    }
    return {policy: part for policy, part in parts.items() if policy in used}


def _policy_problems(told: Any, fallback: Mapping | None, key: str) -> list[str]:
    return agreement.policy_problems(told, key, name_of(fallback) if fallback is not None else None)


def _read(file: Path) -> Any:
    try:
        return yaml_files.read(file)
    except UserError as error:
        raise UserError(f"policy: {error}; rm-score agree writes one") from None


def _check_unmixed(items: Sequence[Item], chosen: Sequence[str]) -> None:
    """Answers to one row's prompt have one language, hence one scorer.

    Raises: UserError if they have not.
    """
    by_prompt: dict[tuple, str] = {}
    for item, policy in zip(items, chosen, strict=True):
        prompt = (item.row, *(message["content"] for message in item.prompt))
        if item.row is not None and by_prompt.setdefault(prompt, policy) != policy:
            raise UserError(
                f"{item.row}: answers to its prompt are in several languages, which have different"
                " scorers; give rows ids of their own"
            )


def _merged(n: int, parts: Sequence[tuple[Sequence[int], Scores]]) -> Scores:
    """The scores of parts put back to their places among n items; what a part does not tell is
    False or None there.
    """

    def spread(lists: Sequence[tuple[Sequence[int], Sequence]], empty: Any) -> list:
        out = [empty] * n
        for at, values in lists:
            for i, value in zip(at, values, strict=True):
                out[i] = value
        return out

    def columns(kind: str, empty: Any) -> dict[str, list]:
        names = dict.fromkeys(name for _, scores in parts for name in getattr(scores, kind))
        return {
            name: spread(
                [(at, getattr(s, kind)[name]) for at, s in parts if name in getattr(s, kind)], empty
            )
            for name in names
        }

    detected = [(at, s.detected) for at, s in parts if s.detected is not None]
    return Scores(
        spread([(at, s.values) for at, s in parts], None),
        columns("flags", False),
        columns("columns", None),
        columns("texts", None),
        spread(detected, None) if detected else None,
        sum(s.tokens for _, s in parts),
    )
