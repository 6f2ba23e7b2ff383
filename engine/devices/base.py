"""What a device is: a name that users see, and a backend that holds values and runs kernels."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Protocol, Self

import numpy as np

_PATTERN = re.compile(r"(?:/?device:)?([a-z_][a-z0-9_]*):([0-9]+)", re.IGNORECASE)


class Device:
    """A logical device, such as CPU:0. There is one object for each name: devices compare by identity.

    `Device("CPU:1")`, `Device("/device:CPU:1")` and `Device("cpu:1")` are the same object.
    """

    __slots__ = ("index", "kind")

    kind: str
    index: int

    _made: dict[tuple[str, int], Device] = {}  # noqa: RUF012 - the table of all devices, shared on purpose

    def __new__(cls, name: str | Device) -> Self:
        if isinstance(name, cls):
            return name
        if not isinstance(name, str):
            raise TypeError(f"device must be a name such as 'CPU:0' or an engine.Device, but got {name!r}")
        match = _PATTERN.fullmatch(name.strip())
        if match is None:
            raise ValueError(f"device must be named like 'CPU:0' or '/device:CPU:0', but got {name!r}")
        key = (match[1].upper(), int(match[2]))
        device = cls._made.get(key)
        if device is None:
            device = object.__new__(cls)
            device.kind, device.index = key
            device = cls._made.setdefault(key, device)
        return device  # type: ignore[return-value]

    def __str__(self) -> str:
        return f"{self.kind}:{self.index}"

    def __repr__(self) -> str:
        return f"Device({str(self)!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Device, (str(self),)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self


class Backend(Protocol):
    """What the devices of one kind do. A new kind of device is one module with one class like this.

    A value is whatever the backend holds (for the CPU, an ndarray). Values are never written to once made.
    """

    kind: str
    on_host: bool
    """Whether values are NumPy arrays, so that an op's own kernel runs on them as it is."""

    def count(self) -> int | None:
        """How many such devices this machine has; None when they are logical and there may be any number."""

    def kernel(self, name: str, kernel: Callable[..., Any]) -> Callable[..., Any]:
        """The kernel of the op of that name on this device; `kernel` is NumPy's."""

    def from_host(self, device: Device, array: np.ndarray[Any, Any]) -> Any:
        """A value on `device`."""

    def to_host(self, value: Any) -> np.ndarray[Any, Any]:
        """The value as an array on the host; no copy where that is possible."""

    def adopt(self, result: Any, held: int) -> Any:
        """Make a kernel's result, which the caller holds `held` times, a value that nobody else can write to."""
