"""Graph mode: ops make nodes, symbols say what is known of them, and the two worlds meet with clear errors."""

import asyncio
import contextvars
import copy
import pickle
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import engine
from handles import EagerHandle, Handle, Symbol

ops: Any = engine.ops  # what it returns here is a symbol, or a handle of either kind


# ---------------------------------------------------------------------------------------------------------------------
# Symbols


def test_before_eager_is_enabled_an_op_returns_a_symbol() -> None:
    symbol: Any = ops.add(ops.ones((2, 3)), 1)
    assert type(symbol) is Symbol
    assert issubclass(Symbol, Handle)
    assert (symbol.name, symbol.shape, symbol.ndim, symbol.size) == ("add", (2, 3), 2, 6)
    assert symbol.dtype == np.float64
    assert str(symbol.device) == "CPU:0"
    assert symbol.graph is engine.get_default_graph()


def test_a_symbol_knows_the_line_that_made_it() -> None:
    here = test_a_symbol_knows_the_line_that_made_it.__code__.co_firstlineno
    symbol = ops.ones(3) * 2
    assert symbol.place == f"{__file__}:{here + 2}"


def test_names_are_unique_in_a_graph() -> None:
    names = [ops.ones(1).name, ops.ones(1).name, engine.placeholder("f8", name="ones_1").name, ops.ones(1).name]
    assert names[:2] == ["ones", "ones_1"]
    assert len(set(names)) == 4


def test_results_of_one_operation_are_numbered() -> None:
    u, s, vh = ops.linalg.svd(ops.ones((3, 2)))
    assert [each.name for each in (u, s, vh)] == ["linalg.svd:0", "linalg.svd:1", "linalg.svd:2"]
    assert [each.shape for each in (u, s, vh)] == [(3, 3), (2,), (2, 2)]
    assert u.op == s.op == vh.op
    assert u.op.outputs[1].name == s.name


EXPRESSIONS: dict[str, Callable[[Any], Any]] = {
    "x + 1": lambda x: x + 1,
    "1 / x": lambda x: 1 / x,
    "-x": lambda x: -x,
    "x[0, ::2]": lambda x: x[0, ::2],
    "x.sum(axis=0)": lambda x: x.sum(axis=0),
    "x.T": lambda x: x.T,
    "np.add": lambda x: np.add(x, 1),
    "np.concatenate": lambda x: np.concatenate([x, x]),
    "np.linalg.inv": np.linalg.inv,
    "x == 1": lambda x: x == 1,
    "astype": lambda x: x.astype("int32"),
    "divmod": lambda x: divmod(x, 2)[1],
}


@pytest.mark.parametrize("text", EXPRESSIONS)
def test_operators_methods_and_numpy_functions_make_symbols(text: str) -> None:
    array = np.array([[2.0, 1.0], [1.0, 3.0]])
    expected = EXPRESSIONS[text](array)
    symbol = EXPRESSIONS[text](ops.asarray(array))
    assert isinstance(symbol, Symbol)
    assert (symbol.shape, symbol.dtype) == (expected.shape, expected.dtype)
    assert symbol.eval(engine.Session()).tobytes() == expected.tobytes()


def test_a_sequence_of_symbols_is_joined() -> None:
    x = engine.placeholder("f8", (2,))
    assert ops.asarray([x, x + 1]).eval(engine.Session(), {x: np.zeros(2)}).tolist() == [[0, 0], [1, 1]]


def test_item_assignment_rebinds_the_symbol() -> None:
    x = ops.zeros(3)
    before = x + 0
    x[1] = 5
    with engine.Session() as session:
        after, old = session.run((x, before))
    assert (after.tolist(), old.tolist()) == ([0, 5, 0], [0, 0, 0])


def test_a_shape_error_is_raised_where_the_node_is_made() -> None:
    x = ops.ones(3)
    count = len(engine.get_default_graph().operations)
    with pytest.raises(ValueError, match="shape mismatch"):
        ops.add(x, ops.ones(4))
    with pytest.raises(TypeError):
        ops.bitwise_and(x, x)
    assert len(engine.get_default_graph().operations) == count + 1


