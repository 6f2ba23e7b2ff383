"""Sessions: what runs and what comes back, feeds, failures, and many runs at once."""

import asyncio
import gc
import threading
import weakref
from collections import OrderedDict, namedtuple
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import engine
from engine.testing import GateOp

ops: Any = engine.ops  # what it returns here is a symbol, or a handle of either kind

Run = Callable[..., Any]


@pytest.fixture(params=["run", "run_async"])
def run(request: pytest.FixtureRequest) -> Run:
    """Both ways of running, called from plain code."""
    if request.param == "run":
        return lambda session, *args: session.run(*args)
    return lambda session, *args: asyncio.run(session.run_async(*args))


@pytest.fixture
def session() -> Iterator[engine.Session]:
    """A session of the default graph, not entered."""
    session = engine.Session()
    yield session
    session.close()


def counting(calls: list[str], name: str) -> Callable[[Any], Any]:
    """An op that tells when it runs."""

    def kernel(x: Any) -> Any:
        calls.append(name)
        return x

    return engine.op(kernel, shape=lambda x: x)


# ---------------------------------------------------------------------------------------------------------------------
# What comes back


Pair = namedtuple("Pair", "first second")


def test_fetches_come_back_in_their_structure(session: engine.Session, run: Run) -> None:
    x = ops.ones(2)
    y = x + 1
    fetches = {"a": [x, (y,)], "b": Pair(y, {"c": x}), "none": [], "operation": y.op}
    result = run(session, fetches)
    assert isinstance(result["b"], Pair)
    assert isinstance(result["a"], list)
    assert isinstance(result["a"][1], tuple)
    assert result["operation"] is None
    assert result["none"] == []
    assert [
        each.tolist() for each in (result["a"][0], result["a"][1][0], result["b"].first, result["b"].second["c"])
    ] == [
        [1, 1],
        [2, 2],
        [2, 2],
        [1, 1],
    ]


def test_mappings_come_back_as_dicts(session: engine.Session, run: Run) -> None:
    result = run(session, OrderedDict(b=ops.ones(1), a=ops.zeros(1)))
    assert list(result) == ["b", "a"]


def test_values_are_read_only_arrays(session: engine.Session, run: Run) -> None:
    x = engine.placeholder("f8", 3)
    fed = np.ones(3)
    values = run(session, [x, x + 1, ops.sum(x), ops.asarray(fed)], {x: fed})
    assert all(type(value) is np.ndarray and not value.flags.writeable for value in values)
    fed[:] = 7
    assert values[0].tolist() == [1, 1, 1]


@pytest.mark.parametrize("fetch", ["add", None, 3, np.ones(3), object()])
def test_what_cannot_be_fetched_is_named(session: engine.Session, run: Run, fetch: Any) -> None:
    with pytest.raises(TypeError, match="a fetch must be a symbol"):
        run(session, [fetch])


def test_a_fetch_of_another_graph_is_refused(session: engine.Session, run: Run) -> None:
    with engine.Graph().as_default():
        x = ops.ones(1)
    with pytest.raises(engine.SymbolError, match=r"'ones' .* another graph"):
        run(session, x)
    with pytest.raises(engine.SymbolError, match=r"'ones' .* another graph"):
        run(session, x.op)


# ---------------------------------------------------------------------------------------------------------------------
# What runs


def test_only_what_the_fetches_need_runs_and_once(session: engine.Session, run: Run) -> None:
    calls: list[str] = []
    x = counting(calls, "x")(ops.ones(1))
    y = counting(calls, "y")(x)
    z = counting(calls, "z")(x)
    counting(calls, "unneeded")(y)
    run(session, [y, z, y + z, x])
    assert sorted(calls) == ["x", "y", "z"]


def test_each_run_runs_again(session: engine.Session, run: Run) -> None:
    calls: list[str] = []
    x = counting(calls, "x")(ops.ones(1))
    for _ in range(3):
        run(session, x)
    assert calls == ["x"] * 3


def test_an_operation_runs_without_its_value(session: engine.Session, run: Run) -> None:
    calls: list[str] = []
    x = counting(calls, "x")(ops.ones(1))
    assert run(session, x.op) is None
    assert calls == ["x"]


