import json
import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
import time

import pytest

from mlalign.core import claims
from mlalign.core.errors import UserError


@pytest.fixture
def partial(tmp_path):
    path = tmp_path / "sft-0123456789abcdef.partial"
    path.mkdir()
    return path


def test_a_living_owner_is_not_replaced(partial):
    with claims.claim(partial):
        with (
            pytest.raises(UserError, match=f"process {os.getpid()} on .* is working on this step"),
            claims.claim(partial),
        ):
            pass
        assert [o["pid"] for o in claims.owners(partial)] == [os.getpid()]
    assert claims.owners(partial) == []
    with claims.claim(partial):
        pass


def test_a_dead_owner_is_replaced(partial):
    code = (
        "from pathlib import Path; from mlalign.core import claims; import os\nwith"
        f" claims.claim(Path({str(partial)!r})): os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    assert (partial / "claims" / "step").exists()
    with claims.claim(partial):
        pass


@pytest.fixture
def soon(monkeypatch):
    """Whoever is silent for a second is listened to for another."""
    monkeypatch.setattr(claims, "STALE_S", 1.0)
    monkeypatch.setattr(claims, "WATCH_S", 1.0)


@pytest.mark.slow
def test_a_claim_of_another_host_dies_when_it_is_not_touched(partial, soon):
    path = partial / "claims" / "step"
    path.parent.mkdir()
    path.write_text(json.dumps({"host": "elsewhere", "pid": 1, "started": "1", "job": None}))
    with pytest.raises(UserError, match="elsewhere"), claims.claim(partial):
        pass
    long_ago = time.time() - claims.STALE_S - 1
    os.utime(path, (long_ago, long_ago))
    with claims.claim(partial):
        pass


def _contend(partial, start, results, over):
    start.wait()
    try:
        with claims.claim(partial):
            results.put("won")
            over.wait()
    except UserError:
        results.put("lost")


@pytest.mark.slow
def test_one_of_many_wins_a_claim(partial):
    context = multiprocessing.get_context("spawn")
    start, results, over = context.Event(), context.Queue(), context.Event()
    processes = [
        context.Process(target=_contend, args=(partial, start, results, over)) for _ in range(4)
    ]
    for process in processes:
        process.start()
    start.set()
    assert sorted(results.get() for _ in processes) == ["lost", "lost", "lost", "won"]
    over.set()
    for process in processes:
        process.join()


def test_burying_a_dead_claim_spares_a_new_one(partial):
    with claims.claim(partial):
        path = partial / "claims" / "step"
        claims._bury(path, {"host": "elsewhere", "pid": 1, "started": "1", "job": None})
        assert claims.owners(partial)


OWNER = """
import sys, time
from pathlib import Path
from mlalign.core import claims
claims.HEARTBEAT_S = float(sys.argv[2])
with claims.claim(Path(sys.argv[1])):
    print("mine", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def elsewhere(partial):
    """`elsewhere(heartbeat_s)`: the owner of a claim in a PID namespace of its own, under the name
    of this host.
    """
    started = []

    def start(heartbeat_s=0.2):
        words = [
            "unshare",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            sys.executable,
            "-c",
            OWNER,
            partial,
            str(heartbeat_s),
        ]
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        started.append(process)
        if process.stdout.readline() != "mine\n":
            pytest.skip(f"a PID namespace needs root: {process.stderr.read()}")
        return process

    if shutil.which("unshare") is None:
        pytest.skip("there is no `unshare`")
    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_a_process_of_another_container_on_this_host_is_no_process_of_ours(
    partial, elsewhere, soon
):
    """Its number is one of this table too: neither does that say that it is alive, nor may it be
    sent a signal.
    """
    owner = elsewhere()
    (told,) = claims.owners(partial)
    assert told["host"] == socket.gethostname() and told["pid"] < 10 and not claims.is_here(told)
    with (
        pytest.raises(claims.Taken, match="in another container, or before a restart"),
        claims.claim(partial),
    ):
        pass
    owner.kill()
    owner.wait()
    with claims.claim_in_turn(partial):
        assert [o["pid"] for o in claims.owners(partial)] == [os.getpid()]


@pytest.mark.parametrize("minutes", [-20, -5, 5, 20])
@pytest.mark.slow
def test_clocks_that_differ_bury_no_living_claim(partial, elsewhere, soon, minutes, monkeypatch):
    """The clock of this machine is not asked; a claim with a strange time is listened to before it
    is called dead.
    """
    elsewhere(0.5)
    clock = time.time
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: clock() + 60 * minutes)
        with pytest.raises(claims.Taken), claims.claim(partial):
            pass
    strange = time.time() + 60 * minutes
    os.utime(partial / "claims" / "step", (strange, strange))
    with pytest.raises(claims.Taken), claims.claim(partial):
        pass


@pytest.mark.slow
def test_a_claim_from_the_future_dies_with_its_silence(partial, soon):
    path = partial / "claims" / "step"
    path.parent.mkdir()
    path.write_text(
        json.dumps(
            {
                "host": "elsewhere",
                "pid": 1,
                "started": "1",
                "table": "t",
                "job": None,
                "restart": "0",
            }
        )
    )
    os.utime(path, (time.time() + 9999, time.time() + 9999))
    with claims.claim(partial):
        pass


@pytest.mark.slow
def test_whoever_finds_his_claim_taken_ends(partial):
    words = [sys.executable, "-c", OWNER, partial, "0.2"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "mine\n"
    (partial / "claims" / "step").write_text(
        json.dumps({"host": "elsewhere", "pid": 1, "started": "1"})
    )
    assert process.wait(30) == claims.LOST
    assert "process 1 on elsewhere is working on this step" in process.stderr.read()


MALFORMED = {
    "empty": b"",
    "no json": b"{",
    "a list": b"[1]",
    "no keys": b"{}",
    "negative": b'{"host": "h", "pid": -1}',
    "huge": b'{"host": "h", "pid": 99999999999999999999}',
    "true": b'{"host": "h", "pid": true}',
    "text": b'{"host": "h", "pid": "7"}',
    "no text": b"\xff\xfe",
    "deep": b"[" * 9000,
    "long": b'"' + b"x" * 99_999 + b'"',
    "steers": b'{"host": "\\u001b[2J", "pid": 1}',
    "started": b'{"host": "h", "pid": 1, "started": 5}',
}


@pytest.mark.parametrize("name", [*MALFORMED, "a directory", "a pipe"])
def test_a_malformed_claim_is_a_message_and_dies_with_time(partial, name, soon):
    path = partial / "claims" / "step"
    path.parent.mkdir()
    if name == "a directory":
        (path / "inside").mkdir(parents=True)
    elif name == "a pipe":
        os.mkfifo(path)
    else:
        path.write_bytes(MALFORMED[name])
    with (
        pytest.raises(
            claims.Taken,
            match=r"claims/step: this (is no claim|claim cannot be read).*remove this file",
        ),
        claims.claim(partial),
    ):
        pass
    assert claims.owners(partial)[0]["broken"]
    os.utime(path, (0, 0))
    with claims.claim(partial):
        assert claims.owners(partial)[0]["broken"] is None


@pytest.mark.slow
def test_waiting_for_a_turn_can_be_given_up(partial):
    class Enough(Exception):
        pass

    def give_up():
        raise Enough

    with claims.claim(partial):
        with pytest.raises(Enough), claims.claim_in_turn(partial, give_up=give_up):
            pass
        with pytest.raises(claims.Taken), claims.claim_in_turn(partial, patience_s=0.3):
            pass
