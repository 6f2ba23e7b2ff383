"""Config: checked and copied when made, compared by value, and every field honoured."""

import asyncio
import copy
import dataclasses
import json
import logging
import pickle
import pydoc
import re
import threading
from typing import Any

import numpy as np
import pytest
import threadpoolctl  # type: ignore[import-untyped]

import engine
from engine import ops
from engine.testing import GateOp
from tests.common import reached

ONE_THREAD = engine.Config(intra_op_parallelism_threads=1)
TIMED = engine.Config(operation_timeout_in_ms=20)


# Values


def test_the_fields_are_those_of_the_contract() -> None:
    values = {field.name: getattr(engine.Config(), field.name) for field in dataclasses.fields(engine.Config)}
    assert values.pop("max_pending_ops") > 0
    assert values.pop("max_pending_bytes") > 0
    assert values == {
        "device_count": {"CPU": 1},
        "intra_op_parallelism_threads": 0,
        "inter_op_parallelism_threads": 0,
        "allow_soft_placement": True,
        "log_device_placement": False,
        "operation_timeout_in_ms": 0,
        "dask_scheduler": None,
    }


def test_help_documents_every_field_with_its_default() -> None:
    text = pydoc.plain(pydoc.render_doc(engine.Config))
    shown = {"max_pending_bytes": "1 GiB", "device_count": '{"CPU": 1}'}
    for entry in dataclasses.fields(engine.Config):
        default = re.escape(shown.get(entry.name, repr(entry.default)))
        assert re.search(rf" {entry.name} \(.*, {default}\):\n[ |]*\w+ \w+", text), entry.name


def test_configs_are_compared_by_value() -> None:
    assert engine.Config() == engine.Config(device_count={"CPU": 1})
    assert hash(engine.Config()) == hash(engine.Config(device_count={"CPU": 1}))
    assert engine.Config(device_count={"CPU": 2}) == engine.Config(device_count={"cpu": int(np.int64(2))})
    assert engine.Config(device_count={"CPU": 2}) != engine.Config()
    assert engine.Config(allow_soft_placement=False) != engine.Config()


def test_configs_survive_copying_and_pickling() -> None:
    config = engine.Config(device_count={"CPU": 3}, max_pending_ops=7)
    assert copy.copy(config) == copy.deepcopy(config) == pickle.loads(pickle.dumps(config)) == config
    assert dataclasses.replace(config, max_pending_ops=8).device_count == {"CPU": 3}


def test_a_config_is_told_as_plain_values() -> None:
    config = engine.Config(device_count={"CPU": 2}, max_pending_ops=7)
    values = dataclasses.asdict(config)
    assert values["device_count"] == {"CPU": 2}
    assert type(values["device_count"]) is dict
    assert engine.Config(**values) == config
    assert "device_count={'CPU': 2}" in repr(config)
    assert json.loads(json.dumps(values)) == values


def test_a_config_cannot_be_changed() -> None:
    config: Any = engine.Config()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.max_pending_ops = 1
    with pytest.raises(TypeError):
        config.device_count["CPU"] = 2


def test_the_device_count_is_copied() -> None:
    counts = {"CPU": 2}
    config = engine.Config(device_count=counts)
    engine.enable_eager_execution(config)
    counts["CPU"] = 9
    counts["GPU"] = 1
    assert config.device_count == {"CPU": 2}
    assert list(map(str, engine.list_devices())) == ["CPU:0", "CPU:1"]


def test_kinds_that_are_not_named_or_have_none_are_left_out() -> None:
    assert engine.Config(device_count={}).device_count == {"CPU": 1}
    assert engine.Config(device_count={"GPU": 0}) == engine.Config()
    assert engine.Config(device_count={"GPU": 2}).device_count == {"CPU": 1, "GPU": 2}


COUNTS = (
    "intra_op_parallelism_threads",
    "inter_op_parallelism_threads",
    "operation_timeout_in_ms",
    "max_pending_ops",
    "max_pending_bytes",
)
SWITCHES = ("allow_soft_placement", "log_device_placement")


def make(field: str, value: Any) -> engine.Config:
    return engine.Config(**{field: value})


def test_an_unknown_field_is_refused_by_name() -> None:
    with pytest.raises(TypeError, match="gpu_options"):
        make("gpu_options", 1)


@pytest.mark.parametrize("field", COUNTS)
@pytest.mark.parametrize("value", [-1, -(2**70)])
def test_a_negative_number_is_refused_by_the_name_of_its_field(field: str, value: int) -> None:
    with pytest.raises(ValueError, match=rf"Config\.{field} .*{value}"):
        make(field, value)