def test_several_results_are_computed_once_whichever_is_fetched(session: engine.Session, run: Run) -> None:
    u, s, vh = ops.linalg.svd(ops.reshape(ops.arange(6.0), (3, 2)))
    expected = np.linalg.svd(np.arange(6.0).reshape(3, 2))
    np.testing.assert_array_equal(run(session, s), expected[1])
    np.testing.assert_array_equal(run(session, [vh, u])[0], expected[2])
    assert run(session, [u.op, s.op]) == [None, None]


def test_a_deep_graph_needs_no_recursion(session: engine.Session) -> None:
    x = engine.placeholder("i8", ())
    y: Any = x
    for _ in range(30_000):
        y = y + 1
    assert session.run(y, {x: 5}) == 30_005
    assert asyncio.run(session.run_async(y, {x: 6})) == 30_006


def test_a_wide_graph_stays_below_the_marks(run: Run) -> None:
    x = engine.placeholder("f8", 2)
    sums = [ops.sum(x * index) for index in range(500)]
    with engine.Session(config=engine.Config(max_pending_ops=16)) as session:
        assert [float(value) for value in run(session, sums, {x: np.ones(2)})] == [2.0 * index for index in range(500)]


def test_numpys_error_state_is_that_of_the_run(session: engine.Session, run: Run) -> None:
    x = engine.placeholder("f8", ())
    y = 1.0 / x
    with np.errstate(divide="raise"), pytest.raises(FloatingPointError):
        run(session, y, {x: 0.0})
    with np.errstate(divide="ignore"):
        assert run(session, y, {x: 0.0}) == np.inf


@pytest.mark.parametrize("soft", [True, False])
def test_a_device_that_does_not_exist_is_looked_for_at_run_time(
    run: Run, soft: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with engine.device("CPU:5"):
        x = ops.ones(1)
    with engine.Session(config=engine.Config(allow_soft_placement=soft)) as session:
        if soft:
            assert run(session, x) == 1
            assert "CPU:5 does not exist" in caplog.text
        else:
            with pytest.raises(engine.UnknownDeviceError, match="CPU:5") as caught:
                run(session, x)
            assert "node 'ones'" in caught.value.__notes__


def test_many_async_ops_stay_below_the_marks(run: Run) -> None:
    @engine.op(shape=lambda x: x)
    async def slowly(x: Any) -> Any:
        await asyncio.sleep(0)
        return x + 1

    x = engine.placeholder("f8", ())
    with engine.Session(config=engine.Config(max_pending_ops=8)) as session:
        assert run(session, [slowly(x) for _ in range(50)], {x: 1.0}) == [2.0] * 50


def test_values_are_let_go_during_the_run(session: engine.Session) -> None:
    alive: list[weakref.ref[Any]] = []
    most = [0]

    def kernel(x: Any) -> Any:
        result = x + 1
        alive.append(weakref.ref(result))
        most[0] = max(most[0], sum(reference() is not None for reference in alive))
        return result

    x = ops.ones(10)
    for _ in range(50):
        x = engine.op(kernel, shape=lambda x: x)(x)
    session.run(x)
    assert most[0] <= 4


# ---------------------------------------------------------------------------------------------------------------------
# Feeds


def test_any_symbol_may_be_fed_in_place_of_computing_it(session: engine.Session, run: Run) -> None:
    calls: list[str] = []
    x = counting(calls, "x")(ops.ones(2))
    y = x + 1
    assert run(session, [x, y], {x: np.array([5.0, 6.0])})[1].tolist() == [6, 7]
    assert calls == []


def test_python_numbers_take_the_dtype_of_the_placeholder(session: engine.Session, run: Run) -> None:
    x = engine.placeholder("float32", (2,))
    n = engine.placeholder("uint8", ())
    values = run(session, [x, n], {x: [1, 2.5], n: 255})
    assert [value.dtype for value in values] == [np.float32, np.uint8]


@pytest.mark.parametrize(
    ("dtype", "shape", "value", "says"),
    [
        ("f8", (2,), np.ones(3), "expects shape (2,), but was fed shape (3,)"),
        ("f8", (None, 2), np.ones(2), "expects shape (None, 2), but was fed shape (2,)"),
        ("f8", None, np.ones(2, "f4"), "expects dtype float64, but was fed float32"),
        ("f8", (), np.float32(1), "expects dtype float64, but was fed float32"),
        ("i4", (), 2.5, "expects dtype int32, but was fed float64"),
        ("u1", (), 256, "expects dtype uint8, but was fed int64"),
        ("u1", (), -1, "expects dtype uint8, but was fed int64"),
        ("f8", (), "text", "expects dtype float64"),
        ("f8", (), 1j, "expects dtype float64"),
        ("?", (), 1, "expects dtype bool"),
    ],
)
def test_a_feed_that_does_not_fit_names_the_placeholder(
    session: engine.Session, run: Run, dtype: str, shape: Any, value: Any, says: str
) -> None:
    x = engine.placeholder(dtype, shape, name="speed")
    with pytest.raises(engine.FeedError, match="placeholder 'speed'") as caught:
        run(session, x, {x: value})
    assert says in str(caught.value)
    assert x.place in str(caught.value)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, TypeError)


