import gzip
import json

import pytest

from mlalign.core.errors import UserError
from mlalign.core.records import read
from mlalign.core.sources import SHOWN, Problems, Source, find


def records(path, header=True, **source):
    problems = Problems()
    out = [
        pair
        for file in find(Source(path=str(path), **source))
        for pair in read(file, header, problems)
    ]
    return out, problems.messages


def test_jsonl_goes_on_after_broken_lines_and_names_them(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        b'\xef\xbb\xbf{"a": 1}\n\n{"a": \n[1]\n{"a": "caf\xe9"}\n{"a": "\xe2\x80\xa8"}\n'
    )
    found, messages = records(path)
    assert found == [(1, {"a": 1}), (6, {"a": "\u2028"})]
    assert [m.split(": ")[0] for m in messages] == [f"{path}:3", f"{path}:4", f"{path}:5"]
    assert (
        "broken JSON" in messages[0]
        and "expected an object" in messages[1]
        and "not UTF-8 (byte 11 of the line is 0xe9)" in messages[2]
    )


def test_gzip_is_transparent_and_a_cut_file_is_told(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"a": 1}\n' * 3))
    assert records(path) == ([(1, {"a": 1}), (2, {"a": 1}), (3, {"a": 1})], [])
    path.write_bytes(path.read_bytes()[:-9])
    assert "damaged or cut short" in records(path)[1][0]
    path.write_text("plain")
    assert "damaged or cut short" in records(path)[1][0]


def test_csv_quotes_and_tsv_has_none(tmp_path):
    (tmp_path / "a.csv").write_text('q,a\n"say ""hi"",\nplease",18\n')
    assert records(tmp_path / "a.csv") == ([(3, {"q": 'say "hi",\nplease', "a": "18"})], [])
    (tmp_path / "a.tsv").write_text('he said "hi\t18\r\n')
    assert records(tmp_path / "a.tsv", header=False) == ([(1, ['he said "hi', "18"])], [])
    (tmp_path / "b.tsv").write_text("q\ta\nx\n")
    assert records(tmp_path / "b.tsv")[1] == [
        f"{tmp_path / 'b.tsv'}:2: 1 columns, but the header has 2"
    ]
    (tmp_path / "c.csv").write_text('q,a\n"never closed,1\n')
    assert "broken CSV" in records(tmp_path / "c.csv")[1][0]


def test_parquet(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"a": [1, 2], "b": [{"c": ["x"]}, {"c": []}]}), tmp_path / "a.parquet")
    assert records(tmp_path / "a.parquet") == (
        [(1, {"a": 1, "b": {"c": ["x"]}}), (2, {"a": 2, "b": {"c": []}})],
        [],
    )
    (tmp_path / "b.parquet").write_text("not parquet")
    assert "cannot be read as Parquet" in records(tmp_path / "b.parquet")[1][0]


def test_files_by_pattern_with_language(tmp_path):
    for name in ("sw/test.1.jsonl", "sw/test.2.jsonl", "th/test.1.jsonl", "th/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}\n")
    found = find(Source(path=f"{tmp_path}/{{lang}}/test.*.jsonl"))
    assert [(f.name, f.language) for f in found] == [
        ("{lang}/test.1.jsonl", "sw"),
        ("{lang}/test.2.jsonl", "sw"),
        ("{lang}/test.1.jsonl", "th"),
    ]
    assert [f.name for f in find(Source(path=str(tmp_path)))] == [
        "sw/test.1.jsonl",
        "sw/test.2.jsonl",
        "th/test.1.jsonl",
    ]
    assert [f.name for f in find(Source(path=f"{tmp_path}/**/*.jsonl"))] == [
        "sw/test.1.jsonl",
        "sw/test.2.jsonl",
        "th/test.1.jsonl",
    ]


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("none.jsonl", "there is no file"),
        ("*.jsonl", "matches no file"),
        ("", "holds no file"),
        ("a.txt", "set format"),
    ],
)
def test_missing_files(tmp_path, path, told):
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(UserError, match=told):
        find(Source(path=str(tmp_path / path)))


def test_a_folder_with_brackets_is_a_folder(tmp_path):
    folder = tmp_path / "a [1]"
    folder.mkdir()
    (folder / "x.sw.jsonl").write_text(json.dumps({"a": 1}))
    assert find(Source(path=f"{folder}/x.{{lang}}.jsonl"))[0].language == "sw"


def test_problems_shows_the_first_and_counts_the_rest():
    problems = Problems()
    for i in range(SHOWN + 7):
        problems.add(f"m{i}")
    problems.add("once", once="a")
    problems.add("once", once="a")
    with pytest.raises(UserError) as error:
        problems.raise_if_any()
    assert len(error.value.messages) == SHOWN + 1 and error.value.messages[-1] == "and 8 more"
