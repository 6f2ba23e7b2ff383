"""Errors of GPUs: which of them end an op, and which end the device for this process. Pure."""

from __future__ import annotations

from engine.base.errors import UnknownDeviceError
from engine.devices.base import Device
from engine.devices.cuda.runtime import Fate

_eagerloop_internal = True  # its frames are not the user's

OUT_OF_MEMORY = 2
"""`cudaErrorMemoryAllocation`; the driver has the same number for it."""

LOST = frozenset(
    {
        *(3, 4),  # not initialized, or being unloaded: the process was forked, or is ending
        *(46, 100, 101),  # the device is unavailable, or gone
        *(201, 709),  # the context is not valid any more, or was destroyed
        *(214, 220, 226),  # an uncorrectable error of memory, of NVLink, or one that was contained
        *(700, 702, 710),  # an illegal address, a launch that took too long, an assertion
        *(714, 715, 716, 717, 718, 719, 720),  # errors of the hardware inside a kernel
        *(721, 999),  # tensor memory, and what nothing else is known of
    }
)
"""Statuses after which every further call of the process on the device fails with the same: CUDA calls them sticky.

The runtime and the driver of CUDA number them alike.
"""


def fate_of(status: int | None, *, is_memory: bool = False) -> Fate:
    """Tell what an error with this status of CUDA, None where it has none, means for what comes after it."""
    if is_memory or status == OUT_OF_MEMORY:
        return Fate.MEMORY
    return Fate.LOST if status in LOST else Fate.OP


def out_of_memory(device: Device, name: str, error: BaseException) -> MemoryError:
    """Make the error of an op that its device has no memory for."""
    text = " ".join(str(error).split()).rstrip(".")
    return MemoryError(
        f"{device} has not enough memory for {name!r}: {text}; let go of handles, or compute it on the host with "
        "handle.to_device('CPU:0')"
    )


def reason_of(error: BaseException) -> str:
    """Say why a device was lost, in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


FORKED = (
    "the process was forked, and CUDA does not survive that: start processes that use a GPU with "
    "multiprocessing.get_context('spawn')"
)


def no_gpu(why: str) -> UnknownDeviceError:
    """Make the error of a configuration that asks for a GPU where there is none."""
    return UnknownDeviceError(
        f"Config.device_count asks for GPU devices, but this machine has no GPU that can be used: {why} "
        "(engine.devices.register_backend adds one of your own)"
    )
