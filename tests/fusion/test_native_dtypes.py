"""Compiled groups of float16, complex numbers, extended precision and dates: NumPy's bits, layouts and warnings."""

import re
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import engine
from engine import ops
from engine.fusion.chains.chains import Chains
from engine.fusion.native.casts import castable
from engine.fusion.native.emit import CODES
from engine.fusion.native.llvm import converts_halves
from engine.fusion.native.machine import is_available
from engine.fusion.native.natives import Natives
from engine.fusion.native.selfcheck import has_numpys_bits, special_values
from engine.fusion.native.structure import CAST, WHERE, Instruction
from engine.queues import in_place
from tests.planning import force_runs, told, told_by

pytestmark = pytest.mark.skipif(not is_available(), reason="there is no compiler: llvmlite is not installed")

Array = np.ndarray[Any, Any]
MOVED = ("c8", "c16", "f16", "c32", "m8[ns]", "M8[D]")
"""Dtypes that are computed by NumPy's loops."""
CODES_HERE = sorted(CODES if is_available() and converts_halves() else CODES - {"f2"})


@pytest.fixture(scope="module")
def at_once() -> Natives:
    """Every group is compiled before it is executed."""
    return Natives(at_once=True)


def enable(threads: int = 2) -> None:
    engine.enable_eager_execution(engine.Config(intra_op_parallelism_threads=threads), execution_mode=engine.ASYNC)


def numbers(code: str, size: int = 3_000, seed: int = 0) -> Array:
    source = np.random.default_rng(seed)
    if code[0] in "mM":
        return source.integers(0, 1_000, size).astype("i8").view(code)
    if code[0] == "c":
        return (source.normal(size=size) + 1j * source.normal(size=size)).astype(code)
    return (source.normal(size=size) * 3).astype(code)


def mixed(code: str) -> Array:
    """Special values among others."""
    values = numbers(code)
    values[::7] = np.resize(special_values(code), values[::7].shape)
    return values


# Each instruction by itself


@pytest.mark.parametrize("source", [*MOVED, "f2", "f4", "i8", "b1"])
def test_casts_have_numpys_bits_for_special_values(source: str) -> None:
    known = {*CODES_HERE, *MOVED}
    for target in MOVED:
        if source in known and castable(source, target):
            assert has_numpys_bits(Instruction(CAST, (), (source, target))), target


@pytest.mark.parametrize("code", MOVED)
def test_choices_have_numpys_bits(code: str) -> None:
    assert has_numpys_bits(Instruction(WHERE, (), ("b1", code, code, code)))


async def one_by_one(monkeypatch: pytest.MonkeyPatch, compiled: Natives, x: Array, code: str) -> Array:
    """A cast as part of a compiled group."""
    force_runs(monkeypatch, 1 << 16, compiled)
    enable()
    hits = compiled.statistics().hits
    with np.errstate(all="ignore"):
        result = np.asarray(await ops.astype(ops.positive(ops.asarray(x)), np.dtype(code)))
    assert compiled.statistics().hits > hits
    return result


@pytest.mark.skipif(not CODES_HERE or "f2" not in CODES_HERE, reason="the processor does not convert float16")
@pytest.mark.parametrize("code", ["f4", "f8", "c8", "i4"])
async def test_each_half_is_converted_as_numpy_does_it(
    monkeypatch: pytest.MonkeyPatch, at_once: Natives, code: str
) -> None:
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    with np.errstate(all="ignore"):
        expected = every.astype(code)
    assert (await one_by_one(monkeypatch, at_once, every, code)).tobytes() == expected.tobytes()


@pytest.mark.skipif(not CODES_HERE or "f2" not in CODES_HERE, reason="the processor does not convert float16")
@pytest.mark.parametrize("code", ["f4", "f8"])
async def test_halves_are_rounded_once(monkeypatch: pytest.MonkeyPatch, at_once: Natives, code: str) -> None:
    """Around each number half-way between two halves, as close as the dtype goes: there rounding twice differs."""
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(code)
    ties = (halves[:-1] + halves[1:]) / 2
    values = np.concatenate([ties, np.nextafter(ties, -1), np.nextafter(ties, np.inf, dtype=code), [65_520, 1e30]])
    values = np.concatenate([values, -values]).astype(code)
    with np.errstate(all="ignore"):
        expected = values.astype("f2")
    assert (await one_by_one(monkeypatch, at_once, values, "f2")).tobytes() == expected.tobytes()


# Groups


def complexes(x: Any, y: Any, xp: Any) -> Any:
    t = (x * 2 + y) * x - xp.conj(y) * 0.5
    t = xp.where(xp.abs(t) > xp.abs(y), t / y, -t + 1j)
    return [t, xp.abs(t * t) + 1, t == x, xp.exp(y * 0.1) + x, xp.isfinite(t)]


def halves(x: Any, y: Any, xp: Any) -> Any:
    t = xp.sqrt(xp.abs(x * 2 + y)) - x
    t = xp.where(t > y, t * t + 1, y - t)
    return [xp.maximum(t, y) / 3, xp.exp(t * 0.01) + x, t < x, xp.floor(t) % 3, xp.count_nonzero(t > 0)]


def extended(x: Any, y: Any, xp: Any) -> Any:
    t = (x * 2 + y) * x - y
    return [xp.where(x == x, t, y) * 0.5, xp.abs(t), t != y]


def spans(x: Any, y: Any, xp: Any) -> Any:
    t = x - y + x
    return [xp.where(t > y, t, x) * 2, xp.maximum(t, y), t < x]


GROUPS = [(complexes, "c8"), (complexes, "c16"), (halves, "f2"), (extended, "f16"), (extended, "c32"), (spans, "m8[s]")]