def test_a_missing_feed_names_the_placeholders(session: engine.Session, run: Run) -> None:
    x, y = engine.placeholder("f8", name="speed"), engine.placeholder("f8", name="height")
    other = engine.placeholder("f8", name="unneeded")
    with pytest.raises(engine.FeedError, match=r"'speed' .* and 'height'") as caught:
        run(session, x + y + 1)
    assert "unneeded" not in str(caught.value)
    assert run(session, x + y, {x: 1.0, y: 2.0, other: 3.0}) == 3


def test_an_unknown_key_is_refused(session: engine.Session, run: Run) -> None:
    x = engine.placeholder("f8", name="speed")
    with engine.Graph().as_default():
        other = engine.placeholder("f8", name="elsewhere")
    with pytest.raises(engine.FeedError, match=r"'x'; its placeholders are 'speed'"):
        run(session, x, {"x": 1.0})
    with pytest.raises(engine.FeedError, match=r"'elsewhere' .* another graph"):
        run(session, x, {x: 1.0, other: 1.0})
    with pytest.raises(engine.FeedError, match="no value itself"):
        run(session, x, {x: x})
    with pytest.raises(TypeError, match="feed_dict must be a mapping"):
        run(session, x, [1.0])


def test_handles_may_be_fed(mode: engine.ExecutionMode, run: Run) -> None:
    with engine.Graph().as_default(), engine.Session() as session:
        x = engine.placeholder("f8", (2,), name="speed")
        y = x + 1
        with engine.Executor(execution_mode=mode):
            handle = ops.ones(2) * 3
            wrong = ops.ones(3)
        assert session.run(y, {x: handle}).tolist() == [4, 4]
        with pytest.raises(engine.FeedError, match="speed"):
            session.run(y, {x: wrong})


# ---------------------------------------------------------------------------------------------------------------------
# Failures


def failing_graph() -> tuple[Any, Any]:
    matrix = engine.placeholder("f8", (2, 2), name="matrix")
    return matrix, ops.linalg.inv(matrix)


def test_a_failing_run_names_the_node_and_its_line_and_the_session_stays_usable(
    session: engine.Session, run: Run
) -> None:
    matrix, inverse = failing_graph()
    dependent = inverse + 1
    for _ in range(2):
        with pytest.raises(np.linalg.LinAlgError, match="Singular") as caught:
            run(session, dependent, {matrix: np.zeros((2, 2))})
        notes = "\n".join(caught.value.__notes__)
        assert f"node {inverse.name!r}" in notes
        assert inverse.place in notes
        assert run(session, dependent, {matrix: np.eye(2)}).tolist() == [[2, 1], [1, 2]]


def test_one_node_of_many_on_one_line_is_named(session: engine.Session, run: Run) -> None:
    matrices = [ops.asarray(np.eye(2) * (index != 5)) for index in range(10)]
    inverses = [ops.linalg.inv(matrix) for matrix in matrices]
    with pytest.raises(np.linalg.LinAlgError) as caught:
        run(session, inverses)
    assert repr(inverses[5].name) in "\n".join(caught.value.__notes__)


