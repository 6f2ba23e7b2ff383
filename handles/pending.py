"""The non-ready handle: it is returned at once and resolves when its op has run."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Coroutine, Generator
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

from handles.base import Handle, Value


class AsyncHandle(Handle):
    """The handle that an op returns in ASYNC mode; `await` it, or its `numpy()`, for the value."""

    __slots__ = ()

    def numpy(self) -> PendingValue:
        """An awaitable of the value: a read-only array, no copy on a CPU device; a NumPy scalar of no dimensions.

        It is a coroutine, so `asyncio.create_task(handle.numpy())` takes it. Awaiting it raises the op's error.

        >>> await (ops.asarray([1.0, 2.0]) + 1.0).numpy()
        array([2., 3.])
        """
        return PendingValue(self)


class PendingValue(Coroutine[Any, Any, Value]):
    """The pending value that `numpy()` of a non-ready handle returns: `await` it once for the value.

    Each use of it as if it were the value raises an error that says so.
    """

    __slots__ = ("__weakref__", "_handle", "_steps", "_told")

    def __init__(self, handle: Handle) -> None:
        self._handle: Handle | None = handle
        self._steps: Generator[object, None, Value] | None = None
        self._told = False
        """True if an error has said already that the value is to be awaited."""

    def __await__(self) -> Generator[object, None, Value]:
        return self._taken().__await__()

    def _taken(self) -> Handle:
        handle, self._handle = self._handle, None
        if handle is None:
            raise RuntimeError(
                "the result of numpy() was awaited before: call handle.numpy() again, or await the handle"
            )
        return handle

    # A coroutine, for those who take nothing else

    def send(self, value: None) -> object:
        """Go on as a coroutine does; a task calls this."""
        if self._steps is None:
            self._steps = self._taken().__await__()
        return self._steps.send(value)

    def throw(self, kind: Any, value: Any = None, trace: TracebackType | None = None) -> Any:
        """Raise an error where the coroutine waits; a task calls this."""
        if self._steps is None:
            self._steps = self._taken().__await__()
        error = kind if isinstance(kind, BaseException) else kind() if value is None else value
        return self._steps.throw(error if trace is None else error.with_traceback(trace))

    def close(self) -> None:
        """End the coroutine."""
        self._handle = None
        if self._steps is not None:
            self._steps.close()

    def __del__(self) -> None:
        if self._handle is not None and not self._told:
            warnings.warn(
                f"the result of numpy() was never awaited: write `await handle.numpy()` (of {self._handle!r})",
                RuntimeWarning,
                stacklevel=2,
                source=self,
            )

    # No value

    if not TYPE_CHECKING:  # for a type checker a name that is not there is an error

        def __getattr__(self, name: str) -> None:
            if name.startswith(("__", "cr_", "gi_")):
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            self._told = True
            raise AttributeError(f"{_NO_VALUE}: (await handle.numpy()).{name}")

    @property
    def __name__(self) -> str:
        """The name that a task shows for it."""
        return "numpy"

    def __bool__(self) -> bool:
        """True for asyncio, which shows a task only if it has a coroutine; others want the value."""
        if sys._getframe(1).f_globals.get("__name__", "").startswith("asyncio."):
            return True
        self._told = True
        raise TypeError(f"{_NO_VALUE}: value = await handle.numpy()")

    def __repr__(self) -> str:
        state = "awaited" if self._handle is None else f"of {self._handle!r}"
        return f"<value to be awaited, {state}>"


_NO_VALUE = "numpy() gives an awaitable in ASYNC mode, not the value. Await it first"

_SPECIAL = (
    *("add", "sub", "mul", "truediv", "floordiv", "mod", "divmod", "pow", "matmul"),
    *("and", "or", "xor", "lshift", "rshift"),
)
_REFUSED = (
    *(f"__{name}__" for name in _SPECIAL),
    *(f"__r{name}__" for name in _SPECIAL),
    *("__lt__", "__le__", "__gt__", "__ge__", "__neg__", "__pos__", "__abs__", "__invert__"),
    *("__getitem__", "__setitem__", "__len__", "__iter__", "__contains__", "__array__"),
    *("__int__", "__float__", "__complex__", "__index__", "__round__", "__format__"),
)


def _refuse(self: PendingValue, *args: object, **kwargs: object) -> NoReturn:
    self._told = True
    raise TypeError(f"{_NO_VALUE}: value = await handle.numpy()")


for _name in _REFUSED:
    _method: Callable[..., NoReturn] = _refuse
    setattr(PendingValue, _name, _method)
