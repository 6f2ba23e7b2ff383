"""Shapes of what is counted, selected or found: a length that values decide is None."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.base.lengths import Facts
from engine.base.op import ShapeDtype
from engine.ops.infer import Dim, Shape, broadcast, replaced
from engine.ops.numpy_shapes import Rule, Undecided
from engine.ops.numpy_shapes_terms import FLOAT, INTP, one_axis, operand, promoted


def histogram_rule(
    a: object, bins: object = 10, range: object = None, density: object = None, weights: object = None
) -> Facts:
    count, edges = _bins(operand(a), bins)
    if density:
        return ShapeDtype((count,), FLOAT), edges
    counted = INTP if weights is None else operand(weights).dtype
    return ShapeDtype((count,), counted), edges


def _bins(a: ShapeDtype, bins: object) -> tuple[Dim, ShapeDtype]:
    """How many bins there are, and their edges."""
    if isinstance(bins, str):
        return None, ShapeDtype((None,), np.result_type(a.dtype, 1.0) if a.dtype.kind != "f" else a.dtype)
    if isinstance(bins, int | np.integer):
        edges = np.histogram_bin_edges(np.zeros(2, a.dtype), 1)
        return int(bins), ShapeDtype((int(bins) + 1,), edges.dtype)
    its = operand(bins)
    if len(its.shape) != 1:
        raise Undecided("the number of bins is a value") if not its.shape else ValueError("`bins` must be 1d")
    return None if its.shape[0] is None else its.shape[0] - 1, its


def edges_rule(a: object, bins: object = 10, range: object = None, weights: object = None) -> ShapeDtype:
    return _bins(operand(a), bins)[1]


def histogramdd_rule(
    sample: ShapeDtype | Sequence[object],
    bins: object = 10,
    range: object = None,
    density: object = None,
    weights: object = None,
) -> Facts:
    if isinstance(sample, ShapeDtype):
        ndim: Dim = sample.shape[1] if len(sample.shape) > 1 else 1
    else:
        ndim = len(sample)
    if ndim is None:
        raise Undecided("the number of dimensions is not known")
    several = list(bins) if isinstance(bins, list | tuple) else [bins] * ndim
    if len(several) != ndim:
        raise ValueError("The dimension of bins must be equal to the dimension of the sample x.")
    facts = [_bins(ShapeDtype((None,), FLOAT), each) for each in several]
    return ShapeDtype(tuple(count for count, _ in facts), FLOAT), *(edges for _, edges in facts)


def histogram2d_rule(
    x: object,
    y: object,
    bins: object = 10,
    range: object = None,
    density: object = None,
    weights: object = None,
) -> Facts:
    if (isinstance(bins, list | tuple) and len(bins) not in (1, 2)) or (
        isinstance(bins, ShapeDtype) and bins.shape not in ((1,), (2,))
    ):
        bins = [bins, bins]
    elif isinstance(bins, ShapeDtype) or (isinstance(bins, list | tuple) and len(bins) == 1):
        raise Undecided("the numbers of bins are values")
    return histogramdd_rule([x, y], bins)


def indices_rule(arr: object) -> Facts:
    arr = operand(arr)
    return (ShapeDtype((arr.shape[0],), INTP),) * len(arr.shape)


def triangle_rule(*, upper: bool) -> Rule:
    def rule(arr: object, k: object = 0) -> Facts:
        n, m = operand(arr).shape
        if not isinstance(k, int | np.integer):
            raise Undecided("k is no integer")
        if n is None or m is None:
            return (ShapeDtype((None,), INTP),) * 2
        lower = sum(min(max(row + int(k) + (0 if upper else 1), 0), m) for row in range(n))
        return (ShapeDtype((n * m - lower if upper else lower,), INTP),) * 2

    return rule


def some_rule(dtype: np.dtype[Any] | None = None) -> Rule:
    """One dimension of an unknown length."""

    def rule(*args: object, **given: object) -> ShapeDtype:
        first = next(iter(given.values()))
        return ShapeDtype((None,), dtype or operand(first).dtype)

    return rule


def argwhere_rule(a: object) -> ShapeDtype:
    return ShapeDtype((None, len(operand(a).shape)), INTP)


def where_rule(condition: object, x: object = None, y: object = None) -> ShapeDtype | Facts:
    if x is None and y is None:
        ndim = len(operand(condition).shape)
        return (ShapeDtype((None,), INTP),) * max(ndim, 1)
    shape = broadcast(*(operand(each).shape for each in (condition, x, y)))
    return ShapeDtype(shape, promoted(x, y))


def bincount_rule(x: object, weights: object = None, minlength: object = 0) -> ShapeDtype:
    return ShapeDtype((None,), INTP if weights is None else FLOAT)


def compress_rule(condition: object, a: object, axis: object = None, out: object = None) -> ShapeDtype:
    a = operand(a)
    if axis is None:
        return ShapeDtype((None,), a.dtype)
    return ShapeDtype(replaced(a.shape, one_axis(axis, len(a.shape)), None), a.dtype)


def extract_rule(condition: object, arr: object) -> ShapeDtype:
    return ShapeDtype((None,), operand(arr).dtype)


def joined_sets_rule(
    ar1: object, ar2: object, *_: object, return_indices: object = False, **__: object
) -> ShapeDtype | Facts:
    common = ShapeDtype((None,), np.result_type(operand(ar1).dtype, operand(ar2).dtype))
    return (common, *(ShapeDtype((None,), INTP),) * 2) if return_indices else common


def difference_rule(ar1: object, ar2: object, assume_unique: object = False) -> ShapeDtype:
    return ShapeDtype((None,), operand(ar1).dtype)


def unique_rule(
    ar: object,
    return_index: object = False,
    return_inverse: object = False,
    return_counts: object = False,
    axis: object = None,
    **_: object,
) -> ShapeDtype | Facts:
    ar = operand(ar)
    shape: Shape = (None,) if axis is None else replaced(ar.shape, one_axis(axis, len(ar.shape)), None)
    facts = [ShapeDtype(shape, ar.dtype)]
    one = ShapeDtype((None,), INTP)
    length = ar.shape if axis is None else (ar.shape[one_axis(axis, len(ar.shape))],)
    facts += (
        [one] * bool(return_index) + [ShapeDtype(length, INTP)] * bool(return_inverse) + [one] * bool(return_counts)
    )
    return tuple(facts)
