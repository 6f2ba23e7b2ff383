"""What users read when something goes wrong: each message is read here, and what it says to do is done."""

import asyncio
import json
import re
import warnings
from collections.abc import Callable
from contextvars import Context, copy_context
from functools import partial
from typing import Any

import numpy as np
import pytest

import engine
import handles
from engine import ops as typed_ops
from engine.base.op import op_of
from engine.runtime.current import current
from engine.testing import GateOp

ops: Any = typed_ops  # what is tried here is no method of a handle
untyped: Any = engine  # and what is given here no type checker would pass


@pytest.fixture
def asynchronous(fresh_engine: None) -> None:
    """ASYNC mode for the whole program."""
    engine.enable_eager_execution(execution_mode=engine.ASYNC)


def message(call: Callable[[], object], kind: type[BaseException] = Exception) -> str:
    """What the error of a call says."""
    with pytest.raises(kind) as caught:
        call()
    return str(caught.value)


# Executors


@pytest.mark.parametrize("execution_mode", list(engine.ExecutionMode))
def test_a_handle_where_its_executor_is_not_current_names_the_way_back(execution_mode: engine.ExecutionMode) -> None:
    with engine.Executor(execution_mode=execution_mode) as executor:
        x = ops.ones(3)
        said = [
            message(lambda call=call: Context().run(call), engine.SymbolError)  # type: ignore[misc]
            for call in (lambda: ops.add(x, 1), lambda: x + 1, lambda: x.sum(), lambda: np.sum(x))
        ]

        def again() -> Any:
            with executor.as_default():
                return (x + 1).result()

        assert Context().run(again).tolist() == [2, 2, 2]
    for each in said:
        assert each.index("executor.as_default()") < each.index("graph")


def closed(calls: str) -> Callable[[], object]:
    """A call on an executor that is closed, in a context in which it is still current."""
    with engine.Executor(execution_mode=engine.ASYNC) as executor:
        x = ops.ones(3)
        inside = copy_context()
    match calls:
        case "op":
            return lambda: inside.run(lambda: x + 1)
        case "as_default":
            return lambda: executor.as_default().__enter__()
        case _:
            return lambda: executor.__enter__()


@pytest.mark.parametrize("calls", ["op", "as_default", "enter"])
def test_a_closed_executor_says_so_and_what_to_do(calls: str) -> None:
    said = message(closed(calls), engine.ExecutorClosedError)
    assert "closed" in said
    assert "make a new one, `async with engine.Executor(...):`" in said
    assert "lifespan" in said


@pytest.mark.parametrize("execution_mode", list(engine.ExecutionMode))
def test_a_dispatcher_of_a_closed_executor_says_so_too(execution_mode: engine.ExecutionMode) -> None:
    with engine.Executor(execution_mode=execution_mode):
        x = ops.ones(3)
        dispatcher = current()
    for operand in (x, np.ones(3)):
        said = message(lambda operand=operand: dispatcher.dispatch(_ADD, operand, 1), engine.ExecutorClosedError)  # type: ignore[misc]
        assert "'add' was dispatched to an executor that is closed: make a new one" in said


_ADD = op_of(np.add)


def test_an_executor_that_was_not_entered_says_how_to() -> None:
    executor = engine.Executor()
    said = message(lambda: executor.as_default().__enter__(), engine.ExecutorClosedError)
    assert "enter it with `async with` or `with` first" in said
    with executor, executor.as_default():
        assert ops.add(1, 1).result() == 2


# The switch


def test_enabling_after_an_op_names_the_place_and_the_way_out() -> None:
    symbol = ops.add(1, 2)
    said = message(engine.enable_eager_execution, ValueError)
    assert "must be called at program startup" in said
    assert f"{__file__}:" in said
    assert "Restart" in said
    assert "engine.testing.reset()" in said
    assert "engine.testing.reset()" in message(lambda: bool(symbol))
    engine.testing.reset()
    engine.enable_eager_execution()
    assert ops.add(1, 2).result() == 3


