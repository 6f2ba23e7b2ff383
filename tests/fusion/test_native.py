"""Compiled groups: NumPy's bits and warnings, the compiler in the background, and what happens when it fails."""

import asyncio
import gc
import logging
import subprocess
import sys
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import engine
from engine import ops
from engine.fusion.native import natives as module
from engine.fusion.native.calls import NativeCall
from engine.fusion.native.compiler import compile_structure
from engine.fusion.native.describe import Description
from engine.fusion.native.emit import CODES
from engine.fusion.native.llvm import converts_halves
from engine.fusion.native.machine import is_available
from engine.fusion.native.natives import Natives
from engine.fusion.native.primitives import primitive
from engine.fusion.native.selfcheck import _structure, computed, has_numpys_bits, special_values
from engine.fusion.native.structure import CAST, CONTIGUOUS, WHERE, ArrayKind, Instruction, Ref, Structure
from engine.fusion.walks import Walk
from tests.planning import force_runs, told, told_by

pytestmark = pytest.mark.skipif(not is_available(), reason="there is no compiler: llvmlite is not installed")

Array = np.ndarray[Any, Any]

CASTS = sorted(code for code in CODES if code != "f2" or (is_available() and converts_halves()))
"""The dtypes between which casts are compiled on this machine."""
UFUNCS = [each for name in dir(np) if isinstance(each := getattr(np, name), np.ufunc) and each.__name__ == name]


def loops_of(ufunc: np.ufunc) -> list[tuple[str, ...]]:
    """The loops of a ufunc that are compiled."""
    found = set()
    for text in ufunc.types:
        loop = tuple(np.dtype(char).str[1:] for char in text.replace("->", ""))
        if CODES.issuperset(loop) and primitive(ufunc, loop) is not None:
            found.add(loop)
    return sorted(found)


COMPILED = [ufunc for ufunc in UFUNCS if loops_of(ufunc)]
"""The ufuncs that have a compiled form for some dtypes."""


@pytest.fixture(scope="module")
def at_once() -> Natives:
    """Every group is compiled before it is executed."""
    return Natives(at_once=True)


def enable(threads: int = 2) -> None:
    engine.enable_eager_execution(engine.Config(intra_op_parallelism_threads=threads), execution_mode=engine.ASYNC)


# Each instruction by itself


@pytest.mark.sweep
@pytest.mark.parametrize("ufunc", COMPILED, ids=lambda each: each.__name__)
def test_compiled_ufuncs_have_numpys_bits_for_special_values(ufunc: np.ufunc) -> None:
    for loop in loops_of(ufunc):
        assert has_numpys_bits(Instruction(ufunc, (), loop)), loop


@pytest.mark.sweep
@pytest.mark.parametrize("source", CASTS)
def test_compiled_casts_have_numpys_bits_for_special_values(source: str) -> None:
    for target in CASTS:
        assert has_numpys_bits(Instruction(CAST, (), (source, target))), target


@pytest.mark.parametrize("code", sorted(CODES))
def test_compiled_choices_have_numpys_bits(code: str) -> None:
    assert has_numpys_bits(Instruction(WHERE, (), ("b1", code, code, code)))


def warns(call: Callable[..., Any], *operands: Any) -> bool:
    with np.errstate(divide="raise", over="raise", invalid="raise", under="ignore"):
        try:
            call(*operands)
        except FloatingPointError:
            return True
    return False


@pytest.mark.sweep
@pytest.mark.parametrize("ufunc", COMPILED, ids=lambda each: each.__name__)
def test_what_numpy_warns_of_is_noticed(ufunc: np.ufunc) -> None:
    """One element for each pair of values: where NumPy warns, compiled code leaves the element to NumPy."""
    for loop in loops_of(ufunc):
        instruction = Instruction(ufunc, (), loop)
        code = compile_structure(_structure(instruction), lambda _: True, minds_nans=False)
        operands, _, unsure = computed(instruction, code, 1)
        warned = [warns(ufunc, *(each[i : i + 1] for each in operands)) for i in range(len(unsure))]
        assert not (np.array(warned) & ~unsure).any(), loop


