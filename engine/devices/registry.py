"""Which backend serves which kind of device, and which devices were lost."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from engine.base.config import Config
from engine.base.errors import UnknownDeviceError
from engine.devices.base import Backend, Device
from engine.devices.cluster.backend import ClusterBackend
from engine.devices.cpu import CpuBackend
from engine.devices.cuda.backend import CudaBackend
from engine.devices.dask.backend import Connection, DaskBackend, check_installed
from engine.threads.blas import core_count

Factory = Callable[[], Backend[Any]]

_BUILT_IN: Mapping[str, Factory] = {"CPU": CpuBackend}
_REPLACEABLE: Mapping[str, Factory] = {"GPU": lambda: CudaBackend(lost)}
"""Kinds of the engine's own that a program may serve itself."""
_OF_CLUSTERS = ("DASK", "CLUSTER")
"""Kinds of the engine's own whose devices share the cluster of their executor."""
_factories: dict[str, Factory] = {**_BUILT_IN, **_REPLACEABLE}

_METHODS = ("count", "lookahead", "runs", "submit", "to_host", "from_host", "copy", "close")


def register_backend(kind: str, factory: Factory) -> None:
    """Have devices of `kind` served by what `factory()` makes, in executors made from now on.

    `Config(device_count={kind: n})` then asks for devices of it. `factory` is called once for each executor, and
    returns a `Backend`; a subclass of that is a factory. Registering a kind again replaces its factory.

    Raises `TypeError` for a kind that is no str or a factory that cannot be called, and `ValueError` for a kind that
    is no identifier, or that the engine serves itself.

    >>> def stepped():
    ...     return engine.devices.SteppedBackend(automatic=True)
    >>> engine.devices.register_backend("STEPPED", stepped)
    >>> config = engine.Config(device_count={"STEPPED": 1})
    >>> async with engine.Executor(config, execution_mode=engine.ASYNC):
    ...     total = await ops.sum(ops.ones(3, device="STEPPED:0"))
    >>> total
    np.float64(3.0)
    """
    name = _checked_kind(kind)
    if name in _BUILT_IN or name in _OF_CLUSTERS:
        raise ValueError(f"register_backend: kind {kind!r} is the engine's own; register the backend as another kind")
    if not _can_be_called(factory):
        raise TypeError(
            "register_backend: factory must be a class or a function without arguments that makes a Backend, "
            f"but got {factory!r}" + ("; pass its class, or a lambda that returns it" if _is_backend(factory) else "")
        )
    _factories[name] = factory


@contextmanager
def registered(kind: str, factory: Factory) -> Iterator[None]:
    """As `register_backend`, inside the block only: what was registered before is put back."""
    before = _factories.get(_checked_kind(kind))
    register_backend(kind, factory)
    try:
        yield
    finally:
        _factories.pop(kind.upper(), None)
        if before is not None:
            _factories[kind.upper()] = before


def forget_backends() -> None:
    """Serve the kinds of the engine's own only."""
    _factories.clear()
    _factories.update(_BUILT_IN)
    _factories.update(_REPLACEABLE)


def _can_be_called(factory: object) -> bool:
    return callable(factory)


def _checked_kind(kind: object) -> str:
    if not isinstance(kind, str):
        raise TypeError(f"register_backend: kind must be a name such as 'GPU', but got {kind!r}")
    if not (kind.isidentifier() and kind.isascii()):
        raise ValueError(f"register_backend: kind must be letters, digits and _, such as 'GPU', but got {kind!r}")
    return kind.upper()


def _is_backend(made: object) -> bool:
    return not isinstance(made, type) and not _missing(made)


def _missing(made: object) -> list[str]:
    return [name for name in _METHODS if not callable(getattr(made, name, None))]


def make_devices(config: Config) -> dict[Device, Backend[Any]]:
    """The devices that a configuration asks for, CPU first, each with its backend. Nothing is started.

    Raises `UnknownDeviceError` for a kind, or for more devices of a kind, than this machine has, and `TypeError` where
    a factory made no backend.
    """
    devices: dict[Device, Backend[Any]] = {}
    factories = _factories | _cluster_factories(config)
    for kind, count in sorted(config.device_count.items(), key=lambda item: (item[0] != "CPU", item[0])):
        factory = factories.get(kind)
        if factory is None:
            known = ", ".join(sorted(name for name in factories if factories[name] is not _REPLACEABLE.get(name)))
            raise UnknownDeviceError(
                f"Config.device_count asks for {count} {kind} device(s), but this machine has no {kind}; "
                f"kinds that it has: {known} (engine.devices.register_backend adds one)"
            )
        backend = _made(kind, factory)
        available = backend.count()
        if available is not None and count > available:
            raise UnknownDeviceError(
                f"Config.device_count asks for {count} {kind} device(s), but this machine has {available}"
            )
        for index in range(count):
            devices[Device(f"{kind}:{index}")] = backend
    return devices


def _cluster_factories(config: Config) -> dict[str, Factory]:
    """The maker of the backends of a cluster, which the devices of one executor share."""
    counts = config.device_count
    for kind in _OF_CLUSTERS:
        if counts.get(kind):
            check_installed(kind)
    address, security = config.cluster()
    connection = Connection(address, security, counts.get("DASK") or core_count())
    return {"DASK": lambda: DaskBackend(connection, lost), "CLUSTER": lambda: ClusterBackend(connection, lost)}


def _made(kind: str, factory: Factory) -> Backend[Any]:
    backend = factory()
    missing = _missing(backend)
    if missing:
        raise TypeError(
            f"the factory that was registered for {kind} must make an engine.devices.Backend, but it made "
            f"{backend!r}, which has no {', '.join(missing)}; let its class inherit from engine.devices.Backend"
        )
    return backend


# ---------------------------------------------------------------------------------------------------------------------
# Loss


class Loser(Protocol):
    """A queue of a device that may be lost."""

    @property
    def device(self) -> Device:
        """Its device."""

    @property
    def backend(self) -> Backend[Any]:
        """The backend that serves it."""

    def lose(self, reason: str) -> None:
        """The device is gone."""


losers: weakref.WeakSet[Loser] = weakref.WeakSet()
"""The queues of devices that are not the host's."""


def lost(backend: Backend[Any], device: str | Device, reason: str) -> None:
    """A backend calls this where one of its devices is gone for good: on any thread, also inside its methods.

    Records that it was given and has not ended fail with `engine.DeviceLostError`, and so does what is dispatched to
    the device from now on, at the sync point. Values that lived there cannot be read any more, unless they have been
    read before. Everything else goes on. Ending such a record later changes nothing.

    Raises `TypeError` for a backend that is none, and `ValueError` for a device that no executor has of it.
    """
    if not _is_backend(backend):
        raise TypeError(f"lost: backend must be the Backend whose device is gone, but got {backend!r}")
    device = Device(device)
    served = [queue for queue in list(losers) if queue.backend is backend]
    mine = [queue for queue in served if queue.device is device]
    if served and not mine:
        known = ", ".join(sorted({str(queue.device) for queue in served}))
        raise ValueError(f"lost: device must be one of the backend's ({known}), but got {device}")
    for queue in mine:
        queue.lose(reason)