def test_enabling_again_names_the_fields_that_differ_and_no_others() -> None:
    engine.enable_eager_execution(engine.Config(max_pending_ops=5))
    said = message(
        lambda: engine.enable_eager_execution(
            engine.Config(max_pending_ops=6, device_count={"CPU": 2}), execution_mode=engine.ASYNC
        ),
        ValueError,
    )
    assert "config.max_pending_ops is 5 and cannot be changed to 6" in said
    assert "config.device_count" in said
    assert "execution_mode" in said
    assert "max_pending_bytes" not in said
    assert "`with engine.execution_mode(...):` and `async with engine.Executor(config):`" in said
    assert "engine.device_policy" not in said
    assert "engine.disable_eager_execution() first" in said
    engine.enable_eager_execution(engine.Config(max_pending_ops=5))


def test_what_is_frozen_by_an_op_names_ways_that_work(mode: engine.ExecutionMode) -> None:
    """Once an op has run, disabling does not free the counts: neither error says that it would."""
    two = engine.Config(device_count={"CPU": 2})
    ops.add(1, 2)
    enabled = message(lambda: engine.enable_eager_execution(two), ValueError)
    engine.disable_eager_execution()
    disabled = message(lambda: engine.enable_eager_execution(two), RuntimeError)
    for said in (enabled, disabled):
        assert "`async with engine.Executor(config):`" in said
        assert "restart the program" in said
        assert "engine.testing.reset() first" in said
        assert "disable_eager_execution()" not in said
    with engine.Executor(two):
        assert str(ops.ones(3, device="CPU:1").device) == "CPU:1"
    engine.testing.reset()
    engine.enable_eager_execution(two, execution_mode=mode)
    assert len(engine.list_devices()) == 2


# Arguments that are none


@pytest.mark.parametrize(
    ("call", "kind", "said"),
    [
        (lambda: untyped.wait(timeout="soon"), ValueError, "timeout must be None or a number of seconds"),
        (lambda: untyped.wait(timeout=-1), ValueError, "but got -1"),
        (lambda: untyped.wait(timeout=float("nan")), ValueError, "but got nan"),
        (lambda: untyped.ops.add(1.0, None), TypeError, "or nested sequences of them, but got None"),
        (lambda: untyped.op(abs, name=3), TypeError, "name must be a str or None, but got 3"),
        (lambda: untyped.op(abs, shape=3), TypeError, "shape must be a (shape, dtype) pair, or a function"),
        (lambda: untyped.op(abs, shape=(2, 3, 4)), TypeError, "but got (2, 3, 4)"),
        (lambda: untyped.op(abs, num_outputs=2, shape=((3,), "f8")), TypeError, "a tuple of 2 (shape, dtype) pairs"),
        (lambda: untyped.op(abs, shape=((3,), "no dtype")), TypeError, "but got ((3,), 'no dtype')"),
        (lambda: untyped.function(abs, input_signature=3), TypeError, "input_signature must be a sequence with"),
        (lambda: untyped.function(abs, input_signature="f8"), TypeError, "but got 'f8'"),
        (
            lambda: untyped.function(abs, input_signature=engine.ShapeDtype((3,), np.dtype("f8"))),
            TypeError,
            "input_signature must be a sequence with an engine.ShapeDtype",
        ),
    ],
)
def test_an_argument_that_is_none_is_named(
    call: Callable[[], object], kind: type[Exception], said: str, asynchronous: None
) -> None:
    assert said in message(call, kind)


def test_a_placeholder_has_a_name_that_is_a_str() -> None:
    name: Any = 3
    with engine.Graph().as_default():
        assert "name must be a str or None, but got 3" in message(
            lambda: engine.placeholder("f8", (1,), name=name), TypeError
        )


