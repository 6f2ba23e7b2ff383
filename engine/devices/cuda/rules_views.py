"""Rules of writes into views: which part of an array a view is, and the array once something is written there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from engine.devices.cuda.bounds import check_key
from engine.devices.cuda.rules_statistics import as_written
from engine.devices.cuda.runtime import Namespace, Rule, Term
from handles.views import Call, Key

_eagerloop_internal = True  # its frames are not the user's

Xp = Namespace
Find = Callable[[str, Callable[..., Term]], Rule]
"""Finds the rule of a kernel."""


def _part(xp: Xp, array: Term, steps: Sequence[Term], operands: Sequence[Term], find: Find) -> tuple[Term, bool]:
    """The result of the steps, and whether it lies in the memory of the array: NumPy's own, where it makes a copy."""
    left = list(operands)
    shared = True
    for step in steps:
        if step.__class__ is Call:
            assert step.function is not None, "arguments that are handles were not kept"
            part = find(step.function.__name__, step.function)(xp, array, *step.args, **step.kwargs)
            part = part if step.number is None else part[step.number]
        elif step.__class__ is Key:
            used, left = left[: len(step.operands)], left[len(step.operands) :]
            # A handle of no dimensions stands for the integer that NumPy would have there, and gives a view.
            key = step.fill(step.template, [int(each) if each.ndim == 0 else each for each in used])
            check_key(xp, array.shape, key)
            part = array[key]
        else:
            part = array[step]
        shared = shared and (part is array or getattr(part, "base", None) is not None)
        array = part
    return array, shared


def _is_scalar(part: Term, steps: Sequence[Term]) -> bool:
    """Tell whether NumPy gives a scalar for the steps, which nothing can be written to."""
    if getattr(part, "ndim", 0) or not steps or steps[-1].__class__ is Call:
        return False
    key = steps[-1].template if steps[-1].__class__ is Key else steps[-1]
    return not any(each is Ellipsis for each in (key if isinstance(key, tuple) else (key,)))


def rules(find: Find) -> Mapping[str, Rule]:
    """The rules; `find` is what they look functions up with."""

    def seen(xp: Xp, x: Term, old: Term, *operands: Term, steps: Term) -> Term:
        part, shared = _part(xp, x, steps, operands, find)
        return part if shared and not _is_scalar(part, steps) else old

    def written(xp: Xp, x: Term, value: Term, *operands: Term, steps: Term, strict: bool) -> Term:
        part, shared = _part(xp, x, steps, operands, find)
        if _is_scalar(part, steps):
            if strict:
                raise TypeError(f"'numpy.{part.dtype}' object does not support item assignment")
            return x
        if not shared:
            return x
        result = x.copy()
        _part(xp, result, steps, operands, find)[0][...] = as_written(value, part.dtype)
        return result

    return {"engine.ops.operators:_seen": seen, "engine.ops.operators:_written": written}
