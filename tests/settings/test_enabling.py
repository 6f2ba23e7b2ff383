"""Turning eager execution on and off: automatic choices, validation, conflicts, what is frozen, what starts when."""

import asyncio
import dataclasses
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import engine
from engine import ops

OTHER = engine.Config(max_pending_ops=10)


def in_force() -> tuple[Any, ...]:
    """All that enabling sets, as a program reads it back."""
    return (
        engine.executing_eagerly(),
        engine.get_execution_mode(),
        engine.get_device_policy(),
        engine.get_config(),
        engine.list_devices(),
    )


def test_eager_execution_is_off_at_first() -> None:
    assert not engine.executing_eagerly()
    assert engine.get_execution_mode() is None
    assert engine.get_device_policy() is None
    assert engine.get_config() is None


def test_the_automatic_choices_are_those_of_tensorflow() -> None:
    assert engine.enable_eager_execution() is None  # type: ignore[func-returns-value]
    assert engine.executing_eagerly()
    assert engine.get_execution_mode() is engine.SYNC
    assert engine.get_device_policy() is engine.DevicePolicy.SILENT
    assert engine.get_config() == engine.Config()
    assert [str(device) for device in engine.list_devices()] == ["CPU:0"]


def test_members_have_the_names_and_numbers_of_tensorflow() -> None:
    assert [(mode.name, mode.value) for mode in engine.ExecutionMode] == [("SYNC", 0), ("ASYNC", 1)]
    assert {policy.name: policy.value for policy in engine.DevicePolicy} == {
        "EXPLICIT": 0,
        "WARN": 1,
        "SILENT": 2,
        "SILENT_FOR_INT32": 3,
    }
    assert engine.SYNC is engine.ExecutionMode.SYNC
    assert engine.ASYNC is engine.ExecutionMode.ASYNC
    for policy in engine.DevicePolicy:
        assert getattr(engine, f"DEVICE_PLACEMENT_{policy.name}") is policy


@pytest.mark.parametrize("mode", engine.ExecutionMode)
@pytest.mark.parametrize("policy", engine.DevicePolicy)
def test_every_combination_can_be_enabled_and_read_back(
    mode: engine.ExecutionMode, policy: engine.DevicePolicy
) -> None:
    engine.enable_eager_execution(OTHER, policy, mode)
    assert engine.get_execution_mode() is mode
    assert engine.get_device_policy() is policy
    assert engine.get_config() == OTHER


# Calling it again


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"config": engine.Config()},
        {"config": engine.Config(device_count={"cpu": 1})},
        {"device_policy": engine.DevicePolicy.SILENT},
        {"execution_mode": engine.SYNC},
        {"config": None, "device_policy": None, "execution_mode": None},
    ],
    ids=["nothing", "config", "the same by value", "policy", "mode", "all none"],
)
def test_options_that_are_none_or_equal_are_fine_the_second_time(options: dict[str, Any]) -> None:
    engine.enable_eager_execution()
    before = in_force()
    engine.enable_eager_execution(**options)
    assert in_force() == before


CONFLICTS: list[tuple[str, Any, Any]] = [
    ("config", engine.Config(), OTHER),
    ("config", OTHER, engine.Config()),
    ("device_policy", engine.DevicePolicy.SILENT, engine.DevicePolicy.EXPLICIT),
    ("device_policy", engine.DevicePolicy.EXPLICIT, engine.DevicePolicy.WARN),
    ("execution_mode", engine.SYNC, engine.ASYNC),
    ("execution_mode", engine.ASYNC, engine.SYNC),
]


@pytest.mark.parametrize(("option", "first", "second"), CONFLICTS)
def test_another_option_is_refused_and_changes_nothing(option: str, first: Any, second: Any) -> None:
    engine.enable_eager_execution(**{option: first})
    before = in_force()
    with pytest.raises(ValueError, match=option) as caught:
        engine.enable_eager_execution(**{option: second})
    for value in (first, second):
        shown = value.max_pending_ops if isinstance(value, engine.Config) else value
        assert repr(shown) in str(caught.value)
    assert in_force() == before


OTHER_VALUES: dict[str, Any] = {
    "device_count": {"CPU": 2},
    "intra_op_parallelism_threads": 1,
    "inter_op_parallelism_threads": 2,
    "allow_soft_placement": False,
    "log_device_placement": True,
    "operation_timeout_in_ms": 5,
    "max_pending_ops": 10,
    "max_pending_bytes": 11,
    "dask_scheduler": "tcp://127.0.0.1:8786",
}
FIELDS = [entry.name for entry in dataclasses.fields(engine.Config)]


