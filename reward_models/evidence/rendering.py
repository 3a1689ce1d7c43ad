"""Evidence as text: Markdown to read, CSV and JSON to work with. Pure.

Names come from data, so every format escapes them.
"""

import dataclasses
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

from mlalign.core import spreadsheets
from reward_models.evidence import rewardbench
from reward_models.evidence.measures import AVERAGE, GAP, WORST, Plan, Record, Size

NONE = "–"
SUMMARIES = {AVERAGE: "average", WORST: "worst", GAP: "gap to {anchor}"}
Place = tuple[str, str, str, str]  # measure, language, section, subset


@dataclasses.dataclass(frozen=True)
class Report:
    """What was measured.

    `models`: model -> records. `rows`: language -> number of rows. `notes`: remarks on the data.
    """

    models: Mapping[str, Sequence[Record]]
    rows: Mapping[str, int]
    plan: Plan
    notes: Sequence[str] = ()
    chance: float = 0.5  # the accuracy of a coin on these rows

    def find(
        self,
        model: str,
        measure: str,
        language: str = "",
        section: str = "",
        subset: str = "",
    ) -> Record | None:
        """The record of a model at a place."""
        return self._places[model].get((measure, language, section, subset))

    def row(self, measure: str, **where: str) -> list[Record | None]:
        """The record of every model at a place."""
        return [self.find(model, measure, **where) for model in self.models]

    def names(self, field: str, measure: str) -> list[str]:
        """The languages, sections or subsets that have records of a measure, in their order.

        Summaries over languages are left out.
        """
        records = chain.from_iterable(self.models.values())
        names = dict.fromkeys(getattr(r, field) for r in records if r.measure == measure)
        return [name for name in names if name and name not in SUMMARIES]

    def __post_init__(self) -> None:
        places = {}
        for model, records in self.models.items():
            places[model] = {(r.measure, r.language, r.section, r.subset): r for r in records}
        object.__setattr__(self, "_places", places)

    _places: dict[str, dict[Place, Record]] = dataclasses.field(init=False, repr=False)


# --------------------------------------------------------------------------------------- Markdown


def markdown(report: Report) -> str:
    """The tables that matter, models side by side, each with its formula; the CSV has the rest."""
    parts = [
        "# Evaluation of preferences",
        _about(report),
        "## Accuracy by language",
        _by_language(report),
        _accuracy_formula(report),
        "## Ties, rows without a score, margins",
        _counts(report),
        *_by_field(report, "section"),
        *_by_field(report, "subset"),
        *_rewardbench(report),
        *_rewardbench_2(report),
        *_consistency(report),
    ]
    return "\n\n".join(parts) + "\n"


def _about(report: Report) -> str:
    n_languages = len(report.rows)
    plural = "" if n_languages == 1 else "s"
    total = f"{sum(report.rows.values())} rows in {n_languages} language{plural}."
    return "\n".join([total, *(f"- {_escaped(note)}" for note in report.notes)])


def _accuracy_formula(report: Report) -> str:
    plan = report.plan
    return (
        "accuracy = share of rows whose chosen answer scores highest; a tie counts 1/k for the "
        "chosen one of k answers that share the highest score (1/2 for a pair). "
        f"Intervals: {plan.confidence:.0%}, percentile bootstrap of {plan.replicates} draws "
        f"(seed {plan.seed}) of whole items, an item being a row with its translations. "
        "average: mean over languages with equal weights; "
        f"gap: {plan.anchor} minus the mean of the others. "
        "Languages compare with each other only as far as their rows do."
    )


def _by_language(report: Report) -> str:
    rows = []
    for language in report.names("language", "accuracy"):
        cells = map(_cell, report.row("accuracy", language=language))
        rows.append([language, str(report.rows.get(language, 0)), *cells])

    several = len(rows) > 1
    for name in SUMMARIES:
        records = report.row("accuracy", language=name)
        if several and any(records):
            rows.append([_summary(name, report), "", *map(_cell_with_language, records)])

    total = str(sum(report.rows.values()))
    rows.append(["all rows", total, *map(_cell, report.row("accuracy"))])
    return _table(["language", "rows", *report.models], rows)


