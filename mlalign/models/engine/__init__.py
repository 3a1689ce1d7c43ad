"""Engines generate text: `vllm`, `transformers`, or `openai` (any OpenAI-compatible server).

Light: an engine's package is imported only when the engine is opened. The configuration says which
engine runs; a missing package is an error that names it, never a change of engine.
"""

import dataclasses
import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol
from urllib.parse import urlsplit

from mlalign.core import secrecy
from mlalign.core.errors import UserError
from mlalign.core.schema import HOW_ENGINE, arguments_for, build, how, verbatim, what

if TYPE_CHECKING:
    from mlalign.core.model import Model

# The finish reason of a request whose prompt does not fit the engine's context.
PROMPT_TOO_LONG = "prompt_too_long"
CUT = "\ufffd"  # what decoders write for bytes that are no whole character


class Traits(NamedTuple):
    """What callers may know of an engine without opening it.

    `seed_guarantee`: a request's text depends on its own seed and prompt alone (in fp32), not on
    its batch.
    """

    module: str
    package: str
    install: str
    takes: Literal["tokens", "messages"]
    seed_guarantee: bool


ENGINES = {
    "vllm": Traits(
        "mlalign.models.engine.vllm",
        "vllm",
        "pip install vllm (GPU), `make install` (CPU)",
        "tokens",
        True,
    ),
    "transformers": Traits(
        "mlalign.models.engine.transformers",
        "transformers",
        "pip install transformers",
        "tokens",
        False,
    ),
    "openai": Traits(
        "mlalign.models.engine.openai", "openai", "pip install openai", "messages", False
    ),
}
RESERVED = {
    "model": "the model is an input of the step",
    "tokenizer": "the tokenizer is the model's own",
    "revision": "give the revision with the model",
    "dtype": "set engine.dtype",
    "seed": "set seed on the step; every candidate gets its own",
    "trust_remote_code": "code from a model's repository is never run",
    "use_safetensors": "weights are read from safetensors alone",
}


def _arguments_of(config: Mapping) -> str:
    """Where the argument names of the configured engine are declared; empty if nowhere."""
    if config.get("name", "vllm") == "vllm":
        return "vllm.engine.arg_utils:EngineArgs"
    return ""


@dataclasses.dataclass
class EngineConfig:
    name: Literal["vllm", "transformers", "openai"] = what(
        "vllm", "which engine; a missing package is an error"
    )
    args: dict[str, Any] = verbatim(
        _arguments_of,
        "passed through: to vllm.LLM, to from_pretrained (transformers), or into each request's"
        " body (openai; null leaves a key out)",
        how_keys=HOW_ENGINE,
        reserved=RESERVED,
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = what(
        "auto", "auto: the checkpoint's on a GPU, float32 on the CPU"
    )
    batch_tokens: int = what(
        16384, "transformers: prompt and answer tokens per batch; sampled text depends on it"
    )
    served_model: str | None = what(
        None, "openai: the name that the server knows the model by; null: the model's path"
    )
    base_url: str | None = how(
        None, "openai: the server's address, such as http://localhost:8000/v1"
    )
    api_key_env: str | None = how(
        None,
        "openai: name of the environment variable that holds the key; null: the server wants none",
    )
    concurrency: int = how(64, "openai: requests under way at once")
    timeout_s: float = how(600.0, "openai: seconds to wait for one answer")
    max_retries: int = how(
        5,
        "openai: tries again after 429, 5xx, timeouts and lost connections, waiting longer each"
        " time",
    )


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """One answer to generate; the engine `takes` either `prompt_token_ids` or `messages`."""

    id: str
    seed: int
    prompt_token_ids: list[int] | None = None
    messages: list[dict] | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Response:
    """An answer.

    `n_tokens` counts the end token too; None if a server does not say. `reasoning` is what a server
    split off itself. `cut_character`: the text ended within a character, which was trimmed.
    `top_logprobs` (openai only, if `Sampling.top_logprobs` asks for them): the likeliest first
    tokens as text, with their log-probabilities.
    """

    text: str
    n_tokens: int | None
    finish_reason: str
    reasoning: str | None = None
    top_logprobs: Mapping[str, float] | None = None
    cut_character: bool = False


def trimmed(text: str) -> tuple[str, bool]:
    """(the text without a character that was cut at its end, whether there was one).

    Decoders write U+FFFD if the tokens end within a character.
    """
    whole = text.rstrip(CUT)
    return whole, len(whole) < len(text)


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Sampling parameters under vLLM's names.

    `temperature` 0 is greedy. `extra` goes to the engine unchanged. `end_tokens` end an answer like
    the model's own end tokens, and are no part of the text (only engines that take tokens).
    With `json_schema` the text is JSON of that schema, unless `max_tokens` cuts it off or a server
    does not obey.
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    stop: Sequence[str] = ()
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    json_schema: Mapping[str, Any] | None = None
    top_logprobs: int = 0
    end_tokens: Sequence[int] = ()


class Engine(Protocol):
    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Response]:
        """One response per request, in the order of the requests."""

    def close(self) -> None:
        """Give back memory, processes and connections."""


