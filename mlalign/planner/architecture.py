"""The numbers of a decoder that decide memory and time, from its `config.json`; parameters by
matrix.

Knows the decoders with gated MLPs and rotary positions that transformers calls llama, mistral,
qwen2, qwen3, gemma2, gemma3, mixtral and qwen3_moe. Values that a `config.json` leaves out are the
defaults of transformers' own configuration class, read from its source.
"""

import ast
import functools
import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from mlalign.core.schema import class_source, source_file


class Family(NamedTuple):
    """What a model type's code fixes and its configuration does not say."""

    config_class: str
    qkv_bias: bool = False  # always, whatever `attention_bias` says
    qk_norm: bool = False  # an RMSNorm over the head dimension of queries and keys
    norms_per_layer: int = 2
    norm_in_float32: bool = False  # the norm's product with its weight is taken in float32
    sparse: bool = False


FAMILIES = {
    "llama": Family("LlamaConfig"),
    "mistral": Family("MistralConfig"),
    "qwen2": Family("Qwen2Config", qkv_bias=True),
    "qwen3": Family("Qwen3Config", qk_norm=True),
    "gemma2": Family("Gemma2Config", norms_per_layer=4, norm_in_float32=True),
    "gemma3_text": Family(
        "Gemma3TextConfig",
        qk_norm=True,
        norms_per_layer=4,
        norm_in_float32=True,
    ),
    "mixtral": Family("MixtralConfig", sparse=True),
    "qwen3_moe": Family("Qwen3MoeConfig", qk_norm=True, sparse=True),
}

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")


class Architecture(NamedTuple):
    """A decoder.

    `n_sparse` of its layers have experts: `n_experts`, `experts_per_token`, `expert_size`.
    """

    family: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    context: int
    tied: bool
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    window: int | None = None  # tokens that sliding layers attend to
    n_sliding: int = 0
    n_experts: int = 0
    experts_per_token: int = 0
    expert_size: int = 0
    n_sparse: int = 0
    softcap: bool = False  # of the final logits
    dtype: str = "float32"

    @property
    def traits(self) -> Family:
        return FAMILIES[self.family]

    @property
    def q_size(self) -> int:
        return self.n_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        return self.n_kv_heads * self.head_dim

    @property
    def embedding(self) -> int:
        return self.vocab_size * self.hidden_size

    def linears(self) -> dict[str, tuple[int, int]]:
        """(inputs, outputs) of the linear layers of a dense layer, by transformers' names."""
        h, q, kv, f = self.hidden_size, self.q_size, self.kv_size, self.intermediate_size
        return {
            "q_proj": (h, q),
            "k_proj": (h, kv),
            "v_proj": (h, kv),
            "o_proj": (q, h),
            "gate_proj": (h, f),
            "up_proj": (h, f),
            "down_proj": (f, h),
        }

    def adaptable(self) -> dict[str, tuple[int, int]]:
        """The linear layers that LoRA can adapt.

        Experts are one 3-D tensor, which peft leaves alone.
        """
        linears = self.linears()
        return {name: linears[name] for name in ATTENTION} if self.n_sparse else linears

    def attention_parameters(self) -> int:
        """One layer's four projections with their biases, and the norms of queries and keys."""
        h, q, kv = self.hidden_size, self.q_size, self.kv_size
        n = 2 * h * q + 2 * h * kv
        if self.qkv_bias:
            n += q + 2 * kv
        if self.o_bias:
            n += h
        if self.traits.qk_norm:
            n += 2 * self.head_dim
        return n

    def dense_mlp(self) -> int:
        h, f = self.hidden_size, self.intermediate_size
        return 3 * h * f + (2 * f + h if self.mlp_bias else 0)

    def sparse_mlp(self, n_experts: int) -> int:
        """The router, and this many experts."""
        router = self.n_experts * self.hidden_size
        return router + n_experts * 3 * self.hidden_size * self.expert_size

    def _without_mlp(self) -> int:
        """One layer's attention and norms."""
        return self.attention_parameters() + self.traits.norms_per_layer * self.hidden_size

    def layers(self, experts: int | None = None) -> int:
        """The parameters of all layers, counting this many experts in each (None: all)."""
        n_experts = self.n_experts if experts is None else experts
        n_dense = self.n_layers - self.n_sparse
        mlps = n_dense * self.dense_mlp() + self.n_sparse * self.sparse_mlp(n_experts)
        return self.n_layers * self._without_mlp() + mlps

    def head(self, task: str) -> int:
        """The output matrix: one row for a classifier, none where it is the embedding."""
        if task == "classifier":
            return self.hidden_size
        return 0 if self.tied else self.embedding

    def parameters(self, task: str = "causal") -> int:
        """All parameters, tied ones once.

        This equals what transformers counts on the model (tested).
        """
        return self.embedding + self.layers() + self.hidden_size + self.head(task)

    def layer_parameters(self) -> int:
        """The parameters of the largest layer."""
        mlp = self.sparse_mlp(self.n_experts) if self.n_sparse else self.dense_mlp()
        return self._without_mlp() + mlp

    def lora_parameters(self, rank: int, targets: frozenset[str]) -> int:
        """The parameters of LoRA on `targets` of all layers."""
        return self.n_layers * self.lora_of_layer(rank, targets)

    def lora_of_layer(self, rank: int, targets: frozenset[str]) -> int:
        """Matrices A (rank x inputs) and B (outputs x rank) of one layer.

        Source: Hu et al. 2021, section 4.1.
        """
        shapes = [shape for name, shape in self.adaptable().items() if name in targets]
        return rank * sum(inputs + outputs for inputs, outputs in shapes)

    def matmul_parameters(self, task: str = "causal") -> int:
        """Parameters that multiply a token, the N in the 2N operations of a forward pass.

        The embedding look-up does not count, and of the experts those that see the token.
        """
        head = self.hidden_size if task == "classifier" else self.embedding
        return self.layers(self.experts_per_token) + head


