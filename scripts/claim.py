"""The claim and its controls, over seeds and base models: runs `reuse_your_rewards_controls` for
each cell and prints one table.

    python scripts/claim.py                        every cell that is not there yet, then the table
    python scripts/claim.py --cells A0 B1          these cells, then the table of all that are there
    python scripts/claim.py --table                the table alone

Reads and writes ROOT: `runs/A0` and so on, one store, and the second base in `bases/B`, built there
if it is missing. A cell that was stopped goes on where it was. What counts as success is fixed in
`MEASURES` and said in words in docs/claim.md.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from scipy.stats import t as student

PROJECT = Path(__file__).parent.parent
SEEDS = (0, 1, 2)
BASES = ("A", "B")  # A is the base that ships; B is built by the same script from another seed
SEED_OF_B = 1
CELLS = tuple(f"{base}{seed}" for base in BASES for seed in SEEDS)

Row = Mapping[str, object]
Cell = dict[
    str, list[dict]
]  # step -> rows of its metrics and of its breakdown (those have a `part` and a `member`)
Holds = Callable[[Row], bool] | None


def above(bound: float) -> Callable[[Row], bool]:
    """The whole interval lies above the bound."""
    return lambda row: row["low"] > bound


def not_above(bound: float) -> Callable[[Row], bool]:
    """The interval does not lie above the bound."""
    return lambda row: row["low"] <= bound


# Part of the claim, what it is, step, metric, member of the breakdown by exposure, and what must
# hold in a cell.
MEASURES: tuple[tuple[str, str, str, str, str, Holds], ...] = (
    ("a", "win rate of DPO over SFT, T = 1", "sampled[reward]", "win_rate", "", above(0.5)),
    ("a", "the same, length-controlled", "sampled[reward]", "win_rate_lc", "", None),
    ("a", "accuracy of SFT, T = 1", "sampled[base]", "accuracy", "", None),
    ("a", "accuracy of DPO, T = 1", "sampled[reward]", "accuracy", "", None),
    ("a", "difference", "sampled[reward]", "accuracy_over_baseline", "", above(0)),
    ("a", "adherence of SFT, T = 1", "sampled[base]", "adherence", "", None),
    ("a", "adherence of DPO, T = 1", "sampled[reward]", "adherence", "", None),
    ("a", "difference", "sampled[reward]", "adherence_over_baseline", "", above(0)),
    ("a", "accuracy of SFT, greedy", "greedy[base]", "accuracy", "", None),
    ("a", "accuracy of DPO, greedy", "greedy[reward]", "accuracy", "", None),
    ("a", "difference", "greedy[reward]", "accuracy_over_baseline", "", above(0)),
    (
        "a",
        "win rate of DPO over SFT in the held-out languages, T = 1",
        "sampled[reward]",
        "win_rate",
        "held_out",
        None,
    ),
    (
        "b",
        "win rate over SFT, trained minus random reward, T = 1",
        "sampled[reward]",
        "win_rate_over_control",
        "",
        above(0),
    ),
    (
        "b",
        "accuracy, trained minus random reward, T = 1",
        "sampled[reward]",
        "accuracy_over_control",
        "",
        above(0),
    ),
    (
        "b",
        "accuracy, trained minus random reward, greedy",
        "greedy[reward]",
        "accuracy_over_control",
        "",
        above(0),
    ),
    ("b", "win rate of the random arm over SFT, T = 1", "sampled[random]", "win_rate", "", None),
    (
        "c",
        "win rate over SFT, flipped minus random reward, T = 1",
        "sampled[flipped]",
        "win_rate_over_control",
        "",
        not_above(0),
    ),
    (
        "c",
        "accuracy, flipped minus random reward, T = 1",
        "sampled[flipped]",
        "accuracy_over_control",
        "",
        not_above(0),
    ),
    (
        "c",
        "accuracy, flipped minus random reward, greedy",
        "greedy[flipped]",
        "accuracy_over_control",
        "",
        not_above(0),
    ),
    (
        "d",
        "accuracy of SFT, best of 8 by the reward model",
        "sampled[base]",
        "selected_accuracy",
        "",
        None,
    ),
    ("d", "accuracy of SFT, best of 8 by an oracle", "sampled[base]", "oracle_accuracy", "", None),
)
STEPS = tuple(sorted({step for _, _, step, *_ in MEASURES} | {"transfer"}))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, default=Path("claim"))
    parser.add_argument(
        "--cells",
        nargs="+",
        default=list(CELLS),
        choices=CELLS,
        metavar="CELL",
        help=f"of {' '.join(CELLS)}",
    )
    parser.add_argument("--table", action="store_true", help="compute nothing")
    asked = parser.parse_args()
    failed = [] if asked.table else [cell for cell in asked.cells if compute(cell, asked.root)]
    print(report(read(asked.root)), end="")
    print(
        "".join(
            f"\ncell {cell} failed; see mlalign logs name={cell} root={asked.root}"
            for cell in failed
        ),
        file=sys.stderr,
        end="",
    )
    return 1 if failed else 0


def compute(cell: str, root: Path) -> int:
    """Run one cell to its end, quietly; returns the exit status.

    On a model this small transformers generates faster than vLLM starts.
    """
    model = [] if cell[0] == "A" else [f"model.path={base_b(root)}"]
    fixed = ["recipe=reuse_your_rewards_controls", f"root={root}", "engine=transformers", *model]
    command = [sys.executable, "-m", "mlalign", "run", *fixed, f"name={cell}", f"seed={cell[1:]}"]
    return subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode


def base_b(root: Path) -> Path:
    """The second base, built if it is not there (about 11 minutes on one core)."""
    folder = (root / "bases" / "B").absolute()
    if not (folder / "training.json").is_file():  # written last
        command = [
            sys.executable,
            "-m",
            "mlalign.data.tiny_base",
            "--out",
            str(folder),
            "--seed",
            str(SEED_OF_B),
        ]
        subprocess.run(
            command,
            check=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
        )
    return folder


# -------------------------------------------------------------------------------------------- table


def read(root: Path) -> dict[str, Cell]:
    """The finished cells: those with all their evaluations."""
    found = {}
    for cell in CELLS:
        folders = {step: root / "runs" / cell / "steps" / step for step in STEPS}
        if all((folder / "manifest.json").is_file() for folder in folders.values()):
            found[cell] = {step: _rows(folder) for step, folder in folders.items()}
    return found


def _rows(folder: Path) -> list[dict]:
    return [
        row
        for name in ("metrics.json", "breakdown.json")
        for row in json.loads((folder / name).read_text(encoding="utf-8"))["rows"]
    ]


def report(cells: Mapping[str, Cell]) -> str:
    """The claim's table (seeds and bases in columns) and the reward accuracies, as Markdown."""
    missing = [cell for cell in CELLS if cell not in cells]
    note = f"\nNot computed: {', '.join(missing)}.\n" if missing else ""
    return "\n".join([*claim(cells), "", *transfer(cells)]) + "\n" + note


