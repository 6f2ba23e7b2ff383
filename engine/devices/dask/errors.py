"""Errors that travel: the class, the arguments and the notes of an error, and the traceback of the worker as text."""

from __future__ import annotations

import traceback
from typing import Any

import cloudpickle

Packed = tuple[bytes | None, str, str, str]
"""The pickled error, the name of its class, its message, and the worker's traceback."""


def packed_error(error: BaseException, where: str) -> Packed:
    """An error as the worker sends it."""
    text = "".join(traceback.format_exception(error))
    return _pickled(error), type(error).__qualname__, str(error), f"traceback on the Dask worker {where}:\n{text}"


def _pickled(error: BaseException) -> bytes | None:
    """The error, if pickling makes the same one of it; else its parts."""
    try:
        data = cloudpickle.dumps(error)
        twin = cloudpickle.loads(data)
        if type(twin) is type(error) and str(twin) == str(error):
            return bytes(data)
    except Exception:  # noqa: BLE001 - pickling runs the code of the exception's class
        pass
    try:
        return bytes(cloudpickle.dumps(_Parts(type(error), error.args, vars(error))))
    except Exception:  # noqa: BLE001
        return None


class _Parts:
    """An error whose class cannot be called with its arguments."""

    def __init__(self, kind: type[BaseException], args: tuple[Any, ...], state: dict[str, Any]) -> None:
        self.kind = kind
        self.args = args
        self.state = dict(state)

    def assembled(self) -> BaseException:
        error = self.kind.__new__(self.kind, *self.args)
        error.args = self.args
        vars(error).update(self.state)
        return error


def unpacked_error(packed: Packed) -> BaseException:
    """The error as readers of the handle get it: with the notes it had, and the worker's traceback as another one."""
    data, kind, message, trace = packed
    error: Any = None
    if data is not None:
        try:
            error = cloudpickle.loads(data)
            error = error.assembled() if isinstance(error, _Parts) else error
        except Exception:  # noqa: BLE001 - the class of the error may do anything when it is made again
            error = None
    if not isinstance(error, BaseException):
        error = RuntimeError(f"{kind}: {message}")
    found: BaseException = error
    vars(found)["__notes__"] = [*vars(found).get("__notes__", ()), trace]
    return found
