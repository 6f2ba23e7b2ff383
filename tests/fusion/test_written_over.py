"""Results of runs are written over operands that die with them, and over no others."""

import copy
import multiprocessing
import os
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import engine
from engine import ops
from engine.fusion import fused, program
from engine.runtime.current import current_core
from tests.planning import Held, Watched, enable_runs

Array = np.ndarray[Any, Any]
N = 1_000


@pytest.fixture(params=[1, 4], ids=["one thread", "four threads"], autouse=True)
def watched(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, fresh_engine: None) -> Watched:
    """Every chain a run, in blocks of 64 elements, each result in a leased buffer."""
    return enable_runs(monkeypatch, request.param)


def numbers() -> Array:
    return np.linspace(0.5, 3, N)


async def value(array: Array | None = None) -> Any:
    """A value of the engine's own that no reader has asked for."""
    handle = ops.asarray(numbers() if array is None else array) * 1
    await settled(handle)
    return handle


async def settled(handle: Any) -> None:
    await handle.wait_ready()
    await engine.synchronize()


def address(handle: Any) -> int:
    """Where a value lies; nothing refers to it afterwards."""
    pointer: int = handle._cell.value.__array_interface__["data"][0]
    return pointer


# Where it happens


async def test_the_result_of_a_chain_lies_where_its_operand_lay() -> None:
    x = await value()
    where = address(x)
    for _ in range(3):
        x = ops.sqrt(x * 2 + 1)
        await settled(x)
        assert address(x) == where
    expected = numbers()
    for _ in range(3):
        expected = np.sqrt(expected * 2 + 1)
    np.testing.assert_array_equal(await x, expected)


async def test_a_value_that_was_read_and_let_go_of_is_written_over() -> None:
    x = await value()
    where = address(x)
    assert (await x).sum() == numbers().sum()
    x = x + 1
    await settled(x)
    assert address(x) == where
    np.testing.assert_array_equal(await x, numbers() + 1)


async def test_a_snapshot_is_written_over(watched: Watched) -> None:
    array = numbers()
    np.testing.assert_array_equal(await ops.add(array, 1), numbers() + 1)
    np.testing.assert_array_equal(array, numbers())
    assert watched.overwritten == 1


async def test_two_results_take_the_places_of_two_operands(watched: Watched) -> None:
    x, y = await value(), await value(numbers()[::-1].copy())
    before = watched.overwritten
    total, difference = x + y, x - y
    del x, y
    np.testing.assert_array_equal(await total, numbers() + numbers()[::-1])
    np.testing.assert_array_equal(await difference, numbers() - numbers()[::-1])
    # The sum is there before the difference reads both, so only the difference takes a place.
    assert watched.overwritten == before + 1


async def test_transposed_operands_are_written_over_by_what_is_laid_out_likewise(watched: Watched) -> None:
    array = numbers().reshape(50, 20)
    turned = await value(np.asfortranarray(array))
    before = watched.overwritten
    turned = turned * 2
    np.testing.assert_array_equal(await turned, array * 2)
    assert (await turned).flags.f_contiguous
    assert watched.overwritten == before + 1


async def test_an_operand_of_another_layout_is_not_written_over(watched: Watched) -> None:
    array = numbers().reshape(50, 20)
    turned, straight = await value(np.asfortranarray(array)), await value(array)
    before = watched.overwritten
    total = turned + straight
    del turned
    assert (await total).flags.c_contiguous
    np.testing.assert_array_equal(await total, array + array)
    assert watched.overwritten == before


async def test_an_operand_of_another_shape_is_not_written_over(watched: Watched) -> None:
    one, x = await value(np.ones(1)), await value()
    before = watched.overwritten
    total = one + x
    del one
    np.testing.assert_array_equal(await total, 1 + numbers())
    assert watched.overwritten == before


async def test_a_comparison_in_a_run_takes_no_place(watched: Watched) -> None:
    x = await value()
    before = watched.overwritten
    larger = x > 1
    del x
    np.testing.assert_array_equal(await larger, numbers() > 1)
    assert watched.overwritten == before  # one byte an element, where the operand has eight


# Where it must not


copied, same = engine.op(lambda x: x + 0, name="copied"), engine.op(lambda x: x, name="same")

OTHERS: dict[str, Callable[[Any], Any]] = {
    "the handle": lambda handle: handle,
    "a copy of the handle": copy.copy,
    "a view": lambda handle: handle[...],
    "a reversed view": lambda handle: handle[::-1][::-1],
    "another shape": lambda handle: ops.reshape(handle, (-1, 2)).reshape(-1),
    "the same on another device": lambda handle: handle.to_device("CPU:1"),
    "a pending op": lambda handle: ops.flip(ops.flip(handle)),
    "an op of unknown cost": copied,
    "an op that hands it on": same,
    "a graph's constant": lambda handle: engine.function(lambda: handle * 1)(),
}


