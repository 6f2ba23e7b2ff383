"""Inspection: what the namespace can do, on which devices, with which dtypes."""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.devices.base import Device
from engine.ops.data_types import DTYPES
from engine.settings.in_force import list_devices

DEFAULT_INTEGER = np.dtype(np.int_)


class Info:
    """The answer of `__array_namespace_info__()`; asking starts nothing."""

    def capabilities(self) -> dict[str, object]:
        """Which of the optional behaviours of the standard there are."""
        return {"boolean indexing": True, "data-dependent shapes": True, "max dimensions": 64}

    def default_device(self) -> Device:
        """The device of arrays that no scope and no operand puts elsewhere."""
        return list_devices()[0]

    def devices(self) -> tuple[Device, ...]:
        """The devices of the executor in force."""
        return list_devices()

    def default_dtypes(self, *, device: object = None) -> dict[str, np.dtype[Any]]:
        """The dtypes of arrays made without naming one."""
        self._check(device)
        return {
            "real floating": DTYPES["float64"],
            "complex floating": DTYPES["complex128"],
            "integral": DEFAULT_INTEGER,
            "indexing": DEFAULT_INTEGER,
        }

    def dtypes(self, *, device: Any = None, kind: str | tuple[str, ...] | None = None) -> dict[str, np.dtype[Any]]:
        """The dtypes of the standard, of one kind or of several. Raises `ValueError` for a kind that does not exist."""
        self._check(device)
        if kind is None:
            return dict(DTYPES)
        kinds = kind if isinstance(kind, tuple) else (kind,)
        return {name: dtype for name, dtype in DTYPES.items() if any(np.isdtype(dtype, each) for each in kinds)}

    def _check(self, device: Any) -> None:
        """A device that does not exist is an error; all have the same dtypes."""
        if device is not None and Device(device) not in list_devices():
            known = ", ".join(map(str, list_devices()))
            raise ValueError(f"device {device} does not exist; there are {known}")


def __array_namespace_info__() -> Info:
    """Tell what the namespace can do, on which devices, with which dtypes."""
    return Info()
