"""Views: handles that show part of another, so that a write into them reaches that one, as it does in NumPy.

`row = b[0]` has a link to `b`: weak, because a handle that the program has let go of cannot be seen to change. The link
says how the array of `row` comes from that of `b`, and which value `b` had then. A write into `row` is done on what
`b` has now, and rebinds both. Whether NumPy gives a view or a copy is left to NumPy: the op that writes through asks
it. Handles made from an old value keep it, views among them, until they are written to.

A link is made with the view, in one tuple, and looked at when a handle is written to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple
from weakref import ref

import numpy as np

from handles.cell import Cell
from handles.holder import H, Holder, Link

Array = np.ndarray[Any, Any]


class Call(NamedTuple):
    """A step: the function that gives the view, its arguments after the array, which of its results it is."""

    function: Callable[..., Any] | None
    args: tuple[object, ...] = ()
    kwargs: dict[str, object] = {}  # noqa: RUF012 - never changed
    number: int | None = None
    read_only: bool = False


class Key(NamedTuple):
    """A step: an index with slots in place of its handles, and these."""

    template: object
    operands: tuple[Holder, ...]
    fill: Callable[[object, Sequence[object]], Any]
    """Puts values into the template."""


_STEPS = (Call, Key)


def _gone() -> None:
    """The answer of a weak reference to a handle that the program no longer has."""
    return


_GAPS: Link = (_gone, _gone, None, None, False)
"""Stands for the links of handles that are gone: the array is part of another."""

_PACKED: Link = (_gone, _gone, None, None, True)
"""The same, where the handle that it is made from was written to."""

_NO_OWNER = (None, _GAPS, _PACKED)


class Owner(NamedTuple):
    """The nearest handle above a view that the program still has."""

    handle: Holder
    steps: tuple[object, ...]
    """From its array to that of the view."""
    cell: Cell | None
    """The cell that it had when the view was made, None where that is gone."""


def link(view: H, source: Holder, step: object) -> H:
    """Note that a handle may show part of another, and return it."""
    cell = source._cell
    above = link_above(source) if cell.op.memory.view or cell.rare is not None else None
    view._link = (ref(source), ref(cell), step, above, False)
    return view


def link_above(source: Holder) -> Link | None:
    """The link that the link of a view goes on with; those of handles that are gone are left out."""
    above = link_of(source)
    if above is not None and above[0]() is None and any(above[3] is each for each in _NO_OWNER):
        return (_PACKED if above[4] else _GAPS) if _may_have_gaps(above) else None
    return above


def forget(view: H) -> H:
    """Note that a handle is no view, as its op may say; returns it."""
    view._link = None
    return view


def link_of(handle: Holder) -> Link | None:
    """The link of a handle that a view op made, or that has been written to; of others there is none."""
    cell = handle._cell
    if not (cell.op.memory.view or cell.rare is not None):
        return None
    try:
        return handle._link
    except AttributeError:
        handle._link = None
        return None


def owner_of(handle: Holder) -> Owner | None:
    """The handle that a write into this one reaches too, None where the program has none."""
    above = link_of(handle)
    steps: list[object] = []
    while above is not None:
        source, cell, step, above, _ = above
        steps.append(step)
        found = source()
        if found is not None:
            return Owner(found, tuple(reversed(steps)), cell())
    return None


def refresh(handle: Holder) -> Owner | None:
    """Before a handle is written to: show what its owner has there now, if that was written to meanwhile."""
    owner = owner_of(handle)
    if owner is None:
        return None
    source, steps, cell = owner
    refresh(source)
    if source._cell is not cell and _unknown(steps) is None:
        new = source._cell.home.namespace.operators.seen(source, handle, steps)
        handle._cell, handle.__class__ = new._cell, new.__class__
        _link_again(handle, source, steps)
    return owner


def write_through(handle: Holder, new: Holder, *, update: bool) -> None:
    """Before a handle is rebound to a new value: write that to where it is part of another handle.

    An `update` is `handle op= other`, which in NumPy makes a new object of a scalar; anything else refuses one.
    Raises `ValueError` where the write is to read-only memory in NumPy, or may be to a copy; `TypeError` for a scalar.
    """
    above = link_of(handle)
    if above is None:
        return
    owner = owner_of(handle)
    if owner is None:
        packed = _loses_gaps(handle, above)
        handle._link = _PACKED if packed else None
        if packed:
            new._cell.extend()  # says that there is a link
        return
    source, steps, _ = owner
    if _is_scalar(handle, steps):
        if not update:
            raise TypeError(f"{_words(steps)} is a scalar, which cannot be written to: write handle[key] = value")
        handle._link = None
        return
    _check(steps, above)
    packed = _loses_gaps(handle, above)
    handle._link = None  # it must not keep the source's value from being written over
    rebind(source, source._cell.home.namespace.operators.written(source, new, steps, strict=not update))
    new._cell.extend()  # says that there is a link
    _link_again(handle, source, steps, packed=packed)


def rebind(handle: H, new: Holder, *, update: bool = False) -> H:
    """Have a handle show another result; handles made from the old one keep it. Returns the handle.

    Where the handle is a view of another, as NumPy has it, that one is written to as well.
    """
    cell = handle._cell
    if cell.op.memory.view or cell.rare is not None:
        write_through(handle, new, update=update)
    handle._cell = new._cell
    if handle.__class__ is not new.__class__:
        # A concrete handle written to in ASYNC mode becomes a non-ready one, and the other way round.
        handle.__class__ = new.__class__  # type: ignore[assignment]
    return handle


_BASIC = frozenset({int, slice, type(None), type(...)})


def shows(value: Holder, source: Holder, key: object) -> bool:
    """Tell whether a handle is `source[key]` as it is now, so that `source[key] = value` changes nothing.

    Python calls that after `source[key] op= other`, which has been written through by then.
    """
    found = link_of(value)
    if found is None or found[0]() is not source or found[1]() is not source._cell or found[2].__class__ in _STEPS:
        return False
    if not (key.__class__ in _BASIC or (key.__class__ is tuple and all(each.__class__ in _BASIC for each in key))):
        return False
    return bool(found[2] == key) and bool(ndim_of(value))  # what has no dimensions was not written through


def ndim_of(handle: Holder) -> int | None:
    """The number of dimensions, None where it is not known without waiting, or the op fails: the reader is told."""
    cell = handle._cell
    try:
        shape: Any = cell.home.infer(cell, tell=False).shape  # of a symbol it may be None
    except Exception:  # noqa: BLE001 - of any op
        return None
    return None if shape is None else len(shape)


# ---------------------------------------------------------------------------------------------------------------------
# Functions of NumPy that give views

_MAYBE = frozenset(
    {
        *(np.reshape, np.ravel, np.transpose, np.swapaxes, np.rollaxis, np.moveaxis, np.squeeze, np.expand_dims),
        *(np.atleast_1d, np.atleast_2d, np.atleast_3d, np.flip, np.fliplr, np.flipud, np.rot90, np.matrix_transpose),
        *(np.linalg.matrix_transpose, np.permute_dims, np.real, np.imag, np.real_if_close, np.diag, np.trim_zeros),
        *(np.split, np.array_split, np.hsplit, np.vsplit, np.dsplit, np.astype),
    }
)
"""Functions that give a view of their first argument, or a copy: which, NumPy says when it is written to."""

_READ_ONLY = frozenset({np.broadcast_to, np.diagonal, np.linalg.diagonal, np.lib.stride_tricks.sliding_window_view})
"""Functions whose result is a view of their first argument that cannot be written to."""

_CHANGED = {
    np.copyto: "dst",
    np.fill_diagonal: "a",
    np.place: "arr",
    np.put: "a",
    np.put_along_axis: "arr",
    np.putmask: "a",
}
"""The argument that a function writes to, the first one."""

CHANGES = object()
"""The entry in `VIEWS` of a function that writes to an argument."""

VIEWS: dict[object, object] = {
    **dict.fromkeys(_MAYBE, False),
    **dict.fromkeys(_READ_ONLY, True),
    **dict.fromkeys(_CHANGED, CHANGES),
}
"""The functions whose result is linked to their first argument, and whether it is read-only; and those that write."""


def refresh_target(function: Callable[..., object], args: Sequence[object], kwargs: Mapping[str, object]) -> None:
    """Refresh the handle that a function of NumPy is going to change."""
    target = args[0] if args else kwargs.get(_CHANGED[function])
    if isinstance(target, Holder):
        refresh(target)


def link_results(
    function: Callable[..., object], args: tuple[object, ...], kwargs: dict[str, object], results: object
) -> object:
    """Link what one of `VIEWS` gave for a handle to that handle; returns the results."""
    source, rest, named = (args[0], args[1:], kwargs) if args else _first(kwargs)
    if not isinstance(source, Holder):
        return results
    known = not any(map(_holds_handle, (*rest, *named.values())))
    step = Call(function if known else None, rest if known else (function.__name__,), named)
    step = step._replace(read_only=bool(VIEWS[function]))
    if not isinstance(results, tuple | list):
        return link(results, source, step) if isinstance(results, Holder) else results
    for index, result in enumerate(results):
        if isinstance(result, Holder):
            link(result, source, step._replace(number=index))
    return results


def _first(kwargs: dict[str, object]) -> tuple[object, tuple[object, ...], dict[str, object]]:
    """The array that a function was given by name, and what else."""
    name = next((name for name, value in kwargs.items() if isinstance(value, Holder)), None)
    rest = {other: value for other, value in kwargs.items() if other != name}
    return (None if name is None else kwargs[name]), (), rest


def _holds_handle(value: object) -> bool:
    return isinstance(value, Holder) or (isinstance(value, list | tuple) and any(map(_holds_handle, value)))


# ---------------------------------------------------------------------------------------------------------------------
# Steps


def follow(array: Any, steps: Sequence[object], operands: Sequence[Any]) -> Any:
    """The result of NumPy for the steps; `operands` are the values of the handles in their indices."""
    left = list(operands)
    for step in steps:
        if isinstance(step, Call):
            assert step.function is not None, "arguments that are handles were not kept"
            array = step.function(array, *step.args, **step.kwargs)
            array = array if step.number is None else array[step.number]
        elif isinstance(step, Key):
            used, left = left[: len(step.operands)], left[len(step.operands) :]
            # A handle of no dimensions stands for the scalar that NumPy would have there, and gives a view.
            array = array[step.fill(step.template, [value[()] if value.ndim == 0 else value for value in used])]
        else:
            array = array[step]
    return array


_LAID_OUT_FREELY = frozenset({"reshape", "ravel"})
"""Functions that give a view of an array without gaps, else a copy."""

_WITHOUT_GAPS = _LAID_OUT_FREELY | {
    *("transpose", "permute_dims", "matrix_transpose", "swapaxes", "moveaxis", "rollaxis", "squeeze", "expand_dims"),
    *("atleast_1d", "atleast_2d", "atleast_3d", "cast", "astype"),
}
"""Functions that give an array without gaps for one without."""


def _may_have_gaps(above: Link | None) -> bool:
    """Tell whether the memory of a view, as NumPy has it, may be other than that of an array of its own."""
    while above is not None:
        step = above[2]
        if not isinstance(step, Call) or _name_of(step) not in _WITHOUT_GAPS:
            return True
        above = above[3]
    return False


def _loses_gaps(handle: Holder, above: Link) -> bool:
    """Tell whether a view that is rebound to an array of its own may have had gaps, now or before."""
    if above[4] or not _may_have_gaps(above):
        return above[4]
    value = handle._cell.value
    return not (isinstance(value, np.ndarray) and (value.flags.c_contiguous or value.flags.f_contiguous))


def _name_of(step: Call) -> str:
    return str(step.args[0] if step.function is None else step.function.__name__.lstrip("_"))


def _link_again(handle: Holder, source: Holder, steps: Sequence[object], *, packed: bool = False) -> None:
    first, *rest = steps
    last = len(rest)
    handle._link = (ref(source), ref(source._cell), first, link_of(source), packed and not last)
    for number, step in enumerate(rest, 1):
        handle._link = (_gone, _gone, step, handle._link, packed and number == last)


def _unknown(steps: Sequence[object]) -> Call | None:
    """The step whose arguments are handles: whether it gives a view cannot be asked."""
    return next((step for step in steps if isinstance(step, Call) and step.function is None), None)


def _is_uncertain(above: Link | None) -> bool:
    """Tell whether NumPy may give a copy where the engine gives a view: it reshapes what was rebound as a view."""
    reshaped = False
    while above is not None:
        if reshaped and above[4]:
            return True
        reshaped = reshaped or (isinstance(above[2], Call) and _name_of(above[2]) in _LAID_OUT_FREELY)
        above = above[3]
    return False


def _check(steps: Sequence[object], above: Link) -> None:
    if _unknown(steps) is not None or _is_uncertain(above):
        raise ValueError(
            f"{_words(steps)} may be part of another array or a copy of it, so it cannot be written to: write into the "
            "array itself (handle[key] = value), or into a copy (.copy())"
        )
    if any(isinstance(step, Call) and step.read_only for step in steps):
        raise ValueError(
            f"assignment destination is read-only: {_words(steps)} is a view of another array that cannot be written "
            "to; write into the array itself (handle[key] = value), or into a copy (.copy())"
        )


def _is_scalar(handle: Holder, steps: Sequence[object]) -> bool:
    """Tell whether NumPy gives a scalar in place of a view: all axes were indexed by integers."""
    last = steps[-1]
    if isinstance(last, Call):
        return False
    key = last.template if isinstance(last, Key) else last
    if key is ... or (key.__class__ is tuple and any(each is ... for each in key)):
        return False
    return ndim_of(handle) == 0


def _words(steps: Sequence[object]) -> str:
    last = steps[-1]
    if isinstance(last, Call):
        return f"the result of {_name_of(last)}()"
    return f"handle[{'...' if last is ... else last if not isinstance(last, Key) else 'index'}]"
