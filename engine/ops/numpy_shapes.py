"""Shapes and dtypes of NumPy's functions that have no row, before they have run.

Three ways to tell, and each function has one, in `numpy_shapes_table`:

* `viewed`: the function only rearranges, so it is called on arrays of the very shapes that take no memory;
* `copied`: each length of the result is a length of an operand, or a small constant. The function is called on small
  stand-ins, with another length in place of each large one, and the lengths of the result are put back;
* `ruled`: a rule computes the shape from those of the operands.

Nothing here depends on how large the operands are, and no code of users is called: functions that take some have a
rule or none. What only values decide stays unknown: one dimension, as None, or all, by `UnknownShapeError`. Answers are
remembered, as programs ask the same thing again and again.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from engine.base.errors import UnknownShapeError
from engine.base.lengths import Facts, facts_in_common
from engine.base.op import ShapeDtype
from engine.base.pytree import Slot, fill
from engine.ops.infer import Dim, Shape, outline
from engine.ops.numpy_binding import Arguments, bind, parameters
from engine.ops.numpy_results import Several

Function = Callable[..., Any]
Rule = Callable[..., ShapeDtype | Facts]

VALUE_PARAMETERS = frozenset(
    {
        *("axes", "axis", "axis1", "axis2", "axisa", "axisb", "axisc", "deg", "indices_or_sections", "k", "kth", "n"),
        *("N", "new_shape", "num", "obj", "offset", "pad_width", "s", "shape", "window_shape"),
        *("destination", "reps", "source"),
    }
)
"""Parameters whose values, not only their shapes, decide the shape of the result."""


def decides(function: Function, name: str) -> bool:
    """Tell whether the values of an argument decide the shape of the result."""
    return name in VALUE_PARAMETERS or (name == "start" and function is np.rollaxis)


_SIZES = frozenset({"N", "num"})
"""Parameters that are a length of the result."""


_FEW = 1024
"""Elements up to which an array that decides the shape is looked at when the op is dispatched."""


class Constant:
    """In the arguments of a call: an array that is no operand, because its values decide the shape."""

    __slots__ = ("array",)

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        self.array = array.copy()
        self.array.setflags(write=False)


def with_constants(function: Function, args: tuple[object, ...], kwargs: dict[str, object]) -> Arguments:
    """The same call with constants in place of the small arrays of integers that decide the shape."""
    names = parameters(function).names
    return (
        tuple(
            _constant(value) if place < len(names) and decides(function, names[place]) else value
            for place, value in enumerate(args)
        ),
        {name: _constant(value) if decides(function, name) else value for name, value in kwargs.items()},
    )


def _constant(value: object) -> object:
    if value.__class__ is np.ndarray and value.dtype.kind in "iub" and value.size <= _FEW:
        return Constant(value)
    return value


def filled(call: Any, operands: Sequence[Any]) -> Arguments:
    """The arguments of a call with these in place of its slots, and arrays in place of its constants."""
    args, kwargs = fill(call, operands)
    return (
        tuple([each.array if each.__class__ is Constant else each for each in args]),
        {name: each.array if each.__class__ is Constant else each for name, each in kwargs.items()},
    )


class Question:
    """A question about a call: the function, its operands as shapes and dtypes, and its arguments with slots."""

    __slots__ = ("call", "function", "key", "operands", "result", "way")

    def __init__(
        self, way: Way, function: Function, operands: Sequence[ShapeDtype], call: Arguments, result: Several | None
    ) -> None:
        self.way = way
        self.function = function
        self.operands = operands
        self.call = call
        self.result = result
        self.key = (way, function, tuple(operands), _hashable(call))

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Question) and self.key == other.key

    def asked_of(self, operands: Sequence[Any]) -> Question:
        """The same question about other operands."""
        return Question(self.way, self.function, operands, self.call, self.result)

    @property
    def name(self) -> str:
        """The name of the function."""
        return str(self.function.__name__)

    def filled(self, operands: Sequence[object]) -> tuple[tuple[object, ...], dict[str, object]]:
        """The arguments with these in place of the operands."""
        return filled(self.call, operands)

    def unknown(self, why: str) -> UnknownShapeError:
        """The error for a result that cannot be described yet."""
        return UnknownShapeError(
            f"the shape and dtype of {self.name!r} are not known before it has run ({why}): await the handle first"
        )


Way = Callable[[Question], Facts]
"""How to tell what the results look like, where all lengths of the operands are known."""


def inference(way: Way, function: Function, result: Several | None) -> Callable[..., object]:
    """The way in which an op of a NumPy function tells the shape and dtype of its results."""

    def infer(*operands: Any, call: Any) -> Any:
        question = Question(way, function, operands, call, result)
        try:
            facts = _answer(question)
        except _Unhashable:
            facts = _answered(question)
        return facts[0] if result is None or result.arrays == 1 else facts

    return infer


class _Unhashable(Exception):
    """An argument cannot be looked up, so the answer is not remembered."""


def _hashable(value: Any) -> Any:
    """The arguments as a key: 1, 1.0 and True are different ones."""
    cls = value.__class__
    if cls is Slot:
        return (Slot, value.number)
    if cls is list or cls is tuple:
        return (cls, *map(_hashable, value))
    if cls is dict:
        return tuple((name, _hashable(each)) for name, each in value.items())
    if cls is Constant:
        return (Constant, value.array.dtype, value.array.shape, value.array.tobytes())
    return cls, value


@functools.lru_cache(maxsize=4096)
def _remembered(question: Question) -> Facts:
    return _answered(question)


def _answer(question: Question) -> Facts:
    try:
        hash(question)
    except TypeError:
        raise _Unhashable from None
    return _remembered(question)


def _answered(question: Question) -> Facts:
    """The answer, also where lengths of operands are unknown: what all lengths give that can be meant."""
    if not any(None in each.shape for each in question.operands):
        return question.way(question)

    def rule(operands: Sequence[object]) -> Facts:
        return question.way(question.asked_of(operands))

    told = numbers([each.shape for each in question.operands]) | numbers(question.call)
    try:
        facts = facts_in_common(rule, question.operands, told)
    except Exception:  # noqa: BLE001 - what it is depends on the lengths: no length that was tried fits
        facts = None
    if facts is None:
        raise question.unknown("it depends on a shape that is not known yet")
    return facts


def numbers(value: object) -> set[int]:
    """The lengths that shapes and arguments speak of: their integers, and how long sequences are."""
    if isinstance(value, dict):
        return numbers(list(value.values()))
    if isinstance(value, list | tuple):
        return {len(value)}.union(*map(numbers, value))
    if value.__class__ is Constant:
        return numbers(value.array.tolist())
    return {int(value)} if isinstance(value, int | np.integer) and not isinstance(value, bool) and value >= 0 else set()


# ---------------------------------------------------------------------------------------------------------------------
# The ways


def viewed(question: Question) -> Facts:
    """Call the function on arrays that take no memory."""
    _check_values(question)
    return _called(question, question.call, [outline(each.shape, each.dtype, 1) for each in question.operands])


_KEPT = 4
"""Lengths up to this one stay as they are: they may be what a function counts on (vectors of 3 in a cross product)."""

_SMALL = 1 << 14
"""Elements up to which arrays of the very shapes are used to have NumPy say why they do not fit."""


def copied(question: Question) -> Facts:
    """Call the function on small stand-ins, with a length of its own for each length."""
    _check_values(question)
    call, sizes = _with_sizes(question)
    literal = numbers(call) - {sizes[name] for name in sizes}
    lengths = {n for each in question.operands for n in each.shape if n == 0 or (n is not None and n > _KEPT)}
    lengths |= set(sizes.values())
    unused = (n for n in range(11, 1000, 2) if n not in literal)
    stands_for: dict[int, int] = dict(zip(unused, sorted(lengths), strict=False))
    for_length = {length: n for n, length in stands_for.items()}
    arrays = [_stand_in([for_length.get(n or 0, n or 0) for n in each.shape], each.dtype) for each in question.operands]
    call = _replaced_sizes(call, question, {name: for_length[size] for name, size in sizes.items()})
    try:
        facts = _called(question, call, arrays)
    except (UnknownShapeError, np.exceptions.AxisError):
        raise
    except (np.linalg.LinAlgError, IndexError) as error:
        raise question.unknown("it depends on the values") from error
    except Exception:
        if sum(array.size for array in arrays) and sum(_size(each.shape) for each in question.operands) <= _SMALL:
            return _called(question, question.call, [_stand_in(each.shape, each.dtype) for each in question.operands])
        raise
    return tuple(ShapeDtype(_put_back(question, its.shape, stands_for, literal), its.dtype) for its in facts)


def ruled(rule: Rule) -> Way:
    """Ask a rule: a function of the arguments by their names, with shapes and dtypes in place of arrays."""

    def way(question: Question) -> Facts:
        _check_values(question)
        given = bind(question.function, *question.filled(question.operands))
        if given is None:
            raise question.unknown("its arguments do not fit")
        try:
            facts = rule(**given)
        except Undecided as undecided:
            raise question.unknown(str(undecided)) from None
        return (facts,) if isinstance(facts, ShapeDtype) else facts

    return way


class Undecided(Exception):
    """A rule cannot tell what the result looks like; says why."""


def _check_values(question: Question) -> None:
    """Raises `UnknownShapeError` where an operand is an argument whose values decide."""
    args, kwargs = question.filled([_Deciding] * len(question.operands))
    for name, value in (bind(question.function, args, kwargs) or kwargs).items():
        if decides(question.function, name) and name != "obj" and _holds(value, _Deciding):
            raise question.unknown(f"the values of {name} decide it")


class _Deciding:
    """Stands for an operand."""


def _holds(value: object, what: object) -> bool:
    return value is what or (isinstance(value, list | tuple) and any(_holds(each, what) for each in value))


def _called(question: Question, call: object, arrays: Sequence[object]) -> Facts:
    args, kwargs = filled(call, arrays)
    with np.errstate(all="ignore"):
        value = question.function(*args, **kwargs)
    results = [value] if question.result is None else question.result.flatten(value)
    if isinstance(value, tuple | list) and question.result is None:
        results = value
    described = map(np.asarray, results)
    return tuple(ShapeDtype(each.shape, each.dtype) for each in described)


def _stand_in(shape: Iterable[Dim], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """An array of values that every function takes: ones, zeros of integers (they may be indices) and of dates."""
    lengths = [length or 0 for length in shape]
    return np.ones(lengths, dtype) if dtype.kind in "fcb" else np.zeros(lengths, dtype)


def _size(shape: Shape) -> int:
    size = 1
    for length in shape:
        size *= length or 0
    return size


def _with_sizes(question: Question) -> tuple[object, dict[str, int]]:
    """The arguments by name where one of them is a large length of the result, and these lengths."""
    args, kwargs = question.call
    given = bind(question.function, args, kwargs)
    sizes = {
        name: value
        for name, value in (given or {}).items()
        if name in _SIZES and isinstance(value, int) and not isinstance(value, bool) and value > _KEPT
    }
    return question.call, sizes


def _replaced_sizes(call: Any, question: Question, sizes: dict[str, int]) -> Any:
    if not sizes:
        return call
    args, kwargs = call
    return (), {**(bind(question.function, args, kwargs) or {}), **sizes}


def _put_back(question: Question, shape: Shape, stands_for: dict[int, int], literal: set[int]) -> Shape:
    """The shape with the lengths that its own stand for."""
    lengths: list[Dim] = []
    for n in shape:
        if n in stands_for:
            lengths.append(stands_for[n])
        elif n is None or n <= _KEPT or n in literal:
            lengths.append(n)
        else:
            raise question.unknown("its lengths are computed from those of the operands")
    return tuple(lengths)
