"""`DASK:k`: what holds on any device holds on a worker of a cluster."""

import asyncio
import gc
import os
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import engine
from engine import ops
from engine.devices.dask import link as links, programs
from handles import CancelOutcome, Handle

Array = np.ndarray[Any, Any]
MakeExecutor = Callable[..., engine.Executor]

W0, W1, CPU0 = engine.Device("DASK:0"), engine.Device("DASK:1"), engine.Device("CPU:0")
SYNC, ASYNC = engine.SYNC, engine.ASYNC


def on(device: Any, value: Any, dtype: Any = np.float64) -> Handle:
    return ops.asarray(np.asarray(value, dtype=dtype), device=device)


@engine.op
def process() -> Array:
    return np.array(os.getpid())


class Told(ValueError):
    """An error with state of its own."""

    def __init__(self, what: str, *, code: int) -> None:
        super().__init__(f"{what} ({code})")
        self.code = code


# ---------------------------------------------------------------------------------------------------------------------
# Values


def test_ops_run_where_their_inputs_or_the_scope_say(enabled: engine.ExecutionMode) -> None:
    x = on(W0, [1.0, 2.0])
    assert (x + 1).device is (2 * x).device is ops.sum(ops.exp(x)).device is W0
    assert ops.add(np.ones(2), x).device is ops.asarray([x, x]).device is W0
    with engine.device(W1):
        assert ops.add(1, 2).device is ops.zeros(3).device is ops.asarray([1, 2]).device is W1
    y = on(CPU0, [3.0, 4.0])
    assert ((x + y).device, (y + x).device) == (W0, CPU0)
    assert (x + y).result().tolist() == (y + x).result().tolist() == [4.0, 6.0]


def test_users_functions_run_in_the_process_of_the_worker(enabled: engine.ExecutionMode) -> None:
    with engine.device(W0):
        there = int(process().result())
    with engine.device(W1):
        beside = int(process().result())
    assert len({there, beside, os.getpid()}) == 3


def test_values_come_from_there_bit_for_bit(enabled: engine.ExecutionMode) -> None:
    array = np.random.default_rng(0).standard_normal((30, 40))
    x, y = on(W0, array), array
    for function, reference in ((ops.tanh, np.tanh), (ops.exp, np.exp), (ops.square, np.square)):
        x, y = function(x) * 2 - 1, reference(y) * 2 - 1
    assert x.result().tobytes() == y.tobytes()
    assert ops.sum(x, axis=1).result().tobytes() == np.sum(y, axis=1).tobytes()
    assert ops.sort(x, axis=0).result().tobytes() == np.sort(y, axis=0).tobytes()
    assert x[3:7, ::2].result().tobytes() == y[3:7, ::2].tobytes()


ROWS: list[tuple[str, Callable[[Any], Any]]] = [
    ("add", lambda x: np.add(x, 1)),
    ("where", lambda x: np.where(x > 0, x, -x)),
    ("concatenate", lambda x: np.concatenate([x, x], axis=1)),
    ("einsum", lambda x: np.einsum("ij,kj->ik", x, x)),
    ("percentile", lambda x: np.percentile(x, [10, 50], axis=0)),
    ("reduce", lambda x: np.add.reduce(x, axis=1, keepdims=True)),
    ("cumsum", lambda x: np.cumsum(x, axis=1)),
    ("argsort", lambda x: np.argsort(x, axis=1)),
    ("solve", lambda x: np.linalg.solve(x[:4, :4], x[:4])),
    ("fft", lambda x: np.fft.fft(x)),
    ("astype", lambda x: x.astype(np.int16)),
    ("strings", lambda x: (x > 0).astype("U5")),
    ("dates", lambda x: np.asarray(x * 10).astype("M8[D]") if isinstance(x, np.ndarray) else (x * 10).astype("M8[D]")),
    ("scalar", lambda x: np.max(x)),
    ("empty", lambda x: x[:0]),
    ("transposed", lambda x: x.T),
    ("reversed", lambda x: x[::-1]),
]


