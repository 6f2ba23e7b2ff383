"""Holder, the base of every handle: something that holds a result cell, and may be a view of another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import numpy as np

from handles.cell import Cell

Link: TypeAlias = "tuple[Callable[[], Holder | None], Callable[[], Cell | None], object, Link | None, bool]"
"""Weak references to the source and to the cell that it had; the step from its array; the source's own link; whether
the view has been rebound, so that its memory may have no gaps where that of NumPy's view has some."""


class Holder:
    """The cell that a handle shows, and its link."""

    __slots__ = ("__weakref__", "_cell", "_link")

    _cell: Cell
    _link: Link | None
    """The array that the handle is a view of; unset where nothing asked."""

    def _sync(self, what: str) -> np.ndarray[Any, Any]:
        """The value, which is waited for; refused where that would freeze a running loop. `what` needs it."""
        cell = self._cell
        cell.home.block(cell, None, what)
        return cell.home.host(cell)


H = TypeVar("H", bound=Holder)
"""The class of handles: what the operators and methods of a handle give."""
