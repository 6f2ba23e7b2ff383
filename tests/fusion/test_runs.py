"""Runs of elementwise ops: what they take along and never write to memory, and that nobody can tell otherwise."""

import asyncio
import copy
import warnings
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import engine
import engine.testing
from engine import ops
from engine.base.op import Op, op_of
from engine.fusion.groups import LEFT_OUT, LONGEST, collect
from engine.fusion.liveness import give_up_operands, mark_kept
from engine.queues import worker
from engine.runtime.current import current
from handles.cell import Cell, pending_cell, settle
from tests.planning import Held, Watched, enable_runs

Array = np.ndarray[Any, Any]
N = 1_000


@pytest.fixture(params=[1, 4], ids=["one thread", "four threads"], autouse=True)
def watched(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, fresh_engine: None) -> Watched:
    """Every chain a group, in blocks of 64 elements."""
    return enable_runs(monkeypatch, request.param)


def numbers() -> Array:
    return np.linspace(0.5, 3, N)


# What is taken along and what is kept


async def test_results_whose_handles_are_gone_are_never_written(watched: Watched) -> None:
    x = numbers()
    array = await ops.sqrt((ops.asarray(x) + 1) * 2 - 3)
    np.testing.assert_array_equal(array, np.sqrt((x + 1) * 2 - 3))
    assert watched.runs == [[("add", False), ("multiply", False), ("subtract", False), ("sqrt", True)]]


async def test_a_result_used_twice_by_one_op_or_by_two_is_never_written(watched: Watched) -> None:
    x = numbers()
    square = ops.asarray(x) + 1
    result = square * square - square
    del square
    np.testing.assert_array_equal(await result, (x + 1) * (x + 1) - (x + 1))
    assert watched.runs == [[("add", False), ("multiply", False), ("subtract", True)]]


def test_what_was_set_aside_and_stands_on_the_queue_nevertheless_is_not_kept_by_that() -> None:
    home: Any = None
    add: Cell = pending_cell(op_of(np.add), (numbers(), 1.0), None, home, None, 0)
    root: Cell = pending_cell(op_of(np.sqrt), (add,), None, home, None, 0)
    group = collect(add, [root])
    assert group is not None
    queue = deque([add, root])  # the names stand for the set of what runs
    mark_kept(group, set())
    assert [step.keep for step in group.steps] == [True, True]
    mark_kept(group, {id(cell) for cell in queue})
    assert [step.keep for step in group.steps] == [False, False]


def test_an_operand_that_stands_on_the_queue_nevertheless_is_written_over() -> None:
    home: Any = None
    operand: Cell = pending_cell(op_of(np.negative), (), None, home, None, 0)
    add: Cell = pending_cell(op_of(np.add), (operand, 1.0), None, home, None, 0)
    settle(operand, numbers() + 0)
    group = collect(add, [])
    assert group is not None
    queue = deque([operand])
    del operand
    kept = add
    mark_kept(group, set())
    over = []
    for queued in (set(), {id(cell) for cell in queue}):
        give_up_operands(group, queued)
        over.append(group.steps[0].over)
    assert over == [None, 0]
    del kept


picky = engine.op(lambda x: x + 0, name="picky")
KEEPERS: dict[str, Callable[[Any], Any]] = {
    "the handle": lambda handle: handle,
    "a copy of it": copy.copy,
    "an op that no group takes": lambda handle: ops.cumulative_sum(ops.reshape(handle, (-1,)))[:0],
    "an op of unknown cost": picky,
    "a view": lambda handle: handle[:],
    "an op on another device": lambda handle: handle.to_device("CPU:1") + 0,
    "an op over another shape": lambda handle: ops.add(handle, np.zeros((2, 1))),
    "an op in another error state": lambda handle: in_other_errstate(handle),
    "a task that gathers": lambda handle: asyncio.ensure_future(engine.gather(handle)),
    "a task that reads": lambda handle: asyncio.ensure_future(read(handle)),
    "a task that takes what is completed": lambda handle: asyncio.ensure_future(first_completed(handle)),
}


