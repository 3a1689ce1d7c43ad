"""The openai engine against a real vLLM server, and against plain HTTP servers that refuse, fail
and vanish.
"""

import contextlib
import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request

import pytest

from mlalign.core import rows
from mlalign.core.errors import UserError
from mlalign.models.engine import PROMPT_TOO_LONG, EngineConfig, Request, Sampling, open_engine
from mlalign.models.engine.openai import body

pytest.importorskip("openai")
KEY = "sk-a-secret-of-mine"
DRIBBLE = b" " * 12345


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def ask(text: str, seed: int = 1) -> Request:
    return Request(f"{text}.{seed}", seed, messages=rows.messages(text))


@pytest.fixture
def plain_server():
    """A local HTTP server that gives the (status, body) pairs of a list, one per request; yields
    its address, that list and what it was sent.

    A body is JSON or bytes; that of DRIBBLE comes a space at a time and never ends.
    """
    replies: list[tuple[int, dict | bytes]] = []
    received: list[dict] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            status, reply = replies.pop(0)
            data = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
            self.send_response(status)
            for name, value in (
                ("Content-Type", "application/json"),
                ("Content-Length", str(len(data))),
                ("retry-after-ms", "10"),
            ):
                self.send_header(name, value)
            self.end_headers()
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                if data == DRIBBLE:
                    for _ in range(100):
                        self.wfile.write(b" ")
                        time.sleep(0.05)
                self.wfile.write(data)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://someone:password@127.0.0.1:{server.server_port}/v1", replies, received
    server.shutdown()
    server.server_close()
    thread.join()


def answer(text: str, **message) -> dict:
    choice = {
        "index": 0,
        "finish_reason": "stop",
        "message": {"role": "assistant", "content": text, **message},
    }
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [choice],
        "usage": {"completion_tokens": 3, "prompt_tokens": 2, "total_tokens": 5},
    }


@pytest.mark.slow
def test_retries_after_429_and_503_and_reads_reasoning(plain_server):
    url, replies, received = plain_server
    replies += [(429, {}), (503, {}), (200, answer("4", reasoning_content="2 and 2"))]
    engine = open_engine(
        EngineConfig("openai", base_url=url, served_model="m", max_retries=2), None
    )
    (response,) = engine.generate([ask("2 + 2?", seed=7)], Sampling(5, top_k=3))
    assert (response.text, response.reasoning, response.n_tokens) == ("4", "2 and 2", 3)
    assert len(received) == 3
    assert (received[-1]["seed"], received[-1]["top_k"], received[-1]["model"]) == (7, 3, "m")


@pytest.mark.slow
def test_a_refused_key_is_named_by_its_variable_and_never_shown(plain_server, monkeypatch):
    url, replies, _ = plain_server
    monkeypatch.setenv("MY_KEY", KEY)
    replies.append((401, {"error": {"message": f"Incorrect API key provided: {KEY}"}}))
    engine = open_engine(
        EngineConfig("openai", base_url=url, served_model="m", api_key_env="MY_KEY"), None
    )
    with pytest.raises(UserError, match="Incorrect API key") as caught:
        engine.generate([ask("Hi")], Sampling(5))
    assert KEY not in str(caught.value)
    assert "password" not in str(caught.value)


def test_a_server_that_is_gone_says_how_to_go_on():
    engine = open_engine(
        EngineConfig(
            "openai", base_url=f"http://127.0.0.1:{free_port()}/v1", served_model="m", max_retries=0
        ),
        None,
    )
    with pytest.raises(
        UserError, match=r"does not answer .*same command again; finished shards are kept"
    ):
        engine.generate([ask("Hi"), ask("Ho")], Sampling(5))


@pytest.mark.parametrize(
    ("status", "body", "why"),
    [
        (
            200,
            b"<html>sign in</html>",
            r"127.0.0.1:\d+/v1 sends no usable answer from 'm': an HTML page .*engine.base_url",
        ),
        (200, {"choices": []}, "`choices` should be a list"),
        (404, b"<html>" + b"not here " * 9999, "refuses a request for 'm'"),
        (400, [1, 2], "refuses a request"),
        (302, b"", "refuses a request for 'm'"),
    ],
)
@pytest.mark.slow
def test_a_malformed_reply_is_one_message(plain_server, status, body, why):
    url, replies, _ = plain_server
    replies.append((status, body))
    engine = open_engine(
        EngineConfig("openai", base_url=url, served_model="m", max_retries=0), None
    )
    with pytest.raises(UserError, match=why) as caught:
        engine.generate([ask("Hi")], Sampling(5))
    message = str(caught.value)
    assert len(message) < 700 and "password" not in message and "\n" not in message