@pytest.mark.sweep
@pytest.mark.parametrize(("name", "call"), ROWS, ids=[name for name, _ in ROWS])
def test_functions_of_numpy_give_what_numpy_gives(
    enabled: engine.ExecutionMode, name: str, call: Callable[[Any], Any]
) -> None:
    array = np.random.default_rng(1).standard_normal((6, 5))
    expected = np.asarray(call(array))
    result = call(on(W0, array))
    assert result.device is W0
    if name != "percentile":  # what its dtype is only running it tells
        assert (result.shape, result.dtype) == (expected.shape, expected.dtype)
    assert np.asarray(result.result()).tobytes() == expected.tobytes()


@pytest.mark.sweep
@pytest.mark.parametrize("dtype", ["?", "i1", "u8", "f2", "f4", "g", "c8", "c16", "S3", "U4", "m8[ns]", "V6"])
@pytest.mark.parametrize("length", [0, 3, 100_000])
def test_arrays_of_every_dtype_go_there_and_back(executor: MakeExecutor, dtype: str, length: int) -> None:
    array = np.zeros(length, np.dtype(dtype)) if dtype[0] == "V" else (np.arange(length) % 100).astype(dtype)
    with executor():
        back = ops.asarray(array, device=W0).to_device(W1).result()
    assert (back.dtype, back.tobytes()) == (array.dtype, array.tobytes())
    assert back.flags.aligned
    assert not back.flags.writeable


LAYOUTS = [np.ascontiguousarray, np.asfortranarray, lambda a: a[::-1, ::2], lambda a: a.T]


@pytest.mark.parametrize("layout", LAYOUTS, ids=["rows", "columns", "strided", "transposed"])
def test_arrays_of_every_layout_go_there_and_back(executor: MakeExecutor, layout: Callable[[Array], Array]) -> None:
    array = layout(np.random.default_rng(0).standard_normal((300, 200)))
    with executor():
        there = ops.asarray(array, device=W0)
        assert np.array_equal(there.result(), array)
        assert np.array_equal((there + 1).result(), array + 1)


def test_shapes_are_known_without_waiting(executor: MakeExecutor) -> None:
    with executor(), engine.testing.hold(device=W0):
        x = on(W0, np.ones((3, 4)))
        y = ops.matmul(x, x.T)
        assert (y.shape, str(y.dtype), y.is_ready()) == ((3, 3), "float64", False)
        assert "DASK:0" in repr(y)


def test_ops_of_several_results(enabled: engine.ExecutionMode) -> None:
    q, r = ops.linalg.qr(on(W0, [[2.0, 1.0], [1.0, 3.0]]))
    assert np.allclose((q @ r).result(), [[2.0, 1.0], [1.0, 3.0]])
    parts = ops.split(on(W1, [1.0, 2.0, 3.0]), 3) if hasattr(ops, "split") else ops.unstack(on(W1, [1.0, 2.0, 3.0]))
    assert [part.result().tolist() for part in parts[1:]] == [[2.0], [3.0]]


def test_item_assignment_rebinds(enabled: engine.ExecutionMode) -> None:
    x = on(W0, [1.0, 2.0])
    y = x + 1
    x[0] = 9
    assert (x.device, x.tolist(), y.tolist()) == (W0, [9.0, 2.0], [2.0, 3.0])


def test_an_array_is_never_seen_to_change(enabled: engine.ExecutionMode) -> None:
    array = np.ones(20_000)
    x = ops.asarray(array, device=W0)
    with engine.device(W0):
        y = ops.add(array, 1)
    array[:] = 7
    assert (x.result()[0], y.result()[0]) == (1.0, 2.0)


def test_random_numbers_are_those_of_the_seed(enabled: engine.ExecutionMode) -> None:
    rng, reference = engine.random.default_rng(3), np.random.default_rng(3)
    for device in ("DASK:0", "DASK:1", "DASK", "CPU:0"):
        with engine.device(device):
            drawn = rng.standard_normal(5)
            assert (drawn + 0).result().tolist() == reference.standard_normal(5).tolist()


async def test_functions_and_sessions(executor: MakeExecutor) -> None:
    @engine.function
    def model(a: Any, b: Any) -> tuple[Any, Any]:
        y = ops.tanh(a) * 2 + b
        return y, ops.sum(y)

    expected = np.tanh([1.0, 2.0]) * 2 + 1
    async with executor():
        x = on(W0, [1.0, 2.0])
        for _ in range(2):
            y, total = model(x, np.ones(2))
            assert (y.device, total.device) == (W0, W0)
            assert ((await y).tobytes(), float(await total)) == (expected.tobytes(), float(expected.sum()))
    graph = engine.Graph()
    with graph.as_default(), engine.device(W1):
        fed = engine.placeholder(np.float64, (2,))
        out = ops.tanh(fed) * 2 + 1
        back = out.to_device("CPU:0") + 0
    async with executor():
        values = await engine.Session(graph).run_async([out, back], {fed: np.array([1.0, 2.0])})
    assert values[0].tobytes() == values[1].tobytes() == expected.tobytes()


