"""Where an op runs and which inputs have to be copied there: pure decisions, no effects."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from engine.base.errors import DevicePlacementError
from engine.base.modes import DevicePolicy
from engine.devices.base import Device


@dataclass(frozen=True, slots=True)
class Placement:
    """The device of an op, and the indices of the inputs that are elsewhere."""

    device: Device
    copies: tuple[int, ...] = ()


def place(inputs: Sequence[Device | None], requested: Device | None, default: Device) -> Placement:
    """Place an op: on the requested device, else on the first input that is on any, else on the default one.

    `inputs` has one entry for each operand: its device, or None for what is on none (scalars, ndarrays).
    """
    device = requested or next((device for device in inputs if device is not None), default)
    copies = tuple(index for index, where in enumerate(inputs) if where is not None and where is not device)
    return Placement(device, copies)


def check_copies(
    op: str,
    placement: Placement,
    inputs: Sequence[Device | None],
    policy: DevicePolicy,
    is_int32: Callable[[int], bool],
) -> None:
    """Raise `DevicePlacementError` where the policy forbids a copy.

    The rules are those of TensorFlow's device policies; `is_int32(index)` tells the dtype of an input.
    """
    if policy is DevicePolicy.SILENT or policy is DevicePolicy.WARN:
        return
    for index in placement.copies:
        if policy is DevicePolicy.SILENT_FOR_INT32 and is_int32(index):
            continue
        raise DevicePlacementError(
            f"inputs on conflicting devices: cannot compute {op!r} as {describe_copy(placement, inputs, index)}. "
            f"Copy it explicitly with handle.to_device({str(placement.device)!r}), "
            "or choose another policy: with engine.device_policy(engine.DevicePolicy.SILENT): ..."
        )


def describe_copy(placement: Placement, inputs: Sequence[Device | None], index: int) -> str:
    """Word one conflict between devices."""
    device = placement.device
    where = f"input #{index} was expected to be on {device} but is actually on {inputs[index]}"
    return f"{where} (operation running on {device})"
