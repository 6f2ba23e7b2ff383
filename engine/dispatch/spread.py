"""Spread: which device of a kind an op goes to where any will do (`engine.device("DASK")`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from engine.devices.base import ANY, Device
from engine.queues.device_queue import DeviceQueue


class Spread:
    """Chooses devices of a kind for the ops of one executor."""

    def __init__(self, queues: Mapping[Device, DeviceQueue]) -> None:
        self._queues = queues
        self._chosen: dict[Device, int] = {}  # when each was chosen last, in turns

    def choose(self, kind: Device, inputs: Sequence[Device | None]) -> Device | None:
        """The device of the first input that is on one of a kind, else the least loaded; None where there is none."""
        if kind.index != ANY:
            return None
        queues = [queue for device, queue in self._queues.items() if kind.covers(device)]
        if not queues:
            return None
        here = next((device for device in inputs if device is not None and kind.covers(device)), None)
        return here or self._least_loaded(queues)

    def _least_loaded(self, queues: list[DeviceQueue]) -> Device:
        """Of those that are not lost the one with the fewest ops in flight; of equals the one chosen longest ago."""
        queues = [queue for queue in queues if queue.lost is None] or queues
        queue = min(queues, key=lambda each: (each.in_flight(), self._chosen.get(each.device, 0)))
        self._chosen[queue.device] = 1 + max(self._chosen.values(), default=0)
        return queue.device
