"""A full model without its weights: which class of transformers it is, and whether that is what its
files say.

Reads config.json and the headers of the weights; no number of them. What fits is decided in
`report`.
"""

import copy
import functools
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mlalign.core import weight_files
from mlalign.core.errors import UserError
from mlalign.core.weight_files import find, read_object
from mlalign.models import report
from mlalign.models.foreign import reading
from mlalign.models.report import HEAD, Report, Stated

Task = Literal["causal", "classifier"]

KINDS = {"causal": "causal language model", "classifier": "sequence classifier"}
TOKEN_ID = re.compile(r"(bos|eos|pad|decoder_start|forced_bos|forced_eos)_token_id")
PREFIX = "base_model.model."
LOW_RANK = re.compile(
    r"(^|[._])(lora|dora|ia3|hada|lokr|oft|vera)_"
)  # what peft's methods add to a layer
PARAMETER = re.compile(r"(^|\.)(weight|bias)$")
WHOLE = re.compile(r"[iu]\d+|bool")  # types of safetensors that are no floating point numbers
IN_LAYER = re.compile(r"\.\d+\.")


@dataclass
class Adapter:
    """A LoRA adapter: `shapes` of all that is in its file, and peft's configuration and the weights
    if they were read too.
    """

    path: str
    shapes: Mapping[str, tuple[int, ...]]
    config: Any = None
    weights: dict[str, Any] = field(default_factory=dict)

    @property
    def brought(self) -> dict[str, tuple[int, ...]]:
        """Whole weights in the file with their shapes, under the names that the base has: heads,
        poolers, embeddings.
        """
        whole = {
            n.removeprefix(PREFIX): shape
            for n, shape in self.shapes.items()
            if n.startswith(PREFIX)
        }
        return {name: shape for name, shape in whole.items() if not LOW_RANK.search(name)}

    @property
    def n_outputs(self) -> int | None:
        """How many outputs the head in the file has; None if it brings none."""
        heads = [
            shape[0]
            for name, shape in self.brought.items()
            if HEAD.search(name) and not IN_LAYER.search(name)
        ]
        return heads[-1] if heads else None


@dataclass(frozen=True)
class Outline:
    """A full model without its weights, found to be what its files say.

    `lacking`: weights that its files lack, or have in another shape, and that come from elsewhere.
    """

    config: Any
    network: Any
    lacking: frozenset[str] = frozenset()
    quantised: bool = False

    @property
    def n_rows(self) -> int:
        """How many tokens the model has embeddings for."""
        return self.network.get_input_embeddings().weight.shape[0]


def of(
    path: str,
    config: Any,
    task: Task,
    revision: str | None,
    n_outputs: int | None,
    may_lack: Collection[str],
    on_it: Adapter | None,
) -> Outline:
    """The outline of a full model.

    Raises: UserError if it is not what its files say; see `opening.outline`.
    """
    stated, model_class, config = check_class(path, config, task)
    quantised = _prepare(config, n_outputs)
    weights = weight_files.tensors(
        path, revision, name=getattr(config, "transformers_weights", None)
    )
    if not quantised:
        _check_numbers(path, weights)
    if task == "causal":
        _check_generation(path, revision)

    with reading(f"{path}: no {KINDS[task]} can be loaded from it"):
        network, fit = _fit(model_class, config, weights)
    fit = report.of_quantised(fit) if quantised else fit
    brought = set(on_it.brought) if on_it else set()
    lacking = (fit.missing & {*may_lack, *brought}) | (fit.mismatched & brought)
    with reading(
        f"{path}: config.json does not describe a {', '.join(stated.names)}, though it says so"
    ):
        explaining = lacking and fit.unexpected
        unexplained = _unexplained(stated.names, config, weights) if explaining else frozenset()
    if message := report.problem(
        path, fit, stated, lacking, unexplained, on_it.path if on_it else None
    ):
        raise UserError(message)
    return Outline(config, network, frozenset(lacking), quantised)


def check_class(path: str, config: Any, task: Task) -> tuple[Stated, Any, Any]:
    """(what config.json names, the class that transformers makes for the task, the part of the
    configuration that this class takes).

    Raises: UserError if there is no such class, or config.json names one that is not transformers'
    own.
    """
    names = list(config.architectures or [])
    model_class, config = _class_and_config(path, config, task, names)
    stated = _stated(config, names, task)
    code = [file.name for file in sorted(Path(path).glob("*.py"))] if Path(path).is_dir() else []
    if message := report.custom_class(path, stated, model_class.__name__, code):
        raise UserError(message)
    return stated, model_class, config


