"""Holdings of an executor, given back when it ends: the devices of its configuration, their backends, and workers."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from typing import Any

from engine.base.config import Config
from engine.base.errors import UnknownDeviceError
from engine.devices.base import Backend, Device
from engine.devices.registry import make_devices
from engine.settings.libraries import meet_libraries
from engine.threads.pool import workers

logger = logging.getLogger("engine.placement")


class Devices(dict[Device, Backend[Any]]):
    """The devices that a configuration asks for, the default one first, each with its backend.

    Raises what `make_devices` raises.
    """

    def __init__(self, config: Config) -> None:
        super().__init__(make_devices(config))
        self.default = next(iter(self))
        self.on_host = all(backend.on_host for backend in self.values())
        """True if each device runs an op's own kernel, so that several ops may be made one."""
        self._soft = config.allow_soft_placement
        self._missed: set[Device] = set()

    def serving(self, device: Device) -> Backend[Any] | None:
        """The backend of a device, or of any of a kind; None where there is none."""
        return next((backend for each, backend in self.items() if device.covers(each)), None)

    def resolve(self, device: Device) -> Device:
        """The device, if it exists; else CPU:0 under soft placement, logged once, or `UnknownDeviceError`."""
        if device in self:
            return device
        known = ", ".join(map(str, self))
        if not self._soft:
            raise UnknownDeviceError(
                f"device {device} does not exist; this executor has {known} (Config.device_count says how many; "
                "Config.allow_soft_placement=True falls back to CPU:0)"
            )
        if device not in self._missed:
            self._missed.add(device)
            logger.warning(
                "device %s does not exist, using %s instead; this executor has %s", device, self.default, known
            )
        return self.default


class Holdings:
    """The backends and the workers that an executor uses, each given back once."""

    def __init__(self, devices: Devices) -> None:
        self._on_host = devices.on_host
        elsewhere = {id(backend): backend for backend in devices.values() if not backend.on_host}
        self._open_backends = list(elsewhere.values())
        workers.retain()
        meet_libraries()
        self._release = weakref.finalize(self, workers.release, wait=False)
        self._release.atexit = False

    def close_backends(self) -> None:
        """Tell the backends of other kinds of devices that no record will come. On workers: it may block."""
        backends, self._open_backends = self._open_backends, []
        for backend in backends:
            try:
                workers.submit(backend.close)
            except RuntimeError:  # the system has no thread for it
                backend.close()

    def release_workers(self, running: Callable[[], int]) -> None:
        """Give the workers back; wait for their threads to end unless some are `running` ops that were abandoned."""
        if self._release.detach() is not None:
            workers.release(wait=running() == 0 and self._on_host, is_busy=lambda: running() > 0)
