"""Execution modes and device policies, with TensorFlow's names and numbers."""

from __future__ import annotations

from enum import Enum


class ExecutionMode(Enum):
    """How a call of an op ends: with the result, or at once with a handle that is not ready."""

    SYNC = 0
    """An op has run when the call returns."""
    ASYNC = 1
    """An op is queued, and the call returns a handle at once."""


class DevicePolicy(Enum):
    """The treatment of inputs that are on another device than the op."""

    EXPLICIT = 0
    """An error at the call, which says how to copy."""
    WARN = 1
    """Copied, with one warning for each place in the program."""
    SILENT = 2
    """Copied."""
    SILENT_FOR_INT32 = 3
    """int32 is copied silently; every other dtype as `EXPLICIT`."""


SYNC = ExecutionMode.SYNC
ASYNC = ExecutionMode.ASYNC
DEVICE_PLACEMENT_EXPLICIT = DevicePolicy.EXPLICIT
DEVICE_PLACEMENT_WARN = DevicePolicy.WARN
DEVICE_PLACEMENT_SILENT = DevicePolicy.SILENT
DEVICE_PLACEMENT_SILENT_FOR_INT32 = DevicePolicy.SILENT_FOR_INT32


def check_mode(mode: object) -> None:
    """Raise `ValueError` unless `mode` is a member or None."""
    if mode is not None and not isinstance(mode, ExecutionMode):
        raise ValueError(f"execution_mode must be one of None, engine.SYNC, engine.ASYNC, but got {mode!r}")


def check_policy(policy: object) -> None:
    """Raise `ValueError` unless `policy` is a member or None."""
    if policy is not None and not isinstance(policy, DevicePolicy):
        names = ", ".join(f"engine.DEVICE_PLACEMENT_{member.name}" for member in DevicePolicy)
        raise ValueError(f"device_policy must be one of None, {names}, but got {policy!r}")
