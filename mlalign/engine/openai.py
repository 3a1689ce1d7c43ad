"""Any server that speaks the OpenAI chat protocol, through the `openai` client. The server renders the messages itself.

The key comes from the environment variable that `api_key_env` names and appears in no message. What a request leaves out
(`top_k` and `min_p` at their neutral values, which OpenAI's own API refuses) the server decides.
"""

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from mlalign import stopping
from mlalign.engine import PROMPT_TOO_LONG, EngineConfig, Request, Response, Sampling, trimmed
from mlalign.errors import UserError
from mlalign.stopping import Stopped

if TYPE_CHECKING:
    from openai import APIError, BadRequestError

    from mlalign.engine.models import Model

Item, Result = TypeVar("Item"), TypeVar("Result")
POLL_S = 0.2
PATIENCE_S = 5.0  # a step that was asked to stop waits so long for a shard's last answers
# Parameters that are the client's own; all others travel in the body.
STANDARD = frozenset(
    "max_tokens max_completion_tokens temperature top_p stop seed presence_penalty frequency_penalty logit_bias response_format logprobs "
    "top_logprobs".split()
)


def start(config: EngineConfig, model: "Model | None", max_model_len: int | None) -> "OpenAI":
    name = config.served_model or (model.path if model else None)
    if name is None:
        raise UserError("engine.served_model: missing; give the name that the server knows the model by")
    return OpenAI(config, name)


class OpenAI:
    """A client of one server, with at most `concurrency` requests under way."""

    def __init__(self, config: EngineConfig, model: str):
        import openai

        self._config, self._model = config, model
        self._key = _key(config.api_key_env)
        self._client: Any = openai.OpenAI(
            base_url=config.base_url, api_key=self._key or "none", timeout=config.timeout_s, max_retries=config.max_retries,
        )  # fmt: skip

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Response]:
        """Raises: UserError if the server cannot be reached, or refuses the key, the model or the parameters.

        Stopped if the step was asked to stop, and the server has not answered all requests a while later.
        """
        return in_threads(lambda request: self._one(request, sampling), requests, self._config.concurrency)

    def close(self) -> None:
        self._client.close()

    def _one(self, request: Request, sampling: Sampling) -> Response:
        import openai

        known, extra = body(request, sampling, self._config.args)
        try:
            answer = self._client.chat.completions.create(model=self._model, messages=request.messages, extra_body=extra, **known)
        except openai.BadRequestError as error:
            if _too_long(error):
                return Response("", 0, PROMPT_TOO_LONG)
            raise UserError(self._refused(error)) from None
        except openai.APIStatusError as error:
            raise UserError(self._refused(error)) from None
        except openai.APIConnectionError as error:  # timeouts too
            raise UserError(
                f"{self._place} does not answer ({type(error).__name__}, {self._config.max_retries + 1} tries): see that the server runs, "
                f"then run the same command again; finished shards are kept"
            ) from None
        return _response(answer)

    def _refused(self, error: "APIError") -> str:
        message = str(error).replace(self._key, "***") if self._key else str(error)
        return f"{self._place} refuses a request for {self._model!r}: {message}"

    @property
    def _place(self) -> str:
        """The server's address without a user name or password in it."""
        url = urlsplit(self._config.base_url or "")
        return f"{url.scheme}://{url.netloc.rpartition('@')[2]}{url.path}"


def in_threads(work: Callable[[Item], Result], items: Sequence[Item], n: int) -> list[Result]:
    """`work` on every item, at most `n` at a time; results in the order of the items.

    Nothing waits for the threads once one has raised, this one was interrupted or the step was asked to stop: a server may never
    answer. Raises: what `work` raised; Stopped.
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


def body(request: Request, sampling: Sampling, args: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The parameters of one request: those of the client, and those for the rest of the body. `args` wins; null leaves out."""
    values: dict[str, Any] = {
        "max_tokens": sampling.max_tokens, "temperature": sampling.temperature, "top_p": sampling.top_p, "seed": request.seed,
        "stop": list(sampling.stop) or None, "top_k": sampling.top_k if sampling.top_k > 0 else None, "min_p": sampling.min_p or None,
        "response_format": _response_format(sampling.json_schema), "logprobs": sampling.top_logprobs > 0 or None,
        "top_logprobs": sampling.top_logprobs or None, **sampling.extra, **args,
    }  # fmt: skip
    values = {k: v for k, v in values.items() if v is not None}
    return {k: v for k, v in values.items() if k in STANDARD}, {k: v for k, v in values.items() if k not in STANDARD}


def _response_format(schema: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if schema is None else {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": dict(schema)}}


def _key(variable: str | None) -> str | None:
    if variable is None:
        return None
    if not os.environ.get(variable):
        raise UserError(f"engine.api_key_env: the environment variable {variable} is not set")
    return os.environ[variable]


def _too_long(error: "BadRequestError") -> bool:
    return error.code == "context_length_exceeded" or "maximum context length" in str(error)


def _response(answer: Any) -> Response:
    choice = answer.choices[0]
    more = choice.message.model_extra or {}
    n_tokens = answer.usage.completion_tokens if answer.usage else None
    reasoning = more.get("reasoning_content") or more.get("reasoning")
    text, cut = trimmed(choice.message.content or "")
    return Response(text, n_tokens, choice.finish_reason, reasoning, _top_logprobs(choice), cut)


def _top_logprobs(choice: Any) -> dict[str, float] | None:
    if not (choice.logprobs and choice.logprobs.content):
        return None
    return {top.token: top.logprob for top in choice.logprobs.content[0].top_logprobs}
