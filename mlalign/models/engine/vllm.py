"""vLLM in this process: prompts as token ids, one seed per request, LoRA adapters unmerged.

On the CPU the settings below hold wherever the configuration or the environment says nothing else.
"""

import importlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlalign.core import adapters
from mlalign.core.refusals import REFUSALS, keys, refusals
from mlalign.models import opening
from mlalign.models.engine import CUT, NESTED, EngineConfig, Request, Response, Sampling, trimmed
from mlalign.models.engine.chat import tokenizer_source

if TYPE_CHECKING:
    from mlalign.core.model import Model

CPU_ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
}
# With chunked prefill, vLLM 0.32 on the CPU fails on requests that carry a seed.
CPU_ARGUMENTS = {"enforce_eager": True, "enable_chunked_prefill": False}
LAST_TOKENS = 5  # the bytes of the longest character, and an end token


def start(config: EngineConfig, model: "Model", max_model_len: int | None) -> "VLLM":
    return VLLM(config, model, max_model_len)


class VLLM:
    """One `vllm.LLM`; `start` it once for all prompts."""

    def __init__(self, config: EngineConfig, model: "Model", max_model_len: int | None):
        import torch

        _check(model)
        on_cpu = torch.cuda.device_count() == 0
        for name, value in (
            {"VLLM_NO_USAGE_STATS": "1"} | (CPU_ENVIRONMENT if on_cpu else {})
        ).items():
            os.environ.setdefault(name, value)
        from vllm import LLM
        from vllm.lora.request import LoRARequest

        with refusals(
            keys("engine.args", config.args),
            f"vLLM does not start on {model.path}; engine.args",
            kinds=_errors(),
        ):
            self._llm: Any = LLM(**arguments(config, model, max_model_len, on_cpu))
        self._path = model.path
        self._tokenizer: Any = self._llm.get_tokenizer()
        self._lora = LoRARequest("adapter", 1, model.path) if model.base else None

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Response]:
        prompts = [{"prompt_token_ids": r.prompt_token_ids} for r in requests]
        wanted = parameters(requests, sampling)
        given = keys("sampling", sampling.extra)
        with refusals(given, f"vLLM fails on {self._path}; sampling, engine.args", kinds=_errors()):
            outputs = self._llm.generate(prompts, wanted, use_tqdm=False, lora_request=self._lora)
        return [self._response(output.outputs[0]) for output in outputs]

    def _response(self, answer: Any) -> Response:
        text, cut = trimmed(answer.text)
        if not isinstance(
            answer.stop_reason, str
        ):  # vLLM itself leaves out a character that is not whole
            last = list(answer.token_ids)[-LAST_TOKENS:]
            cut = cut or self._tokenizer.decode(last, skip_special_tokens=True).endswith(CUT)
        return Response(text, len(answer.token_ids), answer.finish_reason, cut_character=cut)

    def next_logprobs(
        self, requests: Sequence[Request], tokens: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        from vllm import SamplingParams

        prompts = [{"prompt_token_ids": r.prompt_token_ids} for r in requests]
        wanted = [
            SamplingParams(max_tokens=1, temperature=0.0, logprob_token_ids=list(t)) for t in tokens
        ]
        outputs = self._llm.generate(prompts, wanted, use_tqdm=False, lora_request=self._lora)
        return [
            [o.outputs[0].logprobs[0][t].logprob for t in asked]
            for o, asked in zip(outputs, tokens, strict=True)
        ]

    def close(self) -> None:
        self._llm.llm_engine.engine_core.shutdown()
        del self._llm


def _check(model: "Model") -> None:
    """Look at the files that vLLM will open.

    Raises: UserError where it would serve another model than they say.
    """
    base, source = model.base or model, tokenizer_source(model)
    seen = opening.check_served(model.path, base.path if model.base else None, base.revision)
    opening.check_tokens(
        opening.tokenizer(source.path, source.revision),
        seen.n_rows,
        source.path,
        padding_is_read=False,
    )


def arguments(
    config: EngineConfig, model: "Model", max_model_len: int | None, on_cpu: bool
) -> dict[str, Any]:
    """The arguments of `vllm.LLM`: what `config.args` says wins over what follows from the model
    and the device.
    """
    base, tokenizer = model.base or model, tokenizer_source(model)
    derived: dict[str, Any] = {
        "model": base.path,
        "revision": base.revision,
        "tokenizer": tokenizer.path,
        "tokenizer_revision": tokenizer.revision,
        "dtype": "float32" if on_cpu and config.dtype == "auto" else config.dtype,
        "enable_prefix_caching": True,
        "trust_remote_code": False,
    }
    if max_model_len is not None:
        derived["max_model_len"] = max_model_len
    if on_cpu:
        derived |= CPU_ARGUMENTS
    if model.base:
        derived |= {"enable_lora": True, "max_lora_rank": adapters.served_rank(Path(model.path))}
    return derived | config.args


def parameters(requests: Sequence[Request], sampling: Sampling) -> list[Any]:
    """One SamplingParams per request: vLLM's own `n` would give sample i the seed `seed + i`, which
    neighbours share.

    Raises: UserError for values that vLLM refuses.
    """
    from vllm import SamplingParams

    common = {
        "n": 1,
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "stop": list(sampling.stop),
        "structured_outputs": _structured(sampling.json_schema),
        **sampling.extra,
    }
    if sampling.end_tokens:
        common["stop_token_ids"] = [*(common.get("stop_token_ids") or ()), *sampling.end_tokens]
    greedy = sampling.temperature == 0
    with refusals(keys("sampling", sampling.extra), "sampling", kinds=_errors()):
        common |= {
            name: _opened(name, common[name])
            for name in NESTED
            if isinstance(common.get(name), Mapping)
        }
        return [SamplingParams(**common, seed=None if greedy else r.seed) for r in requests]


def _opened(name: str, value: Mapping[str, Any]) -> Any:
    """One of vLLM's own objects from a mapping."""
    module, _, kind = NESTED[name].partition(":")
    return getattr(importlib.import_module(module), kind)(**value)


def _errors() -> tuple[type[Exception], ...]:
    """What vLLM raises for models and arguments that it cannot work with.

    RuntimeError also comes from its kernels and its engine process.
    """
    from vllm.exceptions import VLLMError

    return (VLLMError, RuntimeError, *REFUSALS)


def _structured(schema: Mapping[str, Any] | None) -> Any:
    """JSON of a schema as a grammar: given the schema itself, vLLM 0.32 lets white space go on for
    ever, whatever the request says.
    """
    if schema is None:
        return None
    import xgrammar
    from vllm.sampling_params import StructuredOutputsParams

    return StructuredOutputsParams(
        grammar=str(xgrammar.Grammar.from_json_schema(json.dumps(schema), any_whitespace=False))
    )