def test_there_is_another_value_for_every_field() -> None:
    assert set(OTHER_VALUES) == set(FIELDS)


@pytest.mark.parametrize("others", [*([name] for name in FIELDS), FIELDS[:2], FIELDS[2:]], ids=", ".join)
def test_of_another_config_only_the_fields_that_differ_are_named(others: list[str]) -> None:
    engine.enable_eager_execution()
    config = engine.Config(**{name: OTHER_VALUES[name] for name in others})
    with pytest.raises(ValueError, match="was called before") as caught:
        engine.enable_eager_execution(config)
    message = str(caught.value)
    assert [name for name in FIELDS if f"config.{name} is" in message] == others
    for name in others:
        assert f"{getattr(engine.Config(), name)!r} and cannot be changed to {getattr(config, name)!r}" in message
    assert "Config(" not in message


def test_every_option_that_differs_is_named_at_once() -> None:
    engine.enable_eager_execution()
    with pytest.raises(ValueError, match=r"device_policy.*execution_mode.*config\.max_pending_ops"):
        engine.enable_eager_execution(OTHER, engine.DevicePolicy.WARN, engine.ASYNC)


def test_an_automatic_choice_is_in_force_as_any_other() -> None:
    engine.enable_eager_execution()
    with pytest.raises(ValueError, match="execution_mode"):
        engine.enable_eager_execution(execution_mode=engine.ASYNC)
    with pytest.raises(ValueError, match="device_policy"):
        engine.enable_eager_execution(device_policy=engine.DevicePolicy.WARN)


def test_a_conflict_in_one_option_keeps_the_others_out_too() -> None:
    engine.enable_eager_execution(execution_mode=engine.ASYNC)
    before = in_force()
    with pytest.raises(ValueError, match="execution_mode"):
        engine.enable_eager_execution(engine.Config(), engine.DevicePolicy.SILENT, engine.SYNC)
    assert in_force() == before


def test_of_threads_that_disagree_exactly_one_decides() -> None:
    start = threading.Barrier(8)

    def enable(number: int) -> str:
        start.wait()
        try:
            engine.enable_eager_execution(engine.Config(max_pending_ops=100 + number))
        except ValueError:
            return "refused"
        return f"decided {number}"

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(enable, range(8)))
    decided = [outcome for outcome in outcomes if outcome != "refused"]
    config = engine.get_config()
    assert config is not None
    assert decided == [f"decided {config.max_pending_ops - 100}"]


# Validation


class Lookalike:
    """Compares equal to everything, and is a member of nothing."""

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return "Lookalike()"


BAD_MEMBERS = [7, 0, 1, True, False, "async", "ASYNC", "SILENT", 1.0, (), Lookalike()]
ENABLED = pytest.mark.parametrize("enabled", [False, True], ids=["off", "on"])


@ENABLED
@pytest.mark.parametrize("value", [*BAD_MEMBERS, engine.DevicePolicy.WARN], ids=repr)
def test_a_mode_that_is_no_member_is_refused(value: Any, enabled: bool) -> None:
    if enabled:
        engine.enable_eager_execution()
    before = in_force()
    with pytest.raises(ValueError, match=r"execution_mode must be one of None, .*SYNC, .*ASYNC"):
        engine.enable_eager_execution(execution_mode=value)
    assert in_force() == before


@ENABLED
@pytest.mark.parametrize("value", [*BAD_MEMBERS, engine.ExecutionMode.ASYNC], ids=repr)
def test_a_policy_that_is_no_member_is_refused(value: Any, enabled: bool) -> None:
    if enabled:
        engine.enable_eager_execution()
    before = in_force()
    with pytest.raises(ValueError, match=r"device_policy must be one of None, .*DEVICE_PLACEMENT_") as caught:
        engine.enable_eager_execution(device_policy=value)
    assert repr(value) in str(caught.value)
    assert in_force() == before


@ENABLED
@pytest.mark.parametrize(
    ("value", "named"),
    [({"device_count": {"CPU": 2}}, "dict"), ("CPU", "str"), (True, "bool"), (engine.Config, "type")],
)
def test_a_config_of_another_class_is_refused_by_the_name_of_its_class(value: Any, named: str, enabled: bool) -> None:
    if enabled:
        engine.enable_eager_execution()
    before = in_force()
    with pytest.raises(TypeError, match=rf"config must be .*Config, but got <class '{named}'>"):
        engine.enable_eager_execution(config=value)
    assert in_force() == before


