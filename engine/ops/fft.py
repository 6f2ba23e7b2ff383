"""Discrete Fourier transforms: the extension `fft`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from engine.base.hints import raise_missing
from engine.base.op import Op, ShapeDtype
from engine.memory.buffers import buffers
from engine.ops import checks
from engine.ops.creation import Place, on_device
from engine.ops.infer import Dim, dtype_of, normalize_axes, normalize_axis, probe, replaced, same, shape_of
from engine.ops.rows import Axis, Operand, name_of, named
from engine.parallel.axes import of_finite
from engine.parallel.lanes import in_lanes
from engine.runtime.current import current
from handles.base import Handle

Array = np.ndarray[Any, Any]

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

Norm = Literal["backward", "ortho", "forward"] | None
"""None is `backward`, as in NumPy."""
NORMS = ("backward", "ortho", "forward")

Length = Callable[[Dim, int | None], Dim]


class TransformRow(Protocol):
    """A transform along one axis; `n` is the length of the signal, cut or filled up with zeros."""

    def __call__(self, x: Operand, /, *, n: int | None = None, axis: int = -1, norm: Norm = "backward") -> Handle: ...


class SeveralTransformRow(Protocol):
    """A transform along several axes; `s` are the lengths of the signal along them."""

    def __call__(
        self,
        x: Operand,
        /,
        *,
        s: Sequence[int] | None = None,
        axes: Sequence[int] | None = None,
        norm: Norm = "backward",
    ) -> Handle: ...


def _full(length: Dim, n: int | None) -> Dim:
    return length if n is None else n


def _half(length: Dim, n: int | None) -> Dim:
    length = _full(length, n)
    return None if length is None else length // 2 + 1


def _double(length: Dim, n: int | None) -> Dim:
    return n if n is not None else None if length is None else 2 * (length - 1)


def _cost(values: Sequence[Any], params: dict[str, Any]) -> float:
    size = values[0].size if isinstance(values[0], np.ndarray) else 1
    asked = params.get("n") or math.prod(params.get("s") or (1,))
    size = max(size, asked)
    return 3.0 * float(size) * math.log2(size + 2) + 5_000


def _writing(kernel: Callable[..., Any]) -> Callable[..., Any] | None:
    """The kernel with `out`; None where NumPy's has that parameter and leaves it unwritten."""
    if kernel in (np.fft.hfft, np.fft.ihfft):
        return None
    if kernel not in (np.fft.fft, np.fft.ifft):
        return kernel

    def transform(x: Array, *, out: Array, **params: Any) -> Any:
        if x.dtype.kind in "fiub":  # NumPy makes it complex first of all, in fresh memory
            operand = buffers.array(x.shape, out.dtype)
            np.copyto(operand, x)
            x = operand
        return kernel(x, out=out, **params)

    return transform


def _transform(name: str, kernel: Callable[..., Any], doc: str, length: Length = _full) -> TransformRow:
    def infer(x: Any, *, n: int | None, axis: int, norm: str) -> ShapeDtype:
        shape = shape_of(x)
        where = normalize_axis(axis, len(shape))
        if (shape[where] if n is None else n) == 0:
            raise ValueError("Invalid number of FFT data points (0) specified.")
        return ShapeDtype(replaced(shape, where, length(shape[where], n)), probe(kernel, dtype_of(x), n=2))

    op = Op(
        f"fft.{name}",
        kernel,
        infer=infer,
        cost=_cost,
        into=_writing(kernel),
        parallel=in_lanes(of_finite),
    )

    def function(x: Operand, /, *, n: int | None = None, axis: int = -1, norm: Norm = "backward") -> Handle:
        params = {
            "n": checks.axis_or_none(op.name, n, "n"),
            "axis": checks.integer(op.name, "axis", axis),
            "norm": checks.one_of(op.name, "norm", "backward" if norm is None else norm, NORMS),
        }
        return current().dispatch(op, x, params=params)

    return named(function, name, doc)


def _several(name: str, kernel: Callable[..., Any], doc: str, last: Length = _full) -> SeveralTransformRow:
    def infer(x: Any, *, s: Any, axes: Any, norm: str) -> ShapeDtype:
        shape = shape_of(x)
        where = normalize_axes(axes, len(shape), repeated=True)
        asked = s if s is not None else (None,) * len(where)
        lengths = [shape[axis] if n in (None, -1) else n for axis, n in zip(where, asked, strict=True)]
        places = list(range(len(where)))  # an axis that is given twice has the length of its last transform
        for place in places if last is _double else reversed(places):
            rule = last if place == len(where) - 1 else _full
            given = None if asked[place] is None and rule is _double else lengths[place]
            shape = replaced(shape, where[place], rule(shape[where[place]], given))
        return ShapeDtype(shape, probe(kernel, dtype_of(x), axes=(0,), s=(2,)) if where else dtype_of(x))

    op = Op(f"fft.{name}", kernel, infer=infer, cost=_cost)

    def function(
        x: Operand,
        /,
        *,
        s: Sequence[int] | None = None,
        axes: Sequence[int] | None = None,
        norm: Norm = "backward",
    ) -> Handle:
        lengths = None if s is None else checks.integers(op.name, "s", s)
        where = None if axes is None else checks.integers(op.name, "axes", axes)
        if lengths is not None and where is None:
            where = tuple(range(-len(lengths), 0))
        if lengths is not None and where is not None and len(lengths) != len(where):
            raise ValueError(f"{op.name}: s and axes must have the same length, but got {s!r} and {axes!r}")
        params = {
            "s": lengths,
            "axes": where,
            "norm": checks.one_of(op.name, "norm", "backward" if norm is None else norm, NORMS),
        }
        return current().dispatch(op, x, params=params)

    return named(function, name, doc)


