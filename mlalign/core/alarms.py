"""What a stage declares as alarming among the counts of a step: `ALARMS`, a list of these.

`mlalign/running/warning.py` compares them with the tally of a finished step, language by language.
"""

from typing import NamedTuple


class Share(NamedTuple):
    """More than half of `of` are `counted`, both sums of the tally.

    `of` may also be `rows`: those that were kept.
    """

    counted: str
    of: str
    says: str
    mend: str


class Dropped(NamedTuple):
    """More than half of the rows that were read were dropped for `reason`, or, if it is empty, for
    any one reason that the stage does not list before.
    """

    reason: str = ""
    mend: str = "look at them"


Alarm = Share | Dropped
