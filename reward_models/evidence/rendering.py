"""Evidence as text: Markdown to read, CSV and JSON to work with. Pure. Names come from data, so every format escapes them."""

import dataclasses
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mlalign.core import spreadsheets
from reward_models.evidence import rewardbench
from reward_models.evidence.measures import AVERAGE, GAP, WORST, Plan, Record
from reward_models.evidence.verdicts import MEASURES

NONE = "–"
SUMMARIES = {AVERAGE: "average", WORST: "worst", GAP: "gap to {anchor}"}


@dataclasses.dataclass(frozen=True)
class Report:
    """What was measured: model -> records. `rows` is language -> number of rows; `notes` are remarks on the data."""

    models: Mapping[str, Sequence[Record]]
    rows: Mapping[str, int]
    plan: Plan
    notes: Sequence[str] = ()
    chance: float = 0.5  # the accuracy of a coin on these rows

    def find(self, model: str, measure: str, language: str = "", section: str = "", subset: str = "") -> Record | None:
        """The record of a model at a place."""
        return self._places[model].get((measure, language, section, subset))

    def names(self, field: str, measure: str) -> list[str]:
        """The languages, sections or subsets that have records of a measure, in their order, summaries left out."""
        seen = {getattr(r, field): None for records in self.models.values() for r in records if r.measure == measure}
        return [name for name in seen if name and name not in SUMMARIES]

    def __post_init__(self) -> None:
        places = {m: {(r.measure, r.language, r.section, r.subset): r for r in records} for m, records in self.models.items()}
        object.__setattr__(self, "_places", places)

    _places: dict[str, dict[tuple[str, str, str, str], Record]] = dataclasses.field(init=False, repr=False)


# --------------------------------------------------------------------------------------------------------------- Markdown


def markdown(report: Report) -> str:
    """The tables that matter, models side by side, with the formula below each; everything else is in the CSV."""
    parts = ["# Evaluation of preferences", _about(report), "## Accuracy by language", _by_language(report), _how(report)]
    parts += ["## Ties, rows without a score, margins", _counts(report)]
    for field in ("section", "subset"):
        names = report.names(field, "accuracy")
        if names:
            rows = [[n, *(_cell(report.find(m, "accuracy", **{field: n})) for m in report.models)] for n in names]
            parts += [f"## Accuracy by {field}, all languages", _table([field, *report.models], rows)]
    return "\n\n".join([*parts, *_rewardbench(report), *_rewardbench_2(report), *_consistency(report)]) + "\n"


def _about(report: Report) -> str:
    total = f"{sum(report.rows.values())} rows in {len(report.rows)} language{'s' if len(report.rows) != 1 else ''}."
    return "\n".join([total, *(f"- {_escaped(note)}" for note in report.notes)])


def _how(report: Report) -> str:
    plan = report.plan
    return (
        "accuracy = share of rows whose chosen answer scores highest; a tie counts 1/k for the chosen one of k answers that share the "
        f"highest score (1/2 for a pair). Intervals: {plan.confidence:.0%}, percentile bootstrap of {plan.replicates} draws (seed "
        f"{plan.seed}) of whole items, an item being a row with its translations. average: mean over languages with equal weights; gap: "
        f"{plan.anchor} minus the mean of the others. Languages compare with each other only as far as their rows do."
    )


def _by_language(report: Report) -> str:
    rows = []
    for language in report.names("language", "accuracy"):
        cells = [_cell(report.find(m, "accuracy", language)) for m in report.models]
        rows.append([language, str(report.rows.get(language, 0)), *cells])
    for name in SUMMARIES:
        found = [report.find(m, "accuracy", name) for m in report.models]
        if any(found) and len(rows) > 1:
            rows.append([_summary(name, report), "", *(f"{_cell(r)} {r.which if r else ''}".strip() for r in found)])
    rows.append(["all rows", str(sum(report.rows.values())), *(_cell(report.find(m, "accuracy")) for m in report.models)])
    return _table(["language", "rows", *report.models], rows)


def _counts(report: Report) -> str:
    header, rows = ["language"], []
    for m in report.models:
        header += [f"{m}: ties", "no score", "accuracy, ties wrong", "mean margin"]
    for language in [*report.names("language", "accuracy"), ""]:
        row = [language or "all rows"]
        for m in report.models:
            strict, margin = (report.find(m, measure, language) for measure in MEASURES[1:])
            row += [str(strict.size.ties), str(strict.size.unscored)] if strict else [NONE, NONE]
            row += [_cell(strict), _number(margin)]
        rows.append(row)
    return _table(header, rows) + "\n\nA margin is in its scorer's own unit: compare no margins of two scorers."


