"""Reductions and running sums: statistical and utility functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.base.op import Op, Parallel, ShapeDtype
from engine.ops import checks, costs
from engine.ops.infer import dtype_of, normalize_axis, probe, reduced, replaced, shape_of, total
from engine.ops.rows import Axis, CumulativeRow, Operand, SpreadRow, named, reduction, typed_reduction
from engine.parallel.axes import along_axis, reducing
from engine.parallel.composed import deviation, difference, variance
from engine.parallel.lanes import in_lanes
from engine.runtime.current import current
from handles.base import Handle

Array = np.ndarray[Any, Any]

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

sum = typed_reduction("sum", np.sum, "Sum of the elements over the axes.")
prod = typed_reduction("prod", np.prod, "Product of the elements over the axes.")
mean = reduction("mean", np.mean, "Arithmetic mean of the elements over the axes.")
max = reduction("max", np.max, "Largest element over the axes; NaN where one is.")
min = reduction("min", np.min, "Smallest element over the axes; NaN where one is.")
all = reduction("all", np.all, "True where all elements over the axes are true.")
any = reduction("any", np.any, "True where any element over the axes is true.")


def _spread(name: str, kernel: Callable[..., object], doc: str, over_all: Parallel) -> SpreadRow:
    inferred, along_axes = reduced(kernel), in_lanes(reducing(kernel))

    def run(x: object, *, axis: Axis, correction: float, keepdims: bool) -> Any:
        return kernel(x, axis=axis, ddof=correction, keepdims=keepdims)

    def infer(x: Any, *, axis: Axis, correction: float, keepdims: bool) -> Any:
        return inferred(x, axis=axis, keepdims=keepdims, ddof=0)

    def parallel(op: Op, values: Sequence[object], params: dict[str, object], threads: int) -> Any:
        return (over_all if params["axis"] is None else along_axes)(op, values, params, threads)

    op = Op(name, run, infer=infer, ns=4, parallel=parallel)

    def function(x: Operand, /, *, axis: Axis = None, correction: float = 0.0, keepdims: bool = False) -> Handle:
        if not isinstance(correction, int | float | np.number):
            raise checks.wrong(name, "correction", "a number", correction)
        params = {
            "axis": checks.axes(name, axis),
            "correction": correction,
            "keepdims": checks.flag(name, "keepdims", keepdims),
        }
        return current().dispatch(op, x, params=params)

    return named(function, name, doc)


std = _spread(
    "std", np.std, "Standard deviation over the axes; `correction` is taken from the number of elements.", deviation
)
var = _spread("var", np.var, "Variance over the axes; `correction` is taken from the number of elements.", variance)


def _cumulative(name: str, kernel: Callable[..., Any], doc: str) -> CumulativeRow:
    def infer(x: Any, *, axis: int | None, dtype: np.dtype[Any] | None, include_initial: bool) -> ShapeDtype:
        shape = shape_of(x) or (1,)
        if axis is None and len(shape) > 1:
            raise ValueError(f"For arrays which have more than one dimension ``axis`` argument is required: {shape}")
        where = normalize_axis(axis or 0, len(shape))
        length = total([shape[where], int(include_initial)])
        return ShapeDtype(replaced(shape, where, length), dtype or probe(kernel, dtype_of(x)))

    op = Op(name, kernel, infer=infer, ns=3, into=kernel, parallel=in_lanes(along_axis))

    def function(
        x: Operand, /, *, axis: int | None = None, dtype: DTypeLike | None = None, include_initial: bool = False
    ) -> Handle:
        params = {
            "axis": checks.axis_or_none(name, axis),
            "dtype": checks.dtype_or_none(name, dtype),
            "include_initial": checks.flag(name, "include_initial", include_initial),
        }
        return current().dispatch(op, x, params=params)

    return named(function, name, doc)


cumulative_sum = _cumulative(
    "cumulative_sum", np.cumulative_sum, "Running sum along an axis, which must be given for more than one dimension."
)
cumulative_prod = _cumulative(
    "cumulative_prod",
    np.cumulative_prod,
    "Running product along an axis, which must be given for more than one dimension.",
)


def _diff(x: Array, *ends: Array, axis: int, n: int, given: tuple[str, ...]) -> object:
    return np.diff(x, n=n, axis=axis, **dict(zip(given, ends, strict=True)))


def _infer_diff(x: object, *ends: object, axis: int, n: int, given: tuple[str, ...]) -> ShapeDtype:
    shape = shape_of(x)
    if n == 0:
        return ShapeDtype(shape, dtype_of(x))
    where = normalize_axis(axis, len(shape))
    length = total([shape[where], *(shape_of(end)[where] if shape_of(end) else 1 for end in ends)])
    dtype = np.result_type(dtype_of(x), *map(dtype_of, ends))
    difference = np.dtype(bool) if dtype == np.bool_ else np.subtract.resolve_dtypes((dtype, dtype, None))[-1]
    return ShapeDtype(replaced(shape, where, None if length is None else length - n if length > n else 0), difference)


_DIFF = Op("diff", _diff, infer=_infer_diff, cost=costs.each(3), parallel=difference)


def diff(
    x: Operand, /, *, axis: int = -1, n: int = 1, prepend: Operand | None = None, append: Operand | None = None
) -> Handle:
    """Differences of neighbours along an axis, `n` times over; `prepend` and `append` are joined to the array first."""
    n = checks.integer("diff", "n", n)
    if n < 0:
        raise ValueError(f"diff: n must be 0 or more, but got {n}")
    ends = {name: end for name, end in (("prepend", prepend), ("append", append)) if end is not None}
    params = {"axis": checks.integer("diff", "axis", axis), "n": n, "given": tuple(ends)}
    return current().dispatch_any(_DIFF, (x, *ends.values()), params)
