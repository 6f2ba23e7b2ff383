"""`CLUSTER:0`: the whole cluster as one device, whose values are chunked arrays of Dask."""

import asyncio
import os
import signal
from collections.abc import Callable
from typing import Any

import dask
import dask.array as da
import distributed
import numpy as np
import pytest

import engine
from engine import ops
from engine.devices.dask.local import LocalCluster
from handles import Handle

MakeExecutor = Callable[..., engine.Executor]
CLUSTER = engine.Device("CLUSTER:0")
COUNTS = {"CLUSTER": 1, "DASK": 2}
SYNC, ASYNC = engine.SYNC, engine.ASYNC

ARRAY = np.random.default_rng(0).random((60, 8)) + np.eye(60, 8)


def chunked(array: Any = ARRAY, chunks: Any = (20, 8)) -> Any:
    return da.from_array(array, chunks=chunks)


FUNCTIONS: list[tuple[str, Callable[[Any], Any]]] = [
    ("arithmetic", lambda x: (x * 2 - 1) / (x + 3) ** 2),
    ("ufuncs", lambda x: np.arctan2(np.exp(-x), np.sqrt(x))),
    ("comparison", lambda x: x > 0.5),
    ("where", lambda x: np.where(x > 0.5, x, 0)),
    ("sum", lambda x: np.sum(x)),
    ("mean of rows", lambda x: np.mean(x, axis=1)),
    ("standard deviation", lambda x: np.std(x, axis=0, keepdims=True)),
    ("gram", lambda x: x.T @ x),
    ("tensordot", lambda x: np.tensordot(x, x, axes=((0,), (0,)))),
    ("einsum", lambda x: np.einsum("ij,ij->i", x, x)),
    ("slices", lambda x: x[5:50:3, ::-1]),
    ("a mask", lambda x: x[x[:, 0] > 0.5]),
    ("reshape", lambda x: x.reshape(60, 2, 4)),
    ("concatenate", lambda x: np.concatenate([x, x], axis=1)),
    ("stack", lambda x: np.stack([x, x + 1])),
    ("argmax", lambda x: np.argmax(x, axis=1)),
    ("running sum", lambda x: np.cumsum(x, axis=0)),
    ("types", lambda x: (x * 10).astype(np.int16)),
    ("clip", lambda x: np.clip(x, 0.2, 0.4)),
    ("round", lambda x: np.round(x, 1)),
    ("diff", lambda x: np.diff(x, axis=0)),
    ("any", lambda x: np.any(x > 0.99, axis=0)),
    ("unique", lambda x: np.unique((x * 3).astype(np.int64))),
    ("fft", lambda x: np.fft.rfft(x, axis=1)),
    ("an array of this process", lambda x: x + np.arange(8.0)),
]


@pytest.mark.sweep
@pytest.mark.parametrize(("name", "call"), FUNCTIONS, ids=[name for name, _ in FUNCTIONS])
@pytest.mark.parametrize("mode", [SYNC, ASYNC], ids=lambda mode: mode.name)
def test_functions_of_numpy_give_what_numpy_gives(
    executor: MakeExecutor, mode: engine.ExecutionMode, name: str, call: Callable[[Any], Any]
) -> None:
    expected = np.asarray(call(ARRAY))
    with executor(mode, device_count=COUNTS):
        result = call(ops.asarray(chunked()))
        assert result.device is CLUSTER
        value = np.asarray(result.result())
    assert (value.shape, value.dtype) == (expected.shape, expected.dtype)
    assert np.allclose(value, expected)


CREATED: list[tuple[str, Callable[[], Any], Any]] = [
    ("zeros", lambda: ops.zeros((3, 2)), np.zeros((3, 2))),
    ("ones", lambda: ops.ones(3, dtype=np.int8), np.ones(3, np.int8)),
    ("full", lambda: ops.full((2,), 7), np.full(2, 7)),
    ("arange", lambda: ops.arange(5), np.arange(5)),
    ("linspace", lambda: ops.linspace(0, 1, 5), np.linspace(0, 1, 5)),
    ("eye", lambda: ops.eye(3), np.eye(3)),
    ("asarray", lambda: ops.asarray([[1.0, 2.0]]), np.array([[1.0, 2.0]])),
    ("a scalar", lambda: ops.asarray(4) * 2, np.array(8)),
]


@pytest.mark.parametrize(("name", "make", "expected"), CREATED, ids=[row[0] for row in CREATED])
def test_arrays_are_made_there(executor: MakeExecutor, name: str, make: Callable[[], Handle], expected: Any) -> None:
    with executor(device_count=COUNTS), engine.device("CLUSTER:0"):
        made = make()
        assert made.device is CLUSTER
        value = np.asarray(made.result())
    assert (value.dtype, value.tolist()) == (expected.dtype, expected.tolist())


async def test_an_array_of_dask_is_taken_as_it_is(executor: MakeExecutor) -> None:
    computed: list[int] = []

    def block() -> Any:
        raise AssertionError("it is not computed unless it is needed")

    lazy = da.from_delayed(dask.delayed(block)(), shape=(4,), dtype=float)
    async with executor(device_count=COUNTS):
        never = ops.asarray(lazy)
        assert (never.shape, str(never.dtype), never.device) == ((4,), "float64", CLUSTER)
        await never.wait_ready()
        x = ops.asarray(chunked())
        assert x.shape == (60, 8)
        there = await asyncio.to_thread(lambda: x.to_device("DASK:1"))
        assert np.array_equal(await there, ARRAY)
        assert np.array_equal(await (x.to_device("CPU:0") + 0), ARRAY)
        assert np.array_equal(await ops.asarray(chunked(), device="CPU:0"), ARRAY)
        assert (await ops.asarray(chunked(), dtype=np.float32)).dtype == np.float32
        with pytest.raises(AssertionError, match="not computed unless"):
            await (never + 1)
    assert not computed


