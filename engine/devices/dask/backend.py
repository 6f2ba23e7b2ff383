"""The backend of `DASK:k`: starts nothing, and imports nothing of Dask, before the first op needs it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from engine.base.errors import DeviceLostError, UnknownDeviceError
from engine.devices.base import Array, Backend, Device, Record
from engine.devices.dask.values import RemoteValue

if TYPE_CHECKING:
    from engine.devices.dask.link import Link
    from engine.devices.dask.session import Session

LOOKAHEAD = 1_024


class Connection:
    """The cluster that the devices of one executor share: connected to, or started, once."""

    def __init__(self, scheduler: str | None, security: Any, workers: int) -> None:
        self._scheduler = scheduler
        self._security = security
        self._workers = workers
        self._lock = threading.Lock()
        self._session: Session | None = None
        self._closed = False

    def session(self) -> Session:
        """The session. Raises `ConnectionError` where no scheduler answers."""
        with self._lock:
            if self._closed:
                raise DeviceLostError("the executor has closed, and the cluster with it")
            if self._session is None:
                module: Any = import_module("engine.devices.dask.session")
                self._session = module.Session(self._scheduler, self._security, self._workers)
            return self._session

    def close(self) -> None:
        """The executor has closed."""
        with self._lock:
            self._closed = True
            session = self._session
        if session is not None:
            session.close()


class DaskBackend(Backend[RemoteValue]):
    """The workers of a cluster, each a device."""

    def __init__(self, connection: Connection, lost: Callable[[Backend[Any], Device, str], None]) -> None:
        self.connection = connection
        self._lost = lost

    def lookahead(self) -> int:
        """What is pending together is one program."""
        return LOOKAHEAD

    def runs(self, name: str, kernel: Callable[..., Any]) -> bool:
        """All but draws of random numbers: their generator is here, and goes on with each."""
        return not name.startswith("random.")

    def submit(self, device: Device, records: Sequence[Record]) -> None:
        """Send the records as a program."""
        self._link(device).submit(records)

    def to_host(self, value: RemoteValue) -> Array:
        """The array of a value."""
        return value.keeper.read(value)

    def from_host(self, device: Device, array: Array) -> RemoteValue:
        """Send an array to a worker."""
        return self._link(device).put(array)

    def copy(self, value: RemoteValue, source: Device, target: Device) -> RemoteValue:
        """Have one worker get a value from another."""
        return self._link(target).pull(value, self._link(source))

    def close(self) -> None:
        """Let go of the cluster."""
        self.connection.close()

    def _link(self, device: Device) -> Link:
        return self.connection.session().link(device, lambda reason: self._lost(self, device, reason))


def check_installed(kind: str) -> None:
    """Raise `UnknownDeviceError` where the packages that devices of this kind need are not installed."""
    if find_spec("distributed") is None or find_spec("dask") is None:
        raise UnknownDeviceError(
            f"Config.device_count asks for {kind} devices, which need Dask: pip install 'eagerloop[dask]'"
        )
