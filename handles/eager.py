"""The concrete handle: its value was there when the handle was made."""

from __future__ import annotations

from handles.base import Handle, Value


class EagerHandle(Handle):
    """The handle that an op returns in SYNC mode: the result, already computed."""

    __slots__ = ()

    READING = "handle.numpy()"

    def numpy(self) -> Value:
        """The value: a read-only array, no copy on a CPU device; a NumPy scalar where there are no dimensions."""
        cell = self._cell
        value = cell.home.host(cell)
        return value if value.ndim else value[()]
