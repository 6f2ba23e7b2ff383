"""The concrete handle: its value was there when the handle was made."""

from __future__ import annotations

from typing import Any

import numpy as np

from handles.base import Handle


class EagerHandle(Handle):
    """What an op returns in SYNC mode: the result, already computed."""

    __slots__ = ()

    def numpy(self) -> np.ndarray[Any, Any]:
        """The value, as a read-only array; no copy on a CPU device."""
        cell = self._cell
        return cell.home.host(cell)