@pytest.mark.slow
def test_a_reply_that_never_ends_has_a_limit(plain_server):
    url, replies, _ = plain_server
    replies.append((200, DRIBBLE))
    engine = open_engine(
        EngineConfig("openai", base_url=url, served_model="m", max_retries=0, timeout_s=0.3), None
    )
    with pytest.raises(UserError, match=r"does not answer .*1 tries of up to 0.3 s"):
        engine.generate([ask("Hi")], Sampling(5))


@pytest.mark.slow
def test_a_reply_that_is_too_large_is_not_read(plain_server, monkeypatch):
    monkeypatch.setattr("mlalign.models.engine.replies.LARGEST", 1 << 20)
    url, replies, _ = plain_server
    replies.append((200, b" " * (3 << 20)))
    engine = open_engine(
        EngineConfig("openai", base_url=url, served_model="m", max_retries=0), None
    )
    with pytest.raises(UserError, match="more than 1 MiB"):
        engine.generate([ask("Hi")], Sampling(5))


@pytest.mark.parametrize(
    "address",
    [
        "localhost:8000/v1",
        "ftp://host/v1",
        "http://",
        "http://[::1/v1",
        "http://u:hunter2@host:port/v1",
    ],
)
def test_what_is_no_address_is_told_without_its_password(address):
    with pytest.raises(UserError, match=r"engine.base_url: expected an address") as caught:
        open_engine(EngineConfig("openai", base_url=address, served_model="m"), None)
    assert "hunter2" not in str(caught.value)


def test_an_unset_variable_is_named():
    with pytest.raises(UserError, match="ABSENT_KEY is not set"):
        open_engine(
            EngineConfig(
                "openai", base_url="http://x/v1", served_model="m", api_key_env="ABSENT_KEY"
            ),
            None,
        )


def test_body_leaves_out_neutral_values_and_args_win():
    known, extra = body(
        ask("Hi", 3),
        Sampling(9, 0.5, extra={"repetition_penalty": 1.1}),
        {"max_tokens": None, "max_completion_tokens": 4},
    )
    assert known == {"temperature": 0.5, "top_p": 1.0, "seed": 3, "max_completion_tokens": 4}
    assert extra == {"repetition_penalty": 1.1}


@pytest.fixture(scope="module")
def server(tiny, tmp_path_factory):
    """A real vLLM server on the tiny model, known as `tiny`."""
    pytest.importorskip("vllm")
    port, log = free_port(), tmp_path_factory.mktemp("server") / "log"
    command = [
        sys.executable,
        "-m",
        "vllm.entrypoints.openai.api_server",
        "--model",
        tiny.path,
        "--served-model-name",
        "tiny",
        "--port",
        str(port),
        "--host",
        "127.0.0.1",
        "--dtype",
        "float32",
        "--enforce-eager",
        "--no-enable-chunked-prefill",
        "--max-model-len",
        "64",
    ]
    with open(log, "w") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=out, env={"VLLM_CPU_KVCACHE_SPACE": "1", **os.environ}
        )
    until = time.monotonic() + 180
    while not _healthy(port):
        assert process.poll() is None and time.monotonic() < until, log.read_text()[-3000:]
        time.sleep(0.5)
    yield f"http://127.0.0.1:{port}/v1"
    process.terminate()
    process.wait(30)


def _healthy(port: int) -> bool:
    try:
        return urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).status == 200
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.long
def test_a_real_server_answers_in_order_and_honours_seeds(server):
    engine = open_engine(
        EngineConfig("openai", base_url=server, served_model="tiny", concurrency=4), None
    )
    asked = [ask(f"What is {a} + 2?", seed) for a in range(1, 9) for seed in (1, 2)]
    greedy = engine.generate(asked, Sampling(24, 0.0))
    assert [g.finish_reason for g in greedy] == ["stop"] * len(asked)
    assert all(greedy[i] == greedy[i + 1] for i in range(0, len(asked), 2))
    assert len({g.text for g in greedy}) > 4
    hot = Sampling(16, 2.0)
    first = engine.generate(asked, hot)
    assert engine.generate(asked[::-1], hot)[::-1] == first
    assert first[0] != first[1] or first[2] != first[3]
    engine.close()


@pytest.mark.slow
@pytest.mark.long
def test_a_real_server_s_refusals(server):
    engine = open_engine(EngineConfig("openai", base_url=server, served_model="tiny"), None)
    long, short = engine.generate(
        [ask("What is 1 + 1? " * 20), ask("What is 1 + 1?")], Sampling(24, 0.0)
    )
    assert (long.finish_reason, short.finish_reason) == (PROMPT_TOO_LONG, "stop")
    with pytest.raises(UserError, match=r"refuses a request for 'other'.*does not exist"):
        open_engine(EngineConfig("openai", base_url=server, served_model="other"), None).generate(
            [ask("Hi")], Sampling(4)
        )
