"""The seam for devices of other kinds: what a backend is given and asked, and what comes of what it says."""

import asyncio
import gc
import itertools
import math
import os
import random
import subprocess
import sys
import textwrap
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from typing import Any

import numpy as np
import pytest

import engine
from engine import ops
from engine.base.errors import DeviceLostError
from engine.devices import (
    Array,
    Backend,
    Device,
    Record,
    SteppedBackend,
    SteppedValue,
    lost,
    register_backend,
    registered,
)
from engine.devices.cuda.backend import CudaBackend
from engine.queues.backlog import Backlog
from engine.queues.device_queue import DeviceQueue
from engine.queues.straight import Straight
from handles import CancelOutcome, Handle
from tests.devices.cuda.host_runtime import HostRuntime

STEPPED = engine.Device("STEPPED:0")
CONFIG = engine.Config(device_count={"CPU": 2, "STEPPED": 2})
WITH_GPU = engine.Config(device_count={"CPU": 2, "STEPPED": 2, "GPU": 1})
ASYNC, SYNC = engine.ASYNC, engine.SYNC


@pytest.fixture
def stepped() -> Iterator[SteppedBackend]:
    """A device whose records end when the test says so, or with the test."""
    backend = SteppedBackend()
    register_backend("STEPPED", lambda: backend)
    yield backend
    backend.complete_all()


@pytest.fixture
def batching() -> Iterator[SteppedBackend]:
    """The same, in batches of four."""
    backend = SteppedBackend(lookahead=4)
    register_backend("STEPPED", lambda: backend)
    yield backend
    backend.complete_all()


@pytest.fixture(params=[1, 5], ids=["one by one", "in batches"])
def automatic(request: pytest.FixtureRequest) -> SteppedBackend:
    """A device that ends its records by itself."""
    backend = SteppedBackend(automatic=True, lookahead=request.param)
    register_backend("STEPPED", lambda: backend)
    return backend


def executor(
    mode: engine.ExecutionMode = ASYNC, *, place: engine.Device | None = None, **options: Any
) -> engine.Executor:
    counts = (WITH_GPU if place is not None and place.kind == "GPU" else CONFIG).device_count
    return engine.Executor(engine.Config(device_count=counts, **options), execution_mode=mode)


def on(device: Any, value: Any, dtype: Any = np.float64) -> Handle:
    return ops.asarray(np.asarray(value, dtype=dtype), device=device)


async def pending(backend: SteppedBackend, number: int = 1) -> list[Record]:
    """The records that are pending, once there are so many."""
    return await asyncio.to_thread(backend.wait_pending, number)


def queue_of(handle: Handle) -> DeviceQueue:
    home = handle._cell.home
    assert isinstance(home, DeviceQueue)
    return home


# ---------------------------------------------------------------------------------------------------------------------
# Registering


@pytest.mark.parametrize("kind", ["", "G PU", "GPU:0", "1", "é", "a-b"])
def test_what_is_no_name_of_a_kind_is_refused(kind: str) -> None:
    with pytest.raises(ValueError, match="kind must be letters, digits and _"):
        register_backend(kind, SteppedBackend)


@pytest.mark.parametrize("kind", [None, 1, b"GPU", STEPPED], ids=repr)
def test_what_is_no_name_at_all_is_refused(kind: Any) -> None:
    with pytest.raises(TypeError, match="kind must be a name"):
        register_backend(kind, SteppedBackend)
    with pytest.raises(TypeError, match="kind must be a name"), registered(kind, SteppedBackend):
        pass


def test_what_cannot_be_called_is_no_factory() -> None:
    with pytest.raises(TypeError, match="factory must be a class or a function"):
        register_backend("GPU", None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="pass its class, or a lambda"):
        register_backend("GPU", SteppedBackend())  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["CPU", "cpu"])
def test_the_kinds_of_the_engine_stay_its_own(kind: str) -> None:
    with pytest.raises(ValueError, match="is the engine's own"):
        register_backend(kind, SteppedBackend)


def test_a_kind_is_there_until_reset_or_the_end_of_the_block() -> None:
    config = engine.Config(device_count={"gpu": 1})
    with registered("gpu", SteppedBackend), engine.Executor(config) as inside:
        assert [str(device) for device in inside.devices] == ["CPU:0", "GPU:0"]
    with pytest.raises(engine.UnknownDeviceError, match="register_backend adds one"), engine.Executor(config):
        pass
    register_backend("GPU", SteppedBackend)
    with registered("GPU", lambda: SteppedBackend(count=0)), pytest.raises(engine.UnknownDeviceError, match="has 0"):
        engine.Executor(config).__enter__()
    with engine.Executor(config):
        pass  # what was registered before is put back
    engine.testing.reset()
    with pytest.raises(engine.UnknownDeviceError), engine.Executor(config):
        pass


def test_what_a_factory_makes_has_to_be_a_backend() -> None:
    register_backend("GPU", lambda: object())  # type: ignore[arg-type,return-value]
    with pytest.raises(TypeError, match=r"registered for GPU .* has no count, lookahead"):
        engine.Executor(engine.Config(device_count={"GPU": 1})).__enter__()


def test_a_backend_needs_its_three_methods() -> None:
    class Half(Backend[SteppedValue]):
        pass

    with pytest.raises(TypeError, match="abstract"):
        Half()  # type: ignore[abstract]


@pytest.mark.parametrize("number", [0, -1])
def test_a_lookahead_is_one_or_more(number: int) -> None:
    with pytest.raises(ValueError, match="lookahead must be an integer, 1 or more"):
        SteppedBackend(lookahead=number)


# ---------------------------------------------------------------------------------------------------------------------
# What device tests ask of any device: here of one of the host and of one that is not


THREADS = "GPU:0, which is made of threads"
"""The backend of GPUs, driven by threads of the host in place of CuPy."""


@pytest.fixture(params=["CPU:1", "STEPPED:0", THREADS, "GPU:0"])
def place(request: pytest.FixtureRequest, automatic: SteppedBackend) -> Iterator[engine.Device]:
    if request.param == "GPU:0" and not gpus():
        pytest.skip("there is no GPU, or no CuPy to use it with")
    if request.param == THREADS:
        runtime = HostRuntime(count=1)
        register_backend("GPU", lambda: CudaBackend(lost, lambda: runtime))
    yield engine.Device(request.param.partition(",")[0])
    if request.param == THREADS:
        runtime.gate.end()


@cache
def gpus() -> int:
    """How many GPUs there are that CuPy can use."""
    try:
        return CudaBackend(lost).count()
    except engine.UnknownDeviceError:
        return 0