def bits(array: Array) -> bytes:
    """The bits of an array, but for those of extended precision that no number has."""
    if array.dtype.char in "gG" and np.finfo(np.longdouble).nmant == 63:
        return array.copy().view(np.uint8).reshape(-1, 16)[:, :10].tobytes()
    return array.tobytes()


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
    try:
        expected, said = told(lambda: group(x, y, np))
    except OverflowError as error:  # from NumPy 2.5 on, of spans
        with pytest.raises(OverflowError, match=re.escape(str(error))):
            await engine.gather(*group(ops.asarray(x), ops.asarray(y), ops))
        engine.clear_errors()
        return
    before = at_once.statistics()
    results, said_here = await told_by(group, x, y)
    for result, right in zip(results, map(np.asarray, expected), strict=True):
        assert (result.dtype, result.strides) == (right.dtype, right.strides)
        assert bits(result) == bits(right)
    assert said_here == said
    after = at_once.statistics()
    assert (after.hits > before.hits, after.failed) == (True, 0)
    if values is numbers:
        assert after.unsupported == before.unsupported


async def test_floats_and_complex_numbers_are_computed_in_one_group(
    monkeypatch: pytest.MonkeyPatch, at_once: Natives
) -> None:
    """Casts that promote are compiled: no part of the group is left to be called."""
    watched = force_runs(monkeypatch, 4_096, at_once)
    enable()
    x, y, z = numbers("f8"), numbers("c8"), numbers("c16", seed=1)

    def chain(x: Any, y: Any, z: Any, xp: Any) -> Any:
        t = (x + 1) * 2
        return xp.abs((t + y) * z + ops_or_cast(xp, t > 0)) - t

    def ops_or_cast(xp: Any, x: Any) -> Any:
        return x.astype("c8") if xp is np else xp.astype(x, np.dtype("c8"))

    before = at_once.statistics()
    result = await chain(ops.asarray(x), ops.asarray(y), ops.asarray(z), ops)
    assert np.asarray(result).tobytes() == chain(x, y, z, np).tobytes()
    after = at_once.statistics()
    assert (after.hits - before.hits, after.misses - before.misses) == (len(watched.runs), 0)


@pytest.mark.parametrize("code", ["f2", "c8", "c16"])
async def test_results_are_written_over_operands(monkeypatch: pytest.MonkeyPatch, at_once: Natives, code: str) -> None:
    """Of a block that NumPy warns of, the operand is put back before it is computed again."""
    watched = force_runs(monkeypatch, 1_024, at_once)
    enable()
    array = numbers(code)
    array[::1_000] = 0
    before = at_once.statistics()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        x = first = ops.asarray(array) + 0
        await first
        del first
        x = 1 / (x * 2)
        result = np.asarray(await x)
    right, said = told(lambda: 1 / ((array + 0) * 2))
    assert result.tobytes() == right.tobytes()
    assert sorted({str(each.message) for each in caught}) == said != []
    after = at_once.statistics()
    assert watched.overwritten
    assert after.hits > before.hits
    assert 0 < after.blocks_repeated - before.blocks_repeated < 40


LAYOUTS: dict[str, Callable[[Array], Array]] = {
    "row-major": lambda x: x,
    "column-major": np.asfortranarray,
    "every other": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    "a row": lambda x: x[:1],
    "a column": lambda x: x[:, :1],
    "one": lambda x: x[:1, :1],
}


@pytest.mark.parametrize("code", ["f2", "c16", "f16"])
async def test_layouts_have_numpys_bits(monkeypatch: pytest.MonkeyPatch, at_once: Natives, code: str) -> None:
    force_runs(monkeypatch, 2_048, at_once)
    enable()
    whole = numbers(code, 40 * 67).reshape(40, 67)
    plain, *others = LAYOUTS.values()
    for first, second in [*((plain, each) for each in others), *((each, plain) for each in others)]:
        x, y = first(whole), second(whole + 1)
        result = np.asarray(await ((ops.asarray(x) + ops.asarray(y)) * ops.asarray(y)))
        expected = (x + y) * y
        assert bits(result) == bits(expected)
        assert result.strides == expected.strides


@pytest.mark.parametrize("code", ["f2", "c8", "c16"])
async def test_nothing_is_written_beside_an_array(monkeypatch: pytest.MonkeyPatch, at_once: Natives, code: str) -> None:
    force_runs(monkeypatch, 512, at_once)
    enable()
    for length in (65, 127, 1_001):
        around = numbers(code, length + 128)
        guarded = around.copy()
        x = guarded[64 : 64 + length]
        y = ops.asarray(x, copy=False)
        assert np.asarray(await ops.where(ops.equal(y, y), y * 2, y)).tobytes() == (x * 2).tobytes()
        assert guarded.tobytes() == around.tobytes()


@pytest.mark.parametrize("code", ["f2", "c8", "c16"])
async def test_chains_that_come_again_are_recognized(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Numbers in the expression may change: they are written to the frame in the dtype of the operands."""
    compiled = Natives(at_once=True)
    chains, made = Chains(compiled, sightings=1), in_place.InPlaceChains.__init__
    monkeypatch.setattr(in_place.InPlaceChains, "__init__", lambda self, queue: made(self, queue, chains))
    enable()
    x, y = numbers(code, 6_000) / 8, numbers(code, 6_000, seed=1)
    a, b = ops.asarray(x), ops.asarray(y)
    for number in (2.0, 0.1, 3, 0.7, 1.5, 10, 0.3, -2.5):
        result = np.asarray(await ((((a * number + b) * a - b) * 0.5 + a - b) * a))
        assert result.tobytes() == ((((x * number + y) * x - y) * 0.5 + x - y) * x).tobytes()
    statistics = compiled.statistics()
    assert statistics.failed == 0
    assert statistics.hits >= 4
