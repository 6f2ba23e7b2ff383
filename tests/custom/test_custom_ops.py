"""`@engine.op`: the user's own functions as ops, sync and async, in both modes, on loops and off them."""

import asyncio
import contextvars
import functools
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest

import engine
from engine import ops
from engine.testing import GateOp
from handles import EagerHandle, Handle

Array = np.ndarray[Any, Any]

request = contextvars.ContextVar("request", default="nobody")


def as_sync(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


def as_async(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function as a coroutine function that suspends on the way."""

    async def later(*args: Any, **kwargs: Any) -> Any:
        await asyncio.sleep(0)
        return function(*args, **kwargs)

    later.__name__ = function.__name__
    return later


def give(result: Any) -> Callable[[], Any]:
    """A function that returns this."""
    return lambda: result


Kind = Callable[[Callable[..., Any]], Callable[..., Any]]

either = pytest.mark.parametrize("kind", [as_sync, as_async], ids=["def", "async def"])


# Arguments


@either
async def test_arguments_arrive_as_they_were_given(kind: Kind, mode: engine.ExecutionMode) -> None:
    seen: list[Any] = []

    def record(*args: Any, **kwargs: Any) -> Array:
        seen.append((args, kwargs))
        return np.zeros(1)

    handle = ops.add(np.arange(2), 1)
    marker = object()
    await engine.op(kind(record))(handle, np.ones(2), 3, "text", None, marker, scale=handle, flags={"a": [handle, 1]})
    args, kwargs = seen[0]
    assert args[0].tolist() == [1, 2]
    assert args[1].tolist() == [1, 1]
    assert args[2:] == (3, "text", None, marker)
    assert kwargs["scale"].tolist() == [1, 2]
    assert kwargs["flags"]["a"][0].tolist() == [1, 2]
    assert kwargs["flags"]["a"][1] == 1
    assert all(type(array) is np.ndarray and not array.flags.writeable for array in (*args[:2], kwargs["scale"]))


@either
async def test_nested_sequences_keep_their_structure(kind: Kind, mode: engine.ExecutionMode) -> None:
    def total(parts: list[Any]) -> float:
        first, (second, [third]) = parts
        return float(first + second + third)

    assert await engine.op(kind(total))([ops.add(1, 1), (3, [ops.add(2, 2)])]) == 9


@either
async def test_defaults_and_keywords(kind: Kind, mode: engine.ExecutionMode) -> None:
    def scale(x: Array, factor: float = 2.0, *, offset: float = 0.0) -> Array:
        return np.asarray(x * factor + offset)

    scaled = engine.op(scale) if kind is as_sync else engine.op(kind(scale))
    assert (await scaled(np.ones(2))).tolist() == [2, 2]
    assert (await scaled(np.ones(2), 3, offset=1)).tolist() == [4, 4]
    assert (await scaled(factor=5, x=np.ones(2))).tolist() == [5, 5]


async def test_a_wrong_call_raises_at_the_call_and_names_the_op(mode: engine.ExecutionMode) -> None:
    @engine.op(name="scaled")
    def scale(x: Array, factor: float) -> Array:
        return np.asarray(x * factor)

    for args, kwargs in (((), {}), ((1, 2, 3), {}), ((1,), {"nonsense": 2})):
        with pytest.raises(TypeError, match="scaled"):
            scale(*args, **kwargs)
    await engine.synchronize()


# Forms


async def test_every_way_to_make_an_op(mode: engine.ExecutionMode) -> None:
    def double(x: Array) -> Array:
        """Twice as much."""
        return np.asarray(x * 2)

    class Doubler:
        def __call__(self, x: Array) -> Array:
            return double(x)

        def method(self, x: Array) -> Array:
            return double(x)

    class AsyncDoubler:
        async def __call__(self, x: Array) -> Array:
            return double(x)

    made = [
        engine.op(double),
        engine.op()(double),
        engine.op(double, name="twice"),
        engine.op(Doubler()),
        engine.op(Doubler().method),
        engine.op(AsyncDoubler()),
        engine.op(lambda x: x * 2),
        engine.op(np.negative, name="minus"),
    ]
    values = [float(await function(2.0)) for function in made]
    assert values == [4.0] * 7 + [-2.0]
    assert made[0].__name__ == "double"
    assert made[0].__doc__ == "Twice as much."


async def test_the_name_is_in_the_repr_and_in_errors(mode: engine.ExecutionMode) -> None:
    @engine.op(name="my.op")
    def fail(x: Array) -> Array:
        if x.sum() > 1:
            raise ValueError("too much")
        return x

    assert "op=my.op" in repr(fail(np.zeros(1)))
    with pytest.raises(ValueError, match="too much") as caught:
        await fail(np.ones(2))
    assert "op 'my.op' on CPU:0" in caught.value.__notes__[0]


@pytest.mark.parametrize("wrong", [1, "f", []], ids=repr)
def test_what_is_not_callable_is_refused(wrong: Any) -> None:
    with pytest.raises(TypeError, match="functions"):
        engine.op(wrong)


@pytest.mark.parametrize("wrong", [0, -1, True, 1.5, "2"])
def test_num_outputs_out_of_range_is_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match="num_outputs"):
        engine.op(lambda: None, num_outputs=wrong)


def test_making_an_op_needs_nothing_enabled_and_runs_nothing() -> None:
    @engine.op
    def never(x: Array) -> Array:
        raise AssertionError("it must not run")

    assert not engine.executing_eagerly()


# Results


@either
async def test_several_outputs(kind: Kind, mode: engine.ExecutionMode) -> None:
    def parts(x: Array) -> tuple[Array, Array]:
        return x + 1, x * 2

    low, high = engine.op(kind(parts), num_outputs=2)(np.arange(3))
    assert (await low).tolist() == [1, 2, 3]
    assert (await ops.add(high, low)).tolist() == [1, 4, 7]


class Pair(NamedTuple):
    first: Array
    second: Array


@either
@pytest.mark.parametrize("make", [list, tuple, lambda two: Pair(*two)], ids=["list", "tuple", "named tuple"])
async def test_several_outputs_come_as_any_sequence(
    make: Callable[[Any], Any], kind: Kind, mode: engine.ExecutionMode
) -> None:
    first, second = engine.op(kind(lambda x: make([x, x + 1])), num_outputs=2)(1)
    assert (await first, await second) == (1, 2)


@either
@pytest.mark.parametrize("result", [(1,), (1, 2, 3), 1, None, np.ones(2), "ab"], ids=str)
async def test_a_wrong_number_of_outputs_is_an_error_that_says_so(
    result: Any, kind: Kind, mode: engine.ExecutionMode
) -> None:
    function = engine.op(kind(give(result)), name="pair", num_outputs=2)
    with pytest.raises(TypeError, match=r"'pair'.*num_outputs=2"):
        await engine.gather(*function())


@either
@pytest.mark.parametrize(
    ("result", "expected"),
    [(3, 3), (2.5, 2.5), ([[1, 2], [3, 4]], [[1, 2], [3, 4]]), (np.float32(1.5), 1.5), ((1, 2), [1, 2]), (True, True)],
    ids=str,
)
async def test_results_that_are_no_arrays_become_arrays(
    result: Any, expected: Any, kind: Kind, mode: engine.ExecutionMode
) -> None:
    value = await engine.op(kind(give(result)))()
    assert isinstance(value, np.ndarray if np.ndim(result) else np.generic)
    assert value.tolist() == expected
    assert value.dtype == np.asarray(result).dtype


@either
async def test_a_function_that_returns_nothing_can_be_awaited(kind: Kind, mode: engine.ExecutionMode) -> None:
    calls: list[Any] = []
    record = engine.op(kind(lambda x: calls.append(np.array(x))))
    handle = record(ops.arange(3.0))
    assert await handle is None
    assert (await engine.gather(record(ops.ones(2)), ops.ones(2)))[0] is None
    async with engine.scope():
        record(ops.zeros(1))
    assert [each.tolist() for each in calls] == [[0.0, 1.0, 2.0], [1.0, 1.0], [0.0]]
    assert "value=None" in repr(handle)
    with pytest.raises(TypeError, match="NoneType"):
        await (handle + 1)


def test_a_function_that_returns_nothing_can_be_waited_for(mode: engine.ExecutionMode) -> None:
    handle = engine.op(lambda x: None)(ops.ones(3))
    assert handle.result() is None
    engine.wait()


def yields(x: Any) -> Iterator[Any]:
    yield x


async def yields_later(x: Any) -> AsyncIterator[Any]:
    yield x


class Yields:
    def __call__(self, x: Any) -> Iterator[Any]:
        yield x


@pytest.mark.parametrize("function", [yields, yields_later, Yields(), functools.partial(yields, 1)])
def test_generator_functions_are_refused_where_they_are_decorated(function: Any) -> None:
    with pytest.raises(TypeError, match="generator function"):
        engine.op(function)
    with pytest.raises(TypeError, match="generator function"):
        engine.op(name="yields")(function)


@either
@pytest.mark.parametrize("result", [object(), np.array([None]), {"a": 1}, [object()]], ids=lambda each: str(type(each)))
async def test_results_that_are_objects_are_refused(result: Any, kind: Kind, mode: engine.ExecutionMode) -> None:
    with pytest.raises(TypeError, match="Python objects"):
        await engine.op(kind(give(result)))()


@either
async def test_subclasses_of_ndarray_become_plain(kind: Kind, mode: engine.ExecutionMode) -> None:
    value = await engine.op(kind(give(np.ones((2, 2)).view(np.matrix))))()
    assert type(value) is np.ndarray


@either
async def test_a_masked_array_loses_no_mask_in_silence(kind: Kind, mode: engine.ExecutionMode) -> None:
    with pytest.raises(TypeError, match="mask"):
        await engine.op(kind(give(np.ma.masked_array([1, 2], [True, False]))))()


# shape=


async def test_a_shape_that_is_said_is_known_at_once(gate: GateOp, asynchronous: None) -> None:
    held = gate(np.ones((2, 3)))
    fixed = engine.op(lambda x: np.zeros((4, 5)), name="fixed", shape=((4, 5), np.float32))
    computed = engine.op(lambda x: x.T, name="computed", shape=lambda x: (x.shape[::-1], x.dtype))
    partly = engine.op(lambda x: x[x > 0], name="partly", shape=((None,), "f8"))
    single = engine.op(lambda x: x[0], name="single", shape=(3, "f8"))
    several = engine.op(
        lambda x: (x, x[0]), name="several", num_outputs=2, shape=lambda x: ((x.shape, x.dtype), (x.shape[1:], x.dtype))
    )
    assert (fixed(held).shape, fixed(held).dtype) == ((4, 5), np.dtype(np.float32))
    assert (computed(held).shape, computed(held).dtype) == ((3, 2), np.dtype(np.float64))
    assert partly(held).shape == (None,)
    assert single(held).shape == (3,)
    assert [each.shape for each in several(held)] == [(2, 3), (3,)]
    assert ops.sum(computed(held), axis=0).shape == (2,)
    gate.open()


# Where kernels run, and in which context


@either
async def test_contextvars_are_those_of_the_dispatch(kind: Kind, mode: engine.ExecutionMode) -> None:
    seen: list[str] = []

    def who(x: Array) -> Array:
        seen.append(request.get())
        request.set("the kernel")
        return x

    function = engine.op(kind(who))
    gate = GateOp()
    if mode is engine.SYNC:
        gate.open()
    held = gate(1)
    token = request.set("alice")
    first = function(held)
    request.set("bob")
    second = function(held)
    request.reset(token)
    gate.open()
    await engine.gather(first, second)
    assert sorted(seen) == ["alice", "bob"]
    assert request.get() == "nobody"


async def test_sync_functions_never_run_on_the_thread_of_the_loop(asynchronous: None) -> None:
    threads: list[int] = []

    @engine.op
    def where(x: Array) -> Array:
        threads.append(threading.get_ident())
        return x

    handles = [where(np.ones(index % 2)) for index in range(20)]  # operands without elements, too
    handles += [where(ops.add(handle, 1)) for handle in handles]
    await engine.gather(*handles)
    with engine.allow_sync():
        where(1).result()
    assert len(threads) == 41
    assert threading.get_ident() not in threads


async def test_async_functions_run_on_the_loop_that_dispatched_them(asynchronous: None) -> None:
    loops: list[object] = []

    @engine.op
    async def where(x: Array) -> Array:
        loops.append(asyncio.get_running_loop())
        return x

    await where(ops.add(1, 1))
    assert loops == [asyncio.get_running_loop()]


def test_async_functions_run_without_a_loop_too(mode: engine.ExecutionMode) -> None:
    @engine.op
    async def later(x: Array) -> Array:
        await asyncio.sleep(0)
        return np.asarray(x + 1)

    assert ops.add(later(ops.add(1, 1)), 1).result() == 4


async def test_async_ops_overlap_with_each_other(asynchronous: None) -> None:
    met = asyncio.Barrier(5)

    @engine.op
    async def meet(x: Array) -> Array:
        await met.wait()
        return x

    values = await engine.gather(*[meet(index) for index in range(5)])
    assert [int(value) for value in values] == [0, 1, 2, 3, 4]


async def test_async_ops_overlap_with_compute(asynchronous: None) -> None:
    computed = asyncio.Event()

    @engine.op
    async def fetch(x: Array) -> Array:
        await computed.wait()
        return x

    pending = fetch(1)
    dependent = ops.add(pending, 1)
    assert await ops.sum(np.arange(4)) == 6  # dispatched after it, done before it
    assert not pending.is_ready()
    assert not dependent.is_ready()
    computed.set()
    assert await dependent == 2


async def test_compute_goes_on_while_an_async_op_waits_for_it(asynchronous: None) -> None:
    result: asyncio.Future[Array] = asyncio.get_running_loop().create_future()

    @engine.op
    async def wait_for(x: Array) -> Array:
        return await result

    pending = wait_for(0)
    result.set_result(await ops.add(np.arange(3), 1))
    assert (await pending).tolist() == [1, 2, 3]


async def test_cancelling_an_async_op_cancels_its_task(asynchronous: None) -> None:
    started, ended = asyncio.Event(), asyncio.Event()

    @engine.op
    async def hang(x: Array) -> Array:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return x

    handle = hang(1)
    await started.wait()
    assert handle.cancel() is engine.CancelOutcome.ABANDONED
    await ended.wait()
    with pytest.raises(engine.OpCancelledError):
        await handle
    await engine.synchronize()


# Ops inside kernels


async def test_ops_inside_a_sync_kernel_run_inline(mode: engine.ExecutionMode) -> None:
    seen: list[Any] = []

    @engine.op
    def norm(x: Array) -> Handle:
        squares = ops.square(x)
        seen.append(type(squares))
        seen.append(engine.get_execution_mode())
        if ops.sum(squares) > 3:  # concrete handles may be read
            squares = squares + 1
        return ops.sqrt(ops.sum(squares))

    assert await norm(np.ones(4)) == np.sqrt(8)
    assert seen == [EagerHandle, engine.SYNC]


async def test_ops_inside_an_async_kernel_are_awaited(asynchronous: None) -> None:
    @engine.op
    async def norm(x: Array) -> Array:
        return await ops.sqrt(ops.sum(ops.square(x)))  # type: ignore[no-any-return]

    @engine.op
    async def twice(x: Array) -> Array:
        return np.asarray(2 * await norm(x))

    assert await twice(np.ones(4)) == 4


async def test_an_async_kernel_may_return_a_handle(mode: engine.ExecutionMode) -> None:
    @engine.op
    async def later(x: Array) -> Handle:
        total = ops.sum(x)
        await total
        return total

    assert await later(np.ones(4)) == 4


async def test_a_kernel_of_a_kernel(mode: engine.ExecutionMode) -> None:
    @engine.op
    def inner(x: Array) -> Array:
        return np.asarray(x + 1)

    @engine.op
    def outer(x: Array) -> Handle:
        return inner(inner(x)) * 2

    assert await outer(np.ones(2)[0]) == 6


# Kernels that wait for the engine


WAITS: dict[str, Callable[[Handle], Any]] = {
    "result": lambda handle: handle.result(),
    "bool": bool,
    "asarray": np.asarray,
    "wait": lambda handle: engine.wait(),
    "wait with a timeout": lambda handle: engine.wait(timeout=1),
    "an op of a pending handle": lambda handle: ops.add(handle, 1),
}


@pytest.mark.parametrize("wait", [pytest.param(wait, id=name) for name, wait in WAITS.items()])
@pytest.mark.parametrize("consent", [False, True], ids=["", "allow_sync"])
async def test_a_sync_kernel_that_waits_gets_an_error_and_does_not_hang(
    wait: Callable[[Handle], Any], consent: bool, asynchronous: None
) -> None:
    later: list[Handle] = []
    gate = GateOp()

    @engine.op
    def stuck(x: Array) -> Array:
        if consent:
            with engine.allow_sync():
                return np.asarray(wait(later[0]))
        return np.asarray(wait(later[0]))

    handle = stuck(gate(1))
    later.append(ops.add(handle, 1))
    gate.open()
    with pytest.raises(engine.BlockingSyncError, match="kernel"):
        await handle


@pytest.mark.parametrize("wait", [pytest.param(wait, id=name) for name, wait in WAITS.items()])
def test_a_sync_kernel_that_waits_gets_an_error_off_the_loop_too(
    wait: Callable[[Handle], Any], asynchronous: None
) -> None:
    later: list[Handle] = []
    gate = GateOp()
    stuck = engine.op(lambda x: np.asarray(wait(later[0])))
    handle = stuck(gate(1))
    later.append(ops.add(handle, 1))
    gate.open()
    with pytest.raises(engine.BlockingSyncError, match="kernel"):
        handle.result()


@pytest.mark.parametrize("how", ["synchronize", "result", "itself", "a dependent", "a dependent of a dependent"])
async def test_an_async_kernel_that_waits_for_itself_gets_an_error_and_does_not_hang(
    how: str, asynchronous: None
) -> None:
    handles: list[Handle] = []
    ready = asyncio.Event()

    @engine.op
    async def stuck(x: Array) -> Array:
        await ready.wait()
        if how == "synchronize":
            await engine.synchronize()
        elif how == "result":
            handles[-1].result()
        return await handles[{"itself": 0, "a dependent": 1}.get(how, -1)]  # type: ignore[no-any-return]

    handles.append(stuck(1))
    for _ in range(3):
        handles.append(ops.add(handles[-1], 1))
    ready.set()
    with pytest.raises(engine.BlockingSyncError):
        await handles[-1]


async def test_an_async_kernel_that_drains_or_gathers_what_needs_it_does_not_hang(asynchronous: None) -> None:
    handles: list[Handle] = []
    ready = asyncio.Event()

    @engine.op
    async def stuck(x: Array) -> Array:
        await ready.wait()
        await engine.gather(*handles)
        return x

    handles.append(stuck(1))
    ready.set()
    with pytest.raises(engine.BlockingSyncError):
        await handles[0]


async def test_an_async_kernel_may_wait_for_what_does_not_need_it(asynchronous: None) -> None:
    other = ops.add(np.arange(3), 1)

    @engine.op
    async def read(x: Array) -> Array:
        return np.asarray(x + await other)

    assert (await read(1)).tolist() == [2, 3, 4]


# Exceptions of every sort


class MyInterrupt(BaseException):
    """What no `except Exception` catches."""


@pytest.mark.sweep
@either
@pytest.mark.parametrize(
    "error",
    [
        ValueError("a"),
        KeyError("a"),
        OSError(2, "no such file", "x"),
        UnicodeDecodeError("utf-8", b"a", 0, 1, "bad"),
        ExceptionGroup("several", [ValueError("a"), TypeError("b")]),
        np.linalg.LinAlgError("singular"),
        MemoryError(),
        RecursionError("deep"),
        TimeoutError("late"),
        AssertionError(),
        StopAsyncIteration(),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_every_exception_comes_out_as_it_is(error: Exception, kind: Kind, mode: engine.ExecutionMode) -> None:
    def fail(x: Array) -> Array:
        raise error

    with pytest.raises(type(error)) as caught:
        await engine.op(kind(fail))(1)
    assert str(caught.value) == str(error)
    assert caught.value.args == error.args
    assert len(caught.value.__notes__) == 1
    assert await ops.add(1, 1) == 2


@pytest.mark.parametrize("error", [MyInterrupt("a"), SystemExit(3), GeneratorExit()], ids=lambda e: type(e).__name__)
async def test_what_is_no_exception_is_the_failure_of_the_op_on_a_worker(
    error: BaseException, asynchronous: None
) -> None:
    @engine.op
    def fail(x: Array) -> Array:
        raise error

    handle = ops.add(fail(1), 1)
    async for _ in engine.as_completed([handle]):
        pass
    with pytest.raises(type(error)) as caught, engine.allow_sync():
        handle.result()
    assert "'fail'" in caught.value.__notes__[0]
    assert await ops.add(1, 1) == 2


def test_stop_iteration_of_a_kernel_is_not_taken_for_a_result(mode: engine.ExecutionMode) -> None:
    @engine.op
    def fail(x: Array) -> Array:
        raise StopIteration(7)

    with pytest.raises(StopIteration):
        fail(1).result()


async def test_cancelled_error_of_an_async_kernel_does_not_cancel_who_reads(asynchronous: None) -> None:
    @engine.op
    async def fail(x: Array) -> Array:
        raise asyncio.CancelledError("mine")

    handle = fail(1)
    with pytest.raises(engine.OpCancelledError):
        await handle
    task = asyncio.current_task()
    assert task is not None
    assert not task.cancelling()
    assert await ops.add(1, 1) == 2


async def test_cancelled_error_of_a_sync_kernel_is_no_cancellation_of_who_reads(asynchronous: None) -> None:
    @engine.op
    def fail(x: Array) -> Array:
        raise asyncio.CancelledError("mine")

    handle = fail(1)
    with pytest.raises((asyncio.CancelledError, engine.OpCancelledError)):
        await handle
    assert await ops.add(1, 1) == 2


async def test_a_failed_async_op_poisons_dependents_only(asynchronous: None) -> None:
    @engine.op
    async def fail(x: Array) -> Array:
        await asyncio.sleep(0)
        raise KeyError("boom")

    failed = fail(1)
    dependent = ops.add(failed, 1)
    independent = ops.add(1, 1)
    assert await independent == 2
    with pytest.raises(KeyError, match="boom"):
        await dependent
    await engine.synchronize()


async def test_one_kernel_for_several_results_fails_them_all_and_is_reported_once(asynchronous: None) -> None:
    @engine.op(num_outputs=2)
    def fail(x: Array) -> Array:
        raise KeyError("boom")

    first, second = fail(1)
    with pytest.raises(KeyError):
        await engine.synchronize()
    await engine.synchronize()
    for handle in (first, second, first):
        with pytest.raises(KeyError, match="boom"):
            await handle