def test_validation_comes_before_the_conflict() -> None:
    engine.enable_eager_execution(execution_mode=engine.ASYNC)
    bad: Any = {}
    with pytest.raises(TypeError, match="config must be"):
        engine.enable_eager_execution(config=bad, execution_mode=engine.SYNC)
    with pytest.raises(ValueError, match="must be one of"):
        engine.enable_eager_execution(device_policy=bad, execution_mode=engine.SYNC)


def test_one_bad_option_keeps_the_good_ones_out() -> None:
    bad: Any = 7
    with pytest.raises(ValueError, match="execution_mode"):
        engine.enable_eager_execution(OTHER, engine.DevicePolicy.EXPLICIT, bad)
    assert not engine.executing_eagerly()
    engine.enable_eager_execution()
    assert engine.get_config() == engine.Config()


# Turning it off


def test_disabling_takes_everything_back_and_can_be_repeated(mode: engine.ExecutionMode) -> None:
    engine.disable_eager_execution()
    engine.disable_eager_execution()
    assert not engine.executing_eagerly()
    assert engine.get_execution_mode() is None


def test_disabling_what_was_never_enabled_is_fine() -> None:
    engine.disable_eager_execution()
    assert not engine.executing_eagerly()


def test_other_options_can_be_enabled_after_disabling(mode: engine.ExecutionMode) -> None:
    assert ops.add(1, 2).result() == 3
    other = engine.ASYNC if mode is engine.SYNC else engine.SYNC
    engine.disable_eager_execution()
    engine.enable_eager_execution(OTHER, engine.DevicePolicy.EXPLICIT, other)
    assert in_force()[1:4] == (other, engine.DevicePolicy.EXPLICIT, OTHER)
    assert ops.add(1, 2).result() == 3


def test_work_in_flight_survives_disabling() -> None:
    engine.enable_eager_execution(execution_mode=engine.ASYNC)
    gate = engine.testing.GateOp()
    handle = gate(ops.add(1, 2))
    engine.disable_eager_execution()
    gate.open()
    assert handle.result() == 3


BLOCKING: list[Callable[[], object]] = [engine.wait, engine.clear_errors]


@pytest.mark.parametrize("point", BLOCKING)
def test_sync_points_outside_any_eager_scope_say_how_to_enable(point: Callable[[], object]) -> None:
    with pytest.raises(engine.EagerNotEnabledError, match=r"enable_eager_execution\(\).*Executor"):
        point()
    with engine.execution_mode(engine.ASYNC), pytest.raises(engine.EagerNotEnabledError):
        point()


@pytest.mark.parametrize("point", [engine.synchronize, engine.drain])
async def test_awaited_sync_points_outside_any_eager_scope_say_how_to_enable(point: Callable[[], Any]) -> None:
    with pytest.raises(engine.EagerNotEnabledError, match=r"enable_eager_execution\(\).*Executor"):
        await point()


# Frozen by the first op

FROZEN: list[tuple[str, Any]] = [
    ("device_count", {"CPU": 2}),
    ("intra_op_parallelism_threads", 1),
    ("inter_op_parallelism_threads", 2),
]


@pytest.mark.parametrize(("field", "value"), FROZEN)
def test_counts_are_frozen_by_the_first_op(mode: engine.ExecutionMode, field: str, value: Any) -> None:
    ops.add(1, 2)
    engine.disable_eager_execution()
    with pytest.raises(RuntimeError, match=rf"{field} cannot be modified after initialization"):
        engine.enable_eager_execution(engine.Config(**{field: value}), execution_mode=mode)
    assert not engine.executing_eagerly()
    engine.enable_eager_execution(execution_mode=mode)
    assert ops.add(1, 2).result() == 3


@pytest.mark.parametrize(("field", "value"), FROZEN)
def test_counts_are_free_until_the_first_op(mode: engine.ExecutionMode, field: str, value: Any) -> None:
    assert engine.list_devices()
    engine.disable_eager_execution()
    config = engine.Config(**{field: value})
    engine.enable_eager_execution(config, execution_mode=mode)
    assert ops.add(1, 2).result() == 3
    assert engine.get_config() == config


@pytest.mark.parametrize(("field", "value"), FROZEN)
def test_the_same_counts_are_fine_after_the_first_op(field: str, value: Any) -> None:
    engine.enable_eager_execution(engine.Config(**{field: value}))
    ops.add(1, 2)
    engine.disable_eager_execution()
    config = engine.Config(**{field: value}, max_pending_ops=10, operation_timeout_in_ms=5_000)
    engine.enable_eager_execution(config)
    assert engine.get_config() == config


