"""The backend of `CLUSTER:0`: imports nothing of Dask before the first op needs it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from engine.base.errors import UnknownDeviceError
from engine.devices.base import Array, Backend, Device, Record
from engine.devices.cluster.values import ClusterValue
from engine.devices.dask.backend import Connection

if TYPE_CHECKING:
    from engine.devices.cluster.batches import Batches

LOOKAHEAD = 256


class ClusterBackend(Backend[ClusterValue]):
    """A cluster as one device."""

    def __init__(self, connection: Connection, lost: Callable[[Backend[Any], Device, str], None]) -> None:
        self._connection = connection
        self._lost = lost
        self._lock = threading.Lock()
        self._batches: Batches | None = None

    def count(self) -> int:
        """One: it is the whole cluster."""
        return 1

    def lookahead(self) -> int:
        """Hand over what is pending together as one graph."""
        return LOOKAHEAD

    def runs(self, name: str, kernel: Callable[..., Any]) -> bool:
        """All but draws of random numbers: their generator is here, and goes on with each."""
        return not name.startswith("random.")

    def submit(self, device: Device, records: Sequence[Record]) -> None:
        """Hand the records over as one graph."""
        queued: Any = records
        self._handing_over(device).submit(queued)

    def to_host(self, value: ClusterValue) -> Array:
        """Gather an array."""
        return self._handing_over(Device("CLUSTER:0")).to_host(value.array)

    def from_host(self, device: Device, array: Array) -> ClusterValue:
        """Spread an array over the cluster in chunks."""
        return self._handing_over(device).from_host(array)

    def close(self) -> None:
        """Let go of the cluster."""
        self._connection.close()

    def _handing_over(self, device: Device) -> Batches:
        with self._lock:
            if self._batches is None:
                session = self._connection.session()
                session.when_lost(lambda reason: self._lost(self, device, reason))
                module: Any = import_module("engine.devices.cluster.batches")
                self._batches = module.Batches(session)
            return self._batches


def no_cluster() -> UnknownDeviceError:
    """The error of an array of Dask that is given to an executor without a cluster."""
    return UnknownDeviceError(
        "an array of Dask lives on a CLUSTER device, and this executor has none: "
        "engine.Config(device_count={'CLUSTER': 1}, dask_scheduler=...) asks for one"
    )