async def read(handle: Any) -> Array:
    return await handle  # type: ignore[no-any-return]


async def first_completed(handle: Any) -> Array:
    return [await each async for each in engine.as_completed([handle])][0]  # type: ignore[no-any-return]  # noqa: RUF015


def in_other_errstate(handle: Any) -> Any:
    with np.errstate(all="ignore"):
        return handle + 0


@pytest.mark.parametrize("keeper", KEEPERS.values(), ids=KEEPERS)
async def test_what_somebody_can_still_reach_is_written(watched: Watched, keeper: Callable[[Any], Any]) -> None:
    x = numbers()
    handle = ops.asarray(x) + 1
    kept = keeper(handle)
    result = handle * 2
    del handle
    np.testing.assert_array_equal(await result, (x + 1) * 2)
    assert ("add", True) in watched.runs[0]
    array = np.asarray(await kept)
    if array.size:
        np.testing.assert_array_equal(array.reshape(-1)[:N], x + 1)


async def test_members_of_a_scope_keep_their_values() -> None:
    async with engine.scope() as scope:
        handle = ops.asarray(numbers()) + 1
        result = handle * 2 - 1
        assert scope.in_flight == 3 + 1
    np.testing.assert_array_equal(await handle, numbers() + 1)
    np.testing.assert_array_equal(await result, (numbers() + 1) * 2 - 1)


async def test_shapes_can_be_asked_of_what_depends_on_dropped_results() -> None:
    held = Held()
    result = (held(ops.asarray(numbers())) + 1) * np.ones((2, 1))
    await_held = asyncio.ensure_future(held.running())
    await await_held
    assert (result.shape, result.dtype) == ((2, N), np.float64)
    held.opened.set()
    assert (await result).shape == (2, N)


async def test_a_run_leaves_out_what_does_not_fit_and_what_depends_on_it(watched: Watched) -> None:
    x = numbers()
    h = ops.asarray(x)
    start = h + 1
    alone = ops.cumulative_sum(start)
    after = alone + 1
    result = start * 2
    np.testing.assert_array_equal(await result, (x + 1) * 2)
    np.testing.assert_array_equal(await after, np.cumsum(x + 1) + 1)
    assert [[name for name, _ in group] for group in watched.runs] == [["add", "multiply"], ["add"]]


