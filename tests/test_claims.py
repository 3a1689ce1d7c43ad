import json
import multiprocessing
import os
import subprocess
import sys
import time

import pytest

from mlalign import claims
from mlalign.errors import UserError


@pytest.fixture
def partial(tmp_path):
    path = tmp_path / "sft-0123456789abcdef.partial"
    path.mkdir()
    return path


def test_a_living_owner_is_not_replaced(partial):
    with claims.claim(partial):
        with pytest.raises(UserError, match=f"process {os.getpid()} on .* is working on this step"), claims.claim(partial):
            pass
        assert [o["pid"] for o in claims.owners(partial)] == [os.getpid()]
    assert claims.owners(partial) == []
    with claims.claim(partial):
        pass


def test_a_dead_owner_is_replaced(partial):
    code = f"from pathlib import Path; from mlalign import claims; import os\nwith claims.claim(Path({str(partial)!r})): os._exit(9)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    assert (partial / "claims" / "step").exists()
    with claims.claim(partial):
        pass


def test_a_claim_of_another_host_dies_when_it_is_not_touched(partial):
    path = partial / "claims" / "step"
    path.parent.mkdir()
    path.write_text(json.dumps({"host": "elsewhere", "pid": 1, "started": "1", "job": None}))
    with pytest.raises(UserError, match="elsewhere"), claims.claim(partial):
        pass
    long_ago = time.time() - claims.STALE_S - 1
    os.utime(path, (long_ago, long_ago))
    with claims.claim(partial):
        pass


def _contend(partial, start, results):
    start.wait()
    try:
        with claims.claim(partial):
            results.put("won")
            time.sleep(0.5)
    except UserError:
        results.put("lost")


def test_one_of_many_wins_a_claim(partial):
    context = multiprocessing.get_context("spawn")
    start, results = context.Event(), context.Queue()
    processes = [context.Process(target=_contend, args=(partial, start, results)) for _ in range(4)]
    for process in processes:
        process.start()
    time.sleep(1)
    start.set()
    for process in processes:
        process.join()
    assert sorted(results.get() for _ in processes) == ["lost", "lost", "lost", "won"]


def test_burying_a_dead_claim_spares_a_new_one(partial):
    with claims.claim(partial):
        path = partial / "claims" / "step"
        claims._bury(path, {"host": "elsewhere", "pid": 1, "started": "1", "job": None})
        assert claims.owners(partial)
