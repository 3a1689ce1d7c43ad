"""What is left of the rows that were read, by language, and why the others were dropped."""

from collections.abc import Sequence

from mlalign.core.errors import UserError
from mlalign.core.store import Tally


def check_languages(kind: str, wanted: Sequence[str], tally: Tally) -> None:
    """Raises: UserError if no row is left, or none in a language that was asked for."""
    messages = []
    for language in wanted:
        if tally.rows[language]:
            continue
        lost = [f"{n} {reason}" for reason, n in _lost(tally, language).items()]
        if lost:
            why = f"dropped {', '.join(lost)}"
        else:
            why = f"no source has it (they have {', '.join(sorted(+tally.rows)) or 'nothing'})"
        messages.append(f"languages: no {kind} row is left in {language}: {why}")
    if not messages and not +tally.rows:
        why = tally.to_dict()["dropped"] or "they are empty"
        messages.append(f"sources: no {kind} row is left: {why}")
    if messages:
        raise UserError(*messages)


def table(tally: Tally) -> str:
    """Rows kept and dropped by language, as text."""
    languages = set(tally.rows)
    for by_language in tally.dropped.values():
        languages |= set(by_language)
    lines = [f"{'language':<14}{'kept':>9}{'dropped':>9}  by reason"]
    for language in sorted(languages):
        lost = _lost(tally, language)
        reasons = ", ".join(f"{reason} {n}" for reason, n in lost.items())
        kept, dropped = tally.rows[language], sum(lost.values())
        lines.append(f"{language:<14}{kept:>9}{dropped:>9}  {reasons}".rstrip())
    return "\n".join(lines)


def _lost(tally: Tally, language: str) -> dict[str, int]:
    """reason -> rows of a language that were dropped for it."""
    lost = {}
    for reason, by_language in sorted(tally.dropped.items()):
        if by_language[language]:
            lost[reason] = by_language[language]
    return lost
