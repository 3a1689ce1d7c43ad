"""What the table of a running sweep says of each variant, on a terminal and in a file."""

import io

import pytest
from helpers import write_manifest

from mlalign.core import store
from mlalign.sweep import grid, united
from mlalign.sweep.board import Board


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def planned(tmp_path):
    return united.build(
        grid.read([f"root={tmp_path}", "recipe=candidates", "n=2,4", "temperature=0.5,1", "-m"])
    )


def finish(planned, *names):
    for node in planned.nodes:
        if node.name in names:
            path = planned.store.root / node.artifact
            path.mkdir(parents=True)
            told = {"kind": "rows", "status": "done", "fingerprint": node.fingerprint, "inputs": {}}
            write_manifest(path, **told)


def partial(planned, name):
    return next(
        planned.store.partial(n.step.stage, n.fingerprint) for n in planned.nodes if n.name == name
    )


def stands(board):
    return [line.split("  ")[-1] for line in board.table().splitlines()[1:]]


@pytest.mark.slow
def test_each_variant_says_what_it_has_and_waits_for(planned):
    out = io.StringIO()
    board = Board(planned, "accuracy", out)
    assert stands(board) == ["waits for rows.prompts"] * 4
    board.begin("[1/13] rows.prompts", partial(planned, "rows.prompts"))
    assert stands(board) == ["rows.prompts: running"] * 4
    finish(planned, "rows.prompts")
    board.end("[1/13] rows.prompts: done")
    first = "candidates[n=2,temperature=0.5]"
    assert stands(board)[:2] == [f"waits for {first}", "waits for candidates[n=2,temperature=1]"]
    partial(planned, first).mkdir(parents=True)
    store.write_json(
        partial(planned, first) / "progress.json",
        {"done": 1, "total": 4, "unit": "shards", "by_language": {}},
    )
    board.begin("[2/13] candidates", partial(planned, first))
    assert stands(board)[0] == f"{first}: 1/4 shards"
    board.end("failed")
    board.failed(partial(planned, first).name.removesuffix(".partial"))
    assert stands(board)[0] == f"failed: {first}"
    assert "\x1b" not in out.getvalue()


@pytest.mark.slow
def test_a_variant_that_is_done_is_told_once(planned):
    out = io.StringIO()
    board = Board(planned, None, out)
    finish(planned, *planned.variants[2].steps.values())
    board.line("x")
    board.line("y")
    assert out.getvalue().count("variant n=4,temperature=0.5: done") == 1
    board.close()
    assert "5/5" in out.getvalue()


@pytest.mark.slow
def test_on_a_terminal_the_table_is_drawn_in_place(planned, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    out = Terminal()
    board = Board(planned, None, out)
    board.begin("[1/13] rows.prompts", partial(planned, "rows.prompts"))
    board.tick()
    board.end("[1/13] rows.prompts: done")
    drawn = out.getvalue()
    assert (
        "\x1b[7F\x1b[J[1/13] rows.prompts: done" in drawn
    )  # an empty line, the head, four variants and the running step
    assert max(len(line) for line in drawn.splitlines()) < 60 + len("\x1b[7F\x1b[J")


@pytest.mark.slow
def test_of_many_variants_those_that_are_not_done_are_shown(tmp_path):
    planned = united.build(
        grid.read([f"root={tmp_path}", "recipe=candidates", "n=range(1,31)", "-m"])
    )
    finish(planned, *planned.variants[0].steps.values())
    table = Board(planned, None, io.StringIO()).table()
    assert len(table.splitlines()) == 1 + 16 + 1
    assert table.endswith("1 of 30 variants are done")
