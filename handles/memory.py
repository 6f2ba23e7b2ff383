"""The memory of a handle's array: views of its bytes, what tells how it lies there, and its elements one by one.

What tells of the memory itself (`strides`, `data`, `ctypes`, most of `flags`) is an implicit sync point: an array that
has not been computed lies nowhere yet.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from handles.holder import Holder
from handles.operands import call
from handles.views import forget, owner_of, rebind, refresh

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, DTypeLike

    from handles import Handle
    from handles.types import Index, Lengths

builtin_type = type


class Flat:
    """The elements of a handle in row-major order, as `ndarray.flat`: what is written to them reaches the handle."""

    __slots__ = ("base",)

    def __init__(self, base: Holder) -> None:
        self.base = base

    def __getitem__(self, key: Index) -> Handle:
        return self._copy()[key]

    def __setitem__(self, key: Index, value: ArrayLike) -> None:
        base = self.base
        refresh(base)
        base._cell.home.namespace.attributes.write(base, "flat", key, value)

    def __len__(self) -> int:
        return len(self._copy())

    def __iter__(self) -> Iterator[np.generic]:
        """The elements as NumPy scalars; an implicit sync point."""
        return iter(self.base._sync("iterating over the elements").flat)

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        return self._copy().__array__(dtype, copy)

    def copy(self) -> Handle:
        """The elements in one dimension."""
        return self._copy()

    def _copy(self) -> Handle:
        return forget(call(np.ravel, self.base))

    def __repr__(self) -> str:
        return f"<flat of {self.base!r}>"


_ALWAYS: dict[str, bool] = {"aligned": True, "owndata": False, "writeable": False, "writebackifcopy": False}
"""The flags that the value of every handle has: it is a read-only view."""

_SHORT = {"C": "c_contiguous", "F": "f_contiguous", "A": "aligned", "O": "owndata", "W": "writeable"}


class Flags:
    """How the value of a handle lies in memory, as `ndarray.flags`: `h.flags.writeable`, `h.flags["C_CONTIGUOUS"]`.

    It is read-only always; what only the value tells (`c_contiguous`, `f_contiguous`, ...) is an implicit sync point.
    """

    __slots__ = ("_base",)

    def __init__(self, base: Holder) -> None:
        self._base = base

    def __getattr__(self, name: str) -> bool:
        if name in _ALWAYS:
            return _ALWAYS[name]
        if name.startswith("_"):
            raise AttributeError(name)
        return bool(getattr(self._base._sync("flags").flags, name))

    def __getitem__(self, name: str) -> bool:
        if _SHORT.get(name, str(name).lower()) in _ALWAYS:
            return _ALWAYS[_SHORT.get(name, name.lower())]
        return self._base._sync("flags").flags[name]  # type: ignore[index]

    def __repr__(self) -> str:
        return repr(self._base._sync("flags").flags)


class Memory(Holder):
    """The methods and attributes of `ndarray` that are about its memory."""

    __slots__ = ()

    # Views of the bytes

    def view(self, dtype: DTypeLike | type[Any] | None = None, type: type[Any] | None = None) -> Handle:  # noqa: A002
        """The same memory, its bytes read as another dtype.

        Raises `TypeError` for a class of arrays, which a handle cannot show: view the value (`(await h).view(...)`).
        """
        for each in (dtype, type):
            if isinstance(each, builtin_type) and issubclass(each, np.ndarray):
                if each is not np.ndarray:
                    raise TypeError(
                        f"view: a handle cannot be an array of class {each.__name__}: view its value, "
                        f"`(await h).view({each.__name__})`"
                    )
                return self._cell.home.namespace.attributes.view(self)
        return self._cell.home.namespace.attributes.view(self, dtype)

    def getfield(self, dtype: DTypeLike, offset: int = 0) -> Handle:
        """A part of each element, as another dtype: the one that begins so many bytes after its beginning."""
        return self._cell.home.namespace.attributes.getfield(self, dtype, offset)

    def setfield(self, value: ArrayLike, dtype: DTypeLike, offset: int = 0) -> None:
        """Rebind this handle to the array with that part of each element replaced."""
        refresh(self)
        self._cell.home.namespace.attributes.write(self, "setfield", value, np.dtype(dtype), offset)

    def byteswap(self, inplace: bool = False) -> Handle:
        """The bytes of each element in the other order; `inplace` rebinds this handle to that and returns it."""
        if inplace:
            refresh(self)
        swapped = self._cell.home.namespace.attributes.byteswap(self)
        return rebind(self, swapped) if inplace else swapped  # type: ignore[return-value]

    def resize(self, *new_shape: Lengths, refcheck: bool = True) -> None:
        """Rebind this handle to its first elements in another shape, with zeros where there are too few.

        Nothing refers to the memory of a handle, so there is nothing that `refcheck` could find.
        """
        shape = new_shape[0] if len(new_shape) == 1 else new_shape
        rebind(self, self._cell.home.namespace.attributes.resized(self, shape))

    # Elements one by one

    @property
    def flat(self) -> Flat:
        """The elements in one dimension: `h.flat[3]`, `h.flat[3] = x`, `for x in h.flat`."""
        return Flat(self)

    @flat.setter
    def flat(self, value: ArrayLike) -> None:
        self.flat[...] = value

    # How the array lies in memory

    @property
    def base(self) -> Handle | None:
        """The handle that this one is a view of; None where it is none, or the program has let go of that one."""
        owner = owner_of(self)
        return None if owner is None else owner.handle  # type: ignore[return-value]

    @property
    def flags(self) -> Flags:
        """How the value lies in memory. It is read-only; asking for more is an implicit sync point."""
        return Flags(self)

    @property
    def strides(self) -> tuple[int, ...]:
        """Bytes from one element of the value to the next, for each axis; an implicit sync point."""
        return self._sync("strides").strides

    @strides.setter
    def strides(self, strides: object) -> NoReturn:
        raise AttributeError(
            "the strides of a handle cannot be set: numpy.lib.stride_tricks.as_strided(value, shape, strides) has the "
            "same memory with other strides, for a value that was read"
        )

    @property
    def data(self) -> memoryview:
        """The memory of the value, read-only; an implicit sync point."""
        return self._sync("data").data

    @property
    def ctypes(self) -> Any:
        """The address of the value for `ctypes`; an implicit sync point. What is there must not be written to."""
        return self._sync("ctypes").ctypes