@pytest.fixture(params=[SYNC, ASYNC], ids=lambda mode: mode.name)
def enabled(request: pytest.FixtureRequest, automatic: SteppedBackend) -> engine.ExecutionMode:
    mode: engine.ExecutionMode = request.param
    on_gpu = "place" in request.fixturenames and request.getfixturevalue("place").kind == "GPU"
    engine.enable_eager_execution(WITH_GPU if on_gpu else CONFIG, execution_mode=mode)
    return mode


def same(mine: Any, theirs: Any, place: engine.Device) -> bool:
    """Bit for bit; of a GPU up to the rounding of its own functions."""
    if place.kind == "GPU" and gpus():
        return bool(np.allclose(mine, theirs, rtol=1e-12))
    return bool(np.asarray(mine).tobytes() == np.asarray(theirs).tobytes())


CPU0 = engine.Device("CPU:0")


def test_ops_run_where_their_inputs_or_the_scope_say(enabled: engine.ExecutionMode, place: engine.Device) -> None:
    x = on(place, [1.0, 2.0])
    assert (x + 1).device is (2 * x).device is ops.sum(ops.exp(x)).device is place
    assert ops.add(np.ones(2), x).device is ops.asarray([x, x]).device is place
    assert engine.op(lambda a: a)(x).device is place
    with engine.device(place):
        assert ops.add(1, 2).device is ops.zeros(3).device is ops.asarray([1, 2]).device is place
    y = on(CPU0, [3.0, 4.0])
    assert ((x + y).device, (y + x).device) == (place, CPU0)
    assert (x + y).result().tolist() == (y + x).result().tolist() == [4.0, 6.0]


def test_values_come_from_there_bit_for_bit(enabled: engine.ExecutionMode, place: engine.Device) -> None:
    array = np.random.default_rng(0).standard_normal((20, 20))
    h, expected = ops.asarray(array), array
    for index in range(6):
        with engine.device(place if index % 2 else CPU0):
            h = ops.tanh(ops.matmul(h, array))
        expected = np.tanh(expected @ array)
    assert same(h.result(), expected, place)
    assert (h.shape, h.dtype) == (expected.shape, expected.dtype)


def test_every_way_of_reading(enabled: engine.ExecutionMode, place: engine.Device) -> None:
    x = on(place, [[1.0, 2.0]])
    assert np.asarray(x).tolist() == x.tolist() == x.result().tolist() == [[1.0, 2.0]]
    assert np.asarray(x, dtype=int).dtype == int
    assert (bool(x[0, 0] > 0), int(x[0, 1]), float(x[0, 1]), x[0, 0].item()) == (True, 2, 2.0, 1.0)
    assert [row.tolist() for row in x] == [[1.0, 2.0]]
    assert "[[1., 2.]]" in repr(x)
    assert not x.result().flags.writeable
    assert bytes(x.tobytes()) == np.array([[1.0, 2.0]]).tobytes()
    assert np.from_dlpack(x).tolist() == [[1.0, 2.0]]


def test_ops_of_several_results(enabled: engine.ExecutionMode, place: engine.Device) -> None:
    parts = ops.split(on(place, [1.0, 2.0]), 2)
    assert {part.device for part in parts} == {place}
    assert [part.result().tolist() for part in parts] == [[1.0], [2.0]]
    q, r = ops.linalg.qr(on(place, [[2.0, 1.0], [1.0, 3.0]]))
    assert np.allclose((q @ r).result(), [[2.0, 1.0], [1.0, 3.0]])


def test_item_assignment_rebinds(enabled: engine.ExecutionMode, place: engine.Device) -> None:
    x = on(place, [1.0, 2.0])
    y = x + 1
    x[0] = 9
    assert (x.device, x.tolist(), y.tolist()) == (place, [9.0, 2.0], [2.0, 3.0])


def test_policies_speak_of_it(enabled: engine.ExecutionMode, place: engine.Device) -> None:
    x, integer = on(place, [1.0]), on(place, [1], np.int32)
    with engine.device_policy(engine.DevicePolicy.EXPLICIT), engine.device("CPU:0"):
        with pytest.raises(engine.DevicePlacementError, match=f"actually on {place}"):
            x + 1
        assert (x.to_device("CPU:0") + 1).result() == [2.0]
    with engine.device_policy(engine.DevicePolicy.SILENT_FOR_INT32), engine.device("CPU:0"):
        assert (integer + 1).result() == [2]
        with pytest.raises(engine.DevicePlacementError):
            x + 1
    with engine.device_policy(engine.DevicePolicy.EXPLICIT), engine.device(place):
        assert (x + 1).result() == [2.0]
        with pytest.raises(engine.DevicePlacementError, match=f"running on {place}"):
            on("CPU:0", [1.0]) + x


def test_a_failure_poisons_dependents_only(enabled: engine.ExecutionMode, place: engine.Device) -> None:
    x = on(place, [1.0, 2.0])

    @engine.op
    def explode(a: Array) -> Array:
        raise KeyError("boom")

    if enabled is SYNC:
        with pytest.raises(KeyError, match="boom") as caught:
            explode(x)
    else:
        failed = explode(x)
        for _ in range(2):
            with pytest.raises(KeyError, match="boom") as caught:
                (failed + 1).result()
        engine.wait()
    assert any(f"op 'explode' on {place}" in note and "test_backends.py" in note for note in caught.value.__notes__)
    assert (x + 1).tolist() == [2.0, 3.0]
    with pytest.raises(ValueError, match="could not be broadcast"):
        (x + np.ones(3)).result()


def test_error_states_are_those_of_the_dispatch(enabled: engine.ExecutionMode, place: engine.Device) -> None:
    if place.kind == "GPU":
        pytest.skip("a GPU tells nothing of divisions by zero")
    x = on(place, [0.0])
    with np.errstate(divide="raise"), pytest.raises(FloatingPointError):
        (1 / x).result()
    with np.errstate(divide="ignore"):
        assert (1 / x).result() == [np.inf]


async def test_awaiting_and_gathering(enabled: engine.ExecutionMode, place: engine.Device) -> None:
    x = on(place, [1.0])
    assert (await x).tolist() == (await (x + 0)).tolist() == [1.0]
    assert [value.tolist() for value in await engine.gather(x, x * 2, x)] == [[1.0], [2.0], [1.0]]
    assert await (await x.wait_ready()) == [1.0]
    await engine.synchronize(place)
    await engine.synchronize()


