"""The namespace that made a handle, as types: the functions that its operators and methods call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import DTypeLike

    from handles import Handle


class Unary(Protocol):
    """An op of one operand."""

    def __call__(self, x: object, /) -> Handle: ...


class Binary(Protocol):
    """An op of two operands."""

    def __call__(self, x1: object, x2: object, /) -> Handle: ...


class OperatorFunctions(Protocol):
    """Functions of operators for which the namespace has none of its own (`engine.ops.operators`)."""

    power: Binary
    equal: Binary
    not_equal: Binary
    conjugate: Unary

    def compared(self, name: str, x: object, other: object) -> Handle: ...

    def updated(self, ufunc: str, handle: object, other: object) -> Handle: ...

    def seen(self, source: object, view: object, steps: tuple[object, ...]) -> Handle: ...

    def written(self, source: object, value: object, steps: tuple[object, ...], *, strict: bool) -> Handle: ...


class AttributeFunctions(Protocol):
    """Functions of attributes of arrays for which NumPy has none (`engine.ops.attributes`)."""

    byteswap: Unary

    def view(self, x: object, dtype: DTypeLike | None = None) -> Handle: ...

    def getfield(self, x: object, dtype: DTypeLike, offset: int = 0) -> Handle: ...

    def resized(self, x: object, shape: object) -> Handle: ...

    def write(self, handle: object, attribute: str, *args: object) -> None: ...


class ProtocolFunctions(Protocol):
    """How calls of NumPy's functions become ops (`engine.ops.numpy_protocols`)."""

    def call_ufunc(
        self, ufunc: np.ufunc, method: str, inputs: tuple[object, ...], kwargs: dict[str, object]
    ) -> object: ...

    def call_function(
        self, function: Callable[..., object], args: Sequence[object], kwargs: dict[str, object]
    ) -> object: ...

    def cast(self, handle: object, dtype: DTypeLike, order: str, casting: str, copy: bool) -> Handle: ...


class Namespace(Protocol):
    """The array API namespace of the engine (`engine.ops`), as far as handles call it."""

    operators: OperatorFunctions
    attributes: AttributeFunctions
    numpy_protocols: ProtocolFunctions

    add: Binary
    subtract: Binary
    multiply: Binary
    divide: Binary
    floor_divide: Binary
    remainder: Binary
    matmul: Binary
    bitwise_and: Binary
    bitwise_or: Binary
    bitwise_xor: Binary
    bitwise_left_shift: Binary
    bitwise_right_shift: Binary
    less: Binary
    less_equal: Binary
    greater: Binary
    greater_equal: Binary
    negative: Unary
    positive: Unary
    abs: Unary
    bitwise_invert: Unary

    def getitem(self, x: object, key: object) -> Handle: ...

    def setitem(self, x: object, key: object, value: object) -> Handle: ...

    def to_device(self, x: object, device: object) -> Handle: ...