def test_a_wrong_placeholder_shape_is_found_where_some_lengths_are_unknown() -> None:
    x = engine.placeholder("f8", (None, 3))
    assert (x + ops.ones(3)).shape == (None, 3)
    with pytest.raises(ValueError, match="broadcast"):
        x + ops.ones(4)


def test_what_is_unknown_is_none() -> None:
    x: Any = engine.placeholder("float32")
    assert (x.shape, x.ndim, x.size, x.nbytes, x.dtype) == (None, None, None, None, np.float32)
    y = x + 1.5
    assert (y.shape, y.dtype) == (None, np.float32)
    opaque: Any = engine.op(lambda a: a)(x)
    assert (opaque.shape, opaque.dtype) == (None, None)
    assert ((opaque + 1).shape, (opaque + 1).dtype) == (None, None)
    assert x[x > 0].shape is None or None in x[x > 0].shape


def test_an_array_is_snapshotted() -> None:
    array = np.ones(3)
    symbol = ops.add(array, 1)
    array[:] = 7
    assert symbol.eval(engine.Session()).tolist() == [2, 2, 2]


def test_repr_and_copies_need_no_value() -> None:
    x = engine.placeholder("f8", (2,), name="x")
    assert repr(x).startswith("<Symbol name='x' op=placeholder device=CPU:0 shape=(2,) dtype=float64 made at ")
    assert copy.copy(x).name == copy.deepcopy(x).name == "x"
    assert not x.is_ready()
    assert f"{x}" == repr(x)


# ---------------------------------------------------------------------------------------------------------------------
# Graphs


def test_operations_are_listed_in_the_order_in_which_they_were_made() -> None:
    graph = engine.Graph()
    with graph.as_default():
        x = engine.placeholder("f8", 3, name="x")
        y = ops.sum(x * 2)
    assert [operation.name for operation in graph.operations] == ["x", "multiply", "sum"]
    assert [operation.type for operation in graph.operations] == ["placeholder", "multiply", "sum"]
    assert graph.operations[1].inputs[0].name == "x"
    assert graph.operations[2] == y.op
    assert graph.operations[2].graph is graph


def test_blocks_of_as_default_nest() -> None:
    outer, inner = engine.Graph(), engine.Graph()
    with outer.as_default():
        with inner.as_default():
            assert engine.get_default_graph() is inner
            a = ops.ones(1)
        b = ops.ones(1)
    c = ops.ones(1)
    assert (a.graph, b.graph, c.graph) == (inner, outer, engine.get_default_graph())


def test_graph_mode_holds_inside_the_block_also_where_eager_is_on(mode: engine.ExecutionMode) -> None:
    graph = engine.Graph()
    with pytest.raises(KeyError), graph.as_default():
        assert isinstance(ops.ones(1), Symbol)
        assert not engine.executing_eagerly()
        raise KeyError
    assert engine.executing_eagerly()
    assert not isinstance(ops.ones(1), Symbol)


def test_an_executor_inside_a_graph_is_eager_again() -> None:
    with engine.Graph().as_default():
        with engine.Executor(execution_mode=engine.SYNC) as executor:
            assert isinstance(ops.ones(1), EagerHandle)
            assert engine.executing_eagerly()
            with engine.Graph().as_default():
                assert isinstance(ops.ones(1), Symbol)
                with executor.as_default():
                    assert isinstance(ops.ones(1), EagerHandle)
        assert isinstance(ops.ones(1), Symbol)


async def test_the_default_graph_of_a_block_is_the_tasks_own() -> None:
    inside, leave = asyncio.Event(), asyncio.Event()
    graph = engine.Graph()

    async def build() -> Any:
        with graph.as_default():
            inside.set()
            await leave.wait()
            return ops.ones(1)

    task = asyncio.create_task(build())
    await inside.wait()
    here = ops.ones(1)
    leave.set()
    assert isinstance(here, Symbol)
    assert here.graph is engine.get_default_graph() is not graph
    assert (await task).graph is graph


