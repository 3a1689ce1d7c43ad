"""Opens configurations, tokenizers, networks and adapters from a directory or hub id: the only
place that does.

Three rules hold for everything that is opened here:

1. Code from a model's repository is never run, and nobody is asked whether it should be:
   `trust_remote_code` is always False, and a configuration, tokenizer or model that needs code of
   its own is refused before transformers sees it.
2. A network is what its files say, or it is refused: no weight is missing, left out or of another
   shape, and `architectures` in config.json agrees with the class that transformers makes
   (`report`). The headers of the weights tell; this is known before the weights are read.
3. Whatever transformers, peft, tokenizers or safetensors say of a file becomes one UserError that
   names the place.
"""

import math
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from mlalign.core import weight_files
from mlalign.core.errors import UserError
from mlalign.core.weight_files import ADAPTER, TOKENIZER_FILES, find, read_object
from mlalign.models import outline as outlines
from mlalign.models import report
from mlalign.models.foreign import reading
from mlalign.models.outline import KINDS, Adapter, Outline, Task
from mlalign.models.report import NEVER_RUN

# Settings of a configuration that may name a kernel on the hub, which is code.
KERNELS = (
    "attn_implementation",
    "_attn_implementation",
    "experts_implementation",
    "_experts_implementation",
)


# ----------------------------------------------------------------------------------- configurations


def configuration(path: str, revision: str | None = None) -> Any:
    """transformers' configuration of a model.

    Raises: UserError if there is none, it is broken, or it needs code of its own.
    """
    file = find(path, "config.json", revision, required=True)
    assert file is not None
    values = read_object(file)
    _check_configuration(file, values)
    with reading(f"{path}: its config.json is no configuration that transformers can read"):
        from transformers import AutoConfig

        return AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=False)


def _check_configuration(file: Path, values: Mapping[str, Any]) -> None:
    from transformers import CONFIG_MAPPING

    kind, own = values.get("model_type"), values.get("auto_map")
    if not isinstance(kind, str):
        raise UserError(
            f"{file}: has no model_type, so nobody can know what the model is; fetch it again or"
            " save it with transformers"
        )
    if kind not in CONFIG_MAPPING:
        code = (
            f" ({own['AutoConfig']})" if isinstance(own, Mapping) and own.get("AutoConfig") else ""
        )
        raise UserError(
            f"{file}: transformers knows no model_type {kind!r}: the configuration needs its own"
            f" code{code}, and {NEVER_RUN}; take a model that transformers knows, or a newer"
            " transformers if that knows it"
        )
    names = values.get("architectures")
    if names is not None and not (
        isinstance(names, list) and all(isinstance(name, str) for name in names)
    ):
        raise UserError(
            f"{file}: architectures must be a list of names, not {names!r}; fetch it again or"
            " mend it"
        )
    for key, kernel in _kernels(values):
        raise UserError(
            f"{file}: {key} names code on the hub ({kernel}), and {NEVER_RUN}; remove the key from"
            " a copy"
        )


def _kernels(values: Any, under: str = "") -> Iterator[tuple[str, str]]:
    """(key, name) of every kernel on the hub that a configuration names.

    The key may stand in a part of the configuration (`text_config`), and its value may be one name
    for each part.
    """
    if isinstance(values, list):
        for value in values:
            yield from _kernels(value, under)
    if not isinstance(values, Mapping):
        return
    for key, value in values.items():
        here = under or (key if key in KERNELS else "")
        if here and isinstance(value, str) and "/" in value:
            yield here, value
        yield from _kernels(value, here)


# --------------------------------------------------------------------------------------- tokenizers


def tokenizer(path: str, revision: str | None = None) -> Any:
    """A model's tokenizer.

    Raises: UserError if there is none, it is broken, or it needs code of its own.
    """
    if not has_tokenizer(path, revision):
        raise UserError(
            f"{path}: has no tokenizer (tokenizer.json); save the model's own there with"
            " AutoTokenizer's save_pretrained"
        )
    for name in ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"):
        file = find(path, name, revision)
        own = read_object(file).get("auto_map") if file else None
        if own:
            classes = own.get("AutoTokenizer", own) if isinstance(own, Mapping) else own
            raise UserError(
                f"{file}: the tokenizer needs its own code ({_first(classes)}), and {NEVER_RUN};"
                " take a model with a tokenizer of transformers, or save one as tokenizer.json"
                " that gives the same tokens"
            )
    _check_beside(path, revision)
    with reading(f"{path}: no tokenizer can be loaded from it", "; save the model's own there"):
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(path, revision=revision, trust_remote_code=False)


