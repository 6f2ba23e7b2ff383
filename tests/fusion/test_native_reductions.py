"""Reductions within compiled groups, over all axes and along some, and large results: NumPy's bits and warnings."""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

import engine
from engine import ops
from engine.fusion.native.emit import CODES
from engine.fusion.native.machine import is_available
from engine.fusion.native.natives import Natives
from engine.fusion.native.selfcheck import reduces_as_numpy, special_values
from engine.fusion.native.structure import STREAMED, Reduction, Ref
from tests.planning import force_runs

pytestmark = pytest.mark.skipif(not is_available(), reason="there is no compiler: llvmlite is not installed")

Array = np.ndarray[Any, Any]

TRUTHS = (np.logical_and, np.logical_or)
REDUCERS: list[tuple[np.ufunc, str]] = [
    *((ufunc, code) for ufunc in (np.maximum, np.minimum) for code in sorted(CODES)),
    *((ufunc, "b1") for ufunc in TRUTHS),
    *((np.add, code) for code in ("f4", "f8", "i8", "u8")),
]


@pytest.fixture(scope="module")
def at_once() -> Natives:
    """Every group is compiled before it is executed."""
    return Natives(at_once=True)


@pytest.fixture(autouse=True)
def eager() -> None:
    engine.enable_eager_execution(engine.Config(intra_op_parallelism_threads=2), execution_mode=engine.ASYNC)


@pytest.mark.parametrize(("ufunc", "code"), REDUCERS, ids=[f"{ufunc.__name__} {code}" for ufunc, code in REDUCERS])
def test_compiled_reductions_have_numpys_bits(ufunc: np.ufunc, code: str) -> None:
    assert reduces_as_numpy(Reduction(ufunc, Ref("array", 0), code))


