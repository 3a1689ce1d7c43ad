"""The output of a run: the input's rows with their new columns, in the input's order.

JSONL to JSONL keeps every line as it was written and appends to it; Parquet to Parquet keeps the
schema and appends columns. From JSONL to Parquet a column gets the type that all its values share
(whole numbers and fractions: double; objects: a struct of all their keys); a column whose values
share none (text here, a list there) becomes JSON text, and the output's provenance says so.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mlalign.core.errors import UserError
from mlalign.core.resume import Unit
from reward_models import files
from reward_models.jobs.survey import Reader, Source, Window, lines_of

GROUP_ROWS = 4096  # of a Parquet output
GROUP_BYTES = 32 << 20

Pairs = Iterator[tuple[Window, list[bytes]]]


def write(
    path: Path,
    parquet: bool,
    inputs: Sequence[Source],
    windows: Sequence[Window],
    done: Mapping[str, Unit],
    name: str,
) -> list[str]:
    """Write the output to `path`, as Parquet or JSONL; `name` is that of its column of scores.

    Returns the columns that became JSON text.
    """
    reader = Reader(inputs)

    def pairs() -> Pairs:
        """Windows with the JSON of their rows' new columns."""
        for window in windows:
            yield window, done[window.key].read().split(b"\n")[:-1]

    def lines() -> Iterator[list[bytes]]:
        for window, columns in pairs():
            n_replaced = done[window.key].facts["replaced"]
            yield list(_json_lines(inputs, reader, window, columns, n_replaced))

    def joined_rows() -> Iterator[Piece]:
        for own in lines():
            rows = [json.loads(line) for line in own]
            yield Piece(None, rows, sum(map(len, own)))

    def joined_tables() -> Iterator[Piece]:
        return _joined_tables(reader, pairs())

    if not parquet:
        with open(path, "wb") as f:
            for own in lines():
                f.writelines(own)
        return []
    if all(files.is_parquet(source.path) for source in inputs):
        new = (_new_values(columns) for _, columns in pairs())
        return _to_parquet(path, joined_tables, new, _input_schema(inputs), name)
    whole = (piece.rows for piece in joined_rows())
    return _to_parquet(path, joined_rows, whole, None, name)


def _json_lines(
    inputs: Sequence[Source],
    reader: Reader,
    window: Window,
    columns: Sequence[bytes],
    n_replaced: int,
) -> Iterator[bytes]:
    """The rows of a window with their new columns as lines of JSON, without rows put aside.

    `n_replaced` rows have such columns already, as null: then all lines of this window are written
    anew.
    """
    if n_replaced:
        for entry, new in zip(reader.entries(window), columns, strict=True):
            if new != b"null":
                row = {**(entry.row or {}), **json.loads(new)}
                yield files.to_json(row).encode() + b"\n"
        return
    if files.is_table(inputs[window.file].path):
        entries = reader.entries(window)
        lines: Iterable[bytes] = (files.to_json(entry.row).encode() for entry in entries)
    else:
        lines = (line.strip() for _, line in lines_of(window, reader.raw(window)))
    for line, new in zip(lines, columns, strict=True):
        if new != b"null":
            yield line[:-1].rstrip() + b", " + new[1:] + b"\n"


# ------------------------------------------------------------------------------------------ Parquet


class Piece(NamedTuple):
    """Some rows of the output.

    `table` is an Arrow table of columns that stay as they are, or None; `rows` are the values of
    the others; `size` is in bytes.
    """

    table: Any
    rows: list[dict]
    size: int


Pieces = Callable[[], Iterator[Piece]]  # the whole output, as often as it is asked for


def _joined_tables(reader: Reader, pairs: Pairs) -> Iterator[Piece]:
    for window, columns in pairs:
        table = reader.table(window)
        is_kept = [column != b"null" for column in columns]
        if not all(is_kept):
            table = table.filter(is_kept)
        yield Piece(table, _new_values(columns), table.nbytes)


def _new_values(columns: Sequence[bytes]) -> list[dict]:
    """The new columns of a window's rows but for those that were put aside."""
    return [json.loads(column) for column in columns if column != b"null"]


