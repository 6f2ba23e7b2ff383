"""Operators of a handle: each is the op of that name in the namespace that made the handle.

An operand that is not an array, a scalar or a sequence of them (an xarray or pandas object, say) gets the first say:
the operator returns `NotImplemented`, as `ndarray` does for types that know better.
"""

from __future__ import annotations

from handles.arithmetic import Arithmetic, Division, Products
from handles.bits import Bits
from handles.comparisons import Comparisons
from handles.in_place import InPlace


class Operators(Arithmetic, Division, Products, Bits, Comparisons, InPlace):
    """The arithmetic, comparison and bit operators, plain and reflected; in-place ones rebind the name."""

    __slots__ = ()