def test_a_scope_in_a_plain_with_says_how_it_is_entered(mode: engine.ExecutionMode) -> None:
    scope: Any = engine.scope()
    with pytest.raises(TypeError, match=r"async with engine\.scope\(\.\.\.\):.*engine\.wait\(\)"), scope:
        pass


# Names that are not there


@pytest.mark.parametrize(
    ("module", "name", "hint"),
    [
        (ops, "dot", "numpy.dot(handle, ...) takes handles"),
        (ops, "concatenate", "the array API standard calls it engine.ops.concat"),
        (ops, "concatenate", "numpy.concatenate(handle, ...) takes handles"),
        (ops, "arcsin", "the array API standard calls it engine.ops.asin"),
        (ops, "array", "the array API standard calls it engine.ops.asarray"),
        (ops, "cumsum", "engine.ops.cumulative_sum"),
        (ops, "resahpe", "did you mean engine.ops.reshape?"),
        (ops.linalg, "lstsq", "numpy.linalg.lstsq(handle, ...) takes handles"),
        (ops.linalg, "sovle", "did you mean engine.ops.linalg.solve?"),
        (ops.fft, "ftt", "did you mean engine.ops.fft.fft?"),
        (engine, "enable_eager", "did you mean engine.enable_eager_execution?"),
        (engine, "Exectuor", "did you mean engine.Executor?"),
        (engine, "add", "did you mean engine.ops.add?"),
        (engine, "linalg", "did you mean engine.ops.linalg?"),
        (engine.random, "normal", "engine.random.default_rng(seed).normal(...)"),
    ],
)
def test_a_name_that_is_not_there(module: Any, name: str, hint: str) -> None:
    said = message(lambda: getattr(module, name), AttributeError)
    assert said.startswith(f"module {module.__name__!r} has no attribute {name!r}: ")
    assert hint in said
    assert not hasattr(module, name)


@pytest.mark.parametrize("module", [ops, ops.linalg, ops.fft])
def test_what_is_said_of_numpys_functions_is_so(module: Any, mode: engine.ExecutionMode) -> None:
    """Each function of NumPy that the namespace has not: another name is there, and it takes handles."""
    theirs: Any = {ops: np, ops.linalg: np.linalg, ops.fft: np.fft}[module]
    names = [name for name in theirs.__all__ if callable(getattr(theirs, name)) and not hasattr(module, name)]
    assert len(names) > 3 or module is ops.fft
    for name in names:
        said = message(partial(getattr, module, name), AttributeError)
        function = getattr(theirs, name)
        takes = isinstance(function, np.ufunc) or hasattr(function, "_implementation")
        assert (f"{theirs.__name__}.{name}(handle, ...) takes handles" in said) == takes
        if "standard calls it" in said:
            other = said.split("standard calls it ")[1].split(",")[0]
            assert hasattr(module, other.rpartition(".")[2])


def test_names_that_libraries_ask_for_are_simply_not_there() -> None:
    for module in (engine, ops, ops.linalg, ops.fft):
        assert not hasattr(module, "__no_such_thing__")
        assert not hasattr(module, "_private")


def test_dir_shows_public_names_only() -> None:
    assert set(dir(engine)) == {*engine.__all__, "random", "__version__"}
    assert set(dir(ops)) == set(ops.__all__)
    assert all(hasattr(engine, name) for name in dir(engine))
    for module in (engine.asgi, engine.devices, engine.observe, engine.random, engine.testing, handles):
        assert set(dir(module)) == set(module.__all__)


async def test_a_draw_that_is_not_there_names_one_that_is(mode: engine.ExecutionMode) -> None:
    generator: Any = engine.random.default_rng(0)
    said = message(lambda: generator.laplace(size=3), AttributeError)
    assert "engine.op(numpy.random.default_rng(seed).laplace)(...)" in said
    drawn = engine.op(np.random.default_rng(0).laplace)(size=3)
    assert (await drawn).tolist() == np.random.default_rng(0).laplace(size=3).tolist()
    assert message(lambda: generator.no_such_draw, AttributeError).endswith("has no attribute 'no_such_draw'")
    assert not hasattr(generator, "__array__")