def test_all_failures_of_a_run_are_told_by_its_one_error(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(x: Any) -> Any:
        raise LookupError(str(x))

    failing = [engine.op(fail)(float(index)) for index in range(3)]
    with engine.Session(config=engine.Config(inter_op_parallelism_threads=1)) as session:
        with pytest.raises(LookupError) as caught:
            run(session, [*failing, ops.ones(1)])
        assert run(session, ops.ones(1)) == 1
    assert caught.value.args == ("0.0",)
    engine.testing.reset()
    assert capsys.readouterr().err == ""


def test_a_closed_session_refuses(run: Run) -> None:
    x = ops.ones(1)
    with engine.Session() as session:
        assert run(session, x) == 1
    assert session.closed
    with pytest.raises(RuntimeError, match=r"Attempted to use a closed Session\."):
        run(session, x)
    with pytest.raises(RuntimeError, match="closed"), session:
        pass
    session.close()


@pytest.mark.parametrize(("graph", "config"), [("graph", None), (None, {"device_count": 1}), (3, None)])
def test_what_is_no_graph_or_config_is_refused(graph: Any, config: Any) -> None:
    with pytest.raises(TypeError, match="must be an engine"):
        engine.Session(graph, config)


def test_a_session_inside_a_kernel_is_refused(session: engine.Session) -> None:
    x = ops.ones(1)
    y = engine.op(lambda a: session.run(x))(x)
    with pytest.raises(engine.BlockingSyncError, match="inside the kernel"):
        session.run(y)


# ---------------------------------------------------------------------------------------------------------------------
# eval, and the session of a block


def test_eval_uses_the_innermost_session() -> None:
    x = engine.placeholder("f8", ())
    y: Any = x + 1
    with engine.Session() as outer, engine.Session():
        assert x.eval(feed_dict={x: 1.0}) == 1
        assert y.eval(outer, {x: 1.0}) == 2
    with pytest.raises(engine.SymbolError, match="needs a session"):
        x.eval()


def test_inside_its_block_ops_are_added_to_the_graph_of_the_session(mode: engine.ExecutionMode) -> None:
    graph = engine.Graph()
    with engine.Session(graph) as session:
        x = ops.ones(2)
        assert engine.get_default_graph() is graph is session.graph
        assert x.eval().tolist() == [1, 1]
    assert engine.executing_eagerly()


# ---------------------------------------------------------------------------------------------------------------------
# Executors


def test_a_session_runs_on_the_executor_in_force(run: Run) -> None:
    with engine.Graph().as_default():
        x = ops.ones(2) + 1
        session = engine.Session()
    with engine.Executor(execution_mode=engine.SYNC) as executor:
        assert run(session, x).tolist() == [2, 2]
    assert executor.statistics().completed == 2


def test_a_config_gives_a_session_an_executor_of_its_own() -> None:
    with engine.Graph().as_default():
        x = ops.ones(2) + 1
        session = engine.Session(config=engine.Config())
    with engine.Executor(execution_mode=engine.SYNC) as executor, session:
        assert session.run(x).tolist() == [2, 2]
    assert executor.statistics().completed == 0


async def test_blocking_a_running_loop_is_refused_in_async_mode() -> None:
    with engine.Graph().as_default():
        x = ops.ones(1)
    session = engine.Session(x.graph)
    async with engine.Executor(execution_mode=engine.ASYNC):
        with pytest.raises(engine.BlockingSyncError, match="run_async"):
            session.run(x)
        with engine.allow_sync():
            assert session.run(x) == 1
        assert await session.run_async(x) == 1
    assert session.run(x) == 1  # no mode in force: as SYNC


def test_threads_run_one_session_at_once(session: engine.Session) -> None:
    x = engine.placeholder("f8", ())
    y = x * 2 + 1
    results: list[tuple[int, float]] = []

    def work(number: int) -> None:
        results.extend((number, float(session.run(y, {x: float(number)}))) for _ in range(20))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 120
    assert all(result == number * 2 + 1 for number, result in results)


# ---------------------------------------------------------------------------------------------------------------------
# run_async


async def test_a_thousand_tasks_run_one_session_at_once() -> None:
    x = engine.placeholder("f8", (3,))
    y = ops.sum(x * x + 1)
    async with engine.Session() as session:
        values = await asyncio.gather(*(session.run_async(y, {x: np.full(3, float(i))}) for i in range(1_000)))
    assert values == [3.0 * i * i + 3 for i in range(1_000)]


async def test_a_run_does_not_hold_the_loop() -> None:
    gate = GateOp()
    y = gate(ops.ones(2)) + 1
    async with engine.Session() as session:
        task = asyncio.create_task(session.run_async(y))
        await asyncio.to_thread(gate.wait_entered)
        assert not task.done()
        gate.open()
        assert (await task).tolist() == [2, 2]


async def test_a_long_run_lets_others_in_between() -> None:
    turns = [0]

    async def others() -> None:
        while True:
            turns[0] += 1
            await asyncio.sleep(0)

    x = ops.ones(1)
    for _ in range(20_000):
        x = x + 1
    task = asyncio.create_task(others())
    async with engine.Session() as session:
        assert await session.run_async(x) == 20_001
    task.cancel()
    assert turns[0] > 3


async def test_a_cancelled_run_drops_what_has_not_started_and_the_session_stays_usable() -> None:
    gate = GateOp()
    calls: list[str] = []
    held = gate(ops.ones(2))
    late = counting(calls, "late")(held + 1)
    async with engine.Session() as session:
        task = asyncio.create_task(session.run_async(late))
        await asyncio.to_thread(gate.wait_entered)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        gate.open()
        assert (await session.run_async(ops.ones(1))) == 1
        assert calls == []
        assert (await session.run_async(late)).tolist() == [2, 2]
        assert calls == ["late"]


async def test_a_run_that_is_cancelled_leaves_other_runs_alone() -> None:
    gate = GateOp()
    y = gate(ops.ones(2)) + 1
    async with engine.Session() as session:
        first, second = asyncio.create_task(session.run_async(y)), asyncio.create_task(session.run_async(y))
        await asyncio.to_thread(gate.wait_entered)
        first.cancel()
        gate.open()
        assert (await second).tolist() == [2, 2]
        with pytest.raises(asyncio.CancelledError):
            await first


async def test_a_fed_handle_survives_the_cancellation_of_the_run() -> None:
    gate = GateOp()
    async with engine.Executor(execution_mode=engine.ASYNC):
        handle = gate(ops.ones(2))
        with engine.Graph().as_default():
            x = engine.placeholder("f8", (2,))
            y = x + 1
        session = engine.Session(x.graph)
        task = asyncio.create_task(session.run_async(y, {x: handle}))
        await asyncio.to_thread(gate.wait_entered)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        gate.open()
        assert (await handle).tolist() == [1, 1]


async def test_a_run_can_be_timed_out() -> None:
    gate = GateOp()
    y = gate(ops.ones(2)) + 1
    async with engine.Session() as session:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await session.run_async(y)
        gate.open()
        assert (await session.run_async(y)).tolist() == [2, 2]


def test_the_operation_timeout_of_the_config_ends_a_run(run: Run) -> None:
    gate = GateOp()
    y = gate(ops.ones(2)) + 1
    with engine.Session(config=engine.Config(operation_timeout_in_ms=20)) as session:
        with pytest.raises(TimeoutError, match=r"gate|add"):
            run(session, y)
        gate.open()


async def test_closing_a_session_ends_its_runs() -> None:
    gate = GateOp()
    y = gate(ops.ones(2)) + 1
    async with engine.Session() as session:
        task = asyncio.create_task(session.run_async(y))
        await asyncio.to_thread(gate.wait_entered)
    gate.open()
    with pytest.raises(engine.OpCancelledError):
        await task


def test_a_session_and_its_graph_are_collected() -> None:
    with engine.Graph().as_default() as graph, engine.Session() as session:
        session.run(ops.ones(3) + 1)
    references: list[weakref.ref[Any]] = [weakref.ref(graph), weakref.ref(session)]
    del graph, session
    gc.collect()
    assert [reference() for reference in references] == [None, None]
