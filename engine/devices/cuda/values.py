"""Values that live on a GPU, as this process knows them."""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.devices.base import Device
from engine.devices.cuda.runtime import GpuArray


class CudaValue:
    """An array on a GPU. It is never written to once it was handed over."""

    __slots__ = ("array", "device", "dtype", "shape")

    def __init__(self, device: Device, array: GpuArray, *, keep: bool = True) -> None:
        self.device = device
        """Where it lives."""
        self.array: GpuArray | None = array if keep else None
        """The array of the runtime; None of a result that only ops of its own batch read, which is not kept."""
        self.shape: tuple[int, ...] = tuple(array.shape)
        """Its shape."""
        self.dtype: np.dtype[Any] = array.dtype
        """Its dtype."""

    def __repr__(self) -> str:
        return f"<value on {self.device}, shape={self.shape}, dtype={self.dtype}>"