def _counts(report: Report) -> str:
    header = ["language"]
    for model in report.models:
        header += [f"{model}: ties", "no score", "accuracy, ties wrong", "mean margin"]

    rows = []
    for language in [*report.names("language", "accuracy"), ""]:
        row = [language or "all rows"]
        for model in report.models:
            strict = report.find(model, "accuracy_ties_wrong", language)
            margin = report.find(model, "mean_margin", language)
            sizes = [strict.size.ties, strict.size.unscored] if strict else [NONE, NONE]
            row += [*map(str, sizes), _cell(strict), _number(margin)]
        rows.append(row)
    note = "A margin is in its scorer's own unit: do not compare margins across scorers."
    return f"{_table(header, rows)}\n\n{note}"


def _by_field(report: Report, field: str) -> list[str]:
    """Accuracy by section or subset; nothing if the rows have none."""
    names = report.names(field, "accuracy")
    if not names:
        return []
    rows = []
    for name in names:
        records = report.row("accuracy", **{field: name})
        rows.append([name, *map(_cell, records)])
    return [f"## Accuracy by {field}, all languages", _table([field, *report.models], rows)]


def _rewardbench(report: Report) -> list[str]:
    header = ["language", *rewardbench.SECTIONS, "score", "with prior"]
    parts = []
    for model in report.models:
        rows = _rewardbench_rows(report, model)
        if rows:
            parts.append(f"### {_escaped(model)}\n\n{_table(header, rows)}")
    if not parts:
        return []

    names = {"rewardbench": "RewardBench", "m_rewardbench": "M-RewardBench"}
    plan = report.plan
    formula = rewardbench.FORMULA.format(counts=names[plan.counts], anchor=plan.anchor)
    return ["## RewardBench", *parts, f"{formula}."]


def _rewardbench_rows(report: Report, model: str) -> list[list[str]]:
    rows = []
    for language in _languages(report, model, "rewardbench"):
        row = [language]
        for section in rewardbench.SECTIONS:
            row.append(_number(report.find(model, "rewardbench", language, section)))
        row.append(_cell(report.find(model, "rewardbench", language)))
        row.append(_number(report.find(model, "rewardbench_with_prior", language)))
        rows.append(row)

    blank = [""] * len(rewardbench.SECTIONS)
    for name in SUMMARIES:
        record = report.find(model, "rewardbench", name)
        if record is None:
            continue
        label = _summary(name, report)
        if name == AVERAGE:
            label = f"avg (without {report.plan.anchor})"
        rows.append([label, *blank, _cell_with_language(record), ""])
    return rows


def _languages(report: Report, model: str, measure: str) -> list[str]:
    """The languages in which a model has records of a measure, without summaries."""
    records = [r for r in report.models[model] if r.measure == measure]
    return list(dict.fromkeys(r.language for r in records if r.language not in SUMMARIES))


def _rewardbench_2(report: Report) -> list[str]:
    parts = []
    for model in report.models:
        rows = []
        for language in _languages(report, model, "rewardbench_2"):
            row = [language]
            for domain in rewardbench.DOMAINS:
                row.append(_number(report.find(model, "rewardbench_2", language, domain)))
            rows.append([*row, _cell(report.find(model, "rewardbench_2", language))])
        if rows:
            table = _table(["language", *rewardbench.DOMAINS, "score"], rows)
            parts.append(f"### {_escaped(model)}\n\n{table}")
    return ["## RewardBench 2", *parts, f"{rewardbench.FORMULA_2}."] if parts else []


