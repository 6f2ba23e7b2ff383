"""Random programs give NumPy's bits with planning forced on or off, in blocks of any size, on any number of threads."""

import functools
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import engine
from engine import ops
from engine.fusion.native.natives import Natives
from tests.common import sampled
from tests.planning import forbid_runs, force_runs
from tests.programs.maker import make_program
from tests.programs.model import Program, quiet
from tests.programs.player import Player
from tests.programs.reading import Awaiting, Blocking, run_blocking

Array = np.ndarray[Any, Any]
Value = tuple[Array, Any]
"""An array of NumPy's and the handle that must become its equal."""

TINY = 512
"""Bytes of a block that make it 64 elements of any dtype."""
WHOLE = 512 << 10
STEPS = 1_500
CHAINS = 40


def enable(devices: int = 1, **options: Any) -> None:
    engine.enable_eager_execution(engine.Config(device_count={"CPU": devices}, **options), execution_mode=engine.ASYNC)


@functools.cache
def program_of(seed: int) -> Program:
    return make_program(random.Random(1_000 + seed), STEPS)


@pytest.fixture(params=[False, True], ids=["called", "compiled"], scope="module")
def compiled(request: pytest.FixtureRequest) -> Natives:
    """Every group computed by NumPy's ufuncs, or by compiled code, which is waited for."""
    return Natives(enabled=request.param, at_once=True)


@pytest.mark.sweep(one_in=4)
@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("block", [TINY, WHOLE])
@pytest.mark.parametrize("devices", [1, 2])
async def test_planned_programs_are_numpy(
    monkeypatch: pytest.MonkeyPatch, devices: int, block: int, threads: int
) -> None:
    watched = force_runs(monkeypatch, block)
    enable(devices, intra_op_parallelism_threads=threads)
    player = Player(program_of(threads), Awaiting(), devices=devices, one_by_one=devices == 1)
    await player.play()
    assert player.read > STEPS // 20
    assert len(watched.runs) > STEPS // 20