fft = _transform("fft", np.fft.fft, "The discrete Fourier transform along an axis.")
ifft = _transform("ifft", np.fft.ifft, "The inverse of `fft`.")
rfft = _transform("rfft", np.fft.rfft, "The transform of a real signal: the frequencies from 0 up.", _half)
irfft = _transform("irfft", np.fft.irfft, "The inverse of `rfft`; `n` is the length of the real signal.", _double)
hfft = _transform("hfft", np.fft.hfft, "The transform of a signal with Hermitian symmetry: real.", _double)
ihfft = _transform("ihfft", np.fft.ihfft, "The inverse of `hfft`.", _half)
fftn = _several("fftn", np.fft.fftn, "The discrete Fourier transform along several axes, along all by default.")
ifftn = _several("ifftn", np.fft.ifftn, "The inverse of `fftn`.")
rfftn = _several("rfftn", np.fft.rfftn, "The transform of a real signal along several axes.", _half)
irfftn = _several("irfftn", np.fft.irfftn, "The inverse of `rfftn`.", _double)


def _infer_shift(x: object, *, axes: object) -> ShapeDtype:
    normalize_axes(axes, len(shape_of(x)), repeated=True)
    return same(x)


_FFTSHIFT = Op("fft.fftshift", np.fft.fftshift, infer=_infer_shift, ns=2)
_IFFTSHIFT = Op("fft.ifftshift", np.fft.ifftshift, infer=_infer_shift, ns=2)


def fftshift(x: Operand, /, *, axes: Axis = None) -> Handle:
    """The zero frequency moved to the middle of the axes."""
    return current().dispatch(_FFTSHIFT, x, params={"axes": checks.sequence_of_axes("fft.fftshift", axes, "axes")})


def ifftshift(x: Operand, /, *, axes: Axis = None) -> Handle:
    """The inverse of `fftshift`."""
    return current().dispatch(_IFFTSHIFT, x, params={"axes": checks.sequence_of_axes("fft.ifftshift", axes, "axes")})


def _frequencies(name: str, kernel: Callable[..., Any], length: Callable[[int], int]) -> Op:
    def run(*, n: int, d: float, dtype: np.dtype[Any]) -> Any:
        result = kernel(n, d=d)
        return result if result.dtype == dtype else result.astype(dtype)

    def infer(*, n: int, d: float, dtype: np.dtype[Any]) -> ShapeDtype:
        return ShapeDtype((length(n),), dtype)

    return Op(name, run, infer=infer, cost=lambda values, params: 2.0 * float(params["n"]))


_FFTFREQ = _frequencies("fft.fftfreq", np.fft.fftfreq, lambda n: n)
_RFFTFREQ = _frequencies("fft.rfftfreq", np.fft.rfftfreq, lambda n: n // 2 + 1)


def _frequency_params(name: str, n: int, d: float, dtype: object) -> dict[str, object]:
    n = checks.integer(name, "n", n)
    if n < 1:
        raise ValueError(f"{name}: n must be 1 or more, but got {n}")
    wanted = checks.dtype_or_none(name, dtype) or np.dtype(np.float64)
    if wanted.kind != "f":
        raise ValueError(f"{name}: dtype must be a real floating-point one, but got {wanted}")
    if not isinstance(d, int | float | np.number):
        raise checks.wrong(name, "d", "a number", d)
    return {"n": n, "d": d, "dtype": wanted}


def fftfreq(n: int, /, *, d: float = 1.0, dtype: DTypeLike | None = None, device: Place = None) -> Handle:
    """The frequencies that belong to `fft` of `n` samples at distance `d`, in cycles per unit of `d`."""
    return on_device(device, _FFTFREQ, (), _frequency_params("fft.fftfreq", n, d, dtype))


def rfftfreq(n: int, /, *, d: float = 1.0, dtype: DTypeLike | None = None, device: Place = None) -> Handle:
    """The frequencies that belong to `rfft` of `n` samples at distance `d`, in cycles per unit of `d`."""
    return on_device(device, _RFFTFREQ, (), _frequency_params("fft.rfftfreq", n, d, dtype))


__all__ = [
    "fft",
    "fftfreq",
    "fftn",
    "fftshift",
    "hfft",
    "ifft",
    "ifftn",
    "ifftshift",
    "ihfft",
    "irfft",
    "irfftn",
    "rfft",
    "rfftfreq",
    "rfftn",
]


def __dir__() -> list[str]:
    return sorted(__all__)


if not TYPE_CHECKING:  # for a type checker a name that is not there is an error

    def __getattr__(name: str) -> None:
        raise_missing(__name__, name, __all__, "numpy.fft", name_of)