async def test_users_functions_of_both_kinds(enabled: engine.ExecutionMode, place: engine.Device) -> None:
    context: list[Any] = []

    @engine.op(num_outputs=2)
    def plain(a: Any, *, scale: float) -> Any:
        context.append((type(a), a.flags.writeable, np.geterr()["over"]))
        return [a * scale, ops.add(a, 1)]

    @engine.op
    async def coroutine(a: Any, b: Any) -> Any:
        assert (type(a), a.flags.writeable) == (np.ndarray, False)
        await asyncio.sleep(0)
        return a + b

    x = on(place, [1.0, 2.0])
    with np.errstate(over="raise"):
        scaled, more = plain(x, scale=3.0)
    assert ((await scaled).tolist(), (await more).tolist()) == ([3.0, 6.0], [2.0, 3.0])
    assert context == [(np.ndarray, False, "raise")]
    added = coroutine(x, 5.0)
    assert ((await added).tolist(), added.device) == ([6.0, 7.0], place)


async def test_functions_graphs_and_sessions(enabled: engine.ExecutionMode, place: engine.Device) -> None:
    @engine.function
    def model(a: Handle, b: Any) -> tuple[Handle, Handle]:
        y = ops.tanh(a) * 2 + b
        return y, ops.sum(y)

    x = on(place, [1.0, 2.0])
    expected = np.tanh([1.0, 2.0]) * 2 + 1
    for _ in range(2):
        y, total = model(x, np.ones(2))
        assert (y.device, total.device) == (place, place)
        assert same(await y, expected, place)
        assert same(await total, expected.sum(), place)
    graph = engine.Graph()
    with graph.as_default(), engine.device(place):
        fed = engine.placeholder(np.float64, (2,))
        out = ops.tanh(fed) * 2 + 1
        back = out.to_device("CPU:0") + 0
    session = engine.Session(graph)
    for feed in (np.array([1.0, 2.0]), x):
        values = await session.run_async([out, back], {fed: feed})
        assert same(values[0], expected, place)
        assert same(values[1], expected, place)
    values = await asyncio.to_thread(session.run, [out, back], {fed: np.array([1.0, 2.0])})
    assert same(values[0], expected, place)
    assert same(values[1], expected, place)


async def test_blocks_end_when_its_work_has(automatic: SteppedBackend, place: engine.Device) -> None:
    async with executor(place=place):
        x = on(place, [1.0])
        async with engine.scope():
            y = x + 1
        assert y.is_ready()
        z = y * 3
    assert z.is_ready()
    assert (await z).tolist() == [6.0]  # after the end, too


def test_blocks_of_plain_code_end_when_its_work_has(automatic: SteppedBackend, place: engine.Device) -> None:
    with executor(place=place):
        z = on(place, [1.0]) + 2
    assert z.result().tolist() == [3.0]


# ---------------------------------------------------------------------------------------------------------------------
# Where a backend is called


async def test_nothing_of_it_runs_on_the_loops_thread(automatic: SteppedBackend) -> None:
    async with executor():
        x = on(STEPPED, np.ones((3, 3)))
        tiny = [x[0, 0] + number for number in range(20)]
        large = ops.matmul(on(STEPPED, np.ones((200, 200))), 2 * ops.ones((200, 200), device="STEPPED:0"))
        copies = [large.to_device("STEPPED:1"), large.to_device("CPU:1"), ops.ones(3).to_device("STEPPED:0")]
        user = engine.op(lambda a: a)(x)
        await engine.gather(*tiny, large, *copies, user)
        await engine.synchronize()
    assert automatic.threads
    assert threading.get_ident() not in automatic.threads


async def test_the_loop_turns_while_a_value_is_read(stepped: SteppedBackend) -> None:
    reading, let = threading.Event(), threading.Event()

    class Slow(SteppedBackend):
        def to_host(self, value: SteppedValue) -> Array:
            reading.set()
            let.wait()
            return super().to_host(value)

    slow = Slow(automatic=True)
    with registered("STEPPED", lambda: slow):
        async with executor():
            readers = [asyncio.ensure_future(_read(handle)) for handle in [on(STEPPED, [1.0])] * 3]
            assert await asyncio.to_thread(reading.wait, 10)
            readers.pop().cancel()  # one that waits no longer disturbs no other
            let.set()
            assert [value.tolist() for value in await asyncio.gather(*readers)] == [[1.0], [1.0]]
    assert slow.reads == 1


async def _read(handle: Handle) -> Any:
    return await handle


async def test_a_value_is_read_once_and_not_by_waiting(automatic: SteppedBackend) -> None:
    async with executor():
        x = on(STEPPED, [1.0]) + 1
        await x.wait_ready()
        assert automatic.reads == 0
        assert "not read yet" in repr(x)
        await x
        assert await x == [2.0]
        await engine.gather(x, x)
        with engine.allow_sync():
            assert x.result() == np.asarray(x) == [2.0]
        assert await x.to_device("CPU:0") == [2.0]
        assert automatic.reads == 1
        again = await x
        assert not again.flags.writeable


async def test_a_read_that_failed_is_tried_again(stepped: SteppedBackend) -> None:
    problems = [OSError("cable"), OSError("cable again")]

    class Flaky(SteppedBackend):
        def to_host(self, value: SteppedValue) -> Array:
            if problems:
                raise problems.pop(0)
            return super().to_host(value)

    with registered("STEPPED", lambda: Flaky(automatic=True)):
        async with executor():
            x = on(STEPPED, [1.0]) + 1
            with pytest.raises(OSError, match="cable") as caught:
                await x
            assert any("op 'add' on STEPPED:0" in note for note in caught.value.__notes__)
            with pytest.raises(OSError, match="cable again"):
                await x
            assert await x == [2.0]


def test_a_blocking_read_has_its_timeout(stepped: SteppedBackend) -> None:
    let = threading.Event()

    class Slow(SteppedBackend):
        def to_host(self, value: SteppedValue) -> Array:
            let.wait()
            return super().to_host(value)

    with registered("STEPPED", lambda: Slow(automatic=True)), executor():
        x = on(STEPPED, [1.0])
        with pytest.raises(TimeoutError, match="being copied to the host"):
            x.result(timeout=0.05)
        let.set()
        assert x.result() == [1.0]


async def test_reading_on_the_loop_is_refused_as_elsewhere(automatic: SteppedBackend) -> None:
    async with executor():
        x = on(STEPPED, [1.0])
        await x.wait_ready()
        with pytest.raises(engine.BlockingSyncError):
            x.result()
        with pytest.raises(engine.BlockingSyncError, match="pickling"):
            x.__reduce__()
        await x
        restore, args = x.__reduce__()
        assert restore(*args).result() == [1.0]


# ---------------------------------------------------------------------------------------------------------------------
# Transfers


