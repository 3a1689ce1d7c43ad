"""The devices that a scale is meant for: `device` in `conf/scale/NAME.yaml`.

    kind           cpu | cuda; cuda unless said
    memory_gib     what one process can have on a device: the card's memory without the CUDA context
    peak_tflops    of dense matrix products in the dtype that steps compute in, from the maker's data sheet
    utilization    the share of it that training reaches (MFU, Chowdhery et al. 2022, appendix B), as measured on such devices

All but `kind` may be left out; then there is nothing to compare with, and the plan says so.
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
        return None if self.memory_gib is None else int(self.memory_gib * GIB)

    @property
    def flops(self) -> float | None:
        """Operations per second in training; None where one of the two numbers is missing."""
        return (
            self.peak_tflops * 1e12 * self.utilization
            if self.peak_tflops and self.utilization
            else None
        )


def of_scale(told: Mapping[str, Any] | None, errors: list[str]) -> Device:
    """The device of a scale; mistakes are appended to `errors` with their keys."""
    found: list[str] = []
    device = schema.build(Device, told or {}, "scale.device", found)
    for name in ("memory_gib", "peak_tflops", "utilization") if device else ():
        value = getattr(device, name)
        if value is not None and value <= 0:
            found.append(f"scale.device.{name}: must be above 0, got {value}")
    if device and device.utilization is not None and device.utilization > 1:
        found.append(f"scale.device.utilization: a share between 0 and 1, got {device.utilization}")
    errors.extend(found)
    return Device() if found or device is None else device
