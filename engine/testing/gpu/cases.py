"""Cases: calls of every op that a GPU computes, on operands of every dtype that it has.

A case is run on the host and on the GPU, and both results are compared: on the host it is NumPy that computes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from engine.devices.base import Array
from engine.ops import linalg, operators
from engine.settings.switch import program

Result = Any
"""A handle, or a tuple of handles."""

INTEGERS = ("bool", "int8", "uint8", "int32", "int64", "uint64")
REALS = ("float32", "float64")
COMPLEX = ("complex64", "complex128")
DTYPES = (*INTEGERS, "float16", *REALS, *COMPLEX)


@dataclass(frozen=True)
class Case:
    """One call: `run(*handles)` of these arrays, by default compared up to rounding."""

    name: str
    run: Callable[..., Result]
    arrays: tuple[Array, ...]
    exact: bool = False
    """True if the results have to be equal."""


def array(dtype: str, shape: tuple[int, ...] = (4, 6), seed: int = 0) -> Array:
    """Numbers between 0.1 and 0.9, or small integers that are not 0; of bools both."""
    rng = np.random.default_rng(seed)
    kind = np.dtype(dtype).kind
    if kind == "b":
        return rng.random(shape) < 0.5
    if kind in "iu":
        return rng.integers(1, 7, shape).astype(dtype)
    numbers = rng.uniform(0.1, 0.9, shape)
    return (numbers + 1j * rng.uniform(0.1, 0.9, shape) if kind == "c" else numbers).astype(dtype)


def op(name: str) -> Callable[..., Result]:
    """An op of the namespace by its name, such as `linalg.inv`."""
    found: Any = program.namespace
    for part in name.split("."):
        found = getattr(found, part)
    return found  # type: ignore[no-any-return]


UNARY = (
    *("abs", "acos", "acosh", "asin", "asinh", "atan", "atanh", "bitwise_invert", "ceil", "conj", "cos", "cosh", "exp"),
    *("expm1", "floor", "imag", "isfinite", "isinf", "isnan", "log", "log1p", "log2", "log10", "logical_not"),
    *("negative", "positive", "real", "reciprocal", "round", "sign", "signbit", "sin", "sinh", "square", "sqrt", "tan"),
    *("tanh", "trunc"),
)
BINARY = (
    *("add", "atan2", "bitwise_and", "bitwise_left_shift", "bitwise_or", "bitwise_right_shift", "bitwise_xor"),
    *("copysign", "divide", "equal", "floor_divide", "greater", "greater_equal", "hypot", "less", "less_equal"),
    *("logaddexp", "logical_and", "logical_or", "logical_xor", "maximum", "minimum", "multiply", "nextafter"),
    *("not_equal", "pow", "remainder", "subtract"),
)
REDUCTIONS = ("sum", "prod", "mean", "max", "min", "all", "any", "std", "var", "count_nonzero")
SEARCHES = ("argmax", "argmin")
PAIRS = (("float64", "float32"), ("int32", "float32"), ("int64", "uint8"), ("bool", "int8"), ("float32", "complex64"))


def elementwise() -> Iterator[Case]:
    """Elementwise ops: of each dtype, of two, and with Python's scalars."""
    for name in UNARY:
        for dtype in DTYPES:
            yield Case(f"{name}({dtype})", op(name), (array(dtype),))
    for name in BINARY:
        for left, right in (*((dtype, dtype) for dtype in DTYPES), *PAIRS):
            yield Case(f"{name}({left}, {right})", op(name), (array(left), array(right, (6,), 1)))
        for dtype in DTYPES:
            yield Case(f"{name}({dtype}, 2)", lambda x, name=name: op(name)(x, 2), (array(dtype),))
        yield Case(f"{name}(float32, 0.5)", lambda x, name=name: op(name)(x, 0.5), (array("float32"),))
    for dtype in (*INTEGERS, *REALS):
        yield Case(f"clip({dtype})", lambda x: op("clip")(x, 0, 3), (array(dtype),))
        yield Case(f"x ** 2 ({dtype})", lambda x: x**2, (array(dtype),))
        yield Case(f"x == y ({dtype})", operators.equal, (array(dtype), array(dtype, seed=1)), exact=True)
    yield Case("clip(min)", lambda x: op("clip")(x, 0.5), (array("float64"),))
    yield Case("uint8 < 300", lambda x: x < 300, (array("uint8"),), exact=True)
    yield Case("uint8 + 300", lambda x: x + 300, (array("uint8"),))
    yield Case("x += y", _in_place, (array("float64"), array("float32")))


