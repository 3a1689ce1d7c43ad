"""Reads a chat completion as a `Response`, and judges the oddities of servers. Pure."""

import json
import math
from collections.abc import Mapping
from typing import Any, TypeGuard

from mlalign.core import secrecy
from mlalign.models.engine import Response, trimmed

SHOWN = 200  # characters of a reply that a message quotes
LEAST = -1e9  # stands for the log-probability of a token that cannot come
LARGEST = 64 << 20  # bytes of a reply


class Unusable(Exception):
    """A reply that holds no answer; the message says why, without secrets."""


def response(body: bytes, wants_logprobs: bool = False) -> Response:
    """The first choice of a reply.

    No content (a refusal, a tool call) is an empty text. Half surrogates become U+FFFD, and our
    own secrets `***` if the server echoes them.

    Raises: Unusable if it is no chat completion, or lacks requested log-probabilities.
    """
    reply = _parsed(body)
    if reply.get("error"):
        raise Unusable(f"an error instead of an answer: {_shown(_error_text(reply['error']))}")
    choices = reply.get("choices")
    if not isinstance(choices, list) or not choices:
        raise Unusable(f"`choices` should be a list with an answer: {_shown(reply)}")
    choice = choices[0]
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(message, dict):
        raise Unusable(f"`choices[0].message` should be a mapping: {_shown(choice)}")

    text, cut = trimmed(_content(message.get("content")))
    top = _top_logprobs(choice.get("logprobs"))
    if wants_logprobs and text and top is None:
        raise Unusable(
            "no `logprobs` though they were asked for; choose a server that gives them, or a mode"
            " that reads text"
        )
    reason = choice.get("finish_reason")
    if not isinstance(reason, str):
        reason = "unknown"
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    reasoning = whole(reasoning) if isinstance(reasoning, str) else None
    return Response(text, _n_tokens(reply.get("usage")), reason, reasoning, top, cut)


def whole(text: str) -> str:
    """The text without our secrets, and with U+FFFD for half surrogates, which no file can hold."""
    joined = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return secrecy.redacted(joined)


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        reply = json.loads(body)
    except RecursionError:
        raise Unusable("JSON nested too deeply") from None
    except ValueError:
        text = body[: 4 * SHOWN].decode("utf-8", "replace").strip()
        if not text:
            raise Unusable("nothing instead of JSON") from None
        kind = "an HTML page" if text.startswith("<") else "no (whole) JSON"
        raise Unusable(f"{kind} instead of JSON: {_shown(text)}") from None
    if not isinstance(reply, dict):
        raise Unusable(f"should be a JSON object: {_shown(reply)}")
    return reply


def _error_text(error: Any) -> Any:
    if isinstance(error, Mapping):
        return error.get("message") or error
    return error


def _shown(value: Any) -> str:
    """The beginning of a reply on one line, without secrets."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    line = " ".join(secrecy.hidden(whole(text)).split())
    return line if len(line) <= SHOWN else f"{line[:SHOWN]}…"


def _content(content: Any) -> str:
    """Text, null, or a list of parts that are text."""
    if content is None:
        return ""
    if isinstance(content, str):
        return whole(content)
    parts = content if isinstance(content, list) else [content]
    texts = [part.get("text") for part in parts if isinstance(part, dict)]
    strings = [text for text in texts if isinstance(text, str)]
    if len(strings) < len(parts):
        raise Unusable(f"`choices[0].message.content` should be text: {_shown(content)}")
    return whole("".join(strings))


def _n_tokens(usage: Any) -> int | None:
    n = usage.get("completion_tokens") if isinstance(usage, dict) else None
    return n if type(n) is int and 0 <= n < 1 << 32 else None


def _top_logprobs(logprobs: Any) -> dict[str, float] | None:
    """The likeliest first tokens; None if the reply has none. What is no number is left out."""
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    first = content[0] if isinstance(content, list) and content else None
    tops = first.get("top_logprobs") if isinstance(first, dict) else None
    if not isinstance(tops, list) or not tops:
        return None
    by_token: dict[str, float] = {}
    for top in tops:
        if not isinstance(top, dict):
            continue
        token = top.get("token")
        logprob = top.get("logprob")
        if isinstance(token, str) and _is_number(logprob):
            by_token[whole(token)] = _bounded(logprob)
    return by_token or None


def _is_number(value: Any) -> TypeGuard[float]:
    if isinstance(value, float):
        return not math.isnan(value)
    return isinstance(value, int) and not isinstance(value, bool)


def _bounded(logprob: float) -> float:
    """A log-probability from LEAST to 0, which JSON and sums can hold.

    Servers write -9999 or -Infinity for tokens that cannot come, and an integer may be too large
    for a float.
    """
    return float(min(max(logprob, LEAST), 0.0))