def _rewardbench(report: Report) -> list[str]:
    parts = []
    for m in report.models:
        languages = [r.language for r in report.models[m] if r.measure == "rewardbench" and r.language not in SUMMARIES]
        rows = [[x, *(_number(report.find(m, "rewardbench", x, s)) for s in rewardbench.SECTIONS)] for x in dict.fromkeys(languages)]
        scores = [(_cell(report.find(m, "rewardbench", row[0])), _number(report.find(m, "rewardbench_with_prior", row[0]))) for row in rows]
        rows = [[*row, *both] for row, both in zip(rows, scores, strict=True)]
        blank = [""] * len(rewardbench.SECTIONS)
        for name in SUMMARIES:
            if found := report.find(m, "rewardbench", name):
                shown = f"avg (without {report.plan.anchor})" if name == AVERAGE else _summary(name, report)
                rows.append([shown, *blank, f"{_cell(found)} {found.which}".strip(), ""])
        if rows:
            parts.append(f"### {_escaped(m)}\n\n" + _table(["language", *rewardbench.SECTIONS, "score", "with prior"], rows))
    counts = {"rewardbench": "RewardBench", "m_rewardbench": "M-RewardBench"}[report.plan.counts]
    return ["## RewardBench", *parts, rewardbench.FORMULA.format(counts=counts, anchor=report.plan.anchor) + "."] if parts else []


def _rewardbench_2(report: Report) -> list[str]:
    parts = []
    for m in report.models:
        languages = dict.fromkeys(r.language for r in report.models[m] if r.measure == "rewardbench_2")
        rows = [
            [x, *(_number(report.find(m, "rewardbench_2", x, d)) for d in rewardbench.DOMAINS), _cell(report.find(m, "rewardbench_2", x))]
            for x in languages
        ]
        if rows:
            parts.append(f"### {_escaped(m)}\n\n" + _table(["language", *rewardbench.DOMAINS, "score"], rows))
    return ["## RewardBench 2", *parts, rewardbench.FORMULA_2 + "."] if parts else []


def _consistency(report: Report) -> list[str]:
    languages = report.names("language", "agreement")
    if not languages:
        return []
    header, rows = ["language"], []
    for m in report.models:
        header += [f"{m}: kappa", "agreement", "items", "unlinked"]
    for language in [*languages, AVERAGE]:
        row = [SUMMARIES.get(language, language)]
        for m in report.models:
            kappa, agreement = (report.find(m, measure, language) for measure in ("kappa", "agreement"))
            sizes = [str(kappa.size.n) if kappa else NONE, str(agreement.size.unlinked) if agreement else ""]
            row += [_cell(kappa), _number(agreement), *sizes]
        rows.append(row)
    anchor = report.plan.anchor
    told = (
        f"Preferences (chosen, rejected, tie) in a language against those in {anchor} for the same item; kappa = (p_o - p_e) / (1 - p_e) "
        f"(Cohen 1960), {NONE} where both always prefer the same. unlinked: rows without exactly one scored counterpart in {anchor}."
    )
    return [f"## Agreement with {anchor}", _table(header, rows), told]


def _summary(name: str, report: Report) -> str:
    return SUMMARIES[name].format(anchor=report.plan.anchor)


def _cell(found: Record | None) -> str:
    if found is None or found.value is None:
        return NONE
    return _number(found) + (f" [{found.low:.3f}, {found.high:.3f}]" if found.low is not None else "")


def _number(found: Record | None) -> str:
    return NONE if found is None or found.value is None else f"{round(found.value, 3) + 0.0:.3f}"  # never -0.000


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table whose columns stand in line as plain text, too; the first is text, the others are numbers."""
    lines = [[_escaped(cell) for cell in row] for row in (header, *rows)]
    widths = [max(3, *(_width(line[i]) for line in lines)) for i in range(len(header))]
    ruler = ["-" * widths[0], *("-" * (w - 1) + ":" for w in widths[1:])]
    padded = [
        [line[0] + " " * (widths[0] - _width(line[0])), *(" " * (w - _width(c)) + c for w, c in zip(widths[1:], line[1:], strict=True))]
        for line in lines
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in (padded[0], ruler, *padded[1:]))


def _width(text: str) -> int:
    """Columns on a terminal."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else not unicodedata.combining(c) for c in text)


def _escaped(text: str) -> str:
    """Text that Markdown shows as it is; control characters (line ends, terminal sequences, changes of direction) are dropped."""
    return re.sub(r"([\\`*|<>]|(?<=\])\()", r"\\\1", printable(text))


def printable(text: str) -> str:
    """Text on one line without control and format characters."""
    return "".join(" " if c in "\n\r\t" else c for c in text if c in "\n\r\t" or unicodedata.category(c) not in ("Cc", "Cf", "Cs"))


# ------------------------------------------------------------------------------------------------------------ CSV and JSON


def records(report: Report) -> list[dict[str, Any]]:
    """Every record as a flat row."""
    found = []
    for model, own in report.models.items():
        for r in own:
            told = {name: value for name, value in vars(r).items() if name != "size"}
            found.append({"model": model, **told, **dataclasses.asdict(r.size)})
    return found


def to_csv(report: Report) -> str:
    """Every record as a line of CSV."""
    names = ["model", *(f.name for f in dataclasses.fields(Record) if f.name != "size"), "n", "n_groups", "ties", "unscored", "unlinked"]
    return spreadsheets.to_csv(records(report), names)


def to_json(report: Report) -> dict[str, Any]:
    """Everything, with the formulas."""
    plan = report.plan
    return {
        "plan": dataclasses.asdict(plan), "rows": dict(report.rows), "notes": list(report.notes),
        "formulas": {
            "accuracy": _how(report), "rewardbench": rewardbench.FORMULA.format(counts=plan.counts, anchor=plan.anchor),
            "rewardbench_2": rewardbench.FORMULA_2,
        },
        "records": records(report),
    }  # fmt: skip
