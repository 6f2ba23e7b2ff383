"""Edges: special values, empty arrays, views of any order, large arrays, and what NumPy refuses.

What NumPy leaves open (casts of NaN to integers, an order of equal elements that was not asked for) is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from engine.ops import linalg
from engine.testing.gpu.cases import Case, array, op

FLOATS = ("float16", "float32", "float64")
SMALL = ("int16", "uint16", "uint32")
SPECIAL = (0.0, -0.0, 1.5, -2.5, np.nan, np.inf, -np.inf, 0.5, np.nan, 2.5)


def special_values() -> Iterator[Case]:
    """Infinities, NaNs, zeros with a sign, and halves that are rounded."""
    unary = ("abs", "ceil", "exp", "floor", "isfinite", "isinf", "isnan", "log", "negative", "round", "sign", "signbit")
    binary = ("maximum", "minimum", "copysign", "divide", "floor_divide", "remainder", "pow", "equal", "less", "atan2")
    for dtype in FLOATS:
        x = np.array(SPECIAL, dtype)
        for name in (*unary, "sqrt", "trunc", "square", "tanh"):
            yield Case(f"{name}({dtype}, special)", op(name), (x,))
        for name in binary:
            yield Case(f"{name}({dtype}, special)", op(name), (x, x[::-1].copy()))
        for name in ("max", "min", "argmax", "argmin", "any", "all", "count_nonzero"):
            yield Case(f"{name}({dtype}, special)", op(name), (x,), exact=True)
        yield Case(f"sort({dtype}, special)", op("sort"), (x,), exact=True)
        yield Case(f"argsort({dtype}, special)", op("argsort"), (x,), exact=True)
        yield Case(f"sort({dtype}, special, descending)", lambda a: op("sort")(a, descending=True), (x,), exact=True)
        yield Case(f"unique_counts({dtype}, special)", op("unique_counts"), (x,), exact=True)
        yield Case(f"isin({dtype}, special)", op("isin"), (x, x[:3].copy()), exact=True)
        yield Case(f"searchsorted({dtype}, special)", op("searchsorted"), (np.sort(x), x), exact=True)
        yield Case(f"clip({dtype}, special)", lambda a: op("clip")(a, -1.0, 1.0), (x,))
        yield Case(f"np.nan_to_num({dtype}, special)", np.nan_to_num, (x,))
        yield Case(f"np.nanmax({dtype}, special)", lambda a: np.nanmax(a[:5]), (x,))


def integers() -> Iterator[Case]:
    """Division by zero, overflow, and shifts by as much as the width and more."""
    for dtype in ("int8", "int32", "int64", "uint8", "uint64", *SMALL):
        known = np.iinfo(dtype)
        x = np.array([known.min, known.max, 1, 0, 7], dtype)
        y = np.array([0, 2, 0, 3, known.max], dtype)
        for name in ("floor_divide", "remainder", "add", "multiply", "subtract", "maximum", "less"):
            yield Case(f"{name}({dtype}, limits)", op(name), (x, y), exact=True)
        shifts = np.array([0, known.bits - 1, known.bits, 3, known.bits - 2], dtype)
        for name in ("bitwise_left_shift", "bitwise_right_shift"):
            yield Case(f"{name}({dtype}, width)", op(name), (x, shifts), exact=True)
        for number in (0, 1, 2, 3):
            yield Case(f"x ** {number} ({dtype})", lambda a, number=number: a**number, (x,), exact=True)
        for name in ("sum", "prod", "max", "min", "argmax", "mean", "std", "sort", "argsort"):
            yield Case(f"{name}({dtype}, limits)", op(name), (x[2:],))
        yield Case(f"clip({dtype}, beyond)", lambda a: op("clip")(a, -(1 << 40), 1 << 70), (x,), exact=True)
    for power in (0.5, -1.0, 2.0):
        yield Case(f"x ** {power}", lambda a, power=power: a**power, (array("float32"),))


def scalars() -> Iterator[Case]:
    """Numbers of Python's and NumPy's beside arrays: the dtypes that they lead to, and those that are refused."""
    numbers = (2, -1, 300, 1 << 63, 10**30, 0.5, np.int64(5), np.uint8(200), np.float64(0.5), np.uint64(1 << 63))
    calls: dict[str, Callable[[Any, Any], Any]] = {
        "x / s": lambda x, s: x / s,
        "s - x": lambda x, s: s - x,
        "x // s": lambda x, s: x // s,
        "x == s": lambda x, s: x == s,
        "x < s": lambda x, s: x < s,
        "x ** s": lambda x, s: x**s,
        "s ** x": lambda x, s: s**x,
        "maximum": lambda x, s: op("maximum")(x, s),
        "where": lambda x, s: op("where")(x > 1, x, s),
        "clip(min)": lambda x, s: op("clip")(x, s, None),
        "full_like": lambda x, s: op("full_like")(x, s),
        "x[mask] = s": _masked,
    }
    for dtype in ("bool", "int8", "uint8", "int64", "uint64", "float16", "float32", "complex64"):
        x = array(dtype, (5,))
        for number in numbers:
            shown = repr(number) if isinstance(number, int | float) else f"{number.dtype} {number}"
            for name, call in calls.items():
                yield Case(f"{name}({dtype}, {shown})", lambda a, call=call, number=number: call(a, number), (x,))


def _masked(handle: Any, value: Any) -> Any:
    handle = handle.copy()
    handle[handle == handle] = value
    return handle


def empty() -> Iterator[Case]:
    """Arrays of no elements, and of no dimensions."""
    for shape in ((0,), (0, 3), (3, 0), ()):
        x = np.ones(shape)
        for name in ("sum", "prod", "mean", "max", "argmax", "sort", "abs", "any", "cumulative_sum", "nonzero"):
            yield Case(f"{name}({shape})", op(name), (x,))
        yield Case(f"add({shape})", op("add"), (x, x))
        yield Case(f"sum({shape}, axis)", lambda a: op("sum")(a, axis=0), (x,))
        yield Case(f"where({shape})", lambda a: op("where")(a > 0, a, 1.0), (x,))
        yield Case(f"concat({shape})", lambda a: op("concat")([a, a]), (x,))
        yield Case(f"reshape({shape})", lambda a: op("reshape")(a, (-1,)), (x,))
        yield Case(f"unique_values({shape})", op("unique_values"), (x,))
    yield Case("matmul((2, 0), (0, 3))", op("matmul"), (np.ones((2, 0)), np.ones((0, 3))))
    yield Case("take(no indices)", lambda a: op("take")(a, np.zeros(0, np.int64), axis=0), (np.ones((3, 2)),))


def orders() -> Iterator[Case]:
    """Operands that are views: turned, in strides, backwards; and large ones, for which CuPy has other kernels."""
    views: dict[str, Callable[[Any], Any]] = {
        "a.T": lambda a: a.T,
        "a[::2, ::-1]": lambda a: a[::2, ::-1],
        "broadcast": lambda a: op("broadcast_to")(a[:1], a.shape),
    }
    calls: dict[str, Callable[[Any], Any]] = {
        "sin": op("sin"),
        "sum": lambda a: op("sum")(a, axis=0),
        "argmax": lambda a: op("argmax")(a, axis=1),
        "cumulative_sum": lambda a: op("cumulative_sum")(a, axis=0),
        "sort": lambda a: op("sort")(a, axis=0),
        "matmul": lambda a: op("matmul")(a, a.T),
        "fft": lambda a: op("fft.fft")(a, axis=0),
        "reshape": lambda a: op("reshape")(a, (-1,)),
        "svdvals": linalg.svdvals,
    }
    x = array("float64", (6, 8))
    for view, turn in views.items():
        for name, call in calls.items():
            yield Case(f"{name}({view})", lambda a, turn=turn, call=call: call(turn(a)), (x,))
    large = np.random.default_rng(2).standard_normal((300, 701))
    for dtype in ("float32", "float64", "int64"):
        for name in ("sum", "max", "argmin", "mean", "var", "cumulative_sum", "sort", "argsort", "any", "nonzero"):
            flat = (large * 100).astype(dtype).ravel()
            yield Case(f"{name}({dtype}, large)", op(name), (flat,))
        yield Case(f"sum({dtype}, large, axis)", lambda a: op("sum")(a, axis=0), ((large * 100).astype(dtype),))
    for dtype in ("float16", "float32"):
        for name in ("fft.fft", "fft.rfft", "fft.ifft"):
            yield Case(f"{name}({dtype})", op(name), (array(dtype, (4, 8)),))
    yield Case("solve(broadcast)", linalg.solve, (np.eye(5) * 2, np.ones((3, 5, 2))))
    yield Case("solve(vector)", linalg.solve, (np.eye(5) * 2, np.ones(5)))
    yield Case("np.float_power(complex64)", np.float_power, (array("complex64"), array("complex64", seed=1)))


def refused() -> Iterator[Case]:
    """Calls that NumPy refuses."""
    x, index = np.arange(12.0).reshape(3, 4), np.array([0, 3])
    calls: dict[str, Callable[[Any], Any]] = {
        "a[index]": lambda a: a[index],
        "a[:, -index - 2]": lambda a: a[:, -index - 2],
        "a[..., index + 1]": lambda a: a[..., index + 1],
        "a[index, index]": lambda a: a[index, index],
        "a[None, index]": lambda a: a[None, index],
        "a[index] = 1": lambda a: _written(a, index),
        "a[5]": lambda a: a[5],
        "take": lambda a: op("take")(a, index, axis=0),
        "take(flat)": lambda a: op("take")(a, index * 4),
        "take_along_axis": lambda a: op("take_along_axis")(a, np.full((3, 1), 4), axis=1),
        "a + b": lambda a: a + np.ones(5),
        "reshape": lambda a: op("reshape")(a, (5, 3)),
        "inv": lambda a: linalg.inv(a[:, :3] * 0),
        "cholesky": lambda a: linalg.cholesky(-np.eye(3) * op("ones")((3, 3))),
        "solve": lambda a: linalg.solve(a[:, :3] * 0, a[:, :3]),
        "inv(no square)": linalg.inv,
        "matmul": lambda a: op("matmul")(a, a),
        "int ** -1": lambda a: op("astype")(a, np.int64) ** -1,
        "~float": lambda a: ~a,
        "concat": lambda a: op("concat")([a, a[:, :2]]),
    }
    for name, call in calls.items():
        yield Case(f"{name} is refused", call, (x,))


def _written(handle: Any, key: Any) -> Any:
    handle = handle + 0
    handle[key] = 1
    return handle


EDGES: Sequence[Callable[[], Iterator[Case]]] = (special_values, integers, scalars, empty, orders, refused)
