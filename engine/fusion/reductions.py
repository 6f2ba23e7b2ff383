"""The result of a reduction over all axes, from those of the blocks, in the order in which NumPy adds. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.fusion.groups import Step
from engine.fusion.pairwise import Splits
from engine.fusion.program import Deviation, reducer
from engine.memory.layout import Shape

Array = np.ndarray[Any, Any]


def reduced(step: Step, shape: Shape, splits: Splits | None, partials: Sequence[Any] | Array) -> Array:
    """Reduce the results of blocks. Raises `Deviation` where another walk over the whole might give other bits."""
    assert step.reduction is not None
    size = math.prod(shape)
    if step.reduction in ("add", "mean") and step.dtype.kind == "f":
        assert splits is not None
        total = splits.combine(np.asarray(partials))
        if step.reduction == "mean":
            total = total.dtype.type(total / np.intp(size))
    else:
        total = reducer("add" if step.reduction == "count" else step.reduction)(np.array(partials))
    if not _is_clear(step, total, partials):
        raise Deviation
    params = step.cell.params or {}
    kept: Shape = (1,) * len(shape) if params.get("keepdims") else ()
    return np.asarray(total).reshape(kept)


def _is_clear(step: Step, total: Any, partials: Sequence[Any] | Array) -> bool:
    """Tell whether any walk over the whole gives these bits.

    Where NaNs meet, or zeros of both signs in a maximum, the order of instructions decides which one it is. That the
    sum of infinities is no number, does not depend on it.
    """
    if step.dtype.kind != "f" or step.reduction == "count":
        return True
    if step.reduction in ("add", "mean"):
        return bool(total == total or not np.isnan(partials).any())
    zeros = [each for each in partials if each == 0] if total == 0 else []
    return bool(total == total and len({bool(np.signbit(each)) for each in zeros}) <= 1)
