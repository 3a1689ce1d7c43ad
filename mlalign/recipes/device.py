"""The devices that a scale is meant for: `device` in `conf/scale/NAME.yaml`.

    kind           cpu or cuda (the default)
    memory_gib     what one process can use: the card's memory without the CUDA context
    peak_tflops    of dense matrix products in the dtype of the steps, from the maker's data sheet
    utilization    the share of the peak that training reaches (MFU, Chowdhery et al. 2022,
                   appendix B), measured on such devices

All of them may be left out. The plan then has nothing to compare with, and says so.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from mlalign.core import schema

GIB = 2**30


@dataclasses.dataclass
class Device:
    kind: Literal["cpu", "cuda"] = "cuda"
    memory_gib: float | None = None
    peak_tflops: float | None = None
    utilization: float | None = None

    @property
    def memory(self) -> int | None:
        """Bytes."""
        return None if self.memory_gib is None else int(self.memory_gib * GIB)

    @property
    def flops(self) -> float | None:
        """Operations per second in training; None where one of the two numbers is missing."""
        if not self.peak_tflops or not self.utilization:
            return None
        return self.peak_tflops * 1e12 * self.utilization


def of_scale(content: Mapping[str, Any] | None, errors: list[str]) -> Device:
    """The device of a scale; mistakes are appended to `errors` with their keys."""
    key = "scale.device"
    own_errors: list[str] = []
    device = schema.build(Device, content or {}, key, own_errors)
    if device is not None:
        for name in ("memory_gib", "peak_tflops", "utilization"):
            value = getattr(device, name)
            if value is not None and value <= 0:
                own_errors.append(f"{key}.{name}: must be above 0, got {value}")
        share = device.utilization
        if share is not None and share > 1:
            own_errors.append(f"{key}.utilization: a share between 0 and 1, got {share}")
    errors.extend(own_errors)
    return Device() if own_errors or device is None else device