def _in_place(x: Any, y: Any) -> Any:
    x = x + 0
    x += y
    return x


def reductions() -> Iterator[Case]:
    """Reductions over axes, searches, running sums."""
    axes: Sequence[dict[str, Any]] = ({}, {"axis": 0}, {"axis": (0, 1)}, {"axis": -1, "keepdims": True})
    for name in REDUCTIONS:
        for dtype in DTYPES:
            for options in axes:
                yield Case(f"{name}({dtype}, {options})", _with(name, options), (array(dtype),))
    for name in SEARCHES:
        for dtype in (*INTEGERS, *REALS):
            for options in (axes[0], axes[1], axes[3]):
                yield Case(f"{name}({dtype}, {options})", _with(name, options), (array(dtype),), exact=True)
    for name in ("cumulative_sum", "cumulative_prod"):
        for dtype in ("int32", "float64", "complex64"):
            for initial in (False, True):
                options = {"axis": 1, "include_initial": initial}
                yield Case(f"{name}({dtype}, {options})", _with(name, options), (array(dtype),))
    for name in ("std", "var"):
        yield Case(f"{name}(correction=1)", _with(name, {"correction": 1, "axis": 0}), (array("float64"),))
    yield Case("sum(float32, dtype=float64)", _with("sum", {"dtype": np.float64}), (array("float32"),))


def _with(name: str, options: dict[str, Any]) -> Callable[..., Result]:
    return lambda *handles: op(name)(*handles, **options)


def shapes() -> Iterator[Case]:
    """Manipulation and indexing: the elements stay what they are."""
    x, mask, index = array("float64"), array("bool", seed=3), np.array([2, 0, 2])
    calls: dict[str, Callable[..., Result]] = {
        "reshape": lambda a: op("reshape")(a, (3, 8)),
        "reshape(copy)": lambda a: op("reshape")(a, (-1,), copy=True),
        "permute_dims": lambda a: op("permute_dims")(a, (1, 0)),
        "matrix_transpose": op("matrix_transpose"),
        "expand_dims": lambda a: op("expand_dims")(a, (0, 2)),
        "squeeze": lambda a: op("squeeze")(op("expand_dims")(a, 0), 0),
        "broadcast_to": lambda a: op("broadcast_to")(a, (2, 4, 6)),
        "flip": lambda a: op("flip")(a, axis=1),
        "moveaxis": lambda a: op("moveaxis")(a, 0, 1),
        "roll": lambda a: op("roll")(a, (1, -2), axis=(0, 1)),
        "tile": lambda a: op("tile")(a, (2, 1)),
        "repeat": lambda a: op("repeat")(a, 2, axis=1),
        "repeat(counts)": lambda a: op("repeat")(a, np.array([1, 0, 2, 1]), axis=0),
        "concat": lambda a: op("concat")([a, a * 2], axis=1),
        "concat(None)": lambda a: op("concat")([a, a * 2], axis=None),
        "stack": lambda a: op("stack")([a, a * 2], axis=1),
        "split": lambda a: op("split")(a, 2, axis=1),
        "split(one)": lambda a: op("split")(a, 1),
        "unstack": op("unstack"),
        "meshgrid": lambda a: op("meshgrid")(a[0], a[1]),
        "broadcast_arrays": lambda a: op("broadcast_arrays")(a, a[0]),
        "tril": lambda a: op("tril")(a, k=1),
        "triu": lambda a: op("triu")(a, k=-1),
        "a[1]": lambda a: a[1],
        "a[1:, ::-2]": lambda a: a[1:, ::-2],
        "a[..., None, 2]": lambda a: a[..., None, 2],
        "a[index]": lambda a: a[index],
        "a[mask]": lambda a: a[mask],
        "a[index, index]": lambda a: a[index, index],
        "a[1:3] = 7": lambda a: _written(a, (slice(1, 3),), 7),
        "a[mask] = 0": lambda a: _written(a, mask, 0),
        "a[1][2] = 7": _written_to_view,
        "take": lambda a: op("take")(a, index, axis=1),
        "take_along_axis": lambda a: op("take_along_axis")(a, op("argsort")(a, axis=1), axis=1),
        "where": lambda a: op("where")(a > 0.5, a, 0.0),
        "diff": lambda a: op("diff")(a, axis=1, n=2),
        "diff(prepend)": lambda a: op("diff")(a, axis=1, prepend=a[:, :1]),
        "astype": lambda a: op("astype")(a * 10, np.int32),
        "astype(bool)": lambda a: op("astype")(a, np.bool_),
        "asarray(copy)": lambda a: op("asarray")(a, copy=True),
        "view": lambda a: a.view(np.int64),
        "zeros_like": op("zeros_like"),
        "ones_like": op("ones_like"),
        "full_like(row)": lambda a: op("full_like")(a, a[0]),
        "full(row)": lambda a: op("full")((2, 6), a[0], dtype=np.float32),
        "full_like": lambda a: op("full_like")(a, 3, dtype=np.float32),
    }
    for name, call in calls.items():
        yield Case(name, call, (x,), exact=True)


