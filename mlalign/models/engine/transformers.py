"""`generate` of transformers, in batches ordered by length and padded on the left; adapters through
peft.

A batch draws from one generator, seeded by its first request: the same shard gives the same text
again, but a row's text depends on its neighbours. There is no guarantee per row.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mlalign.core.errors import UserError, nearest
from mlalign.core.refusals import keys, refusals
from mlalign.models import opening
from mlalign.models.engine import EngineConfig, Request, Response, Sampling, trimmed
from mlalign.models.engine.chat import tokenizer_source

if TYPE_CHECKING:
    from mlalign.core.model import Model


def start(config: EngineConfig, model: "Model", max_model_len: int | None) -> "Transformers":
    return Transformers(config, model)


class Transformers:
    """One causal language model on the first GPU, or on the CPU where there is none."""

    def __init__(self, config: EngineConfig, model: "Model"):
        import torch
        from transformers import GenerationConfig

        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = "float32" if config.dtype == "auto" and self._device == "cpu" else config.dtype
        base, source = model.base or model, tokenizer_source(model)
        network, _ = opening.network(
            base.path, "causal", base.revision, options={"dtype": dtype, **config.args}
        )
        ends = network.generation_config.eos_token_id
        if model.base:
            network = _with_adapter(network, model.path, base.path)
        self._model = network.to(self._device).eval()
        self._tokenizer: Any = opening.tokenizer(source.path, source.revision)
        opening.check_tokens(
            self._tokenizer, network.get_input_embeddings().weight.shape[0], source.path
        )
        ends = ends if ends is not None else self._tokenizer.eos_token_id
        self._ends = list(ends) if isinstance(ends, list | tuple) else [ends]
        self._pad = (
            self._tokenizer.pad_token_id
            if self._tokenizer.pad_token_id is not None
            else self._ends[0]
        )
        # Sampling defaults that a checkpoint brings along are not ours: only its end tokens are.
        self._model.generation_config = GenerationConfig(
            eos_token_id=self._ends, pad_token_id=self._pad
        )
        self._batch_tokens = config.batch_tokens

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Response]:
        responses: dict[int, Response] = {}
        options, grammar = self._options(sampling), self._grammar(sampling.json_schema)
        for batch in batches(
            [len(r.prompt_token_ids or ()) for r in requests],
            sampling.max_tokens,
            self._batch_tokens,
        ):
            answers = self._batch([requests[i] for i in batch], options | _only(grammar))
            responses.update(
                zip(batch, (self._response(a, sampling) for a in answers), strict=True)
            )
        return [responses[i] for i in range(len(requests))]

    def next_logprobs(
        self, requests: Sequence[Request], tokens: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        found: dict[int, list[float]] = {}
        for batch in batches(
            [len(r.prompt_token_ids or ()) for r in requests], 1, self._batch_tokens
        ):
            options = {
                "max_new_tokens": 1,
                "do_sample": False,
                "output_logits": True,
                "return_dict_in_generate": True,
            }
            logits = self._generate([requests[i] for i in batch], options)[0].logits[0]
            for i, row in zip(batch, logits.float().log_softmax(-1), strict=True):
                found[i] = row[list(tokens[i])].tolist()
        return [found[i] for i in range(len(requests))]

    def close(self) -> None:
        del self._model

    def _options(self, sampling: Sampling) -> dict[str, Any]:
        from transformers import GenerationConfig

        known = set(vars(GenerationConfig()))
        if unknown := [k for k in sampling.extra if k not in known]:
            raise UserError(
                *(
                    f"sampling.{k}: transformers' generate has no such option{nearest(k, known)}"
                    for k in unknown
                )
            )
        options: dict[str, Any] = {
            "max_new_tokens": sampling.max_tokens,
            "do_sample": sampling.temperature > 0,
            **sampling.extra,
        }
        options.setdefault("eos_token_id", self._ends_of(sampling))
        if sampling.temperature > 0:
            options |= {
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "min_p": sampling.min_p,
                "top_k": max(sampling.top_k, 0),
            }
        if sampling.stop:
            options |= {"stop_strings": list(sampling.stop), "tokenizer": self._tokenizer}
        return options

    def _batch(self, requests: Sequence[Request], options: dict[str, Any]) -> list[list[int]]:
        """Generated token ids of each request, padding included."""
        out, width = self._generate(requests, options)
        return out[:, width:].tolist()

    def _generate(self, requests: Sequence[Request], options: dict[str, Any]) -> tuple[Any, int]:
        """What `generate` gives for the requests padded on the left, and to which width they are
        padded.
        """
        import torch

        prompts = [r.prompt_token_ids or [] for r in requests]
        width = max(map(len, prompts))
        ids = torch.tensor(
            [[self._pad] * (width - len(p)) + p for p in prompts], device=self._device
        )
        mask = torch.tensor(
            [[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=self._device
        )
        torch.manual_seed(requests[0].seed)
        with torch.inference_mode(), refusals(keys("sampling", options), "sampling"):
            return self._model.generate(input_ids=ids, attention_mask=mask, **options), width

    def _grammar(self, schema: Mapping[str, Any] | None) -> Any:
        """The schema compiled for the model's vocabulary; None without one."""
        import importlib.util

        if schema is None:
            return None
        if importlib.util.find_spec("xgrammar") is None:
            raise UserError(
                "engine=transformers writes JSON of a schema with the package 'xgrammar': pip"
                " install xgrammar"
            )
        import xgrammar

        vocabulary = self._model.config.get_text_config().vocab_size
        told = xgrammar.TokenizerInfo.from_huggingface(
            self._tokenizer, vocab_size=vocabulary, stop_token_ids=self._ends
        )
        return xgrammar.GrammarCompiler(told).compile_json_schema(
            json.dumps(schema), any_whitespace=False
        )

    def _ends_of(self, sampling: Sampling) -> list[int]:
        """The tokens that end an answer: the model's own, and those that are asked for."""
        return list(dict.fromkeys([*self._ends, *sampling.end_tokens]))

    def _response(self, tokens: list[int], sampling: Sampling) -> Response:
        ends = self._ends_of(sampling)
        end = next((i for i, t in enumerate(tokens) if t in ends), None)
        text, cut = trimmed(self._tokenizer.decode(tokens[:end], skip_special_tokens=True))
        if stops := [at for s in sampling.stop if (at := text.find(s)) >= 0]:
            padding = next((i for i, t in enumerate(reversed(tokens)) if t != self._pad), 0)
            return Response(text[: min(stops)], len(tokens) - padding, "stop")
        n_tokens = len(tokens) if end is None else end + 1
        return Response(text, n_tokens, "length" if end is None else "stop", cut_character=cut)


def _only(grammar: Any) -> dict[str, Any]:
    """The options that let only what the grammar allows through, for one batch."""
    if grammar is None:
        return {}
    from xgrammar.contrib.hf import LogitsProcessor

    return {"logits_processor": [LogitsProcessor(grammar)]}


def _with_adapter(network: Any, path: str, base: str) -> Any:
    import importlib.util

    if importlib.util.find_spec("peft") is None:
        raise UserError(
            f"{path} is an adapter, which engine=transformers loads with the package 'peft': pip"
            " install peft"
        )
    return opening.attach(network, opening.adapter(path), base)


def batches(lengths: Sequence[int], max_tokens: int, budget: int) -> Iterator[list[int]]:
    """Indices in batches, longest prompts first; a padded batch holds at most `budget` prompt and
    answer tokens, or one row.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    while order:
        size = max(1, budget // (lengths[order[0]] + max_tokens))
        yield order[:size]
        order = order[size:]
