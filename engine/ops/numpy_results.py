"""How many arrays a NumPy function returns, and in what: known before it has run, from its arguments alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from handles.base import Handle


class Several(NamedTuple):
    """A result of several arrays: how many, how the caller gets them, how they come out of NumPy's own result."""

    arrays: int
    build: Callable[[tuple[Any, ...]], Any] = tuple
    flatten: Callable[[Any], Sequence[Any]] = tuple


Counter = Callable[..., Several | int | None]


def _ndim(x: Any) -> int:
    return x.ndim if isinstance(x, Handle) else np.ndim(x)


def _shape(x: Any) -> tuple[int | None, ...]:
    return x.shape if isinstance(x, Handle) else np.shape(x)


def _of_all(*arrays: object, **params: object) -> int | None:
    return len(arrays)


def _of_all_or_one(*arrays: object) -> int | None:
    return len(arrays) if len(arrays) > 1 else None


def _meshgrid(*arrays: object, **params: object) -> int:
    return len(arrays)


def _unique(
    ar: object,
    return_index: bool = False,
    return_inverse: bool = False,
    return_counts: bool = False,
    *_: object,
    **__: object,
) -> int | None:
    return (
        1 + bool(return_index) + bool(return_inverse) + bool(return_counts)
        if (return_index or return_inverse or return_counts)
        else None
    )


def _split(ary: Any, indices_or_sections: Any, axis: int = 0) -> Several:
    try:
        return Several(len(indices_or_sections) + 1, list)
    except TypeError:
        return Several(max(1, int(indices_or_sections)), list)  # where there are none, NumPy has the last word


def _unstack(x: object, /, *, axis: Any = 0) -> int:
    shape = _shape(x)
    if not shape:
        raise ValueError("unstack: x must have at least one dimension")
    axes = np.lib.array_utils.normalize_axis_tuple(axis, len(shape))
    if len(axes) != 1:
        raise ValueError(f"unstack: axis must be one axis, but got {axis!r}")
    length = shape[axes[0]]
    if length is None:
        raise ValueError("unstack: the length of the axis is not known yet; await the handle first")
    return length


def _gradient(f: Any, *varargs: object, axis: Any = None, edge_order: int = 1) -> int | None:
    axes = _ndim(f) if axis is None else 1 if np.ndim(axis) == 0 else len(axis)
    return axes if axes != 1 else None


def _where(condition: object, *rest: object, **params: object) -> int | None:
    return None if rest or params else max(_ndim(condition), 1)


def _nonzero(a: object) -> int:
    return _ndim(a)


def _diag_indices_from(arr: object) -> int:
    return _ndim(arr)


def _polyfit(
    x: object, y: object, deg: object, rcond: object = None, full: bool = False, w: object = None, cov: object = False
) -> int | None:
    return 5 if full else 2 if cov else None


def _average(
    a: object, axis: object = None, weights: object = None, returned: bool = False, **params: object
) -> int | None:
    return 2 if returned else None


def _intersect1d(ar1: object, ar2: object, assume_unique: bool = False, return_indices: bool = False) -> int | None:
    return 3 if return_indices else None


def _linspace(
    start: object,
    stop: object,
    num: object = 50,
    endpoint: bool = True,
    retstep: bool = False,
    *_: object,
    **__: object,
) -> int | None:
    return 2 if retstep else None


def _histogramdd(sample: Any, *_: Any, **__: Any) -> Several:
    if isinstance(sample, list | tuple):
        dimensions: int | None = len(sample)
    else:
        shape = _shape(sample)
        dimensions = shape[1] if len(shape) > 1 else 1
    if dimensions is None:
        raise ValueError("histogramdd: the number of dimensions is not known yet; await the handle first")
    return Several(
        1 + dimensions,
        lambda arrays: (arrays[0], tuple(arrays[1:])),
        lambda result: (result[0], *result[1]),
    )


def _svd(a: Any, full_matrices: bool = True, compute_uv: bool = True, hermitian: bool = False) -> Several | None:
    return Several(3, lambda arrays: _SVD(*arrays)) if compute_uv else None


def _qr(a: Any, mode: str = "reduced") -> Several | int | None:
    if mode == "r":
        return None
    return 2 if mode == "raw" else Several(2, lambda arrays: _QR(*arrays))


def _unravel(indices: object, shape: Any, order: str = "C") -> int:
    return 1 if np.ndim(shape) == 0 else len(shape)


def _named(cls: Any) -> Counter:
    several = Several(len(cls._fields), lambda arrays: cls(*arrays))
    return lambda *_, **__: several


def _always(count: int) -> Counter:
    return lambda *_, **__: count


def _type_of(result: object) -> object:
    return type(result)


_SVD: Any = _type_of(np.linalg.svd(np.eye(1)))
_QR: Any = _type_of(np.linalg.qr(np.eye(1)))
_ONE = np.ones(1)

COUNTS: dict[object, Counter] = {
    np.array_split: _split,
    np.atleast_1d: _of_all_or_one,
    np.atleast_2d: _of_all_or_one,
    np.atleast_3d: _of_all_or_one,
    np.average: _average,
    np.broadcast_arrays: _of_all,
    np.diag_indices_from: _diag_indices_from,
    np.dsplit: _split,
    np.gradient: _gradient,
    np.histogram: _always(2),
    np.histogram2d: _always(3),
    np.histogramdd: _histogramdd,
    np.hsplit: _split,
    np.intersect1d: _intersect1d,
    np.ix_: _of_all,
    np.linalg.eig: _named(_type_of(np.linalg.eig(np.eye(1)))),
    np.linalg.eigh: _named(_type_of(np.linalg.eigh(np.eye(1)))),
    np.linalg.lstsq: _always(4),
    np.linalg.qr: _qr,
    np.linalg.slogdet: _named(_type_of(np.linalg.slogdet(np.eye(1)))),
    np.linalg.svd: _svd,
    np.linspace: _linspace,
    np.meshgrid: _meshgrid,
    np.nonzero: _nonzero,
    np.polydiv: _always(2),
    np.polyfit: _polyfit,
    np.split: _split,
    np.strings.partition: _always(3),
    np.strings.rpartition: _always(3),
    np.tril_indices_from: _always(2),
    np.triu_indices_from: _always(2),
    np.unique: _unique,
    np.unravel_index: _unravel,
    np.vsplit: _split,
    np.where: _where,
}
for _unique_form in ("unique_all", "unique_counts", "unique_inverse"):
    if hasattr(np, _unique_form):
        COUNTS[getattr(np, _unique_form)] = _named(_type_of(getattr(np, _unique_form)(_ONE)))
if hasattr(np, "unstack"):
    COUNTS[np.unstack] = _unstack


def several(function: Callable[..., object], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Several | None:
    """How the result of this call is made of several arrays; None where it is one."""
    counter = COUNTS.get(function)
    count = None if counter is None else counter(*args, **kwargs)
    return Several(count) if isinstance(count, int) else count
