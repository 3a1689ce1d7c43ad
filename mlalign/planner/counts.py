"""How many rows steps read: counted in existing artifacts, else bounded by the configuration, else
unknown.

Rows are counted from the footers of Parquet shards, without pyarrow: importing it takes as long as
the rest of a plan.
"""

import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mlalign.core import rows
from mlalign.core.kinds import Count


def of_artifact(path: Path, split: str | None, languages: list[str] | None) -> Count | None:
    """The rows of a finished rows artifact in one split and some languages (None: all); None
    without any."""
    if not (path / "rows").is_dir():
        return None
    shards = rows.shards(path, split, languages)
    return Count(sum(map(parquet_rows, shards))) if shards else None


def parquet_rows(path: Path) -> int:
    """`num_rows` of a Parquet file's footer: field 3 of a struct in Thrift's compact protocol.

    Source: the format's README, "File metadata".
    """
    with open(path, "rb") as file:
        file.seek(-8, 2)
        length = struct.unpack("<I", file.read(4))[0]
        file.seek(-8 - length, 2)
        fields = _Thrift(file.read(length)).fields()
    return next(value for number, value in fields if number == 3)


class _Thrift:
    """Reads structs in the compact protocol, and skips strings and floating-point numbers."""

    def __init__(self, data: bytes):
        self.data, self.at = data, 0

    def fields(self) -> Iterator[tuple[int, Any]]:
        number = 0
        while (head := self._byte()) != 0:
            step = head >> 4
            number = number + step if step else self._signed()
            yield number, self._value(head & 15)

    def _value(self, kind: int) -> Any:
        if kind in (1, 2):  # true, false
            return kind == 1
        if kind in (4, 5, 6):
            return self._signed()
        if kind in (3, 7):
            return self._skip(1 if kind == 3 else 8)
        if kind == 8:
            return self._skip(self._unsigned())
        if kind in (9, 10):
            return self._list()
        if kind == 12:
            return dict(self.fields())
        raise ValueError(f"not a Parquet footer: type {kind}")

    def _list(self) -> list[Any]:
        head = self._byte()
        kind, n = head & 15, head >> 4
        if n == 15:
            n = self._unsigned()
        if kind in (1, 2):  # booleans are a byte each here
            return [self._byte() for _ in range(n)]
        return [self._value(kind) for _ in range(n)]

    def _skip(self, n: int) -> None:
        self.at += n

    def _byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1]

    def _unsigned(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7

    def _signed(self) -> int:
        value = self._unsigned()
        return (value >> 1) ^ -(value & 1)


def of_manifest(manifest: Mapping[str, Any]) -> int:
    return sum((manifest.get("rows_by_language") or {}).values())
