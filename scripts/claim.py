"""The claim and its controls, over seeds and base models, as one table.

    python scripts/claim.py                        every missing cell, then the table
    python scripts/claim.py --cells A0 B1          these cells, then the table of all finished ones
    python scripts/claim.py --table                the table alone

A cell is a run of `reuse_your_rewards_controls`. Reads and writes ROOT: `runs/A0` and so on, one
store, and the second base in `bases/B`, built there if it is missing. A cell that was stopped
resumes. `MEASURES` defines what counts as success, and docs/claim.md says it in words.
"""

import argparse
import itertools
import json
import math
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
CELLS = tuple(f"{base}{seed}" for base, seed in itertools.product(BASES, SEEDS))

Row = Mapping[str, object]
# Step -> rows of its metrics and of its breakdown (those have a `part` and a `member`).
Cell = dict[str, list[dict]]
Holds = Callable[[Row], bool] | None


def above(bound: float) -> Callable[[Row], bool]:
    """The whole interval lies above the bound."""
    return lambda row: row["low"] > bound


def not_above(bound: float) -> Callable[[Row], bool]:
    """The interval does not lie above the bound."""
    return lambda row: row["low"] <= bound


# Part of the claim, description, step, metric, exposure (a member of the breakdown), and what must
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
STEPS = tuple(sorted({measure[2] for measure in MEASURES} | {"transfer"}))


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
    options = parser.parse_args()
    failed = []
    if not options.table:
        failed = [cell for cell in options.cells if compute(cell, options.root)]
    print(report(read(options.root)), end="")
    for cell in failed:
        hint = f"see mlalign logs name={cell} root={options.root}"
        print(f"\ncell {cell} failed; {hint}", file=sys.stderr, end="")
    return 1 if failed else 0


def compute(cell: str, root: Path) -> int:
    """Run one cell to its end, quietly; returns the exit status."""
    settings = [
        "recipe=reuse_your_rewards_controls",
        f"root={root}",
        f"name={cell}",
        f"seed={cell[1:]}",
        "engine=transformers",  # it generates with so small a model before vLLM has started
    ]
    if cell[0] == "B":
        settings.append(f"model.path={base_b(root)}")
    command = [sys.executable, "-m", "mlalign", "run", *settings]
    return subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode


def base_b(root: Path) -> Path:
    """The second base, built if it is not there (about 11 minutes on one core)."""
    folder = (root / "bases" / "B").absolute()
    if (folder / "training.json").is_file():  # written last
        return folder
    options = ["--out", str(folder), "--seed", str(SEED_OF_B)]
    command = [sys.executable, "-m", "mlalign.data.tiny_base", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    return folder


# -------------------------------------------------------------------------------------------- table


def read(root: Path) -> dict[str, Cell]:
    """The finished cells: those with all their evaluations."""
    cells = {}
    for cell in CELLS:
        folders = {step: root / "runs" / cell / "steps" / step for step in STEPS}
        if all((folder / "manifest.json").is_file() for folder in folders.values()):
            cells[cell] = {step: _rows(folder) for step, folder in folders.items()}
    return cells


def _rows(folder: Path) -> list[dict]:
    rows = []
    for name in ("metrics.json", "breakdown.json"):
        rows += json.loads((folder / name).read_text(encoding="utf-8"))["rows"]
    return rows


def report(cells: Mapping[str, Cell]) -> str:
    """The claim's table (seeds and bases in columns) and the reward accuracies, as Markdown."""
    lines = [*claim(cells), "", *transfer(cells)]
    missing = [cell for cell in CELLS if cell not in cells]
    if missing:
        lines += ["", f"Not computed: {', '.join(missing)}."]
    return "\n".join(lines) + "\n"


def claim(cells: Mapping[str, Cell]) -> list[str]:
    """One line per measure, with its value and 95% interval in every cell and over the cells.

    The last column says in how many cells the claim holds. The interval over the cells is
    Student's, so it includes how training differs from seed to seed; those of the cells do not.
    """
    lines = [_line("", "", *cells, "mean of cells", "holds"), _line(*["---"] * (len(cells) + 4))]
    for part, name, step, metric, member, holds in MEASURES:
        rows = [_average(cell[step], metric, member) for cell in cells.values()]
        intervals = [_interval(row["value"], row["low"], row["high"]) for row in rows]
        mean = _over_cells([float(row["value"]) for row in rows])
        n_held = ""
        if holds:
            n_held = f"{sum(map(holds, rows))} of {len(rows)}"
        lines.append(_line(part, name, *intervals, mean, n_held))
    return lines


def transfer(cells: Mapping[str, Cell], by: str = "reward") -> list[str]:
    """Reward accuracy by language and kind of preference: the mean over cells."""
    values: dict[str, dict[str, list[float]]] = {}  # language -> kind -> accuracy in each cell
    for cell in cells.values():
        for row in cell["transfer"]:
            is_kind = row.get("part", "kind") == "kind"
            if row["metric"] == "reward_accuracy" and row["by"] == by and is_kind:
                by_kind = values.setdefault(row["language"], {})
                by_kind.setdefault(row.get("member", "all"), []).append(row["value"])

    kinds = sorted(set().union(*values.values()))
    lines = [_line("e: reward accuracy", *kinds), _line(*["---"] * (len(kinds) + 1))]
    for language, by_kind in values.items():
        if language not in ("worst", "gap_to_english"):
            means = [_mean(by_kind.get(kind)) for kind in kinds]
            lines.append(_line(language, *means))
    return lines


def _average(rows: Sequence[Row], metric: str, member: str) -> Row:
    """The average over languages of one metric, of all languages or of those of one exposure."""
    part = "exposure" if member else None
    wanted = (metric, "avg", part, member or None)
    for row in rows:
        if (row["metric"], row["language"], row.get("part"), row.get("member")) == wanted:
            return row
    raise KeyError(f"no average of {metric} {member}")


def _interval(value: float, low: float, high: float) -> str:
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def _over_cells(values: Sequence[float]) -> str:
    """The mean over cells with its interval: mean ± t(n-1) · s / sqrt(n)."""
    n = len(values)
    if n < 2:
        return ""
    mean = statistics.fmean(values)
    half = student.ppf(0.975, n - 1) * statistics.stdev(values) / math.sqrt(n)
    return _interval(mean, mean - half, mean + half)


def _mean(values: Sequence[float] | None) -> str:
    return f"{statistics.fmean(values):.3f}" if values else ""


def _line(*fields: str) -> str:
    return "| " + " | ".join(fields) + " |"


if __name__ == "__main__":
    sys.exit(main())