def test_the_config_documents_each_field() -> None:
    documented = engine.Config.__doc__ or ""
    for name in engine.Config.__dataclass_fields__:
        assert re.search(rf"^ *{name} \(", documented, re.MULTILINE)


# Attributes of handles


async def test_an_attribute_that_arrays_have_and_handles_lack(mode: engine.ExecutionMode) -> None:
    x = ops.ones((3, 3))
    lacking = [name for name in dir(np.ndarray) if not name.startswith("_") and not hasattr(type(x), name)]
    for name in lacking:
        said = message(partial(getattr, x, name), AttributeError)
        assert said.startswith(f"{type(x).__name__!r} object has no attribute {name!r}: ")
        assert name not in dir(x)
    said = message(lambda: x.setflags, AttributeError)
    assert ("await handle" if mode is engine.ASYNC else "handle.numpy()") in said
    assert "x.no_such" not in dir(x)
    assert "sum" in dir(x)
    assert "shape" in dir(x)


@pytest.mark.parametrize("name", ["block_until_ready", "compute", "persist"])
def test_names_of_other_libraries_say_what_to_write(name: str, mode: engine.ExecutionMode) -> None:
    x = ops.ones(3)
    assert not hasattr(x, name)
    said = message(partial(getattr, x, name), AttributeError)
    assert said.startswith(f"{type(x).__name__!r} object has no attribute {name!r}: ")
    assert "read the value first" not in said
    assert "{" not in said


async def test_what_blocks_the_loop_names_what_to_await_instead(asynchronous: None) -> None:
    assert "use `await engine.synchronize()`" in message(engine.wait, engine.BlockingSyncError)
    doubled = engine.batched(lambda rows: rows * 2, max_size=2)
    assert "use `await <lambda>(...)`" in message(partial(doubled.call, 1.0), engine.BlockingSyncError)


async def test_several_handles_are_given_one_by_one(asynchronous: None) -> None:
    handles = [ops.ones(3), ops.ones(3)]
    for together in (handles, tuple(handles), iter(handles)):
        with pytest.raises(TypeError, match=r"engine\.gather\(\*handles\)"):
            await engine.gather(together)  # type: ignore[arg-type]


async def test_handles_are_no_futures(asynchronous: None) -> None:
    x = ops.ones(3)
    with pytest.raises(AttributeError, match="ensure_future") as caught:
        await asyncio.wait([x])
    assert "engine.as_completed" in str(caught.value)
    done, _ = await asyncio.wait([asyncio.ensure_future(x)])
    assert [task.result().tolist() for task in done] == [[1, 1, 1]]
    assert [(await handle).tolist() async for handle in engine.as_completed([x])] == [[1, 1, 1]]
    for name in ("done", "exception", "cancelled"):
        assert not hasattr(x, name)


async def test_what_asyncio_takes(asynchronous: None) -> None:
    x = ops.ones(3)
    total = ops.sum(x)
    assert (await asyncio.wait_for(x, 30)).tolist() == [1, 1, 1]
    assert await asyncio.wait_for(total, 30) == 3
    assert (await asyncio.shield(x)).tolist() == [1, 1, 1]
    assert len(await asyncio.gather(x, x)) == 2
    assert await asyncio.create_task(total.numpy()) == 3
    async with asyncio.TaskGroup() as group:
        task = group.create_task(total.numpy())
    assert task.result() == 3
    with pytest.raises(TypeError, match=r"engine\.gather waits for such handles"):
        await asyncio.gather(total, total)
    assert await engine.gather(total, total) == [3, 3]