@pytest.mark.parametrize("source", [code for code in CASTS if code[0] == "f"])
def test_what_numpy_warns_of_in_casts_is_noticed(source: str) -> None:
    for target in CASTS:
        instruction = Instruction(CAST, (), (source, target))
        code = compile_structure(_structure(instruction), lambda _: True, minds_nans=False)
        (values,), _, unsure = computed(instruction, code, 1)
        warned = [warns(lambda x, target=target: x.astype(target), values[i : i + 1]) for i in range(len(unsure))]
        assert not (np.array(warned) & ~unsure).any(), target


# Groups


def numbers(code: str, size: int = 3_000, seed: int = 0) -> Array:
    source = np.random.default_rng(seed)
    if code == "b1":
        return source.random(size) > 0.5
    if code[0] == "f":
        return (source.normal(size=size) * 3).astype(code)
    return source.integers(0, 100, size).astype(code)


def mixed(code: str) -> Array:
    """Special values among others."""
    values = numbers(code)
    values[::7] = np.resize(special_values(code), values[::7].shape)
    return values


def floats(x: Any, y: Any, xp: Any) -> Any:
    t = xp.sqrt(xp.abs(x * 2 + y)) - x
    t = xp.where(t > y, t * t + 1, y - t)
    return [xp.maximum(t, y) / 3, xp.exp(t * 0.01) + x, t < x]