VIEWS: dict[str, Callable[[Any], Any]] = {
    "transposed": lambda x: ops.permute_dims(x, (1, 0)),
    "reshaped": lambda x: ops.reshape(x, (50, 20)),
    "copied": lambda x: ops.reshape(ops.flip(ops.permute_dims(x, (1, 0)), axis=0), (50, 20)),
    "broadcast": lambda x: ops.broadcast_to(ops.expand_dims(x[:, 0], axis=0), (50, 20)),
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
async def test_a_view_of_what_is_there_does_not_cut_a_run(watched: Watched, view: Callable[[Any], Any]) -> None:
    x, y = numbers().reshape(50, 20), numbers().reshape(20, 50)
    first, other = ops.asarray(x), ops.asarray(y)
    await engine.synchronize()
    with engine.testing.hold():
        doubled = first * 2
        viewed = view(other)
        result = doubled + viewed
        del doubled
    np.testing.assert_array_equal(await result, x * 2 + await viewed)
    assert [("multiply", False), ("add", True)] in watched.runs


async def test_a_view_that_fails_is_the_views_failure_alone() -> None:
    x = ops.asarray(numbers())
    result = ops.sqrt(x) * 2
    broken = current().dispatch(Op("broken", np.transpose, view=True, ns=0.001), x, params={"axes": (3, 1)})
    np.testing.assert_array_equal(await result, np.sqrt(numbers()) * 2)
    with pytest.raises(ValueError, match="axes"):
        await broken


async def test_runs_are_bounded(watched: Watched) -> None:
    h = ops.asarray(numbers())
    handles = [h + number for number in range(LONGEST + 10)]
    for number, array in enumerate(await engine.gather(*handles)):
        np.testing.assert_array_equal(array, numbers() + number)
    assert max(map(len, watched.runs)) == LONGEST


async def test_records_that_do_not_fit_are_looked_at_so_often_only(watched: Watched) -> None:
    h, other = ops.asarray(numbers()), ops.asarray(numbers()[:10])
    await engine.synchronize()
    with engine.testing.hold():
        first = h + 1
        others = [other + number for number in range(LEFT_OUT)]
        last = h + 2
    await engine.gather(first, last, *others)
    assert len(watched.runs[0]) == 1
    assert len(watched.runs) == 3


REDUCTIONS = ["sum", "mean", "max", "min"]


@pytest.mark.parametrize("name", REDUCTIONS)
@pytest.mark.parametrize("dtype", ["f4", "f8"])
async def test_a_chain_may_end_in_reductions(watched: Watched, name: str, dtype: str) -> None:
    x = (np.random.default_rng(0).normal(size=(50, 101)) * 1e3).astype(dtype)
    chain = ops.asarray(x) * 3 + 1
    total, kept = getattr(ops, name)(chain), getattr(ops, name)(chain, keepdims=True)
    del chain
    assert (await total).tobytes() == getattr(np, name)(x * 3 + 1).tobytes()
    assert (await kept).shape == (1, 1)
    assert watched.runs == [[("multiply", False), ("add", False), (name, True), (name, True)]]


ALONG: list[tuple[tuple[int, ...], Any, Any]] = [
    ((50, 101), (1,), 1),
    ((7, 300), (300,), 0),
    ((40, 5, 6), (5, 1), 1),
    ((40, 5, 6), (40, 1, 6), (1, 2)),
    ((3, 64, 4), (4,), (0, -1)),
    ((2, 5, 270), (1, 5, 1), (0, 1)),
]


@pytest.mark.sweep
@pytest.mark.parametrize(("shape", "other", "axis"), ALONG)
@pytest.mark.parametrize("keepdims", [False, True], ids=["without axes", "with axes"])
@pytest.mark.parametrize("special", [False, True], ids=["numbers", "special numbers"])
async def test_a_chain_may_end_in_reductions_along_axes(
    watched: Watched, shape: Any, other: Any, axis: Any, keepdims: bool, special: bool
) -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=shape) * 1e3, rng.normal(size=other)
    if special:
        x[rng.random(shape) < 0.03] = np.nan
    chain = ops.asarray(x) * ops.asarray(y) + 1
    names = ["sum", "mean", "max", "min"]
    results = [getattr(ops, name)(chain, axis=axis, keepdims=keepdims) for name in names]
    del chain
    for name, result in zip(names, results, strict=True):
        expected = getattr(np, name)(x * y + 1, axis=axis, keepdims=keepdims)
        array = await result
        assert (array.shape, array.tobytes()) == (expected.shape, expected.tobytes()), name
    if not special:
        assert watched.runs == [[("multiply", False), ("add", False), *((name, True) for name in names)]]


async def test_a_run_reduces_along_axes_or_over_all_of_them(watched: Watched) -> None:
    x = numbers().reshape(50, 20)
    chain = ops.asarray(x) * 2
    rows, everything, columns = ops.sum(chain, axis=1), ops.sum(chain), ops.max(chain, axis=0)
    del chain
    assert (await rows).tobytes() == (x * 2).sum(axis=1).tobytes()
    assert (await everything).tobytes() == (x * 2).sum().tobytes()
    assert (await columns).tobytes() == (x * 2).max(axis=0).tobytes()
    assert watched.runs[0] == [("multiply", True), ("sum", True)]


