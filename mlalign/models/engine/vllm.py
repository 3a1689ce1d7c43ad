"""vLLM in this process: prompts as token ids, one seed per request, LoRA adapters unmerged.

On the CPU, the defaults below apply unless the configuration or the environment says otherwise.
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
        environment = {"VLLM_NO_USAGE_STATS": "1"}
        if on_cpu:
            environment |= CPU_ENVIRONMENT
        for name, value in environment.items():
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
        sampling_params = parameters(requests, sampling)
        place = f"vLLM fails on {self._path}; sampling, engine.args"
        with refusals(keys("sampling", sampling.extra), place, kinds=_errors()):
            outputs = self._run(requests, sampling_params)
        return [self._response(output.outputs[0]) for output in outputs]

    def _run(self, requests: Sequence[Request], sampling_params: Sequence[Any]) -> list[Any]:
        prompts = [{"prompt_token_ids": request.prompt_token_ids} for request in requests]
        return self._llm.generate(prompts, sampling_params, use_tqdm=False, lora_request=self._lora)

    def _response(self, answer: Any) -> Response:
        text, cut = trimmed(answer.text)
        # Unless a stop string ended the text, vLLM leaves out a character that is not whole.
        if not isinstance(answer.stop_reason, str):
            last = list(answer.token_ids)[-LAST_TOKENS:]
            cut = cut or self._tokenizer.decode(last, skip_special_tokens=True).endswith(CUT)
        return Response(text, len(answer.token_ids), answer.finish_reason, cut_character=cut)

    def next_logprobs(
        self, requests: Sequence[Request], tokens: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        from vllm import SamplingParams

        sampling_params = [
            SamplingParams(max_tokens=1, temperature=0.0, logprob_token_ids=list(row))
            for row in tokens
        ]
        logprobs = []
        for output, row in zip(self._run(requests, sampling_params), tokens, strict=True):
            by_token = output.outputs[0].logprobs[0]
            logprobs.append([by_token[token].logprob for token in row])
        return logprobs

    def close(self) -> None:
        self._llm.llm_engine.engine_core.shutdown()
        del self._llm


def _check(model: "Model") -> None:
    """Raises: UserError if vLLM would serve another model than the files describe."""
    base = model.base or model
    base_path = model.base.path if model.base else None
    outline = opening.check_served(model.path, base_path, base.revision)

    source = tokenizer_source(model)
    tokenizer = opening.tokenizer(source.path, source.revision)
    opening.check_tokens(tokenizer, outline.n_rows, source.path, padding_is_read=False)


def arguments(
    config: EngineConfig, model: "Model", max_model_len: int | None, on_cpu: bool
) -> dict[str, Any]:
    """The arguments of `vllm.LLM`; `config.args` wins over what follows from model and device."""
    base = model.base or model
    tokenizer = tokenizer_source(model)
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
    """One SamplingParams per request.

    vLLM's own `n` would give sample i the seed `seed + i`, which neighbouring requests share.

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
        for name in NESTED:
            if isinstance(common.get(name), Mapping):
                common[name] = _build_nested(name, common[name])
        sampling_params = []
        for request in requests:
            seed = None if greedy else request.seed
            sampling_params.append(SamplingParams(**common, seed=seed))
    return sampling_params


def _build_nested(name: str, values: Mapping[str, Any]) -> Any:
    """One of vLLM's own parameter objects from a mapping."""
    module, _, kind = NESTED[name].partition(":")
    return getattr(importlib.import_module(module), kind)(**values)


def _errors() -> tuple[type[Exception], ...]:
    """What vLLM raises for models and arguments that it cannot work with.

    RuntimeError also comes from its kernels and its engine process.
    """
    from vllm.exceptions import VLLMError

    return (VLLMError, RuntimeError, *REFUSALS)


def _structured(schema: Mapping[str, Any] | None) -> Any:
    """A JSON schema as a grammar.

    Given the schema itself, vLLM 0.32 allows endless white space, whatever the request says.
    """
    if schema is None:
        return None
    import xgrammar
    from vllm.sampling_params import StructuredOutputsParams

    grammar = xgrammar.Grammar.from_json_schema(json.dumps(schema), any_whitespace=False)
    return StructuredOutputsParams(grammar=str(grammar))