async def test_a_traced_function_is_sent_once_and_called_by_a_number(
    executor: MakeExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Any] = []
    original = programs.packed

    def spy(message: Any, **options: Any) -> Any:
        package = original(message, **options)
        sent.append((len(message.ops), len(message.steps), package.nbytes))
        return package

    weights = np.random.default_rng(0).standard_normal((50, 50))

    @engine.function
    def layers(x: Any) -> Any:
        for _ in range(30):
            x = ops.tanh(ops.matmul(weights, x)) * 0.5 + 1
        return x

    def reference(x: Array) -> Array:
        for _ in range(30):
            x = np.tanh(np.matmul(weights, x)) * 0.5 + 1
        return x

    start = np.linspace(0, 1, 50)
    monkeypatch.setattr("engine.devices.dask.programs.packed", spy)
    async with executor():
        first, second = on(W0, start), on(W1, start)
        await engine.gather(first, second)
        expected = reference(reference(start))
        for x, new in ((first, 1), (second, 1), (first, 0)):
            sent.clear()
            assert (await layers(layers(x))).tobytes() == expected.tobytes()
            assert [(told, steps) for told, steps, _ in sent if steps] == [(new, 2)]
        assert max(nbytes for _, _, nbytes in sent) < 1_000


async def test_the_graph_of_a_session_is_sent_once_and_called_by_a_number(
    executor: MakeExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Any] = []
    original = programs.packed

    def spy(message: Any, **options: Any) -> Any:
        sent.append((len(message.ops), len(message.steps)))
        return original(message, **options)

    graph, ends = engine.Graph(), {}
    with graph.as_default():
        fed = engine.placeholder(np.float64, (3,))
        for device in (W0, W1):
            with engine.device(device):
                x: Any = fed
                for _ in range(50):
                    x = ops.tanh(x) * 2 + 1
                ends[device] = x
        with engine.device(W1):
            both = ends[W0].to_device(W1) + ends[W1]
    expected = np.arange(3.0)
    for _ in range(50):
        expected = np.tanh(expected) * 2 + 1
    monkeypatch.setattr("engine.devices.dask.programs.packed", spy)
    async with executor():
        session = engine.Session(graph)
        for new in (2, 0):  # one for each worker
            sent.clear()
            found = await session.run_async([ends[W0], both], {fed: np.arange(3.0)})
            assert [each.tolist() for each in found] == [expected.tolist(), (2 * expected).tolist()]
            programs_sent = [each for each in sent if each[1]]
            assert sum(steps for _, steps in programs_sent) <= 8  # copies of what is fed among them, no op of the 300
            assert new == 0 or sum(told for told, _ in programs_sent) >= new
        assert not any(told for told, _ in programs_sent)


TRACED: list[tuple[str, Callable[[Any, Any], Any]]] = [
    ("one", lambda a, b: ops.tanh(a) * b),
    ("several", lambda a, b: (a + b, ops.sum(a), a - b)),
    ("an argument", lambda a, b: (a, a + 1)),
    ("twice the same", lambda a, b: (a + b, a + b)),
    ("a constant", lambda a, b: (a * 2, np.arange(3.0))),
    ("several results of one op", lambda a, b: tuple(ops.linalg.qr(ops.reshape(a, (1, 2)) + b))),
    ("a dict", lambda a, b: {"sum": ops.sum(a * b), "rest": [ops.sqrt(ops.abs(b))]}),
    ("a user's function", lambda a, b: engine.op(lambda v: v * 3)(a) + b),
]


@pytest.mark.parametrize(("name", "call"), TRACED, ids=[row[0] for row in TRACED])
def test_traced_functions_of_every_form(
    enabled: engine.ExecutionMode, name: str, call: Callable[[Any, Any], Any]
) -> None:
    a, b = np.array([0.5, -2.0]), np.array([3.0, 4.0])
    with engine.device(CPU0):
        expected = _values(call(ops.asarray(a), ops.asarray(b)))
    traced = engine.function(call)
    for _ in range(2):
        results = traced(on(W0, a), on(W0, b))
        assert _values(results) == expected