def integers(x: Any, y: Any, xp: Any) -> Any:
    t = (x * 3 + y) ^ (y << 2)
    t = xp.where(t > x, t // 3, abs(x - t))
    return [t, xp.maximum(t, y) & 15, xp.sqrt(t * 0.5 + 1)]


def reduced(x: Any, y: Any, xp: Any) -> Any:
    t = (x - y) * 0.5
    return [xp.sum(t), xp.max(t * t), xp.mean(t + 1), xp.any(t > x), xp.count_nonzero(t > y)]


GROUPS = [(floats, "f8"), (floats, "f4"), (integers, "i4"), (integers, "i8"), (integers, "u1"), (reduced, "f8")]


@pytest.mark.sweep
@pytest.mark.parametrize("values", [numbers, mixed])
@pytest.mark.parametrize(("group", "code"), GROUPS, ids=[f"{group.__name__} {code}" for group, code in GROUPS])
async def test_groups_have_numpys_bits_and_warnings(
    monkeypatch: pytest.MonkeyPatch,
    at_once: Natives,
    group: Callable[..., Any],
    code: str,
    values: Callable[[str], Array],
) -> None:
    force_runs(monkeypatch, 4_096, at_once)
    enable()
    x, y = values(code), values(code)[::-1].copy()
    expected, said = told(lambda: group(x, y, np))
    before = at_once.statistics()
    results, said_here = await told_by(group, x, y)
    for result, right in zip(results, expected, strict=True):
        assert result.tobytes() == np.asarray(right).tobytes()
    assert said_here == said
    after = at_once.statistics()
    assert after.hits > before.hits
    assert after.failed == 0
    if values is numbers and group is not integers:
        assert after.blocks_repeated == before.blocks_repeated


LAYOUTS: dict[str, Callable[[Array], Array]] = {
    "row-major": lambda x: x,
    "column-major": np.asfortranarray,
    "transposed": lambda x: np.ascontiguousarray(x.T).T,
    "every other": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    "backwards": lambda x: x[:, ::-1],
    "a row": lambda x: x[:1],
    "a column": lambda x: x[:, :1],
    "one": lambda x: x[:1, :1],
}


@pytest.mark.sweep
@pytest.mark.parametrize("second", LAYOUTS)
@pytest.mark.parametrize("first", LAYOUTS)
async def test_layouts_have_numpys_bits(
    monkeypatch: pytest.MonkeyPatch, at_once: Natives, first: str, second: str
) -> None:
    force_runs(monkeypatch, 2_048, at_once)
    enable()
    whole = numbers("f8", 60 * 83).reshape(60, 83)
    x, y = LAYOUTS[first](whole), LAYOUTS[second](whole + 1)

    def chain(x: Any, y: Any, xp: Any) -> list[Any]:
        t = (x + y) * y
        return [t - x, xp.sum(t * 0.5, axis=0), xp.max(t, axis=1)]

    handles = chain(ops.asarray(x), ops.asarray(y), ops)
    for handle, expected in zip(handles, chain(x, y, np), strict=True):
        result = np.asarray(await handle)
        assert result.tobytes() == expected.tobytes()
        assert result.strides == expected.strides


async def test_what_is_written_over_is_there_when_a_block_is_repeated(
    monkeypatch: pytest.MonkeyPatch, at_once: Natives
) -> None:
    watched = force_runs(monkeypatch, 1_024, at_once)
    enable()
    array = numbers("f8", 5_000)
    array[::1_000] = 0
    with np.errstate(divide="warn"), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        x = await_me = ops.asarray(array) + 0
        await await_me
        del await_me
        before = at_once.statistics().blocks_repeated
        x = 1 / (x * 2)
        result = np.asarray(await x)
    assert [str(each.message) for each in caught] == ["divide by zero encountered in divide"]
    with np.errstate(divide="ignore"):
        assert result.tobytes() == (1 / ((array + 0) * 2)).tobytes()
    assert watched.overwritten
    assert 0 < at_once.statistics().blocks_repeated - before < 40


@pytest.mark.parametrize("code", sorted(CODES))
async def test_nothing_is_written_beside_an_array(monkeypatch: pytest.MonkeyPatch, at_once: Natives, code: str) -> None:
    """Parts of arrays whose other elements are guards, in lengths that leave rests of vectors."""
    force_runs(monkeypatch, 512, at_once)
    enable()
    for length in (65, 127, 1_001):
        around = numbers(code, length + 128)
        guarded = around.copy()
        x = guarded[64 : 64 + length]
        handle = ops.logical_not(ops.equal(ops.asarray(x, copy=False), ops.asarray(x)))
        assert not (await handle).any()
        assert guarded.tobytes() == around.tobytes()


@pytest.mark.parametrize("state", ["warn", "ignore"])
async def test_nans_are_computed_natively_from_the_second_time_on(monkeypatch: pytest.MonkeyPatch, state: str) -> None:
    compiled = Natives(at_once=True)
    force_runs(monkeypatch, 512, compiled)
    enable()
    array = numbers("f8")
    array[::3] = np.nan
    array[1::500] = np.inf
    other = numbers("f8", seed=1)
    other[1::500] = np.inf
    other[::500] = -special_values("f8")[np.isnan(special_values("f8"))][1]  # a NaN of another sign and payload
    with np.errstate(invalid=state), warnings.catch_warnings():  # type: ignore[arg-type]
        warnings.simplefilter("ignore")
        expected = (array - other) * array + other
        repeated = []
        for _ in range(3):
            x, y = ops.asarray(array), ops.asarray(other)
            before = compiled.statistics().blocks_repeated
            assert np.asarray(await ((x - y) * x + y)).tobytes() == expected.tobytes()
            repeated.append(compiled.statistics().blocks_repeated - before)
    assert repeated[0] > 40
    assert 0 < repeated[-1] < 20


@pytest.mark.parametrize("code", ["f4", "f8"])
async def test_extremes_and_comparisons_of_all_numbers_are_computed_natively(
    monkeypatch: pytest.MonkeyPatch, at_once: Natives, code: str
) -> None:
    """Zeros of both signs, infinities and denormals, where no NaN is there that a block would be repeated for."""
    force_runs(monkeypatch, 4_096, at_once)
    enable()
    values = special_values(code)
    values = values[~np.isnan(values)]
    x, y = np.repeat(values, len(values)), np.tile(values, len(values))
    before = at_once.statistics()

    def compute(x: Any, y: Any, xp: Any) -> list[Any]:
        chosen = [xp.where(each, x, y) for each in (x < y, x <= y, x > y, x >= y, x == y, x != y)]
        return [xp.maximum(x, y), -xp.minimum(y, x), (x < y) | (x == -y), *chosen]

    results = compute(ops.asarray(x), ops.asarray(y), ops)
    expected = [each.tobytes() for each in compute(x, y, np)]
    assert [np.asarray(await each).tobytes() for each in results] == expected
    after = at_once.statistics()
    assert after.hits > before.hits
    assert after.blocks_repeated == before.blocks_repeated


@pytest.mark.parametrize("number", [2.0, np.nan])
@pytest.mark.parametrize("code", ["f4", "f8"])
def test_an_extreme_of_a_scalar_that_is_no_number(code: str, number: float) -> None:
    """The arrays have no NaN, so that no block is repeated for one: code for numbers alone would lose this one."""
    x, y, result = numbers(code), numbers(code, seed=1), np.empty(3_000, code)
    product = Instruction(np.multiply, (Ref("array", 0), Ref("scalar", 0)), (code,) * 3)
    extreme = Instruction(np.maximum, (Ref("step", 0), Ref("array", 1)), (code,) * 3, output=2)
    kinds = (ArrayKind(code, CONTIGUOUS),) * 3
    structure = Structure(1, kinds, (code,), (product, extreme), has_nan=bool(np.isnan(number)))
    scalar = np.array(number, code)
    walk = Walk(x.shape, [x, y], [result])
    walk.cut(512)
    code_of_it = compile_structure(structure, lambda _: True)
    call = NativeCall(code_of_it, Description(structure, [scalar], [x, y, result]), walk, set())
    call.work()
    assert not call.to_repeat()
    assert result.tobytes() == np.maximum(x * scalar, y).tobytes()


@pytest.mark.parametrize("zeros", [(0.0,), (-0.0,), (0.0, -0.0)])
@pytest.mark.parametrize("code", ["f4", "f8"])
async def test_zeros_of_both_signs_in_an_extreme(
    monkeypatch: pytest.MonkeyPatch, at_once: Natives, code: str, zeros: tuple[float, ...]
) -> None:
    force_runs(monkeypatch, 4_096, at_once)
    enable()
    array = -np.abs(numbers(code))
    array[::10] = np.resize(zeros, array[::10].shape)
    for compute, values, own in ((np.max, array, ops.max), (np.min, -array, ops.min)):
        before = at_once.statistics().blocks_repeated
        for _ in range(2):
            x = ops.asarray(values)
            assert np.asarray(await own(x * 2)).tobytes() == compute(values * 2).tobytes()
        assert (at_once.statistics().blocks_repeated > before) == (len(zeros) > 1)


# The compiler in the background


def chain(x: Any, number: float) -> Any:
    return (x * number + 1) * x


async def test_no_group_waits_for_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    gate, entered = threading.Event(), threading.Event()

    def compile_later(*args: Any) -> Any:
        entered.set()
        gate.wait()
        return compile_structure(*args)

    monkeypatch.setattr(module, "compile_structure", compile_later)
    compiled = Natives()
    force_runs(monkeypatch, 4_096, compiled)
    enable()
    x = ops.asarray(numbers("f8"))
    try:
        assert ((await chain(x, 2.0)) == chain(numbers("f8"), 2.0)).all()
        await asyncio.to_thread(entered.wait)
        assert ((await chain(x, 3.0)) == chain(numbers("f8"), 3.0)).all()
        assert compiled.statistics().hits == 0
    finally:
        gate.set()
    assert await asyncio.to_thread(compiled.settle)
    assert ((await chain(x, 4.0)) == chain(numbers("f8"), 4.0)).all()
    statistics = compiled.statistics()
    assert (statistics.compiled, statistics.cached, statistics.hits) == (1, 1, 1)
    assert statistics.compile_seconds > 0


@pytest.mark.parametrize("error", [MemoryError("no code memory"), RuntimeError("no such CPU")])
async def test_a_failing_compiler_changes_no_result_and_is_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    def refuse(*args: Any) -> Any:
        raise error

    monkeypatch.setattr(module, "compile_structure", refuse)
    compiled = Natives(at_once=True)
    force_runs(monkeypatch, 4_096, compiled)
    enable()
    x = ops.asarray(numbers("f8"))
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert ((await chain(x, 2.0)) == chain(numbers("f8"), 2.0)).all()
        assert ((await (chain(x, 2.0) + x)) == chain(numbers("f8"), 2.0) + numbers("f8")).all()
    assert [str(error) in record.getMessage() for record in caplog.records] == [True]
    statistics = compiled.statistics()
    assert (statistics.failed, statistics.compiled, statistics.hits) == (2, 0, 0)


async def test_an_instruction_that_differs_is_left_to_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.fusion.native.selfcheck.has_numpys_bits", lambda each: each.op is not np.multiply)
    compiled = Natives(at_once=True)
    force_runs(monkeypatch, 4_096, compiled)
    enable()
    assert ((await chain(ops.asarray(numbers("f8")), 2.0)) == chain(numbers("f8"), 2.0)).all()
    statistics = compiled.statistics()
    assert statistics.differing == ("multiply f8 f8 f8",)
    assert statistics.hits == 1


async def test_many_structures_go_through_a_small_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = Natives(limit=3, at_once=True)
    force_runs(monkeypatch, 4_096, compiled)
    enable()
    array = numbers("i4")
    for number in range(1, 13):
        x, right = ops.asarray(array), array
        for _ in range(number):
            x, right = x + 1, right + 1
        assert (await x == right).all()
    statistics = compiled.statistics()
    assert statistics.compiled >= 12  # what is dispatched meanwhile may be another group
    assert (statistics.evicted, statistics.cached) == (statistics.compiled - 3, 3)


async def test_code_goes_with_its_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[weakref.ref[Any]] = []

    def compile_and_watch(*args: Any) -> Any:
        code = compile_structure(*args)
        made.append(weakref.ref(code))
        return code

    monkeypatch.setattr(module, "compile_structure", compile_and_watch)
    compiled = Natives(limit=2, at_once=True)
    force_runs(monkeypatch, 4_096, compiled)
    enable(threads=1)
    for number in range(5):
        x = ops.asarray(numbers("f8"))
        for _ in range(number + 1):
            x = x * 2
        await x
    gc.collect()
    assert sum(code() is not None for code in made) == compiled.statistics().cached == 2


async def test_what_is_not_compiled_is_computed_as_before(monkeypatch: pytest.MonkeyPatch, at_once: Natives) -> None:
    force_runs(monkeypatch, 4_096, at_once)
    enable()
    array = numbers("f8").astype(">f8")
    misses = at_once.statistics().misses
    assert (await chain(ops.asarray(array), 2.0) == chain(array, 2.0)).all()
    assert at_once.statistics().misses > misses


# The process


def run(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", program], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.strip()


PROGRAM = """
import asyncio, os, sys
import numpy as np
{before}
import engine
from engine import ops

async def main():
    async with engine.Executor(execution_mode=engine.ASYNC):
        x = ops.asarray(np.arange(500_000.0))
        y = await ((x * 2 + 1) * x)
        assert (y == (np.arange(500_000.0) * 2 + 1) * np.arange(500_000.0)).all()

asyncio.run(main())
{after}
"""


def test_without_the_compiler_everything_works() -> None:
    before = "sys.modules['llvmlite'] = None"
    after = "s = engine.fusion_statistics(); print(s.available, s.hits, s.compiled)"
    assert run(PROGRAM.format(before=before, after=after)) == "False 0 0"


def test_the_interpreter_may_end_while_compiling() -> None:
    for _ in range(3):
        run(PROGRAM.format(before="", after=""))


@pytest.mark.skipif(not hasattr(sys, "getswitchinterval") or sys.platform == "win32", reason="there are no forks")
def test_a_fork_while_compiling_leaves_both_processes_at_work() -> None:
    after = """
import warnings
warnings.simplefilter("ignore")
child = os.fork()
asyncio.run(main())
from engine.fusion.native.natives import natives
assert natives.settle(60)
asyncio.run(main())
assert engine.fusion_statistics().hits >= 1
if child:
    assert os.waitpid(child, 0)[1] == 0
    print("both")
"""
    assert run(PROGRAM.format(before="", after=after)) == "both"


def test_statistics_are_public() -> None:
    statistics = engine.fusion_statistics()
    assert statistics.available
    assert statistics.cached <= statistics.limit


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    yield
    module.natives.settle(60)
