"""Devices: what they are, and what it takes to make a kind of one's own.

`register_backend(kind, factory)` makes `Config(device_count={kind: n})` possible; `Backend` says what the factory's
product does, `Record` what it is given, `SteppedBackend` is an example.
"""

from engine.devices.base import Array, Backend, Device, Operand, Record, Value
from engine.devices.registry import lost, register_backend, registered
from engine.devices.stepped import SteppedBackend, SteppedValue

__all__ = [
    "Array",
    "Backend",
    "Device",
    "Operand",
    "Record",
    "SteppedBackend",
    "SteppedValue",
    "Value",
    "lost",
    "register_backend",
    "registered",
]


def __dir__() -> list[str]:
    return sorted(__all__)