async def test_reductions_along_axes_warn_and_fail_as_numpys() -> None:
    x = np.full((50, 20), 1e308)
    with pytest.warns(RuntimeWarning, match="overflow encountered in reduce"):
        assert np.isinf(await ops.sum(ops.asarray(x) * 1.0, axis=1)).all()
    with pytest.raises(np.exceptions.AxisError):
        await ops.sum(ops.asarray(x) * 1.0, axis=2)
    with np.errstate(over="raise"):
        failing = ops.sum(ops.asarray(x) * 1.0, axis=1)
    with pytest.raises(FloatingPointError):
        await failing


@pytest.mark.parametrize("place", [5, 70, 999])
async def test_which_nan_a_reduction_gives_is_numpys_choice(place: int) -> None:
    x = numbers()
    x[[10, place]] = [np.nan, -np.nan]
    x[400] = np.inf
    for name in REDUCTIONS:
        assert (await getattr(ops, name)(ops.asarray(x) - 1)).tobytes() == getattr(np, name)(x - 1).tobytes()


# Warnings and errors


def said_by(call: Callable[[], Any]) -> tuple[list[str], str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        error = _failure(call)
    return sorted(str(each.message) for each in caught), error


def _failure(call: Callable[[], Any]) -> str:
    try:
        call()
    except Exception as error:  # noqa: BLE001 - compared with what the engine raises
        return repr(error)
    return ""


async def said_by_engine(call: Callable[[], Any]) -> tuple[list[str], str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            await call()
            error = ""
        except Exception as raised:  # noqa: BLE001 - compared with what NumPy raises
            error = repr(raised)
            if raised.__context__ is not None or raised.__cause__ is not None:
                error += " with a trace of how the engine came to it"
    return sorted(str(each.message) for each in caught), error


HUGE, BYTES, LONGS = np.full(N, 3e38, np.float32), np.full(N, 200, np.uint8), np.full(N, 2**62)
WARNING: dict[str, tuple[Array, Callable[[Any, Any], Any]]] = {
    "log of 0": (numbers(), lambda f, x: f.log(x * 0)),
    "several kinds": (numbers(), lambda f, x: f.log(f.sqrt(f.divide(x, x * 0) - f.divide(x, x * 0)) * 0 - 1)),
    "the same kind twice": (numbers(), lambda f, x: f.log(x - 5) + f.sqrt(x - 5)),
    "a cast": (numbers() * np.nan, lambda f, x: (x + 1).astype(np.int64)),
    "a cast of complex numbers": (numbers() + 1j, lambda f, x: (x + 1).astype(np.float64)),
    "an overflowing sum": (HUGE, lambda f, x: f.sum(x * 0.5)),
    "an overflowing mean": (HUGE, lambda f, x: f.mean(x * 0.5)),
    "a sum of integers that wraps": (LONGS, lambda f, x: f.sum(x * 1)),
    "opposite infinities": (numbers(), lambda f, x: f.sum(f.where(x > 2, f.divide(x, x * 0), -f.divide(x, x * 0)))),
    "a Python float that overflows": (HUGE, lambda f, x: (x * 0) + 1e300),
    "a chosen Python float that overflows": (HUGE, lambda f, x: f.where(x > 0, x * 0, 1e300)),
    "a Python int out of bounds": (BYTES, lambda f, x: (x + 1) + 300),
    "a negative power of integers": (LONGS, lambda f, x: (x * 0 + 2) ** -1),
    "an underflow": (HUGE, lambda f, x: x * 1e-40 * 1e-40),
}
STATES: dict[str, dict[str, str]] = {
    "default": {},
    "ignoring": {"all": "ignore"},
    "warning of all": {"all": "warn"},
    "raising": {"divide": "raise", "invalid": "raise", "over": "raise"},
}


@pytest.mark.sweep
@pytest.mark.parametrize("states", STATES.values(), ids=STATES)
@pytest.mark.parametrize(("x", "program"), WARNING.values(), ids=WARNING)
async def test_warnings_and_errors_are_numpys(x: Array, program: Callable[[Any, Any], Any], states: Any) -> None:
    h = ops.asarray(x)
    with np.errstate(**states):
        expected = said_by(lambda: program(np, x))
        assert await said_by_engine(lambda: program(ops, h)) == expected


@pytest.mark.sweep
@pytest.mark.parametrize(("x", "program"), WARNING.values(), ids=WARNING)
async def test_warnings_that_are_errors_are_the_ops_failures(x: Array, program: Callable[[Any, Any], Any]) -> None:
    h = ops.asarray(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        expected = _failure(lambda: program(np, x))
        independent = h + 1
        handle = program(ops, h)
        try:
            await handle
            found = ""
        except Exception as error:  # noqa: BLE001 - compared with what NumPy raises
            found = repr(error)
    assert found == expected
    np.testing.assert_array_equal(await independent, x + 1)


async def test_an_error_poisons_dependents_only_and_is_reported_once() -> None:
    h = ops.asarray(BYTES)
    before = h + 1
    failing = before + 300
    dependent = failing * 2
    after = before * 2
    np.testing.assert_array_equal(await after, (BYTES + 1) * 2)
    with pytest.raises(OverflowError):
        await dependent
    with pytest.raises(OverflowError, match="300") as caught:
        await failing
    assert "add" in caught.value.__notes__[0]
    await engine.synchronize()


# Cancellation, barriers, counts


async def test_what_depends_on_an_abandoned_result_is_cancelled_too() -> None:
    held = Held()
    first = ops.asarray(numbers()) + 1
    middle = held(first)
    last = middle * 2
    aside = first - 1
    await held.running()
    assert middle.cancel() is engine.CancelOutcome.ABANDONED
    held.opened.set()
    for handle in (middle, last):
        with pytest.raises(engine.OpCancelledError):
            await handle
    np.testing.assert_array_equal(await aside, numbers() + 1 - 1)
    np.testing.assert_array_equal(await first, numbers() + 1)


async def test_cancelling_a_run_that_has_to_be_done_again_is_no_different() -> None:
    held, values = Held(), ops.asarray(BYTES)  # which stay: what is written over is not done again
    first = held(values)
    failing = first + 300
    cancelled = first + 1
    last = cancelled + 1
    await held.running()
    assert cancelled.cancel() is engine.CancelOutcome.ABANDONED
    held.opened.set()
    with pytest.raises(OverflowError):
        await failing
    with pytest.raises(engine.OpCancelledError):
        await last
    np.testing.assert_array_equal(await first, BYTES)


async def test_a_run_is_in_flight_until_it_ends_and_a_barrier_waits_for_all_of_it() -> None:
    async with engine.Executor(execution_mode=engine.ASYNC) as executor:
        held = Held()
        handles = [held(ops.asarray(numbers()))]
        for _ in range(4):
            handles.append(handles[-1] + 1)
        await held.running()
        statistics = executor.statistics()
        assert (statistics.pending, statistics.running) == (5, 5)
        assert all("state=running" in repr(handle) for handle in handles)
        barrier = asyncio.ensure_future(engine.synchronize())
        await asyncio.sleep(0)
        assert not barrier.done()
        held.opened.set()
        await barrier
        assert all(handle.is_ready() for handle in handles)
        statistics = executor.statistics()
        assert (statistics.completed, statistics.failed) == (6, 0)


async def test_dropping_all_handles_of_a_run_cancels_nothing() -> None:
    async with engine.Executor(execution_mode=engine.ASYNC) as executor:
        ops.asarray(numbers()) + 1 - 1
        await engine.synchronize()
        assert executor.statistics().completed == 3


async def test_independent_runs_of_one_device_overlap() -> None:
    config = engine.Config(inter_op_parallelism_threads=2)
    async with engine.Executor(config, execution_mode=engine.ASYNC):
        first, second = Held(), Held()
        one, other = first(ops.asarray(numbers())) + 1, second(ops.asarray(numbers()[:100])) + 1
        await first.running()
        await second.running()
        second.opened.set()
        assert (await other).shape == (100,)
        assert not one.is_ready()
        first.opened.set()
        np.testing.assert_array_equal(await one, numbers() + 1)


async def test_runs_of_two_devices_overlap() -> None:
    helds = [Held(), Held()]
    handles = []
    for number, held in enumerate(helds):
        with engine.device(f"CPU:{number}"):
            handles.append(held(ops.asarray(numbers())) + number)
    for held in helds:
        await held.running()
    for held in helds:
        held.opened.set()
    for number, array in enumerate(await engine.gather(*handles)):
        np.testing.assert_array_equal(array, numbers() + number)


# What the engine must survive


def defective(*_: Any) -> Any:
    raise ZeroDivisionError("a defect")


async def test_a_defect_of_the_execution_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    h = ops.asarray(numbers())
    with monkeypatch.context() as broken:
        broken.setattr(worker, "execute_group", defective)
        np.testing.assert_array_equal(await ((h + 1) * 2), (numbers() + 1) * 2)


async def test_a_defect_of_the_planning_is_an_error_and_never_a_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    h = ops.asarray(numbers())
    await h.wait_ready()
    with monkeypatch.context() as broken:
        broken.setattr(worker, "collect", defective)
        handle = h + 1
        dependent = handle * 2
        with pytest.raises(ZeroDivisionError):
            await handle
        with pytest.raises(ZeroDivisionError):
            await dependent
    np.testing.assert_array_equal(await (h + 1), numbers() + 1)
    await engine.synchronize()


async def test_a_defect_of_what_is_planned_last_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    h = ops.asarray(numbers())
    for name in ("mark_kept", "give_up_operands"):
        with monkeypatch.context() as broken:
            broken.setattr(worker, name, defective)
            np.testing.assert_array_equal(await ((h + 1) * 2), (numbers() + 1) * 2)


class Unhashable:
    __hash__ = None  # type: ignore[assignment]

    def __call__(self, x: Array) -> Array:
        return x + 1


async def test_kernels_of_any_kind_stay_what_they_are(watched: Watched) -> None:
    h = ops.asarray(numbers())
    doubled = np.frompyfunc(lambda x: 2 * x, 1, 1)
    np.testing.assert_array_equal(await engine.op(Unhashable(), name="unhashable")(h), numbers() + 1)
    with pytest.raises(TypeError):
        await doubled(h)  # arrays of Python objects
    assert not watched.runs


async def test_parameters_of_numpys_functions_count() -> None:
    x = numbers()
    h: Any = ops.asarray(x)
    mask = x > 1
    assert await np.sum(h + 1, initial=5.0) == np.sum(x + 1, initial=5.0)
    assert await np.sum(h + 1, where=mask) == np.sum(x + 1, where=mask)
    assert await np.max(h + 1, where=mask, initial=0) == np.max(x + 1, where=mask, initial=0)
    np.testing.assert_array_equal(await np.add(h + 1, 1, dtype=np.float32), np.add(x + 1, 1, dtype=np.float32))
    expected = np.add(x + 1, 1, where=mask, out=np.zeros(N))
    zeros: Any = ops.zeros(N)
    np.testing.assert_array_equal(await np.add(h + 1, 1, where=mask, out=zeros), expected)


@pytest.mark.parametrize("dtype", ["U3", "S2", "M8[s]"])
async def test_dtypes_that_are_no_numbers_are_compared_as_in_numpy(dtype: str) -> None:
    x = np.arange(N).astype("M8[s]" if dtype == "M8[s]" else "U3").astype(dtype)
    h = ops.asarray(x)
    np.testing.assert_array_equal(await ops.logical_not(h == x), np.logical_not(x == x))
    np.testing.assert_array_equal(await ops.where(h == x, h, h), x)
