"""A heat map of models and languages as one self-contained SVG. Pure: values in, text out."""

from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

from reward_models.evidence.rendering import Report, printable

# Pixels.
CELL = 66
ROW = 26
TOP = 96
LETTER = 7.4
# Colours that colour-blind readers can tell apart.
BELOW = (178, 88, 38)
MIDDLE = (247, 247, 247)
ABOVE = (33, 102, 172)
STYLE = 'font-family="system-ui, \'Noto Sans\', sans-serif" font-size="12" fill="#222"'

Cell = tuple[float, float | None, float | None]  # value, lower and upper bound


def heat_map(
    title: str,
    rows: Sequence[str],
    columns: Sequence[str],
    cells: Mapping[tuple[str, str], Cell],
    chance: float = 0.5,
) -> str:
    """An SVG of shares in [0, 1] by (row, column).

    White is `chance`, blue above, orange below, grey where there is no value. A cell shows its
    number, and its interval when the pointer rests on it. Names may be any text.
    """
    left = 24 + LETTER * max(len(printable(name)) for name in rows)
    bottom = TOP + ROW * len(rows)
    width = f"{left + CELL * len(columns) + 24:.0f}"
    height = f"{bottom + 64:.0f}"
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} {STYLE}>',
        '<rect width="100%" height="100%" fill="#fff"/>',
        f'<text x="12" y="24" font-size="15" font-weight="600">{_text(title)}</text>',
    ]
    for j, column in enumerate(columns):
        x = f"{left + CELL * (j + 0.5):.0f}"
        y = TOP - 8
        rotated = f'transform="rotate(-30 {x} {y})"'
        parts.append(f'<text x="{x}" y="{y}" {rotated}>{_text(column)}</text>')
    for i, row in enumerate(rows):
        y = TOP + ROW * i
        place = f'x="{left - 8:.0f}" y="{y + 17}"'
        parts.append(f'<text {place} text-anchor="end">{_text(row)}</text>')
        for j, column in enumerate(columns):
            cell = cells.get((row, column))
            parts.append(_cell(left + CELL * j, y, f"{row}, {column}", cell, chance))
    parts += _legend(left, bottom + 18, chance)
    return "\n".join([*parts, "</svg>"]) + "\n"


def of_report(report: Report) -> str:
    """The accuracy of every scorer in every language; scorers in rows."""
    models = list(report.models)
    languages = report.names("language", "accuracy")
    cells: dict[tuple[str, str], Cell] = {}
    for model in models:
        for language in languages:
            record = report.find(model, "accuracy", language)
            if record and record.value is not None:
                cells[model, language] = (record.value, record.low, record.high)
    return heat_map("Accuracy by language", models, languages, cells, report.chance)


def _cell(x: float, y: float, name: str, cell: Cell | None, chance: float) -> str:
    colour = "#ddd"
    ink = "#222"
    shown = "–"
    bounds = ""
    if cell is not None:
        value, low, high = cell
        colour = _colour(value, chance)
        shown = f"{value:.3f}"
        if _distance(value, chance) > 0.6:
            ink = "#fff"
        if low is not None and high is not None:
            bounds = f" [{low:.3f}, {high:.3f}]"

    width = CELL - 2
    size = f'width="{width}" height="{ROW - 2}"'
    box = f'<rect x="{x:.0f}" y="{y}" {size} fill="{colour}"/>'
    place = f'x="{x + width / 2:.0f}" y="{y + 17}"'
    number = f'<text {place} text-anchor="middle" fill="{ink}">{shown}</text>'
    title = _text(f"{name}: {shown}{bounds}")
    return f"<g><title>{title}</title>{box}{number}</g>"


def _legend(x: float, y: float, chance: float) -> list[str]:
    """A bar of colours from 0 to 1, with numbers below it."""
    steps = 40
    step = 4  # pixels
    parts = []
    for k in range(steps):
        place = f'x="{x + step * k:.0f}" y="{y:.0f}"'
        colour = _colour((k + 0.5) / steps, chance)
        parts.append(f'<rect {place} width="4.5" height="10" fill="{colour}"/>')
    for value, label in ((0.0, "0"), (chance, f"chance {chance:.2g}"), (1.0, "1")):
        place = f'x="{x + step * steps * value:.0f}" y="{y + 25:.0f}"'
        parts.append(f'<text {place} font-size="11" text-anchor="middle">{label}</text>')
    return parts


def _distance(value: float, chance: float) -> float:
    """How far a value is from chance, as a share of the way from there to 0 or to 1."""
    if value > chance:
        return (value - chance) / (1 - chance)
    return (chance - value) / chance


def _colour(value: float, chance: float) -> str:
    end = ABOVE if value > chance else BELOW
    share = min(max(_distance(value, chance), 0.0), 1.0)
    colour = "#"
    for middle_channel, end_channel in zip(MIDDLE, end, strict=True):
        channel = round(middle_channel + (end_channel - middle_channel) * share)
        colour += f"{channel:02x}"
    return colour


def _text(text: str) -> str:
    return escape(printable(text), {'"': "&quot;"})
