"""Any server that speaks the OpenAI chat protocol, through the `openai` client.

The server renders the messages itself. The key comes from the environment variable that
`api_key_env` names and appears in no message. A request leaves out `top_k` and `min_p` at their
neutral values, which OpenAI's own API refuses. `replies` reads what comes back.
"""

import functools
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from mlalign.core import secrecy, stopping
from mlalign.core.errors import UserError
from mlalign.core.stopping import Stopped
from mlalign.models.engine import (
    PROMPT_TOO_LONG,
    EngineConfig,
    Request,
    Response,
    Sampling,
    replies,
)

if TYPE_CHECKING:
    from openai import APIConnectionError, APIError, BadRequestError

    from mlalign.core.model import Model

Item = TypeVar("Item")
Result = TypeVar("Result")
POLL_S = 0.2
PATIENCE_S = 5.0  # how long a step that was asked to stop waits for a shard's last answers
# Parameters that are the client's own; all others travel in the body.
STANDARD = frozenset(
    "max_tokens max_completion_tokens temperature top_p stop seed presence_penalty"
    " frequency_penalty logit_bias response_format logprobs top_logprobs".split()
)
GO_ON = "then run the same command again; finished shards are kept"


def start(config: EngineConfig, model: "Model | None", max_model_len: int | None) -> "OpenAI":
    name = config.served_model
    if not name and model:
        name = model.path
    if not name:
        raise UserError(
            "engine.served_model: missing; give the name that the server knows the model by"
        )
    return OpenAI(config, name)


class OpenAI:
    """A client of one server, with at most `concurrency` requests under way."""

    def __init__(self, config: EngineConfig, model: str):
        import openai

        self._config = config
        self._model = model
        key = _key(config.api_key_env)
        secrecy.keep(key)
        self._client: Any = openai.OpenAI(
            base_url=config.base_url,
            api_key=key or "none",
            max_retries=config.max_retries,
            timeout=config.timeout_s,
            http_client=openai.DefaultHttpxClient(event_hooks={"response": [self._limit]}),
        )

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Response]:
        """One response per request.

        Raises: UserError if the server cannot be reached, refuses the key, the model or the
            parameters, or does not answer. Stopped if the step was asked to stop and the server
            has not answered all requests `PATIENCE_S` seconds later.
        """
        answer = functools.partial(self._answer, sampling=sampling)
        return in_threads(answer, requests, self._config.concurrency)

    def close(self) -> None:
        self._client.close()

    def _answer(self, request: Request, sampling: Sampling) -> Response:
        import openai

        known, extra = body(request, sampling, self._config.args)
        create = self._client.chat.completions.with_raw_response.create
        try:
            raw = create(model=self._model, messages=request.messages, extra_body=extra, **known)
            content = raw.http_response.content
            return replies.response(content, wants_logprobs=sampling.top_logprobs > 0)
        except openai.BadRequestError as error:
            if _too_long(error):
                return Response("", 0, PROMPT_TOO_LONG)
            raise UserError(self._refused(error)) from None
        except openai.APIStatusError as error:
            message = self._refused(error)
            if error.status_code >= 500:
                message += f"; see that the server runs, {GO_ON}"
            raise UserError(message) from None
        except openai.APIConnectionError as error:  # timeouts too
            raise UserError(self._unanswered(error)) from None
        except replies.Unusable as reason:
            raise UserError(
                f"{self._place} sends no usable answer from {self._model!r}: {reason}; see that"
                " engine.base_url is the address of a chat server (it usually ends in /v1),"
                f" {GO_ON}"
            ) from None

    def _limit(self, reply: Any) -> None:
        """Limit the time and size of a reply; the client only limits the wait for each piece."""
        reply.stream = _bounded(reply.stream, self._config.timeout_s)

    def _unanswered(self, error: "APIConnectionError") -> str:
        cause = type(error.__cause__ or error).__name__
        n_tries = self._config.max_retries + 1
        return (
            f"{self._place} does not answer ({cause}, {n_tries} tries of up to"
            f" {self._config.timeout_s:g} s): see that the server runs, {GO_ON}"
        )

    def _refused(self, error: "APIError") -> str:
        message = " ".join(replies.whole(str(error)).split())
        longest = 2 * replies.SHOWN
        if len(message) > longest:
            message = f"{message[:longest]}…"
        return f"{self._place} refuses a request for {self._model!r}: {secrecy.hidden(message)}"

    @property
    def _place(self) -> str:
        """The server's address without a user name or password in it."""
        url = urlsplit(self._config.base_url or "")
        return f"engine.base_url {url.scheme}://{url.netloc.rpartition('@')[2]}{url.path}"


