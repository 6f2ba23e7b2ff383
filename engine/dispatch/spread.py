"""Spreading: which device an op goes to where any device of a kind will do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from engine.devices.base import ANY, Device
from engine.queues.device_queue import DeviceQueue


class Spread:
    """Chooses among the devices of one executor: one that an input is on, else the least loaded that is not lost."""

    def __init__(self, queues: Mapping[Device, DeviceQueue]) -> None:
        self._queues = queues
        self._chosen: dict[Device, int] = {}
        """When each was chosen last, in turns."""

    def choose(self, device: Device, inputs: Sequence[Device | None]) -> Device | None:
        """A device of the kind; None where a certain device is asked for, or there is none of the kind."""
        if device.index != ANY:
            return None
        queues = [queue for each, queue in self._queues.items() if device.covers(each)]
        here = next((each for each in inputs if each is not None and device.covers(each)), None)
        return here or (self._least_loaded(queues) if queues else None)

    def _least_loaded(self, queues: list[DeviceQueue]) -> Device:
        """The one with the fewest ops in flight; of equals the one chosen longest ago."""
        queues = [queue for queue in queues if queue.lost is None] or queues
        queue = min(queues, key=lambda each: (each.in_flight(), self._chosen.get(each.device, 0)))
        self._chosen[queue.device] = 1 + max(self._chosen.values(), default=0)
        return queue.device
