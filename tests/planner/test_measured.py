"""Predicted peaks beside measured ones, on real training of 100 M parameters; all nine:
`python benchmarks/memory.py`.
"""

import importlib.util

import pytest
from helpers import PROJECT


@pytest.fixture(scope="module")
def memory():
    spec = importlib.util.spec_from_file_location("memory", PROJECT / "benchmarks" / "memory.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("case", ["reward-100m"])
def test_the_predicted_peak_is_near_the_measured_one(memory, case):
    assert memory.compare(case) == pytest.approx(1, abs=memory.BOUND)


def test_the_benchmark_has_nine_cases_of_at_least_100_million_parameters(memory):
    assert len(memory.CASES) == 9
    sizes = {
        memory.architecture.from_config(memory.config_of(case)).parameters()
        for case in memory.CASES
    }
    assert len(sizes) == 3
    assert min(sizes) > 100e6