def test_transfers_take_the_shortest_way(enabled: engine.ExecutionMode, automatic: SteppedBackend) -> None:
    x = on("CPU:0", [1.0, 2.0])
    there = x.to_device("STEPPED:0")
    assert there.device is STEPPED
    there.result()
    assert (automatic.writes, automatic.copies) == (1, 0)
    beside = there.to_device("STEPPED:1")
    assert beside.result().tolist() == [1.0, 2.0]
    assert (automatic.writes, automatic.copies) == (1, 1)
    assert (beside.to_device("CPU:1") + 1).result().tolist() == [2.0, 3.0]
    assert x.to_device("STEPPED:0").result().tolist() == [1.0, 2.0]
    assert automatic.writes == 1  # a copy that lives is used again


def test_between_kinds_the_way_is_through_the_host(automatic: SteppedBackend) -> None:
    other = SteppedBackend(automatic=True)
    with registered("OTHER", lambda: other):
        config = engine.Config(device_count={"STEPPED": 1, "OTHER": 1})
        for mode in (ASYNC, SYNC):
            with engine.Executor(config, execution_mode=mode):
                moved = on(STEPPED, [1.0]).to_device("OTHER:0")
                assert ((moved + 1).result().tolist(), str(moved.device)) == ([2.0], "OTHER:0")
    assert (automatic.reads, other.writes, other.copies) == (2, 2, 0)


@pytest.mark.parametrize("mode", [SYNC, ASYNC], ids=lambda mode: mode.name)
def test_a_device_of_another_executor_is_another_device(mode: engine.ExecutionMode) -> None:
    made: list[SteppedBackend] = []

    def factory() -> SteppedBackend:
        made.append(SteppedBackend(automatic=True))
        return made[-1]

    with registered("STEPPED", factory), executor(mode):
        x = on(STEPPED, [1.0])
        with executor(mode):
            assert ((x + 1).result().tolist(), (x + 1).device) == ([2.0], STEPPED)
        with engine.Executor(execution_mode=mode):
            assert ((x + 1).result().tolist(), (x + 1).device) == ([2.0], CPU0)  # by soft placement
    assert made[0].reads == 1


def test_an_array_is_never_seen_to_change(enabled: engine.ExecutionMode, automatic: SteppedBackend) -> None:
    array = np.ones(3)
    x = ops.asarray(array, device="STEPPED:0")
    with engine.device("STEPPED:0"):
        y = ops.add(array, 1)
    array[:] = 7
    assert (x.tolist(), y.tolist()) == ([1.0] * 3, [2.0] * 3)


def test_values_in_the_memory_of_users_are_kept(automatic: SteppedBackend) -> None:
    with executor():
        kept = on("CPU:0", [1.0])
        moved = kept.to_device("STEPPED:0")
        assert moved.result() is not None
        assert (kept + 1).result() == [2.0]


async def test_what_it_does_not_compute_the_host_does(stepped: SteppedBackend) -> None:
    backend = SteppedBackend(automatic=True, without=["sin", "linalg.qr"])
    with registered("STEPPED", lambda: backend):
        async with executor():
            x = on(STEPPED, [[1.0, 0.0], [0.0, 1.0]])
            y = ops.sin(x) + 1
            q, _ = ops.linalg.qr(x)
            assert (y.device, q.device) == (STEPPED, STEPPED)
            assert (await y).tobytes() == (np.sin(np.eye(2)) + 1).tobytes()
            assert (await (q @ x)).shape == (2, 2)
        with executor(SYNC):
            assert ops.sin(on(STEPPED, [0.0])).result() == [0.0]
    assert threading.get_ident() in backend.threads  # in SYNC mode only


# ---------------------------------------------------------------------------------------------------------------------
# Records


async def test_a_record_says_all_that_is_needed(stepped: SteppedBackend) -> None:
    async with executor():
        x = on(STEPPED, [[1.0, 2.0]])
        (first,) = await pending(stepped)
        assert (first.name, first.sources, first.outputs, first.device) == ("asarray", (None,), 1, STEPPED)
        assert isinstance(first.operands[0], np.ndarray)
        assert not first.operands[0].flags.writeable
        stepped.complete(first)
        total = ops.sum(x, axis=1)
        (record,) = await pending(stepped)
        assert isinstance(record, Record)
        assert (record.name, record.params["axis"], record.sources) == ("sum", 1, (STEPPED,))
        (value,) = record.operands
        assert isinstance(value, SteppedValue)
        assert (value.shape, str(value.dtype), value.device) == ((1, 2), "float64", STEPPED)
        array = record.kernel(np.ones((1, 2)), **record.params)
        assert array.tolist() == record.call(np.ones((1, 2))).tolist() == [2.0]  # type: ignore[union-attr]
        assert "sum" in repr(record)
        stepped.complete(record)
        assert (await total).tolist() == [3.0]


async def test_a_record_ends_once(stepped: SteppedBackend) -> None:
    async with executor():
        x = on(STEPPED, [1.0])
        (record,) = await pending(stepped)
        stepped.complete(record)
        with pytest.raises(RuntimeError, match="'asarray' on STEPPED:0 was ended twice"):
            record.complete(SteppedValue(STEPPED, np.zeros(1)))
        with pytest.raises(RuntimeError, match="ended twice"):
            record.fail(KeyError())
        with pytest.raises(ValueError, match=r"must be one of pending\(\)"):
            stepped.complete(record)
        assert await x == [1.0]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.ones(1), "a class of its own.* ndarray: wrap the array"),
        (np.float64(1), "a class of its own.*: wrap the array"),
        (None, "NoneType"),
        (1.0, "but gave float"),
    ],
    ids=str,
)
async def test_what_is_no_value_fails_the_op(stepped: SteppedBackend, given: Any, message: str) -> None:
    async with executor():
        x = on(STEPPED, [1.0])
        (record,) = await pending(stepped)
        stepped.complete(record, given)
        with pytest.raises(TypeError, match=message):
            await x


@pytest.mark.parametrize("given", [SteppedValue(STEPPED, np.ones(1)), (), (SteppedValue(STEPPED, np.ones(1)),)])
async def test_as_many_values_as_outputs(stepped: SteppedBackend, given: Any) -> None:
    async with executor():
        with engine.device(STEPPED):
            parts = ops.split(np.ones(2), 2)
        (record,) = await pending(stepped)
        stepped.complete(record, given)
        for part in parts:
            with pytest.raises(TypeError, match="must give 2 values for 'split'"):
                await part


async def test_what_is_no_error_is_said_to_be_none(stepped: SteppedBackend) -> None:
    async with executor():
        x = on(STEPPED, [1.0])
        (record,) = await pending(stepped)
        stepped.fail(record, "out of memory")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="error must be an exception, but the backend gave 'out of memory'"):
            await x


