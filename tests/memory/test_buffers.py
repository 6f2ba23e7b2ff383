"""Large result buffers are used again once nothing refers to them, within bounds, from any thread."""

import gc
import os
import threading
from typing import Any

import numpy as np
import pytest

import engine
from engine import ops
from engine.memory.buffers import LARGE, BufferCache
from tests.planning import force_runs

Array = np.ndarray[Any, Any]
BYTE = np.dtype(np.uint8)


def address(array: Array) -> int:
    pointer: int = array.__array_interface__["data"][0]
    return pointer


def test_a_buffer_is_used_again_once_nothing_refers_to_it() -> None:
    cache = BufferCache(10 * LARGE)
    first = cache.array((LARGE,), BYTE)
    where = address(first)
    del first
    assert address(cache.array((2, LARGE // 2), BYTE)) == where
    assert (cache.statistics().hits, cache.statistics().misses) == (1, 1)


def test_a_view_keeps_the_buffer() -> None:
    cache = BufferCache(10 * LARGE)
    first = cache.array((LARGE,), BYTE)
    first[:] = 7
    view = first[5:6].reshape(1, 1)
    del first
    second = cache.array((LARGE,), BYTE)
    second[:] = 8
    assert view == 7
    assert cache.statistics().hits == 0


def test_buffers_of_another_size_or_small_ones_are_not_taken() -> None:
    cache = BufferCache(10 * LARGE)
    del (first := [cache.array((LARGE,), BYTE)])[0]
    assert not first
    cache.array((LARGE + 1,), BYTE)
    cache.array((LARGE - 1,), BYTE)
    statistics = cache.statistics()
    assert (statistics.hits, statistics.misses) == (0, 2)


@pytest.mark.parametrize("dtype", ["f4", "c16", "?", "M8[s]", ">f8"])
def test_any_dtype_and_order_of_axes(dtype: str) -> None:
    array = BufferCache(0).array((3, LARGE, 2), np.dtype(dtype), (2, 0, 1))
    assert (array.dtype, array.shape) == (np.dtype(dtype), (3, LARGE, 2))
    assert array.transpose(2, 0, 1).flags.c_contiguous
    array[...] = 1
    assert (array == np.array(1).astype(dtype)).all()


def test_the_cache_is_bounded_and_lets_the_oldest_sizes_go() -> None:
    cache = BufferCache(3 * LARGE + 10)
    arrays = [cache.array((LARGE + size,), BYTE) for size in (1, 2, 3, 4)]
    for _ in range(4):
        del arrays[0]
    assert cache.statistics().cached_bytes == 3 * LARGE + 2 + 3 + 4
    cache.array((LARGE + 1,), BYTE)
    assert cache.statistics().hits == 0


def test_what_is_larger_than_the_cache_goes_at_once() -> None:
    cache = BufferCache(LARGE)
    del (arrays := [cache.array((2 * LARGE,), BYTE)])[0]
    assert not arrays
    assert cache.statistics().cached_bytes == 0


def test_clearing_gives_all_memory_back() -> None:
    cache = BufferCache(10 * LARGE)
    kept = cache.array((LARGE,), BYTE)
    kept[:] = 3
    cache.array((LARGE,), BYTE)
    assert cache.statistics().cached_bytes == LARGE
    cache.clear()
    assert cache.statistics().cached_bytes == 0
    assert (kept == 3).all()


def test_a_lease_collected_inside_the_cache_is_taken_in_afterwards() -> None:
    cache = BufferCache(10 * LARGE)
    array: Array | None = cache.array((LARGE,), BYTE)
    with cache._open():
        array = None  # as a garbage collection in there would
        assert cache._cached == 0
    assert array is None
    assert cache._cached == LARGE


def test_a_lease_in_a_cycle_comes_back_with_the_collector() -> None:
    cache = BufferCache(10 * LARGE)
    cycle: list[Any] = [cache.array((LARGE,), BYTE)]
    cycle.append(cycle)
    del cycle
    gc.collect()
    assert cache.statistics().cached_bytes == LARGE


def test_no_two_living_arrays_share_memory_whatever_threads_do() -> None:
    cache = BufferCache(6 * LARGE)
    spoiled: list[int] = []

    def work(number: int) -> None:
        for turn in range(150):
            array = cache.array((LARGE + number % 2,), BYTE)
            array[::4096] = number
            if not turn % 10:
                cache.clear()
            if (array[::4096] != number).any():
                spoiled.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    statistics = cache.statistics()
    assert not spoiled
    assert statistics.cached_bytes <= statistics.limit_bytes
    assert statistics.hits + statistics.misses == 6 * 150


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_child_starts_with_an_empty_cache_and_keeps_its_values() -> None:
    cache = BufferCache(10 * LARGE)
    kept = cache.array((LARGE,), BYTE)
    kept[:] = 5
    cache.array((LARGE,), BYTE)
    with cache._open():
        child = os.fork()
        if child == 0:
            fine = cache.statistics().cached_bytes == 0 and bool((kept == 5).all())
            del kept
            os._exit(0 if fine and cache.statistics().cached_bytes == LARGE else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert cache.statistics().cached_bytes == LARGE


async def test_results_of_runs_are_buffers_that_serve_again(monkeypatch: pytest.MonkeyPatch) -> None:
    force_runs(monkeypatch, 512 << 10)
    engine.enable_eager_execution(execution_mode=engine.ASYNC)
    engine.clear_buffers()
    x = ops.asarray(np.arange(LARGE, dtype=np.float64))
    before = engine.buffer_statistics()
    for turn in range(4):
        total = await ops.sum(await (x + turn))
        assert total == (np.arange(LARGE, dtype=np.float64) + turn).sum()
    after = engine.buffer_statistics()
    assert after.misses - before.misses + after.hits - before.hits == 4
    assert after.hits > before.hits
    assert after.cached_bytes <= after.limit_bytes
