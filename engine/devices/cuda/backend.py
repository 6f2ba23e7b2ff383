"""The backend of `GPU:k`: imports the rest of the package, and CuPy, when an executor asks for GPUs, and not before."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from engine.devices.base import Array, Backend, Device, Record
from engine.devices.cuda.errors import no_gpu
from engine.devices.cuda.runtime import Runtime
from engine.devices.cuda.values import CudaValue

if TYPE_CHECKING:
    from engine.devices.cuda.unit import Unit

LOOKAHEAD = 1_024
"""Records of one batch, at most."""


class CudaBackend(Backend[CudaValue]):
    """The GPUs of this machine, each a device. `runtime` makes what they are driven with: CuPy unless it is given."""

    takes_functions = True

    def __init__(
        self, lost: Callable[[Backend[Any], Device, str], None], runtime: Callable[[], Runtime] | None = None
    ) -> None:
        self._lost = lost
        self._make_runtime = runtime or _cupy_runtime
        self._lock = threading.Lock()
        self._runtime: Runtime | None = None
        self._units: dict[Device, Unit] = {}
        self._kernels: Any = import_module("engine.devices.cuda.kernels")
        self._unit_module: Any = import_module("engine.devices.cuda.unit")

    def count(self) -> int:
        """How many GPUs there are. Raises `UnknownDeviceError` where there is none, or no CuPy to use it with."""
        count = self.runtime().count()
        if not count:
            raise no_gpu("CUDA finds no device")
        return count

    def runtime(self) -> Runtime:
        """The runtime that drives the GPUs, made by the first caller."""
        with self._lock:
            if self._runtime is None:
                self._runtime = self._make_runtime()
            return self._runtime

    def lookahead(self) -> int:
        """Launch what is pending together, one after the other."""
        return LOOKAHEAD

    def runs(self, name: str, kernel: Callable[..., Any]) -> bool:
        """All that CuPy is asked for: not functions of users, nor draws of random numbers."""
        return bool(self._kernels.is_for_gpu(name, kernel))

    def submit(self, device: Device, records: Sequence[Record]) -> None:
        """Launch the records; each is completed when the event behind it has passed."""
        self._unit(device).submit(records)

    def to_host(self, value: CudaValue) -> Array:
        """Copy a value through page-locked memory."""
        return self._unit(value.device).to_host(value)

    def from_host(self, device: Device, array: Array) -> CudaValue:
        """Copy an array through page-locked memory."""
        return self._unit(device).from_host(array)

    def copy(self, value: CudaValue, source: Device, target: Device) -> CudaValue:
        """Copy a value from one GPU to another, directly where they can reach each other."""
        return self._unit(target).pull(value, self._unit(source))

    def close(self) -> None:
        """Let go of captured functions. Values can still be read."""
        with self._lock:
            units = list(self._units.values())
        for unit in units:
            unit.close()

    def _unit(self, device: Device) -> Unit:
        runtime = self.runtime()
        with self._lock:
            unit = self._units.get(device)
            if unit is None:
                made: Unit = self._unit_module.Unit(device, runtime, lambda reason: self._lost(self, device, reason))
                unit = self._units[device] = made
            return unit


def _cupy_runtime() -> Runtime:
    """CuPy. Raises `UnknownDeviceError` where it is not installed, or finds nothing to work with."""
    if find_spec("cupy") is None:
        raise no_gpu("CuPy, which it is used with, is not installed: pip install 'eagerloop[cuda]'")
    try:
        module: Any = import_module("engine.devices.cuda.cupy_runtime")
    except Exception as error:  # a library that is not there, another NumPy than it was built for, no place for a cache
        raise no_gpu(f"CuPy cannot be imported: {error}") from error
    return module.CupyRuntime()  # type: ignore[no-any-return]