def _values(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _values(each) for key, each in tree.items()}
    if isinstance(tree, tuple | list):
        return [_values(each) for each in tree]
    return np.asarray(tree.result() if isinstance(tree, Handle) else tree).tolist()


async def test_what_fails_in_a_traced_function_is_told_with_its_place(executor: MakeExecutor) -> None:
    @engine.function
    def model(a: Any, b: Any) -> tuple[Any, Any]:
        return ops.linalg.inv(a) * 2, b + 1

    async with executor():
        singular, fine = on(W0, np.zeros((2, 2))), on(W0, [1.0])
        bad, _ = model(singular, fine)
        with pytest.raises(np.linalg.LinAlgError, match="Singular") as caught:
            await (bad + 1)
        notes = caught.value.__notes__
        assert any("op 'linalg.inv', called at" in note and "test_workers.py" in note for note in notes)
        assert any("op 'model' on DASK:0" in note for note in notes)
        good, more = model(on(W0, np.eye(2)), fine)
        assert ((await good).tolist(), (await more).tolist()) == ([[2.0, 0.0], [0.0, 2.0]], [2.0])
        engine.clear_errors()


async def test_a_call_of_a_traced_function_can_be_cancelled(executor: MakeExecutor, tmp_path: Path) -> None:
    gate = tmp_path / "gate"

    @engine.function
    def model(a: Any) -> Any:
        return wait_for_file(str(gate)) + a

    async with executor():
        x = on(W0, [1.0])
        await x
        running = model(x)
        behind = running * 2
        other = x + 1
        assert await other == [2.0]
        assert running.cancel() in (CancelOutcome.DROPPED, CancelOutcome.ABANDONED)
        gate.touch()
        with pytest.raises(engine.OpCancelledError):
            await behind


async def test_async_functions_run_on_the_loop(executor: MakeExecutor) -> None:
    @engine.op
    async def here(a: Array) -> Array:
        await asyncio.sleep(0)
        return a + os.getpid()

    async with executor():
        result = here(on(W0, [0.0]))
        assert (await (result + 0)).tolist() == [os.getpid()]
        assert result.device is W0


def test_functions_of_users_get_what_they_are_promised(enabled: engine.ExecutionMode) -> None:
    weights = np.arange(3.0)

    @engine.op(num_outputs=2)
    def both(a: Array, *, scale: float) -> list[Any]:
        assert type(a) is np.ndarray
        assert not a.flags.writeable
        assert np.geterr()["over"] == "raise"
        assert isinstance(engine.ops.add(a, 1), Handle)  # ops are eager inside
        return [a * scale * weights, ops.add(a, 1)]

    with np.errstate(over="raise"):
        scaled, more = both(on(W0, [1.0, 2.0, 3.0]), scale=2.0)
    assert (scaled.result().tolist(), more.result().tolist()) == ([0.0, 4.0, 12.0], [2.0, 3.0, 4.0])


def test_error_states_are_those_of_the_dispatch(enabled: engine.ExecutionMode) -> None:
    x = on(W0, [0.0])
    with np.errstate(divide="raise"), pytest.raises(FloatingPointError):
        (1 / x).result()
    with np.errstate(divide="ignore"):
        assert (1 / x).result() == [np.inf]


# ---------------------------------------------------------------------------------------------------------------------
# Transfers, placement


def test_values_go_from_worker_to_worker(enabled: engine.ExecutionMode, monkeypatch: pytest.MonkeyPatch) -> None:
    x = on(W0, np.arange(50_000))
    moved = x.to_device(W1)
    read = links.Link.read
    sizes: list[int] = []

    def spy(link: Any, value: Any) -> Any:
        sizes.append(np.prod(value.shape))
        return read(link, value)

    with monkeypatch.context() as patched:
        patched.setattr("engine.devices.dask.link.Link.read", spy)
        assert (moved.device, int(ops.sum(moved).result())) == (W1, sum(range(50_000)))
    assert sizes == [1]  # the array did not come through this process


