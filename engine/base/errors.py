"""The errors that the engine itself raises."""

from __future__ import annotations

from handles.cell import Undescribed

MAKE_ANOTHER = "make a new one, `async with engine.Executor(...):`; in a service, in the application's lifespan"
"""Advice for where an executor has ended."""


def closed_message(op_name: str, state: str) -> str:
    """The message of `ExecutorClosedError` for an op that an executor in this state does not take."""
    what_to_do = f": {MAKE_ANOTHER}" if state == "closed" else ""
    return f"{op_name!r} was dispatched to an executor that is {state}{what_to_do}"


class EagerNotEnabledError(RuntimeError):
    """Something that needs an executor, such as a sync point, in a program that has not enabled eager execution."""


class ExecutorClosedError(RuntimeError):
    """An op was dispatched to an executor that takes no more work."""


class BlockingSyncError(ValueError):
    """A blocking sync where blocking would freeze a running event loop, or could never end.

    It is a `ValueError` because the array API standard has lazy arrays raise that from `bool()`.
    """


class DevicePlacementError(ValueError):
    """The device policy forbids the copy that an op would need."""


class UnknownDeviceError(ValueError):
    """A device that this executor does not have."""


class DeviceLostError(RuntimeError):
    """A device is gone, and with it the values that lived there and the ops that ran there."""


class UnknownShapeError(Undescribed):
    """The shape or dtype of a result that only running its op can tell."""


class SymbolError(TypeError, ValueError, AttributeError):
    """A symbol used as if it had a value, or where it does not belong; or a handle where only symbols do.

    It is a `TypeError`, as for TensorFlow's symbolic tensors, an `AttributeError`, as `numpy()` of those is, and a
    `ValueError`, because the array API standard has lazy arrays raise that from `bool()`.
    """


class FeedError(ValueError, TypeError):
    """A value that was fed does not fit its placeholder, or an argument does not fit a function's signature."""


class OpCancelledError(RuntimeError):
    """The op was cancelled before it had a result."""


class QueueFullError(RuntimeError):
    """The high-water mark is reached and nothing of what is pending can be executed inline."""
