"""`cancel` and Ctrl-C at every moment of a run that has processes of its own: it ends, says so, and
goes on later.
"""

import http.server
import signal
import subprocess
import sys
import threading
import time

import pytest

from mlalign.core import claims

pytestmark = [pytest.mark.slow, pytest.mark.long]
DATA = """
root: null
languages: [eng_Latn]
prompts: [{adapter: tiny_world, split: train, options: {n: 8}}]
"""
ASK = """# Ask a server.
steps:
  prompts: {stage: prepare, config: {kind: prompt, sources: "${data.prompts}", languages: "${languages}"}}
  answers:
    stage: generate
    inputs: {model: {path: "${model.path}"}, rows: prompts}
    config: {n: 2, max_tokens: 12}
"""
ANSWER = (
    b'{"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [{"index": 0,'
    b' "finish_reason": "stop", "message": {"role": "assistant", "content": "five"}}], "usage":'
    b' {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}}'
)


class Server(http.server.ThreadingHTTPServer):
    """A server that takes requests, and answers them once it `may`."""

    daemon_threads = True

    def __init__(self):
        self.may, self.asked = threading.Event(), threading.Event()
        super().__init__(("127.0.0.1", 0), Handler)


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.server.asked.set()
        self.server.may.wait()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(ANSWER)))
        self.end_headers()
        self.wfile.write(ANSWER)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    served = Server()
    threading.Thread(target=served.serve_forever, daemon=True).start()
    yield served
    served.may.set()
    served.shutdown()


class Run:
    def __init__(self, root, server):
        self.root = root
        for name, text in (("data/small", DATA), ("recipe/ask", ASK)):
            (root / f"conf/{name}.yaml").parent.mkdir(parents=True, exist_ok=True)
            (root / f"conf/{name}.yaml").write_text(text)
        address = f"engine.base_url=http://127.0.0.1:{server.server_address[1]}/v1"
        self.words = [
            "run",
            "recipe=ask",
            f"conf_dir={root / 'conf'}",
            "data=small",
            "engine=openai",
            address,
            "engine.served_model=m",
        ]
        self.processes = []

    def begin(self, *more):
        words = [sys.executable, "-m", "mlalign", *self.words, "name=r", f"root={self.root}", *more]
        self.processes.append(
            subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        )
        return self.processes[-1]

    def cancel(self, *more):
        words = [sys.executable, "-m", "mlalign", "cancel", "name=r", f"root={self.root}", *more]
        done = subprocess.run(words, text=True, capture_output=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def is_registered(self):
        return list((self.root / "runs" / "r" / "claims").glob("run-*"))


@pytest.fixture
def run(tmp_path, server):
    made = Run(tmp_path, server)
    yield made
    for process in made.processes:
        process.kill()
        process.wait()


def until(seen, seconds=180):
    end = time.monotonic() + seconds
    while not seen():
        assert time.monotonic() < end
        time.sleep(0.02)


def ended(process, seconds=55):
    """What it said; less than the minute after which a step that saves nothing is killed."""
    said, _ = process.communicate(timeout=seconds)
    assert process.returncode == 75, said
    assert "run the same command again" in said and "Traceback" not in said
    return said


@pytest.mark.parametrize("how", ["cancel", "now", "step", "ctrl-c"])
def test_while_a_server_does_not_answer(run, server, how):
    process = run.begin()
    assert server.asked.wait(180)
    if how == "ctrl-c":
        process.send_signal(signal.SIGINT)
    else:
        said = run.cancel(*{"cancel": [], "now": ["now=true"], "step": ["step=answers"]}[how])
        assert f"process {process.pid} on " in said
    ended(process)
    (partial,) = (run.root / "store").glob("generate-*.partial")
    assert claims.owners(partial) == [] and not run.is_registered()
    server.may.set()
    again = run.begin()
    said, _ = again.communicate(timeout=300)
    assert again.returncode == 0 and "[1/2] prompts: reused" in said and "answers: done" in said, (
        said
    )


@pytest.mark.parametrize("how", ["cancel", "ctrl-c", "term"])
def test_before_the_first_step(run, how):
    process = run.begin()
    until(run.is_registered)
    if how == "cancel":
        assert "asked to stop" in run.cancel()
    else:
        process.send_signal(signal.SIGINT if how == "ctrl-c" else signal.SIGTERM)
    ended(process)
    assert not run.is_registered()


def test_another_step_is_not_meant(run, server):
    process = run.begin()
    assert server.asked.wait(180)
    assert run.cancel("step=prompts") == "no step of this run is running or waiting in the queue\n"
    time.sleep(1)
    assert process.poll() is None
    run.cancel()
    ended(process)
