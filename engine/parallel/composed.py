"""Ops that are made of a few elementwise ones, as groups on several threads: variances and differences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_index

from engine.base.op import Op, op_of
from engine.fusion.fused import execute_group
from engine.fusion.groups import FusionGroup, Input, Register, Step
from handles.cell import pending_cell

Array = np.ndarray[Any, Any]

_SUM = Op("sum", np.sum)


def variance(op: Op, values: Sequence[Any], params: dict[str, Any], threads: int) -> Array | None:
    """Compute `numpy.var` over all axes, in the same steps; None for what it treats in another way.

    Two walks: the mean, then how far all is from that.
    """
    (x,) = values
    if not isinstance(x, np.ndarray) or x.dtype.char not in "fd" or not _is_plain(x):
        return None
    if params["axis"] is not None or not x.size > params["correction"]:
        return None
    mean = _run([x], [_step(x, np.sum, Input(0))], threads).reshape(1)
    np.true_divide(mean, np.intp(x.size), out=mean, casting="unsafe")
    steps = [
        _step(x, np.subtract, Input(0), Input(1)),
        _step(x, np.square, Register(0)),
        _step(x, np.sum, Register(1)),
    ]
    result = _run([x, mean], steps, threads).reshape(1)
    np.true_divide(result, np.maximum(np.intp(x.size) - params["correction"], 0), out=result, casting="unsafe")
    return result.reshape((1,) * x.ndim if params["keepdims"] else ())


def _is_plain(x: Array) -> bool:
    """Tell whether NumPy adds the elements up where they are, as one row, and not by way of buffers."""
    return x.dtype.isnative and x.flags.aligned and x.flags.c_contiguous


def deviation(op: Op, values: Sequence[Any], params: dict[str, Any], threads: int) -> Array | None:
    """Compute `numpy.std` over all axes: the root of the variance."""
    result = variance(op, values, params, threads)
    return None if result is None else np.sqrt(result, out=result)


def difference(op: Op, values: Sequence[Any], params: dict[str, Any], threads: int) -> Array | None:
    """Compute `numpy.diff`: each element less the one before it along an axis; None for more than that."""
    x = values[0]
    if params["n"] != 1 or params["given"] or not isinstance(x, np.ndarray):
        return None
    if x.dtype.kind not in "biuf" or not _is_plain(x):
        return None
    before = (slice(None),) * normalize_axis_index(params["axis"], x.ndim)
    later, earlier = x[(*before, slice(1, None))], x[(*before, slice(-1))]
    step = _step(x, np.not_equal if x.dtype == np.bool_ else np.subtract, Input(0), Input(1))
    step.keep = True
    return _run([later, earlier], [step], threads)


def _step(x: Array, kernel: Any, *operands: Any) -> Step:
    op, reduction = (_SUM, "add") if kernel is np.sum else (op_of(kernel), None)
    record = pending_cell(op, (), None, None, None, 0)  # type: ignore[arg-type]
    return Step(record, op, operands, x.dtype, tuple(range(x.ndim)), reduction, keep=op is _SUM)


def _run(inputs: list[Array], steps: list[Step], threads: int) -> Array:
    result = execute_group(FusionGroup(inputs[0].shape, None, steps, inputs), threads)[-1]
    if isinstance(result, BaseException):
        raise result
    return np.asarray(result)
