"""The non-ready handle: it is returned at once and resolves when its op has run."""

from __future__ import annotations

from handles.base import Handle, Value


class AsyncHandle(Handle):
    """What an op returns in ASYNC mode; `await` it, or its `numpy()`, for the value."""

    __slots__ = ()

    async def numpy(self) -> Value:
        """The value: a read-only array, no copy on a CPU device; a NumPy scalar where there are no dimensions.

        Raises the op's error.
        """
        return await self