def test_more_devices_than_anybody_has_are_refused() -> None:
    with pytest.raises(ValueError, match=r"device_count\['CPU'\] must be at most 1024, but got 1000000000"):
        make("device_count", {"CPU": 10**9})


@pytest.mark.parametrize("field", ["max_pending_ops", "max_pending_bytes"])
def test_a_mark_of_zero_is_refused(field: str) -> None:
    with pytest.raises(ValueError, match=field):
        make(field, 0)


@pytest.mark.parametrize("field", COUNTS)
@pytest.mark.parametrize("value", [1.5, 2.0, "2", None, True], ids=repr)
def test_a_number_of_another_type_is_refused_by_the_name_of_its_field(field: str, value: Any) -> None:
    with pytest.raises(TypeError, match=rf"Config\.{field} "):
        engine.Config(**{field: value})


@pytest.mark.parametrize("field", SWITCHES)
@pytest.mark.parametrize("value", [0, 1, "yes", None], ids=repr)
def test_a_switch_of_another_type_is_refused_by_the_name_of_its_field(field: str, value: Any) -> None:
    with pytest.raises(TypeError, match=rf"Config\.{field} "):
        engine.Config(**{field: value})


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (2, TypeError),
        ([("CPU", 2)], TypeError),
        (None, TypeError),
        ({0: 1}, TypeError),
        ({"CPU": "2"}, TypeError),
        ({"CPU": True}, TypeError),
        ({"CPU": 1.0}, TypeError),
        ({"CPU": 0}, ValueError),
        ({"CPU": -1}, ValueError),
        ({"GPU": -1}, ValueError),
        ({"": 1}, ValueError),
        ({"CPU:0": 1}, ValueError),
    ],
    ids=repr,
)
def test_a_bad_device_count_is_refused_by_name(value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"Config\.device_count"):
        engine.Config(device_count=value)


def test_thread_counts_beyond_the_cores_are_fine(mode: engine.ExecutionMode) -> None:
    with engine.Executor(engine.Config(intra_op_parallelism_threads=64, inter_op_parallelism_threads=64)):
        assert np.array_equal(ops.matmul(np.eye(3), np.eye(3)).result(), np.eye(3))


# device_count


@pytest.mark.parametrize("count", [1, 2, 5])
def test_device_count_is_the_number_of_devices(mode: engine.ExecutionMode, count: int) -> None:
    with engine.Executor(engine.Config(device_count={"CPU": count}, allow_soft_placement=False)):
        assert list(map(str, engine.list_devices())) == [f"CPU:{index}" for index in range(count)]
        with engine.device(f"CPU:{count - 1}"):
            assert str(ops.add(1, 2).device) == f"CPU:{count - 1}"
        with engine.device(f"CPU:{count}"), pytest.raises(engine.UnknownDeviceError, match=f"CPU:{count} .*CPU:0"):
            ops.add(1, 2)


def test_a_kind_that_the_machine_lacks_is_an_error_at_first_use(mode: engine.ExecutionMode) -> None:
    engine.disable_eager_execution()
    engine.enable_eager_execution(engine.Config(device_count={"TPU": 3}), execution_mode=mode)
    with pytest.raises(engine.UnknownDeviceError, match=r"device_count asks for 3 TPU .* this machine has no TPU.*CPU"):
        ops.add(1, 2)


def test_an_executor_for_a_kind_that_the_machine_lacks_cannot_be_entered() -> None:
    executor = engine.Executor(engine.Config(device_count={"TPU": 1}))
    with pytest.raises(engine.UnknownDeviceError, match="no TPU"), executor:
        pass
    assert not engine.executing_eagerly()


# intra_op_parallelism_threads


def blas_threads() -> list[int]:
    return [library["num_threads"] for library in threadpoolctl.threadpool_info() if library["user_api"] == "blas"]


@engine.op
def count_blas_threads() -> np.ndarray:
    return np.asarray(max(blas_threads()))


@pytest.mark.parametrize("config", [ONE_THREAD, engine.Config(), engine.Config(device_count={"CPU": 2})])
def test_the_threads_of_blas_are_left_alone(mode: engine.ExecutionMode, config: engine.Config) -> None:
    before = blas_threads()
    x = np.random.default_rng(0).standard_normal((600, 600))
    with engine.Executor(config):
        product = ops.matmul(x, x)
        assert count_blas_threads().result() == max(before)
        assert product.result().tobytes() == (x @ x).tobytes()
    assert blas_threads() == before


