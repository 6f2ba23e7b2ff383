"""Values on a worker, as this process knows them: a number, a shape, a dtype, and perhaps a copy of the array."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from engine.devices.base import Array


class Keeper(Protocol):
    """A connection to a worker, as the values there see it."""

    def read(self, value: RemoteValue) -> Array:
        """The array of a value; blocks until it is here."""

    def drop(self, number: int) -> None:
        """Have the worker forget it, with the next message; called on any thread, also while garbage is collected."""


class RemoteValue:
    """An array that a worker holds. The worker forgets it once this object is gone."""

    __slots__ = ("__weakref__", "array", "dtype", "keeper", "number", "shape")

    def __init__(
        self,
        keeper: Keeper,
        number: int,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        array: Array | None = None,
    ) -> None:
        self.keeper = keeper
        """The connection to the worker."""
        self.number = number
        """The number that the worker knows it by."""
        self.shape = shape
        self.dtype = dtype
        self.array = array
        """The array, where it came with the message that said that it was computed."""

    def __del__(self) -> None:
        self.keeper.drop(self.number)

    def __repr__(self) -> str:
        return f"<value {self.number} of {self.keeper}, shape={self.shape}, dtype={self.dtype}>"


class Passed:
    """The value of a record that only records of its own batch read: the worker did not keep it."""

    shape: tuple[int, ...] = ()
    dtype = np.dtype(np.float64)

    def __repr__(self) -> str:
        return "<a value that was not kept>"


PASSED = Passed()
