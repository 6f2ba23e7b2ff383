"""The backend of `DASK:k`: starts nothing, and imports nothing of Dask, before the first op needs it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from time import monotonic
from typing import TYPE_CHECKING, Any

from engine.base.errors import DeviceLostError, UnknownDeviceError
from engine.devices.base import Array, Backend, Device, Record
from engine.devices.dask.local import LocalCluster
from engine.devices.dask.values import RemoteValue

if TYPE_CHECKING:
    from engine.devices.dask.link import Link
    from engine.devices.dask.session import Session

LOOKAHEAD = 1_024
"""Ops of one program, at most."""
AGAIN_SECONDS = 10.0
"""Seconds after a failed connection before another one is tried."""


class Connection:
    """The cluster that the devices of one executor share: connected to, or started, once."""

    def __init__(self, scheduler: str | None, security: Any, workers: int) -> None:
        self._scheduler = scheduler
        self._security = security
        self._workers = workers
        self._lock = threading.Lock()
        self._session: Session | None = None
        self._closed = False
        self._failure: Exception | None = None
        self._failed_until = 0.0

    def session(self) -> Session:
        """The session. Raises `ConnectionError` where no scheduler answers."""
        with self._lock:
            if self._closed:
                raise DeviceLostError("the executor has closed, and the cluster with it")
            if self._session is None:
                self._session = self._new_session()
            return self._session

    def _new_session(self) -> Session:
        """A session; where none could be had a moment ago, the same error at once."""
        if self._failure is not None and monotonic() < self._failed_until:
            raise self._failure
        # Its processes import what they need while this one does.
        local = LocalCluster(self._workers, wait=False) if self._scheduler is None else None
        module: Any = import_module("engine.devices.dask.session")
        try:
            session: Session = module.Session(self._scheduler, self._security, self._workers, local)
        except Exception as error:
            if local is not None:
                local.close()
            self._failure, self._failed_until = error, monotonic() + AGAIN_SECONDS
            raise
        return session

    def close(self) -> None:
        """The executor has closed."""
        with self._lock:
            self._closed = True
            session = self._session
        if session is not None:
            session.close()


class DaskBackend(Backend[RemoteValue]):
    """The workers of a cluster, each a device."""

    takes_functions = True

    def __init__(self, connection: Connection, lost: Callable[[Backend[Any], Device, str], None]) -> None:
        self.connection = connection
        self._lost = lost

    def lookahead(self) -> int:
        """Send what is pending together as one program."""
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