@pytest.mark.parametrize("function", [np.roots, np.poly, np.poly1d, sum, sorted, list, max, set, np.vectorize(float)])
async def test_what_iterates_says_what_to_do_on_a_loop(function: Callable[[Any], Any], asynchronous: None) -> None:
    def pending() -> Any:
        return ops.add([1.0, -3.0, 2.0], 0)

    expected = repr(function(np.array([1.0, -3.0, 2.0])))
    said = message(lambda: function(pending()), engine.BlockingSyncError)
    assert "use `await`, or permit it with `with engine.allow_sync(): ...`" in said
    assert "asyncio.to_thread" in said
    assert repr(function(await pending())) == expected
    with engine.allow_sync():
        assert len([function(pending())]) == 1
    assert len(await asyncio.to_thread(lambda: [function(pending())])) == 1


@pytest.mark.parametrize("function", [np.roots, np.poly])
async def test_functions_that_iterate_are_ops_when_wrapped(function: Callable[[Any], Any], asynchronous: None) -> None:
    assert "np.roots and np.poly do it" in message(lambda: function(ops.add([1.0, -3.0, 2.0], 0)))
    result = engine.op(function)(ops.add([1.0, -3.0, 2.0], 0))
    assert (await result).tolist() == function([1.0, -3.0, 2.0]).tolist()


async def test_what_takes_coroutines_alone_shows_the_handle(asynchronous: None) -> None:
    """`create_task` and its kin take no other awaitable, and word the error themselves."""
    x = ops.sum(ops.ones(3))
    loop = asyncio.get_running_loop()
    with pytest.raises(TypeError, match="a coroutine was expected, got <AsyncHandle op=sum"):
        await asyncio.create_task(x)
    with pytest.raises(TypeError, match="coroutine object is required"):
        asyncio.run_coroutine_threadsafe(x, loop)
    assert await asyncio.create_task(x.numpy()) == 3
    assert await asyncio.ensure_future(x) == 3
    assert await asyncio.to_thread(lambda: asyncio.run(ops.sum(ops.ones(3)).numpy())) == 3
    outside = asyncio.run_coroutine_threadsafe(x.numpy(), loop)
    assert await asyncio.wrap_future(outside) == 3


async def test_json_names_the_class_and_takes_values(mode: engine.ExecutionMode) -> None:
    x = ops.ones(2)
    assert f"Object of type {type(x).__name__} is not JSON serializable" in message(lambda: json.dumps(x), TypeError)
    assert json.dumps((await x).tolist()) == "[1.0, 1.0]"
    assert json.dumps(await ops.sum(x)) == "2.0"
    assert json.dumps((await ops.sum(ops.ones(2, dtype=int))).tolist()) == "2"
    encoded = await asyncio.to_thread(json.dumps, {"x": x}, default=lambda handle: handle.tolist())
    assert encoded == '{"x": [1.0, 1.0]}'


async def test_a_handle_that_is_ready_by_now_is_refused_in_other_words(asynchronous: None, gate: GateOp) -> None:
    x: Any = gate(np.ones(2))
    assert "of a non-ready handle" in message(x.tolist, engine.BlockingSyncError)
    gate.open()
    await x
    said = message(x.tolist, engine.BlockingSyncError)
    assert "of a handle that is ready by now" in said
    assert "would block the running event loop when it is not: use `await`" in said
    assert (await x).tolist() == [1, 1]


def test_what_cannot_be_set_says_what_to_use(mode: engine.ExecutionMode) -> None:
    x = ops.ones(3)
    assert "handle.view(dtype)" in message(lambda: setattr(x, "dtype", "i8"), AttributeError)
    assert "handle.astype(dtype)" in message(lambda: setattr(x, "dtype", "i8"), AttributeError)
    assert x.view("i8").tolist() == np.ones(3).view("i8").tolist()
    said = message(lambda: setattr(x, "strides", (0,)), AttributeError)
    assert "numpy.lib.stride_tricks.as_strided(value, shape, strides)" in said
    assert np.lib.stride_tricks.as_strided(x.result(), (2,), (0,)).tolist() == [1, 1]
    for name in ("ndim", "size", "itemsize", "nbytes", "base", "flags", "T", "mT", "data", "ctypes", "device"):
        assert name in message(lambda name=name: setattr(x, name, 1), AttributeError)  # type: ignore[misc]
    assert x.tolist() == [1, 1, 1]