class TokenEngine(Engine, Protocol):
    """What engines that take tokens do besides."""

    def next_logprobs(
        self, requests: Sequence[Request], tokens: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        """The log-probability of each of a request's `tokens` as its next token.

        It is the model's own, at temperature 1 and with nothing masked.
        """


def configured(values: Mapping, key: str = "engine") -> EngineConfig:
    """An engine's configuration from a plain mapping.

    Raises: UserError with every mistake, each naming the full key.
    """
    errors: list[str] = []
    config = build(EngineConfig, values, key, errors)
    if config:
        errors += [message.replace("engine.", f"{key}.", 1) for message in problems(config)]
    if errors:
        raise UserError(*errors)
    return config


def missing(name: str, find: Callable[[str], Any] = importlib.util.find_spec) -> str | None:
    """Which package the engine lacks and how to get it, as a message; None if it is there.

    Imports nothing.
    """
    traits = ENGINES[name]
    if find(traits.package) is not None:
        return None
    return (
        f"engine={name} needs the package {traits.package!r}, which is not installed:"
        f" {traits.install}, or choose another engine"
    )


def problems(config: EngineConfig) -> list[str]:
    """What is wrong with a configuration beyond its types, as messages that begin with the key."""
    errors = _address_problems(config.base_url) if config.name == "openai" else []
    if config.api_key_env is not None and not config.api_key_env.isidentifier():
        errors.append(
            "engine.api_key_env: not the name of an environment variable (the key itself stays out"
            " of configurations)"
        )
    for name in ("batch_tokens", "concurrency", "timeout_s"):
        value = getattr(config, name)
        if value <= 0:
            errors.append(f"engine.{name}: must be above 0, got {value}")
    return errors


def _address_problems(base_url: str | None) -> list[str]:
    if not base_url:
        return [
            "engine.base_url: missing; give the server's address, such as http://localhost:8000/v1"
        ]
    if "${" in base_url or _is_address(base_url):
        return []
    return [
        "engine.base_url: expected an address such as http://localhost:8000/v1, got"
        f" {secrecy.hidden(base_url)!r}"
    ]


# Sampling parameters of vLLM that are objects, which a person writes as a mapping.
NESTED = {
    "structured_outputs": "vllm.sampling_params:StructuredOutputsParams",
    "repetition_detection": "vllm.sampling_params:RepetitionDetectionParams",
}
CONSTRAINTS = ("json", "regex", "choice", "grammar", "json_object", "structural_tag")


def sampling_problems(name: str, extra: Mapping[str, Any], max_tokens: int) -> list[str]:
    """Sampling parameters that the engine would refuse, as messages that begin with the key."""
    if name != "vllm":
        return []
    errors: list[str] = []
    for key in NESTED.keys() & extra.keys():
        value = extra[key]
        if isinstance(value, Mapping):
            arguments_for(NESTED[key], value, f"sampling.{key}", errors)
        elif value is not None:
            errors.append(f"sampling.{key}: expected a mapping, got {value!r}")

    structured = extra.get("structured_outputs")
    if isinstance(structured, Mapping):
        constraints = [name for name in CONSTRAINTS if structured.get(name) is not None]
        if len(constraints) != 1:
            names = ", ".join(CONSTRAINTS)
            errors.append(f"sampling.structured_outputs: give exactly one of {names}")
    if extra.get("allowed_token_ids") == []:
        errors.append(
            "sampling.allowed_token_ids: an empty list allows no token; leave it out to allow all"
        )
    if (extra.get("min_tokens") or 0) > max_tokens:
        errors.append(
            f"sampling.min_tokens: {extra['min_tokens']} is more than max_tokens={max_tokens}"
        )
    return errors


def _is_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:  # brackets, ports that are no numbers
        return False
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return False
    return port is None or port > 0


def open_engine(
    config: EngineConfig, model: "Model | None", max_model_len: int | None = None
) -> Engine:
    """Start the configured engine on a model (an adapter brings its base along).

    `max_model_len` bounds prompt and answer together, in tokens; None is the model's own. Only
    `openai` does without `model`.

    Raises: UserError if the engine's package is missing, or the engine refuses the model or its
        arguments.
    """
    problem = missing(config.name)
    if problem:
        raise UserError(problem)
    config = dataclasses.replace(
        config,
        base_url=secrecy.resolve(config.base_url, "engine.base_url"),
        args=secrecy.resolve(config.args, "engine.args"),
    )
    errors = problems(config)
    if errors:
        raise UserError(*errors)
    secrecy.keep(*secrecy.in_address(config.base_url or ""))
    return importlib.import_module(ENGINES[config.name].module).start(config, model, max_model_len)
