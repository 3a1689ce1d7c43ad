"""The backend `vllm`: token sequences through a classifier in vLLM's pooling runner, raw logits (no activation).

vLLM never pads. Where it finds that the model allows prefix caching, beginnings that sequences share are read once, in whole
blocks: sequences come in ascending order, so those that share one stand together. An adapter is merged into its base first.
"""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlalign.core.errors import UserError
from mlalign.models.engine import missing
from mlalign.models.engine.vllm import CPU_ENVIRONMENT
from reward_models.networks.prefix import Ids

# A CPU's default blocks of 128 tokens share less of a beginning.
CPU_ARGUMENTS = {"enforce_eager": True, "block_size": 32}
CPU_TOKENS = 1024  # read at once: more overflow a CPU's caches (a fourth slower with the default of 4,096)
UNBOUNDED = 10**9  # what tokenizers say that know no limit is larger


def problems() -> list[str]:
    """Whether the backend can run here at all, as messages; imports nothing heavy."""
    message = missing("vllm")
    return [message.replace("engine=vllm", "backend: vllm").replace("another engine", "backend: transformers")] if message else []


class Pooling:
    """One `vllm.LLM` as a function from token sequences to rows of outputs."""

    def __init__(self, path: str, revision: str | None, tokenizer: str, max_length: int, in_parts: bool, told: dict[str, Any]):
        """`in_parts`: a sequence may be read piece by piece. `told`: further arguments of `vllm.LLM`, `dtype` among them.

        Raises: UserError with vLLM's reason for not starting.
        """
        import torch

        on_cpu = torch.cuda.device_count() == 0
        for name, value in ({"VLLM_NO_USAGE_STATS": "1"} | (_cpu_environment() if on_cpu else {})).items():
            os.environ.setdefault(name, value)
        from vllm import LLM, PoolingParams
        from vllm.exceptions import VLLMError

        arguments: dict[str, Any] = {"model": path, "revision": revision, "tokenizer": tokenizer, "runner": "pooling"}
        if max_length <= UNBOUNDED:
            arguments["max_model_len"] = max_length
        if on_cpu:
            arguments |= CPU_ARGUMENTS | {"max_num_batched_tokens": CPU_TOKENS if in_parts else max(CPU_TOKENS, max_length)}
        try:
            self._llm: Any = LLM(**arguments | told)
        except (VLLMError, ValueError, RuntimeError) as error:
            raise UserError(f"vLLM does not start on {path}: {error}; change backend_args, or choose backend: transformers") from error
        self._parameters = PoolingParams(use_activation=False)

    def __call__(self, sequences: Sequence[Ids]) -> list[list[float]]:
        """The outputs of each sequence."""
        prompts = [{"prompt_token_ids": list(ids)} for ids in sequences]
        outputs = self._llm.classify(prompts, pooling_params=self._parameters, use_tqdm=False) if prompts else []
        return [o.outputs.probs for o in outputs]

    def close(self) -> None:
        self._llm.llm_engine.engine_core.shutdown()
        del self._llm


def of_network(model: Any, *arguments: Any) -> Pooling:
    """The backend on a network that is in memory (an adapter merged into its base), by way of a temporary directory."""
    with tempfile.TemporaryDirectory(prefix="merged-") as folder:
        model.save_pretrained(folder)
        return Pooling(str(Path(folder)), None, *arguments)


def _cpu_environment() -> dict[str, str]:
    """Of a CPU, which vLLM would otherwise take whole, threads of this process included."""
    return CPU_ENVIRONMENT | ({"VLLM_CPU_OMP_THREADS_BIND": "nobind"} if "OMP_NUM_THREADS" in os.environ else {})
