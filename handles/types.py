"""Types of arguments that methods of handles share."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import IO, Any, Literal, SupportsIndex, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from handles.holder import Holder

Axis: TypeAlias = SupportsIndex | tuple[SupportsIndex, ...] | None
"""An axis, several, or all of them."""

Lengths: TypeAlias = SupportsIndex | Sequence[SupportsIndex] | np.ndarray[Any, Any]
"""Lengths or axes, as NumPy takes them: one, or a sequence or an array of them."""

Order: TypeAlias = Literal["C", "F", "A", "K"]
"""The order in which elements lie in memory."""

Out: TypeAlias = Holder | np.ndarray[Any, Any] | None
"""The target that a result is written to: a handle, which is rebound, or an array."""

Where: TypeAlias = "ArrayLike"
"""Booleans, broadcast with the array: the elements that take part."""

Start: TypeAlias = "ArrayLike"
"""A number, or an array of them, that a reduction begins with or goes by."""

Mode: TypeAlias = Literal["raise", "wrap", "clip"]
"""The choices for an index that is out of bounds."""

Fields: TypeAlias = str | Sequence[str] | None
"""Fields of structured elements, by which they are compared first."""

Index: TypeAlias = object
"""A key of `h[key]`: integers, slices, `...`, None, names of fields, arrays and sequences, handles; tuples of them."""

File: TypeAlias = str | bytes | PathLike[str] | IO[bytes]
"""A file, open or by its path."""
