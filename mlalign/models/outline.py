"""A full model without its weights: its transformers class, and whether its files agree with it.

Reads config.json and the headers of the weight files, never the weights. `report` decides what
fits.
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
# What peft's methods add to a layer.
LOW_RANK = re.compile(r"(^|[._])(lora|dora|ia3|hada|lokr|oft|vera)_")
PARAMETER = re.compile(r"(^|\.)(weight|bias)$")
INTEGER = re.compile(r"[iu]\d+|bool")  # data types of safetensors that are no floats
IN_LAYER = re.compile(r"\.\d+\.")


@dataclass
class Adapter:
    """A LoRA adapter: the shapes in its file; its configuration and weights if they were read."""

    path: str
    shapes: Mapping[str, tuple[int, ...]]
    config: Any = None
    weights: dict[str, Any] = field(default_factory=dict)

    @property
    def brought(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the whole weights in the file (heads, embeddings), by the name in the base."""
        shapes = {}
        for name, shape in self.shapes.items():
            base_name = name.removeprefix(PREFIX)
            if name.startswith(PREFIX) and not LOW_RANK.search(base_name):
                shapes[base_name] = shape
        return shapes

    @property
    def n_outputs(self) -> int | None:
        """How many outputs the head in the file has; None if it brings none."""
        n_outputs = None
        for name, shape in self.brought.items():
            if HEAD.search(name) and not IN_LAYER.search(name):
                n_outputs = shape[0]
        return n_outputs


