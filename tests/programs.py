"""Random array programs: made together with what NumPy says of each value, and played on the engine.

A program is a list of steps in static single assignment form: every value has a number and is made once. The maker
draws all it decides from one `random.Random`, so a program is a function of its seed, and Hypothesis can shrink it.
NumPy runs each step as it is made; a step that would be dull (too large, one failure too many) is not kept.
"""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import math
import operator
import random
import threading
import warnings
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, Protocol

import anyio
import anyio.lowlevel
import numpy as np

import engine
from engine import ops
from engine.settings.scope import Scope, entered

Array = np.ndarray[Any, Any]
Function = Callable[..., Any]

SMALL = 2_048
"""Elements that most values have at most."""
LARGE = 150_000
"""Elements past which even an `add` goes to a worker."""
DIMENSIONS = 5
DTYPES = ("bool", "int32", "int64", "float32", "float64", "complex128")
RAISING = {"divide": "raise", "over": "raise", "invalid": "raise"}


# ---------------------------------------------------------------------------------------------------------------------
# What a program is


@dataclass(frozen=True)
class Ref:
    """An operand that an earlier step made."""

    value: int


@dataclass(frozen=True)
class Problem:
    """Why a value does not exist: the error of the step where it began."""

    kind: type[BaseException]
    message: str

    def describes(self, error: BaseException) -> bool:
        return type(error) is self.kind and str(error) == self.message


@dataclass(frozen=True)
class Expected:
    """What reading a value gives: its bits, or one of the problems (the first, where ops run one by one)."""

    problems: tuple[Problem, ...] = ()
    shape: tuple[int, ...] = ()
    dtype: str = ""
    digest: bytes = b""


@dataclass(frozen=True)
class Action:
    """Something that a program does between its ops, to values: read, cancel, describe, have them read aside, ..."""

    name: str
    values: tuple[int, ...] = ()


@dataclass(frozen=True)
class Step:
    """One op: a row of the vocabulary, its operands, the values it makes, and what happens next."""

    name: str
    args: tuple[Any, ...]
    params: dict[str, Any]
    outputs: tuple[int, ...]
    device: int | None = None
    raising: bool = False
    """Whether NumPy's floating point errors are errors here."""
    inline: bool = False
    """Whether an ASYNC program runs this op in SYNC mode."""
    drops: tuple[int, ...] = ()
    """Values whose handles the program lets go of."""
    actions: tuple[Action, ...] = ()


@dataclass
class Program:
    """Steps, what each value must be, and the values that are left at the end."""

    steps: list[Step] = field(default_factory=list)
    expected: dict[int, Expected] = field(default_factory=dict)
    left: list[int] = field(default_factory=list)

    def made_with(self, value: int) -> tuple[int, ...]:
        """The values that one op made: to cancel one is to cancel all of them."""
        return next((step.outputs for step in reversed(self.steps) if value in step.outputs), (value,))


# ---------------------------------------------------------------------------------------------------------------------
# The vocabulary: what each op is in NumPy, and on the engine


