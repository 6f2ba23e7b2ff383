"""What the engine asks of the system: a core for each thread of a run, and memory that is faulted in once."""

import os
import platform
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import engine
import engine.testing
from engine import ops
from engine.threads.cores import apart
from engine.threads.pool import together, workers
from engine.threads.slots import core_slots
from handles.cell import add_waiter

CAN_CHOOSE = hasattr(os, "sched_getaffinity")
pytestmark = pytest.mark.skipif(not CAN_CHOOSE, reason="the system does not let threads choose their cores")


@pytest.fixture(autouse=True)
def used_workers() -> Iterator[None]:
    workers.retain()
    yield
    workers.release(wait=True)


def cores_of(threads: int) -> list[set[int]]:
    """The cores that each of so many threads may run on while they work together."""
    found: list[set[int]] = []
    all_here = threading.Barrier(threads)

    def work() -> None:
        all_here.wait()  # so that no thread takes two turns
        found.append(os.sched_getaffinity(0))

    together(work, threads)
    return found


def submitted(threads: int, work: Callable[[], None]) -> None:
    """Do this on so many workers at once."""
    all_here, done = threading.Barrier(threads), threading.Semaphore(0)

    def job() -> None:
        all_here.wait()
        work()
        done.release()

    for _ in range(threads):
        workers.submit(job)
    for _ in range(threads):
        done.acquire()


def test_as_many_threads_as_cores_have_one_each_while_they_work() -> None:
    allowed = os.sched_getaffinity(0)
    assert sorted(map(sorted, cores_of(len(allowed)))) == [[core] for core in sorted(allowed)]
    assert os.sched_getaffinity(0) == allowed


def test_workers_may_use_all_cores_afterwards() -> None:
    allowed = os.sched_getaffinity(0)
    cores_of(len(allowed))
    after: list[set[int]] = []
    submitted(len(allowed), lambda: after.append(os.sched_getaffinity(0)))
    assert after == [allowed] * len(allowed)


def test_the_system_chooses_for_another_number_of_threads() -> None:
    allowed = os.sched_getaffinity(0)
    assert cores_of(len(allowed) + 1) == [allowed] * (len(allowed) + 1)


def test_a_thread_that_may_not_use_all_cores_leaves_the_others_free() -> None:
    allowed = os.sched_getaffinity(0)
    some = {min(allowed)}
    found: list[set[int]] = []

    def work() -> None:
        found.append(os.sched_getaffinity(0))

    with ThreadPoolExecutor(1) as pool:
        pool.submit(os.sched_setaffinity, 0, some).result()
        pool.submit(apart, work, 0, len(allowed), allowed).result()
        pool.submit(work).result()
    assert found == [some, some]


def test_threads_work_where_they_may_not_choose(monkeypatch: pytest.MonkeyPatch) -> None:
    allowed = os.sched_getaffinity(0)

    def refuse(*_: object) -> None:
        raise PermissionError("sandboxed")

    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    assert cores_of(len(allowed)) == [allowed] * len(allowed)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="about one allocator")
def test_scratch_memory_of_transforms_is_faulted_in_once() -> None:
    program = """
        import asyncio, resource
        import numpy as np
        import engine
        from engine import ops

        async def transforms(x):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            await engine.gather(*[ops.fft.fft(x) for _ in range(8)])
            return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * resource.getpagesize()

        async def main():
            x = ops.asarray(np.random.default_rng(0).random(1_000_000))
            await transforms(x)
            print(await transforms(x))

        # One after the other: those that run at once need memory of their own each.
        config = engine.Config(inter_op_parallelism_threads=1)
        engine.enable_eager_execution(config, execution_mode=engine.ASYNC)
        asyncio.run(main())
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True, env=environment
    )
    assert int(done.stdout) < 96_000_000  # each of the eight takes 16 million, and two threads compute them


def test_where_the_system_has_no_more_threads_one_does_it_all(monkeypatch: pytest.MonkeyPatch) -> None:
    engine.enable_eager_execution(engine.Config(intra_op_parallelism_threads=3), execution_mode=engine.ASYNC)
    monkeypatch.setattr("engine.threads.slots.core_count", lambda: 1_000)
    start, refused = workers.start, []

    def start_from_outside(job: Callable[[], None]) -> None:
        if threading.current_thread().name.startswith("eagerloop-"):
            refused.append(job)
            raise RuntimeError("can't start new thread")
        start(job)

    monkeypatch.setattr(workers, "start", start_from_outside)
    x = np.ones((2_000, 1_000))
    assert (ops.add(x, 1).result() == 2).all()
    assert (ops.sort(ops.asarray(x), axis=0).result() == 1).all()
    assert len(refused) == 2


@pytest.mark.parametrize(
    "program", [lambda x: x + 1, lambda x: ops.sort(x, axis=0)], ids=["a run", "an op along an axis"]
)
def test_cores_are_idle_again_before_anybody_sees_the_result(program: Callable[[Any], Any]) -> None:
    """Or the op that whoever waited for it dispatches next would run on one core."""
    engine.enable_eager_execution(execution_mode=engine.ASYNC)
    taken: list[int] = []
    with engine.testing.hold():
        handle = program(ops.asarray(np.ones((1_000, 1_000))))
        assert add_waiter(handle._cell, lambda _: taken.append(core_slots.taken))
    handle.result()
    assert taken == [0]