def test_policies_speak_of_it(enabled: engine.ExecutionMode) -> None:
    x = on(W0, [1.0])
    with engine.device_policy(engine.DevicePolicy.EXPLICIT), engine.device("CPU:0"):
        with pytest.raises(engine.DevicePlacementError, match="actually on DASK:0"):
            x + 1
        assert (x.to_device("CPU:0") + 1).result() == [2.0]


async def test_work_is_spread_where_inputs_are_nowhere(executor: MakeExecutor) -> None:
    async with executor():
        with engine.device("DASK"):
            first = [process() for _ in range(6)]
            assert {handle.device for handle in first} == {W0, W1}
            x = on(W1, [1.0])
            assert (x + 1).device is ops.add(2, x).device is W1
            assert ops.asarray([1.0]).device in (W0, W1)
        assert len(set(map(int, await engine.gather(*first)))) == 2
        assert on(CPU0, [1.0]).to_device("DASK").device in (W0, W1)


async def test_the_least_loaded_is_taken(executor: MakeExecutor) -> None:
    async with executor():
        with engine.testing.hold(device=W0):
            busy = [on(W0, [1.0]) for _ in range(3)]
            with engine.device("DASK"):
                handles = [ops.asarray([float(number)]) for number in range(3)]
            assert {handle.device for handle in handles} == {W1}
        await engine.gather(*busy, *handles)


def test_any_of_a_kind_has_a_name_of_its_own() -> None:
    anywhere = engine.Device("DASK")
    assert engine.Device("dask") is engine.Device("/DASK") is anywhere
    assert (str(anywhere), anywhere.kind, pickle.loads(pickle.dumps(anywhere))) == ("DASK", "DASK", anywhere)
    assert anywhere.covers(W0)
    assert not anywhere.covers(CPU0)
    running = engine.Executor(engine.Config(allow_soft_placement=False))
    with running, engine.device("DASK"), pytest.raises(engine.UnknownDeviceError):
        ops.ones(2)


def test_devices_show_their_addresses(executor: MakeExecutor) -> None:
    with executor():
        assert engine.list_devices()[2:] == (W0, W1)
        (on(W0, [1.0]) + on(W1, [1.0])).result()
        shown = repr(engine.list_devices())
        assert "Device('DASK:0') at tcp://127.0.0.1:" in shown
        assert W0.address != W1.address
        assert str(W0) == "DASK:0"


# ---------------------------------------------------------------------------------------------------------------------
# Errors


def test_a_failure_poisons_dependents_only(enabled: engine.ExecutionMode) -> None:
    x = on(W0, [1.0, 2.0])

    @engine.op
    def explode(a: Array) -> Array:
        error = KeyError("boom")
        error.add_note("a note")
        raise error

    with pytest.raises(KeyError, match="boom") as caught:
        (explode(x) + 1).result()
    notes = caught.value.__notes__
    assert notes[0] == "a note"
    assert any("traceback on the Dask worker tcp://" in note and "in explode" in note for note in notes)
    assert "op 'explode' on DASK:0" in notes[-1]
    assert "test_workers.py" in notes[-1]
    assert (x + 1).tolist() == [2.0, 3.0]
    if enabled is ASYNC:
        engine.wait()


def test_errors_of_any_class_come_as_they_are(executor: MakeExecutor) -> None:
    @engine.op
    def told(a: Array) -> Array:
        raise Told("so it was", code=7)

    @engine.op
    def local(a: Array) -> Array:
        class Local(Exception):
            pass

        raise Local("only there")

    @engine.op
    def system(a: Array) -> Array:
        raise FileNotFoundError(2, "No such file", "x.npy")

    @engine.op
    def leaves(a: Array) -> Array:
        raise SystemExit(3)

    with executor():
        x = on(W0, [1.0])
        with pytest.raises(Told, match=r"so it was \(7\)") as caught:
            told(x).result()
        assert caught.value.code == 7
        with pytest.raises(Exception, match="only there") as other:
            local(x).result()
        assert type(other.value).__name__ == "Local"
        with pytest.raises(FileNotFoundError, match="No such file") as missing:
            system(x).result()
        assert (missing.value.errno, missing.value.filename) == (2, "x.npy")
        with pytest.raises(SystemExit):
            leaves(x).result()
        assert (x + 1).result() == [2.0]  # the worker goes on


