"""Identity: keys that are equal for one object only, references that keep no object alive, and bound functions."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from types import MethodType
from typing import Any, TypeVar

T = TypeVar("T")


class Identity:
    """Equal for the same object only; holds it weakly where it can be."""

    __slots__ = ("_get", "_number")

    def __init__(self, value: object) -> None:
        self._number = id(value)
        self._get = reference(value)

    def __hash__(self) -> int:
        return self._number

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Identity) or self._number != other._number:
            return False
        value = self._get()
        return value is not None and value is other._get()


class Bound:
    """A function with the instance that it gets first, as bound methods are."""

    __slots__ = ("__func__", "__self__", "__weakref__")

    def __init__(self, its: Callable[..., Any], instance: object) -> None:
        self.__func__ = its
        self.__self__ = instance


BOUND = (MethodType, Bound)
PARTIAL = (functools.partial, functools.partialmethod)


def reference(value: T, forget: Callable[[weakref.ref[T]], object] | None = None) -> Callable[[], T | None]:
    """A function that returns the object, which it holds weakly if it can be: then `forget` is called when it dies."""
    try:
        return weakref.ref(value, forget)
    except TypeError:
        return lambda: value