def from_config(config: Mapping[str, Any]) -> Architecture | None:
    """The architecture that a `config.json` describes; None for an unknown family."""
    decoder = {**config, **(config.get("text_config") or {})}
    family = decoder.get("model_type", "")
    if family == "gemma3":
        family = "gemma3_text"
    if family not in FAMILIES:
        return None
    given = {key: value for key, value in decoder.items() if value is not None}
    return _architecture(family, {**defaults(family), **given}, config)


def _architecture(family: str, c: Mapping[str, Any], config: Mapping[str, Any]) -> Architecture:
    """From the decoder's values with defaults (`c`).

    For ties and dtype the whole file wins.
    """
    traits = FAMILIES[family]
    heads = c["num_attention_heads"]
    bias = bool(c.get("attention_bias", False))
    tied = config.get("tie_word_embeddings", c.get("tie_word_embeddings", False))
    window, n_sliding = _sliding(family, c)
    dtypes = [values.get(key) for values in (config, c) for key in ("dtype", "torch_dtype")]
    return Architecture(
        family=family,
        vocab_size=c["vocab_size"],
        hidden_size=c["hidden_size"],
        intermediate_size=c["intermediate_size"],
        n_layers=c["num_hidden_layers"],
        n_heads=heads,
        n_kv_heads=c.get("num_key_value_heads") or heads,
        head_dim=c.get("head_dim") or c["hidden_size"] // heads,
        context=c["max_position_embeddings"],
        tied=bool(tied),
        qkv_bias=traits.qkv_bias or bias,
        o_bias=bias,
        mlp_bias=bool(c.get("mlp_bias", False)),
        window=window,
        n_sliding=n_sliding,
        softcap=c.get("final_logit_softcapping") is not None,
        dtype=str(next(filter(None, dtypes), "float32")),
        **(_experts(c) if traits.sparse else {}),
    )


def _experts(c: Mapping[str, Any]) -> dict[str, int]:
    """The fields about experts; all 0 where no layer is sparse."""
    dense = c.get("mlp_only_layers") or []
    step = c.get("decoder_sparse_step", 1)
    layers = range(c["num_hidden_layers"])
    n_sparse = sum(i not in dense and (i + 1) % step == 0 for i in layers)
    if not n_sparse:
        return {}
    return {
        "n_experts": c.get("num_local_experts") or c.get("num_experts") or 0,
        "experts_per_token": c.get("num_experts_per_tok", 0),
        "expert_size": c.get("moe_intermediate_size", c["intermediate_size"]),
        "n_sparse": n_sparse,
    }


def _sliding(family: str, c: Mapping[str, Any]) -> tuple[int | None, int]:
    """(window, number of layers with one), by `layer_types` or the rule for older files."""
    n, window = c["num_hidden_layers"], c.get("sliding_window")
    if not window:
        return None, 0
    if family.startswith("qwen") and not c.get("use_sliding_window", False):
        return None, 0
    if types := c.get("layer_types"):
        return window, types.count("sliding_attention")
    if family == "gemma2":
        return window, (n + 1) // 2
    if family == "gemma3_text":
        return window, n - n // c.get("sliding_window_pattern", 6)
    if family == "qwen2":
        return window, n - c.get("max_window_layers", n)
    return window, n


@functools.cache
def defaults(family: str) -> dict[str, Any]:
    """The literal defaults of transformers' configuration class; empty without transformers."""
    name = family.removesuffix("_text")
    path = source_file(f"transformers.models.{name}.configuration_{name}")
    text = class_source(path, FAMILIES[family].config_class) if path else ""
    fields = re.findall(r"^    (\w+)\s*:[^=\n]*=\s*([^\n(]+)$", text, re.MULTILINE)
    literals = {key: _literal(value) for key, value in fields}
    return {key: value for key, value in literals.items() if value is not None}


def _literal(text: str) -> Any:
    """The value of a literal or of a product of integers such as `1024 * 8`; else None."""
    if re.fullmatch(r"[\d_ ]+(\*[\d_ ]+)+", text):
        return math.prod(int(factor) for factor in text.split("*"))
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError):
        return None