async def test_every_failure_of_a_program_is_told(executor: MakeExecutor) -> None:
    async with executor():
        x = on(W0, [1.0, 2.0])
        await x
        with engine.testing.hold(device=W0):
            bad = [ops.reshape(x, (7,)), ops.reshape(x, (9,))]
            both = bad[0] + bad[1]
            fine = [x + number for number in range(3)]
            del bad
        assert [value.tolist() for value in await engine.gather(*fine)] == [[1.0, 2.0], [2.0, 3.0], [3.0, 4.0]]
        with pytest.raises(ValueError, match="cannot reshape"):
            await both
        with pytest.raises(ValueError, match=r"into shape \(9,\)"):
            await engine.synchronize()  # the other one was seen by no reader
        await engine.synchronize()


async def test_many_failures_at_once(executor: MakeExecutor) -> None:
    async with executor():
        x = on(W0, [1.0])
        await x
        with engine.testing.hold(device=W0):
            bad = [ops.reshape(x, (2 + number,)) for number in range(1_200)]
        for number, handle in enumerate(bad):
            with pytest.raises(ValueError, match=rf"into shape \({2 + number},\)"):
                await handle
        engine.clear_errors()  # of so many the executor counts some only


@pytest.mark.parametrize("mode", [SYNC, ASYNC], ids=lambda mode: mode.name)
def test_what_cannot_be_pickled_is_said_at_once(executor: MakeExecutor, mode: engine.ExecutionMode) -> None:
    lock = threading.Lock()

    @engine.op
    def guarded(a: Array, how: Any = None) -> Array:
        with lock:
            return a

    @engine.op
    def plain(a: Array, how: Any = None) -> Array:
        return a

    message = "cannot be sent to the Dask worker tcp://127.0.0.1:.*have to be picklable"
    with executor(mode):
        x = on(W0, [1.0])
        with engine.testing.hold(device=W0) if mode is ASYNC else engine.allow_sync():
            good = [x + number for number in range(3)]
            if mode is SYNC:
                with pytest.raises(TypeError, match=f"'guarded' {message}"):
                    guarded(x)
                with pytest.raises(TypeError, match=f"'plain' {message}"):
                    plain(x, lock)
                return
            bad = [guarded(x) + 1, plain(x, lock) + 1]
        for handle in bad:
            with pytest.raises(TypeError, match=message):
                handle.result()
        assert [handle.result().tolist() for handle in good] == [[1.0], [2.0], [3.0]]


# ---------------------------------------------------------------------------------------------------------------------
# Cancellation, deadlines


@engine.op
def wait_for_file(path: str) -> Array:
    while not Path(path).exists():
        threading.Event().wait(0.01)
    return np.array(1.0)


@engine.op
def leave_mark(path: str, after: Array) -> Array:
    Path(path).touch()
    return np.array(1.0)


async def test_what_was_sent_is_given_up_between_ops(executor: MakeExecutor, tmp_path: Path) -> None:
    gate, mark = tmp_path / "gate", tmp_path / "mark"
    async with executor():
        with engine.device(W0):
            await process()
            running = wait_for_file(str(gate))
            behind = [leave_mark(str(mark), number) for number in range(4)]  # calls go one by one there
            fence = ops.asarray([1.0])
            await fence
        for handle in behind:
            assert handle.cancel() is CancelOutcome.ABANDONED
            with pytest.raises(engine.OpCancelledError):
                await handle
        await on(W0, [1.0])  # the worker has been told by then
        gate.touch()
        assert await running == 1.0
        await engine.synchronize()
    assert not mark.exists()


