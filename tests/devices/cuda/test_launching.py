"""What is launched when, what is kept alive until which event, and what errors mean: on GPUs made of threads."""

import asyncio
import gc
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest

import engine
from engine import ops
from engine.devices.cuda.errors import LOST, fate_of
from engine.devices.cuda.flights import RECORDS, Flight, Flights
from engine.devices.cuda.runtime import Fate
from engine.devices.cuda.unit import GLANCES, Unit, last_reads
from engine.queues.waiting import block_until
from engine.threads.pool import workers
from handles import Handle
from tests.devices.cuda.host_runtime import GpuError, HostRuntime, HostStream

ROOT = Path(__file__).resolve().parents[3]
Serve = Callable[[HostRuntime], HostRuntime]
BOTH = pytest.mark.parametrize("mode", [engine.SYNC, engine.ASYNC], ids=lambda mode: mode.name)


def executor(mode: engine.ExecutionMode = engine.ASYNC, **options: Any) -> engine.Executor:
    return engine.Executor(engine.Config(device_count={"GPU": 2}, **options), execution_mode=mode)


def here(value: Any, device: str = "GPU:0") -> Handle:
    return ops.asarray(np.asarray(value, dtype=np.float64), device=device)


def compute_of(runtime: HostRuntime) -> HostStream:
    """The stream that GPU:0 computes on: it is the first one that is opened there."""
    return runtime.gpus[0].streams[0]


