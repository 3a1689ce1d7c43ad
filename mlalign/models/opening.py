"""The only place that opens configurations, tokenizers, networks and adapters.

They come from a directory or a hub id, and three rules hold for all of them:

1. Code from a model's repository is never run, and nobody is asked whether it should be:
   `trust_remote_code` is always False, and a configuration, tokenizer or model that needs code of
   its own is refused before transformers sees it.
2. A network is what its files say, or it is refused: no weight is missing, unused or of another
   shape, and `architectures` in config.json agrees with the class that transformers makes
   (`report`). The headers of the weight files show this before any weight is read.
3. Any error of transformers, peft, tokenizers or safetensors about a file becomes one UserError
   that names the file.
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

    model_type = values.get("model_type")
    if not isinstance(model_type, str):
        raise UserError(
            f"{file}: has no model_type, so nobody can know what the model is; fetch it again or"
            " save it with transformers"
        )
    if model_type not in CONFIG_MAPPING:
        own_classes = values.get("auto_map")
        code = ""
        if isinstance(own_classes, Mapping) and own_classes.get("AutoConfig"):
            code = f" ({own_classes['AutoConfig']})"
        raise UserError(
            f"{file}: transformers knows no model_type {model_type!r}: the configuration needs its"
            f" own code{code}, and {NEVER_RUN}; take a model that transformers knows, or a newer"
            " transformers if that knows it"
        )
    names = values.get("architectures")
    if names is not None and not _is_list_of_names(names):
        raise UserError(
            f"{file}: architectures must be a list of names, not {names!r}; fetch it again or"
            " mend it"
        )
    for key, kernel in _kernels(values):
        raise UserError(
            f"{file}: {key} names code on the hub ({kernel}), and {NEVER_RUN}; remove the key from"
            " a copy"
        )


def _is_list_of_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _kernels(values: Any, under: str = "") -> Iterator[tuple[str, str]]:
    """(key, name) of every kernel on the hub that a configuration names.

    The key may be in a part of the configuration (`text_config`), or map each part to a name.
    """
    if isinstance(values, list):
        for value in values:
            yield from _kernels(value, under)
    if not isinstance(values, Mapping):
        return
    for key, value in values.items():
        setting = under
        if not setting and key in KERNELS:
            setting = key
        if setting and isinstance(value, str) and "/" in value:
            yield setting, value
        yield from _kernels(value, setting)


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
        own_classes = read_object(file).get("auto_map") if file else None
        if not own_classes:
            continue
        if isinstance(own_classes, Mapping):
            own_classes = own_classes.get("AutoTokenizer", own_classes)
        raise UserError(
            f"{file}: the tokenizer needs its own code ({_first_name(own_classes)}), and"
            f" {NEVER_RUN}; take a model with a tokenizer of transformers, or save one as"
            " tokenizer.json that gives the same tokens"
        )
    _check_config_beside(path, revision)
    with reading(f"{path}: no tokenizer can be loaded from it", "; save the model's own there"):
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(path, revision=revision, trust_remote_code=False)


def _check_config_beside(path: str, revision: str | None) -> None:
    """Check the config.json beside a tokenizer, so that its mistakes are not blamed on the latter.

    A tokenizer may be alone, or beside a model of a type that transformers does not know.
    """
    from transformers import CONFIG_MAPPING

    file = find(path, "config.json", revision)
    model_type = read_object(file).get("model_type") if file else None
    if model_type is None:
        return
    if not isinstance(model_type, str) or model_type in CONFIG_MAPPING:
        configuration(path, revision)


def has_tokenizer(path: str, revision: str | None = None) -> bool:
    """Whether a directory or hub id has files of a tokenizer."""
    return any(find(path, name, revision) is not None for name in TOKENIZER_FILES)


def check_tokens(tokens: Any, n_rows: int, path: str, *, padding_is_read: bool = True) -> None:
    """Raises: UserError if a tokenizer has tokens beyond the `n_rows` of the model's embeddings.

    `padding_is_read`: whether the padding token counts too; scorers choose their own.
    """
    if len(tokens) <= n_rows:
        return
    # Some tokenizer classes add an unknown token that no file names, and that byte-level
    # tokenizers never produce.
    unread = {tokens.unk_token_id}
    if not padding_is_read:
        unread.add(tokens.pad_token_id)

    beyond = []
    for token, number in tokens.get_vocab().items():
        if number >= n_rows and number not in unread:
            beyond.append((number, token))
    if beyond:
        number, token = min(beyond)
        raise UserError(
            f"{path}: the tokenizer has tokens that the model has no embeddings for ({token!r} is"
            f" number {number}, the embeddings have {n_rows} rows): it is not this model's. Put the"
            " model's own tokenizer there, or save the model once more after"
            f" resize_token_embeddings({len(tokens)}), and train the new rows"
        )


def _first_name(classes: Any) -> str:
    """The first name in an `auto_map` entry: a name, or a list of names and nulls."""
    names = classes if isinstance(classes, list | tuple) else [classes]
    return next((str(name) for name in names if name), str(classes))


# ----------------------------------------------------------------------------------------- networks


def outline(
    path: str,
    task: Task,
    revision: str | None = None,
    n_outputs: int | None = None,
    may_lack: Collection[str] = (),
    on_it: Adapter | None = None,
) -> Outline:
    """What a full model is, from its configuration and the headers of its weights alone.

    `n_outputs` of a classifier, where it is not what config.json says. `may_lack`: weights that may
    be missing (a new head). `on_it`: an adapter; the model may lack the whole weights that it
    brings, or have them in another shape.

    Raises: UserError if the model is not what its files say, or its files cannot be read.
    """
    config = configuration(path, revision)
    return outlines.of(path, config, task, revision, n_outputs, may_lack, on_it)


def network(
    path: str,
    task: Task,
    revision: str | None = None,
    *,
    options: Mapping[str, Any],
    n_outputs: int | None = None,
    on_it: Adapter | None = None,
    known: Outline | None = None,
) -> tuple[Any, frozenset[str]]:
    """(a full model with its weights, the names of the weights that its files lack).

    Only weights that come from elsewhere may be lacking: transformers draws them at random, and the
    caller replaces them. `options` are from_pretrained's. `known`: the outline, if the caller has
    it already. Raises: UserError as `outline` does.
    """
    expected = known or outline(path, task, revision, n_outputs, on_it=on_it)
    if expected.quantised:
        _check_quantisation(path, revision)

    ours: dict[str, Any] = {
        "revision": revision,
        "trust_remote_code": False,
        "use_safetensors": True,
        "output_loading_info": True,
    }
    if expected.lacking:
        ours["ignore_mismatched_sizes"] = True
    if n_outputs is not None:
        ours["num_labels"] = n_outputs
    with reading(f"{path}: no {KINDS[task]} can be loaded from it"):
        loaded, info = outlines.auto_class(task).from_pretrained(path, **{**options, **ours})

    lost = sorted(set(info["missing_keys"]) - expected.lacking)
    if lost:
        raise UserError(
            f"{path}: holds no weights for {report.some(lost)}: newly initialised weights score"
            " nothing; fetch it again"
        )
    return loaded, expected.lacking


def _check_quantisation(path: str, revision: str | None) -> None:
    """Raises: UserError for a quantisation that transformers does not know.

    It would take the stored numbers for the weights themselves.
    """
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

    file = find(path, "config.json", revision, required=True)
    assert file is not None
    quantisation = read_object(file).get("quantization_config")
    method = quantisation.get("quant_method") if isinstance(quantisation, Mapping) else None
    # Transformers' names for bitsandbytes include the bits, which config.json has in another key.
    if method == "bitsandbytes":
        return
    if method is not None and method not in AUTO_QUANTIZATION_CONFIG_MAPPING:
        raise UserError(
            f"{file}: quantization_config has quant_method {method!r}, which transformers does not"
            " know, so it cannot know what the weights mean; take the model that was not"
            " quantised, or one that transformers can read"
        )


def statistics(values: Mapping[str, Any]) -> tuple[float, float] | None:
    """(mean, standard deviation) of a reward model's scores, as OpenRLHF writes into config.json.

    None if `values` have neither; NaN for one that is missing or is no number.
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
    shapes = adapter_outline(path, revision).shapes
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
    return Adapter(path, shapes, config, weights)


def attach(
    network: Any, adapter: Adapter, base: str, *, trainable: bool = False, autocast: bool = True
) -> Any:
    """The network with an adapter on it; `base` says in messages where the network comes from.

    Raises: UserError unless every weight in the adapter's file finds its place.
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
    lost = [name for name in fit.missing_keys if "lora_" in name or ".modules_to_save." in name]
    if lost:
        raise UserError(
            f"{adapter.path}: its file lacks {report.some(lost)}, which {ADAPTER} says it has;"
            " fetch or save it again"
        )
    return adapted


# ------------------------------------------------------------------------------------------- others


def check_served(path: str, base: str | None, revision: str | None = None) -> Outline:
    """Check a causal model that vLLM or lm-eval will open, as if it were opened here.

    `base` is that of the adapter under `path`. Returns the outline of the full model.
    Raises: UserError as `outline` and `adapter` do.
    """
    if base is not None:
        adapter_outline(path)
    return outline(base or path, "causal", revision)
