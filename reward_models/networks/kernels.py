"""Faster and finer arithmetic for a loaded network, same results up to rounding."""

import functools
import platform
import re
from typing import Any

import torch

# Names of the layer that gives the outputs.
HEAD = re.compile(r"(^|\.)(score|classifier|classification_head|out_proj)(\.out_proj)?$")


def float32_head(model: Any) -> None:
    """Make the last layer compute in float32, whatever the network's dtype.

    bfloat16 has 8 significant bits, in which close scores become equal.
    """
    n_outputs = model.config.num_labels
    for name, layer in model.named_modules():
        is_linear = type(layer) is torch.nn.Linear
        if is_linear and HEAD.search(name) and layer.out_features == n_outputs:
            layer.float()
            layer.register_forward_pre_hook(lambda _, inputs: (inputs[0].float(),))


def use_onednn(model: Any) -> None:
    """Run float32 linear layers on x86 CPUs through oneDNN.

    torch gives them to MKL, which reaches half of an AMD processor's speed; on Intel's the two are
    level. A token's result does not depend on how many others there are, except that oneDNN
    computes a single token in another way: a single one is therefore computed twice.
    """
    if platform.machine() not in ("x86_64", "AMD64") or not torch.backends.mkldnn.is_available():
        return
    layers: list[Any] = [m for m in model.modules() if type(m) is torch.nn.Linear]
    for layer in layers:
        weight = layer.weight
        if weight.dtype == torch.float32 and weight.device.type == "cpu":
            layer.forward = functools.partial(_linear, layer)


def _linear(layer: torch.nn.Linear, inputs: torch.Tensor) -> torch.Tensor:
    is_single_token = inputs.numel() == layer.in_features
    if is_single_token:
        return _linear(layer, torch.stack([inputs, inputs]))[0]
    pointwise = torch.ops.mkldnn._linear_pointwise
    return pointwise(inputs, layer.weight, layer.bias, "none", [], "")