def test_the_default_graph_is_shared_by_threads() -> None:
    made: list[Any] = []

    def build() -> None:
        made.extend(ops.ones(1) for _ in range(200))

    threads = [threading.Thread(target=build) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({symbol.name for symbol in made}) == 800
    assert {symbol.graph for symbol in made} == {engine.get_default_graph()}


def test_reset_default_graph_begins_a_new_one() -> None:
    old = ops.ones(3)
    engine.reset_default_graph()
    assert engine.get_default_graph() is not old.graph
    assert engine.get_default_graph().operations == ()
    with engine.Session(old.graph) as session:
        assert session.run(old).tolist() == [1, 1, 1]


def test_reset_default_graph_is_refused_inside_a_block() -> None:
    with engine.Graph().as_default(), pytest.raises(RuntimeError, match="as_default"):
        engine.reset_default_graph()


# ---------------------------------------------------------------------------------------------------------------------
# Placeholders


@pytest.mark.parametrize("shape", [-1, (2, -3), (True,), ("a",), 2.5])
def test_a_bad_placeholder_shape_is_refused(shape: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        engine.placeholder("f8", shape)


def test_a_placeholder_of_objects_is_refused() -> None:
    with pytest.raises(TypeError, match="objects"):
        engine.placeholder(object)


def test_a_placeholder_in_eager_mode_is_refused(mode: engine.ExecutionMode) -> None:
    with pytest.raises(RuntimeError, match=r"placeholder\(\) is not compatible with eager execution"):
        engine.placeholder("f8", 3)
    with engine.Graph().as_default():
        assert isinstance(engine.placeholder("f8", 3), Symbol)


# ---------------------------------------------------------------------------------------------------------------------
# Enabling afterwards


def enable_fails() -> str:
    with pytest.raises(ValueError, match="must be called at program startup") as caught:
        engine.enable_eager_execution()
    return str(caught.value)


def test_eager_cannot_be_enabled_after_an_op_made_a_graph() -> None:
    place = ops.ones(1).place
    assert place in enable_fails()


def test_an_op_in_any_graph_and_thread_counts() -> None:
    def build() -> None:
        with engine.Graph().as_default():
            engine.placeholder("f8")

    thread = threading.Thread(target=build)
    thread.start()
    thread.join()
    assert __file__ in enable_fails()


def test_a_session_run_counts() -> None:
    with engine.Session() as session:
        assert session.run([]) == []
    assert __file__ in enable_fails()


def test_asking_never_counts() -> None:
    graph = engine.get_default_graph()
    assert graph.operations == ()
    assert "0 operations" in repr(graph)
    assert not engine.executing_eagerly()
    engine.list_devices()
    engine.reset_default_graph()
    with engine.Graph().as_default(), engine.Session() as session:
        assert not session.closed
    with pytest.raises(ValueError, match="broadcast"):
        ops.add(np.ones(3), np.ones(4))
    engine.enable_eager_execution()
    assert engine.executing_eagerly()


def test_resetting_the_graph_does_not_undo_that_there_was_one() -> None:
    ops.ones(1)
    engine.reset_default_graph()
    enable_fails()


# ---------------------------------------------------------------------------------------------------------------------
# Where the two worlds meet


READS: dict[str, Callable[[Any], Any]] = {
    "numpy()": lambda symbol: symbol.numpy(),
    "bool()": bool,
    "int()": int,
    "float()": float,
    "complex()": complex,
    "operator.index()": lambda symbol: [0][symbol],
    "item()": lambda symbol: symbol.item(),
    "tolist()": lambda symbol: symbol.tolist(),
    "np.asarray()": np.asarray,
    "iterating": list,
    "result()": lambda symbol: symbol.result(),
    "cancel()": lambda symbol: symbol.cancel(),
    "pickling": pickle.dumps,
    "the in operator": lambda symbol: 1 in symbol,
    "format()": lambda symbol: f"{symbol:.3f}",
}


@pytest.mark.parametrize("what", READS)
def test_reading_a_symbol_names_it_and_says_what_to_do(what: str) -> None:
    x = engine.placeholder("f8", (3,), name="speed")
    with pytest.raises(engine.SymbolError, match="speed") as caught:
        READS[what](x)
    text = str(caught.value)
    assert what in text
    assert x.place in text
    assert "session.run" in text
    assert isinstance(caught.value, TypeError)
    assert isinstance(caught.value, ValueError)


async def test_awaiting_a_symbol_names_it() -> None:
    x = engine.placeholder("f8", (3,), name="speed")
    with pytest.raises(engine.SymbolError, match=r"speed.*enable_eager_execution\(execution_mode=engine\.ASYNC\)"):
        await x
    with pytest.raises(engine.SymbolError, match="speed"):
        await x.wait_ready()
    with pytest.raises(engine.SymbolError, match="speed"):
        await engine.gather(x)


def test_the_length_of_an_unknown_dimension_is_refused() -> None:
    assert len(engine.placeholder("f8", (3, None))) == 3
    for shape in (None, (None, 3)):
        with pytest.raises(engine.SymbolError, match="speed"):
            len(engine.placeholder("f8", shape, name="speed"))


def test_a_handle_in_a_graph_is_refused(mode: engine.ExecutionMode) -> None:
    handle = ops.ones(3)
    with engine.Graph().as_default():
        x = engine.placeholder("f8", 3)
        with pytest.raises(engine.SymbolError, match=r"handle of op 'ones'.*feed it"):
            ops.add(x, handle)
        with pytest.raises(engine.SymbolError, match="handle of op 'ones'"):
            x + handle
        with pytest.raises(engine.SymbolError, match="handle of op 'ones'"):
            ops.to_device(handle, "CPU:0")


def test_a_symbol_in_eager_mode_is_refused(mode: engine.ExecutionMode) -> None:
    with engine.Graph().as_default():
        x = engine.placeholder("f8", 3, name="speed")
    own = engine.op(lambda a: a)
    for call in (lambda: x + 1, lambda: ops.add(np.ones(3), x), lambda: own(x), lambda: x.to_device("CPU:0")):
        with pytest.raises(engine.SymbolError, match="speed") as caught:
            call()
        assert x.place in str(caught.value)


def test_a_symbol_of_another_graph_is_refused() -> None:
    with engine.Graph().as_default():
        x = engine.placeholder("f8", 3, name="speed")
    with pytest.raises(engine.SymbolError, match=r"symbol 'speed' .* belongs to another graph"):
        x + 1


# ---------------------------------------------------------------------------------------------------------------------
# Ops of the user's own, devices, libraries


def test_ops_of_the_users_own_are_nodes() -> None:
    seen: list[Any] = []
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="none")

    @engine.op(num_outputs=2, shape=lambda a: ((a.shape, a.dtype), ((), "int64")))
    def halves(a: Any) -> Any:
        seen.append(variable.get())
        return a / 2, np.asarray(len(a))

    x = engine.placeholder("f8", (4,))
    half, length = halves(x)
    assert (half.shape, length.shape) == ((4,), ())
    assert length.dtype == np.int64
    assert seen == []
    with engine.Session() as session:
        variable.set("of the run")
        values = session.run([half, length], {x: np.ones(4)})
    assert [value.tolist() for value in values] == [[0.5] * 4, 4]
    assert seen == ["of the run"]


async def test_an_async_op_is_a_node_that_runs_on_the_loop() -> None:
    loops: list[Any] = []

    @engine.op
    async def fetch(a: Any) -> Any:
        await asyncio.sleep(0)
        loops.append(asyncio.get_running_loop())
        return a + 1

    x = engine.placeholder("f8", ())
    y = fetch(x) * 2
    async with engine.Session() as session:
        assert (await session.run_async(y, {x: 1.0})) == 4
        assert loops == [asyncio.get_running_loop()]
        assert session.run(y, {x: 2.0}) == 6


def test_ops_inside_a_kernel_run_even_if_the_session_is_inside_a_graph_block() -> None:
    @engine.op
    def twice(a: Any) -> Any:
        return ops.multiply(a, 2)

    with engine.Graph().as_default() as graph:
        y = twice(ops.ones(2))
        with engine.Session() as session:
            assert session.run(y).tolist() == [2, 2]
    assert len(graph.operations) == 2


def test_device_scopes_hold_at_run_time() -> None:
    with engine.device("CPU:1"):
        a = ops.ones(2)
    b = a + 1
    c = b.to_device("CPU:0")
    assert [str(each.device) for each in (a, b, c)] == ["CPU:1", "CPU:1", "CPU:0"]
    assert str(a.op.device) == "CPU:1"
    assert b.op.device is None
    config = engine.Config(device_count={"CPU": 2})
    with engine.Session(config=config) as session:
        assert [value.tolist() for value in session.run([a, b, c])] == [[1, 1], [2, 2], [2, 2]]


def test_the_device_policy_holds_at_run_time() -> None:
    with engine.device("CPU:1"):
        a = ops.ones(2)
    with engine.device("CPU:0"):
        b = ops.ones(2)
    mixed, copied = a + b, a.to_device("CPU:0") + b
    with engine.Session(config=engine.Config(device_count={"CPU": 2})) as session:
        assert session.run(mixed).tolist() == [2, 2]
        with engine.device_policy(engine.DevicePolicy.EXPLICIT):
            with pytest.raises(engine.DevicePlacementError, match="'add'") as caught:
                session.run(mixed)
            assert session.run(copied).tolist() == [2, 2]
    assert mixed.name in "".join(caught.value.__notes__)


def normalized(xp: Any, x: Any) -> Any:
    """A library function that knows nothing of the engine but an array API namespace."""
    centred = x - xp.mean(x, axis=0)
    scale = xp.sqrt(xp.mean(centred * centred, axis=0))
    return xp.where(scale > 0, centred / scale, xp.zeros_like(centred))


@pytest.mark.filterwarnings("ignore:invalid value")
def test_a_library_function_is_the_same_eagerly_in_a_graph_and_in_a_function() -> None:
    array = np.array([[1.0, 5.0, 2.0], [2.0, 5.0, 4.0], [4.0, 5.0, 1.5]])
    expected = normalized(np, array)
    with engine.Graph().as_default(), engine.Session() as session:
        x = engine.placeholder("f8", (None, 3))
        y = normalized(x.__array_namespace__(), x)
        assert y.shape == (None, 3)
        as_graph = session.run(y, {x: array})
    with engine.Executor(execution_mode=engine.SYNC):
        eagerly = normalized(ops, ops.asarray(array)).result()
        as_function = engine.function(lambda x: normalized(ops, x))(array).result()
    for value in (as_graph, eagerly, as_function):
        assert value.tobytes() == expected.tobytes()


# ---------------------------------------------------------------------------------------------------------------------
# Pictures


def small_graph() -> engine.Graph:
    graph = engine.Graph()
    with graph.as_default():
        x = engine.placeholder("f8", (None, 3), name='the "input" <x>')
        with engine.device("CPU:1"):
            ops.linalg.svd(ops.matmul(ops.ones((3, 3)), x.T))
    return graph


def test_a_graph_is_described_for_graphviz() -> None:
    dot = small_graph().to_dot()
    assert dot.startswith("digraph")
    assert dot.count(" -> ") == 4
    assert r"the \"input\" <x>\n?x3 float64\nCPU:0" in dot
    colours = {line.partition("fillcolor=")[2] for line in dot.splitlines() if "fillcolor" in line}
    assert len(colours) == 2


def test_a_graph_is_drawn_with_a_colour_for_each_device() -> None:
    svg = small_graph()._repr_svg_()
    assert svg.startswith("<svg")
    assert svg.count("<g>") == 5
    assert svg.count("marker-end") == 4
    assert "the &quot;input&quot; &lt;x&gt;" in svg
    assert "CPU:0</text>" in svg
    assert "CPU:1</text>" in svg


@pytest.mark.parametrize("nodes", [0, 1, 300])
def test_a_picture_shows_the_first_nodes(nodes: int) -> None:
    graph = engine.Graph()
    with graph.as_default():
        for _ in range(nodes):
            ops.ones(1)
    svg = graph._repr_svg_()
    assert svg.count("<g>") == min(nodes, 200)
    assert ("100 further operations" in svg) == (nodes == 300)