def _halves(x: Array) -> tuple[Array, Array]:
    flat = x.reshape(-1)
    return flat[: flat.size // 2], flat[flat.size // 2 :]


def _picky(x: Array, *, limit: int) -> Array:
    if x.size % 7 > limit:
        raise KeyError(f"{x.size} elements of {x.dtype}")
    return x[..., ::-1] if x.ndim else x


def _scribbling(x: Array) -> Array:
    x[...] = 0
    return x


def _same(x: Array) -> Array:
    return x


def _doubled(x: Array) -> Array:
    return np.add(x, x)


def _doubled_by_an_op(x: Array) -> Any:
    return ops.add(x, x)


def _concat(*arrays: Any, axis: int | None) -> Any:
    return np.concatenate(arrays, axis=axis)


def _stack(*arrays: Any, axis: int) -> Any:
    return np.stack(arrays, axis=axis)


def _getitem(x: Any, *index: Any, key: Any = None) -> Any:
    return x[index[0] if index else key]


def _setitem(x: Array, value: Any, *, key: Any) -> Array:
    changed = x.copy(order="K")
    changed[key] = value
    return changed


def _setitem_of_handle(x: Any, value: Any, *, key: Any) -> Any:
    twin = x.__copy__()
    twin[key] = value
    return twin


def _updated(x: Array, value: Any, *, symbol: str) -> Array:
    changed = x.copy(order="K")
    return np.asarray(getattr(operator, symbol)(changed, value))


def _updated_handle(x: Any, value: Any, *, symbol: str) -> Any:
    return getattr(operator, symbol)(x.__copy__(), value)


def _count_nonzero(x: Array, *, axis: int | None, keepdims: bool) -> Array:
    return np.asarray(np.count_nonzero(x, axis=axis, keepdims=keepdims))


def _astype(x: Array, *, dtype: str) -> Array:
    return x.astype(dtype)


UNARY: dict[str, Function] = {
    "abs": np.absolute,
    "bitwise_invert": np.invert,
    "conj": np.conjugate,
    "cos": np.cos,
    "exp": np.exp,
    "floor": np.floor,
    "isfinite": np.isfinite,
    "isnan": np.isnan,
    "log1p": np.log1p,
    "logical_not": np.logical_not,
    "negative": np.negative,
    "reciprocal": np.reciprocal,
    "round": np.round,
    "sign": np.sign,
    "sin": np.sin,
    "sqrt": np.sqrt,
    "square": np.square,
    "tanh": np.tanh,
    "trunc": np.trunc,
}
BINARY: dict[str, Function] = {
    "add": np.add,
    "atan2": np.arctan2,
    "bitwise_and": np.bitwise_and,
    "bitwise_left_shift": np.left_shift,
    "bitwise_xor": np.bitwise_xor,
    "copysign": np.copysign,
    "divide": np.divide,
    "equal": np.equal,
    "floor_divide": np.floor_divide,
    "hypot": np.hypot,
    "less": np.less,
    "logical_or": np.logical_or,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "multiply": np.multiply,
    "not_equal": np.not_equal,
    "pow": np.power,
    "remainder": np.remainder,
    "subtract": np.subtract,
}
OPERATORS: dict[str, Function] = {
    symbol.__name__: symbol
    for symbol in (
        operator.add,
        operator.sub,
        operator.mul,
        operator.truediv,
        operator.floordiv,
        operator.mod,
        operator.pow,
        operator.lt,
        operator.ge,
        operator.eq,
        operator.and_,
        operator.or_,
    )
}
UPDATES = ("iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "iand", "ixor", "ilshift")
REDUCTIONS: dict[str, Function] = {
    "all": np.all,
    "any": np.any,
    "count_nonzero": _count_nonzero,
    "max": np.max,
    "mean": np.mean,
    "min": np.min,
    "prod": np.prod,
    "sum": np.sum,
}
OTHERS: dict[str, tuple[Function, Function]] = {
    "argmax": (np.argmax, ops.argmax),
    "asarray": (np.asarray, ops.asarray),
    "astype": (_astype, lambda x, dtype: ops.astype(x, dtype)),
    "broadcast_to": (np.broadcast_to, ops.broadcast_to),
    "clip": (np.clip, ops.clip),
    "concat": (_concat, lambda *arrays, axis: ops.concat(arrays, axis=axis)),
    "expand_dims": (np.expand_dims, ops.expand_dims),
    "getitem": (_getitem, _getitem),
    "inv": (np.linalg.inv, ops.linalg.inv),
    "matmul": (np.matmul, ops.matmul),
    "permute_dims": (np.transpose, ops.permute_dims),
    "repeat": (np.repeat, ops.repeat),
    "reshape": (np.reshape, ops.reshape),
    "roll": (np.roll, ops.roll),
    "setitem": (_setitem, _setitem_of_handle),
    "solve": (np.linalg.solve, ops.linalg.solve),
    "split": (np.split, ops.split),
    "squeeze": (np.squeeze, ops.squeeze),
    "stack": (_stack, lambda *arrays, axis: ops.stack(arrays, axis=axis)),
    "std": (np.std, ops.std),
    "take": (np.take, ops.take),
    "tile": (np.tile, ops.tile),
    "updated": (_updated, _updated_handle),
    "svd": (lambda x: tuple(np.linalg.svd(x)), lambda x: tuple(ops.linalg.svd(x))),
    "where": (np.where, ops.where),
    # The user's own
    "doubled": (_doubled, engine.op(_doubled_by_an_op, name="doubled")),
    "halves": (_halves, engine.op(_halves, num_outputs=2)),
    "picky": (_picky, engine.op(_picky)),
    "same": (_same, engine.op(_same)),
    "scribbling": (_scribbling, engine.op(_scribbling)),
}
VOCABULARY: dict[str, tuple[Function, Function]] = {
    **{name: (function, getattr(ops, name)) for name, function in (UNARY | BINARY | REDUCTIONS).items()},
    **{f"operator.{name}": (function, function) for name, function in OPERATORS.items()},
    **OTHERS,
}


# ---------------------------------------------------------------------------------------------------------------------
# Making a program


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


def digest(array: Array) -> bytes:
    """All bits of an array, in few."""
    return hashlib.blake2b(array.tobytes(), digest_size=16).digest()


@contextmanager
def quiet() -> Iterator[None]:
    """Silence warnings in every thread, and leave NumPy's own error state the default, which is a case of its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


# ---------------------------------------------------------------------------------------------------------------------
# Playing a program on the engine


class SyncPoints(Protocol):
    """How a program waits: with `await` on a loop, or by blocking."""

    async def read(self, handle: Any) -> Array: ...
    async def read_all(self, handles: Sequence[Any]) -> list[Array]: ...
    async def read_as_completed(self, handles: Sequence[Any]) -> None: ...
    async def give_up_reading(self, handle: Any) -> None: ...
    async def turn(self) -> None: ...
    async def barrier(self) -> None: ...
    def read_aside(self, handle: Any, urgency: int) -> Aside: ...


class Aside:
    """A reader of a handle beside the program: it demands the handle for as long as it waits."""

    def __init__(self, wait: Callable[[], Any], leave: Callable[[], object]) -> None:
        self._wait = wait
        self.leave = leave
        """Have it wait no longer, where that is possible."""

    async def outcome(self) -> Array | BaseException | None:
        """The value or the error; None where it left without either."""
        outcome = self._wait()
        result: Array | BaseException | None = await outcome if inspect.isawaitable(outcome) else outcome
        return result


async def _outcome(handle: Any, urgency: int) -> Array | BaseException:
    with _urgent(urgency):
        try:
            value: Array = await handle
        except Exception as error:  # noqa: BLE001 - compared when the program joins its readers
            return error
        return value


def _blocking_outcome(handle: Any, urgency: int) -> Array | BaseException:
    with _urgent(urgency):
        try:
            value: Array = handle.result()
        except Exception as error:  # noqa: BLE001
            return error
        return value


def _urgent(urgency: int) -> AbstractContextManager[None]:
    """The priority of what is waited for inside, where the engine knows priorities."""
    return entered(priority=urgency) if "priority" in Scope.__slots__ else nullcontext()


def _on_thread(read: Callable[[], Array | BaseException]) -> Aside:
    """A reader on a thread; it cannot be made to leave."""
    outcome: list[Array | BaseException] = []
    thread = threading.Thread(target=lambda: outcome.append(read()))
    thread.start()

    def wait() -> Array | BaseException:
        thread.join()
        return outcome[0]

    return Aside(wait, lambda: None)


def _in_thread(handle: Any, urgency: int) -> Aside:
    """A reader on another thread: one that blocks, or one that awaits on a loop of its own."""
    if urgency % 2:
        return _on_thread(lambda: asyncio.run(_outcome(handle, urgency)))
    return _on_thread(lambda: _blocking_outcome(handle, urgency))


class Awaiting:
    """The sync points of a program on an event loop."""

    def read_aside(self, handle: Any, urgency: int) -> Aside:
        """A task, or one time in four another thread."""
        if urgency > 5:
            return _in_thread(handle, urgency)
        task = asyncio.ensure_future(_outcome(handle, urgency))

        async def wait() -> Array | BaseException | None:
            await asyncio.wait([task])
            return None if task.cancelled() else task.result()

        return Aside(wait, task.cancel)

    async def read(self, handle: Any) -> Array:
        value: Array = await handle
        return value

    async def read_all(self, handles: Sequence[Any]) -> list[Array]:
        return await engine.gather(*handles)

    async def read_as_completed(self, handles: Sequence[Any]) -> None:
        async for handle in engine.as_completed(handles):
            await handle

    async def give_up_reading(self, handle: Any) -> None:
        """A waiter that is cancelled at its first chance; the op and other waiters are not."""
        with anyio.CancelScope() as scope:
            scope.cancel()
            await handle

    async def turn(self) -> None:
        await anyio.lowlevel.checkpoint()
        await engine.drain()

    async def barrier(self) -> None:
        await engine.synchronize()


class Blocking:
    """The sync points of a program without a loop."""

    async def read(self, handle: Any) -> Array:
        value: Array = handle.result()
        return value

    def read_aside(self, handle: Any, urgency: int) -> Aside:
        return _in_thread(handle, urgency)

    async def read_all(self, handles: Sequence[Any]) -> list[Array]:
        return [handle.result() for handle in handles]

    async def read_as_completed(self, handles: Sequence[Any]) -> None:
        await self.read_all(handles)

    async def give_up_reading(self, handle: Any) -> None:
        try:
            handle.result(timeout=0)
        except TimeoutError:
            pass

    async def turn(self) -> None:
        pass

    async def barrier(self) -> None:
        engine.wait()


def run_blocking(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine that never suspends."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    raise AssertionError("a blocking program suspended")


class Player:
    """Runs a program in the mode in force, and compares all that it reads with what NumPy said."""

    def __init__(self, program: Program, sync: SyncPoints, *, devices: int, one_by_one: bool) -> None:
        self.program = program
        self.sync = sync
        self.devices = devices
        self.one_by_one = one_by_one
        """Whether the first failed operand of an op is sure to be the one that poisons it."""
        self.mode = engine.get_execution_mode()
        self.handles: dict[int, Any] = {}
        self.errors: dict[int, BaseException] = {}
        """What ops that ran inline raised: those values have no handle."""
        self.refused: set[int] = set()
        """Values that were refused at the call because of shapes, though an operand had failed, and what was made of
        them: that error is not NumPy's, which stops at the operand."""
        self.cancelled: set[int] = set()
        """Values that were cancelled, and all that was made of them."""
        self.reported: dict[int, BaseException] = {}
        self.problems = {problem for expected in program.expected.values() for problem in expected.problems}
        self.asides: list[tuple[int, Aside]] = []
        self.read = 0

    async def play(self) -> None:
        with quiet():
            for step in self.program.steps:
                self._run(step)
                for action in step.actions:
                    await self._act(action)
            for value in self.program.left:
                await self._check(value)
            await self._join()
            await self._barrier()

    # One step

    def _run(self, step: Step) -> None:
        refs = [arg.value for arg in step.args if isinstance(arg, Ref)]
        if any(ref in self.cancelled for ref in refs):
            self.cancelled.update(step.outputs)
        error = next((self.errors[ref] for ref in refs if ref in self.errors), None)
        results: Sequence[Any] = ()
        if error is None:
            inline = step.inline or self.mode is engine.SYNC or _may_raise_at_the_call(step)
            try:
                results = self._dispatch(step)
            except Exception as raised:  # compared with NumPy's when the value is read
                if not inline:
                    raise AssertionError(f"{step.name} raised at the call, in ASYNC mode") from raised
                error = raised
                if _may_raise_at_the_call(step) and any(self.program.expected[ref].problems for ref in refs):
                    self.refused.update(step.outputs)
        elif any(ref in self.refused for ref in refs):
            self.refused.update(step.outputs)
        for index, output in enumerate(step.outputs):
            if error is not None:
                self.errors[output] = error
            else:
                self.handles[output] = results[index]
        for value in step.drops:
            self.handles.pop(value, None)
            self.errors.pop(value, None)

    def _dispatch(self, step: Step) -> Sequence[Any]:
        lent = [_twin(arg) if isinstance(arg, np.ndarray) else arg for arg in step.args]
        operands = [self.handles[arg.value] if isinstance(arg, Ref) else arg for arg in lent]
        with ExitStack() as scopes:
            if step.device is not None:
                scopes.enter_context(engine.device(f"CPU:{step.device % self.devices}"))
            if step.raising:
                scopes.enter_context(np.errstate(**RAISING))  # type: ignore[arg-type]
            if step.inline:
                scopes.enter_context(engine.execution_mode(engine.SYNC))
            result = VOCABULARY[step.name][1](*operands, **step.params)
        for array in lent:
            if isinstance(array, np.ndarray):
                array.fill(1)  # an operand is a snapshot: writing to it afterwards changes nothing
        return result if isinstance(result, tuple | list) else (result,)

    # Between steps

    async def _act(self, action: Action) -> None:
        values = [value for value in action.values if value in self.handles]
        if action.name == "turn":
            await self.sync.turn()
        elif action.name == "barrier":
            await self._barrier()
        elif action.name == "read":
            for value in action.values:
                await self._check(value)
        elif action.name == "cancel":
            self._cancel(values)
        elif action.name == "describe":
            self._describe(values)
        elif action.name in ("aside", "leave", "join"):
            await self._beside(action.name, values)
        elif values:
            await self._wait_for(action.name, values)

    async def _beside(self, name: str, values: Sequence[int]) -> None:
        """Have values read beside the program, each at a priority of its own; or have such readers leave, or end."""
        if name == "join":
            await self._join()
        elif name == "leave":
            for _, aside in self.asides[::2]:
                aside.leave()
        else:
            for value in values:
                self.asides.append((value, self.sync.read_aside(self.handles[value], value % 8)))

    async def _join(self) -> None:
        """Wait for all who read beside the program, and compare what they got."""
        asides, self.asides = self.asides, []
        for value, aside in asides:
            outcome = await aside.outcome()
            if isinstance(outcome, BaseException):
                self._compare_error(value, outcome)
            elif outcome is not None:
                assert value not in self.cancelled, "a cancelled value was read"
                self._compare(value, outcome)

    def _cancel(self, values: Sequence[int]) -> None:
        for value in values:
            if self.handles[value].cancel() is not engine.CancelOutcome.TOO_LATE:
                self.cancelled.update(self.program.made_with(value))
                self._spread()

    def _spread(self) -> None:
        """Count the dependents of cancelled values as cancelled, those made already as well."""
        for step in self.program.steps:
            if any(isinstance(arg, Ref) and arg.value in self.cancelled for arg in step.args):
                self.cancelled.update(step.outputs)

    def _describe(self, values: Sequence[int]) -> None:
        for value in values:
            expected, handle = self.program.expected[value], self.handles[value]
            assert repr(handle)
            if not expected.problems and value not in self.cancelled:
                try:
                    shape, dtype = handle.shape, handle.dtype
                except engine.UnknownShapeError:
                    continue
                fits = len(shape) == len(expected.shape)
                fits = fits and all(n in (None, m) for n, m in zip(shape, expected.shape, strict=True))
                said = f"said to be {shape} {dtype}: {self._story(value)} is {expected}"
                assert fits, said
                assert str(dtype) == expected.dtype, said

    async def _wait_for(self, name: str, values: Sequence[int]) -> None:
        handles = [self.handles[value] for value in values]
        try:
            if name == "impatient":
                await self.sync.give_up_reading(handles[0])
            elif name == "gather":
                for value, array in zip(values, await self.sync.read_all(handles), strict=True):
                    self._compare(value, array)
            else:
                await self.sync.read_as_completed(handles)
        except Exception as error:  # noqa: BLE001
            self._check_known(error)

    async def _barrier(self) -> None:
        try:
            await self.sync.barrier()
        except ExceptionGroup as group:
            for error in group.exceptions:
                self._check_report(error)
        except Exception as error:  # noqa: BLE001
            self._check_report(error)

    def _check_report(self, error: Exception) -> None:
        self._check_known(error)
        assert id(error) not in self.reported, f"reported twice: {error!r}"
        self.reported[id(error)] = error

    def _check_known(self, error: Exception) -> None:
        known = isinstance(error, engine.OpCancelledError) or any(each.describes(error) for each in self.problems)
        assert known, f"an error that no step has in NumPy: {error!r}"

    # Reading

    async def _check(self, value: int) -> None:
        """Read a value: NumPy's bits, or NumPy's error."""
        if value in self.errors:
            self._compare_error(value, self.errors[value])
        elif value in self.handles:
            try:
                array = await self.sync.read(self.handles[value])
            except Exception as error:  # noqa: BLE001
                self._compare_error(value, error)
            else:
                assert value not in self.cancelled, "a cancelled value was read"
                self._compare(value, array)

    def _compare(self, value: int, array: Array) -> None:
        expected = self.program.expected[value]
        assert not expected.problems, f"value {value} has data, but should have raised {expected.problems}"
        assert (str(array.dtype), array.shape) == (expected.dtype, expected.shape)
        assert not array.flags.writeable
        assert digest(array) == expected.digest, f"value {value} differs from NumPy's: {self._story(value)}"
        self.read += 1

    def _story(self, value: int) -> str:
        """The step that makes a value, and what it is made of."""
        step = next(step for step in self.program.steps if value in step.outputs)
        made_of = [self.program.expected[arg.value] if isinstance(arg, Ref) else arg for arg in step.args]
        return f"{step} of {made_of}"

    def _compare_error(self, value: int, error: BaseException) -> None:
        problems = self.program.expected[value].problems
        if isinstance(error, engine.OpCancelledError):
            assert value in self.cancelled, f"value {value} was not cancelled: {error}"
            return
        assert problems, f"value {value} should exist, but raised {error!r}: {self._story(value)}"
        if value in self.refused:
            return
        # In ASYNC mode an operand that was refused at the call has no handle: its error comes before that of another.
        in_order = self.mode is engine.SYNC or value not in self.errors
        acceptable = problems[:1] if self.one_by_one and in_order and value not in self.cancelled else problems
        assert any(problem.describes(error) for problem in acceptable), f"{error!r} instead of {acceptable}"


def _twin(array: Array) -> Array:
    """A copy laid out as the original: where strides differ, NumPy's last bits may."""
    if array.ndim and array.strides[0] < 0:
        return array[::-1].copy(order="K")[::-1]
    return array.copy(order="K")


def _may_raise_at_the_call(step: Step) -> bool:
    """Off the loop, what libraries rely on is refused at the call, where the shapes are known."""
    return step.name in ("matmul", "getitem") and asyncio._get_running_loop() is None
