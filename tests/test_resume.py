"""Unfinished work is trusted only as it was written."""

import json
import os

import pytest

from mlalign.core import resume
from mlalign.core.errors import UserError


@pytest.fixture
def units(tmp_path):
    return resume.Units(tmp_path, "run")


def test_a_value_is_kept_for_its_key(tmp_path, capsys):
    path = tmp_path / "value.json"
    assert resume.read_value(path, "k") is None
    resume.write_value(path, "k", {"rows": [1.5, None], "tally": {}})
    assert resume.read_value(path, "k") == {"rows": [1.5, None], "tally": {}}
    assert resume.read_value(path, "other") is None
    assert capsys.readouterr().err == ""
    assert [p.name for p in tmp_path.iterdir()] == ["value.json"]


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"key": "k", "sha256": "x", "value": {"rows": []}}', "[" * 100_000],
)
def test_a_kept_value_that_was_changed_is_left_aside_and_reported(tmp_path, capsys, text):
    path = tmp_path / "value.json"
    path.write_text(text)
    assert resume.read_value(path, "k") is None
    assert capsys.readouterr().err == f"{path}: is not what was written there; computed again\n"


def test_units_of_several_processes_are_found(tmp_path, units):
    with resume.Writer(units) as one, resume.Writer(resume.Units(tmp_path, "run")) as other:
        one.add("a", b"first\n", {"n": 1})
        assert set(units.done()) == {"a"}
        other.add("a", b"first\n", {"n": 1})
        other.add("b", b"\xff", {})
    done = units.done()
    assert {key: (unit.read(), unit.facts) for key, unit in done.items()} == {
        "a": (b"first\n", {"n": 1}),
        "b": (b"\xff", {}),
    }
    assert resume.Units(tmp_path, "other run").done() == {}


def test_what_is_finished_is_kept_after_an_error(units):
    with pytest.raises(KeyboardInterrupt), resume.Writer(units) as writer:
        writer.add("a", b"1", {})
        raise KeyboardInterrupt
    assert units.done()["a"].read() == b"1"


def test_nothing_is_kept_if_an_input_was_changed(tmp_path):
    def refuse():
        raise UserError("changed")

    changed = resume.Units(tmp_path, "run", refuse)
    with pytest.raises(UserError, match="changed"), resume.Writer(changed) as writer:
        writer.add("a", b"1", {})
    assert resume.Units(tmp_path, "run").done() == {}


def test_a_long_run_keeps_parts_in_between(units, monkeypatch):
    monkeypatch.setattr(resume, "PART_S", 0.0)
    with resume.Writer(units) as writer:
        for key in "abc":
            writer.add(key, key.encode(), {})
            assert key in units.done()


@pytest.fixture
def one_part(monkeypatch):
    """Units reach the disk when the writer is closed, and not before."""
    monkeypatch.setattr(resume, "PART_S", 1e9)
    monkeypatch.setattr(resume, "PART_FRAC", 1e9)


@pytest.mark.usefixtures("one_part")
def test_damaged_units_are_left_aside_and_reported(tmp_path, units, capsys):
    with resume.Writer(units) as writer:
        writer.add("a", b"1234", {})
        writer.add("b", b"56", {})
    (part,) = tmp_path.glob("part-*.jsonl")
    os.truncate(part, 5)
    done = resume.Units(tmp_path, "run").done()
    assert set(done) == {"a"}
    problem = "1 of 2 results are not what was written there; computed again"
    assert capsys.readouterr().err == f"{part}: {problem}\n"

    os.truncate(part, 2)
    with pytest.raises(UserError, match="is not what was written there; run the same command"):
        done["a"].read()


@pytest.mark.usefixtures("one_part")
def test_the_results_of_other_keys_are_not_taken(tmp_path, units, capsys):
    with resume.Writer(units) as writer:
        writer.add("a", b"1", {})
        writer.add("b", b"2", {})
    (path,) = tmp_path.glob("part-*.json")
    marker = json.loads(path.read_text())
    places = marker["value"]
    places["a"], places["b"] = places["b"], places["a"]
    path.write_text(json.dumps(marker))
    assert units.done() == {}
    assert f"{path}: is not what was written there" in capsys.readouterr().err
