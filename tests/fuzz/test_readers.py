"""A short pass over every reader; `make fuzz` takes longer, and other seeds."""

import pytest
from fuzz import readers, runner

CASES = {
    "recipes": 3,
    "scored_rows": 12,
    "evaluated_rows": 6,
    "prepared_rows": 12,
    "templates": 6,
    "runs": 12,
    "scorers": 6,
    "claims": 12,
}


@pytest.mark.parametrize("reader", readers.READERS)
@pytest.mark.slow
def test_changed_inputs_give_messages(reader):
    failures = [
        failure for case in range(CASES.get(reader, 60)) if (failure := runner.run(reader, 0, case))
    ]
    assert not failures, "\n\n".join(map(str, failures))


def test_a_reader_that_fails_or_hangs_is_found(monkeypatch):
    def fails(rng, folder):
        raise KeyError("x")

    def hangs(rng, folder):
        while True:
            pass

    monkeypatch.setitem(readers.READERS, "fails", fails)
    monkeypatch.setitem(readers.READERS, "hangs", hangs)
    assert "KeyError" in str(
        runner.run("fails", 1, 2)
    ) and "--reader fails --seed 1 --case 2" in str(runner.run("fails", 1, 2))
    assert "took more than 0.05 s" in str(runner.run("hangs", 1, 2, limit_s=0.005))
