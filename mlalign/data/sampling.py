"""Take some rows of each language and split, or more than there are, from rows in a spool."""

from array import array
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from mlalign.core import rows
from mlalign.core.store import Tally
from mlalign.core.terminal import say

Place = tuple[str, str]  # language, split
Counts = Mapping[Place, int]


def copy(
    spool: Path,
    out: Path,
    kind: str,
    ranks: Mapping[Place, array],
    wanted: Counts,
) -> None:
    """Copy the rows of lowest rank from `spool` to `out`, as many as are `wanted` of each place.

    `ranks` are those of the rows in the order of the spool. Where more rows are wanted than there
    are, rows are copied several times, and each copy has an id of its own.
    """
    import numpy as np

    n_copies = {}
    for place, ranks_here in ranks.items():
        of_all, n_once_more = divmod(wanted[place], len(ranks_here))
        n_copies[place] = np.full(len(ranks_here), of_all)
        lowest_first = np.argsort(np.frombuffer(ranks_here), kind="stable")
        n_copies[place][lowest_first[:n_once_more]] += 1

    n_read: dict[Place, int] = defaultdict(int)
    with rows.ShardWriter(out, kind) as writer:
        for row in rows.read(spool):
            place = (row["prompt_lang"], row["split"])
            for number in range(n_copies[place][n_read[place]]):
                writer.write(_repeated(row, number) if number else row)
            n_read[place] += 1


def _repeated(row: dict, number: int) -> dict:
    return {**row, "id": rows.row_id(row["id"], str(number), row["prompt_lang"])}


def count(before: Counts, after: Counts, tally: Tally) -> None:
    """Count what was left out or repeated, and print the mixture of training rows."""
    for place, n_before in before.items():
        language, _ = place
        n_left_out = n_before - after[place]
        tally.keep(language, -n_left_out)
        if n_left_out > 0:
            tally.drop("not_sampled", language, n_left_out)
        if n_left_out < 0:
            tally.add("repeated", language, -n_left_out)

    train = [place for place in before if place[1] == "train"]
    all_before = sum(before[place] for place in train)
    all_after = sum(after[place] for place in train)
    say("mixing of training rows: language, rows and share before, rows and share after")
    for place in train:
        n_before, n_after = before[place], after[place]
        old_share, new_share = n_before / all_before, n_after / max(1, all_after)
        say(f"  {place[0]:<14}{n_before:>9} {old_share:>6.1%}{n_after:>9} {new_share:>6.1%}")