async def test_a_deadline_ends_what_is_inside_a_scope(executor: MakeExecutor, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    async with executor():
        with pytest.raises((TimeoutError, ExceptionGroup)):
            async with engine.scope(timeout=0.2):
                with engine.device(W0):
                    late = wait_for_file(str(gate))
        with pytest.raises(engine.OpCancelledError):
            await late
        gate.touch()
        assert (await (on(W0, [1.0]) + 1)).tolist() == [2.0]


async def test_what_is_independent_passes(executor: MakeExecutor, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    async with executor():
        x = on(W0, [1.0])
        with engine.device(W0):
            slow = wait_for_file(str(gate))
        assert (await (x + 1)).tolist() == [2.0]
        assert not slow.is_ready()
        gate.touch()
        assert await slow == 1.0


# ---------------------------------------------------------------------------------------------------------------------
# Programs


async def test_only_what_is_referred_to_is_kept_there(executor: MakeExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []
    original = programs.packed

    def spy(message: Any, **options: Any) -> Any:
        sent.append(message)
        return original(message, **options)

    monkeypatch.setattr("engine.devices.dask.link.packed", spy)
    monkeypatch.setattr("engine.devices.dask.programs.packed", spy)
    async with executor():
        x = on(W0, np.arange(4.0))
        await x
        sent.clear()
        y = x
        for _ in range(20):
            y = y * 1.5 + 1
        kept = y - 1
        await kept
        steps = [step for message in sent for step in message.steps]
    assert len(steps) == 41
    assert [step[5] for step in steps].count(programs.KEPT) == 2  # y and kept
    assert [len(message.steps) for message in sent if message.steps] == [41]


async def test_large_arrays_are_sent_once(executor: MakeExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[int] = []
    original = programs.packed

    def spy(message: Any, **options: Any) -> Any:
        package = original(message, **options)
        sent.append(package.nbytes)
        return package

    monkeypatch.setattr("engine.devices.dask.link.packed", spy)
    monkeypatch.setattr("engine.devices.dask.programs.packed", spy)
    array = np.ones(100_000)
    array.setflags(write=False)
    async with executor():
        with engine.device(W0):
            for _ in range(5):
                assert await ops.sum(ops.add(array, 1)) == 200_000.0
    assert sum(sent) < 2 * array.nbytes


async def test_the_worker_forgets_what_is_dropped_here(executor: MakeExecutor) -> None:
    @engine.op
    def held() -> Array:
        from engine.remote import serving

        return np.array(max(len(service._values) for service in serving._services.values()))

    async with executor():
        handles = [on(W0, np.full(3, number)) for number in range(50)]
        await engine.gather(*handles)
        with engine.device(W0):
            many = int(await held())
        assert many >= 50
        del handles
        gc.collect()
        for _ in range(200):
            with engine.device(W0):
                few = int(await held())
            if few < 20:
                break
        assert few < 20


async def test_long_programs_and_many_of_them(executor: MakeExecutor) -> None:
    async with executor():
        chains = [on(W0 if number % 2 else W1, [float(number)]) for number in range(10)]
        for _ in range(1_000):
            chains = [x + 1 for x in chains]
        assert [value.tolist() for value in await engine.gather(*chains)] == [
            [number + 1_000.0] for number in range(10)
        ]


def test_more_than_may_be_in_flight_waits(executor: MakeExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.devices.dask.flight.MOST_BYTES", 1 << 20)
    monkeypatch.setattr("engine.devices.dask.flight.MOST_STEPS", 7)
    with executor():
        handles = [on(W0, np.full(30_000, number)) + 1 for number in range(60)]
        assert [int(handle.result()[0]) for handle in handles] == list(range(1, 61))


async def test_values_are_read_after_the_end(executor: MakeExecutor) -> None:
    async with executor():
        small, large = on(W0, [1.0]) + 1, on(W1, np.ones(100_000)) + 1
        await large.wait_ready()
    assert (await small).tolist() == [2.0]
    assert (await large).sum() == 200_000.0


async def test_random_programs_are_numpy(executor: MakeExecutor) -> None:
    rng = np.random.default_rng(5)
    functions = [(ops.add, np.add), (ops.multiply, np.multiply), (ops.maximum, np.maximum), (ops.subtract, np.subtract)]
    devices = ["CPU:0", "CPU:1", "DASK:0", "DASK:1", "DASK"]
    for _ in range(4):
        async with executor():
            start = rng.standard_normal((3, 4))
            values = [(ops.asarray(start + number), start + number) for number in range(3)]
            for _ in range(120):
                (h1, a1), (h2, a2) = (values[rng.integers(len(values))] for _ in range(2))
                function, reference = functions[rng.integers(len(functions))]
                if rng.random() < 0.2:
                    values.append((h1.to_device(devices[rng.integers(5)]), a1))
                else:
                    with engine.device(devices[rng.integers(5)]):
                        values.append((ops.tanh(function(h1, h2)), np.tanh(reference(a1, a2))))
                if rng.random() < 0.1:
                    await values[-1][0]
            for handle, expected in values:
                assert (await handle).tobytes() == expected.tobytes()
