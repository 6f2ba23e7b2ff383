"""The cache of workers: what is waited for when an executor lets go of it."""

import asyncio
import threading

import numpy as np
import pytest

import engine
from engine.dispatch.executor import Core
from engine.testing import GateOp
from engine.threads import pool as module
from engine.threads.pool import Worker, Workers
from handles import Handle


def busy(pool: Workers, goes_on: threading.Event) -> Worker:
    """The only worker of a pool, which has begun a job that ends with an event."""
    begun = threading.Event()

    def job() -> None:
        begun.set()
        goes_on.wait()

    pool.submit(job)
    begun.wait()
    (worker,) = pool._all
    return worker


def test_a_worker_that_has_taken_up_something_since_is_not_waited_for() -> None:
    pool, goes_on = Workers(), threading.Event()
    pool.retain()
    worker = busy(pool, goes_on)
    pool.release(wait=True, is_busy=lambda: True)
    assert worker.thread.is_alive()
    goes_on.set()
    worker.thread.join()  # it ends with what it does
    assert not pool._all


def test_what_an_executor_begins_after_it_has_let_go_holds_no_other_one_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PATIENCE", 0.0)
    pool, goes_on = Workers(), threading.Event()
    pool.retain()
    pool.retain()
    pool.release(wait=False)
    worker = busy(pool, goes_on)  # of the first one, that had ended another op
    pool.release(wait=True)
    assert worker.thread.is_alive()
    pool.retain()
    pool.release(wait=True)  # nor once more
    goes_on.set()
    worker.thread.join()
    assert not pool._all | pool._abandoned


def test_one_that_is_about_to_end_is_waited_for() -> None:
    pool, goes_on = Workers(), threading.Event()
    pool.retain()
    worker = busy(pool, goes_on)
    looks = 0

    def is_busy() -> bool:
        nonlocal looks
        looks += 1
        goes_on.set()
        return False

    pool.release(wait=True, is_busy=is_busy)
    assert looks
    assert not worker.thread.is_alive()


def test_a_loop_ends_though_a_worker_begins_an_op_just_then(
    fresh_engine: None, gate: GateOp, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.enable_eager_execution(execution_mode=engine.ASYNC)
    running, looks = Core._running, iter([0])

    def counted(core: Core) -> int:
        count = running(core)
        return count if core.loop else next(looks, count)  # the first look at the end comes between two ops of a worker

    monkeypatch.setattr(Core, "_running", counted)
    kept: list[Handle] = []

    async def main() -> None:
        kept.append(gate(np.ones(3)))
        await asyncio.to_thread(gate.wait_entered)

    asyncio.run(main())
    assert next(looks, None) is None
    assert not kept[0].is_ready()
    gate.open()
    assert kept[0].result().tolist() == [1.0, 1.0, 1.0]
