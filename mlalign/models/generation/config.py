"""What shapes the answers of a model: the settings of the stage `generate` but for operators.

Light: opens neither model nor engine.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from mlalign.core import languages
from mlalign.core.schema import verbatim, what
from mlalign.models import engine
from mlalign.models.engine import EngineConfig, chat
from mlalign.models.templates import DATE, date_problems, option_problems

SAME = "same"  # answers are asked for in the prompt's own language
OWN_SETTINGS = ("n", "seed", "max_tokens", "temperature", "top_p", "top_k", "min_p", "stop")
RESERVED = {name: f"set {name} on the step" for name in OWN_SETTINGS}


def _sampling_source(around: Mapping) -> str:
    """Where the engine's sampling parameters are defined; "" if they cannot be checked."""
    engine_settings = around.get("engine") or {}
    if engine_settings.get("name", "vllm") == "vllm":
        return "vllm.sampling_params:SamplingParams"
    return ""


@dataclasses.dataclass
class GenerationConfig:
    engine: EngineConfig = dataclasses.field(
        default_factory=EngineConfig, metadata={"doc": "what generates, and with which arguments"}
    )
    n: int = what(1, "candidates per prompt")
    temperature: float = what(1.0, "0 is greedy, and then n must be 1")
    top_p: float = what(
        1.0, "sample from the most probable tokens that add up to this; 1: from all"
    )
    top_k: int = what(0, "sample from so many of the most probable tokens; 0: from all")
    min_p: float = what(
        0.0, "leave out tokens less probable than this fraction of the most probable one"
    )
    max_tokens: int = what(512, "longest answer, in tokens")
    stop: list[str] = what([], "strings that end an answer (not part of it)")
    sampling: dict[str, Any] = verbatim(
        _sampling_source, "more sampling parameters under the engine's own names", reserved=RESERVED
    )
    split: Literal["train", "eval"] | None = what(None, "take one split only")
    system_prompt: str | None = what(
        None,
        "put before every prompt; {language} becomes the English name of the language asked for",
    )
    response_lang: str = what(SAME, "language that answers are asked for; same: the prompt's own")
    max_prompt_tokens: int | None = what(
        None,
        "longer prompts are dropped and counted; null: what the context leaves beside max_tokens",
    )
    chat_template: str | None = what(
        None,
        "a file of Jinja text, the text, or the name of one of the tokenizer's templates; null: the"
        " tokenizer's own",
    )
    chat_template_kwargs: dict[str, Any] = what(
        {}, "passed to the chat template, such as {enable_thinking: false}"
    )
    date: str = what(DATE, "what a chat template that writes the date writes")
    reasoning_tags: list[str] | None = what(
        None,
        "opening and closing tag; what stands between them goes to the column `reasoning`; null:"
        " the chat template's own; []: none",
    )
    seed: int = what(
        0, "mixed into the sampler's fingerprint, and so into every candidate's own seed"
    )


def identity(cfg: GenerationConfig) -> dict[str, Any]:
    """The text of the chat template, not its place, and the normalised language of the answers."""
    response_lang = cfg.response_lang
    if response_lang != SAME:
        response_lang = languages.normalise(response_lang)
    return {
        "chat_template": chat.read_template(cfg.chat_template),
        "response_lang": response_lang,
    }


def problems(cfg: GenerationConfig) -> list[str]:
    """What is wrong with a configuration beyond its types, as messages that begin with the key."""
    return [
        *engine.problems(cfg.engine),
        *_sampling_problems(cfg),
        *_template_problems(cfg),
    ]


def _sampling_problems(cfg: GenerationConfig) -> list[str]:
    messages = []
    for name in ("n", "max_tokens"):
        value = getattr(cfg, name)
        if value < 1:
            messages.append(f"{name}: must be at least 1, got {value}")
    if cfg.temperature < 0:
        messages.append(f"temperature: must be 0 (greedy) or more, got {cfg.temperature}")
    elif cfg.temperature == 0 and cfg.n > 1:
        messages.append(
            f"n: greedy decoding (temperature=0) gives {cfg.n} times the same answer; set n=1, or a"
            " temperature above 0"
        )
    if not 0 < cfg.top_p <= 1:
        messages.append(f"top_p: must be above 0 and at most 1, got {cfg.top_p}")
    if not 0 <= cfg.min_p <= 1:
        messages.append(f"min_p: must be from 0 to 1, got {cfg.min_p}")
    messages += engine.sampling_problems(cfg.engine.name, cfg.sampling, cfg.max_tokens)
    return messages


def _template_problems(cfg: GenerationConfig) -> list[str]:
    messages = []
    if len(cfg.reasoning_tags or ()) not in (0, 2):
        messages.append(f"reasoning_tags: expected [opening, closing], got {cfg.reasoning_tags}")
    messages += option_problems(cfg.chat_template_kwargs)
    messages += date_problems(cfg.date)
    if engine.ENGINES[cfg.engine.name].takes == "messages":
        for name in ("chat_template", "max_prompt_tokens"):
            if getattr(cfg, name) is not None:
                messages.append(
                    f"{name}: engine={cfg.engine.name} sends messages, and the server renders them;"
                    " leave this out"
                )
    return messages
