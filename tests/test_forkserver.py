"""A process that has imported what steps need, and forks them."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from verification_cases import Small

from mlalign import stages
from mlalign.core import processes, schema
from mlalign.core.store import read_manifest
from mlalign.running import forkserver, local

# Takes the place of a step: says what it is, then ends with the status that its configuration
# names.
PROBE = """
import json, os, sys, time
from mlalign.running import step

def process(argv):
    about = {"pid": os.getpid(), "session": os.getsid(0), "threads": os.environ.get("OMP_NUM_THREADS"), "argv": sys.argv}
    print(json.dumps(about), flush=True)
    print("to stderr", file=sys.stderr, flush=True)
    wanted = open(argv[0]).read()
    while wanted == "wait":
        time.sleep(0.05)
    return int(wanted)

step.process = process
"""


@pytest.fixture
def environment(tmp_path):
    (tmp_path / "probe.py").write_text(PROBE)
    environment = processes.python_environment()
    environment.pop(forkserver.THREADS, None)
    return {**environment, "PYTHONPATH": f"{tmp_path}{os.pathsep}{environment['PYTHONPATH']}"}


@pytest.fixture
def server(environment):
    with closing(forkserver.ForkServer(["probe"], environment)) as server:
        yield server


def config(tmp_path: Path, wanted: object) -> Path:
    path = tmp_path / f"{wanted}.yaml"
    path.write_text(str(wanted))
    return path


def until(seconds: float, condition) -> object:
    end = time.monotonic() + seconds
    while ((value := condition()) is None or value is False) and time.monotonic() < end:
        time.sleep(0.02)
    return value


def about(log: Path) -> dict:
    assert until(30, lambda: log.exists() and "\n" in log.read_text())
    return json.loads(log.read_text().splitlines()[0])


@pytest.mark.slow
def test_a_child_is_a_process_of_its_own_with_its_output_in_the_log(server, environment, tmp_path):
    statuses = []
    for wanted in (0, 2, 75):
        step = server.start(config(tmp_path, wanted), tmp_path / f"{wanted}.log", environment)
        with closing(step):
            statuses.append(until(30, step.poll))
    children = [about(tmp_path / f"{wanted}.log") for wanted in (0, 2, 75)]
    assert statuses == [0, 2, 75]
    assert len({child["pid"] for child in children} | {os.getpid()}) == 4
    assert all(child["session"] == child["pid"] for child in children)
    assert children[0]["argv"] == ["mlalign.step", str(tmp_path / "0.yaml")]
    assert (tmp_path / "0.log").read_text().splitlines()[1] == "to stderr"


@pytest.mark.slow
def test_several_children_at_a_time_are_told_apart(server, environment, tmp_path):
    waiting = server.start(config(tmp_path, "wait"), tmp_path / "waiting.log", environment)
    ending = server.start(config(tmp_path, 3), tmp_path / "ending.log", environment)
    with closing(waiting), closing(ending):
        assert until(30, ending.poll) == 3
        assert about(tmp_path / "waiting.log")
        assert waiting.poll() is None
        waiting.kill()
        assert until(30, waiting.poll) == -signal.SIGKILL


@pytest.mark.slow
def test_the_number_of_threads_is_the_childs_own(server, environment, tmp_path):
    environment = {**environment, forkserver.THREADS: "3"}
    with closing(server.start(config(tmp_path, 0), tmp_path / "log", environment)) as step:
        assert until(30, step.poll) == 0
    assert about(tmp_path / "log")["threads"] == "3"


@pytest.mark.slow
def test_another_environment_needs_another_start(server, environment, tmp_path):
    other = {**environment, "HF_HUB_OFFLINE": "something else"}
    assert server.start(config(tmp_path, 0), tmp_path / "log", other) is None


@pytest.mark.slow
def test_a_child_outlives_its_server(server, environment, tmp_path):
    with closing(server.start(config(tmp_path, "wait"), tmp_path / "log", environment)) as step:
        child = about(tmp_path / "log")
        until(30, lambda: step.poll() or True)  # the number of its process has been read
        server._process.kill()
        server._process.wait()
        assert step.poll() is None
        os.kill(child["pid"], signal.SIGKILL)
        assert until(30, step.poll) == forkserver.LOST
    assert server.start(config(tmp_path, 0), tmp_path / "log", environment) is None


@pytest.mark.slow
def test_a_failed_import_makes_children_new_pythons(environment, tmp_path):
    (tmp_path / "broken.py").write_text("raise RuntimeError('spoilt')")
    with closing(forkserver.ForkServer(["probe", "broken"], environment)) as server:
        path = config(tmp_path, 0)
        with closing(server.start(path, tmp_path / "log", environment)) as step:
            assert until(60, step.poll) == 2
    assert "0.yaml" in (tmp_path / "log").read_text()  # the real step found no configuration in it


@pytest.mark.slow
def test_it_ends_with_the_process_that_started_it(environment, tmp_path):
    code = (
        "import os, time\nfrom mlalign.running import forkserver\n"
        "server = forkserver.ForkServer(['probe'], dict(os.environ))\n"
        "print(server._process.pid, flush=True)\ntime.sleep(600)"
    )
    starter = subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True
    )
    pid = int(starter.stdout.readline())
    starter.kill()
    starter.wait()
    assert until(30, lambda: processes.started(pid) is None)


@pytest.mark.slow
def test_a_step_makes_what_it_makes_in_a_new_python(tmp_path):
    digests = []
    for name in ("forked", "fresh"):
        (tmp_path / name).mkdir()
        path = Small(tmp_path / name).begin("rows")
        log = tmp_path / f"{name}.log"
        environment = processes.python_environment()
        if name == "forked":
            with (
                closing(forkserver.ForkServer(["pyarrow.parquet"], environment)) as server,
                closing(server.start(path, log, environment)) as step,
            ):
                assert until(60, step.poll) == 0, log.read_text()
        else:
            assert local.run(path, {}, log, lambda: None) == 0, log.read_text()
        finished = path.parent.with_name(path.parent.name.removesuffix(".partial"))
        digests.append(read_manifest(finished)["content_digest"])
    assert digests[0] == digests[1]


def test_only_steps_that_import_much_wait_for_the_server():
    wanted = {}
    scorers = {"bare": [{"family": "verifier"}], "model": [{"family": "classifier", "path": "m"}]}
    for name, given in scorers.items():
        wanted[name] = stages.imports("score", None, {"scorers": given})
    for name in ("openai", "transformers"):
        cfg = schema.build(stages.load("generate").Config, {"engine": {"name": name}}, "config")
        wanted[name] = stages.imports("generate", cfg, {})
    assert [name for name, modules in wanted.items() if modules] == ["model", "transformers"]
    assert stages.imports("report", None, {}) == []
