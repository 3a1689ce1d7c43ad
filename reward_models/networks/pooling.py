"""The backend `vllm`: token sequences through a classifier in vLLM's pooling runner.

Gives raw logits (no activation). vLLM never pads. Where it finds that the model allows prefix
caching, beginnings that sequences share are read once, in whole blocks: sequences come in ascending
order, so those that share one are neighbours. An adapter is merged into its base first.
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
CPU_TOKENS = 1024  # at once: more overflow a CPU's caches (a fourth slower with 4,096, the default)
UNBOUNDED = 10**9  # tokenizers without a limit state a larger number


def problems() -> list[str]:
    """Why the backend cannot run here, as messages; imports nothing heavy."""
    message = missing("vllm")
    if not message:
        return []
    message = message.replace("engine=vllm", "backend: vllm")
    return [message.replace("another engine", "backend: transformers")]


class Pooling:
    """One `vllm.LLM` as a function from token sequences to rows of outputs."""

    def __init__(
        self,
        path: str,
        revision: str | None,
        tokenizer: str,
        max_length: int,
        in_parts: bool,
        llm_arguments: dict[str, Any],
    ):
        """`in_parts`: whether a sequence may be read piece by piece.

        `llm_arguments`: further arguments of `vllm.LLM`, `dtype` among them.
        Raises: UserError with vLLM's reason for not starting.
        """
        import torch

        on_cpu = torch.cuda.device_count() == 0
        environment = {"VLLM_NO_USAGE_STATS": "1"}
        if on_cpu:
            environment |= _cpu_environment()
        for name, value in environment.items():
            os.environ.setdefault(name, value)
        from vllm import LLM, PoolingParams
        from vllm.exceptions import VLLMError

        arguments: dict[str, Any] = {
            "model": path,
            "revision": revision,
            "tokenizer": tokenizer,
            "runner": "pooling",
        }
        if max_length <= UNBOUNDED:
            arguments["max_model_len"] = max_length
        if on_cpu:
            arguments |= CPU_ARGUMENTS
            tokens = CPU_TOKENS if in_parts else max(CPU_TOKENS, max_length)
            arguments["max_num_batched_tokens"] = tokens
        try:
            self._llm: Any = LLM(**arguments | llm_arguments)
        except (VLLMError, ValueError, RuntimeError) as error:
            mend = "change backend_args, or choose backend: transformers"
            raise UserError(f"vLLM does not start on {path}: {error}; {mend}") from error
        self._parameters = PoolingParams(use_activation=False)

    def __call__(self, sequences: Sequence[Ids]) -> list[list[float]]:
        """The outputs of each sequence."""
        if not sequences:
            return []
        prompts = [{"prompt_token_ids": list(ids)} for ids in sequences]
        outputs = self._llm.classify(prompts, pooling_params=self._parameters, use_tqdm=False)
        return [output.outputs.probs for output in outputs]

    def close(self) -> None:
        self._llm.llm_engine.engine_core.shutdown()
        del self._llm


def of_network(model: Any, *arguments: Any) -> Pooling:
    """The backend on a network in memory, such as an adapter merged into its base.

    It gets to vLLM through a temporary directory.
    """
    with tempfile.TemporaryDirectory(prefix="merged-") as folder:
        model.save_pretrained(folder)
        return Pooling(str(Path(folder)), None, *arguments)


def _cpu_environment() -> dict[str, str]:
    """Settings of a CPU, which vLLM would otherwise take whole, with this process's threads."""
    if "OMP_NUM_THREADS" not in os.environ:
        return dict(CPU_ENVIRONMENT)
    return CPU_ENVIRONMENT | {"VLLM_CPU_OMP_THREADS_BIND": "nobind"}
