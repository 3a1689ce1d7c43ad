"""Reading and writing files of rows."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlalign.core.errors import UserError
from reward_models import files

ROWS = [{"prompt": f"q{i}", "n": i} for i in range(100)]


def test_read_gives_places(tmp_path):
    lines = "".join(json.dumps(r) + "\n" for r in ROWS[:2])
    (tmp_path / "a.jsonl").write_bytes(files.BOM + ("\n" + lines).encode())
    with gzip.open(tmp_path / "b.jsonl.gz", "wt") as f:
        f.write(lines)
    pq.write_table(pa.Table.from_pylist(ROWS[:2]), tmp_path / "c.parquet")
    assert list(files.read(tmp_path / "a.jsonl")) == [
        (f"{tmp_path}/a.jsonl:2", ROWS[0]),
        (f"{tmp_path}/a.jsonl:3", ROWS[1]),
    ]
    assert list(files.read(tmp_path / "b.jsonl.gz")) == [
        (f"{tmp_path}/b.jsonl.gz:1", ROWS[0]),
        (f"{tmp_path}/b.jsonl.gz:2", ROWS[1]),
    ]
    assert list(files.read(tmp_path / "c.parquet")) == [
        (f"{tmp_path}/c.parquet: row 1", ROWS[0]),
        (f"{tmp_path}/c.parquet: row 2", ROWS[1]),
    ]


@pytest.mark.parametrize("group", [1, 7, 30, 100])
def test_parquet_is_read_in_any_pieces(tmp_path, group):
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "rows.parquet", row_group_size=group)
    for pieces in (
        [(0, 100)],
        [(s, 10) for s in range(0, 100, 10)],
        [(3, 9), (40, 1), (41, 20), (99, 1)],
        [(60, 40), (0, 5), (5, 50)],
    ):
        file = files.Parquet(tmp_path / "rows.parquet")
        for start, n in pieces:
            assert file.rows(start, n) == ROWS[start : start + n]


def test_strict_json():
    row = {"a": float("nan"), "b": [1.5, float("inf")], "c": {"d": b"\xff"}, "e": "é"}
    assert files.to_json(row) == '{"a": null, "b": [1.5, null], "c": {"d": "/w=="}, "e": "é"}'


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    def broken():
        yield ROWS[0]
        raise RuntimeError

    for name in ("a.jsonl", "a.parquet"):
        files.write(tmp_path / name, ROWS[:3])
        before = (tmp_path / name).read_bytes()
        with pytest.raises(RuntimeError):
            files.write(tmp_path / name, broken())
        assert (tmp_path / name).read_bytes() == before
        assert [row for _, row in files.read(tmp_path / name)] == ROWS[:3]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.jsonl", "a.parquet"]


def test_expand_names_every_mistake(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.jsonl").write_text("")
    with pytest.raises(UserError) as error:
        files.expand(
            [str(tmp_path / "empty"), str(tmp_path / "b.jsonl"), str(tmp_path / "*.parquet")]
        )
    assert [m.rpartition("/")[2].partition(":")[0] for m in error.value.messages] == [
        "empty",
        "b.jsonl",
        "*.parquet",
    ]
    assert files.expand([str(tmp_path / "a.jsonl"), str(tmp_path / "*.jsonl"), str(tmp_path)]) == [
        tmp_path / "a.jsonl"
    ]
