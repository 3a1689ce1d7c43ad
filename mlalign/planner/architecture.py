"""The numbers of a decoder that decide memory and time, from its `config.json`, and its parameters counted by matrix.

Knows the decoders with gated MLPs and rotary positions that transformers calls llama, mistral, qwen2, qwen3, gemma2, gemma3, mixtral and
qwen3_moe. Values that a `config.json` leaves out are the defaults of transformers' own configuration class, read from its source.
"""

import ast
import functools
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from mlalign.core.schema import class_source, source_file


class Family(NamedTuple):
    """What a model type's code says and its configuration does not."""

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
    "gemma3_text": Family("Gemma3TextConfig", qk_norm=True, norms_per_layer=4, norm_in_float32=True),
    "mixtral": Family("MixtralConfig", sparse=True),
    "qwen3_moe": Family("Qwen3MoeConfig", qk_norm=True, sparse=True),
}


class Architecture(NamedTuple):
    """A decoder. `experts`: n, how many of them see a token, and their inner size, in each of `n_sparse` layers."""

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
    window: int | None = None  # sliding layers attend to so many tokens
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
        """(inputs, outputs) of the linear layers of one dense layer, by their names in transformers."""
        h, q, kv, f = self.hidden_size, self.q_size, self.kv_size, self.intermediate_size
        attention = {"q_proj": (h, q), "k_proj": (h, kv), "v_proj": (h, kv), "o_proj": (q, h)}
        return {**attention, "gate_proj": (h, f), "up_proj": (h, f), "down_proj": (f, h)}

    def attention_parameters(self) -> int:
        """One layer's four projections with their biases, and the norms of queries and keys."""
        h, q, kv = self.hidden_size, self.q_size, self.kv_size
        biases = (q + 2 * kv if self.qkv_bias else 0) + (h if self.o_bias else 0)
        return h * q + 2 * h * kv + q * h + biases + (2 * self.head_dim if self.traits.qk_norm else 0)

    def dense_mlp(self) -> int:
        h, f = self.hidden_size, self.intermediate_size
        return 3 * h * f + (2 * f + h if self.mlp_bias else 0)

    def sparse_mlp(self, n_experts: int) -> int:
        """The router and so many experts."""
        return self.n_experts * self.hidden_size + n_experts * 3 * self.hidden_size * self.expert_size

    def layers(self, experts: int | None = None) -> int:
        """The parameters of all layers, or with `experts` those that so many experts a layer have."""
        each = self.attention_parameters() + self.traits.norms_per_layer * self.hidden_size
        sparse = self.sparse_mlp(self.n_experts if experts is None else experts)
        return self.n_layers * each + (self.n_layers - self.n_sparse) * self.dense_mlp() + self.n_sparse * sparse

    def head(self, task: str) -> int:
        """The output matrix's own parameters: none where it is the embedding; a classifier has one row."""
        return self.hidden_size if task == "classifier" else (0 if self.tied else self.embedding)

    def parameters(self, task: str = "causal") -> int:
        """All parameters, tied ones once; equal to what transformers counts on the model (tested)."""
        return self.embedding + self.layers() + self.hidden_size + self.head(task)

    def layer_parameters(self) -> int:
        """The parameters of the largest layer."""
        mlp = self.sparse_mlp(self.n_experts) if self.n_sparse else self.dense_mlp()
        return self.attention_parameters() + self.traits.norms_per_layer * self.hidden_size + mlp

    def lora_parameters(self, rank: int, targets: frozenset[str]) -> int:
        """LoRA matrices A (rank x inputs) and B (outputs x rank) on `targets` of every dense layer (Hu et al. 2021, section 4.1)."""
        return self.n_layers * sum(rank * (i + o) for name, (i, o) in self.adaptable().items() if name in targets)

    def adaptable(self) -> dict[str, tuple[int, int]]:
        """The linear layers that LoRA can adapt: experts are kept in one tensor of three dimensions, which peft leaves alone."""
        return {n: shape for n, shape in self.linears().items() if not self.n_sparse or n in ("q_proj", "k_proj", "v_proj", "o_proj")}

    def matmul_parameters(self, task: str = "causal") -> int:
        """Parameters that multiply a token: no embedding look-up, and of experts those that see it. The 2N of a forward pass."""
        head = self.hidden_size if task == "classifier" else self.embedding
        return self.layers(self.experts_per_token) + head