def _check_beside(path: str, revision: str | None) -> None:
    """Look at the configuration that transformers reads along with a tokenizer, so that a mistake
    in it is not told as the tokenizer's.

    A tokenizer may lie alone, or beside a model of a kind that transformers does not know.
    """
    from transformers import CONFIG_MAPPING

    file = find(path, "config.json", revision)
    kind = read_object(file).get("model_type") if file else None
    if kind is not None and (not isinstance(kind, str) or kind in CONFIG_MAPPING):
        configuration(path, revision)


def has_tokenizer(path: str, revision: str | None = None) -> bool:
    """Whether a directory or hub id has files of a tokenizer."""
    return any(find(path, name, revision) is not None for name in TOKENIZER_FILES)


def check_tokens(tokens: Any, n_rows: int, path: str, *, padding_is_read: bool = True) -> None:
    """Raises: UserError for tokens beyond the `n_rows` of a model's embeddings, which it cannot
    read.

    `padding_is_read`: whether the padding token counts too; scorers pad with tokens of their own
    choice.
    """
    if len(tokens) <= n_rows:
        return
    # Some tokenizer classes bring a token for unknown text that no file names, and that byte-level
    # tokenizers never give.
    unread = {tokens.unk_token_id} | (set() if padding_is_read else {tokens.pad_token_id})
    beyond = sorted(
        (n, token) for token, n in tokens.get_vocab().items() if n >= n_rows and n not in unread
    )
    if beyond:
        number, token = beyond[0]
        raise UserError(
            f"{path}: the tokenizer has tokens that the model has no embeddings for ({token!r} is"
            f" number {number}, the embeddings have {n_rows} rows): it is not this model's. Put the"
            " model's own tokenizer there, or save the model once more after"
            f" resize_token_embeddings({len(tokens)}), and train the new rows"
        )


def _first(value: Any) -> str:
    """The first name in what `auto_map` says of a class: a name, or a list of names and nulls."""
    names = value if isinstance(value, list | tuple) else [value]
    return next((str(name) for name in names if name), str(value))


# ----------------------------------------------------------------------------------------- networks


def outline(
    path: str, task: Task, revision: str | None = None, n_outputs: int | None = None,
    may_lack: Collection[str] = (), on_it: Adapter | None = None,
) -> Outline:  # fmt: skip
    """What a full model is, from its configuration and the headers of its weights alone
    (`outlines.of`).

    `n_outputs` of a classifier, where it is not what config.json says. `may_lack`: weights that may
    be missing (a new head). `on_it`: an adapter, whose own whole weights the model may lack or have
    in another shape.

    Raises: UserError if the model is not what its files say, or its files cannot be read.
    """
    config = configuration(path, revision)
    return outlines.of(path, config, task, revision, n_outputs, may_lack, on_it)


def network(
    path: str, task: Task, revision: str | None = None, *, options: Mapping[str, Any], n_outputs: int | None = None,
    on_it: Adapter | None = None, seen: Outline | None = None,
) -> tuple[Any, frozenset[str]]:  # fmt: skip
    """(a full model with its weights, which of the ones that may be lacking it lacks); `options`
    are from_pretrained's.

    Where a weight is lacking transformers draws it, and the caller puts another in its place.
    `seen`: the outline, if it is known. Raises: UserError as `outline` does.
    """
    import transformers

    seen = seen or outline(path, task, revision, n_outputs, on_it=on_it)
    if seen.quantised:
        _check_quantisation(path, revision)
    auto: Any = (
        transformers.AutoModelForCausalLM
        if task == "causal"
        else transformers.AutoModelForSequenceClassification
    )
    ours: dict[str, Any] = {
        "revision": revision,
        "trust_remote_code": False,
        "use_safetensors": True,
        "output_loading_info": True,
    }
    ours |= {"ignore_mismatched_sizes": True} if seen.lacking else {}
    ours |= {"num_labels": n_outputs} if n_outputs is not None else {}
    with reading(f"{path}: no {KINDS[task]} can be loaded from it"):
        loaded, info = auto.from_pretrained(path, **{**options, **ours})
    if lost := sorted(set(info["missing_keys"]) - seen.lacking):
        raise UserError(
            f"{path}: holds no weights for {report.some(lost)}: newly initialised weights score"
            " nothing; fetch it again"
        )
    return loaded, seen.lacking


