"""`h[k] = v` writes in place where nobody else can see it, and only there."""

import asyncio
import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import engine
from engine import ops
from tests.planning import make_all_large

SIZES = [100, 300_000]
"""Elements of a value that is computed in place, and of one that is a worker's and lies in a reusable buffer."""


@pytest.fixture(params=SIZES, ids=["small", "large"], autouse=True)
def size(request: pytest.FixtureRequest, fresh_engine: None) -> int:
    engine.enable_eager_execution(engine.Config(intra_op_parallelism_threads=1), execution_mode=engine.ASYNC)
    elements: int = request.param
    return elements


def address(handle: Any) -> int:
    """Where the value of a handle lies; nothing refers to it afterwards."""
    pointer: int = handle._cell.value.__array_interface__["data"][0]
    return pointer


async def value_of(size: int) -> Any:
    """A value of the engine's own that no reader has asked for."""
    handle = ops.asarray(np.arange(size, dtype=np.float64)) + 1
    await handle.wait_ready()
    await engine.synchronize()
    return handle


async def test_a_value_that_nobody_else_refers_to_is_written_in_place(size: int) -> None:
    handle = await value_of(size)
    where = address(handle)
    for index in range(3):
        handle[index] = -1.0
    await handle.wait_ready()
    assert address(handle) == where
    expected = np.arange(size) + 1.0
    expected[:3] = -1
    np.testing.assert_array_equal(await handle, expected)


async def test_a_value_that_was_read_and_let_go_of_is_written_in_place(size: int) -> None:
    handle = await value_of(size)
    where = address(handle)
    assert (await handle)[1] == 2
    handle[1] = -1.0
    await handle.wait_ready()
    assert address(handle) == where
    assert (await handle)[1] == -1


async def test_a_value_on_a_worker_is_written_in_place(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    handle = await value_of(size)
    where = address(handle)
    make_all_large(monkeypatch)
    await asyncio.sleep(0)  # without a turn in between something may still refer to the value; it is not known what
    handle[1:] = 0.0
    await handle.wait_ready()
    assert address(handle) == where
    assert (await handle).sum() == 1


async def test_a_value_still_being_computed_is_written_in_place_when_it_is_there(size: int) -> None:
    gate = engine.testing.GateOp()
    start = ops.asarray(np.zeros(size))
    handle = start + gate(ops.asarray(1.0))
    handle[0] = 5.0
    gate.open()
    array = await handle
    assert (array[0], array[1:].min()) == (5, 1)
    np.testing.assert_array_equal(await start, np.zeros(size))


OTHERS: dict[str, Callable[[Any], Any]] = {
    "a copy of the handle": copy.copy,
    "its cell": lambda handle: copy.copy(handle),
    "a view": lambda handle: handle[...],
    "a reversed view": lambda handle: handle[::-1][::-1],
    "another shape": lambda handle: ops.reshape(handle, (-1, 2)).reshape(-1),
    "the same on another device": lambda handle: handle.to_device("CPU:0")[:],
    "a pending op": lambda handle: handle + 0,
    "an op of unknown cost": engine.op(lambda x: x + 0, name="copied"),
    "an op that hands it on": engine.op(lambda x: x, name="same"),
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
async def test_what_was_made_of_the_old_value_keeps_it(size: int, other: Callable[[Any], Any]) -> None:
    handle = await value_of(size)
    kept = other(handle)
    handle[:] = -1.0
    assert ((await handle) == -1).all()
    np.testing.assert_array_equal(await kept, np.arange(size) + 1.0)


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
async def test_what_was_ready_before_keeps_it_too(size: int, other: Callable[[Any], Any]) -> None:
    handle = await value_of(size)
    kept = other(handle)
    await kept.wait_ready()
    await engine.synchronize()
    handle[:] = -1.0
    assert ((await handle) == -1).all()
    np.testing.assert_array_equal(await kept, np.arange(size) + 1.0)


async def test_an_array_that_was_handed_out_never_changes(size: int) -> None:
    handle = await value_of(size)
    array = await handle
    handle[:] = -1.0
    await handle.wait_ready()
    np.testing.assert_array_equal(array, np.arange(size) + 1.0)


async def test_a_part_of_an_array_that_was_handed_out_never_changes(size: int) -> None:
    handle = await value_of(size)
    part = (await handle)[5:10]
    handle[:] = -1.0
    await handle.wait_ready()
    np.testing.assert_array_equal(part, np.arange(6.0, 11.0))


@pytest.mark.parametrize("lend", [np.array, lambda array: array], ids=["writable", "its own"])
async def test_the_program_own_array_never_changes(size: int, lend: Callable[[Any], Any]) -> None:
    array = lend(np.zeros(size))
    for no_copy in (None, False):
        handle = ops.asarray(array, copy=no_copy)
        handle[:] = 1.0
        assert (await handle).all()
        assert not array.any()


async def test_a_value_written_into_itself_is_as_in_numpy(size: int) -> None:
    handle = await value_of(size)
    expected = np.arange(size) + 1.0
    handle[1:] = handle[:-1]
    expected[1:] = expected[:-1].copy()
    np.testing.assert_array_equal(await handle, expected)
    handle[:] = handle[::-1]
    np.testing.assert_array_equal(await handle, expected[::-1])


async def test_a_failed_write_leaves_other_handles_alone(size: int) -> None:
    handle = await value_of(size)
    kept = copy.copy(handle)
    handle[size] = 1.0
    with pytest.raises(IndexError):
        await handle
    np.testing.assert_array_equal(await kept, np.arange(size) + 1.0)