def _bounded(stream: Any, seconds: float) -> Any:
    """A body's stream that fails after so many seconds, or after `replies.LARGEST` bytes."""
    import httpx2

    class Bounded(httpx2.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            until = time.monotonic() + seconds
            n_bytes = 0
            for piece in stream:
                n_bytes += len(piece)
                if n_bytes > replies.LARGEST:
                    raise replies.Unusable(f"more than {replies.LARGEST >> 20} MiB")
                if time.monotonic() > until:
                    raise httpx2.ReadTimeout("the reply took too long")
                yield piece

        def close(self) -> None:
            stream.close()

    return Bounded()


def in_threads(work: Callable[[Item], Result], items: Sequence[Item], n: int) -> list[Result]:
    """`work` on every item, at most `n` at a time; results in the order of the items.

    Once a thread has raised, this one is interrupted, or the step is asked to stop, nothing waits
    for the threads: a server may never answer.

    Raises: what `work` raised; Stopped.
    """
    futures = [Future[Result]() for _ in items]
    numbers = iter(range(len(items)))
    lock = threading.Lock()
    over = threading.Event()

    def worker() -> None:
        while not over.is_set():
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            try:
                futures[number].set_result(work(items[number]))
            except Exception as error:  # noqa: BLE001  # raised again when the result is taken
                futures[number].set_exception(error)

    for _ in range(min(n, len(items))):
        threading.Thread(target=worker, name="openai", daemon=True).start()
    try:
        return _results(futures)
    finally:
        over.set()


def _results(futures: Sequence[Future[Result]]) -> list[Result]:
    """The results of all futures; fails as soon as one of them has failed."""
    stop_asked_at: float | None = None
    pending = set(futures)
    while pending:
        done, pending = wait(pending, timeout=POLL_S, return_when=FIRST_EXCEPTION)
        for future in done:
            future.result()
        if stopping.asked.is_set():
            stop_asked_at = stop_asked_at or time.monotonic()
            if time.monotonic() - stop_asked_at > PATIENCE_S:
                raise Stopped
    return [future.result() for future in futures]


def body(
    request: Request, sampling: Sampling, args: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(parameters of the client, parameters for the rest of the body) of one request.

    `args` wins; a value of None leaves a parameter out.
    """
    values: dict[str, Any] = {
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": request.seed,
        "stop": list(sampling.stop) or None,
        "top_k": sampling.top_k if sampling.top_k > 0 else None,
        "min_p": sampling.min_p or None,
        "response_format": _response_format(sampling.json_schema),
        "logprobs": sampling.top_logprobs > 0 or None,
        "top_logprobs": sampling.top_logprobs or None,
        **sampling.extra,
        **args,
    }
    standard = {}
    extra = {}
    for name, value in values.items():
        if value is None:
            continue
        if name in STANDARD:
            standard[name] = value
        else:
            extra[name] = value
    return standard, extra


def _response_format(schema: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if schema is None:
        return None
    return {
        "type": "json_schema",
        "json_schema": {"name": "answer", "strict": True, "schema": dict(schema)},
    }


def _key(variable: str | None) -> str | None:
    if variable is None:
        return None
    if not os.environ.get(variable):
        raise UserError(f"engine.api_key_env: the environment variable {variable} is not set")
    return os.environ[variable]


def _too_long(error: "BadRequestError") -> bool:
    return error.code == "context_length_exceeded" or "maximum context length" in str(error)
