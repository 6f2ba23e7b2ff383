"""The vocabulary of random programs: each op in NumPy, and on the engine."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

import engine
from engine import ops
from tests.programs.model import (
    Array,
    Function,
)


def _halves(x: Array) -> tuple[Array, Array]:
    flat = x.reshape(-1)
    return flat[: flat.size // 2], flat[flat.size // 2 :]


def _picky(x: Array, *, limit: int) -> Array:
    if x.size % 7 > limit:
        raise KeyError(f"{x.size} elements of {x.dtype}")
    return x[..., ::-1] if x.ndim else x


def _scribbling(x: Array) -> Array:
    x[...] = 0
    return x


def _same(x: Array) -> Array:
    return x


def _doubled(x: Array) -> Array:
    return np.add(x, x)


def _doubled_by_an_op(x: Array) -> Any:
    return ops.add(x, x)


def _concat(*arrays: Any, axis: int | None) -> Any:
    return np.concatenate(arrays, axis=axis)


def _stack(*arrays: Any, axis: int) -> Any:
    return np.stack(arrays, axis=axis)


def _getitem(x: Any, *index: Any, key: Any = None) -> Any:
    return x[index[0] if index else key]


def _setitem(x: Array, value: Any, *, key: Any) -> Array:
    changed = x.copy(order="K")
    changed[key] = value
    return changed


def _setitem_of_handle(x: Any, value: Any, *, key: Any) -> Any:
    twin = x.__copy__()
    twin[key] = value
    return twin


def _updated(x: Array, value: Any, *, symbol: str) -> Array:
    changed = x.copy(order="K")
    return np.asarray(getattr(operator, symbol)(changed, value))


def _updated_handle(x: Any, value: Any, *, symbol: str) -> Any:
    return getattr(operator, symbol)(x.__copy__(), value)


def _count_nonzero(x: Array, *, axis: int | None, keepdims: bool) -> Array:
    return np.asarray(np.count_nonzero(x, axis=axis, keepdims=keepdims))


def _astype(x: Array, *, dtype: str) -> Array:
    return x.astype(dtype)


UNARY: dict[str, Function] = {
    "abs": np.absolute,
    "bitwise_invert": np.invert,
    "conj": np.conjugate,
    "cos": np.cos,
    "exp": np.exp,
    "floor": np.floor,
    "isfinite": np.isfinite,
    "isnan": np.isnan,
    "log1p": np.log1p,
    "logical_not": np.logical_not,
    "negative": np.negative,
    "reciprocal": np.reciprocal,
    "round": np.round,
    "sign": np.sign,
    "sin": np.sin,
    "sqrt": np.sqrt,
    "square": np.square,
    "tanh": np.tanh,
    "trunc": np.trunc,
}
BINARY: dict[str, Function] = {
    "add": np.add,
    "atan2": np.arctan2,
    "bitwise_and": np.bitwise_and,
    "bitwise_left_shift": np.left_shift,
    "bitwise_xor": np.bitwise_xor,
    "copysign": np.copysign,
    "divide": np.divide,
    "equal": np.equal,
    "floor_divide": np.floor_divide,
    "hypot": np.hypot,
    "less": np.less,
    "logical_or": np.logical_or,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "multiply": np.multiply,
    "not_equal": np.not_equal,
    "pow": np.power,
    "remainder": np.remainder,
    "subtract": np.subtract,
}
OPERATORS: dict[str, Function] = {
    symbol.__name__: symbol
    for symbol in (
        operator.add,
        operator.sub,
        operator.mul,
        operator.truediv,
        operator.floordiv,
        operator.mod,
        operator.pow,
        operator.lt,
        operator.ge,
        operator.eq,
        operator.and_,
        operator.or_,
    )
}
UPDATES = ("iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "iand", "ixor", "ilshift")
REDUCTIONS: dict[str, Function] = {
    "all": np.all,
    "any": np.any,
    "count_nonzero": _count_nonzero,
    "max": np.max,
    "mean": np.mean,
    "min": np.min,
    "prod": np.prod,
    "sum": np.sum,
}
OTHERS: dict[str, tuple[Function, Function]] = {
    "argmax": (np.argmax, ops.argmax),
    "asarray": (np.asarray, ops.asarray),
    "astype": (_astype, lambda x, dtype: ops.astype(x, dtype)),
    "broadcast_to": (np.broadcast_to, ops.broadcast_to),
    "clip": (np.clip, ops.clip),
    "concat": (_concat, lambda *arrays, axis: ops.concat(arrays, axis=axis)),
    "expand_dims": (np.expand_dims, ops.expand_dims),
    "getitem": (_getitem, _getitem),
    "inv": (np.linalg.inv, ops.linalg.inv),
    "matmul": (np.matmul, ops.matmul),
    "permute_dims": (np.transpose, ops.permute_dims),
    "repeat": (np.repeat, ops.repeat),
    "reshape": (np.reshape, ops.reshape),
    "roll": (np.roll, ops.roll),
    "setitem": (_setitem, _setitem_of_handle),
    "solve": (np.linalg.solve, ops.linalg.solve),
    "split": (np.split, ops.split),
    "squeeze": (np.squeeze, ops.squeeze),
    "stack": (_stack, lambda *arrays, axis: ops.stack(arrays, axis=axis)),
    "std": (np.std, ops.std),
    "take": (np.take, ops.take),
    "tile": (np.tile, ops.tile),
    "updated": (_updated, _updated_handle),
    "svd": (lambda x: tuple(np.linalg.svd(x)), lambda x: tuple(ops.linalg.svd(x))),
    "where": (np.where, ops.where),
    # The user's own
    "doubled": (_doubled, engine.op(_doubled_by_an_op, name="doubled")),
    "halves": (_halves, engine.op(_halves, num_outputs=2)),
    "picky": (_picky, engine.op(_picky)),
    "same": (_same, engine.op(_same)),
    "scribbling": (_scribbling, engine.op(_scribbling)),
}
VOCABULARY: dict[str, tuple[Function, Function]] = {
    **{name: (function, getattr(ops, name)) for name, function in (UNARY | BINARY | REDUCTIONS).items()},
    **{f"operator.{name}": (function, function) for name, function in OPERATORS.items()},
    **OTHERS,
}
