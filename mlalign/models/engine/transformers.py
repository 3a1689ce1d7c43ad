"""transformers' `generate`, in batches by length that are padded on the left; adapters with peft.

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

        self._batch_tokens = config.batch_tokens
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype: str = config.dtype
        if dtype == "auto" and self._device == "cpu":
            dtype = "float32"

        base = model.base or model
        options = {"dtype": dtype, **config.args}
        network, _ = opening.network(base.path, "causal", base.revision, options=options)
        ends = network.generation_config.eos_token_id
        if model.base:
            network = _with_adapter(network, model.path, base.path)
        self._model = network.to(self._device).eval()

        source = tokenizer_source(model)
        self._tokenizer: Any = opening.tokenizer(source.path, source.revision)
        n_rows = network.get_input_embeddings().weight.shape[0]
        opening.check_tokens(self._tokenizer, n_rows, source.path)

        if ends is None:
            ends = self._tokenizer.eos_token_id
        self._ends = list(ends) if isinstance(ends, list | tuple) else [ends]
        self._pad = self._tokenizer.pad_token_id
        if self._pad is None:
            self._pad = self._ends[0]
        # Of the checkpoint's own generation settings, only its end tokens are used.
        self._model.generation_config = GenerationConfig(
            eos_token_id=self._ends, pad_token_id=self._pad
        )

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Response]:
        responses: dict[int, Response] = {}
        options = self._options(sampling)
        grammar = self._grammar(sampling.json_schema)
        for batch in self._batches(requests, sampling.max_tokens):
            answers = self._answers([requests[i] for i in batch], options | _constrained(grammar))
            for i, answer in zip(batch, answers, strict=True):
                responses[i] = self._response(answer, sampling)
        return [responses[i] for i in range(len(requests))]

    def next_logprobs(
        self, requests: Sequence[Request], tokens: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        options = {
            "max_new_tokens": 1,
            "do_sample": False,
            "output_logits": True,
            "return_dict_in_generate": True,
        }
        logprobs: dict[int, list[float]] = {}
        for batch in self._batches(requests, max_tokens=1):
            generated, _ = self._generate([requests[i] for i in batch], options)
            by_row = generated.logits[0].float().log_softmax(-1)
            for i, row in zip(batch, by_row, strict=True):
                logprobs[i] = row[list(tokens[i])].tolist()
        return [logprobs[i] for i in range(len(requests))]

    def close(self) -> None:
        del self._model

    def _batches(self, requests: Sequence[Request], max_tokens: int) -> Iterator[list[int]]:
        lengths = [len(request.prompt_token_ids or ()) for request in requests]
        return batches(lengths, max_tokens, self._batch_tokens)

    def _options(self, sampling: Sampling) -> dict[str, Any]:
        """The options of `generate`. Raises: UserError for those that transformers lacks."""
        from transformers import GenerationConfig

        known = set(vars(GenerationConfig()))
        errors = []
        for name in sampling.extra:
            if name not in known:
                mend = nearest(name, known)
                errors.append(f"sampling.{name}: transformers' generate has no such option{mend}")
        if errors:
            raise UserError(*errors)

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

    def _answers(self, requests: Sequence[Request], options: dict[str, Any]) -> list[list[int]]:
        """Generated token ids of each request, padding included."""
        generated, width = self._generate(requests, options)
        return generated[:, width:].tolist()

    def _generate(self, requests: Sequence[Request], options: dict[str, Any]) -> tuple[Any, int]:
        """(what `generate` returns, the width to which the prompts are padded on the left)."""
        import torch

        prompts = [request.prompt_token_ids or [] for request in requests]
        width = max(map(len, prompts))
        padded = []
        mask = []
        for prompt in prompts:
            n_padding = width - len(prompt)
            padded.append([self._pad] * n_padding + prompt)
            mask.append([0] * n_padding + [1] * len(prompt))

        torch.manual_seed(requests[0].seed)
        with torch.inference_mode(), refusals(keys("sampling", options), "sampling"):
            generated = self._model.generate(
                input_ids=torch.tensor(padded, device=self._device),
                attention_mask=torch.tensor(mask, device=self._device),
                **options,
            )
        return generated, width

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

        vocab_size = self._model.config.get_text_config().vocab_size
        vocabulary = xgrammar.TokenizerInfo.from_huggingface(
            self._tokenizer, vocab_size=vocab_size, stop_token_ids=self._ends
        )
        compiler = xgrammar.GrammarCompiler(vocabulary)
        return compiler.compile_json_schema(json.dumps(schema), any_whitespace=False)

    def _ends_of(self, sampling: Sampling) -> list[int]:
        """The tokens that end an answer: the model's own, and those of the request."""
        return list(dict.fromkeys([*self._ends, *sampling.end_tokens]))

    def _response(self, tokens: list[int], sampling: Sampling) -> Response:
        ends = self._ends_of(sampling)
        end = next((i for i, token in enumerate(tokens) if token in ends), None)
        decoded = self._tokenizer.decode(tokens[:end], skip_special_tokens=True)
        text, cut = trimmed(decoded)

        stops = [text.find(stop) for stop in sampling.stop if stop in text]
        if stops:
            n_padding = next((i for i, t in enumerate(reversed(tokens)) if t != self._pad), 0)
            return Response(text[: min(stops)], len(tokens) - n_padding, "stop")
        if end is None:
            return Response(text, len(tokens), "length", cut_character=cut)
        return Response(text, end + 1, "stop", cut_character=cut)


def _constrained(grammar: Any) -> dict[str, Any]:
    """Options that let only what the grammar allows through; they serve a single batch."""
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
    """Indices in batches, longest prompts first.

    A padded batch holds at most `budget` tokens of prompts and answers, or one row.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    while order:
        size = max(1, budget // (lengths[order[0]] + max_tokens))
        yield order[:size]
        order = order[size:]