def test_json_takes_what_handles_are_read_as(mode: engine.ExecutionMode) -> None:
    assert json.dumps(ops.ones(2).tolist()) == "[1.0, 1.0]"
    assert json.dumps(ops.sum(ops.ones(2)).result()) == "2.0"


# What numpy() gives in ASYNC mode

USES: dict[str, Callable[[Any], object]] = {
    "an attribute": lambda value: value.mean(),
    "shape": lambda value: value.shape,
    "addition": lambda value: value + 1,
    "reflected addition": lambda value: 1 + value,
    "addition of an array": lambda value: np.ones(3) + value,
    "matmul": lambda value: value @ value,
    "comparison": lambda value: value > 1,
    "an index": lambda value: value[0],
    "len": len,
    "iteration": list,
    "float": float,
    "int": int,
    "a format": lambda value: f"{value:.2f}",
    "asarray": np.asarray,
    "a function of NumPy": np.sum,
    "negation": lambda value: -value,
}


@pytest.mark.parametrize("use", [pytest.param(each, id=name) for name, each in USES.items()])
async def test_a_value_that_was_not_awaited_says_so(use: Callable[[Any], object], asynchronous: None) -> None:
    x = ops.ones(3)
    with pytest.raises((AttributeError, TypeError), match=r"Await it first: .*await handle\.numpy\(\)"):
        use(x.numpy())
    assert (await x.numpy()).mean() == 1


async def test_a_value_that_is_never_awaited_is_warned_of(asynchronous: None) -> None:
    with pytest.warns(RuntimeWarning, match=r"never awaited: write `await handle\.numpy\(\)`"):
        ops.ones(3).numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        await ops.ones(3).numpy()
        ops.ones(3).numpy().close()


async def test_a_value_is_awaited_once(asynchronous: None, gate: GateOp) -> None:
    held: Any = gate(5)
    value = held.numpy()
    assert "AsyncHandle" in repr(value)
    task = asyncio.ensure_future(value)
    await asyncio.sleep(0)
    gate.open()
    assert await task == 5
    with pytest.raises(RuntimeError, match=r"call handle\.numpy\(\) again"):
        await value


async def test_a_task_of_a_value_can_be_cancelled(asynchronous: None, gate: GateOp) -> None:
    held: Any = gate(5)
    task = asyncio.create_task(held.numpy())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    gate.open()
    assert await held == 5


# Devices


@pytest.mark.parametrize(
    "name", ["/cpu:0", "cpu:0", "CPU:0", "/device:CPU:0", "/job:localhost/replica:0/task:0/device:CPU:0", None]
)
def test_devices_go_by_the_names_that_tensorflow_has(name: str | None, mode: engine.ExecutionMode) -> None:
    with engine.device(name):
        assert str(ops.ones(3).device) == "CPU:0"


def test_a_symbol_says_what_to_do_with_it() -> None:
    symbol = ops.add(1, 2)
    assert isinstance(symbol, handles.Handle)
    assert "session.run(symbol)" in message(partial(getattr, symbol, "setflags"), AttributeError)
    with engine.Session() as session:
        assert session.run(symbol) == 3


def test_a_task_of_a_value_may_be_looked_at() -> None:
    """Asyncio's debug mode asks coroutines for their code and frames."""
    engine.enable_eager_execution(execution_mode=engine.ASYNC)

    async def main() -> None:
        value = ops.ones(3).numpy()
        with pytest.raises(TypeError, match="value = await handle"):
            bool(value)
        task = asyncio.create_task(value)
        assert "numpy()" in repr(task)
        assert task.get_stack() == []
        assert (await task).tolist() == [1, 1, 1]

    asyncio.run(main(), debug=True)