class Immediate(SteppedBackend):
    """Ends each record inside `submit`."""

    def submit(self, device: Device, records: Sequence[Record]) -> None:
        super().submit(device, records)
        self.complete_all()


class Raising(SteppedBackend):
    """Ends the first record of a batch, and raises."""

    def submit(self, device: Device, records: Sequence[Record]) -> None:
        super().submit(device, records[:1])
        self.complete_all()
        raise OSError("full")


class Whole(SteppedBackend):
    """Takes a traced function as one op."""

    takes_functions = True


@pytest.mark.parametrize("mode", [SYNC, ASYNC], ids=lambda mode: mode.name)
def test_a_device_may_take_a_traced_function_whole(fresh_engine: None, mode: engine.ExecutionMode) -> None:
    @engine.function
    def model(x: Any, y: Any) -> tuple[Any, Any]:
        q, r = ops.linalg.qr(x)
        return ops.matmul(q, r) + y, x

    for backend, batches in ((Whole(automatic=True), 3), (SteppedBackend(automatic=True), 5)):
        with registered("STEPPED", lambda backend=backend: backend), executor(mode):  # type: ignore[misc]
            total, same = model(on(STEPPED, [[1.0, 2.0], [3.0, 5.0]]), on(STEPPED, [1.0]))
            assert np.allclose(total.result(), [[2.0, 3.0], [4.0, 6.0]])
            assert same.result().tolist() == [[1.0, 2.0], [3.0, 5.0]]
        assert len(backend.batches) == batches


def test_records_may_end_inside_submit(fresh_engine: None) -> None:
    for lookahead in (1, 4):
        for mode in (ASYNC, SYNC):
            with registered("STEPPED", partial(Immediate, lookahead=lookahead)), executor(mode):
                x = on(STEPPED, [1.0])
                for _ in range(20):
                    x = x + 1
                assert x.result() == [21.0]


async def test_a_submit_that_raises_fails_what_it_has_not_ended() -> None:
    register_backend("STEPPED", lambda: Raising(lookahead=3))
    async with executor():
        with engine.testing.hold(STEPPED):
            first, second, third = (on(STEPPED, [number]) for number in range(3))
        assert await first == [0]
        for handle in (second, third + 1):
            with pytest.raises(OSError, match="full"):
                await handle
        with pytest.raises(OSError, match="full"):
            await third


# ---------------------------------------------------------------------------------------------------------------------
# Batches


def chain(length: int) -> Handle:
    x = on(STEPPED, [0.0])
    for number in range(1, length):
        x = x + number
    return x


async def test_what_is_pending_together_is_one_batch_in_dispatch_order(batching: SteppedBackend) -> None:
    async with executor():
        with engine.testing.hold(STEPPED):
            a = on(STEPPED, [1.0])
            b = on(STEPPED, [2.0])
            product = a * b
            total = product + a
        records = await pending(batching, 4)
        assert [record.name for record in records] == ["asarray", "asarray", "multiply", "add"]
        assert batching.batches == [4]
        assert list(records[2].operands) == records[:2]
        assert list(records[3].operands) == [records[2], records[0]]
        assert records[3].sources == (STEPPED, STEPPED)
        batching.complete(records[3])  # which ends what it reads before
        assert await total == [3.0]
        assert await product == [2.0]


async def test_batches_are_bounded(batching: SteppedBackend) -> None:
    async with executor():
        with engine.testing.hold(STEPPED):
            deep, wide = chain(9), [on(STEPPED, [number]) for number in range(6)]
        while not all(handle.is_ready() for handle in (deep, *wide)):
            await pending(batching)
            batching.complete_all()
            await asyncio.sleep(0)
        assert await deep == [36.0]
        assert max(batching.batches) == 4
        assert len(batching.batches) < 15


async def test_without_lookahead_each_operand_is_a_value(stepped: SteppedBackend) -> None:
    async with executor():
        with engine.testing.hold(STEPPED):
            x = chain(3)
        for _ in range(3):
            (record,) = await pending(stepped)
            assert not any(isinstance(each, Record) for each in record.operands)
            stepped.complete(record)
        assert await x == [3.0]
    assert stepped.batches == [1, 1, 1]


async def test_records_of_a_batch_may_end_in_any_order(batching: SteppedBackend) -> None:
    async with executor():
        with engine.testing.hold(STEPPED):
            x = chain(4)
        records = await pending(batching, 4)
        for number, record in reversed(list(enumerate(records))):
            batching.complete(record, SteppedValue(STEPPED, np.array([float(number)])))
        assert await x == [3.0]


async def test_a_failure_in_a_batch_is_that_of_all_that_read_it(batching: SteppedBackend) -> None:
    async with executor():
        with engine.testing.hold(STEPPED):
            a = on(STEPPED, [1.0])
            b = a + 1
            c = b * 2
            other = on(STEPPED, [5.0])
        records = await pending(batching, 4)
        batching.fail(records[1], KeyError("boom"))
        batching.fail(records[2], RuntimeError("its operand failed"))
        batching.complete_all()
        for handle in (b, c):
            with pytest.raises(KeyError, match="boom"):
                await handle
        assert await a == [1.0]
        assert await other == [5.0]
        await engine.synchronize()  # it was reported


async def test_which_of_several_results_is_meant_is_never_left_open(batching: SteppedBackend) -> None:
    async with executor():
        with engine.testing.hold(STEPPED):
            q, r = ops.linalg.qr(on(STEPPED, np.eye(2)))
            back = q @ r
        records = await pending(batching, 2)
        assert [record.name for record in records] == ["asarray", "linalg.qr"]
        batching.complete_all()
        await pending(batching)
        batching.complete_all()
        assert np.allclose(await back, np.eye(2))


BETWEEN: list[tuple[str, Callable[[Handle], object], type[Exception] | None]] = [
    ("nothing", lambda handle: None, None),
    ("a cancellation", lambda handle: handle.cancel(), engine.OpCancelledError),
    ("a loss", lambda handle: queue_of(handle).lose("it was unplugged"), DeviceLostError),
]


