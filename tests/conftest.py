"""What every test may ask for: the real data, a place for runs, the command line as a process."""

import os
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

import pytest
from helpers import PROJECT

# Whatever the person's shell says, tests see one environment. Before any library reads it, and for
# the processes that tests start.
UNWANTED = (
    "HF_HUB_OFFLINE",
    "HF_DATASETS_OFFLINE",
    "TRANSFORMERS_OFFLINE",
    "HF_ENDPOINT",
    "HF_TOKEN",
    "HF_HUB_CACHE",
    "HF_DATASETS_CACHE",
    "TRANSFORMERS_CACHE",
    "MLALIGN_CONF",
    "PYTHONIOENCODING",
    "COLUMNS",
    "NO_COLOR",
    "FORCE_COLOR",
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
)
for name in (
    *UNWANTED,
    *(n for n in os.environ if n.startswith(("SLURM_", "SBATCH_", "SRUN_", "SQUEUE_", "SALLOC_"))),
):
    os.environ.pop(name, None)
# Without bytecode, each of the hundreds of processes that tests start would compile every module.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
os.environ["OMP_NUM_THREADS"] = "1"  # runs are compared bit for bit, in this process and in others
os.environ["NO_PROXY"] = os.environ["no_proxy"] = (
    "127.0.0.1,localhost"  # tests talk to servers of their own
)
# The person's caches may not be writable, and hold what a test could find there by chance.
_home = tempfile.TemporaryDirectory(prefix="mlalign-tests-")
os.environ["HF_HOME"] = _home.name


def pytest_addoption(parser):
    parser.addoption(
        "--share",
        metavar="I/N",
        help="the I-th of N shares of the tests, from 0: .ci/run takes another share each day",
    )


def pytest_collection_modifyitems(config, items):
    """The files that take longest first, so that no worker is left with one at the end."""
    longest = (
        "test_run.py",
        "slurm/test_interruptions",
        "slurm/test_recipe",
        "test_distributed",
        "slurm/",
        "sweep/",
        "test_rounds",
        "test_implicit",
        "test_score_again",
        "test_invariance",
        "test_judge.py",
        "test_opening",
        "stages/",
    )

    def order(item: pytest.Item) -> int:
        return next((i for i, part in enumerate(longest) if part in str(item.path)), len(longest))

    items.sort(key=order)
    if share := config.getoption("share"):
        index, n = (int(number) for number in share.split("/"))
        items[:] = [item for item in items if zlib.crc32(item.nodeid.encode()) % n == index]


@pytest.fixture(autouse=True)
def no_secret_outlives_its_test():
    """A command line keeps the secrets that it has met until its process ends; here many share one
    process.
    """
    from mlalign.core import secrecy

    known = set(secrecy._known)
    variables = {name for name in os.environ if name.startswith("MLALIGN_SECRET")}
    yield
    secrecy._known.clear()
    secrecy._known.update(known)
    for name in [
        name for name in os.environ if name.startswith("MLALIGN_SECRET") and name not in variables
    ]:
        del os.environ[name]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data; absent, the test is skipped, or fails under REQUIRE_DATA=1."""
    folder = Path(os.environ.get("MLALIGN_TEST_DATA", PROJECT.parent / "shared" / "data"))
    if not folder.is_dir():
        why = f"no real data at {folder}; set MLALIGN_TEST_DATA"
        pytest.fail(why) if os.environ.get("REQUIRE_DATA") else pytest.skip(why)
    return folder


@pytest.fixture
def mlalign(tmp_path, monkeypatch, capfd):
    """The command line in a directory of its own: `mlalign("plan", "recipe=x")` ->
    CompletedProcess.

    Within this process, which is much faster; that it imports nothing heavy is tested with real
    processes.
    """
    from mlalign import cli

    def call(*arguments: object) -> subprocess.CompletedProcess:
        monkeypatch.chdir(tmp_path)
        capfd.readouterr()
        status = cli.main([str(a) for a in arguments])
        out, err = capfd.readouterr()
        return subprocess.CompletedProcess(arguments, status, out, err)

    return call
