"""Making a random program together with what NumPy says of each value.

The maker draws all it decides from one `random.Random`, so a program is a function of its seed, and Hypothesis can
shrink it. NumPy runs each step as it is made; a step that would be dull (too large, one failure too many) is not kept.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import zip_longest
from typing import Any

import numpy as np

from tests.programs.model import (
    DIMENSIONS,
    DTYPES,
    LARGE,
    RAISING,
    SMALL,
    Action,
    Array,
    Expected,
    Function,
    Problem,
    Program,
    Ref,
    Step,
    digest,
    quiet,
)
from tests.programs.vocabulary import BINARY, OPERATORS, REDUCTIONS, UNARY, UPDATES, VOCABULARY

MATRIX = ("matmul", "inv", "solve", "svd")
Draft = tuple[str, tuple[Any, ...], dict[str, Any]]


def make_program(source: random.Random, steps: int, values: int = 100) -> Program:
    """A program of so many steps, on so many live values, one in twenty of them large."""
    with quiet():
        return _Maker(source, values).make(steps)


class _Maker:
    """Knows what NumPy made of each live value, so that most steps make sense and some, on purpose, do not."""

    def __init__(self, source: random.Random, values: int) -> None:
        self.source = source
        self.program = Program()
        self.count = 0
        self.arrays: dict[int, Array] = {}
        self.failed: dict[int, tuple[Problem, ...]] = {}
        self.risky: set[int] = set()
        """Values that a cancellation may have taken, or may take through an operand."""
        self.slots: list[int | None] = [None] * values
        self.large = range(values - max(1, values // 20), values)
        self.forms: list[tuple[Function, int]] = [
            (self._unary, 16),
            (self._binary, 34),
            (self._updated, 6),
            (self._clipped, 3),
            (self._moved, 4),
            (self._reduction, 9),
            (self._reshaped, 10),
            (self._indexed, 10),
            (self._joined, 5),
            (self._chosen, 5),
            (self._cast, 5),
            (self._matrix, 5),
            (self._own, 4),
            (self._constant, 8),
        ]

    def make(self, steps: int) -> Program:
        drafts, weights = zip(*self.forms, strict=True)
        while len(self.program.steps) < steps:
            draft = self._constant if len(self.arrays) < 3 else self.source.choices(drafts, weights)[0]
            self._keep(*draft())
        self.program.left = [value for value in self.slots if value is not None]
        return self.program

    def _keep(self, name: str, args: tuple[Any, ...], params: dict[str, Any]) -> None:
        """Run a draft in NumPy, and make it a step unless it is dull."""
        source = self.source
        raising = _chance(source, 0.03)
        refs = [arg.value for arg in args if isinstance(arg, Ref)]
        shapes = [self._shape(arg) if isinstance(arg, Ref) else np.shape(arg) for arg in args]
        if _broadcast_size(shapes) > 3 * LARGE or (name in MATRIX and _broadcast_size(shapes) > SMALL):
            return
        if name == "svd" and not all(_tame(self.arrays[ref]) for ref in refs if ref in self.arrays):
            return
        outcomes = self._outcomes(name, args, params, refs, raising=raising)
        problems = isinstance(outcomes, tuple)
        if problems and not any(ref in self.failed for ref in refs) and not _chance(source, 0.3):
            return
        results: list[Any] = [outcomes] * _outputs(name, args) if isinstance(outcomes, tuple) else outcomes
        limit = 3 * LARGE if any(_size(self.arrays.get(ref)) > SMALL for ref in refs) or not refs else SMALL
        if any(_size(result) > limit or getattr(result, "ndim", 0) > DIMENSIONS for result in results):
            return
        outputs = tuple(range(self.count, self.count + len(results)))
        self.count += len(results)
        inline = not any(ref in self.risky for ref in refs) and _chance(source, 0.02)
        drops = tuple(self._enter(value, result) for value, result in zip(outputs, results, strict=True))
        if any(ref in self.risky for ref in refs):
            self.risky.update(outputs)
        device = source.choice((None, None, None, 0, 1))
        dropped = tuple(value for value in drops if value is not None)
        self.program.steps.append(
            Step(name, args, params, outputs, device, raising, inline, dropped, tuple(self._actions()))
        )

    def _outcomes(
        self, name: str, args: tuple[Any, ...], params: dict[str, Any], refs: Sequence[int], *, raising: bool
    ) -> list[Array] | tuple[Problem, ...]:
        problems = tuple(problem for ref in refs for problem in self.failed.get(ref, ()))
        if problems:
            return tuple(dict.fromkeys(problems))
        operands = [self.arrays[arg.value] if isinstance(arg, Ref) else arg for arg in args]
        try:
            with np.errstate(**RAISING) if raising else ExitStack():  # type: ignore[arg-type]
                result = VOCABULARY[name][0](*operands, **params)
        except Exception as error:  # noqa: BLE001 - what NumPy refuses, the engine must refuse likewise
            return (Problem(type(error), str(error)),)
        results = list(result) if isinstance(result, tuple | list) else [result]
        arrays = [np.array(each) if isinstance(each, np.generic) else each for each in results]
        for array in arrays:
            array.setflags(write=False)
        return arrays

    def _enter(self, value: int, result: Any) -> int | None:
        """Take a value in, and let the one go whose slot it gets."""
        small = len(self.slots) - len(self.large)
        slot = self.source.choice(self.large) if _size(result) > SMALL else self.source.randrange(small)
        old, self.slots[slot] = self.slots[slot], value
        if old is not None:
            self.arrays.pop(old, None)
            self.failed.pop(old, None)
        if isinstance(result, np.ndarray):
            self.arrays[value] = result
            self.program.expected[value] = Expected((), result.shape, str(result.dtype), digest(result))
        else:
            self.failed[value] = result
            self.program.expected[value] = Expected(result)
        return old

    def _actions(self) -> Iterator[Action]:
        source = self.source
        if _chance(source, 0.12):
            yield Action("read", (self._live(),))
        if _chance(source, 0.01):
            victim = self._live()
            self.risky.update(self.program.made_with(victim))
            yield Action("cancel", (victim,))
        if _chance(source, 0.04):
            yield Action("describe", (self._live(),))
        if _chance(source, 0.02):
            name = source.choice(("turn", "barrier", "impatient", "gather", "completed"))
            yield Action(name, tuple(self._live() for _ in range(3)))
        if _chance(source, 0.02):
            yield Action(source.choice(("aside", "aside", "aside", "leave", "join")), (self._live(),))

    # Operands

    def _live(self) -> int:
        return self.source.choice([value for value in self.slots if value is not None])

    def _pick(self, fits: Callable[[Array], bool] = lambda array: True) -> Ref:
        """A live value that fits, if a few tries find one; seldom one that failed or may have been cancelled."""
        value = self._live()
        for _ in range(8):
            value = self._live()
            if value in self.failed or value in self.risky:
                if _chance(self.source, 0.05):
                    break
            elif fits(self.arrays[value]):
                break
        return Ref(value)

    def _shape(self, ref: Ref) -> tuple[int, ...]:
        array = self.arrays.get(ref.value)
        return () if array is None else array.shape

    def _scalar(self) -> Any:
        return self.source.choice((0, 1, 2, -3, 7, 0.5, -1.25, 1e30, True, 2j, 2**40, float("nan")))

    def _partner(self, ref: Ref) -> Any:
        """A second operand: a scalar, an array, or a value that broadcasts."""
        source, shape = self.source, self._shape(ref)
        form = source.random()
        if form < 0.3:
            return self._scalar()
        if form < 0.37:
            return self._array(tuple(1 if _chance(source, 0.5) else n for n in shape[source.randrange(2) :]))
        return self._pick(lambda array: _broadcasts(array.shape, shape))

    def _array(self, shape: tuple[int, ...]) -> Array:
        """A constant, in one of several layouts."""
        source = self.source
        random_state = np.random.default_rng(source.getrandbits(32))
        dtype = np.dtype(source.choice(DTYPES))
        if dtype.kind == "f":
            array = random_state.standard_normal(shape).astype(dtype)
        elif dtype.kind == "c":
            array = random_state.standard_normal(shape) + 1j * random_state.standard_normal(shape)
        else:
            array = random_state.integers(-5, 100, shape).astype(dtype)
        layout = source.randrange(4)
        if layout == 1:
            return np.asarray(array, order="F")
        if layout == 2 and array.ndim:
            return array[::-1]
        return array

    # Forms of steps: each gives the name of an op, its operands and its parameters

    def _constant(self) -> Draft:
        source = self.source
        if _chance(source, 0.06):
            shape: tuple[int, ...] = source.choice(((LARGE,), (LARGE // 500, 500), (2, LARGE // 2)))
        else:
            shape = source.choice(((), (1,), (7,), (4, 5), (5, 5), (3, 4, 5), (1, 5), (4, 1), (64, 9), (1000,), (0, 3)))
        return "asarray", (self._array(shape),), {}

    def _unary(self) -> Draft:
        return self.source.choice(list(UNARY)), (self._pick(),), {}

    def _binary(self) -> Draft:
        ref = self._pick()
        args = (ref, self._partner(ref))
        if _chance(self.source, 0.3):
            name = f"operator.{self.source.choice(list(OPERATORS))}"
        else:
            name = self.source.choice(list(BINARY))
        return name, args[::-1] if _chance(self.source, 0.3) else args, {}

    def _updated(self) -> Draft:
        ref = self._pick()
        return "updated", (ref, self._partner(ref)), {"symbol": self.source.choice(UPDATES)}

    def _clipped(self) -> Draft:
        ref = self._pick()
        limits = [self._partner(ref) if _chance(self.source, 0.8) else None for _ in range(2)]
        return "clip", (ref, *limits), {}

    def _moved(self) -> Draft:
        source, ref = self.source, self._pick()
        shape = self._shape(ref)
        axis = source.choice((None, *range(-len(shape), len(shape))))
        form = source.choice(("repeat", "roll", "take", "tile"))
        if form == "repeat":
            return form, (ref, source.randint(0, 3)), {"axis": axis}
        if form == "roll":
            return form, (ref, source.randint(-9, 9)), {"axis": axis}
        if form == "tile":
            return form, (ref, tuple(source.randint(0, 2) for _ in range(source.randint(0, 3)))), {}
        length = math.prod(shape) if axis is None else shape[axis]
        indices = [source.randrange(-length, length + _chance(source, 0.05)) for _ in range(4)] if length else []
        return form, (ref, np.array(indices, np.int64)), {"axis": axis}

    def _reduction(self) -> Draft:
        source, ref = self.source, self._pick()
        axis = source.choice((None, *range(-len(self._shape(ref)), len(self._shape(ref)) + _chance(source, 0.1))))
        name = source.choice((*REDUCTIONS, "argmax", "std"))
        return name, (ref,), {"axis": axis, "keepdims": _chance(source, 0.5)}

    def _reshaped(self) -> Draft:
        source, ref = self.source, self._pick()
        shape = self._shape(ref)
        form = source.choice(("reshape", "permute_dims", "expand_dims", "squeeze", "broadcast_to", "split"))
        if form == "reshape":
            return form, (ref,), {"shape": source.choice(((-1,), shape[::-1], (2, -1), (-1, 5), (3, 3)))}
        if form == "permute_dims":
            axes = list(range(len(shape)))
            source.shuffle(axes)
            return form, (ref,), {"axes": tuple(axes)}
        if form == "expand_dims":
            return form, (ref,), {"axis": source.randint(-len(shape) - 1, len(shape))}
        if form == "squeeze":
            return form, (ref,), {"axis": tuple(axis for axis, n in enumerate(shape) if n == 1)}
        if form == "broadcast_to":
            return form, (ref,), {"shape": (source.choice((1, 3)), *shape)}
        if not shape:
            return "asarray", (self._array((3,)),), {}
        cuts = sorted(source.randint(0, shape[0]) for _ in range(source.randint(1, 2)))
        return "split", (ref, cuts), {"axis": 0}

    def _indexed(self) -> Draft:
        source, ref = self.source, self._pick()
        key = tuple(self._index(length) for length in self._shape(ref))
        form = source.random()
        if form < 0.5:
            return "getitem", (ref,), {"key": key}
        if form < 0.7:
            shape = self._shape(ref)
            return "getitem", (ref, self._pick(lambda array: array.dtype == bool and array.shape == shape)), {}
        value = self._scalar() if _chance(source, 0.5) else self._pick(lambda array: array.ndim == 0)
        return "setitem", (ref, value), {"key": key}

    def _index(self, length: int) -> Any:
        source = self.source
        form = source.randrange(12)
        if form == 0:
            return source.randint(-length, length)  # one past the end: an IndexError
        if form < 6:
            return slice(source.randint(0, length), None, source.choice((1, 2, -1)))
        return slice(None)

    def _joined(self) -> Draft:
        source, ref = self.source, self._pick(lambda array: 0 < array.size < SMALL // 4 and array.ndim > 0)
        shape = self._shape(ref)
        others = [self._pick(lambda array: array.shape == shape) for _ in range(source.randint(1, 2))]
        return source.choice(("concat", "stack")), (ref, *others), {"axis": 0}

    def _chosen(self) -> Draft:
        ref = self._pick()
        shape = self._shape(ref)
        return "where", (self._pick(lambda array: _broadcasts(array.shape, shape)), ref, self._partner(ref)), {}

    def _cast(self) -> Draft:
        return "astype", (self._pick(),), {"dtype": self.source.choice(DTYPES)}

    def _matrix(self) -> Draft:
        ref = self._pick(lambda array: array.ndim == 2 and array.size <= 600)
        shape = self._shape(ref)
        form = self.source.choice(("matmul", "matmul", "inv", "solve", "svd"))
        if form == "matmul":
            other = self._pick(lambda array: array.ndim > 0 and array.size <= 600 and array.shape[:1] == shape[-1:])
            return form, (ref, other), {}
        square = self._pick(lambda array: array.ndim == 2 and array.shape[0] == array.shape[1] <= 20)
        if form == "solve":
            rows = self._shape(square)[:1]
            return form, (square, self._pick(lambda array: array.ndim > 0 and array.shape[:1] == rows)), {}
        return form, (square,), {}

    def _own(self) -> Draft:
        ref = self._pick()
        name = self.source.choice(("doubled", "halves", "picky", "same", "scribbling"))
        return name, (ref,), {"limit": self.source.randrange(7)} if name == "picky" else {}


def _outputs(name: str, args: tuple[Any, ...]) -> int:
    """How many values a step makes, for steps that failed."""
    return len(args[1]) + 1 if name == "split" else {"svd": 3, "halves": 2}.get(name, 1)


def _size(value: Any) -> int:
    return value.size if isinstance(value, np.ndarray) else 0


def _tame(array: Array) -> bool:
    """Whether LAPACK's iterations end on this matrix; with a NaN in it they may not."""
    return bool(np.all(np.abs(array.astype(complex)) < 1e15))


def _broadcast_size(shapes: Sequence[tuple[int, ...]]) -> int:
    """Elements of a result at most, were the shapes to broadcast."""
    return math.prod(map(max, zip_longest(*(shape[::-1] for shape in shapes), fillvalue=1)))


def _broadcasts(shape: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return all(1 in (n, m) or n == m for n, m in zip(shape[::-1], other[::-1], strict=False))


def _chance(source: random.Random, share: float) -> bool:
    return source.random() < share