def ordinary(code: str, shape: tuple[int, ...]) -> Array:
    source = np.random.default_rng(1)
    if code == "b1":
        return source.random(shape) > 0.1
    if code[0] == "f":
        return (source.normal(size=shape) * 10.0 ** source.integers(-3, 3, shape)).astype(code)
    info = np.iinfo(code)
    return source.integers(info.min // 2, info.max // 2, shape, code)


def zeros(code: str, shape: tuple[int, ...]) -> Array:
    """Zeros, of both signs in some places, of one in others."""
    signs = np.where(np.arange(np.prod(shape)) % 1_000 < 500, 0.0, np.resize([0.0, -0.0, 0.0], np.prod(shape)))
    return signs.reshape(shape).astype(code)


def negative_zeros(code: str, shape: tuple[int, ...]) -> Array:
    return np.full(shape, -0.0).astype(code)


def special(code: str, shape: tuple[int, ...]) -> Array:
    """Special values among others."""
    values = ordinary(code, shape)
    flat = values.reshape(-1)
    flat[::97] = np.resize(special_values(code), flat[::97].shape)
    return values


def infinite(code: str, shape: tuple[int, ...]) -> Array:
    values = ordinary(code, shape)
    if code[0] == "f":
        values.reshape(-1)[::501] = np.inf
    return values


VALUES = [ordinary, zeros, negative_zeros, special, infinite]
ALL = (None, [(65,), (129,), (1_000,), (5_003,), (71, 83), (3, 5, 217)])
ROWS = (-1, [(40, 3), (40, 8), (37, 129), (64, 1_025), (2, 48, 65)])
COLUMNS = (0, [(3, 300), (129, 261), (5, 64, 33), (3, 300, 1)])
MIDDLE = (1, [(64, 7, 33), (40, 130, 5)])
BOTH = ((0, 1), [(5, 3, 300), (40, 9, 257)])
OTHERS = ((-1, -2), [(64, 3, 33)])  # not compiled
WAYS = [ALL, ROWS, COLUMNS, MIDDLE, BOTH, OTHERS]
CASES = [*((code, False) for code in ("b1", "i1", "u2", "i4", "i8", "u8", "f4", "f8")), ("i2", True), ("f8", True)]


def chain(x: Any, y: Any, xp: Any, axis: Any, keepdims: bool) -> list[Any]:
    t = x ^ y if x.dtype.kind == "b" else x + y
    options = {"axis": axis, "keepdims": keepdims}
    results = [xp.max(t, **options), xp.min(t, **options), xp.count_nonzero(t, axis=axis)]
    if x.dtype.kind == "f":
        results.append(xp.mean(t, **options))
    if x.dtype.kind == "b":
        results += [xp.any(t, **options), xp.all(t, **options)]
    return [xp.sum(t, **options), *results]


async def compare(compute: Callable[[Any, Any, Any], list[Any]], x: Array, y: Array) -> None:
    """Compute with NumPy and with the engine: the bits, the dtypes, the shapes and the warnings are the same."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        expected = compute(x, y, np)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        results = [np.asarray(await each) for each in compute(ops.asarray(x), ops.asarray(y), ops)]
    for number, (result, right) in enumerate(zip(results, map(np.asarray, expected), strict=True)):
        assert (result.shape, result.dtype) == (right.shape, right.dtype), (number, x.shape)
        assert result.tobytes() == right.tobytes(), (number, x.shape)
    assert {str(each.message) for each in caught} == {str(each.message) for each in said}


@pytest.mark.sweep(one_in=4)
@pytest.mark.parametrize(("axis", "shapes"), WAYS, ids=[str(axis) for axis, _ in WAYS])
@pytest.mark.parametrize(("code", "keepdims"), CASES)
async def test_reductions_have_numpys_bits(
    monkeypatch: pytest.MonkeyPatch,
    at_once: Natives,
    code: str,
    keepdims: bool,
    axis: Any,
    shapes: list[tuple[int, ...]],
) -> None:
    force_runs(monkeypatch, 4_096, at_once)
    before = at_once.statistics()
    for shape in shapes:
        for values in VALUES if code[0] == "f" else [ordinary, special]:
            x, y = values(code, shape), values(code, shape)[::-1].copy()
            await compare(lambda x, y, xp: chain(x, y, xp, axis, keepdims), x, y)
    after = at_once.statistics()
    assert after.failed == 0
    assert (after.hits > before.hits) == (axis != (-1, -2))


SUMS: dict[str, Callable[[Any, Any, Any], list[Any]]] = {
    "of a called function": lambda x, y, xp: [xp.sum(xp.exp(x * 0.01)), xp.max(xp.sin(x) * y)],
    "of an operand": lambda x, y, xp: [xp.sum(x), xp.sum(x * y), xp.max(y)],
    "of what is kept": lambda x, y, xp: [t := x * y, xp.sum(t), xp.min(t - 1)],
    "of different dtypes": lambda x, y, xp: [xp.sum(xp.astype(x, np.float32) * 2), xp.sum(x + y), xp.sum(x > y)],
    "along rows, of what is kept": lambda x, y, xp: [t := x * y, xp.sum(t, axis=-1), xp.max(t - 1, axis=-1)],
    "along columns, of a called function": lambda x, y, xp: [xp.sum(xp.cos(x) * y, axis=0), xp.any(x > y, axis=0)],
}


@pytest.mark.sweep
@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("compute", SUMS.values(), ids=SUMS)
async def test_reductions_of_what_comes_from_elsewhere(
    monkeypatch: pytest.MonkeyPatch, at_once: Natives, compute: Callable[..., list[Any]], values: Callable[..., Array]
) -> None:
    force_runs(monkeypatch, 4_096, at_once)
    await compare(compute, values("f8", (64, 259)), ordinary("f8", (64, 259)))
    await compare(compute, values("f4", (64, 259)), ordinary("f4", (64, 259)))
    assert at_once.statistics().failed == 0


def summed(x: Any, y: Any, xp: Any, axis: int | None) -> list[Any]:
    return [xp.sum((x + y) * 2, axis=axis)]


async def test_a_reduction_that_differs_is_left_to_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.fusion.native.selfcheck.reduces_as_numpy", lambda each: each.ufunc is not np.add)
    compiled = Natives(at_once=True)
    force_runs(monkeypatch, 4_096, compiled)
    for axis, hits in ((None, 1), (0, 0)):
        before = compiled.statistics().hits
        x = ordinary("f8", (64, 259))
        await compare(partial(summed, axis=axis), x, x)
        assert compiled.statistics().hits - before == hits
    assert compiled.statistics().differing == ("add.reduce f8",)


async def test_sums_overflow_where_numpy_says_so(monkeypatch: pytest.MonkeyPatch, at_once: Natives) -> None:
    force_runs(monkeypatch, 4_096, at_once)
    x = np.full((64, 259), np.finfo("f8").max / 8)
    x[:40] = 1
    before = at_once.statistics().blocks_repeated
    for axis in (None, 0, -1):
        await compare(partial(summed, axis=axis), x, np.zeros_like(x))
    assert at_once.statistics().blocks_repeated > before


# Large results


LAYOUTS: dict[str, Callable[[Array], Array]] = {
    "row-major": lambda x: x,
    "transposed": lambda x: np.ascontiguousarray(x.T).T,
    "a row": lambda x: x[:1],
    "a column": lambda x: x[..., :1],
}


def misaligned(nbytes: int) -> Array:
    """Fresh memory that begins in the middle of a vector, each time somewhere else."""
    misaligned.count += 8  # type: ignore[attr-defined]
    start = 8 + misaligned.count % 48  # type: ignore[attr-defined]
    return np.empty(nbytes + 64, np.uint8)[start : start + nbytes]


misaligned.count = 0  # type: ignore[attr-defined]


@pytest.mark.sweep(one_in=4)
@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("code", ["b1", "i2", "f8"])
@pytest.mark.parametrize("layout", LAYOUTS)
async def test_what_is_written_past_the_caches_is_there(
    monkeypatch: pytest.MonkeyPatch, code: str, layout: str, aligned: bool
) -> None:
    compiled = Natives(at_once=True)
    force_runs(monkeypatch, 2_048, compiled)
    monkeypatch.setattr("engine.fusion.native.describe.STREAMED_BYTES", 0)
    if not aligned:
        monkeypatch.setattr("engine.memory.buffers._mapped", misaligned)
        engine.clear_buffers()
    for shape in ((5_003,), (60, 83), (40, 256), (7, 33, 65)):
        x = ordinary(code, shape)
        y = LAYOUTS[layout](ordinary(code, shape))
        await compare(lambda x, y, xp: [x | y if x.dtype.kind == "b" else x + y, x > y, xp.where(x > y, x, y)], x, y)
    assert any(kind.inner == STREAMED for structure in compiled._entries for kind in structure.arrays)
    engine.clear_buffers()