@pytest.mark.sweep
@pytest.mark.parametrize("settle_first", [False, True], ids=["pending", "ready"])
@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
async def test_what_something_else_refers_to_stays(other: Callable[[Any], Any], settle_first: bool) -> None:
    x = await value()
    kept = other(x)
    if settle_first:
        await settled(kept)
    x = x * 2 + 1
    np.testing.assert_array_equal(await x, numbers() * 2 + 1)
    np.testing.assert_array_equal(await kept, numbers())


@pytest.mark.parametrize(
    "part",
    [lambda a: a, lambda a: a[3:7], lambda a: a.view(np.int64), memoryview, lambda a: a.base, lambda a: a.base.base],
    ids=["it", "a part", "its bits", "its memory", "what it is a view of", "what owns its memory"],
)
async def test_what_was_handed_out_stays(part: Callable[[Any], Any]) -> None:
    x = await value()
    kept = part(await x)
    before = np.array(kept)
    x = x * 2 + 1
    np.testing.assert_array_equal(await x, numbers() * 2 + 1)
    np.testing.assert_array_equal(np.asarray(kept), before)


def with_another_element(x: Any) -> Any:
    x[0] = 7
    return x


CHANGES: dict[str, Callable[[Any], Any]] = {
    "a new value": lambda x: x * 2,
    "in place": lambda x: x.__iadd__(1),
    "an element": with_another_element,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
async def test_what_a_weak_reference_leads_to_stays(change: Callable[[Any], Any]) -> None:
    kept: list[weakref.ref[Array]] = []

    def made() -> Array:
        array = numbers()
        kept.append(weakref.ref(array))
        return array

    x = engine.op(made)()
    await settled(x)
    x = change(x)
    await settled(x)
    array = kept[0]()
    if array is not None:
        np.testing.assert_array_equal(array, numbers())


async def test_the_copy_on_another_device_that_is_found_again_stays() -> None:
    x = await value()
    there = x.to_device("CPU:1")
    await settled(there)
    changed = there + 1
    del there
    await settled(changed)
    np.testing.assert_array_equal(await x.to_device("CPU:1"), numbers())
    np.testing.assert_array_equal(await changed, numbers() + 1)


@pytest.mark.parametrize("lend", [np.array, lambda array: array], ids=["writable", "its own"])
async def test_the_programs_own_array_stays(lend: Callable[[Array], Array]) -> None:
    array = lend(numbers())
    for no_copy in (None, False):
        np.testing.assert_array_equal(await (ops.asarray(array, copy=no_copy) + 1), numbers() + 1)
        np.testing.assert_array_equal(array, numbers())


async def test_what_cannot_be_written_to_stays() -> None:
    frozen = numbers()
    frozen.setflags(write=False)
    np.testing.assert_array_equal(await ops.add(frozen, 1), numbers() + 1)
    np.testing.assert_array_equal(frozen, numbers())
    packed = numbers().tobytes()
    np.testing.assert_array_equal(await ops.add(np.frombuffer(packed), 1), numbers() + 1)
    assert packed == numbers().tobytes()


async def test_an_operand_that_is_read_after_the_result_stays_as_long(watched: Watched) -> None:
    x = await value()
    before = watched.overwritten
    first = x + 1
    second = first * x
    third = second - x
    del x
    np.testing.assert_array_equal(await first, numbers() + 1)
    np.testing.assert_array_equal(await second, (numbers() + 1) * numbers())
    np.testing.assert_array_equal(await third, (numbers() + 1) * numbers() - numbers())
    assert watched.overwritten == before + 1


async def test_a_choice_is_not_written_over_what_it_chooses_from() -> None:
    x, y = await value(), await value(-numbers())
    x = ops.where(ops.asarray(numbers() > 1), y, x)
    np.testing.assert_array_equal(await x, np.where(numbers() > 1, -numbers(), numbers()))
    y = ops.astype(y + 0, np.int64)
    np.testing.assert_array_equal(await y, (-numbers()).astype(np.int64))


# What goes wrong


async def test_a_sum_that_is_no_number_is_numpys(watched: Watched) -> None:
    array = numbers()
    array[500] = np.nan
    x = await value(array)
    before = watched.overwritten
    x = x + 1
    total = ops.sum(x)
    np.testing.assert_array_equal((await total).tobytes(), np.sum(array + 1).tobytes())
    np.testing.assert_array_equal(await x, array + 1)
    assert watched.overwritten == before


async def test_a_warning_that_is_an_error_fails_its_op_and_what_depends_on_it(watched: Watched) -> None:
    array = numbers()
    array[700] = 0
    x = await value(array)
    before = watched.overwritten
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        larger = x + 1
        inverse = 1 / x
        root = ops.sqrt(inverse)
        smaller = x - 1
        del x
        np.testing.assert_array_equal(await smaller, array - 1)
        np.testing.assert_array_equal(await larger, array + 1)
        for handle in (inverse, root):
            with pytest.raises(RuntimeWarning, match="divide by zero encountered in divide") as raised:
                await handle
            assert any("'divide'" in note for note in raised.value.__notes__)
    assert watched.overwritten == before + 1


async def test_an_operation_that_fails_whatever_elements_are_fails_alone() -> None:
    array = np.arange(N).astype(np.uint8)
    x = await value(array)
    larger = x + 1
    wrong = x + 300
    smaller = x - 1
    del x
    np.testing.assert_array_equal(await larger, array + np.uint8(1))
    np.testing.assert_array_equal(await smaller, array - np.uint8(1))
    with pytest.raises(OverflowError):
        await wrong


async def test_what_depends_on_a_warning_that_is_an_error_does_not_warn() -> None:
    x = await value(np.arange(N) * 1.0)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        warnings.filterwarnings("error", message="divide by zero")
        x = 1 / x
        x = ops.sqrt(x * 0)
        with pytest.raises(RuntimeWarning, match="divide by zero"):
            await x
    assert not warned


async def test_an_operation_that_fails_because_of_an_element_fails_alone() -> None:
    exponents = np.zeros(N, np.int64)
    exponents[900] = -1
    x = await value(exponents)
    larger = x + 1
    power = ops.asarray(exponents + 2) ** x
    del x
    np.testing.assert_array_equal(await larger, exponents + 1)
    with pytest.raises(ValueError, match="negative integer powers"):
        await power


@pytest.mark.parametrize("state", ["ignore", "raise"])
async def test_the_error_state_of_the_dispatch_counts(state: Any) -> None:
    array = numbers()
    array[3] = 0
    x = await value(array)
    with np.errstate(divide=state):
        x = 1 / x
    if state == "raise":
        with pytest.raises(FloatingPointError):
            await x
    else:
        with np.errstate(divide="ignore"):
            np.testing.assert_array_equal(await x, 1 / array)


async def test_running_out_of_memory_half_way_is_the_error_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    work = program.Program.run

    def short_of_memory(
        self: program.Program, execution: fused.Execution, todo: Iterator[int], mark: list[int]
    ) -> None:
        work(self, execution, iter([next(todo)]), mark)
        raise MemoryError

    x = await value()
    one = x + 1
    two = one * 2
    del x
    with monkeypatch.context() as patch:
        patch.setattr(program.Program, "run", short_of_memory)
        for handle in (one, two):
            with pytest.raises(MemoryError):
                await handle
    x = await value()
    np.testing.assert_array_equal(await (x + 1), numbers() + 1)


async def test_an_operand_that_is_being_written_over_is_not_read_again_after_a_cancellation() -> None:
    held = Held(1)
    x = await value()
    larger = x + 1
    waiting = held(larger)
    doubled = larger * 2
    del x
    await held.running()
    assert waiting.cancel() is engine.CancelOutcome.ABANDONED
    held.opened.set()
    np.testing.assert_array_equal(await doubled, (numbers() + 1) * 2)
    np.testing.assert_array_equal(await larger, numbers() + 1)
    with pytest.raises(engine.OpCancelledError):
        await waiting


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_computes_a_group_that_its_parent_was_computing(watched: Watched) -> None:
    held = Held(1)
    array = numbers()
    operand = ops.asarray(array)  # it stays, so that nothing is written over
    first = held(operand)
    second = first + 1
    third = second * 2
    first._cell.home.schedule()
    held.entered.wait()

    def child() -> None:
        held.opened.set()
        for handle, expected in ((third, (array + 2) * 2), (second, array + 2), (first, array + 1)):
            np.testing.assert_array_equal(handle.result(timeout=60), expected)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(60)
    held.opened.set()
    np.testing.assert_array_equal(third.result(), (array + 2) * 2)
    assert process.exitcode == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_does_not_compute_again_from_what_its_parent_has_written_over(watched: Watched) -> None:
    held = Held(1)
    x = ops.asarray(numbers()) * 1
    x.result()
    engine.wait()
    larger = x + 1
    waiting = held(larger)
    after = ops.flip(ops.asarray(numbers()))
    del x
    larger._cell.home.schedule()  # type: ignore[attr-defined]
    held.entered.wait()

    def child() -> None:
        with pytest.raises(engine.OpCancelledError, match="forked"):
            larger.result()
        with pytest.raises(engine.OpCancelledError, match="forked"):
            waiting.result()
        np.testing.assert_array_equal(after.result(), numbers()[::-1])

    process = multiprocessing.get_context("fork").Process(target=child)
    with current_core().flow._bytes_lock, current_core().ledger._lock:  # as another thread may hold them
        process.start()
    process.join(60)
    held.opened.set()
    np.testing.assert_array_equal(waiting.result(), numbers() + 2)
    np.testing.assert_array_equal(larger.result(), numbers() + 1)
    assert process.exitcode == 0
