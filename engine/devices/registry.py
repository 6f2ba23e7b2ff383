"""Which backend serves which kind of device."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from engine.devices.base import Backend, Device
from engine.devices.cpu import CpuBackend
from engine.errors import UnknownDeviceError

_factories: dict[str, Callable[[], Backend]] = {"CPU": CpuBackend}


def register_backend(kind: str, factory: Callable[[], Backend]) -> None:
    """Have devices of `kind` served by what `factory` makes, in executors made from now on."""
    _factories[kind.upper()] = factory


def make_devices(counts: Mapping[str, int]) -> dict[Device, Backend]:
    """The devices that a configuration asks for, CPU first, each with its backend.

    Raises `UnknownDeviceError` for a kind, or for more devices of a kind, than this machine has.
    """
    devices: dict[Device, Backend] = {}
    for kind, count in sorted(counts.items(), key=lambda item: (item[0] != "CPU", item[0])):
        factory = _factories.get(kind)
        if factory is None:
            known = ", ".join(sorted(_factories))
            raise UnknownDeviceError(
                f"Config.device_count asks for {count} {kind} device(s), but this machine has no {kind}; "
                f"kinds that it has: {known}"
            )
        backend = factory()
        available = backend.count()
        if available is not None and count > available:
            raise UnknownDeviceError(
                f"Config.device_count asks for {count} {kind} device(s), but this machine has {available}"
            )
        for index in range(count):
            devices[Device(f"{kind}:{index}")] = backend
    return devices