def _input_schema(inputs: Sequence[Source]) -> Any:
    """The schema that all Parquet inputs fit into. Raises: UserError naming files that do not."""
    import pyarrow as pa

    schema = files.Parquet(inputs[0].path).schema
    for source in inputs[1:]:
        try:
            schema = pa.unify_schemas(
                [schema, files.Parquet(source.path).schema], promote_options="permissive"
            )
        except pa.ArrowException as error:
            raise UserError(
                f"{source.path}: its columns do not fit those of {inputs[0].path} ({error}); score"
                " them apart"
            ) from None
    return schema


def _to_parquet(
    path: Path, pieces: Pieces, untyped: Iterable[list[dict]], schema: Any, score: str
) -> list[str]:
    """Write the pieces, after finding the types of the columns of `untyped`.

    A column that turns out not to fit becomes JSON text. Returns the names of such columns.
    """
    import pyarrow as pa

    # Scores are numbers even if all of them are null.
    names = (score, f"{score}_chosen", f"{score}_rejected")
    known = dict.fromkeys(names, pa.float64())
    types: dict[str, Any] = {}
    for rows in untyped:
        _observe(types, rows, known)
    while True:
        unfit = _write_parquet(path, pieces, schema, types)
        if unfit is None:
            return [name for name, kind in types.items() if kind is None]
        types[unfit] = None


def _observe(types: dict[str, Any], rows: Sequence[dict], known: Mapping[str, Any]) -> None:
    """Widen `types` (column -> Arrow type, None for JSON text) so that it holds these rows."""
    import pyarrow as pa

    for name in dict.fromkeys(name for row in rows for name in row):
        if name in types and types[name] is None:
            continue
        try:
            kind = pa.array([row.get(name) for row in rows]).type
            before = types.get(name, known.get(name, kind))
            pair = [pa.schema([(name, before)]), pa.schema([(name, kind)])]
            kind = pa.unify_schemas(pair, promote_options="permissive").field(0).type
            types[name] = kind if _storable(kind) else None
        except (pa.ArrowException, OverflowError):
            types[name] = None


def _storable(kind: Any) -> bool:
    """Parquet has no struct without fields."""
    import pyarrow as pa

    if pa.types.is_struct(kind):
        fields = [kind.field(i) for i in range(kind.num_fields)]
        return bool(fields) and all(_storable(field.type) for field in fields)
    if pa.types.is_list(kind):
        return _storable(kind.value_type)
    return True


def _write_parquet(path: Path, pieces: Pieces, schema: Any, types: dict[str, Any]) -> str | None:
    """Write all pieces.

    Returns the name of the first column with a value that its type cannot hold; None at the end.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    new = pa.schema([(name, kind or pa.string()) for name, kind in types.items()])
    kept = [field for field in schema or () if field.name not in types]
    whole = pa.schema([*kept, *new], metadata=schema.metadata if schema else None)
    with pq.ParquetWriter(path, whole, compression="zstd") as writer:
        for group in _groups(pieces()):
            tables = []
            for table, rows, _ in group:
                arrays = {}
                if table is not None:
                    arrays = dict(zip(table.column_names, table.columns, strict=True))
                for name, kind in types.items():
                    try:
                        arrays[name] = _array([row.get(name) for row in rows], kind)
                    except (pa.ArrowException, OverflowError):
                        return name
                tables.append(_fit(arrays, whole, len(rows)))
            writer.write_table(pa.concat_tables(tables), row_group_size=1 << 30)
            pa.default_memory_pool().release_unused()
    return None


def _array(values: list, kind: Any) -> Any:
    import pyarrow as pa

    if kind is not None:
        return pa.array(values, kind)
    texts = [value if value is None else files.to_json(value) for value in values]
    return pa.array(texts, pa.string())


def _fit(arrays: dict[str, Any], schema: Any, n: int) -> Any:
    """A table of this schema; columns that are missing are null."""
    import pyarrow as pa

    columns = []
    for field in schema:
        if field.name in arrays:
            columns.append(arrays[field.name].cast(field.type))
        else:
            columns.append(pa.nulls(n, field.type))
    return pa.Table.from_arrays(columns, schema=schema)


def _groups(pieces: Iterator[Piece]) -> Iterator[list[Piece]]:
    """Pieces in row groups: they depend on the input alone."""
    group: list[Piece] = []
    for piece in pieces:
        group.append(piece)
        n_rows = sum(len(own.rows) for own in group)
        n_bytes = sum(own.size for own in group)
        if n_rows >= GROUP_ROWS or n_bytes >= GROUP_BYTES:
            yield group
            group = []
    if group:
        yield group