def _check_quantisation(path: str, revision: str | None) -> None:
    """Raises: UserError for a way of quantising that transformers does not know: it would take the
    weights as they are.
    """
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

    file = find(path, "config.json", revision, required=True)
    assert file is not None
    values = read_object(file)
    told = values.get("quantization_config")
    method = told.get("quant_method") if isinstance(told, Mapping) else None
    if (
        method == "bitsandbytes"
    ):  # transformers' names of it say the bits, which stand in another key
        return
    if method is not None and method not in AUTO_QUANTIZATION_CONFIG_MAPPING:
        raise UserError(
            f"{file}: quantization_config has quant_method {method!r}, which transformers does not"
            " know, so it cannot know what the weights mean; take the model that was not"
            " quantised, or one that transformers can read"
        )


def statistics(values: Mapping[str, Any]) -> tuple[float, float] | None:
    """(mean, standard deviation) of a reward model's scores, which OpenRLHF writes into
    config.json; None if `values` have none, and NaN for one that is missing or no number.
    """
    if values.get("mean") is None and values.get("std") is None:
        return None
    return _number(values.get("mean")), _number(values.get("std"))


def _number(value: Any) -> float:
    """A number, also as text or alone in a list; NaN for anything else."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    try:
        return math.nan if value is None or isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


# ----------------------------------------------------------------------------------------- adapters


def is_adapter(path: str, revision: str | None = None) -> bool:
    """Whether a directory or hub id holds an adapter."""
    return find(path, ADAPTER, revision) is not None


def adapter_outline(path: str, revision: str | None = None) -> Adapter:
    """An adapter without its weights. Raises: UserError if its files are broken."""
    file = find(path, ADAPTER, revision, required=True)
    assert file is not None
    read_object(file)
    tensors = weight_files.tensors(path, revision, "adapter")
    return Adapter(path, {name: shape for name, (_, shape) in tensors.by_name.items()})


def adapter(path: str, revision: str | None = None) -> Adapter:
    """An adapter, read but not yet on a base.

    Raises: UserError if it is broken, or no LoRA adapter.
    """
    seen = adapter_outline(path, revision)
    with reading(f"{path}: no adapter can be loaded from it"):
        from peft import PeftConfig
        from peft.utils import load_peft_weights

        config = PeftConfig.from_pretrained(path, revision=revision)
        if config.is_prompt_learning:
            raise UserError(
                f"{path}: is no LoRA adapter but a learned prompt ({config.peft_type}), which"
                " cannot be merged"
            )
        weights = load_peft_weights(path, device="cpu", revision=revision)
    return Adapter(path, seen.shapes, config, weights)


def attach(
    network: Any, adapter: Adapter, base: str, *, trainable: bool = False, autocast: bool = True
) -> Any:
    """The network with an adapter on it.

    Raises: UserError unless every weight in the adapter's file finds its place.

    `base`: where the network comes from, for messages.
    """
    with reading(f"{adapter.path}: the adapter does not fit its base {base}"):
        from peft import get_peft_model
        from peft.utils import set_peft_model_state_dict

        adapter.config.inference_mode = not trainable
        adapter.config.base_model_name_or_path = getattr(network, "name_or_path", None)
        adapted = get_peft_model(network, adapter.config, autocast_adapter_dtype=autocast)
        fit: Any = set_peft_model_state_dict(adapted, adapter.weights)
    if fit.unexpected_keys:
        raise UserError(
            f"{adapter.path}: its adapter does not fit {base}: no place for"
            f" {report.some(fit.unexpected_keys)}"
        )
    if lost := [
        name for name in fit.missing_keys if "lora_" in name or ".modules_to_save." in name
    ]:
        raise UserError(
            f"{adapter.path}: its file lacks {report.some(lost)}, which {ADAPTER} says it has;"
            " fetch or save it again"
        )
    return adapted


# ------------------------------------------------------------------------------------------- others


def check_served(path: str, base: str | None, revision: str | None = None) -> Outline:
    """Look at a causal model that something else opens (vLLM, lm-eval), as closely as if it were
    opened here.

    `base` of an adapter under `path`. Returns the outline of the full model. Raises: UserError as
    `outline` and `adapter` do.
    """
    if base is not None:
        adapter_outline(path)
    return outline(base or path, "causal", revision)