@pytest.mark.parametrize("way", ["straight", "launch"])
@pytest.mark.parametrize(("name", "happens", "error"), BETWEEN, ids=[row[0] for row in BETWEEN])
async def test_a_batch_is_chosen_in_many_slices(
    monkeypatch: pytest.MonkeyPatch,
    way: str,
    name: str,
    happens: Callable[[Handle], object],
    error: type[Exception] | None,
) -> None:
    backend = SteppedBackend(automatic=True, lookahead=64)
    register_backend("STEPPED", lambda: backend)
    loop, looks = asyncio.get_running_loop(), itertools.count()

    def clock() -> float:
        """Time is always up; half-way through the batch something happens between two slices."""
        if next(looks) == 20:
            loop.call_soon_threadsafe(happens, handles[10])
        return math.inf

    if way == "launch":  # set aside before, as what is demanded among more than a batch is
        monkeypatch.setattr(Straight, "applies", lambda _: False)
    monkeypatch.setattr(f"engine.queues.{way}.FEW", 1)
    monkeypatch.setattr(f"engine.queues.{way}.perf_counter", clock)
    monkeypatch.setattr("engine.queues.slice.perf_counter", lambda: math.inf)
    async with executor():
        with engine.testing.hold(STEPPED):
            handles = [on(STEPPED, [0.0])]
            for _ in range(40):
                handles.append(handles[-1] + 1)
        backlog = queue_of(handles[0]).backlog
        before = backlog.slices
        if error is None:
            assert await handles[-1] == [40.0]
            # Up to five drives of the await do not count.
            assert (backend.batches, backlog.slices - before > 35) == ([41], True)
        else:
            for handle in handles[10:]:
                with pytest.raises(error):
                    await handle
            engine.clear_errors()
        if error is engine.OpCancelledError:
            assert [await handle for handle in handles[:10]] == [[number] for number in range(10)]
            assert backend.batches == [10]


class Unsorted(SteppedBackend):
    """A device that has the host sort."""

    def runs(self, name: str, kernel: object) -> bool:
        return name != "sort"


async def test_what_the_host_computes_does_not_cut_a_batch_in_two() -> None:
    backend = Unsorted(automatic=True, lookahead=64)
    register_backend("STEPPED", lambda: backend)
    async with executor():
        with engine.testing.hold(STEPPED):
            x = on(STEPPED, [2.0, 1.0])
            sums = [x + number for number in range(3)]
            behind = ops.sort(sums[0]) + 1
            doubles = [each * 2 for each in sums]
        assert (await behind).tolist() == [2.0, 3.0]
        assert [(await each).tolist() for each in doubles] == [[4.0, 2.0], [6.0, 4.0], [8.0, 6.0]]
    assert backend.batches == [7, 1]