async def test_compiled_programs_are_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = Natives(at_once=True)
    force_runs(monkeypatch, TINY, compiled)
    enable(intra_op_parallelism_threads=2)
    program = make_program(random.Random(7), STEPS // 10)
    await Player(program, Awaiting(), devices=1, one_by_one=True).play()
    assert compiled.statistics().failed == 0


@pytest.mark.parametrize("width", [1, 3])
def test_planned_programs_without_a_loop_are_numpy(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    watched = force_runs(monkeypatch, TINY)
    enable(2, inter_op_parallelism_threads=width)
    run_blocking(Player(program_of(width), Blocking(), devices=2, one_by_one=False).play())
    assert len(watched.runs) > STEPS // 20


async def test_programs_without_planning_are_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    forbid_runs(monkeypatch)
    enable()
    await Player(program_of(5), Awaiting(), devices=1, one_by_one=True).play()


# Chains: many elementwise ops over few shapes, of all dtypes and layouts

DTYPES = "?bBhHiIlLefdFD"
UNARY = ("abs", "ceil", "cos", "exp", "isnan", "log", "negative", "positive", "sign", "sqrt", "square", "tanh")
BINARY = {
    "add": "add",
    "atan2": "arctan2",
    "bitwise_xor": "bitwise_xor",
    "divide": "divide",
    "floor_divide": "floor_divide",
    "greater": "greater",
    "hypot": "hypot",
    "less": "less",
    "logical_and": "logical_and",
    "maximum": "maximum",
    "multiply": "multiply",
    "pow": "power",
    "remainder": "remainder",
    "subtract": "subtract",
}
SCALARS = (2, 0.5, True, -1, 3.0, 300, 1e10, 1e300, float("inf"), float("nan"), 2j, 2**40, 0)
REDUCTIONS = ("all", "any", "max", "mean", "min", "sum")
LENGTHS = (1, 2, 3, 5, 8, 17, 40, 65)


class Chains:
    """Draws ops on a few values and does each in NumPy and on the engine; NumPy's refusals are the engine's."""

    def __init__(self, source: random.Random) -> None:
        self.source = source
        self.numbers = np.random.default_rng(source.randrange(2**32))
        self.shape = tuple(source.choice(LENGTHS) for _ in range(source.randint(1, 3)))
        self.values = [self._constant() for _ in range(5)]
        self.kept: list[Value] = []
        self.forms: list[tuple[Callable[[], Any], int]] = [
            (self._unary, 25),
            (self._binary, 40),
            (self._where, 10),
            (self._cast, 10),
            (self._reduction, 8),
            (self._view, 4),
            (self._setitem, 3),
        ]

    def _constant(self) -> Value:
        source = self.source
        shape = tuple(1 if source.random() < 0.15 else n for n in self.shape)
        dtype = np.dtype(source.choice(DTYPES))
        array = self.numbers.normal(size=shape) * 3
        if dtype.kind == "u":
            array = np.abs(array)
        result = (array + 1j * self.numbers.normal(size=shape) if dtype.kind == "c" else array).astype(dtype)
        if source.random() < 0.3:
            result = np.asfortranarray(result)
        if source.random() < 0.2:
            result = result[tuple(slice(None, None, -1) for _ in shape)]
        return result, ops.asarray(result)

    def _pick(self) -> Value:
        return self.source.choice(self.values)

    def _partner(self) -> Any:
        if self.source.random() < 0.3:
            return (self.source.choice(SCALARS),) * 2
        return self._pick()

    # Forms of ops: NumPy's function, the engine's, and the operands of each

    def _unary(self) -> Any:
        name = self.source.choice(UNARY)
        return getattr(np, name), getattr(ops, name), [self._pick()], {}

    def _binary(self) -> Any:
        name = self.source.choice(list(BINARY))
        operands = [self._pick(), self._partner()]
        if self.source.random() < 0.3:
            operands.reverse()
        return getattr(np, BINARY[name]), getattr(ops, name), operands, {}

    def _where(self) -> Any:
        return np.where, ops.where, [self._pick(), self._pick(), self._partner()], {}

    def _cast(self) -> Any:
        dtype = np.dtype(self.source.choice(DTYPES))
        return (lambda x: x.astype(dtype)), (lambda x: ops.astype(x, dtype)), [self._pick()], {}

    def _reduction(self) -> Any:
        name, value = self.source.choice(REDUCTIONS), self._pick()
        axis = self.source.choice((None, None, None, *range(value[0].ndim)))
        keepdims = self.source.random() < 0.5
        return getattr(np, name), getattr(ops, name), [value], {"axis": axis, "keepdims": keepdims}

    def _view(self) -> Any:
        value = self._pick()
        key = tuple(slice(None, None, self.source.choice((1, 1, -1))) for _ in value[0].shape)
        return (lambda x: x[key]), (lambda x: x[key]), [value], {}

    def _setitem(self) -> Any:
        number = self.source.choice((0, 1, 2.5))

        def copied(x: Array) -> Array:
            x = x.copy(order="K")
            x[..., :1] = number
            return x

        def rebound(x: Any) -> Any:
            x = x.__copy__()
            x[..., :1] = number
            return x

        return copied, rebound, [self._pick()], {}

    def step(self) -> None:
        forms, weights = zip(*self.forms, strict=True)
        numpys, engines, operands, params = self.source.choices(forms, weights)[0]()
        states = {"all": "ignore"} if self.source.random() < 0.1 else {}
        with np.errstate(**states):  # type: ignore[arg-type]
            try:
                expected = np.asarray(numpys(*(array for array, _ in operands), **params))
            except (TypeError, ValueError, OverflowError, IndexError):
                return
            handle = engines(*(handle for _, handle in operands), **params)
        self.values[self.source.randrange(len(self.values))] = (expected, handle)
        if self.source.random() < 0.1:
            self.kept.append((expected, handle))


def assert_same(array: Array, expected: Array) -> None:
    """Bits, dtype and layout: where elements lie decides the order in which a later reduction adds them."""
    assert (array.shape, array.dtype) == (expected.shape, expected.dtype)
    assert array.tobytes() == expected.tobytes()
    if expected.size:
        assert relevant(array) == relevant(expected)


def relevant(array: Array) -> list[int]:
    return [stride for stride, length in zip(array.strides, array.shape, strict=True) if length > 1]


@pytest.mark.sweep(one_in=4)
@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("block", [TINY, WHOLE])
@pytest.mark.parametrize("seed", sampled(range(3), 1))
async def test_chains_are_numpy(
    monkeypatch: pytest.MonkeyPatch, compiled: Natives, seed: int, block: int, threads: int
) -> None:
    watched = force_runs(monkeypatch, block, compiled)
    enable(intra_op_parallelism_threads=threads)
    with quiet():
        for number in range(CHAINS // 10 if compiled.enabled else CHAINS):
            source = random.Random(f"{seed} {number} {threads}")
            chains = Chains(source)
            for _ in range(25):
                chains.step()
                if source.random() < 0.02:
                    await source.choice(chains.values)[1]
            for expected, handle in (*chains.values, *chains.kept):
                assert_same(await handle, expected)
    assert watched.elided > CHAINS // 10
    assert compiled.statistics().failed == 0
