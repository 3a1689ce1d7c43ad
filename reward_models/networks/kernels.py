"""Faster and finer arithmetic for a loaded network, same results up to rounding."""

import functools
import platform
import re
from typing import Any

import torch

HEAD = re.compile(r"(^|\.)(score|classifier|classification_head|out_proj)(\.out_proj)?$")  # names of the layer that gives the outputs


def float32_head(model: Any) -> None:
    """Let the last layer compute in float32 whatever the network's dtype: bfloat16 has 8 bits, in which close scores become equal."""
    for name, layer in model.named_modules():
        if HEAD.search(name) and type(layer) is torch.nn.Linear and layer.out_features == model.config.num_labels:
            layer.float()
            layer.register_forward_pre_hook(lambda _, inputs: (inputs[0].float(),))


def use_onednn(model: Any) -> None:
    """Let float32 linear layers on x86 CPUs run through oneDNN.

    torch gives them to MKL, which reaches half of an AMD processor's speed; on Intel's the two are level. What comes out for a token
    does not depend on how many others there are: oneDNN takes another way for one alone, so that one gets company.
    """
    if platform.machine() not in ("x86_64", "AMD64") or not torch.backends.mkldnn.is_available():
        return
    layers: list[Any] = [m for m in model.modules() if type(m) is torch.nn.Linear]
    for layer in layers:
        if layer.weight.dtype == torch.float32 and layer.weight.device.type == "cpu":
            layer.forward = functools.partial(_linear, layer)


def _linear(layer: torch.nn.Linear, inputs: torch.Tensor) -> torch.Tensor:
    if inputs.numel() == layer.in_features:
        return _linear(layer, torch.stack([inputs, inputs]))[0]
    return torch.ops.mkldnn._linear_pointwise(inputs, layer.weight, layer.bias, "none", [], "")