def claim(cells: Mapping[str, Cell]) -> list[str]:
    """One line a measure: its value and 95% interval in every cell, the mean over cells, and in how
    many holds what the claim asks.

    The interval of the mean is Student's over the cells, so it knows how training differs from seed
    to seed; those of the cells do not.
    """
    lines = [_line("", "", *cells, "mean of cells", "holds"), _line(*["---"] * (len(cells) + 4))]
    for part, name, step, metric, member, holds in MEASURES:
        rows = [_average(cell[step], metric, member) for cell in cells.values()]
        held = f"{sum(map(holds, rows))} of {len(rows)}" if holds else ""
        lines.append(
            _line(
                part,
                name,
                *map(_told, rows),
                _over_cells([float(row["value"]) for row in rows]),
                held,
            )
        )
    return lines


def transfer(cells: Mapping[str, Cell], by: str = "reward") -> list[str]:
    """Reward accuracy by language and kind of preference: the mean over cells."""
    found: dict[tuple[str, str], list[float]] = {}
    for cell in cells.values():
        for row in cell["transfer"]:
            if (
                row["metric"] == "reward_accuracy"
                and row["by"] == by
                and row.get("part", "kind") == "kind"
            ):
                found.setdefault((row["language"], row.get("member", "all")), []).append(
                    row["value"]
                )
    kinds = sorted({kind for _, kind in found})
    languages = [
        language
        for language in dict.fromkeys(language for language, _ in found)
        if language not in ("worst", "gap_to_english")
    ]
    lines = [_line("e: reward accuracy", *kinds), _line(*["---"] * (len(kinds) + 1))]
    return lines + [
        _line(language, *(_mean(found.get((language, kind))) for kind in kinds))
        for language in languages
    ]


def _average(rows: Sequence[Row], metric: str, member: str) -> Row:
    """The average over languages of one metric, of all languages or of those of one exposure."""
    where = {"part": "exposure", "member": member} if member else {"part": None, "member": None}
    wanted = {"metric": metric, "language": "avg", **where}
    return next(row for row in rows if all(row.get(key) == value for key, value in wanted.items()))


def _told(row: Row) -> str:
    return f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"


def _over_cells(values: Sequence[float]) -> str:
    if len(values) < 2:
        return ""
    mean = statistics.fmean(values)
    half = student.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return _told({"value": mean, "low": mean - half, "high": mean + half})


def _mean(values: Sequence[float] | None) -> str:
    return f"{statistics.fmean(values):.3f}" if values else ""


def _line(*fields: str) -> str:
    return "| " + " | ".join(fields) + " |"


if __name__ == "__main__":
    sys.exit(main())
