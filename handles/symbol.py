"""The symbolic handle: a value that a graph will compute when a session runs it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

import numpy as np

from handles.base import Handle


class Symbol(Handle):
    """A symbol, which an op returns in a graph: a name, a shape and a dtype, a device, and the place where it was made.

    It has no value of its own: `session.run(symbol)` computes one. `shape` is None where the number of dimensions is
    unknown, one of its lengths where that is; `dtype` is None where only running the op can tell.
    """

    __slots__ = ()

    READING = "session.run(symbol)"

    @property
    def name(self) -> str:
        """The name of the symbol, unique in its graph: that of its op, with a number."""
        cell = self._cell
        return cell.home.name_of(cell)  # type: ignore[attr-defined, no-any-return]

    @property
    def place(self) -> str:
        """Where the symbol was made, `file:line` in user code."""
        cell = self._cell
        return cell.home.place_of(cell)  # type: ignore[attr-defined, no-any-return]

    @property
    def graph(self) -> Any:
        """The `engine.Graph` that the symbol belongs to."""
        return self._cell.home.graph  # type: ignore[attr-defined]

    @property
    def op(self) -> Any:
        """The operation of the graph whose result this is."""
        cell = self._cell
        return cell.home.operation_of(cell)  # type: ignore[attr-defined]

    @property
    def ndim(self) -> int | None:  # type: ignore[override]
        """The number of dimensions, None while that is unknown."""
        shape: tuple[int | None, ...] | None = self.shape
        return None if shape is None else len(shape)

    @property
    def size(self) -> int | None:
        """The number of elements, None while a dimension is unknown."""
        shape: tuple[int | None, ...] | None = self.shape
        return None if shape is None else super().size

    @property
    def nbytes(self) -> int | None:
        """Bytes of the result, None while its shape or dtype is unknown."""
        size, dtype = self.size, self.dtype
        return None if size is None or dtype is None else size * dtype.itemsize

    def eval(self, session: object = None, feed_dict: Mapping[Any, Any] | None = None) -> np.ndarray[Any, Any]:
        """The value that a session computes: the one given, else that of the innermost `with session:`."""
        cell = self._cell
        return cell.home.evaluate(self, session, feed_dict)  # type: ignore[attr-defined, no-any-return]

    def numpy(self) -> NoReturn:
        """Raises `SymbolError`: a symbol has no value."""
        self.refuse("numpy()")

    def __len__(self) -> int:
        shape: tuple[int | None, ...] | None = self.shape
        if shape and shape[0] is None:
            self.refuse("len()")
        if shape is None:
            self.refuse("len()")
        return super().__len__()

    __hash__ = object.__hash__  # a key of feed dictionaries, of any shape

    def __iter__(self) -> Iterator[Handle]:
        self.refuse("iterating")

    def refuse(self, what: str) -> NoReturn:
        """Raise the error for code that needs a value: it names the symbol and says what to do."""
        cell = self._cell
        cell.home.block(cell, None, what)
        raise AssertionError("a symbol has no value")

    def __repr__(self) -> str:
        cell = self._cell
        facts = f"name={self.name!r} op={cell.op.name} device={self.device} shape={self.shape} dtype={self.dtype}"
        return f"<Symbol {facts} made at {self.place}>"
