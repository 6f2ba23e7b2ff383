"""CuPy by hand, on a stream: what the engine is measured against. Imported where there is a GPU."""

from __future__ import annotations

from typing import Any

import cupy
import numpy as np

_eagerloop_internal = True  # its frames are not the user's


def card() -> str:
    """The name of the first GPU."""
    name = cupy.cuda.runtime.getDeviceProperties(0)["name"]
    return name.decode() if isinstance(name, bytes) else str(name)


class ByHand:
    """Launches on a stream that does not wait for the default one."""

    def __init__(self) -> None:
        self._stream = cupy.cuda.Stream(non_blocking=True)

    def array(self, size: int) -> Any:
        """An array of ones."""
        with self._stream:
            return cupy.ones(size)

    def add(self, x: Any, number: float) -> Any:
        """Launch a sum."""
        with self._stream:
            return cupy.add(x, number)

    def sin(self, x: Any) -> Any:
        """Launch a sine."""
        with self._stream:
            return cupy.sin(x)

    def matmul(self, x: Any, y: Any) -> Any:
        """Launch a product."""
        with self._stream:
            return cupy.matmul(x, y)

    def host(self, x: Any) -> np.ndarray[Any, Any]:
        """Copy to the host."""
        with self._stream:
            return np.asarray(cupy.asnumpy(x, stream=self._stream))

    def synchronize(self) -> None:
        """Wait for the stream."""
        self._stream.synchronize()
