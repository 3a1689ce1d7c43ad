"""The small recipe for sweeps that really run."""

import pytest
from lean_sweep import Lean


@pytest.fixture(scope="session")
def lean(tmp_path_factory) -> Lean:
    """A root with the recipe `lean`; its store is shared by all tests of sweeps in one process."""
    return Lean(tmp_path_factory.mktemp("lean"))