async def test_arrays_go_there_in_chunks(executor: MakeExecutor) -> None:
    array = np.arange(40_000.0).reshape(200, 200).T
    async with executor(device_count=COUNTS):
        x = ops.asarray(array).to_device("CLUSTER:0")
        await x.wait_ready()
        value: Any = x._cell.value
        assert value.array.npartitions > 1
        assert np.array_equal(await x, array)
        assert float(await ops.sum(x)) == array.sum()
        scalar = ops.asarray(2.5).to_device("CLUSTER:0")
        assert float(await (scalar * 2)) == 5.0


LACKING: list[tuple[str, Callable[[Any], Any]]] = [
    ("sort", lambda x: ops.sort(x)),
    ("det", lambda x: np.linalg.det(x[:8])),
    ("a NumPy function", lambda x: np.unwrap(x)),
    ("a user's function", lambda x: engine.op(lambda value: value)(x)),
    ("a reshape across chunks", lambda x: x.reshape(30, 16)),
    ("full matrices", lambda x: np.linalg.svd(x)[0]),
]


@pytest.mark.parametrize(("name", "call"), LACKING, ids=[row[0] for row in LACKING])
async def test_what_dask_lacks_is_said(executor: MakeExecutor, name: str, call: Callable[[Any], Any]) -> None:
    async with executor(device_count=COUNTS):
        x = ops.asarray(chunked())
        bad = call(x) + 1
        with pytest.raises(NotImplementedError, match=r"cannot be computed on a CLUSTER device.*to_device\('CPU:0'\)"):
            await bad
        assert float(await ops.sum(x)) == pytest.approx(ARRAY.sum())


async def test_failures_poison_dependents_only(executor: MakeExecutor) -> None:
    async with executor(device_count=COUNTS):
        x = ops.asarray(chunked())
        bad = ops.reshape(x, (7,)) * 2
        fine = x * 2
        with pytest.raises(ValueError, match=r"cannot reshape|must be unchanged") as caught:
            await bad
        assert "op 'reshape' on CLUSTER:0" in caught.value.__notes__[-1]
        assert np.array_equal(await fine, ARRAY * 2)


async def test_what_fails_in_a_chunk_has_the_workers_traceback(executor: MakeExecutor) -> None:
    def explode(block: Any) -> Any:
        raise KeyError("in a chunk")

    async with executor(device_count=COUNTS):
        x = ops.asarray(chunked().map_blocks(explode, dtype=float, meta=np.empty((0, 0)))) + 1
        with pytest.raises(KeyError, match="in a chunk") as caught:
            await x
        notes = caught.value.__notes__
        assert any("traceback on a worker of the cluster" in note and "in explode" in note for note in notes)


async def test_what_is_pending_together_is_one_graph(executor: MakeExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    persist = distributed.Client.persist

    def spy(client: Any, arrays: Any, **options: Any) -> Any:
        calls.append(len(arrays))
        return persist(client, arrays, **options)

    monkeypatch.setattr(distributed.Client, "persist", spy)
    async with executor(device_count=COUNTS):
        x = ops.asarray(chunked())
        await x.wait_ready()
        gram, means = ops.matmul(x.T, x), ops.mean(x * 2 + 1, axis=1)
        assert np.allclose(await gram, ARRAY.T @ ARRAY)
        assert np.allclose(await means, (ARRAY * 2 + 1).mean(axis=1))
    assert calls == [2]  # and nothing of what only they need is kept


def test_without_a_cluster_device_it_is_said() -> None:
    with engine.Executor(), pytest.raises(engine.UnknownDeviceError, match=r"device_count=\{'CLUSTER': 1\}"):
        ops.asarray(chunked())
    with engine.Executor(), pytest.raises(engine.UnknownDeviceError, match="CLUSTER"):
        ops.ones((60, 8)) + ops.asarray(chunked())


def test_there_is_one_cluster() -> None:
    with pytest.raises(engine.UnknownDeviceError, match=r"2 CLUSTER device\(s\), but this machine has 1"):
        engine.Executor(engine.Config(device_count={"CLUSTER": 2})).__enter__()


@pytest.mark.asyncio(loop_factories=["asyncio"])
async def test_the_death_of_the_scheduler_is_said(fragile_cluster: LocalCluster) -> None:
    config = engine.Config(device_count={"CLUSTER": 1}, dask_scheduler=fragile_cluster.scheduler)
    async with engine.Executor(config, execution_mode=ASYNC):
        x = ops.asarray(chunked()) + 1
        await x.wait_ready()
        os.kill(fragile_cluster.scheduler_pid(), signal.SIGKILL)
        with pytest.raises(engine.DeviceLostError):
            while True:
                await asyncio.wait_for((x + 1).wait_ready(), 5.0)
        with pytest.raises(engine.DeviceLostError):
            await asyncio.wait_for((x * 2).wait_ready(), 5.0)
        assert (await (ops.ones(2, device="CPU:0") + 1)).tolist() == [2.0, 2.0]
        engine.clear_errors()