def from_config(told: Mapping[str, Any]) -> Architecture | None:
    """The architecture that a `config.json` describes; None for a family that is not known here."""
    config = {**told, **(told.get("text_config") or {})}
    family = config.get("model_type", "")
    family = {"gemma3": "gemma3_text"}.get(family, family)
    if family not in FAMILIES:
        return None
    values = {**defaults(family), **{k: v for k, v in config.items() if v is not None}}
    return _architecture(family, values, told)


def _architecture(family: str, c: Mapping[str, Any], told: Mapping[str, Any]) -> Architecture:
    traits, heads, layers = FAMILIES[family], c["num_attention_heads"], c["num_hidden_layers"]
    bias = bool(c.get("attention_bias", False))
    sparse = _sparse_layers(c) if traits.sparse else 0
    window, sliding = _sliding(family, c)
    return Architecture(
        family, c["vocab_size"], c["hidden_size"], c["intermediate_size"], layers, heads, c.get("num_key_value_heads") or heads,
        c.get("head_dim") or c["hidden_size"] // heads, c["max_position_embeddings"],
        bool(told.get("tie_word_embeddings", c.get("tie_word_embeddings", False))), traits.qkv_bias or bias, bias,
        bool(c.get("mlp_bias", False)), window, sliding,
        (c.get("num_local_experts") or c.get("num_experts") or 0) if sparse else 0, c.get("num_experts_per_tok", 0) if sparse else 0,
        c.get("moe_intermediate_size", c["intermediate_size"]) if sparse else 0, sparse, c.get("final_logit_softcapping") is not None,
        str(told.get("dtype") or told.get("torch_dtype") or c.get("dtype") or c.get("torch_dtype") or "float32"),
    )  # fmt: skip


def _sparse_layers(c: Mapping[str, Any]) -> int:
    dense, step = c.get("mlp_only_layers") or [], c.get("decoder_sparse_step", 1)
    return sum(i not in dense and (i + 1) % step == 0 for i in range(c["num_hidden_layers"]))


def _sliding(family: str, c: Mapping[str, Any]) -> tuple[int | None, int]:
    """(window, how many layers have one), by `layer_types`, or by the rule that stands for it in older files."""
    n, window = c["num_hidden_layers"], c.get("sliding_window")
    if not window or (family.startswith("qwen") and not c.get("use_sliding_window", False)):
        return None, 0
    if types := c.get("layer_types"):
        return window, types.count("sliding_attention")
    if family == "gemma2":
        return window, (n + 1) // 2
    if family == "gemma3_text":
        return window, n - n // c.get("sliding_window_pattern", 6)
    return window, n - c.get("max_window_layers", n) if family == "qwen2" else n


@functools.cache
def defaults(family: str) -> dict[str, Any]:
    """The fields with literal defaults of transformers' configuration class; empty without transformers."""
    name = family.removesuffix("_text")
    path = source_file(f"transformers.models.{name}.configuration_{name}")
    text = class_source(path, FAMILIES[family].config_class) if path else ""
    found = re.findall(r"^    (\w+)\s*:[^=\n]*=\s*([^\n(]+)$", text, re.MULTILINE)
    return {key: number for key, value in found if (number := _literal(value)) is not None}


def _literal(text: str) -> Any:
    factors = text.replace("_", "").split("*") if re.fullmatch(r"[\d_* ]+", text) else []
    if len(factors) > 1:
        return functools.reduce(lambda a, b: a * int(b), factors, 1)
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError):
        return None
