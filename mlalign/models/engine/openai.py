"""Any server that speaks the OpenAI chat protocol, through the `openai` client.

The server renders the messages itself.

The key comes from the environment variable that `api_key_env` names and appears in no message. What
a request leaves out (`top_k` and `min_p` at their neutral values, which OpenAI's own API refuses)
the server decides. What replies say: `replies`.
"""

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
    from openai import APIError, BadRequestError

    from mlalign.core.model import Model

Item = TypeVar("Item")
Result = TypeVar("Result")
POLL_S = 0.2
PATIENCE_S = 5.0  # a step that was asked to stop waits so long for a shard's last answers
# Parameters that are the client's own; all others travel in the body.
STANDARD = frozenset(
    "max_tokens max_completion_tokens temperature top_p stop seed presence_penalty"
    " frequency_penalty logit_bias response_format logprobs top_logprobs".split()
)
GO_ON = "then run the same command again; finished shards are kept"


def start(config: EngineConfig, model: "Model | None", max_model_len: int | None) -> "OpenAI":
    name = config.served_model or (model.path if model else None)
    if name is None:
        raise UserError(
            "engine.served_model: missing; give the name that the server knows the model by"
        )
    return OpenAI(config, name)


class OpenAI:
    """A client of one server, with at most `concurrency` requests under way."""

    def __init__(self, config: EngineConfig, model: str):
        import openai

        self._config, self._model = config, model
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
        """Raises: UserError if the server cannot be reached, refuses the key, the model or the
        parameters, or does not answer.

        Stopped if the step was asked to stop, and the server has not answered all requests a while
        later.
        """
        return in_threads(
            lambda request: self._one(request, sampling), requests, self._config.concurrency
        )

    def close(self) -> None:
        self._client.close()

    def _one(self, request: Request, sampling: Sampling) -> Response:
        import openai

        known, extra = body(request, sampling, self._config.args)
        ask = self._client.chat.completions.with_raw_response.create
        try:
            raw = ask(model=self._model, messages=request.messages, extra_body=extra, **known)
            return replies.response(
                raw.http_response.content, wants_logprobs=sampling.top_logprobs > 0
            )
        except openai.BadRequestError as error:
            if _too_long(error):
                return Response("", 0, PROMPT_TOO_LONG)
            raise UserError(self._refused(error)) from None
        except openai.APIStatusError as error:
            its_own_fault = error.status_code >= 500
            raise UserError(
                self._refused(error)
                + (f"; see that the server runs, {GO_ON}" if its_own_fault else "")
            ) from None
        except openai.APIConnectionError as error:  # timeouts too
            cause = type(error.__cause__ or error).__name__
            tries = (
                f"{cause}, {self._config.max_retries + 1} tries of up to"
                f" {self._config.timeout_s:g} s"
            )
            raise UserError(
                f"{self._place} does not answer ({tries}): see that the server runs, {GO_ON}"
            ) from None
        except replies.Unusable as reason:
            mend = (
                "see that engine.base_url is the address of a chat server (it usually ends in /v1)"
            )
            raise UserError(
                f"{self._place} sends no usable answer from {self._model!r}: {reason}; {mend},"
                f" {GO_ON}"
            ) from None

    def _limit(self, reply: Any) -> None:
        """Bound the time and the size of a reply's body; the client itself bounds only the wait for
        each piece.
        """
        reply.stream = _bounded(reply.stream, self._config.timeout_s)

    def _refused(self, error: "APIError") -> str:
        message = " ".join(replies.whole(str(error)).split())
        message = (
            message if len(message) <= 2 * replies.SHOWN else f"{message[: 2 * replies.SHOWN]}…"
        )
        return f"{self._place} refuses a request for {self._model!r}: {secrecy.hidden(message)}"

    @property
    def _place(self) -> str:
        """The server's address without a user name or password in it."""
        url = urlsplit(self._config.base_url or "")
        return f"engine.base_url {url.scheme}://{url.netloc.rpartition('@')[2]}{url.path}"


def _bounded(stream: Any, seconds: float) -> Any:
    """A body's stream that ends in an error after so many seconds, and after `replies.LARGEST`
    bytes.
    """
    import httpx2

    class Bounded(httpx2.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            until, n_bytes = time.monotonic() + seconds, 0
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

    Nothing waits for the threads once one has raised, this one was interrupted or the step was
    asked to stop: a server may never answer. Raises: what `work` raised; Stopped.
    """
    futures = [Future[Result]() for _ in items]
    numbers, lock, over = iter(range(len(items))), threading.Lock(), threading.Event()

    def worker() -> None:
        while not over.is_set():
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            try:
                futures[number].set_result(work(items[number]))
            except Exception as error:  # noqa: BLE001  # raised again by whoever takes the result
                futures[number].set_exception(error)

    for _ in range(min(n, len(items))):
        threading.Thread(target=worker, name="openai", daemon=True).start()
    try:
        return _results(futures)
    finally:
        over.set()


def _results(futures: Sequence[Future[Result]]) -> list[Result]:
    """What all futures hold, as soon as they do or one has failed."""
    asked_at: float | None = None
    pending = set(futures)
    while pending:
        done, pending = wait(pending, timeout=POLL_S, return_when=FIRST_EXCEPTION)
        for future in done:
            future.result()
        if stopping.asked.is_set():
            asked_at = asked_at or time.monotonic()
            if time.monotonic() - asked_at > PATIENCE_S:
                raise Stopped
    return [future.result() for future in futures]


def body(
    request: Request, sampling: Sampling, args: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The parameters of one request: those of the client, and those for the rest of the body.

    `args` wins; null leaves out.
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
    values = {k: v for k, v in values.items() if v is not None}
    return {k: v for k, v in values.items() if k in STANDARD}, {
        k: v for k, v in values.items() if k not in STANDARD
    }


def _response_format(schema: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return (
        None
        if schema is None
        else {
            "type": "json_schema",
            "json_schema": {"name": "answer", "strict": True, "schema": dict(schema)},
        }
    )


def _key(variable: str | None) -> str | None:
    if variable is None:
        return None
    if not os.environ.get(variable):
        raise UserError(f"engine.api_key_env: the environment variable {variable} is not set")
    return os.environ[variable]


def _too_long(error: "BadRequestError") -> bool:
    return error.code == "context_length_exceeded" or "maximum context length" in str(error)
