"""What a person must hear of a finished step before its results: the counts that its stage calls
alarming (`ALARMS`).

The manifest keeps these warnings under `warnings`, together with those of the stage itself
(`Output.warn`); run, status and report show them first.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from mlalign.core.alarms import Alarm, Dropped, Share
from mlalign.core.store import Tally

SHOWN = 4  # languages that a warning names


def of_tally(alarms: Sequence[Alarm], tally: Tally) -> list[str]:
    """Warnings that follow from what a step counted."""
    warnings = []
    for alarm in alarms:
        if isinstance(alarm, Share):
            counted = tally.sums.get(alarm.counted, Counter())
            total = tally.rows if alarm.of == "rows" else tally.sums.get(alarm.of, Counter())
            warnings += _above_half(counted, total, alarm.says, alarm.mend)

    for reason, by_language in sorted(tally.dropped.items()):
        mend = _mend_of_drop(reason, alarms)
        if mend:
            read = _rows_read(tally, by_language)
            warnings += _above_half(by_language, read, f"rows were dropped ({reason})", mend)
    return warnings


def _mend_of_drop(reason: str, alarms: Sequence[Alarm]) -> str | None:
    """What to do about rows dropped for this reason; None if that is no cause for alarm."""
    for alarm in alarms:
        if isinstance(alarm, Dropped) and alarm.reason in (reason, ""):
            return alarm.mend
    return None


def _rows_read(tally: Tally, languages: Mapping[str, float]) -> dict[str, int]:
    """Rows that were kept or dropped, by language."""
    read = {}
    for language in languages:
        n_dropped = sum(dropped[language] for dropped in tally.dropped.values())
        read[language] = tally.rows[language] + n_dropped
    return read


def _above_half(
    counts: Mapping[str, float], total: Mapping[str, float], says: str, mend: str
) -> list[str]:
    """One warning, of the languages in which more than half are counted; none if there are none."""
    most = {language: n for language, n in sorted(counts.items()) if n > total.get(language, 0) / 2}
    if not most:
        return []

    named = []
    for language, n in list(most.items())[:SHOWN]:
        named.append(f"{n:.0f} of {total[language]:.0f} in {language}")
    more = f" and in {len(most) - SHOWN} more languages" if len(most) > SHOWN else ""
    return [f"{', '.join(named)}{more} {says}; {mend}"]
