"""How the code is built, by folder: files, lines, tokens, functions, comments.

    python scripts/structure.py                    this tree
    python scripts/structure.py --against PATH     beside another checkout, such as an earlier commit's

A token is one of Python's own tokenizer, without comments, strings that are docstrings, and layout.
A code line is a line that holds at least one.

Two numbers follow the table, of what breaks a rule of `tests/test_imports.py`: imports against the
layout, and places outside `mlalign/stages/` that test or look up a stage's name, which a new stage
might have to touch. Modules that build steps name their stages and are not counted: the sections
`measure` of a recipe (`recipes/measure.py`, `recipes/evaluations.py`) are made of `prepare`,
`generate`, `evaluate` and `benchmark` steps, as a part in YAML is.
"""

import argparse
import ast
import dataclasses
import io
import statistics
import sys
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path

PROJECT = Path(__file__).parent.parent
sys.path.insert(0, str(PROJECT / "tests"))

from test_imports import against_layout, asking_for_a_stage  # noqa: E402

FOLDERS = ("mlalign", "reward_models", "scripts", "benchmarks", "tests")
LAYOUT = (
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
)


@dataclasses.dataclass
class Counts:
    """What a set of files holds.

    `file_lines` and `function_lines` have an entry for each file and function.
    """

    file_lines: list[int] = dataclasses.field(default_factory=list)
    function_lines: list[int] = dataclasses.field(default_factory=list)
    tokens: int = 0
    code_lines: int = 0
    comment_lines: int = 0
    wide_lines: int = 0

    def add(self, path: Path) -> None:
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        lines = text.splitlines()
        self.file_lines.append(len(lines))
        self.wide_lines += sum(len(line) > 100 for line in lines)
        self.function_lines += [
            _length(node)
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        ]

        documented = set(_docstring_lines(tree))
        used: set[int] = set()
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.COMMENT:
                self.comment_lines += 1
            if token.type in LAYOUT or token.start[0] in documented:
                continue
            self.tokens += 1
            used.update(range(token.start[0], token.end[0] + 1))
        self.code_lines += len(used)

    def row(self) -> list[str]:
        share = self.comment_lines / max(1, self.code_lines)
        return [
            f"{len(self.file_lines)}",
            f"{sum(self.file_lines):,}",
            f"{self.code_lines:,}",
            f"{self.tokens:,}",
            f"{self.tokens / max(1, self.code_lines):.1f}",
            _percentiles(self.file_lines),
            _percentiles(self.function_lines),
            f"{share:.1%}",
            f"{self.wide_lines:,}",
        ]


HEADER = [
    "folder",
    "files",
    "lines",
    "code",
    "tokens",
    "per line",
    "file 50/90/max",
    "function 50/90/max",
    "comments",
    "over 100",
]


def _length(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def _docstring_lines(tree: ast.Module) -> Iterator[int]:
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if (
            not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            or not body
        ):
            continue
        first = body[0]
        if (
            isinstance(first, ast.Expr)
            and isinstance(first.value, ast.Constant)
            and isinstance(first.value.value, str)
        ):
            yield from range(first.lineno, (first.end_lineno or first.lineno) + 1)


def _percentiles(values: list[int]) -> str:
    if len(values) < 2:
        return "-"
    tenths = statistics.quantiles(values, n=10, method="inclusive")
    return f"{statistics.median(values):.0f} / {tenths[8]:.0f} / {max(values)}"


def count(files: Iterable[Path]) -> Counts:
    counts = Counts()
    for path in files:
        counts.add(path)
    return counts


def rows(root: Path) -> list[list[str]]:
    """A row for each folder, and for each part of mlalign."""
    out = []
    for folder in FOLDERS:
        if (root / folder).is_dir():
            out.append([folder, *count(sorted((root / folder).rglob("*.py"))).row()])
    for part in sorted(
        path for path in (root / "mlalign").iterdir() if path.is_dir() and any(path.glob("*.py"))
    ):
        out.append([f"  {part.name}", *count(sorted(part.rglob("*.py"))).row()])
    top = count(sorted((root / "mlalign").glob("*.py")))
    out.append(["  (top)", *top.row()])
    return out


def show_rules(root: Path) -> None:
    """What runs against the rules, one line each, after how many there are."""
    counted = {"places outside stages/ that ask for a stage's name": asking_for_a_stage(root)}
    if (root / "mlalign" / "core").is_dir():
        counted = {"imports against the layout": against_layout(root), **counted}
    for name, lines in counted.items():
        print(f"\n{name}: {len(lines)}")
        for line in lines:
            print(f"  {line}")


def show(root: Path) -> None:
    table = [HEADER, *rows(root)]
    widths = [max(len(row[i]) for row in table) for i in range(len(HEADER))]
    for row in table:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )
    show_rules(root)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--against", type=Path, help="another checkout, shown first")
    asked = parser.parse_args()
    if asked.against:
        show(asked.against)
        print()
    show(PROJECT)
    return 0


if __name__ == "__main__":
    sys.exit(main())
