"""Reductions: statistical, searching and utility functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from engine.context import current
from engine.ops.infer import reduced
from engine.ops.rows import Axis, Operand, named, reduction, typed_reduction
from engine.planning.op import Op
from handles.base import Handle

sum = typed_reduction("sum", np.sum, "Sum of the elements over the axes.")
prod = typed_reduction("prod", np.prod, "Product of the elements over the axes.")
mean = reduction("mean", np.mean, "Arithmetic mean of the elements over the axes.")
max = reduction("max", np.max, "Largest element over the axes; NaN where one is.")
min = reduction("min", np.min, "Smallest element over the axes; NaN where one is.")
all = reduction("all", np.all, "Whether all elements over the axes are true.")
any = reduction("any", np.any, "Whether any element over the axes is true.")


def _spread(name: str, kernel: Callable[..., Any], doc: str) -> Callable[..., Handle]:
    def run(x: Any, *, axis: Axis, correction: float, keepdims: bool) -> Any:
        return kernel(x, axis=axis, ddof=correction, keepdims=keepdims)

    def infer(x: Any, *, axis: Axis, correction: float, keepdims: bool) -> Any:
        return reduced(kernel)(x, axis=axis, keepdims=keepdims, ddof=0)

    op = Op(name, run, infer=infer, ns=4)

    def function(x: Operand, /, *, axis: Axis = None, correction: float = 0.0, keepdims: bool = False) -> Handle:
        params = {"axis": axis, "correction": correction, "keepdims": keepdims}
        return current().dispatch(op, (x,), params)

    return named(function, name, doc)


std = _spread("std", np.std, "Standard deviation over the axes; `correction` is taken from the number of elements.")
var = _spread("var", np.var, "Variance over the axes; `correction` is taken from the number of elements.")


def _search(name: str, kernel: Callable[..., Any], doc: str) -> Callable[..., Handle]:
    op = Op(name, kernel, infer=reduced(kernel), ns=1)

    def function(x: Operand, /, *, axis: int | None = None, keepdims: bool = False) -> Handle:
        return current().dispatch(op, (x,), {"axis": axis, "keepdims": keepdims})

    return named(function, name, doc, kernel)


argmax = _search("argmax", np.argmax, "Index of the first largest element, along an axis or of all.")
argmin = _search("argmin", np.argmin, "Index of the first smallest element, along an axis or of all.")
