"""NumPy's protocols, by which its functions take handles, and that of the array API standard."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import numpy as np

from handles.holder import Holder
from handles.operands import OURS
from handles.views import CHANGES, VIEWS, link_results, refresh, refresh_target

VERSIONS = ("2021.12", "2022.12", "2023.12", "2024.12", "2025.12")
"""The versions of the array API standard that the namespace serves."""


class Protocols(Holder):
    """The methods that NumPy calls where it is given a handle: each call becomes an op."""

    __slots__ = ()

    __array_priority__ = 1000.0

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: object, **kwargs: object) -> object:
        if not all(map(_may_take, inputs)):
            return NotImplemented
        if kwargs or method == "at":
            for target in (*_handles_of(kwargs.get("out", ())), *_handles_of(inputs[:1] if method == "at" else ())):
                refresh(target)
        return self._cell.home.namespace.numpy_protocols.call_ufunc(ufunc, method, inputs, kwargs)

    def __array_function__(
        self,
        function: Callable[..., object],
        types: Collection[type],
        args: tuple[object, ...],
        kwargs: dict[str, object],
    ) -> object:
        if not all(issubclass(each, Holder | np.ndarray) for each in types):
            return NotImplemented
        known = VIEWS.get(function)
        if known is CHANGES:
            refresh_target(function, args, kwargs)
        result = self._cell.home.namespace.numpy_protocols.call_function(function, args, kwargs)
        if known is None or known is CHANGES or getattr(result, "_link", None) is not None:
            return result  # no view, or linked by the row that made it
        return link_results(function, args, kwargs, result)

    def __array_namespace__(self, /, *, api_version: str | None = None) -> Any:
        """The array API namespace, `engine.ops`. Raises `ValueError` for a version of the standard not supported."""
        if api_version is not None and api_version not in VERSIONS:
            raise ValueError(f"api_version must be one of {', '.join(VERSIONS)}, but got {api_version!r}")
        return self._cell.home.namespace


def _may_take(other: object) -> bool:
    """Tell whether an operand of a ufunc is ours to compute with; an array of another library gets the first say."""
    return isinstance(other, OURS) or not hasattr(type(other), "__array_ufunc__")


def _handles_of(outs: object) -> list[Holder]:
    return [each for each in (outs if isinstance(outs, tuple) else (outs,)) if isinstance(each, Holder)]