async def test_results_of_two_devices_have_numpys_bits_and_numpys_own_are_not_changed() -> None:
    x = np.random.default_rng(0).standard_normal((600, 600))
    inverse, product = np.linalg.inv(x), x @ x
    async with engine.Executor(engine.Config(device_count={"CPU": 2}), execution_mode=engine.ASYNC):
        results = []
        for _ in range(3):
            for name in ("CPU:0", "CPU:1"):
                with engine.device(name):
                    results += [ops.linalg.inv(x), ops.matmul(x, x)]
        meanwhile = await asyncio.to_thread(lambda: [np.linalg.inv(x).tobytes() for _ in range(3)])
        for index, result in enumerate(results):
            expected = product if index % 2 else inverse
            assert (await result).tobytes() == expected.tobytes()
    assert set(meanwhile) == {inverse.tobytes()}


def test_blas_results_do_not_depend_on_the_thread_count(mode: engine.ExecutionMode) -> None:
    x = np.random.default_rng(0).standard_normal((50, 50))
    with engine.Executor(ONE_THREAD), threadpoolctl.threadpool_limits(1):
        assert ops.matmul(x, x).result().tobytes() == (x @ x).tobytes()


# inter_op_parallelism_threads


def test_inter_op_threads_run_independent_ops_at_once() -> None:
    first, second = GateOp(), GateOp()
    config = engine.Config(inter_op_parallelism_threads=2)
    with engine.Executor(config, execution_mode=engine.ASYNC) as executor:
        handles = [first(1), second(2)]
        try:
            with pytest.raises(TimeoutError):
                handles[1].result(timeout=0)
            assert first.wait_entered(30)
            assert second.wait_entered(30)
            assert executor.statistics().running == 2
        finally:
            first.open()
            second.open()
        assert [int(handle.result()) for handle in handles] == [1, 2]


def test_with_one_inter_op_thread_ops_run_one_after_the_other_in_order() -> None:
    running: list[str] = []
    most: list[int] = []

    def step(name: str) -> Any:
        @engine.op(name=name)
        def run() -> np.ndarray:
            running.append(name)
            most.append(len(running))
            running.remove(name)
            order.append(name)
            return np.zeros(())

        return run

    order: list[str] = []
    gate = GateOp()
    with engine.Executor(engine.Config(inter_op_parallelism_threads=1), execution_mode=engine.ASYNC) as executor:
        gate(1)
        handles = [step(f"op {number}")() for number in range(20)]
        with pytest.raises(TimeoutError):
            handles[-1].result(timeout=0)
        assert gate.wait_entered(30)
        assert executor.statistics().running == 1
        assert not order
        gate.open()
        engine.wait()
        assert all(handle.is_ready() for handle in handles)
    assert order == [f"op {number}" for number in range(20)]
    assert set(most) == {1}


# operation_timeout_in_ms


async def test_awaiting_longer_than_the_timeout_names_the_op_and_its_state(gate: GateOp) -> None:
    async with engine.Executor(TIMED, execution_mode=engine.ASYNC):
        running = gate(1)
        queued = ops.add(running, 1)
        await asyncio.to_thread(gate.wait_entered, 30)
        with pytest.raises(TimeoutError, match=r"0\.02 s.*'gate' on CPU:0.*test_config\.py.*it is running"):
            await running
        with pytest.raises(TimeoutError, match=r"'add'.*it is pending"):
            await queued
        with pytest.raises(TimeoutError, match=r"'add'.*it is pending"):
            await queued.wait_ready()
        with pytest.raises(TimeoutError, match=r"'(gate|add)'.*it is (pending|running)"):
            await engine.gather(running, queued)
        with pytest.raises(TimeoutError, match=r"'gate'.*it is running"):
            await engine.synchronize()
        gate.open()
        await reached(queued.is_ready)
        assert await queued == 2


def test_blocking_longer_than_the_timeout_names_the_op_and_its_state(gate: GateOp) -> None:
    with engine.Executor(TIMED, execution_mode=engine.ASYNC):
        running = gate(1)
        queued = ops.add(running, 1)
        assert gate.wait_entered(30)
        for read in (running.result, running.item, running.__array__, running.__bool__):
            with pytest.raises(TimeoutError, match=r"0\.02 s.*'gate' on CPU:0.*it is running"):
                read()
        with pytest.raises(TimeoutError, match=r"'add'.*it is pending"):
            queued.result(timeout=60)
        with pytest.raises(TimeoutError, match=r"'gate'.*it is running"):
            engine.wait()
        with engine.execution_mode(engine.SYNC), pytest.raises(TimeoutError, match=r"'gate'.*it is running"):
            ops.add(running, 1)
        gate.open()
        while not queued.is_ready():
            threading.Event().wait(0.001)
        assert queued.result() == 2