async def test_an_interrupt_loses_nothing_of_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = SteppedBackend(automatic=True, lookahead=64)
    register_backend("STEPPED", lambda: backend)
    original, calls = Backlog.launch, itertools.count()

    def interrupted(backlog: Backlog, entry: Any, lane: Any) -> None:
        if next(calls) == 10:
            raise KeyboardInterrupt
        original(backlog, entry, lane)

    async with executor():
        with engine.testing.hold(STEPPED):
            handles = [on(STEPPED, [0.0])]
            for _ in range(20):
                handles.append(handles[-1] + 1)
        queue = queue_of(handles[0])
        monkeypatch.setattr(Backlog, "launch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            queue.drive(60.0, patient=True)
        queue.backlog.check()
        assert await handles[-1] == [20.0]
        assert [await handle for handle in handles] == [[number] for number in range(21)]


async def test_a_stream_of_ops_reaches_a_device_in_few_batches() -> None:
    backend = SteppedBackend(automatic=True, lookahead=100)
    register_backend("STEPPED", lambda: backend)
    async with executor():
        with engine.testing.hold(STEPPED):
            x = chain(300)
        assert await x == [float(sum(range(300)))]
    assert len(backend.batches) <= 6


def test_one_after_the_other_where_that_is_asked_for(fresh_engine: None) -> None:
    backend = SteppedBackend(lookahead=8)
    with registered("STEPPED", lambda: backend), executor(inter_op_parallelism_threads=1):
        handles = [on(STEPPED, [number]) for number in range(5)]
        for number in range(5):
            (record,) = backend.wait_pending()
            assert record.operands[0].tolist() == [number]  # type: ignore[union-attr]
            backend.complete(record)
        assert [handle.result().tolist() for handle in handles] == [[number] for number in range(5)]


# ---------------------------------------------------------------------------------------------------------------------
# Any order


def grow(rng: random.Random, values: list[tuple[Handle, Array]], steps: int, devices: Sequence[str]) -> None:
    """Add random ops to some values, each with what NumPy gives."""
    functions: list[tuple[Callable[..., Any], Callable[..., Any]]] = [
        (ops.add, np.add),
        (ops.multiply, np.multiply),
        (ops.subtract, np.subtract),
        (ops.maximum, np.maximum),
    ]
    for _ in range(steps):
        (h1, a1), (h2, a2) = rng.choice(values), rng.choice(values)
        function, reference = rng.choice(functions)
        if rng.random() < 0.2:
            values.append((h1.to_device(rng.choice(devices)), a1))
        elif rng.random() < 0.2:
            values.append((ops.tanh(h1), np.tanh(a1)))
        else:
            with engine.device(rng.choice(devices)):
                values.append((function(h1, h2), reference(a1, a2)))


@pytest.mark.sweep
@pytest.mark.parametrize("lookahead", [1, 3, 50])
@pytest.mark.parametrize("seed", range(6))
async def test_random_programs_in_random_order_are_numpy(seed: int, lookahead: int) -> None:
    rng = random.Random(seed)
    backend = SteppedBackend(lookahead=lookahead)
    register_backend("STEPPED", lambda: backend)
    async with executor():
        start = np.random.default_rng(seed).standard_normal((3, 4))
        values = [(ops.asarray(start + number), start + number) for number in range(3)]
        with engine.testing.hold(STEPPED):
            grow(rng, values, 60, ["CPU:0", "CPU:1", "STEPPED:0", "STEPPED:1"])
        readers = [asyncio.ensure_future(_read(handle)) for handle, _ in rng.sample(values, len(values))]
        while not all(reader.done() for reader in readers):
            records = backend.pending()
            if records:
                backend.complete(rng.choice(records))
            await asyncio.sleep(0)
        for handle, expected in values:
            assert (await handle).tobytes() == expected.tobytes()
        for queue in {queue_of(handle) for handle, _ in values}:
            with queue.lock:
                queue.backlog.check()


@pytest.mark.sweep
@pytest.mark.parametrize("mode", [SYNC, ASYNC], ids=lambda mode: mode.name)
@pytest.mark.parametrize("seed", range(4))
def test_random_programs_off_the_loop_are_numpy(
    automatic: SteppedBackend, seed: int, mode: engine.ExecutionMode
) -> None:
    with executor(mode):
        start = np.random.default_rng(seed).standard_normal((3, 4))
        values = [(ops.asarray(start), start)]
        grow(random.Random(seed), values, 100, ["CPU:0", "STEPPED:0", "STEPPED:1"])
        for handle, expected in values:
            assert handle.result().tobytes() == expected.tobytes()


# ---------------------------------------------------------------------------------------------------------------------
# Cancellation


async def test_what_was_launched_is_abandoned_and_keeps_the_device_busy(stepped: SteppedBackend) -> None:
    async with executor() as running:
        x = on(STEPPED, [1.0])
        (record,) = await pending(stepped)
        after = x + 1
        assert x.cancel() is CancelOutcome.ABANDONED
        assert record.abandoned
        for handle in (x, after):
            with pytest.raises(engine.OpCancelledError):
                await handle
        assert running.statistics().running == 1
        stepped.complete(record)
        behind = on(STEPPED, [2.0])
        stepped.complete((await pending(stepped))[0])
        assert await behind == [2.0]
        assert running.statistics().pending == 0
        assert x.cancel() is CancelOutcome.TOO_LATE


async def test_what_was_not_launched_is_dropped(stepped: SteppedBackend) -> None:
    async with executor():
        with engine.testing.hold(STEPPED):
            x = on(STEPPED, [1.0])
            assert x.cancel() is CancelOutcome.DROPPED
        y = on(STEPPED, [2.0])
        (record,) = await pending(stepped)
        stepped.complete(record)
        assert await y == [2.0]
    assert stepped.batches == [1]


async def test_an_abandoned_operand_takes_its_part_of_the_batch_along(batching: SteppedBackend) -> None:
    async with executor():
        with engine.testing.hold(STEPPED):
            a = on(STEPPED, [1.0])
            b = a + 1
            other = on(STEPPED, [5.0])
        records = await pending(batching, 3)
        a.cancel()
        for record in reversed(records):
            batching.complete(record) if record in batching.pending() else None
        with pytest.raises(engine.OpCancelledError):
            await b
        assert await other == [5.0]


async def test_the_end_of_a_scope_abandons(stepped: SteppedBackend) -> None:
    async with executor():
        async with engine.scope() as scope:
            x = on(STEPPED, [1.0])
            (record,) = await pending(stepped)
            scope.cancel()
        assert record.abandoned
        stepped.complete(record)
        with pytest.raises(engine.OpCancelledError):
            await x


async def test_leaving_by_an_exception_waits_for_no_device(stepped: SteppedBackend) -> None:
    with pytest.raises(LookupError):
        async with executor():
            x = on(STEPPED, [1.0])
            (record,) = await pending(stepped)
            raise LookupError
    assert record.abandoned
    with pytest.raises(engine.OpCancelledError):
        await x
    stepped.complete(record)


async def test_barriers_wait_for_what_was_launched(stepped: SteppedBackend) -> None:
    async with executor():
        x = on(STEPPED, [1.0])
        waiting = asyncio.ensure_future(engine.synchronize())
        (record,) = await pending(stepped)
        assert not waiting.done()
        stepped.complete(record)
        await waiting
        assert x.is_ready()


# ---------------------------------------------------------------------------------------------------------------------
# Loss


async def test_a_lost_device_fails_what_is_there_and_nothing_else(batching: SteppedBackend) -> None:
    async with executor():
        kept, unread = on(STEPPED, [1.0]), on(STEPPED, [2.0])
        elsewhere = on("STEPPED:1", [3.0])
        await pending(batching, 3)
        batching.complete_all()
        assert await kept == [1.0]
        await unread.wait_ready()
        launched = kept + 1
        dependent = (launched * 2).to_device("CPU:0")
        record = (await pending(batching, 2))[0]
        lost(batching, "STEPPED:0", "it was unplugged")
        for handle in (launched, dependent, unread, unread.to_device("CPU:0"), unread.to_device("STEPPED:1"), kept + 1):
            with pytest.raises(DeviceLostError, match="device STEPPED:0 was lost: it was unplugged"):
                await handle
        with pytest.raises(DeviceLostError):
            await ops.ones(3).to_device(STEPPED)
        assert await kept == [1.0]  # it had been read
        batching.complete(record)  # too late, and no error
        further = elsewhere + 1
        await pending(batching, 2)  # with the dependent, which was lost as well
        batching.complete_all()
        assert await further == [4.0]
        assert await (ops.ones(1) + 1) == [2.0]
        with pytest.raises(DeviceLostError):
            await (unread + 1)
        await engine.synchronize()
    assert issubclass(engine.DeviceLostError, RuntimeError)


def test_a_device_that_is_lost_during_a_sync_op(stepped: SteppedBackend) -> None:
    with executor(SYNC):

        def take_away() -> None:
            stepped.wait_pending()
            lost(stepped, STEPPED, "gone")

        taker = threading.Thread(target=take_away)
        taker.start()
        with pytest.raises(DeviceLostError, match="gone"):
            on(STEPPED, [1.0])
        taker.join()
        with pytest.raises(DeviceLostError, match="gone"):
            on(STEPPED, [1.0])
        assert (ops.ones(1) + 1).result() == [2.0]


async def test_a_backend_may_say_so_by_itself(automatic: SteppedBackend) -> None:
    async with executor():
        x = on(STEPPED, [1.0])
        await x.wait_ready()
        automatic.lose(STEPPED)
        for handle in (x, x + 1, x.to_device("CPU:0")):
            with pytest.raises(DeviceLostError, match="unplugged"):
                await handle
        assert await on("STEPPED:1", [1.0]) == [1.0]


def test_losing_what_is_not_there(automatic: SteppedBackend) -> None:
    with pytest.raises(TypeError, match="backend must be the Backend"):
        lost(None, STEPPED, "gone")  # type: ignore[arg-type]
    with executor(), pytest.raises(ValueError, match=r"device must be one of the backend's \(STEPPED:0, STEPPED:1\)"):
        lost(automatic, "CPU:0", "gone")


# ---------------------------------------------------------------------------------------------------------------------
# SYNC mode, timeouts, the end


def test_a_sync_op_blocks_until_its_record_has_ended(stepped: SteppedBackend) -> None:
    order: list[str] = []

    def end() -> None:
        for _ in range(2):
            (record,) = stepped.wait_pending()
            order.append(record.name)
            stepped.complete(record)

    ender = threading.Thread(target=end)
    ender.start()
    with executor(SYNC):
        x = on(STEPPED, [1.0])
        order.append("between")
        assert (x + 1).result() == [2.0]
    ender.join()
    assert order == ["asarray", "between", "add"]


@pytest.mark.parametrize("mode", [SYNC, ASYNC], ids=lambda mode: mode.name)
def test_a_device_that_never_answers_times_out(stepped: SteppedBackend, mode: engine.ExecutionMode) -> None:
    running = executor(mode, operation_timeout_in_ms=50)
    running.__enter__()
    with pytest.raises(TimeoutError, match="asarray"):
        on(STEPPED, [1.0]).result()
    (record,) = stepped.wait_pending()
    assert record.abandoned is (mode is SYNC)
    running.__exit__(KeyError, KeyError(), None)
    stepped.complete(record)


def test_a_backend_is_closed_with_its_executor() -> None:
    closed = threading.Event()

    class Closing(SteppedBackend):
        def close(self) -> None:
            closed.set()

    with registered("STEPPED", lambda: Closing(automatic=True)), executor():
        x = on(STEPPED, [1.0])
    assert closed.wait(10)
    assert x.result() == [1.0]


async def test_a_loop_that_ends_closes_what_nothing_is_pending_on() -> None:
    backends: dict[bool, SteppedBackend] = {False: SteppedBackend(), True: SteppedBackend()}
    handles: list[Handle] = []

    async def main(leave_pending: bool) -> None:
        handles.append(on(STEPPED, [1.0]))
        backend = backends[leave_pending]
        records = await pending(backend)
        if not leave_pending:
            backend.complete(records[0])
            await handles[-1]

    def run(leave_pending: bool) -> None:
        with registered("STEPPED", lambda: backends[leave_pending]):
            engine.enable_eager_execution(CONFIG, execution_mode=ASYNC)
            asyncio.run(main(leave_pending))
            backends[leave_pending].complete_all()
            assert handles[-1].result() == [1.0]
            engine.testing.reset()

    for leave_pending in (False, True):
        await asyncio.to_thread(run, leave_pending)


FORKS = """
import os, sys, traceback
import numpy as np
import engine
from engine import ops
from engine.devices import SteppedBackend, register_backend

stepped = SteppedBackend()
register_backend("STEPPED", lambda: stepped)
with engine.Executor(engine.Config(device_count={"STEPPED": 1}), execution_mode=engine.ASYNC):
    h = ops.asarray(np.ones(3), device="STEPPED:0")
    after = h + 1
    (record,) = stepped.wait_pending()
    child = os.fork()
    if child == 0:
        try:
            for handle in (h, after):
                try:
                    handle.result(timeout=20)
                except engine.DeviceLostError as error:
                    assert "forked" in str(error)
                else:
                    raise AssertionError("the record cannot end here")
            assert (ops.ones(3) + 1).tolist() == [2.0] * 3
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    stepped.complete(record)
    (record,) = stepped.wait_pending()
    stepped.complete(record)
    assert after.tolist() == [2.0] * 3
    sys.exit(status)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_what_is_launched_is_lost_to_a_forked_child() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKS],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


# ---------------------------------------------------------------------------------------------------------------------
# What holds on any device


async def test_a_functions_limit_holds_on_a_device() -> None:
    backend = SteppedBackend(lookahead=8)
    register_backend("STEPPED", lambda: backend)
    limited = engine.op(lambda x: x + 1, name="limited", max_concurrency=2)
    async with executor():
        x = on(STEPPED, [1.0])
        backend.complete((await pending(backend))[0])
        handles = [limited(x) for _ in range(6)]
        most = 0
        for _ in range(6):
            records = await pending(backend)
            most = max(most, len(records))
            backend.complete(records[0])
        assert [value.tolist() for value in await engine.gather(*handles)] == [[2.0]] * 6
        assert most <= 2


async def test_an_async_op_on_a_device_can_be_cancelled(automatic: SteppedBackend) -> None:
    entered, ended = asyncio.Event(), asyncio.Event()

    @engine.op
    async def forever(x: Any) -> Any:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with executor():
        h = forever(on(STEPPED, [1.0]))
        await entered.wait()
        assert h.cancel() is CancelOutcome.ABANDONED
        await ended.wait()
        with pytest.raises(engine.OpCancelledError):
            await h


async def test_values_are_read_on_other_loops_and_threads(automatic: SteppedBackend) -> None:
    async with executor():
        x = on(STEPPED, [1.0]) + 1
        values = await asyncio.gather(
            asyncio.to_thread(x.result),
            asyncio.to_thread(asyncio.run, _read(x)),
            _read(x),
        )
        assert [value.tolist() for value in values] == [[2.0]] * 3
    assert automatic.reads == 1


def test_warn_says_once_for_a_place_what_is_copied(
    enabled: engine.ExecutionMode, place: engine.Device, caplog: pytest.LogCaptureFixture
) -> None:
    x = on(place, [1.0])
    with engine.device_policy(engine.DevicePolicy.WARN), engine.device("CPU:0"):
        for _ in range(3):
            assert (x + 1).result() == [2.0]
    warnings = [record.getMessage() for record in caplog.records if record.name == "engine.placement"]
    assert len(warnings) == 1
    assert f"actually on {place}" in warnings[0]


def test_values_die_with_their_handles(automatic: SteppedBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: weakref.WeakSet[SteppedValue] = weakref.WeakSet()

    class Counted(SteppedValue):
        def __init__(self, device: Device, array: Array) -> None:
            super().__init__(device, array)
            alive.add(self)

    monkeypatch.setattr(engine.devices.stepped, "SteppedValue", Counted)
    for mode in (ASYNC, SYNC):
        with executor(mode):
            x = on(STEPPED, [1.0])
            for _ in range(50):
                x = x + 1
            copied = x.to_device("CPU:0") + x.to_device("STEPPED:1").to_device("CPU:0")
            assert copied.result() == [102.0]
            del copied
        gc.collect()
        assert len(alive) == 1
        del x
        gc.collect()
        assert not alive


EXITS = """
import asyncio, threading
import numpy as np
import engine
from engine import ops
from engine.devices import SteppedBackend, register_backend

stepped = SteppedBackend()
register_backend("STEPPED", lambda: stepped)
engine.enable_eager_execution(engine.Config(device_count={"STEPPED": 1}), execution_mode=engine.ASYNC)

async def main():
    global h
    h = ops.asarray(np.ones(3), device="STEPPED:0")
    await asyncio.to_thread(stepped.wait_pending)

if WITH_LOOP:
    asyncio.run(main())
else:
    h = ops.asarray(np.ones(3), device="STEPPED:0")
    stepped.wait_pending()
"""


@pytest.mark.parametrize("loop", [True, False])
def test_the_interpreter_exits_with_launched_records(loop: bool) -> None:
    program = EXITS.replace("WITH_LOOP", str(loop))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0
    (line,) = done.stderr.splitlines()
    assert line.startswith("eagerloop: at exit 1 op had not ended: op 'asarray' on STEPPED:0, dispatched at <string>:")
