"""Where the system has no more threads: ops wait for those that there are, and fail where there are none."""

import threading
from functools import partial
from typing import Any

import numpy as np
import pytest

import engine
from engine import ops
from engine.devices import SteppedBackend, register_backend
from engine.threads.offload import Offload
from engine.threads.pool import Workers

LARGE = np.random.default_rng(0).random(300_000)
LARGE.flags.writeable = False
SORTED = np.sort(LARGE)


class Limit:
    """How many more threads of the engine the system starts."""

    def __init__(self) -> None:
        self.left = 0


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> Limit:
    engine.testing.reset()  # workers of others would be there
    limit, start = Limit(), threading.Thread.start

    def limited(thread: threading.Thread) -> None:
        if thread.name.startswith("eagerloop-"):
            if limit.left == 0:
                raise RuntimeError("can't start new thread")
            limit.left -= 1
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
    return limit


async def test_on_a_loop_an_op_that_needs_one_fails_and_the_next_ones_go_on(limit: Limit) -> None:
    async with engine.Executor(execution_mode=engine.ASYNC) as executor:
        with pytest.raises(RuntimeError, match="can't start new thread") as caught:
            await ops.sort(LARGE)
        assert "op 'sort' on CPU:0, dispatched at" in caught.value.__notes__[0]
        assert (await ops.add([1.0, 2.0], 1)).tolist() == [2, 3]  # needs none
        limit.left = 2
        np.testing.assert_array_equal(await ops.sort(LARGE), SORTED)
        await engine.synchronize()
        assert executor.statistics().pending == 0


def test_without_a_loop_dispatch_goes_on_and_the_op_fails_where_it_is_read(limit: Limit) -> None:
    engine.enable_eager_execution(execution_mode=engine.ASYNC)
    handle = ops.sort(LARGE)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        handle.result()
    small = ops.add([1.0, 2.0], 1)
    assert small.result().tolist() == [2, 3]
    limit.left = 2
    np.testing.assert_array_equal(ops.sort(LARGE).result(), SORTED)
    engine.wait()


@pytest.mark.parametrize("workers", [1, 2])
async def test_ops_wait_for_the_workers_that_there_are(limit: Limit, workers: int) -> None:
    config = engine.Config(device_count={"CPU": 3}, inter_op_parallelism_threads=3)
    async with engine.Executor(config=config, execution_mode=engine.ASYNC) as executor:
        limit.left = workers
        handles = []
        for number in range(12):
            with engine.device(f"CPU:{number % 3}"):
                handles.append(ops.sort(LARGE) + number)
        for number, handle in enumerate(handles):
            np.testing.assert_array_equal(await handle, SORTED + number)
        await engine.synchronize()
        assert executor.statistics().pending == 0
    assert limit.left == 0


def test_a_job_that_waits_is_taken_by_the_first_worker_that_is_free(limit: Limit) -> None:
    pool, goes_on, begun, order = Workers(), threading.Event(), threading.Event(), []
    pool.retain()
    limit.left = 1

    def first() -> None:
        begun.set()
        goes_on.wait()

    pool.submit(first)
    begun.wait()
    done = [threading.Event() for _ in range(3)]

    def job(number: int) -> None:
        order.append(number)
        done[number].set()

    for number in range(3):
        pool.submit(partial(job, number))
        with pytest.raises(RuntimeError, match="new thread"):
            pool.start(partial(job, number))
    goes_on.set()
    for event in done:
        event.wait()
    assert order == [0, 1, 2]
    pool.release(wait=True)
    assert not pool._all


def test_for_a_worker_that_was_abandoned_no_job_waits(limit: Limit) -> None:
    pool, goes_on = Workers(), threading.Event()
    pool.retain()
    pool.retain()
    limit.left = 1

    def waits() -> None:
        goes_on.wait()

    pool.submit(waits)
    pool.release(wait=False)
    with pytest.raises(RuntimeError, match="new thread"):
        pool.submit(goes_on.set)
    goes_on.set()
    pool.release(wait=True)


def test_blocking_jobs_are_done_again_when_there_are_threads(limit: Limit) -> None:
    offload, done = Offload(), threading.Event()
    with pytest.raises(RuntimeError, match="new thread"):
        offload.submit(done.set)
    assert not done.is_set()
    limit.left = 1
    engine.enable_eager_execution()
    offload.submit(done.set)
    assert done.wait(60)


async def test_ops_for_another_device_fail_and_the_next_ones_go_on(limit: Limit) -> None:
    register_backend("STEPPED", lambda: SteppedBackend(automatic=True))
    config = engine.Config(device_count={"CPU": 1, "STEPPED": 1})
    async with engine.Executor(config=config, execution_mode=engine.ASYNC):
        with engine.device("STEPPED:0"):
            with pytest.raises(RuntimeError, match="can't start new thread"):
                await ops.add(np.ones(3), 1)
            limit.left = 8
            values: Any = await ops.add(np.ones(3), 1)
    assert values.tolist() == [2, 2, 2]


async def test_an_executor_ends_and_closes_its_backends(limit: Limit) -> None:
    backend = SteppedBackend()
    register_backend("STEPPED", lambda: backend)
    async with engine.Executor(config=engine.Config(device_count={"CPU": 1, "STEPPED": 1})):
        pass
    assert backend.closed
