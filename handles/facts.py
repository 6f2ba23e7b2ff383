"""Facts of a handle: what is known of its result without waiting for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from handles.cell import PENDING, Unready
from handles.holder import Holder
from handles.operands import call
from handles.views import rebind

if TYPE_CHECKING:
    from handles.types import Lengths


class Facts(Holder):
    """Shape, dtype and size, the device, and what depends on them: `len` and `hash`.

    It comes before `Comparisons` among the bases of a handle: a class that has `__eq__` and no `__hash__` refuses one.
    """

    __slots__ = ()

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the result; never waits."""
        cell = self._cell
        return cell.home.infer(cell).dtype

    @dtype.setter
    def dtype(self, dtype: object) -> NoReturn:
        raise AttributeError(
            "the dtype of a handle cannot be set: handle.view(dtype) has the same bytes as elements of another dtype, "
            "handle.astype(dtype) has the elements converted"
        )

    @property
    def shape(self) -> tuple[int | None, ...]:
        """The shape of the result; never waits. A dimension that depends on values not computed yet is None."""
        cell = self._cell
        return cell.home.infer(cell).shape

    @shape.setter
    def shape(self, shape: Lengths) -> None:
        rebind(self, call(np.reshape, self, shape))

    @property
    def ndim(self) -> int:
        """The number of dimensions; never waits."""
        return len(self.shape)

    @property
    def size(self) -> int | None:
        """The number of elements, None while a dimension is unknown; never waits."""
        size = 1
        for length in self.shape:
            if length is None:
                return None
            size *= length
        return size

    @property
    def itemsize(self) -> int:
        """Bytes of one element; never waits."""
        return self.dtype.itemsize

    @property
    def nbytes(self) -> int | None:
        """Bytes of the result, None while a dimension is unknown; never waits."""
        size = self.size
        return None if size is None else size * self.dtype.itemsize

    @property
    def device(self) -> Any:
        """The device that holds, or will hold, the result; never waits."""
        return self._cell.home.device

    def is_ready(self) -> bool:
        """Tell whether reading would not wait: the op has finished, with a value or with an error."""
        cell = self._cell
        if cell.value is PENDING:
            cell.home.keep_going(cell)
            return False
        return True

    def __len__(self) -> int:
        shape = self.shape
        if not shape:
            raise TypeError("len() of a handle with no dimensions")
        if shape[0] is None:
            return len(self._sync("len() of an unknown dimension"))
        return shape[0]

    def __hash__(self) -> int:
        """Identity, of a handle with dimensions.

        Raises `TypeError` for one without: it equals the number that it is, and would be found by identity only. Where
        only running the op can tell the number of dimensions, this is an implicit sync point.
        """
        if not self._ndim_for_hash():
            raise TypeError(
                f"unhashable type: {type(self).__name__!r} with no dimensions, as a 0-d array is: use its value "
                "(`await h`, `h.item()`) or id(h) as the key; engine.gather waits for such handles, asyncio.gather "
                "hashes what it is given"
            )
        return object.__hash__(self)

    def _ndim_for_hash(self) -> int:
        value = self._cell.value
        if value is not PENDING and isinstance(value, Unready):
            return 1  # it failed, so it equals nothing: identity is right
        try:
            return self.ndim
        except ValueError:  # unknown before the op has run, or what the op fails with
            return self._sync("hash(), which depends on the number of dimensions,").ndim