def _written(handle: Any, key: Any, value: Any) -> Any:
    handle = handle + 0
    handle[key] = value
    return handle


def _written_to_view(handle: Any) -> Any:
    handle = handle + 0
    view = handle[1:].T
    view[2] = 7
    handle[2][3:] += 1
    return handle


def sorting() -> Iterator[Case]:
    """Sorting, searching and sets."""
    for dtype in ("int32", "uint8", "float32", "float64"):
        x = array(dtype, (5, 7))
        for options in ({}, {"axis": 0}, {"descending": True}):
            yield Case(f"sort({dtype}, {options})", _with("sort", options), (x,), exact=True)
            yield Case(f"argsort({dtype}, {options})", _with("argsort", options), (x,), exact=True)
        flat = np.sort(x.ravel())
        yield Case(f"searchsorted({dtype})", op("searchsorted"), (flat, x), exact=True)
        for name in ("unique_all", "unique_counts", "unique_inverse"):
            yield Case(f"{name}({dtype})", op(name), (x,), exact=True)
        yield Case(f"unique_values({dtype})", lambda a: op("sort")(op("unique_values")(a)), (x,), exact=True)
        yield Case(f"isin({dtype})", op("isin"), (x, x[0]), exact=True)
        yield Case(f"nonzero({dtype})", op("nonzero"), (x,), exact=True)


def algebra() -> Iterator[Case]:
    """Linear algebra. Where a sign or an order is free, what is compared is what the parts make together."""
    rng = np.random.default_rng(4)
    for dtype in (*REALS, *COMPLEX):
        square = (rng.standard_normal((2, 5, 5)) + 5 * np.eye(5)).astype(dtype)
        wide = rng.standard_normal((4, 6)).astype(dtype)
        right = rng.standard_normal((2, 5, 3)).astype(dtype)
        hermitian = square @ square.conj().swapaxes(-1, -2)
        vector = rng.standard_normal(3).astype(dtype)
        calls: dict[str, tuple[Callable[..., Result], tuple[Array, ...]]] = {
            "matmul": (op("matmul"), (square, right)),
            "matmul(vector)": (op("matmul"), (wide, wide[0])),
            "tensordot": (lambda a, b: op("tensordot")(a, b, axes=1), (square, wide.T[:5])),
            "vecdot": (op("vecdot"), (wide, wide)),
            "outer": (linalg.outer, (vector, vector)),
            "cross": (linalg.cross, (vector, vector[::-1].copy())),
            "inv": (linalg.inv, (square,)),
            "det": (linalg.det, (square,)),
            "solve": (linalg.solve, (square, right)),
            "slogdet": (linalg.slogdet, (square,)),
            "cholesky": (linalg.cholesky, (hermitian,)),
            "cholesky(upper)": (lambda a: linalg.cholesky(a, upper=True), (hermitian,)),
            "qr": (lambda a: op("matmul")(*linalg.qr(a)), (wide,)),
            "svd": (_rebuilt_from_svd, (wide,)),
            "svdvals": (linalg.svdvals, (wide,)),
            "pinv": (linalg.pinv, (wide,)),
            "matrix_rank": (linalg.matrix_rank, (square,)),
            "matrix_power": (lambda a: linalg.matrix_power(a, 3), (square,)),
            "eigh": (_rebuilt_from_eigh, (hermitian,)),
            "eigvalsh": (linalg.eigvalsh, (hermitian,)),
            "diagonal": (lambda a: linalg.diagonal(a, offset=1), (square,)),
            "trace": (linalg.trace, (square,)),
        }
        for order in (2, 1, 0, np.inf, 3):
            calls[f"vector_norm({order})"] = partial(linalg.vector_norm, axis=-1, ord=order), (wide,)
        for kind in ("fro", "nuc", 1, -1, 2, np.inf):
            calls[f"matrix_norm({kind})"] = partial(linalg.matrix_norm, ord=kind, keepdims=True), (wide,)
        for name, (call, arrays) in calls.items():
            yield Case(f"{name}({dtype})", call, arrays)


