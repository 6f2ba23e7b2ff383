"""Devices and policies end to end: where ops run, what is copied, what is said about it, and what is exempt."""

import asyncio
import copy
import gc
import logging
import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import engine
from engine import ops
from engine.testing import GateOp
from handles import Handle

TWO = engine.Config(device_count={"CPU": 2})
EXPLICIT, WARN = engine.DevicePolicy.EXPLICIT, engine.DevicePolicy.WARN
SILENT, SILENT_FOR_INT32 = engine.DevicePolicy.SILENT, engine.DevicePolicy.SILENT_FOR_INT32
CPU0, CPU1 = engine.Device("CPU:0"), engine.Device("CPU:1")


@pytest.fixture(params=[engine.SYNC, engine.ASYNC], ids=lambda mode: mode.name)
def two_devices(request: pytest.FixtureRequest, fresh_engine: None) -> engine.ExecutionMode:
    """Eager execution enabled on two devices, in each mode in turn."""
    mode: engine.ExecutionMode = request.param
    engine.enable_eager_execution(TWO, execution_mode=mode)
    return mode


class Kept(logging.Handler):
    """Keeps the records that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def placements(caplog: pytest.LogCaptureFixture) -> Iterator[list[logging.LogRecord]]:
    """What is logged about placement."""
    logger, kept = logging.getLogger("engine.placement"), Kept()
    caplog.set_level(logging.INFO, logger.name)  # put back by pytest
    logger.addHandler(kept)
    yield kept.records
    logger.removeHandler(kept)


def on(device: engine.Device | str, value: Any = 1.0, dtype: Any = np.float64) -> Handle:
    """A handle on that device, made without a copy."""
    return ops.asarray(np.asarray(value, dtype=dtype), device=device)


# Names


NAMES = [
    *("CPU:1", "cpu:1", "/cpu:1", "/CPU:1", "/device:CPU:1", "/device:cpu:1", "device:CPU:1"),
    *("/job:x/task:0/device:CPU:1", "/job:x/task:0/replica:0/device:CPU:1", "/job:x/replica:0/task:0/cpu:1"),
    *("/job:localhost/replica:0/task:0/device:CPU:1", "/replica:0/task:0/device:CPU:1", "/task:0/CPU:1"),
    *("/JOB:a-b.c_1/DEVICE:CPU:1", " /device:CPU:1 "),
]


@pytest.mark.parametrize("name", NAMES)
def test_all_names_of_a_device_are_one_object(name: str) -> None:
    device = engine.Device(name)
    assert device is CPU1
    assert str(device) == "CPU:1"
    assert (device.kind, device.index) == ("CPU", 1)


def test_devices_survive_copying_and_pickling_as_the_same_object() -> None:
    assert copy.copy(CPU1) is copy.deepcopy(CPU1) is pickle.loads(pickle.dumps(CPU1)) is CPU1
    assert engine.Device(CPU1) is CPU1
    assert CPU0 != CPU1
    assert len({CPU0, CPU1, engine.Device("cpu:0")}) == 2


NO_NAMES = [
    *("", "CPU", "1", "CPU:", ":1", "CPU:x", "CPU:-1", "CPU:1.5", "gpu/1", "/CPU:1:2", "//CPU:1", "CPU:1/"),
    *("/job:x", "/job:0", "/task:0", "/replica:0", "job:0", "/job:x/task:0", "job:x/device:CPU:1", "/job:/CPU:1"),
    *("/job:x/task:1/device:CPU:1", "/replica:2/device:CPU:1", "/job:x/CPU", "/device:job:x/CPU:1"),
]


@pytest.mark.parametrize("name", NO_NAMES)
def test_what_is_no_name_of_a_device_is_refused_at_once(name: str) -> None:
    with pytest.raises(ValueError, match="device must be named like 'CPU:0'"):
        engine.Device(name)
    with pytest.raises(ValueError, match="device must be named like 'CPU:0'"):
        engine.device(name)


@pytest.mark.parametrize("name", [0, 1.0, ("CPU", 1), b"CPU:0", True], ids=repr)
def test_what_is_no_name_at_all_is_a_type_error(name: Any) -> None:
    with pytest.raises(TypeError, match="device must be a name"):
        engine.device(name)


def test_listed_devices_can_be_used_as_they_are(two_devices: engine.ExecutionMode) -> None:
    assert engine.list_devices() == (CPU0, CPU1)
    for device in engine.list_devices():
        with engine.device(device):
            assert ops.add(1, 2).device is device


# Where an op runs


@pytest.mark.parametrize("name", ["CPU:1", "/device:CPU:1", "cpu:1", CPU1], ids=repr)
def test_the_scope_decides(two_devices: engine.ExecutionMode, name: str | engine.Device) -> None:
    x = on(CPU0)
    with engine.device(name):
        assert ops.add(1, 2).device is CPU1
        assert (x + 1).device is CPU1
        assert ops.zeros(3).device is CPU1
        assert ops.asarray([1, 2]).device is CPU1
    assert ops.add(1, 2).device is CPU0


def test_the_innermost_scope_counts(two_devices: engine.ExecutionMode) -> None:
    with engine.device("CPU:1"):
        with engine.device("CPU:0"):
            assert ops.add(1, 2).device is CPU0
        assert ops.add(1, 2).device is CPU1


def test_none_is_no_device_scope_whatever_is_around_it(two_devices: engine.ExecutionMode) -> None:
    x = on(CPU1)
    with engine.device("CPU:0"):
        with engine.device(None):
            assert ops.add(x, 1).device is CPU1
            assert ops.add(1, 1).device is CPU0
            with engine.device("CPU:1"):
                assert ops.add(1, 1).device is CPU1
        assert ops.add(x, 1).device is CPU0
    with engine.device(None):
        assert ops.add(x, 1).device is CPU1


def test_without_a_scope_an_op_follows_its_inputs(two_devices: engine.ExecutionMode) -> None:
    x, y = on(CPU1), on(CPU1, 2.0)
    assert (x + y).device is CPU1
    assert (x * 2).device is (2 * x).device is CPU1
    assert ops.add(np.ones(()), x).device is ops.add(x, np.ones(())).device is CPU1
    assert ops.sum(ops.exp(x)).device is CPU1
    assert ops.concat([ops.reshape(x, (1,)), ops.reshape(y, (1,))]).device is CPU1
    assert ops.asarray([x, y]).device is CPU1
    assert engine.op(lambda a: a)(x).device is CPU1


def test_without_any_handle_an_op_runs_on_the_default_device(two_devices: engine.ExecutionMode) -> None:
    assert ops.add(1, 2).device is CPU0
    assert ops.add(np.ones(3), 2).device is CPU0
    assert ops.zeros(3).device is CPU0


def test_of_inputs_on_several_devices_the_first_counts(two_devices: engine.ExecutionMode) -> None:
    x, y = on(CPU0, 1.0), on(CPU1, 2.0)
    assert (x + y).device is CPU0
    assert (y + x).device is CPU1
    assert ops.add(1.0, y).device is CPU1
    assert (x + y).result() == (y + x).result() == 3.0


def test_ops_of_several_results_are_placed_alike(two_devices: engine.ExecutionMode) -> None:
    parts = ops.split(on(CPU1, [1.0, 2.0]), 2)
    assert {part.device for part in parts} == {CPU1}
    with engine.device("CPU:0"):
        parts = ops.split(on(CPU1, [1.0, 2.0]), 2)
    assert {part.device for part in parts} == {CPU0}
    assert [part.result().tolist() for part in parts] == [[1.0], [2.0]]


def test_results_do_not_depend_on_the_device(two_devices: engine.ExecutionMode) -> None:
    x = np.random.default_rng(0).standard_normal((20, 20))
    h = ops.asarray(x)
    for index in range(6):
        with engine.device(f"CPU:{index % 2}"):
            h = ops.tanh(ops.matmul(h, x))
    expected = x
    for _ in range(6):
        expected = np.tanh(expected @ x)
    assert h.result().tobytes() == expected.tobytes()


async def test_a_device_runs_its_ops_while_the_other_is_busy(gate: GateOp) -> None:
    engine.enable_eager_execution(TWO, execution_mode=engine.ASYNC)
    with engine.device("CPU:1"):
        stuck = gate(1)
        behind = ops.add(1, 2)
    assert await ops.add(3, 4) == 7
    await engine.synchronize("CPU:0")
    assert not behind.is_ready()
    gate.open()
    assert [int(value) for value in await engine.gather(stuck, behind)] == [1, 3]


# Copies


DTYPES = ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
DTYPES += ["float16", "float32", "float64", "complex64", "complex128"]


@pytest.mark.sweep
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("policy", engine.DevicePolicy)
def test_what_each_policy_does_to_each_dtype(
    two_devices: engine.ExecutionMode,
    policy: engine.DevicePolicy,
    dtype: str,
    placements: list[logging.LogRecord],
) -> None:
    x = on(CPU1, [1, 0], dtype)
    with engine.device_policy(policy), engine.device("CPU:0"):
        if policy is EXPLICIT or (policy is SILENT_FOR_INT32 and dtype != "int32"):
            with pytest.raises(engine.DevicePlacementError, match=r"input #0 .*CPU:0 .*CPU:1"):
                ops.equal(x, 1)
        else:
            assert ops.equal(x, 1).result().tolist() == [True, False]
    assert len(placements) == (1 if policy is WARN else 0)
    assert x.device is CPU1


@pytest.mark.parametrize("policy", [EXPLICIT, SILENT_FOR_INT32])
def test_a_refused_op_never_ran_and_poisons_nothing(
    two_devices: engine.ExecutionMode, policy: engine.DevicePolicy
) -> None:
    ran: list[str] = []

    @engine.op
    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        ran.append("ran")
        return a

    x, y = on(CPU0), on(CPU1)
    with engine.device_policy(policy):
        with pytest.raises(engine.DevicePlacementError) as caught:
            kernel(x, y)
        message = str(caught.value)
        for fact in ("'kernel'", "input #1", "expected to be on CPU:0", "actually on CPU:1", "to_device('CPU:0')"):
            assert fact in message
        assert isinstance(caught.value, ValueError)
        assert kernel(x, y.to_device("CPU:0")).result() == 1.0
    engine.wait()
    assert ran == ["ran"]
    assert (x + 1).result() == (y + 1).result() == 2.0


def test_int32_passes_only_for_the_inputs_that_have_it(two_devices: engine.ExecutionMode) -> None:
    x, integer, real = on(CPU0), on(CPU1, 1, np.int32), on(CPU1, 1.0)
    with engine.device_policy(SILENT_FOR_INT32):
        assert (x + integer).result() == (integer + integer).result() == 2.0
        with pytest.raises(engine.DevicePlacementError, match="input #1"):
            x + real


async def test_the_dtype_of_a_pending_input_is_known_to_the_policy(gate: GateOp) -> None:
    engine.enable_eager_execution(TWO, SILENT_FOR_INT32, engine.ASYNC)
    with engine.device("CPU:1"):
        integer = gate(on(CPU1, 1, np.int32)) + 1
        real = gate(on(CPU1, 1.0))
    with engine.device("CPU:0"):
        copied = integer + 1
        with pytest.raises(engine.DevicePlacementError):
            real + 1
    assert not integer.is_ready()
    gate.open()
    assert await copied == 3


async def test_an_input_of_unknown_dtype_is_no_int32(gate: GateOp) -> None:
    engine.enable_eager_execution(TWO, SILENT_FOR_INT32, engine.ASYNC)
    unknown = engine.op(lambda x: x)(gate(on(CPU1, 1, np.int32)))
    with engine.device("CPU:0"), pytest.raises(engine.DevicePlacementError):
        unknown + 1
    gate.open()
    assert (await unknown).dtype == np.int32


async def test_a_failed_input_raises_its_error_at_the_sync_point_under_every_policy_that_copies() -> None:
    engine.enable_eager_execution(TWO, execution_mode=engine.ASYNC)

    @engine.op
    def explode(x: np.ndarray) -> np.ndarray:
        raise KeyError("boom")

    for policy in (SILENT, WARN, SILENT_FOR_INT32):
        failed = explode(on(CPU1, 1, np.int32))
        with pytest.raises(KeyError):
            await failed
        with engine.device_policy(policy), engine.device("CPU:0"):
            dependent = failed + 1
        with pytest.raises(KeyError, match="boom"):
            await dependent


async def test_a_value_made_before_the_loop_ran_is_on_the_device_of_that_name() -> None:
    engine.enable_eager_execution(TWO, engine.DEVICE_PLACEMENT_EXPLICIT, engine.ASYNC)
    with ThreadPoolExecutor(1) as pool:  # which has an executor of its own
        there = [pool.submit(on, CPU0, [1.0, 5.0]).result(), pool.submit(on, CPU1, [1.0, 5.0]).result()]
    here = [on(CPU0, [2.0, 3.0]), on(CPU1, [2.0, 3.0])]
    array = np.array([2.0, 3.0])
    for index, device in enumerate((CPU0, CPU1)):
        x, y, other = there[index], here[index], here[1 - index]
        for result, expected in (
            (x + y, [3.0, 8.0]),
            (y + x, [3.0, 8.0]),
            (x + x, [2.0, 10.0]),
            (x + array, [3.0, 8.0]),
            (array + x, [3.0, 8.0]),
            (ops.clip(x, y, 4.0), [2.0, 4.0]),
            (ops.clip(x, array, x), [1.0, 5.0]),
            (ops.clip(array, x, y), [2.0, 3.0]),
        ):
            assert result.device is device
            assert (await result).tolist() == expected
        for refused in (
            lambda x=x, other=other: x + other,
            lambda x=x, other=other: other + x,
            lambda x=x, y=y, other=other: ops.clip(x, y, other),
            lambda x=x, y=y, other=other: ops.clip(y, x, other),
            lambda x=x, other=other: ops.clip(other, array, x),
        ):
            with pytest.raises(engine.DevicePlacementError):
                refused()


async def test_asking_the_policy_about_a_failed_input_reports_nothing() -> None:
    engine.enable_eager_execution(TWO, SILENT_FOR_INT32, engine.ASYNC)
    failed = ops.reshape(on(CPU1, [1, 2], np.int32), (3,))
    await on(CPU1)  # behind it on the same device
    assert failed.is_ready()
    with engine.device("CPU:0"):
        failed + 1
    with pytest.raises(ValueError, match="cannot reshape"):
        await engine.synchronize()


def test_a_copy_never_moves_the_original(two_devices: engine.ExecutionMode) -> None:
    x = on(CPU0, [1.0, 2.0])
    with engine.device("CPU:1"):
        y = x + 1
    moved = x.to_device("CPU:1")
    assert (x.device, y.device, moved.device) == (CPU0, CPU1, CPU1)
    assert moved is not x
    assert x.result().tolist() == moved.result().tolist() == [1.0, 2.0]
    x[0] = 9.0
    assert (x.device, moved.result().tolist()) == (CPU0, [1.0, 2.0])


def count_copies(records: list[logging.LogRecord]) -> int:
    return sum(record.getMessage().startswith("to_device") for record in records)


def test_a_copy_is_reused_while_it_lives(
    two_devices: engine.ExecutionMode, placements: list[logging.LogRecord]
) -> None:
    config = engine.Config(device_count={"CPU": 3}, log_device_placement=True)
    with engine.Executor(config):
        x = on(CPU0)
        kept = x.to_device("CPU:1")
        again = x.to_device("CPU:1")
        with engine.device("CPU:1"):
            values = [(x + number).result() for number in range(3)]
        assert count_copies(placements) == 1
        x.to_device("CPU:2")
        assert count_copies(placements) == 2
        assert np.shares_memory(np.asarray(kept), np.asarray(again))
        assert values == [1.0, 2.0, 3.0]
        del kept, again
        gc.collect()
        x.to_device("CPU:1")
        assert count_copies(placements) == 3


async def test_ops_that_wait_for_one_input_share_its_copy(gate: GateOp, placements: list[logging.LogRecord]) -> None:
    config = engine.Config(device_count={"CPU": 2}, log_device_placement=True)
    async with engine.Executor(config, execution_mode=engine.ASYNC):
        x = gate(1.0)
        with engine.device("CPU:1"):
            handles = [x + number for number in range(5)]
        assert count_copies(placements) == 1
        gate.open()
        assert [float(await handle) for handle in handles] == [1.0, 2.0, 3.0, 4.0, 5.0]


async def test_a_cancelled_copy_is_not_used_again(gate: GateOp) -> None:
    engine.enable_eager_execution(TWO, execution_mode=engine.ASYNC)
    x = gate(1.0)
    moved = x.to_device("CPU:1")
    moved.cancel()
    with engine.device("CPU:1"):
        y = x + 1
    gate.open()
    assert await y == 2.0
    with pytest.raises(engine.OpCancelledError):
        await moved


async def test_the_end_of_a_scope_takes_no_copy_away_from_others(gate: GateOp) -> None:
    copied, used = asyncio.Event(), asyncio.Event()
    others: list[Handle] = []
    engine.enable_eager_execution(TWO, execution_mode=engine.ASYNC)
    x = gate(1.0)

    async def other() -> None:
        await copied.wait()
        with engine.device("CPU:1"):
            others.append(x + 5)
        used.set()

    task = asyncio.create_task(other())
    async with engine.scope() as scope:
        with engine.device("CPU:1"):
            x + 1
        copied.set()
        await used.wait()
        scope.cancel()
    gate.open()
    await task
    assert await others[0] == 6.0


def test_a_copy_of_a_copy_can_come_back(two_devices: engine.ExecutionMode) -> None:
    x = on(CPU0, [1.0])
    back = x.to_device("CPU:1").to_device("CPU:0")
    assert back.device is CPU0
    assert back.result().tolist() == [1.0]


def test_handles_of_one_executor_can_be_used_in_another(two_devices: engine.ExecutionMode) -> None:
    x = on(CPU1, 2.0)
    with engine.Executor(TWO, EXPLICIT, two_devices):
        assert (x * 2).device is CPU1
        assert (x * 2).result() == 4.0


# WARN


def add(x: Handle, y: Handle) -> Handle:
    """One call site."""
    return x + y


def test_a_warning_has_the_facts_and_comes_once_for_a_call_site(
    two_devices: engine.ExecutionMode, placements: list[logging.LogRecord]
) -> None:
    x, y = on(CPU0), on(CPU1)
    with engine.device_policy(WARN):
        for _ in range(3):
            assert add(x, y).result() == 2.0
        assert len(placements) == 1
        ops.multiply(2.0, ops.add(x, y))
    assert len(placements) == 2
    record = placements[0]
    assert (record.name, record.levelno) == ("engine.placement", logging.WARNING)
    message = record.getMessage()
    for fact in ("'add'", "test_devices.py:", "input #1", "expected to be on CPU:0", "actually on CPU:1", "copy"):
        assert fact in message


def test_each_input_that_is_elsewhere_is_named(
    two_devices: engine.ExecutionMode, placements: list[logging.LogRecord]
) -> None:
    x, y = on(CPU0), on(CPU0)
    with engine.device_policy(WARN), engine.device("CPU:1"):
        add(x, y)
    assert [("input #0" in each.getMessage(), "input #1" in each.getMessage()) for each in placements] == [
        (True, False),
        (False, True),
    ]


def test_other_policies_say_nothing(two_devices: engine.ExecutionMode, placements: list[logging.LogRecord]) -> None:
    assert add(on(CPU0), on(CPU1)).result() == 2.0
    with engine.device_policy(SILENT_FOR_INT32):
        assert add(on(CPU0), on(CPU1, 1, np.int32)).result() == 2.0
    assert not placements


# Exempt


@pytest.mark.parametrize("policy", [EXPLICIT, SILENT_FOR_INT32, WARN])
def test_explicit_copies_host_values_and_reads_are_exempt(
    two_devices: engine.ExecutionMode, policy: engine.DevicePolicy, placements: list[logging.LogRecord]
) -> None:
    x = on(CPU1, [1.0, 2.0])
    with engine.device_policy(policy), engine.device("CPU:0"):
        assert x.to_device("CPU:0").device is CPU0
        assert x.to_device(CPU0).device is CPU0
        assert ops.asarray(x, device="CPU:0").device is CPU0
        assert ops.asarray(x, device=CPU1).device is CPU1
        assert ops.asarray(x, device="CPU:1", dtype=np.float32).device is CPU1
        assert ops.asarray(x, device="CPU:0", copy=True).device is CPU0
        assert ops.asarray(np.ones(2), device="CPU:1").device is CPU1
        assert ops.zeros(2, device="CPU:1").device is CPU1
        assert x.result().tolist() == [1.0, 2.0]
        assert np.asarray(x).tolist() == x.tolist() == [1.0, 2.0]
    with engine.device_policy(policy), engine.device("CPU:1"):
        assert (x + 1).result().tolist() == [2.0, 3.0]
        assert (x + True).result().tolist() == [2.0, 3.0]
        assert ops.add(np.float64(1), x).result().tolist() == [2.0, 3.0]
        assert ops.add(x, np.ones(2)).result().tolist() == [2.0, 3.0]
        assert ops.add([1.0, 1.0], x).result().tolist() == [2.0, 3.0]
    assert not placements


async def test_awaiting_is_exempt(two_devices: engine.ExecutionMode) -> None:
    x = on(CPU1, [1.0, 2.0])
    with engine.device_policy(EXPLICIT), engine.device("CPU:0"):
        assert (await x).tolist() == [1.0, 2.0]
        assert (await engine.gather(x, x))[1].tolist() == [1.0, 2.0]


# Scopes of policies


def test_policies_nest(two_devices: engine.ExecutionMode) -> None:
    x, y = on(CPU0), on(CPU1)
    with engine.device_policy(EXPLICIT):
        assert engine.get_device_policy() is EXPLICIT
        with engine.device_policy(SILENT):
            assert engine.get_device_policy() is SILENT
            assert (x + y).result() == 2.0
        with pytest.raises(engine.DevicePlacementError):
            x + y
    assert engine.get_device_policy() is SILENT
    assert (x + y).result() == 2.0


@pytest.mark.parametrize("bad", [None, 0, 2, True, "SILENT", engine.SYNC], ids=repr)
def test_what_is_no_policy_is_refused_at_once(bad: Any) -> None:
    with pytest.raises(ValueError, match="policy must be"):
        engine.device_policy(bad)


async def test_each_task_has_its_own_device_and_policy(two_devices: engine.ExecutionMode) -> None:
    x, y = on(CPU0), on(CPU1)
    entered = asyncio.Barrier(2)

    async def explicit() -> None:
        with engine.device_policy(EXPLICIT):
            await entered.wait()
            with pytest.raises(engine.DevicePlacementError):
                x + y

    async def elsewhere() -> None:
        with engine.device("CPU:1"):
            await entered.wait()
            assert (x + y).device is CPU1

    await asyncio.gather(explicit(), elsewhere())
    assert (x + y).device is CPU0


async def test_device_and_policy_follow_into_threads_of_the_task(two_devices: engine.ExecutionMode) -> None:
    x = on(CPU0)

    def compute() -> Any:
        assert ops.add(1, 2).device is CPU1
        with pytest.raises(engine.DevicePlacementError):
            x + 1
        return ops.add(1, 2).result()

    with engine.device("CPU:1"), engine.device_policy(EXPLICIT):
        assert await asyncio.to_thread(compute) == 3


def test_device_scopes_stay_in_their_thread(two_devices: engine.ExecutionMode) -> None:
    with engine.device("CPU:1"), ThreadPoolExecutor(1) as pool:
        assert pool.submit(lambda: ops.add(1, 2).device).result() is CPU0


def test_the_policy_of_the_program_is_in_force_everywhere(fresh_engine: None) -> None:
    engine.enable_eager_execution(TWO, EXPLICIT, engine.ASYNC)
    x, y = on(CPU0), on(CPU1)
    with ThreadPoolExecutor(1) as pool, pytest.raises(engine.DevicePlacementError):
        pool.submit(lambda: x + y).result()


# Soft placement


@pytest.mark.parametrize("soft", [True, False])
def test_a_missing_device_falls_back_or_fails(mode: engine.ExecutionMode, soft: bool) -> None:
    with engine.Executor(engine.Config(allow_soft_placement=soft), EXPLICIT, mode):
        x = ops.asarray([1.0])
        if soft:
            with engine.device("GPU:0"):
                assert (x + 1).device is CPU0
            assert x.to_device("CPU:5").device is CPU0
        else:
            with engine.device("GPU:0"), pytest.raises(engine.UnknownDeviceError):
                x + 1
            with pytest.raises(engine.UnknownDeviceError):
                x.to_device("CPU:5")
        assert (x + 1).result().tolist() == [2.0]