def test_leaving_an_executor_longer_than_the_timeout_names_the_op(gate: GateOp) -> None:
    with pytest.raises(TimeoutError, match="'gate'"), engine.Executor(TIMED, execution_mode=engine.ASYNC) as executor:
        gate(1)
    assert executor.state == "closed"


def test_a_shorter_limit_of_the_call_counts(gate: GateOp) -> None:
    config = engine.Config(operation_timeout_in_ms=60_000)
    with engine.Executor(config, execution_mode=engine.ASYNC):
        handle = gate(1)
        with pytest.raises(TimeoutError, match="'gate'"):
            handle.result(timeout=0)
        with pytest.raises(TimeoutError, match="'gate'"):
            engine.wait(timeout=0)
        gate.open()


def test_the_timeout_of_the_program_is_honoured_too(gate: GateOp) -> None:
    engine.enable_eager_execution(TIMED, execution_mode=engine.ASYNC)
    handle = gate(1)
    with pytest.raises(TimeoutError, match="'gate'"):
        handle.result()
    gate.open()


# max_pending_ops, max_pending_bytes


async def test_dispatch_never_leaves_more_than_the_marks_in_flight() -> None:
    most_ops = most_bytes = 0
    block = np.ones(10_000)
    config = engine.Config(max_pending_ops=16, max_pending_bytes=4 * block.nbytes)
    async with engine.Executor(config, execution_mode=engine.ASYNC) as executor:
        for _ in range(50):
            total = ops.sum(ops.add(block, 1.0))
            statistics = executor.statistics()
            most_ops = max(most_ops, statistics.pending)
            most_bytes = max(most_bytes, statistics.pending_bytes)
        assert await total == 20_000
    assert 1 < most_ops <= 16
    assert block.nbytes < most_bytes <= 4 * block.nbytes


async def test_past_the_mark_what_cannot_run_inline_is_refused(gate: GateOp) -> None:
    async with engine.Executor(engine.Config(max_pending_ops=3), execution_mode=engine.ASYNC) as executor:
        handles = [gate(number) for number in range(3)]
        with pytest.raises(engine.QueueFullError, match="max_pending_ops"):
            gate(3)
        assert executor.statistics().pending == 3
        gate.open()
        assert [int(await handle) for handle in handles] == [0, 1, 2]


# allow_soft_placement, log_device_placement


def test_soft_placement_falls_back_to_the_first_device_and_says_so(
    mode: engine.ExecutionMode, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "engine.placement"), engine.device("GPU:3"):
        handle = ops.add(1, 2)
        assert str(handle.device) == "CPU:0"
        assert handle.result() == 3
    assert any("GPU:3" in message and "CPU:0" in message for message in caplog.messages)


def test_without_soft_placement_a_missing_device_is_an_error_at_the_call(mode: engine.ExecutionMode) -> None:
    with engine.Executor(engine.Config(allow_soft_placement=False), execution_mode=mode):
        handle = ops.add(1, 2)
        for call in (
            lambda: handle.to_device("CPU:1"),
            lambda: ops.zeros(3, device="CPU:1"),
            lambda: ops.asarray(handle, device="CPU:1"),
            lambda: engine.wait("CPU:1"),
        ):
            with pytest.raises(engine.UnknownDeviceError, match=r"CPU:1 does not exist.*CPU:0"):
                call()
        with engine.device("GPU:0"), pytest.raises(engine.UnknownDeviceError, match="GPU:0 does not exist"):
            handle + 1
        assert (handle + 1).result() == 4


def test_each_dispatch_is_logged_with_op_and_device(
    mode: engine.ExecutionMode, caplog: pytest.LogCaptureFixture
) -> None:
    config = engine.Config(device_count={"CPU": 2}, log_device_placement=True)
    caplog.set_level(logging.INFO, "engine.placement")
    with engine.Executor(config, execution_mode=mode):
        x = ops.add(1, 2)
        with engine.device("CPU:1"):
            y = ops.multiply(x, 2)
        y.to_device("CPU:0")
    assert caplog.messages == ["add: CPU:0", "to_device: CPU:1", "multiply: CPU:1", "to_device: CPU:0"]
    assert {record.name for record in caplog.records} == {"engine.placement"}


def test_without_the_switch_nothing_is_logged(mode: engine.ExecutionMode, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "engine.placement")
    with engine.Executor(engine.Config(device_count={"CPU": 2})), engine.device("CPU:1"):
        ops.add(ops.ones(3, device="CPU:0"), 2).result()
    assert not caplog.messages
