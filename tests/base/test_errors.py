"""Errors: raised at the call or at sync points, with the place of dispatch, by every reader, and never lost."""

import asyncio
import copyreg
import gc
import inspect
import linecache
import re
import subprocess
import sys
import textwrap
import threading
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from inspect import currentframe
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import engine
from engine import ops
from engine.failures import report_at_exit
from engine.testing import GateOp
from handles import Handle

ROOT = Path(__file__).resolve().parents[2]


class CustomError(Exception):
    """An exception of a user, which cannot be made from its message alone."""

    def __init__(self, code: int, *, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code


@engine.op
def explode(x: np.ndarray, message: str = "boom") -> np.ndarray:
    raise KeyError(message)


def line() -> int:
    """The number of the line that called this."""
    frame = currentframe()
    assert frame is not None
    assert frame.f_back is not None
    return frame.f_back.f_lineno


def outcome(dispatch: Callable[[], Any]) -> BaseException:
    """What the dispatched op raises: at the call in SYNC mode, at the sync point in ASYNC mode."""
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - whichever it is
        dispatch().result()
    return caught.value


async def ended(handle: Handle) -> None:
    """Wait for an op without reading its handle."""
    async for _ in engine.as_completed([handle]):
        pass


def settle(handle: Handle) -> None:
    """Wait for an op without reading its handle."""
    while not handle.is_ready():
        threading.Event().wait(0.0005)


# The same error in both modes

FAILING: dict[str, Callable[[], Any]] = {
    "shapes that do not broadcast": lambda: ops.add(ops.asarray(np.ones(3)), ops.asarray(np.ones(4))),
    "a ufunc without a loop for the dtypes": lambda: ops.bitwise_and(ops.asarray(1.5), ops.asarray(2.5)),
    "an axis out of range": lambda: ops.sum(ops.asarray(np.ones(3)), axis=5),
    "inner dimensions": lambda: ops.matmul(ops.asarray(np.ones((2, 3))), ops.asarray(np.ones((2, 3)))),
    "a singular matrix": lambda: ops.linalg.inv(ops.asarray(np.zeros((2, 2)))),
    "several outputs": lambda: ops.linalg.svd(ops.asarray(np.full((2, 2), np.nan)))[0],
    "an exception that is a frozen dataclass": lambda: engine.op(raise_frozen)(1),
    "an integer overflow": lambda: ops.add(ops.asarray(np.zeros(2, np.uint8)), 300),
    "a negative integer power": lambda: ops.pow(ops.asarray(np.array([2])), -1),
    "a reshape": lambda: ops.reshape(ops.asarray(np.ones(6)), (4, 2)),
    "an index out of range": lambda: ops.asarray(np.ones(3))[7],
    "user code": lambda: explode(1),
    "an exception with a signature of its own": lambda: engine.op(raise_custom)(1),
    "an ndarray operand": lambda: ops.add(np.ones(3), np.ones(4)),
}


def raise_custom(x: np.ndarray) -> np.ndarray:
    raise CustomError(3, reason="because")


@dataclass(frozen=True)
class FrozenError(Exception):
    """An exception that lets nobody set an attribute."""

    code: int


def raise_frozen(x: np.ndarray) -> np.ndarray:
    raise FrozenError(3)


@pytest.mark.parametrize("dispatch", [pytest.param(each, id=name) for name, each in FAILING.items()])
def test_class_and_message_do_not_depend_on_the_mode(dispatch: Callable[[], Any]) -> None:
    engine.enable_eager_execution()
    errors = []
    for mode in engine.ExecutionMode:
        with engine.execution_mode(mode):
            errors.append(outcome(dispatch))
    sync, deferred = errors
    assert type(sync) is type(deferred)
    assert str(sync) == str(deferred)
    assert getattr(sync, "__notes__", None) == getattr(deferred, "__notes__", None)
    engine.wait()


@pytest.mark.parametrize("dispatch", [pytest.param(each, id=name) for name, each in FAILING.items()])
async def test_async_mode_raises_them_at_the_sync_point_only(
    dispatch: Callable[[], Any], gate: GateOp, asynchronous: None
) -> None:
    gate(1)
    handle = dispatch()  # behind the closed gate: nothing has run
    gate.open()
    with pytest.raises(Exception):  # noqa: B017, PT011 - each has its own
        await handle


# At the call, in both modes

AT_THE_CALL: dict[str, tuple[Callable[[], Any], type[Exception]]] = {
    "too few arguments": (lambda: ops.add(1), TypeError),  # type: ignore[call-arg]
    "too many arguments": (lambda: ops.negative(1, 2), TypeError),  # type: ignore[call-arg]
    "an unknown argument": (lambda: ops.sum(ops.ones(3), axes=0), TypeError),  # type: ignore[call-arg]
    "an array by name": (lambda: ops.add(x1=1, x2=2), TypeError),  # type: ignore[call-arg]
    "an unknown device": (lambda: ops.ones(3, device="nonsense"), ValueError),
    "ragged data": (lambda: ops.asarray([[1, 2], [3]]), ValueError),
    "ragged operands": (lambda: ops.add([[1, 2], [3]], 1), ValueError),
    "objects": (lambda: ops.add(np.array([object()]), 1), TypeError),
    "what is no operand": (lambda: ops.add(object(), 1), TypeError),  # type: ignore[arg-type]
    "text": (lambda: ops.add({}, 1), TypeError),  # type: ignore[arg-type]
    "too few arguments of a user op": (lambda: explode(), TypeError),
    "too many arguments of a user op": (lambda: explode(1, 2, 3), TypeError),
    "an unknown argument of a user op": (lambda: explode(1, nonsense=2), TypeError),
    "an object array for a user op": (lambda: explode(np.array([None])), TypeError),
    "a masked array": (lambda: ops.add(np.ma.masked_array([1, 2], [True, False]), 1), TypeError),
}


@pytest.mark.parametrize(("call", "kind"), [pytest.param(*each, id=name) for name, each in AT_THE_CALL.items()])
async def test_what_is_known_to_be_wrong_raises_at_the_call(
    call: Callable[[], Any], kind: type[Exception], mode: engine.ExecutionMode
) -> None:
    with pytest.raises(kind):
        call()
    await engine.synchronize()  # nothing was poisoned, nothing ran


async def test_a_device_that_is_not_there_raises_at_the_call(mode: engine.ExecutionMode) -> None:
    config = engine.Config(allow_soft_placement=False)
    async with engine.Executor(config=config, execution_mode=mode):
        x = ops.add(1, 1)
        with engine.device("CPU:7"), pytest.raises(engine.UnknownDeviceError, match=r"CPU:7.*CPU:0"):
            ops.add(x, 1)
        with pytest.raises(engine.UnknownDeviceError, match="CPU:7"):
            x.to_device("CPU:7")
        assert await x == 2


async def test_a_closed_executor_raises_at_the_call(mode: engine.ExecutionMode) -> None:
    async with engine.Executor(execution_mode=mode) as executor:
        x = ops.add(1, 1)
    with pytest.raises(engine.ExecutorClosedError, match="closed"), executor.as_default():
        ops.add(1, 1)
    assert await x == 2


async def test_a_device_conflict_raises_at_the_call(mode: engine.ExecutionMode) -> None:
    config = engine.Config(device_count={"CPU": 2})
    async with engine.Executor(config, engine.DevicePolicy.EXPLICIT, mode):
        x = ops.add(np.ones(2), 1)
        y = x.to_device("CPU:1")
        with pytest.raises(engine.DevicePlacementError, match=r"input #1.*CPU:0.*CPU:1.*to_device"):
            ops.add(x, y)
        assert (await ops.add(x, y.to_device("CPU:0"))).tolist() == [4, 4]


# The place of dispatch

BAD = np.ones(4)


def place_of(dispatch: Callable[[Handle], tuple[Handle, int]]) -> tuple[BaseException, int]:
    """The error of an op dispatched behind a closed gate, and the line where it was dispatched."""
    gate = GateOp()
    held = gate(np.ones(3))
    try:
        handle, where = dispatch(held)
    finally:
        gate.open()
    return outcome(lambda: handle), where


def by_function(x: Handle) -> tuple[Handle, int]:
    return ops.add(x, BAD), line()


def by_operator(x: Handle) -> tuple[Handle, int]:
    return x + BAD, line()


def by_reflected_operator(x: Handle) -> tuple[Handle, int]:
    return [1, 2, 3, 4] + x, line()  # noqa: RUF005


def by_array_on_the_left(x: Handle) -> tuple[Handle, int]:
    result: Any = BAD + x; where = line()  # noqa: E702 - one line  # fmt: skip
    return result, where


def by_numpy_function(x: Handle) -> tuple[Handle, int]:
    return np.add(x, BAD), line()  # type: ignore[return-value]


def by_comparison(x: Handle) -> tuple[Handle, int]:
    return x < BAD, line()


def by_method(x: Handle) -> tuple[Handle, int]:
    return x.reshape(7), line()


def by_index(x: Handle) -> tuple[Handle, int]:
    return x[9], line()


def by_assignment(x: Handle) -> tuple[Handle, int]:
    x[9] = 1; where = line()  # noqa: E702 - one line  # fmt: skip
    return x, where


def by_augmented_assignment(x: Handle) -> tuple[Handle, int]:
    x += BAD; where = line()  # noqa: E702 - one line  # fmt: skip
    return x, where


def by_numpy_concatenate(x: Handle) -> tuple[Handle, int]:
    return np.concatenate([x, np.ones((2, 2))]), line()  # type: ignore[return-value]


def by_solve(x: Handle) -> tuple[Handle, int]:
    return np.linalg.solve(x, BAD), line()  # type: ignore[return-value]


def by_user_op(x: Handle) -> tuple[Handle, int]:
    return explode(x), line()


def by_several_outputs(x: Handle) -> tuple[Handle, int]:
    return ops.linalg.svd(x)[1], line()


@pytest.mark.parametrize(
    ("dispatch", "name"),
    [
        pytest.param(by_function, "add", id="function"),
        pytest.param(by_operator, "add", id="operator"),
        pytest.param(by_reflected_operator, "add", id="reflected operator"),
        pytest.param(by_array_on_the_left, "add", id="array on the left"),
        pytest.param(by_numpy_function, "add", id="np.add"),
        pytest.param(by_comparison, "less", id="comparison"),
        pytest.param(by_method, "reshape", id="method"),
        pytest.param(by_index, "getitem", id="index"),
        pytest.param(by_assignment, "setitem", id="assignment"),
        pytest.param(by_augmented_assignment, "add", id="augmented assignment"),
        pytest.param(by_numpy_concatenate, "concat", id="np.concatenate"),
        pytest.param(by_solve, "linalg.solve", id="np.linalg.solve"),
        pytest.param(by_user_op, "explode", id="user op"),
        pytest.param(by_several_outputs, "linalg.svd", id="several outputs"),
    ],
)
def test_notes_name_op_device_and_line(
    dispatch: Callable[[Handle], tuple[Handle, int]], name: str, asynchronous: None
) -> None:
    error, where = place_of(dispatch)
    (note,) = error.__notes__
    assert f"op '{name}" in note
    assert "CPU:0" in note
    assert f"{__file__}:{where}" in note


def test_notes_are_there_in_sync_mode() -> None:
    engine.enable_eager_execution()
    x = ops.asarray(np.ones(3))
    y = ops.asarray(BAD)
    with pytest.raises(ValueError, match="broadcast") as caught:
        x + y
    (note,) = caught.value.__notes__
    assert f"'add' on CPU:0, dispatched at {__file__}:" in note


def test_dependents_name_the_place_of_the_root(asynchronous: None) -> None:
    def chain(x: Handle) -> tuple[Handle, int]:
        root, where = explode(x), line()
        dependent = ops.multiply(root, 2)
        for _ in range(3):
            dependent = ops.sum(dependent + x)
        return ops.stack([dependent, dependent])[0], where

    error, where = place_of(chain)
    (note,) = error.__notes__
    assert "'explode'" in note
    assert f"{__file__}:{where}" in note


async def test_dependents_in_another_task_and_on_another_device_name_the_place_of_the_root() -> None:
    config = engine.Config(device_count={"CPU": 2})
    async with engine.Executor(config=config, execution_mode=engine.ASYNC):
        root, where = explode(1), line()

        async def dependent() -> None:
            with engine.device("CPU:1"):
                await ops.add(root, 1)

        with pytest.raises(KeyError) as caught:
            await asyncio.ensure_future(dependent())
    (note,) = caught.value.__notes__
    assert f"{__file__}:{where}" in note
    assert "CPU:0" in note


def test_two_threads_name_their_own_places(asynchronous: None) -> None:
    errors: dict[str, BaseException] = {}

    def first() -> None:
        errors["first"] = outcome(lambda: explode(1))

    def second() -> None:
        errors["second"] = outcome(lambda: explode(2))

    threads = [threading.Thread(target=each) for each in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for function in (first, second):
        (note,) = errors[function.__name__].__notes__
        assert f"{__file__}:{function.__code__.co_firstlineno + 1}" in note
        assert "lambda" in note


def test_code_without_a_file_of_its_own_is_named_as_its_cell(asynchronous: None) -> None:
    name = "/tmp/ipykernel_12345/987654.py"
    source = "x = ops.asarray(np.ones(3))\ny = 1\nz = ops.add(x, np.ones(4))\n"
    linecache.cache[name] = (len(source), None, source.splitlines(True), name)
    namespace: dict[str, Any] = {"ops": ops, "np": np, "__name__": "__main__"}
    exec(compile(source, name, "exec"), namespace)
    (note,) = outcome(lambda: namespace["z"]).__notes__
    assert f"{name}:3" in note
    del linecache.cache[name]


def test_an_op_inside_a_kernel_names_both_places(mode: engine.ExecutionMode) -> None:
    @engine.op
    def outer(x: np.ndarray) -> Handle:
        return ops.add(x, np.ones(4))

    def dispatch() -> Handle:
        return outer(np.ones(3))

    error = outcome(dispatch)
    inner = inspect.unwrap(outer).__code__.co_firstlineno + 2
    notes = "\n".join(error.__notes__)
    assert f"'add' on CPU:0, dispatched at {__file__}:{inner}" in notes
    assert f"'outer' on CPU:0, dispatched at {__file__}:{dispatch.__code__.co_firstlineno + 1}" in notes
    assert len(error.__notes__) == 2


def test_user_ops_inside_user_ops_name_every_place(mode: engine.ExecutionMode) -> None:
    @engine.op
    def middle(x: np.ndarray) -> Handle:
        return explode(x)

    @engine.op
    def outer(x: np.ndarray) -> Handle:
        return middle(x)

    notes = outcome(lambda: outer(np.ones(3))).__notes__
    assert [note.split("'")[1] for note in notes] == ["explode", "middle", "outer"]


async def test_an_async_kernel_that_awaits_a_failed_handle_keeps_the_place_of_the_root(asynchronous: None) -> None:
    root, where = explode(1), line()

    @engine.op
    async def read() -> np.ndarray:
        value: np.ndarray = await root
        return value

    with pytest.raises(KeyError) as of_reader:
        await read()
    with pytest.raises(KeyError) as of_root:
        await root
    assert f"{__file__}:{where}" in of_reader.value.__notes__[0]
    assert len(of_reader.value.__notes__) == 2
    assert len(of_root.value.__notes__) == 1


def test_an_error_that_is_copied_with_its_attributes_shared_has_notes_of_its_own(
    mode: engine.ExecutionMode, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Shared(Exception):
        pass

    def restored(attributes: dict[str, Any]) -> Shared:  # as tblib does, once a library has installed it
        twin = Shared()
        twin.__dict__ = attributes
        return twin

    monkeypatch.setitem(copyreg.dispatch_table, Shared, lambda error: (restored, (error.__dict__,)))
    mine = Shared()

    @engine.op
    def raises(x: np.ndarray) -> np.ndarray:
        raise mine

    first, second = outcome(lambda: raises(np.ones(1))), outcome(lambda: raises(np.ones(2)))
    assert (len(first.__notes__), len(second.__notes__)) == (1, 1)
    assert first is not second


def test_one_exception_object_raised_by_two_ops_has_a_place_for_each(mode: engine.ExecutionMode) -> None:
    mine = KeyError("shared")
    mine.add_note("a note of the user's")

    @engine.op
    def fail(x: np.ndarray) -> np.ndarray:
        raise mine

    places = [line() + 1, line() + 2, line() + 3]
    first = outcome(lambda: fail(1))
    second = outcome(lambda: fail(2))
    third = outcome(lambda: fail(3))
    for error, where in zip((first, second, third), places, strict=True):
        assert [note for note in error.__notes__ if "dispatched at" not in note] == ["a note of the user's"]
        (note,) = (note for note in error.__notes__ if "dispatched at" in note)
        assert f"{__file__}:{where}" in note


@pytest.mark.parametrize(
    "make", [lambda: CustomError(3, reason="because"), lambda: FrozenError(3)], ids=["custom", "frozen"]
)
def test_an_error_that_cannot_be_copied_gathers_no_notes(
    make: Callable[[], Exception], mode: engine.ExecutionMode
) -> None:
    mine = make()

    @engine.op
    def fail(x: np.ndarray) -> np.ndarray:
        raise mine

    first = fail(1) if mode is engine.ASYNC else None
    for _ in range(3):
        error = outcome(lambda: fail(2))
        assert str(error) == str(mine)
        assert len(error.__notes__) == 1
    if first is not None:
        (note,) = outcome(lambda: first).__notes__
        assert f"{__file__}:{inspect.unwrap(fail).__code__.co_firstlineno + 4}" in note


def test_the_traceback_of_the_kernel_and_its_cause_are_kept(mode: engine.ExecutionMode) -> None:
    @engine.op
    def inner(x: np.ndarray) -> np.ndarray:
        try:
            raise IndexError("the cause")
        except IndexError as error:
            raise KeyError("the effect") from error

    @engine.op
    def outer(x: np.ndarray) -> Handle:
        return inner(x)

    for dispatch in (lambda: inner(1), lambda: outer(1)):
        error = outcome(dispatch)
        assert isinstance(error.__cause__, IndexError)
        names = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
        assert "inner" in names


# Reading again


async def test_reading_again_raises_again_and_nothing_grows(asynchronous: None) -> None:
    handle = explode(1)
    dependent = ops.add(handle, 1)
    seen = []
    readers: list[Callable[[], Awaitable[Any]]] = [
        lambda: handle.wait_ready(),
        lambda: dependent.wait_ready(),
        lambda: engine.gather(dependent),
        lambda: asyncio.to_thread(handle.result),
        lambda: asyncio.to_thread(np.asarray, dependent),
    ]
    for _ in range(5):
        for read in readers:
            with pytest.raises(KeyError) as caught:
                await read()
            seen.append((type(caught.value), str(caught.value), tuple(caught.value.__notes__)))
    assert len(set(seen)) == 1


def test_the_traceback_does_not_grow(asynchronous: None) -> None:
    handle = explode(1)

    def length() -> int:
        try:
            handle.result()
        except KeyError as error:
            return len(traceback.extract_tb(error.__traceback__))
        raise AssertionError("it must raise")

    assert length() == length() == length()


def test_an_error_read_while_another_is_handled_does_not_chain_for_ever(asynchronous: None) -> None:
    handle = explode(1)

    def depth(error: BaseException | None) -> int:
        return 0 if error is None else 1 + depth(error.__context__)

    depths = []
    for _ in range(4):
        try:
            try:
                raise OSError("unrelated")
            except OSError:
                handle.result()
        except KeyError as error:
            depths.append(depth(error))
    assert max(depths) <= 2


def test_a_failed_handle_keeps_what_the_kernel_held_no_longer_than_itself(asynchronous: None) -> None:
    handle = explode(1)
    settle(handle)
    with pytest.raises(KeyError):
        handle.result()
    del handle
    gc.collect()
    engine.wait()


# Only dependents are poisoned


async def test_only_dependents_are_poisoned(gate: GateOp, asynchronous: None) -> None:
    before = ops.add(np.ones(2), 1)
    failed = explode(gate(1))
    dependents = [ops.add(failed, 1), ops.stack([before, failed]), failed[0]]
    independent = ops.add(before, 1)
    other = explode(2, "another")
    after = ops.multiply(independent, 2)
    gate.open()
    assert (await after).tolist() == [6, 6]
    for handle in dependents:
        with pytest.raises(KeyError, match="boom"):
            await handle
    with pytest.raises(KeyError, match="another"):
        await other
    await engine.synchronize()


async def test_kernels_of_dependents_never_run(asynchronous: None) -> None:
    ran = []

    @engine.op
    def note(x: np.ndarray) -> np.ndarray:
        ran.append(1)
        return x

    with pytest.raises(KeyError):
        await note(explode(1))
    assert ran == []


def test_fifty_thousand_dependents_are_poisoned_without_recursion(gate: GateOp, asynchronous: None) -> None:
    handle = explode(gate(1))
    for _ in range(30_000):
        handle = ops.add(handle, 1)
    gate.open()
    with pytest.raises(KeyError, match="boom"):
        handle.result()
    engine.wait()


async def test_an_op_dispatched_on_a_failed_operand_is_poisoned_too(asynchronous: None) -> None:
    failed = explode(1)
    with pytest.raises(KeyError):
        await failed
    late = ops.add(failed, 1)
    with pytest.raises(KeyError):
        await late


# Barriers


async def test_a_barrier_raises_each_failure_once(asynchronous: None) -> None:
    handle = explode(1)
    with pytest.raises(KeyError, match="boom") as caught:
        await engine.synchronize()
    assert len(caught.value.__notes__) == 1
    await engine.synchronize()
    with pytest.raises(KeyError, match="boom"):
        await handle
    await engine.synchronize()


def test_the_blocking_barrier_raises_each_failure_once(asynchronous: None) -> None:
    explode(1)
    with pytest.raises(KeyError, match="boom"):
        engine.wait()
    engine.wait()


async def test_several_failures_come_as_a_group(asynchronous: None) -> None:
    explode(1, "first")
    ops.add(explode(2, "second"), 1)  # one failure, however many it poisoned
    with pytest.raises(ExceptionGroup) as caught:
        await engine.synchronize()
    assert sorted(error.args for error in caught.value.exceptions) == [("first",), ("second",)]  # in either order
    for error in caught.value.exceptions:
        assert len(error.__notes__) == 1
    await engine.synchronize()


async def test_a_failure_that_a_reader_saw_counts_as_reported(asynchronous: None) -> None:
    seen, unseen = explode(1, "seen"), explode(2, "unseen")
    with pytest.raises(KeyError, match="seen"):
        await seen
    with pytest.raises(KeyError, match="unseen"):
        await engine.synchronize()
    del unseen


async def test_a_failure_that_a_reader_of_a_dependent_saw_counts_as_reported(asynchronous: None) -> None:
    root = explode(1)
    with pytest.raises(KeyError):
        await ops.add(root, 1)
    await engine.synchronize()


async def test_asking_whether_it_is_ready_reports_nothing(asynchronous: None) -> None:
    handle = explode(1)
    await ended(handle)
    async for _ in engine.as_completed([handle]):
        pass
    with pytest.raises(KeyError):
        await engine.synchronize()


async def test_a_dropped_handle_is_reported_all_the_same(asynchronous: None) -> None:
    explode(1)
    gc.collect()
    with pytest.raises(KeyError):
        await engine.synchronize()


async def test_a_barrier_waits_for_what_was_dispatched_before_it_only(gate: GateOp, asynchronous: None) -> None:
    handle = ops.add(1, 1)
    barrier = asyncio.ensure_future(engine.synchronize())
    await asyncio.sleep(0)
    late = gate(1)
    await barrier
    assert handle.is_ready()
    assert not late.is_ready()
    gate.open()


async def test_a_barrier_of_one_device_leaves_the_other_alone() -> None:
    config = engine.Config(device_count={"CPU": 2})
    gate = GateOp()
    async with engine.Executor(config=config, execution_mode=engine.ASYNC):
        with engine.device("CPU:1"):
            held = gate(1)
            explode(1, "on one")
        explode(2, "on zero")
        with pytest.raises(KeyError, match="on zero"):
            await engine.synchronize("CPU:0")
        assert not held.is_ready()
        gate.open()
        with pytest.raises(KeyError, match="on one"):
            await engine.synchronize("CPU:1")


async def test_clear_errors_drops_what_is_left(asynchronous: None) -> None:
    handle = explode(1)
    await ended(handle)
    engine.clear_errors()
    await engine.synchronize()
    with pytest.raises(KeyError):
        await handle


async def test_in_sync_mode_a_barrier_has_nothing_to_raise() -> None:
    engine.enable_eager_execution()
    with pytest.raises(KeyError):
        explode(1)
    await engine.synchronize()


async def test_a_cancelled_barrier_reports_nothing(gate: GateOp, asynchronous: None) -> None:
    explode(gate(1))
    explode(2)
    barrier = asyncio.ensure_future(engine.synchronize())
    await asyncio.sleep(0)
    barrier.cancel()
    with pytest.raises(asyncio.CancelledError):
        await barrier
    gate.open()
    with pytest.raises(ExceptionGroup) as caught:
        await engine.synchronize()
    assert len(caught.value.exceptions) == 2


# Failures that nobody saw


class Reports:
    """What a loop's exception handler was told."""

    def __init__(self) -> None:
        self.contexts: list[dict[str, Any]] = []

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.contexts.append(context)

    @property
    def messages(self) -> list[str]:
        return [str(context["exception"]) for context in self.contexts]


def test_leaving_an_executor_raises_what_nobody_saw_once() -> None:
    reports = Reports()

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(reports)
        with pytest.raises(KeyError, match="boom"):
            async with engine.Executor(execution_mode=engine.ASYNC):
                explode(1)

    asyncio.run(main())
    assert reports.contexts == []


def test_leaving_an_executor_by_an_exception_reports_what_nobody_saw_to_the_loop() -> None:
    reports = Reports()

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(reports)
        with pytest.raises(OSError, match="mine"):
            async with engine.Executor(execution_mode=engine.ASYNC):
                handle = explode(1)
                await ended(handle)
                raise OSError("mine")

    asyncio.run(main())
    assert reports.messages == ["'boom'"]
    assert "'explode' on CPU:0" in reports.contexts[0]["exception"].__notes__[0]


def test_the_end_of_a_loop_reports_what_nobody_saw_once(capfd: pytest.CaptureFixture[str]) -> None:
    engine.enable_eager_execution(execution_mode=engine.ASYNC)
    reports = Reports()

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(reports)
        handles = [explode(1, "one"), explode(2, "two"), explode(3, "three")]
        with pytest.raises(KeyError, match="two"):
            await handles[1]
        await ended(handles[0])
        await ended(handles[2])

    asyncio.run(main())
    asyncio.run(main())
    assert sorted(reports.messages) == ["'one'", "'one'", "'three'", "'three'"]
    report_at_exit()
    assert capfd.readouterr().err == ""


EXPLODE = """
import asyncio, logging, threading
import numpy as np
import engine
from engine import ops

@engine.op
def explode(x, message="boom"):
    raise KeyError(message)

# In its debug mode asyncio says what took long, which is anything on a machine that is busy.
logging.getLogger("asyncio").addFilter(lambda record: not record.getMessage().startswith("Executing "))
"""


def run_script(*parts: str) -> subprocess.CompletedProcess[str]:
    """Run a program of its own to its end."""
    source = "".join(map(textwrap.dedent, (EXPLODE, *parts)))
    return subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", source],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_at_exit_of_a_plain_script_what_nobody_saw_is_on_stderr_once() -> None:
    done = run_script(
        """
        engine.enable_eager_execution(execution_mode=engine.ASYNC)
        seen, unseen = explode(1, "seen"), explode(2, "unseen")
        try:
            seen.result()
        except KeyError:
            pass
        while not unseen.is_ready():
            threading.Event().wait(0.001)
        """
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("KeyError: 'unseen'") == 1
    assert "'explode' on CPU:0, dispatched at <string>:1" in done.stderr
    assert "'seen'" not in done.stderr


def test_at_the_end_of_asyncio_run_what_nobody_saw_is_logged_once() -> None:
    done = run_script(
        """
        async def main():
            handle = explode(1, "unseen")
            while not handle.is_ready():
                await asyncio.sleep(0)

        engine.enable_eager_execution(execution_mode=engine.ASYNC)
        asyncio.run(main())
        """
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("KeyError: 'unseen'") == 1
    assert "'explode' on CPU:0, dispatched at <string>" in done.stderr


def test_at_exit_what_fails_only_after_its_loop_is_gone_is_reported_or_never_ran() -> None:
    done = run_script(
        """
        from engine.testing import GateOp
        gate = GateOp()

        async def main():
            return explode(gate(1), "late")

        engine.enable_eager_execution(execution_mode=engine.ASYNC)
        handle = asyncio.run(main())
        gate.open()
        while not handle.is_ready():
            threading.Event().wait(0.001)
        """
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("KeyError: 'late'") == 1


PENDING_AT_EXIT = {
    "plain": """
        held = ops.add(gate(1), 1)
        many = [ops.add(held, 1) for _ in range(1000)]
        """,
    "loop": """
        async def main():
            held = ops.add(gate(1), 1)
            many = [ops.add(held, 1) for _ in range(1000)]

        asyncio.run(main())
        """,
    "thread": """
        thread = threading.Thread(target=lambda: ops.add(gate(1), 1))
        thread.start()
        thread.join()
        """,
    "async op": """
        @engine.op
        async def wait_for_ever(x):
            await asyncio.Event().wait()

        async def main():
            held = ops.add(wait_for_ever(1), 1)
            await asyncio.sleep(0)

        asyncio.run(main())
        """,
}


@pytest.mark.parametrize("how", PENDING_AT_EXIT)
def test_exit_with_work_pending_is_clean(how: str) -> None:
    done = run_script(
        """
        from engine.testing import GateOp
        gate = GateOp()
        engine.enable_eager_execution(execution_mode=engine.ASYNC)
        """,
        PENDING_AT_EXIT[how],
    )
    assert (done.returncode, done.stdout) == (0, "")
    # An op whose loop has ended is cancelled, and so is what depends on it.
    left = {"plain": r"\d+ ops", "loop": r"\d+ ops", "thread": "(1 op|2 ops)", "async op": ""}[how]
    ran = r"(never ran( and \d+ had not ended)?|had not ended)(, the oldest)?"
    said = rf"eagerloop: at exit {left} {ran}: op '(gate|add)' on CPU:0, dispatched at .+\n"
    assert re.fullmatch(said if left else "", done.stderr), done.stderr


def test_an_uncaught_error_of_a_handle_is_shown_with_its_place_and_not_again_at_exit() -> None:
    done = run_script(
        """
        engine.enable_eager_execution(execution_mode=engine.ASYNC)
        handle = explode(1, "uncaught")
        handle.result()
        """
    )
    assert done.returncode == 1
    assert done.stderr.count("KeyError: 'uncaught'") == 1
    assert "dispatched at <string>:1" in done.stderr


def test_cleared_errors_are_not_reported_at_exit() -> None:
    done = run_script(
        """
        engine.enable_eager_execution(execution_mode=engine.ASYNC)
        handle = explode(1)
        while not handle.is_ready():
            threading.Event().wait(0.001)
        engine.clear_errors()
        """
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("other", [2.0, np.zeros(0), np.zeros(3), np.zeros((4, 0))], ids=["scalar", "0", "3", "4x0"])
@pytest.mark.usefixtures("asynchronous")
async def test_an_op_waits_for_its_operands_and_fails_with_them_whatever_the_others_are(
    gate: GateOp, other: Any
) -> None:
    x = gate(ops.asarray(np.ones((1, 1))))
    waiting = [x + other, other - x]
    broken = ops.add(np.ones(3), np.ones(2))
    failed = [broken * other, other * broken]
    assert not any(each.is_ready() for each in waiting)
    gate.open()
    for each in failed:
        with pytest.raises(ValueError, match=r"shapes \(3,\) \(2,\)"):
            await each
    for each, expected in zip(waiting, [np.ones((1, 1)) + other, other - np.ones((1, 1))], strict=True):
        assert (await each).tobytes() == np.asarray(expected).tobytes()
