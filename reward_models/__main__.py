"""Score files of answers from the shell.

    python -m reward_models score --model PATH_OR_HUB_ID --input rows.jsonl --output scores.jsonl
    python -m reward_models score --family language_adherence --input rows.parquet --output scores.jsonl
    python -m reward_models card show PATH_OR_HUB_ID

A row has `prompt` and `response`, `prompt` and `responses`, `messages`, or `chosen` and `rejected`, as strings or chat messages;
`language` where the family needs it. Every other column is kept. Added: `score` (`scores`, or `score_chosen` and
`score_rejected`), and what else the family tells, under the same names. Files are JSONL or Parquet by their ending.

Exit status: 0 done, 1 some answers have no score (they are counted), 2 a mistake (one message on stderr).
"""

import argparse
import dataclasses
import itertools
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import yaml

import reward_models
from mlalign.errors import UserError
from reward_models import card, items

WINDOW = 1024  # rows in memory


def main(argv: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    try:
        return options.run(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m reward_models", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    score = commands.add_parser("score", help="score a file of rows")
    score.add_argument("--model", help="model directory or hub id")
    score.add_argument("--family", help=f"what scores, where it is not a model: {', '.join(reward_models.FAMILIES)}")
    score.add_argument("--input", type=Path, required=True, help="rows: .jsonl or .parquet")
    score.add_argument("--output", type=Path, required=True, help="scores: .jsonl or .parquet; must not exist")
    score.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the family, such as max_length=512")
    score.set_defaults(run=_score)
    show = commands.add_parser("card", help="what a model says about its scores").add_subparsers(required=True).add_parser("show")
    show.add_argument("model", help="model directory or hub id")
    show.set_defaults(run=_show_card)
    return parser


def _show_card(options: argparse.Namespace) -> int:
    told = card.read(options.model)
    if told is None:
        raise UserError(f"{options.model}: has no {card.FILE}")
    print(yaml.safe_dump(dataclasses.asdict(told), sort_keys=False, allow_unicode=True), end="")
    return 0


def _score(options: argparse.Namespace) -> int:
    _check_files(options.input, options.output)
    scorer = _open(options)
    counts: Counter = Counter()
    rows = _read_jsonl(options.input) if options.input.suffix == ".jsonl" else _read_parquet(options.input)
    _write(options.output, (scored for window in _windows(rows) for scored in _scored(scorer, window, counts)))
    print(f"{options.output}: {', '.join(f'{n} {what}' for what, n in counts.items() if n)}", file=sys.stderr)
    return 1 if counts["without a score"] else 0


def _check_files(source: Path, target: Path) -> None:
    wrong = [f"{p}: expected a name ending in .jsonl or .parquet" for p in (source, target) if p.suffix not in (".jsonl", ".parquet")]
    wrong += [] if source.is_file() else [f"{source}: there is no such file"]
    wrong += [f"{target}: exists already; remove it or choose another --output"] if target.exists() else []
    if wrong:
        raise UserError(*wrong)


def _open(options: argparse.Namespace) -> reward_models.Scorer:
    told = dict(_setting(text) for text in options.set)
    if options.model:
        return reward_models.load(options.model, **told, **({"family": options.family} if options.family else {}))
    if not options.family:
        raise UserError("name what scores: --model PATH_OR_HUB_ID or --family NAME")
    return reward_models.open_scorer({"family": options.family, **told})


def _setting(text: str) -> tuple[str, object]:
    name, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"--set {text}: expected KEY=VALUE")
    try:
        return name, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UserError(f"--set {text}: the value is not YAML ({str(error).splitlines()[0]})") from None


def _windows(rows: Iterable[tuple[str, dict]]) -> Iterator[list[tuple[str, dict]]]:
    rows = iter(rows)
    while window := list(itertools.islice(rows, WINDOW)):
        yield window


def _scored(scorer: reward_models.Scorer, window: Sequence[tuple[str, dict]], counts: Counter) -> Iterator[dict]:
    """The rows of a window with the columns of their scores."""
    per_row = [items.of_row(row, where) for where, row in window]
    found = scorer.score_items([item for row_items in per_row for item in row_items])
    told: dict[str, list] = {"score": found.values, **found.columns, **found.flags}
    told |= {"detected": found.detected} if found.detected is not None else {}
    counts.update({"rows": len(window), "answers": len(found.values), "without a score": sum(v is None for v in found.values)})
    counts.update({name: sum(flag) for name, flag in found.flags.items()})
    first = 0
    for (_, row), row_items in zip(window, per_row, strict=True):
        yield {**row, **_columns(row, {name: list(values[first : first + len(row_items)]) for name, values in told.items()})}
        first += len(row_items)


def _columns(row: dict, told: dict[str, list]) -> dict:
    if row.get("messages") is None and row.get("chosen") is not None:
        return {f"{name}_{side}": values[i] for name, values in told.items() for i, side in enumerate(("chosen", "rejected"))}
    if row.get("messages") is None and row.get("responses") is not None:
        return {"scores" if name == "score" else name: values for name, values in told.items()}
    return {name: values[0] for name, values in told.items()}


def _read_jsonl(path: Path) -> Iterator[tuple[str, dict]]:
    """(file:line, row) for every line that is not empty."""
    with open(path, "rb") as lines:
        for number, line in enumerate(lines, 1):
            where = f"{path}:{number}"
            try:
                row = json.loads(line.decode("utf-8")) if line.strip() else None
            except UnicodeDecodeError:
                raise UserError(f"{where}: is not UTF-8") from None
            except ValueError as error:
                raise UserError(f"{where}: is not JSON ({error})") from None
            if row is not None and not isinstance(row, dict):
                raise UserError(f"{where}: expected an object with {items.SHAPES}")
            if row is not None:
                yield where, row


def _read_parquet(path: Path) -> Iterator[tuple[str, dict]]:
    import pyarrow.parquet as pq

    number = 0
    for batch in pq.ParquetFile(path).iter_batches(batch_size=WINDOW):
        for row in batch.to_pylist():
            number += 1
            yield f"{path}: row {number}", row


def _write(path: Path, rows: Iterable[dict]) -> None:
    """Write the whole file or none: it gets its name when it is complete."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        with open(temporary, "w", encoding="utf-8") as f:
            f.writelines(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)
    else:
        _write_parquet(temporary, rows)
    temporary.replace(path)


def _write_parquet(path: Path, rows: Iterable[dict]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    writer = None
    try:
        for window in _windows(("", row) for row in rows):
            table = pa.Table.from_pylist([row for _, row in window], schema=writer.schema if writer else None)
            writer = writer or pq.ParquetWriter(path, table.schema)
            writer.write_table(table)
    finally:
        if writer:
            writer.close()
    if writer is None:
        pq.write_table(pa.table({}), path)


if __name__ == "__main__":
    sys.exit(main())
