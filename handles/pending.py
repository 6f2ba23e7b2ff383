"""The non-ready handle: it is returned at once and resolves when its op has run."""

from __future__ import annotations

from typing import Any

import numpy as np

from handles.base import Handle


class AsyncHandle(Handle):
    """What an op returns in ASYNC mode; `await` it, or its `numpy()`, for the value."""

    __slots__ = ()

    async def numpy(self) -> np.ndarray[Any, Any]:
        """The value, as a read-only array; no copy on a CPU device. Raises the op's error."""
        return await self