def test_an_executor_of_ones_own_has_its_own_counts_at_any_time(mode: engine.ExecutionMode) -> None:
    ops.add(1, 2)
    with engine.Executor(engine.Config(device_count={"CPU": 3})):
        assert len(engine.list_devices()) == 3


def test_counts_that_the_machine_refused_freeze_nothing(mode: engine.ExecutionMode) -> None:
    engine.disable_eager_execution()
    engine.enable_eager_execution(engine.Config(device_count={"GPU": 1}), execution_mode=mode)
    for _ in range(2):
        with pytest.raises(engine.UnknownDeviceError, match="GPU"):
            ops.add(1, 2)
    engine.disable_eager_execution()
    engine.enable_eager_execution(execution_mode=mode)
    assert ops.add(1, 2).result() == 3


# Where it holds, and what it starts


def test_it_holds_in_new_threads(mode: engine.ExecutionMode) -> None:
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(engine.get_execution_mode).result() is mode
        assert pool.submit(lambda: ops.add(1, 2).result().item()).result() == 3


def test_it_holds_in_threads_that_were_there_before() -> None:
    enabled = threading.Event()

    def later() -> Any:
        enabled.wait()
        return engine.get_execution_mode()

    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(later)
        engine.enable_eager_execution(execution_mode=engine.ASYNC)
        enabled.set()
        assert answer.result() is engine.ASYNC


async def test_it_holds_in_tasks_that_were_there_before() -> None:
    enabled = asyncio.Event()

    async def later() -> int:
        await enabled.wait()
        return int(await ops.add(1, 2))

    task = asyncio.create_task(later())
    await asyncio.sleep(0)
    engine.enable_eager_execution(execution_mode=engine.ASYNC)
    enabled.set()
    assert await task == 3


def test_enabling_inside_a_task_holds_after_it() -> None:
    async def main() -> None:
        engine.enable_eager_execution(execution_mode=engine.ASYNC)

    asyncio.run(main())
    assert engine.get_execution_mode() is engine.ASYNC


async def test_nothing_starts_before_the_first_op() -> None:
    threads, tasks = set(threading.enumerate()), asyncio.all_tasks()
    engine.enable_eager_execution(engine.Config(device_count={"CPU": 4}), execution_mode=engine.ASYNC)
    engine.executing_eagerly()
    engine.list_devices()
    async with engine.Executor(execution_mode=engine.ASYNC):
        with engine.device("CPU:1"), engine.device_policy(engine.DevicePolicy.WARN):
            assert set(threading.enumerate()) <= threads
            assert asyncio.all_tasks() == tasks
    assert set(threading.enumerate()) <= threads
    assert asyncio.all_tasks() == tasks


async def test_small_ops_start_no_task_either() -> None:
    tasks = asyncio.all_tasks()
    engine.enable_eager_execution(execution_mode=engine.ASYNC)
    handle = ops.add(1, 2)
    assert asyncio.all_tasks() == tasks
    assert await handle == 3
    assert asyncio.all_tasks() == tasks


# Graphs


def test_asking_makes_no_graph() -> None:
    in_force()
    engine.disable_eager_execution()
    with engine.execution_mode(engine.ASYNC), engine.device("CPU:0"), engine.device_policy(engine.DevicePolicy.WARN):
        in_force()
    engine.enable_eager_execution()


def test_ops_in_an_executor_make_no_graph() -> None:
    with engine.Executor():
        ops.add(1, 2)
    engine.enable_eager_execution()


def test_enabling_after_a_graph_was_begun_says_where_and_changes_nothing() -> None:
    ops.add(1, 2)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"must be called at program startup.*test_enabling\.py:\d+") as caught:
            engine.enable_eager_execution()
        assert "engine.testing.reset()" in str(caught.value)
        assert "Restart" in str(caught.value)
        assert not engine.executing_eagerly()
    engine.testing.reset()
    engine.enable_eager_execution()


def test_a_graph_begun_in_another_thread_counts() -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(ops.add, 1, 2).result()
    with pytest.raises(ValueError, match="must be called at program startup"):
        engine.enable_eager_execution()


def test_validation_comes_before_the_graph() -> None:
    ops.add(1, 2)
    bad: Any = "async"
    with pytest.raises(ValueError, match="execution_mode must be one of"):
        engine.enable_eager_execution(execution_mode=bad)