@dataclass(frozen=True)
class Outline:
    """A full model without its weights, checked against its files.

    `lacking`: weights that its files lack or have in another shape, and that come from elsewhere.
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
    weights_name = getattr(config, "transformers_weights", None)
    weights = weight_files.tensors(path, revision, name=weights_name)
    if not quantised:
        _check_numbers(path, weights)
    if task == "causal":
        _check_generation(path, revision)

    with reading(f"{path}: no {KINDS[task]} can be loaded from it"):
        network, fit = _fit(model_class, config, weights)
    if quantised:
        fit = report.of_quantised(fit)

    brought = set(on_it.brought) if on_it else set()
    lacking = (fit.missing & {*may_lack, *brought}) | (fit.mismatched & brought)
    unexplained: frozenset[str] = frozenset()
    if lacking and fit.unexpected:
        names = ", ".join(stated.names)
        with reading(f"{path}: config.json does not describe a {names}, though it says so"):
            unexplained = _unexplained(stated.names, config, weights)

    adapter = on_it.path if on_it else None
    problem = report.problem(path, fit, stated, lacking, unexplained, adapter)
    if problem:
        raise UserError(problem)
    return Outline(config, network, frozenset(lacking), quantised)


def auto_class(task: Task) -> Any:
    """The class of transformers that opens any model for this task."""
    import transformers

    if task == "causal":
        return transformers.AutoModelForCausalLM
    return transformers.AutoModelForSequenceClassification


def check_class(path: str, config: Any, task: Task) -> tuple[Stated, Any, Any]:
    """(what config.json names, the model class for the task, the configuration for that class).

    Raises: UserError if there is no such class, or config.json names one that transformers lacks.
    """
    names = list(config.architectures or [])
    model_class = _model_class(path, config, task, names)
    config = _config_for(model_class, config)
    stated = _stated(config, names, task)
    code = [file.name for file in sorted(Path(path).glob("*.py"))]
    problem = report.custom_class(path, stated, model_class.__name__, code)
    if problem:
        raise UserError(problem)
    return stated, model_class, config


def _model_class(path: str, config: Any, task: Task, stated: list[str]) -> Any:
    """The class that transformers makes of a configuration for a task."""
    import transformers
    from transformers.models.auto.auto_factory import _get_model_class

    auto = auto_class(task)
    if type(config) in auto._model_mapping:
        return _get_model_class(config, auto._model_mapping)
    if task == "causal":
        # A model of text and images, which vLLM serves.
        generative = _generative(config.model_type)
        for name in stated:
            if name in generative:
                return getattr(transformers, name)
    raise UserError(
        f"{path}: no {KINDS[task]} can be loaded from it (transformers has none of model_type"
        f" {config.model_type!r})"
    )


def _config_for(model_class: Any, config: Any) -> Any:
    """The part of a configuration that the class takes: all of it, or its `text_config`."""
    text_class = config.sub_configs.get("text_config")
    if text_class is None or model_class.config_class is not text_class:
        return config
    text_config = config.get_text_config()
    quantisation = getattr(config, "quantization_config", None)
    if quantisation is not None:
        text_config.quantization_config = quantisation
    return text_config


def _prepare(config: Any, n_outputs: int | None) -> bool:
    """Make a configuration ready for an outline; True if the model was saved quantised."""
    if n_outputs is not None:
        config.num_labels = n_outputs
    quantised = getattr(config, "quantization_config", None) is not None
    if quantised:
        del config.quantization_config
    return quantised


def _check_numbers(path: str, weights: weight_files.Tensors) -> None:
    """Raises: UserError for integer weights, which mean nothing without a scale."""
    integers = []
    for name, (dtype, _) in sorted(weights.by_name.items()):
        is_weight = PARAMETER.search(name) and not report.COMPUTED.search(name)
        if is_weight and INTEGER.match(dtype):
            integers.append(name)
    if integers:
        dtype, _ = weights.by_name[integers[0]]
        raise UserError(
            f"{path}: its weights {report.some(integers)} are whole numbers ({dtype}), as quantised"
            " ones are, and config.json has no quantization_config that says how to read them;"
            " take the model that was not quantised"
        )


def _fit(model_class: Any, config: Any, weights: weight_files.Tensors) -> tuple[Any, Report]:
    """A network on the device `meta`, and how weights of these names and shapes fit into it."""
    import torch

    empty = {}
    for name, (_, shape) in weights.by_name.items():
        empty[name] = torch.empty(shape, device="meta")
    network, info = model_class.from_pretrained(
        None,
        config=config,
        state_dict=empty,
        device_map="meta",
        dtype=torch.float32,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
    )
    # Transformers gives names, or (name, shape in the file, shape in the network).
    mismatched = set()
    for key in info["mismatched_keys"]:
        mismatched.add(key if isinstance(key, str) else key[0])
    fit = Report(
        model_class.__name__,
        frozenset(info["missing_keys"]),
        frozenset(info["unexpected_keys"]),
        frozenset(mismatched),
        network.base_model_prefix,
    )
    return network, fit


def _stated(config: Any, names: list[str], task: Task) -> Stated:
    from transformers.models.auto import modeling_auto

    stock = [name for name in names if name in _transformers_names()]
    if task == "causal":
        return Stated(names, stock, _generative(config.model_type))
    classes = modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES
    return Stated(names, stock, _class_names(classes, config.model_type))


@functools.cache
def _transformers_names() -> frozenset[str]:
    """The public names of transformers, without importing the modules that define them."""
    import transformers

    return frozenset(dir(transformers))  # slow: most of a second at every call


def _generative(model_type: str) -> list[str]:
    """The classes of a model type that write text."""
    from transformers.models.auto import modeling_auto

    classes = []
    for mapping in (
        modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
        modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
        modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    ):
        classes += _class_names(mapping, model_type)
    if model_type.endswith("_text"):
        classes += _generative(model_type.removesuffix("_text"))
    if model_type == "ministral":  # transformers' type for mistral models that have layer_types
        classes += _generative("mistral")
    return classes


def _class_names(mapping: Mapping[str, Any], model_type: str) -> list[str]:
    """What one of transformers' mappings has for a model type: one name, several, or none."""
    names = mapping.get(model_type)
    if isinstance(names, str):
        return [names]
    return list(names or ())


def _unexplained(stated: list[str], config: Any, weights: weight_files.Tensors) -> frozenset[str]:
    """The weights that the first stated class has no use for either.

    If config.json states none, the model type's causal language model is used.
    """
    import transformers
    from transformers.models.auto import modeling_auto

    if stated:
        name = stated[0]
    else:
        name = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type, "")
    model_class: Any = getattr(transformers, name) if name in _transformers_names() else None
    if not isinstance(model_class, type):
        return frozenset(weights.by_name)
    if not issubclass(model_class, transformers.PreTrainedModel):
        return frozenset(weights.by_name)
    _, fit = _fit(model_class, copy.deepcopy(config), weights)
    return fit.unexpected


def _check_generation(path: str, revision: str | None) -> None:
    """Raises: UserError for a broken generation_config.json, which transformers would ignore."""
    file = find(path, "generation_config.json", revision)
    if file is None:
        return
    for key, value in read_object(file).items():
        if not TOKEN_ID.fullmatch(key):
            continue
        tokens = value if isinstance(value, list) else [value or 0]
        if not all(type(token) is int for token in tokens):
            raise UserError(
                f"{file}: {key} must be a token's number or a list of them, not {value!r}; mend it"
                " or remove the file"
            )