def _rebuilt_from_svd(a: Any) -> Any:
    u, s, vh = linalg.svd(a, full_matrices=False)
    return op("matmul")(u * s, vh)


def _rebuilt_from_eigh(a: Any) -> Any:
    values, vectors = linalg.eigh(a)
    return op("matmul")(vectors * values[..., None, :], op("conj")(op("matrix_transpose")(vectors)))


def transforms() -> Iterator[Case]:
    """Fourier transforms."""
    for dtype in ("float64", "complex64", "complex128"):
        x = array(dtype, (4, 8))
        for name in ("fft", "ifft", "fftn", "ifftn", "fftshift", "ifftshift"):
            yield Case(f"fft.{name}({dtype})", op(f"fft.{name}"), (x,))
        for name in ("irfft", "hfft", "irfftn") if dtype != "float64" else ("rfft", "ihfft", "rfftn"):
            yield Case(f"fft.{name}({dtype})", op(f"fft.{name}"), (x,))
    yield Case("fft(n, norm)", lambda a: op("fft.fft")(a, n=6, axis=0, norm="ortho"), (array("float64"),))


def creation() -> Iterator[Case]:
    """Arrays out of nothing: the device is that of the block around."""
    calls: dict[str, Callable[[], Result]] = {
        "zeros": lambda: op("zeros")((2, 3)),
        "ones": lambda: op("ones")((2, 3), dtype=np.int8),
        "full": lambda: op("full")((2, 3), 7),
        "eye": lambda: op("eye")(3, 4, k=1),
        "arange": lambda: op("arange")(2, 9, 3),
        "arange(float)": lambda: op("arange")(0.0, 1.0, 0.125),
        "linspace": lambda: op("linspace")(0.0, 1.0, 9),
        "asarray(list)": lambda: op("asarray")([[1, 2], [3, 4]]),
        "add(1, 2.5)": lambda: op("add")(1, 2.5),
        "fftfreq": lambda: op("fft.fftfreq")(8),
        "rfftfreq": lambda: op("fft.rfftfreq")(8, dtype=np.float32),
    }
    for name, call in calls.items():
        yield Case(name, call, ())


def functions() -> Iterator[Case]:
    """Functions of NumPy that the namespace has no row for, called on handles."""
    x = array("float64")
    calls: dict[str, Callable[..., Result]] = {
        "np.cbrt": np.cbrt,
        "np.median": lambda a: np.median(a, axis=0),
        "np.percentile": lambda a: np.percentile(a, 25.0),
        "np.bincount": lambda a: np.bincount(op("astype")(a * 5, np.int64).reshape((-1,))),
        "np.outer": np.outer,
        "np.kron": lambda a: np.kron(a, a),
        "np.einsum": lambda a: np.einsum("ij,kj->ik", a, a),
        "np.nan_to_num": np.nan_to_num,
        "np.add.reduce": lambda a: np.add.reduce(a, axis=1),
        "np.maximum.reduce": lambda a: np.maximum.reduce(a, axis=0),
        "np.divmod": lambda a: np.divmod(a, 0.3),
        "np.pad": lambda a: np.pad(a, 1),
        "np.gradient": lambda a: np.gradient(a, axis=0),
        "np.histogram": lambda a: np.histogram(a, bins=4)[0],
        "np.cov": np.cov,
        "np.dot": lambda a: np.dot(a, a.T),
    }
    for name, call in calls.items():
        given = (x, x) if name == "np.outer" else (x,)
        yield Case(name, call, given)


def all_cases() -> Iterator[Case]:
    """Every case."""
    for chapter in (elementwise, reductions, shapes, sorting, algebra, transforms, creation, functions):
        yield from chapter()