def _class_and_config(path: str, config: Any, task: Task, stated: list[str]) -> tuple[Any, Any]:
    """The class that transformers makes of a configuration for a task, and the part of the
    configuration that it takes.
    """
    import transformers
    from transformers.models.auto.auto_factory import _get_model_class

    auto: Any = (
        transformers.AutoModelForCausalLM
        if task == "causal"
        else transformers.AutoModelForSequenceClassification
    )
    if type(config) in auto._model_mapping:
        model_class = _get_model_class(config, auto._model_mapping)
    elif task == "causal" and (
        known := [name for name in stated if name in _generative(config.model_type)]
    ):
        model_class = getattr(
            transformers, known[0]
        )  # a model of texts and pictures, which vLLM serves
    else:
        raise UserError(
            f"{path}: no {KINDS[task]} can be loaded from it (transformers has none of model_type"
            f" {config.model_type!r})"
        )
    if (
        config.sub_configs.get("text_config") is not None
        and model_class.config_class is config.sub_configs["text_config"]
    ):
        quantisation = getattr(config, "quantization_config", None)
        config = config.get_text_config()
        if quantisation is not None:
            config.quantization_config = quantisation
    return model_class, config


def _prepare(config: Any, n_outputs: int | None) -> bool:
    """Make a configuration ready for an outline; True if the model was saved quantised."""
    if n_outputs is not None:
        config.num_labels = n_outputs
    quantised = getattr(config, "quantization_config", None) is not None
    if quantised:
        del config.quantization_config
    return quantised


def _check_numbers(path: str, weights: weight_files.Tensors) -> None:
    """Raises: UserError for weights that are whole numbers, which need a scale to be weights."""
    whole = sorted(
        name
        for name, (dtype, _) in weights.by_name.items()
        if WHOLE.match(dtype) and PARAMETER.search(name)
    )
    if whole := [name for name in whole if not report.COMPUTED.search(name)]:
        raise UserError(
            f"{path}: its weights {report.some(whole)} are whole numbers"
            f" ({weights.by_name[whole[0]][0]}), as quantised ones are, and config.json has no"
            " quantization_config that says how to read them; take the model that was not"
            " quantised"
        )


def _fit(model_class: Any, config: Any, weights: weight_files.Tensors) -> tuple[Any, Report]:
    """A network on the device `meta`, and how weights of these names and shapes fit into it."""
    import torch

    empty = {
        name: torch.empty(shape, device="meta") for name, (_, shape) in weights.by_name.items()
    }
    network, info = model_class.from_pretrained(
        None,
        config=config,
        state_dict=empty,
        device_map="meta",
        dtype=torch.float32,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
    )
    mismatched = {key if isinstance(key, str) else key[0] for key in info["mismatched_keys"]}
    found = Report(
        model_class.__name__,
        frozenset(info["missing_keys"]),
        frozenset(info["unexpected_keys"]),
        frozenset(mismatched),
        network.base_model_prefix,
    )
    return network, found


def _stated(config: Any, names: list[str], task: Task) -> Stated:
    from transformers.models.auto import modeling_auto

    stock = [name for name in names if name in _transformers_names()]
    if task == "causal":
        return Stated(names, stock, _generative(config.model_type))
    name = modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES.get(config.model_type)
    return Stated(names, stock, [name] if isinstance(name, str) else list(name or ()))


@functools.cache
def _transformers_names() -> frozenset[str]:
    """The public names of transformers, without importing the modules that define them."""
    import transformers

    return frozenset(dir(transformers))  # slow: most of a second at every call


def _generative(model_type: str) -> list[str]:
    """The classes of a model type that write text."""
    from transformers.models.auto import modeling_auto as m

    found: list[str] = []
    for names in (
        m.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, m.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES, m.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
        m.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    ):  # fmt: skip
        name = names.get(model_type)
        found += [name] if isinstance(name, str) else list(name or ())
    if model_type.endswith("_text"):
        found += _generative(model_type.removesuffix("_text"))
    if model_type == "ministral":  # transformers reads mistral models with layer_types so
        found += _generative("mistral")
    return found


def _unexplained(stated: list[str], config: Any, weights: weight_files.Tensors) -> frozenset[str]:
    """The weights that the stated class has no use for either; where none is stated, a causal
    language model's class is taken.
    """
    import transformers
    from transformers.models.auto import modeling_auto

    name = (
        stated[0]
        if stated
        else modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type, "")
    )
    model_class: Any = getattr(transformers, name) if name in _transformers_names() else None
    if not (
        isinstance(model_class, type) and issubclass(model_class, transformers.PreTrainedModel)
    ):
        return frozenset(weights.by_name)
    return _fit(model_class, copy.deepcopy(config), weights)[1].unexpected


def _check_generation(path: str, revision: str | None) -> None:
    """Raises: UserError for a generation_config.json that cannot be read; transformers would leave
    it out without a word.
    """
    file = find(path, "generation_config.json", revision)
    for key, value in (read_object(file) if file else {}).items():
        if TOKEN_ID.fullmatch(key) and not all(
            type(n) is int for n in (value if isinstance(value, list) else [value or 0])
        ):
            raise UserError(
                f"{file}: {key} must be a token's number or a list of them, not {value!r}; mend it"
                " or remove the file"
            )