def _consistency(report: Report) -> list[str]:
    languages = report.names("language", "agreement")
    if not languages:
        return []

    header = ["language"]
    for model in report.models:
        header += [f"{model}: kappa", "agreement", "items", "unlinked"]
    rows = []
    for language in [*languages, AVERAGE]:
        row = [SUMMARIES.get(language, language)]
        for model in report.models:
            kappa = report.find(model, "kappa", language)
            agreement = report.find(model, "agreement", language)
            n_items = str(kappa.size.n) if kappa else NONE
            unlinked = str(agreement.size.unlinked) if agreement else ""
            row += [_cell(kappa), _number(agreement), n_items, unlinked]
        rows.append(row)

    anchor = report.plan.anchor
    explanation = (
        f"Preferences (chosen, rejected, tie) in a language against those in {anchor} for the same "
        f"item; kappa = (p_o - p_e) / (1 - p_e) (Cohen 1960), {NONE} where both always prefer the "
        f"same. unlinked: rows without exactly one scored counterpart in {anchor}."
    )
    return [f"## Agreement with {anchor}", _table(header, rows), explanation]


def _summary(name: str, report: Report) -> str:
    return SUMMARIES[name].format(anchor=report.plan.anchor)


def _cell(record: Record | None) -> str:
    """`0.612 [0.550, 0.671]`."""
    if record is None or record.low is None:
        return _number(record)
    return f"{_number(record)} [{record.low:.3f}, {record.high:.3f}]"


def _cell_with_language(record: Record | None) -> str:
    """The same with the language that a summary picked, such as the worst."""
    return f"{_cell(record)} {record.which}".strip() if record else NONE


def _number(record: Record | None) -> str:
    if record is None or record.value is None:
        return NONE
    return f"{round(record.value, 3) + 0.0:.3f}"  # never -0.000


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, aligned as plain text too: the first column is text, the others numbers."""
    lines = [[_escaped(cell) for cell in row] for row in (header, *rows)]
    columns = list(zip(*lines, strict=True))
    padded_columns = []
    for i, column in enumerate(columns):
        width = max(3, *map(_width, column))
        ruler = "-" * width if i == 0 else "-" * (width - 1) + ":"
        padded = [_padded(cell, width, left=i == 0) for cell in column]
        padded_columns.append([padded[0], ruler, *padded[1:]])
    return "\n".join(f"| {' | '.join(line)} |" for line in zip(*padded_columns, strict=True))


def _padded(text: str, width: int, *, left: bool) -> str:
    spaces = " " * (width - _width(text))
    return text + spaces if left else spaces + text


def _width(text: str) -> int:
    """Columns on a terminal."""
    width = 0
    for character in text:
        if unicodedata.east_asian_width(character) in "WF":
            width += 2
        elif not unicodedata.combining(character):
            width += 1
    return width


def _escaped(text: str) -> str:
    """Text that Markdown shows as it is, without control characters."""
    return re.sub(r"([\\`*|<>]|(?<=\])\()", r"\\\1", printable(text))


def printable(text: str) -> str:
    """Text on one line without control and format characters (terminal sequences, directions)."""
    on_one_line = re.sub(r"[\n\r\t]", " ", text)
    return "".join(c for c in on_one_line if unicodedata.category(c) not in ("Cc", "Cf", "Cs"))


# ----------------------------------------------------------------------------------- CSV and JSON


def records(report: Report) -> list[dict[str, Any]]:
    """Every record as a flat row."""
    rows = []
    for model, of_model in report.models.items():
        for record in of_model:
            row = {"model": model, **vars(record), **vars(record.size)}
            del row["size"]
            rows.append(row)
    return rows


def to_csv(report: Report) -> str:
    """Every record as a line of CSV."""
    of_record = [field.name for field in dataclasses.fields(Record) if field.name != "size"]
    of_size = [field.name for field in dataclasses.fields(Size)]
    return spreadsheets.to_csv(records(report), ["model", *of_record, *of_size])


def to_json(report: Report) -> dict[str, Any]:
    """Everything, with the formulas."""
    plan = report.plan
    formulas = {
        "accuracy": _accuracy_formula(report),
        "rewardbench": rewardbench.FORMULA.format(counts=plan.counts, anchor=plan.anchor),
        "rewardbench_2": rewardbench.FORMULA_2,
    }
    return {
        "plan": dataclasses.asdict(plan),
        "rows": dict(report.rows),
        "notes": list(report.notes),
        "formulas": formulas,
        "records": records(report),
    }