async def turn_until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until something holds; a test that waits in vain ends by its time limit."""
    while not condition():  # noqa: ASYNC110 - threads bring it about, and tell no loop
        await asyncio.sleep(0)


# ---------------------------------------------------------------------------------------------------------------------
# Launched until the event has passed


async def test_a_value_is_ready_when_its_event_has_passed_and_not_before(serve: Serve) -> None:
    runtime = serve(HostRuntime(opened=False))
    async with executor():
        x = here([1.0]) + 1
        await turn_until(lambda: bool(runtime.streams()) and any(stream._tasks for stream in runtime.streams()))
        assert not x.is_ready()
        runtime.gate.open()
        assert await x == [2.0]


async def test_the_loop_turns_while_the_gpu_works_and_while_it_is_read(serve: Serve) -> None:
    runtime = serve(HostRuntime())
    async with executor():
        x = here([1.0])
        await x.wait_ready()
        reading = asyncio.ensure_future(_read(x))
        assert await reading == [1.0]  # the line to the host has its stream now
        y = x + 1
        await y.wait_ready()
        down = runtime.streams()[-1]
        runtime.gate.close(down)
        reading = asyncio.ensure_future(_read(y))
        await turn_until(lambda: bool(down._tasks))
        assert not reading.done()
        assert await (y + 1).wait_ready() is not None  # computing goes on beside the copy
        runtime.gate.open()
        assert await reading == [2.0]


async def _read(handle: Handle) -> Any:
    return await handle


async def test_results_of_a_long_batch_come_before_its_end(serve: Serve) -> None:
    runtime = serve(HostRuntime())
    async with executor():
        x = here([0.0])
        await x.wait_ready()
        compute = compute_of(runtime)
        chain = [x]
        with engine.testing.hold("GPU:0"):
            for _ in range(3 * RECORDS):
                chain.append(chain[-1] + 1)
        await chain[-1].wait_ready()
        events = compute.done
        assert await chain[-1] == [3.0 * RECORDS]
        assert events >= 3


@BOTH
def test_programs_over_two_gpus_and_the_host_are_numpys(gpus: HostRuntime, mode: engine.ExecutionMode) -> None:
    rng = np.random.default_rng(1)
    start = rng.standard_normal((5, 6))
    with executor(mode):
        values = [(here(start), start), (here(start + 1, "GPU:1"), start + 1), (ops.asarray(start * 2), start * 2)]
        for step in range(60):
            (a, x), (b, y) = values[rng.integers(len(values))], values[rng.integers(len(values))]
            with engine.device(["GPU:0", "GPU:1", "CPU:0"][step % 3]):
                values.append((a + b, x + y) if step % 2 else (ops.maximum(a, b) * 0.5, np.maximum(x, y) * 0.5))
        for handle, expected in values:
            assert handle.result().tobytes() == expected.tobytes()


def test_results_nothing_reads_any_more_are_known_before() -> None:
    class Fake:
        def __init__(self, *operands: Any) -> None:
            self.operands = operands

    a: Any = Fake(1.0, np.ones(2))
    b: Any = Fake(a, a)
    c: Any = Fake(a, b)
    d: Any = Fake(b)
    records = [a, b, c, d]
    assert last_reads(records) == [[], [], [a], [b]]


# ---------------------------------------------------------------------------------------------------------------------
# Kept alive


async def test_what_another_stream_allocated_lives_until_its_readers_have_run(serve: Serve) -> None:
    runtime = serve(HostRuntime())
    async with executor():
        await (here([0.0]) + 1)
        compute = compute_of(runtime)
        runtime.gate.close(compute)
        handles = []
        for number in range(5):  # each is uploaded, and its handle is let go of while its reader waits
            with engine.device("GPU:0"):
                handles.append(ops.add(np.full(1000, float(number)), 1))
        await turn_until(lambda: len(compute._tasks) >= 5)
        gc.collect()
        runtime.gate.open()
        for number, handle in enumerate(handles):
            assert (await handle).tolist() == [number + 1.0] * 1000


async def test_a_view_of_what_another_stream_allocated_keeps_it_alive(serve: Serve) -> None:
    """The view is read in a later flight than the array that it is a view of."""
    runtime = serve(HostRuntime())
    async with executor():
        await (here([0.0]) + 1)
        compute = compute_of(runtime)
        with engine.testing.hold("GPU:0"):
            x = here(np.full((4, 500), 3.0))
            view = ops.reshape(x, (2000,))
            total = here(np.zeros(2000))
            for _ in range(2 * RECORDS):
                total = total + 1
            total = total + view
            del x, view
        await turn_until(lambda: bool(compute._tasks) or total.is_ready())
        gc.collect()
        for number in range(20):  # memory of that size is asked for again
            here(np.full((4, 500), float(number)))
        assert (await total).tolist() == [2.0 * RECORDS + 3.0] * 2000


class Loose:
    """A record that keeps nothing alive."""

    name, kernel, outputs, kept, abandoned = "add", np.add, 1, True, False

    @property
    def params(self) -> dict[str, Any]:
        return {}

    def __init__(self, *operands: Any) -> None:
        self.operands = list(operands)
        self.ended: SimpleQueue[Any] = SimpleQueue()

    def complete(self, value: Any) -> None:
        self.ended.put(value)

    def fail(self, error: BaseException) -> None:
        self.ended.put(error)


def test_operands_are_kept_alive_also_where_their_record_keeps_none(gpus: HostRuntime) -> None:
    unit = Unit(engine.Device("GPU:0"), gpus, lambda reason: None)
    value = unit.from_host(np.full(1000, 4.0))
    first: Any = Loose(value, 1.0)
    unit.submit([first])
    assert unit.to_host(first.ended.get(timeout=30))[0] == 5.0
    compute = gpus.gpus[0].streams[1]  # the first one brought the value there
    gpus.gate.close(compute)
    record: Any = Loose(value, 2.0)
    unit.submit([record])
    record.operands.clear()
    first.operands.clear()
    del value
    gc.collect()
    unit.from_host(np.zeros(1000))
    gpus.gate.open()
    assert unit.to_host(record.ended.get(timeout=30)).tolist() == [6.0] * 1000


async def test_intermediate_results_of_a_batch_are_let_go_of_at_once(serve: Serve) -> None:
    size = 100_000
    runtime = serve(HostRuntime(opened=False, limit=8 * size * 8))
    async with executor():
        with engine.testing.hold("GPU:0"):
            x = here(np.zeros(size))
            for _ in range(4 * RECORDS):  # all at once they would need sixteen times the memory
                x = x + 1
        runtime.gate.open()
        assert (await x)[0] == 4.0 * RECORDS


def test_values_die_with_their_handles(gpus: HostRuntime) -> None:
    with executor():
        x = here(np.ones(100))
        for _ in range(50):
            x = x + 1
        x.result()
        y = x.to_device("GPU:1")
        y.result()
        del x, y
        engine.wait()
    gc.collect()
    for gpu in gpus.gpus:
        assert gpu.used == 0


# ---------------------------------------------------------------------------------------------------------------------
# Errors


@pytest.mark.parametrize("status", sorted(LOST))
def test_statuses_after_which_all_fails_lose_the_device(status: int) -> None:
    assert fate_of(status) is Fate.LOST


@pytest.mark.parametrize(("status", "memory"), [(1, False), (None, False), (98, False), (900, False)])
def test_other_statuses_are_the_ops(status: int | None, memory: bool) -> None:
    assert fate_of(status, is_memory=memory) is Fate.OP


def test_memory_that_is_short_is_told_by_the_class_or_the_status() -> None:
    assert fate_of(None, is_memory=True) is fate_of(2) is Fate.MEMORY


@BOTH
def test_an_error_of_a_launch_is_the_ops(gpus: HostRuntime, mode: engine.ExecutionMode) -> None:
    with executor(mode):
        x = here([1.0])
        x.result()
        gpus.failures.append(GpuError(98))
        with pytest.raises(GpuError, match="status 98") as caught:
            (x + 1).result()
        assert any("op 'add' on GPU:0" in note for note in caught.value.__notes__)
        assert caught.value.__cause__ is None
        assert (x + 2).result() == [3.0]


@BOTH
def test_too_little_memory_is_the_ops_error(serve: Serve, mode: engine.ExecutionMode) -> None:
    serve(HostRuntime(limit=10_000))
    with executor(mode):
        x = here(np.ones(100))
        with pytest.raises(MemoryError, match=r"GPU:0 has not enough memory for 'add'") as caught:
            (ops.broadcast_to(x, (100, 100)) + 1).result()
        assert "to_device('CPU:0')" in str(caught.value)
        assert (x + 1).result()[0] == 2.0
        with pytest.raises(MemoryError, match="memory for 'asarray'"):
            here(np.ones(10_000)).result()


async def test_what_is_on_its_way_is_waited_for_before_memory_counts_as_short(serve: Serve) -> None:
    size = 1000
    runtime = serve(HostRuntime(limit=5 * 8 * size))
    async with executor():
        await (here([0.0]) + 1)
        compute = compute_of(runtime)
        runtime.gate.close(compute)
        sums = []
        for number in range(3):  # uploads that are held for readers which have not run: most of the memory
            with engine.device("GPU:0"):
                sums.append(ops.sum(np.full(size, float(number))))
        await turn_until(lambda: len(compute._tasks) >= 3)
        with engine.device("GPU:0"):
            large = ops.zeros(4 * size)
        threading.Timer(0.05, runtime.gate.open).start()
        assert (await large).sum() == 0
        assert [float(await each) for each in sums] == [0.0, size, 2.0 * size]


@BOTH
def test_a_lost_context_is_a_lost_device(gpus: HostRuntime, mode: engine.ExecutionMode) -> None:
    with executor(mode):
        kept, unread, other = here([1.0]), here([2.0]), here([3.0], "GPU:1")
        assert kept.result() == [1.0]
        block_until(unread._cell, None)
        gpus.gpus[0].error = GpuError(700)
        with pytest.raises(engine.DeviceLostError, match="device GPU:0 was lost: GpuError: status 700"):
            (kept + 1).result()
        with pytest.raises(engine.DeviceLostError, match="GPU:0"):
            unread.result()
        for value in (unread, 5.0):
            with pytest.raises(engine.DeviceLostError, match="GPU:0"):
                (value + here([1.0])).result()
        assert kept.result() == [1.0]  # it had been read
        assert (other + 1).result() == [4.0]
        assert (ops.ones(1) + 1).result() == [2.0]
        engine.clear_errors()


async def test_what_is_on_its_way_is_lost_with_the_device(serve: Serve) -> None:
    runtime = serve(HostRuntime())
    async with executor():
        x = here([1.0])
        await x
        compute = compute_of(runtime)
        runtime.gate.close(compute)
        launched = [x + number for number in range(3)]
        await turn_until(lambda: bool(compute._tasks))
        runtime.gpus[0].error = GpuError(719)
        runtime.gate.open()
        for handle in launched:
            with pytest.raises(engine.DeviceLostError, match="status 719"):
                await handle
        engine.clear_errors()


@BOTH
def test_an_error_in_a_batch_is_that_of_all_that_read_it(gpus: HostRuntime, mode: engine.ExecutionMode) -> None:
    with executor():
        with engine.testing.hold("GPU:0"):
            bad = here([1.0, 2.0]) + here([1.0, 2.0, 3.0])
            after = bad * 2
            beside = here([5.0]) + 1
        for handle in (bad, after):
            with pytest.raises(ValueError, match="broadcast"):
                handle.result()
        assert beside.result() == [6.0]


@pytest.mark.parametrize(
    "array",
    [
        np.array(["a"]),
        np.array(["2020"], "M8[D]"),
        np.ones(2, np.longdouble),
        np.ones(2, np.clongdouble),
        np.ones(2, ">f8"),
        np.ones(2, [("x", "i4")]),
    ],
    ids=lambda array: str(array.dtype),
)
@BOTH
def test_dtypes_that_a_gpu_has_not_are_refused(gpus: HostRuntime, mode: engine.ExecutionMode, array: Any) -> None:
    with executor(mode):
        with pytest.raises(TypeError, match="to_device\\('CPU:0'\\)"):
            ops.asarray(array, device="GPU:0").result()
        with pytest.raises(TypeError, match="CPU:0"):
            ops.asarray(array).to_device("GPU:0").result()
        engine.clear_errors()


async def test_what_was_launched_can_be_abandoned(serve: Serve) -> None:
    runtime = serve(HostRuntime())
    async with executor():
        x = here([1.0])
        await x
        compute = compute_of(runtime)
        runtime.gate.close(compute)
        y = x + 1
        z = y * 2
        await turn_until(lambda: bool(compute._tasks))
        y.cancel()
        with pytest.raises(engine.OpCancelledError):
            await y
        runtime.gate.open()
        with pytest.raises(engine.OpCancelledError):
            await z  # it was launched with what it reads, and ends when that does
        assert await (x + 3) == [4.0]


class Asked:
    """An event that has passed once it was waited for, and counts the looks."""

    def __init__(self) -> None:
        self.looks = 0
        self.waits = 0

    def passed(self) -> bool:
        self.looks += 1
        return bool(self.waits)

    def wait(self) -> None:
        self.waits += 1


def test_no_look_is_taken_at_an_event_while_a_batch_is_launched(gpus: HostRuntime) -> None:
    """A look holds the interpreter lock, and may wait for a launch that waits for the GPU."""
    unit = Unit(engine.Device("GPU:0"), gpus, lambda reason: None)
    launching, idle = Asked(), Asked()
    unit._launches = True
    unit._await(launching)
    unit._launches = False
    unit._await(idle)
    assert (launching.looks, launching.waits) == (0, 1)
    assert (idle.looks, idle.waits) == (GLANCES, 1)


def test_a_flight_whose_event_was_waited_for_lands_without_another_look() -> None:
    flights, landed = Flights(), []
    for number in range(2):
        flight = Flight()
        flight.event = Asked()
        flight.landings.append((Ended(lambda value: landed.append(value)), number))  # type: ignore[arg-type]
        flights.depart(flight)
    first: Any = flights.next()
    flights.land_at(Asked())  # it is none of theirs
    assert landed == []
    flights.land_at(first)
    assert (landed, len(flights), first.looks) == ([0], 1, 0)


def test_an_event_that_failed_fails_its_own_flight_only() -> None:
    """Another thread, which waited for memory, may have landed it meanwhile."""
    flights = Flights()
    first, second = Flight(), Flight()
    for flight in (first, second):
        flight.event = Asked()
        flights.depart(flight)
    event: Any = flights.next()
    flights.land_at(event)
    flights.crash_at(event, GpuError(1))
    assert flights.next() is second.event


def test_a_record_that_cannot_be_completed_keeps_no_other_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(value: Any) -> None:
        raise RuntimeError("a defect")

    shown: list[Any] = []
    landed: list[int] = []
    monkeypatch.setattr(sys, "excepthook", lambda *about: shown.append(about[0]))
    flight = Flight()
    flight.landings += [(Ended(broken), 0), (Ended(landed.append), 1)]  # type: ignore[list-item]
    flight.land()
    assert (shown, landed) == ([RuntimeError], [1])


def test_where_no_watcher_can_be_started_the_op_says_so_and_the_next_one_starts_it(
    gpus: HostRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit = Unit(engine.Device("GPU:0"), gpus, lambda reason: None)
    records: list[Any] = [Loose(1.0, 2.0), Loose(3.0, 4.0)]
    with monkeypatch.context() as changed:

        def refuse(job: Any) -> None:
            raise RuntimeError("can't start new thread")

        changed.setattr(workers, "submit", refuse)
        unit.submit(records[:1])
    assert "new thread" in str(records[0].ended.get(timeout=30))
    unit.submit(records[1:])
    assert unit.to_host(records[1].ended.get(timeout=30)) == 7.0


def test_what_was_launched_before_an_interrupt_is_completed(gpus: HostRuntime) -> None:
    class Interrupting(Loose):
        @property
        def params(self) -> dict[str, Any]:
            raise KeyboardInterrupt

    unit = Unit(engine.Device("GPU:0"), gpus, lambda reason: None)
    first: Any = Loose(3.0, 4.0)
    second: Any = Interrupting(1.0, 2.0)
    with pytest.raises(KeyboardInterrupt):
        unit.submit([first, second])
    assert unit.to_host(first.ended.get(timeout=30)) == 7.0


def test_closing_in_a_forked_child_waits_for_no_thread_that_stayed_behind(gpus: HostRuntime) -> None:
    unit = Unit(engine.Device("GPU:0"), gpus, lambda reason: None)
    closed = threading.Event()

    def close() -> None:
        unit.close()
        closed.set()

    with unit._launching:
        unit.health._process = -1  # as a child finds it
        threading.Thread(target=close, daemon=True).start()
        assert closed.wait(30)


class Ended:
    """A record that hands its value on."""

    def __init__(self, complete: Callable[[Any], None]) -> None:
        self.complete = complete


def test_what_was_cancelled_before_it_was_launched_is_not(gpus: HostRuntime) -> None:
    class Cancelled(Loose):
        abandoned = True

    unit = Unit(engine.Device("GPU:0"), gpus, lambda reason: None)
    first: Any = Cancelled(1.0, 2.0)
    second: Any = Loose(3.0, 4.0)
    unit.submit([first, second])
    assert isinstance(first.ended.get(timeout=30), RuntimeError)
    assert unit.to_host(second.ended.get(timeout=30)) == 7.0


FORKS = """
import os, sys, traceback, warnings
import numpy as np
import engine
from engine import ops
from engine.devices import lost, register_backend
from engine.devices.cuda.backend import CudaBackend
from tests.devices.cuda.host_runtime import HostRuntime

warnings.simplefilter("ignore")
runtime = HostRuntime()
register_backend("GPU", lambda: CudaBackend(lost, lambda: runtime))
with engine.Executor(engine.Config(device_count={"GPU": 1}), execution_mode=engine.ASYNC):
    h = ops.asarray(np.ones(3), device="GPU:0")
    assert h.tolist() == [1.0] * 3
    child = os.fork()
    if child == 0:
        try:
            try:
                (h + 1).result(timeout=20)
            except engine.DeviceLostError as error:
                assert "spawn" in str(error), error
            else:
                raise AssertionError("CUDA does not survive a fork")
            assert (ops.ones(3) + 1).tolist() == [2.0] * 3
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert (h + 1).tolist() == [2.0] * 3
    sys.exit(status)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_is_told_that_it_has_no_gpu() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORKS], capture_output=True, text=True, timeout=60, check=False, cwd=ROOT
    )
    assert (done.returncode, done.stderr) == (0, "")
