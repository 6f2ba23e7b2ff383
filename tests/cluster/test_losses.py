"""What happens when a worker, the scheduler or the program goes away, and when a worker cannot serve at all."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import engine
from engine import ops
from engine.base import version
from engine.devices.dask.local import LocalCluster
from handles import Handle

Array = np.ndarray[Any, Any]
W0, W1 = engine.Device("DASK:0"), engine.Device("DASK:1")
SYNC, ASYNC = engine.SYNC, engine.ASYNC
HANG = 60.0
"""Seconds after which a test gives up: on any machine that is a hang."""


def executor(
    cluster: LocalCluster, mode: engine.ExecutionMode = ASYNC, workers: int = 2, **options: Any
) -> engine.Executor:
    config = engine.Config(device_count={"DASK": workers}, dask_scheduler=cluster.scheduler, **options)
    return engine.Executor(config, execution_mode=mode)


def on(device: Any, value: Any) -> Handle:
    return ops.asarray(np.asarray(value, dtype=np.float64), device=device)


@engine.op
def wait_for_file(path: str, seen: str) -> Array:
    Path(seen).touch()
    while not Path(path).exists():
        time.sleep(0.005)
    return np.array(1.0)


def until_exists(path: Path) -> None:
    while not path.exists():
        time.sleep(0.002)


async def raises_lost(*handles: Handle, match: str = "was lost") -> None:
    for handle in handles:
        with pytest.raises(engine.DeviceLostError, match=match):
            await asyncio.wait_for(handle.wait_ready(), HANG)


ON_ONE_LOOP = pytest.mark.asyncio(loop_factories=["asyncio"])
"""For tests that start clusters of their own, which takes seconds."""


@ON_ONE_LOOP
async def test_a_worker_that_dies_between_programs(fragile_cluster: LocalCluster) -> None:
    async with executor(fragile_cluster):
        read, large, there = on(W0, [1.0]), on(W0, np.ones(50_000)), on(W1, [3.0])
        await asyncio.gather(large.wait_ready(), _value(read), _value(there))
        os.kill(fragile_cluster.pids()[0], signal.SIGKILL)
        for handle in (large + 1, (large * 2).to_device(W1), large.to_device("CPU:0")):
            await raises_lost(handle, match="device DASK:0 was lost")
        with pytest.raises(engine.DeviceLostError):
            await asyncio.wait_for(_value(large), HANG)
        assert await read == [1.0]  # it had been read
        assert await (there + 1) == [4.0]
        with engine.device("DASK"):
            assert {handle.device for handle in [ops.zeros(1) for _ in range(4)]} == {W1}
        engine.clear_errors()


async def _value(handle: Handle) -> Any:
    return await handle


@ON_ONE_LOOP
@pytest.mark.parametrize("victim", ["worker", "scheduler"])
async def test_a_death_while_a_program_runs(fragile_cluster: LocalCluster, tmp_path: Path, victim: str) -> None:
    gate, seen = tmp_path / "gate", tmp_path / "seen"
    async with executor(fragile_cluster):
        await engine.gather(on(W0, [1.0]), on(W1, [1.0]))
        with engine.device(W0):
            running = wait_for_file(str(gate), str(seen))
            behind = [running + number for number in range(3)]
        beside = ops.ones(2, device="CPU:0") + 1
        await asyncio.to_thread(until_exists, seen)
        pids = fragile_cluster.pids() if victim == "worker" else [fragile_cluster.scheduler_pid()]
        os.kill(pids[0], signal.SIGKILL)
        await raises_lost(running, *behind)
        assert (await beside).tolist() == [2.0, 2.0]
        if victim == "worker":
            assert (await (on(W1, [1.0]) + 1)).tolist() == [2.0]
        else:
            await raises_lost(on(W1, [1.0]) + 1)
        engine.clear_errors()
    gate.touch()


@pytest.mark.parametrize("mode", [SYNC, ASYNC], ids=lambda mode: mode.name)
def test_a_death_before_anything_is_sent(fragile_cluster: LocalCluster, mode: engine.ExecutionMode) -> None:
    with executor(fragile_cluster, mode):
        x, y = on(W0, [1.0]), on(W1, [2.0])
        assert x.result() + y.result() == 3.0
        os.kill(fragile_cluster.pids()[0], signal.SIGKILL)
        ends = time.monotonic() + HANG
        with pytest.raises(engine.DeviceLostError):
            while time.monotonic() < ends:  # the system takes a moment to close the connections of the dead
                (x + 1).result()
        assert (y + 1).result() == [3.0]
        if mode is ASYNC:
            engine.clear_errors()


@ON_ONE_LOOP
async def test_nothing_hangs_where_everything_dies(fragile_cluster: LocalCluster) -> None:
    async with executor(fragile_cluster):
        chains = {device: on(device, [0.0]) for device in (W0, W1)}
        handles = []
        for number in range(4_000):
            device = (W0, W1)[number % 2]
            chains[device] = chains[device] + 1
            handles.append(chains[device])
            if number == 2_000:
                await handles[0]
                for pid in fragile_cluster.pids():
                    os.kill(pid, signal.SIGKILL)
        # The ends of the chains have ended when all has: a task for each op would cost more than the ops.
        await raises_lost(*chains.values())
        assert all(each.is_ready() for each in handles)
        outcomes = {await _outcome(each) for each in handles}
        assert outcomes <= {type(None), engine.DeviceLostError}
        engine.clear_errors()


async def _outcome(handle: Handle) -> type:
    try:
        await handle.wait_ready()
    except Exception as error:  # noqa: BLE001 - it is looked at
        return type(error)
    return type(None)


@ON_ONE_LOOP
async def test_a_worker_that_comes_back_is_another_device(fragile_cluster: LocalCluster) -> None:
    async with executor(fragile_cluster, workers=1):
        x = on(W0, [1.0])
        await x
        os.kill(fragile_cluster.pids()[0], signal.SIGKILL)
        await _until_lost(x)
        await raises_lost(on(W0, [2.0]) + 1)
        engine.clear_errors()
    async with executor(fragile_cluster, workers=1):  # the other worker has the number now
        assert (await (on(W0, [1.0]) + 1)).tolist() == [2.0]


async def _until_lost(handle: Handle) -> None:
    """Return once the device computes no more."""
    with pytest.raises(engine.DeviceLostError):
        while True:
            await asyncio.wait_for((handle + 1).wait_ready(), HANG)


# ---------------------------------------------------------------------------------------------------------------------
# What cannot serve


@ON_ONE_LOOP
async def test_no_scheduler_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.devices.dask.session.CONNECT_SECONDS", 1.0)
    config = engine.Config(device_count={"DASK": 1}, dask_scheduler="tcp://127.0.0.1:9")
    async with engine.Executor(config, execution_mode=ASYNC):
        with pytest.raises(ConnectionError, match=r"no Dask scheduler answers at tcp://127.0.0.1:9 \(Config.dask_sch"):
            await on(W0, [1.0])
        assert (await (ops.ones(2) + 1)).tolist() == [2.0, 2.0]


async def test_fewer_workers_than_devices(shared_cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.devices.dask.session.WORKER_SECONDS", 0.5)
    async with executor(shared_cluster, workers=3):
        with pytest.raises(engine.UnknownDeviceError, match=r"DASK:2 does not exist: the cluster .* has 2 worker"):
            await on("DASK:2", [1.0])
        assert (await (on(W1, [1.0]) + 1)).tolist() == [2.0]


async def test_other_versions(shared_cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(version, "VERSION", "9.9")
    async with executor(shared_cluster):
        with pytest.raises(RuntimeError, match=r"worker tcp://127.0.0.1:\d+ of DASK:0 has other versions .*9.9 here"):
            await on(W0, [1.0])


HIDING = """
import sys, asyncio
sys.modules["engine"] = None
from distributed import Worker

async def main():
    async with Worker(sys.argv[1], nthreads=1, name="0") as worker:
        print("there", flush=True)
        await worker.finished()

asyncio.run(main())
"""


@contextmanager
def worker_without_the_package(scheduler: str) -> Iterator[None]:
    command = [sys.executable, "-c", HIDING, scheduler]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"there\n"
        try:
            yield
        finally:
            process.kill()


@ON_ONE_LOOP
async def test_a_worker_without_the_package(bare_cluster: LocalCluster) -> None:
    with worker_without_the_package(bare_cluster.scheduler):
        async with executor(bare_cluster, workers=1):
            with pytest.raises(RuntimeError, match=r"worker tcp://.* cannot run programs of eagerloop: .*install the"):
                await on(W0, [1.0])


def test_without_dask_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.devices.dask.backend.find_spec", lambda name: None)
    for kind in ("DASK", "CLUSTER"):
        with pytest.raises(engine.UnknownDeviceError, match=r"pip install 'eagerloop\[dask\]'"):
            engine.Executor(engine.Config(device_count={kind: 1})).__enter__()


@pytest.mark.parametrize("address", ["", "somewhere", "tcp://", "tcp://host", "a b:1", ("x", None)], ids=repr)
def test_what_is_no_address_is_refused(address: Any) -> None:
    with pytest.raises(ValueError, match=r"Config\.dask_scheduler must be an address with a port"):
        engine.Config(dask_scheduler=address)


@pytest.mark.parametrize("address", [8786, b"tcp://a:1", ("tcp://a:1",), (None, None), ["tcp://a:1", None]], ids=repr)
def test_what_is_no_address_at_all_is_refused(address: Any) -> None:
    with pytest.raises(TypeError, match=r"Config\.dask_scheduler must be None, an address"):
        engine.Config(dask_scheduler=address)


# ---------------------------------------------------------------------------------------------------------------------
# A cluster of the executor's own


def run(program: str, *, code: int = 0, options: tuple[str, ...] = ("-W", "error")) -> str:
    """Run a program; returns its output."""
    done = subprocess.run(
        [sys.executable, *options, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=5 * HANG,
        check=False,
    )
    assert (done.returncode, done.stderr) == (code, "")
    return done.stdout


def test_importing_the_engine_imports_no_dask() -> None:
    run("import engine, sys; assert not {'dask', 'distributed', 'cloudpickle'} & set(sys.modules)")


def test_a_local_cluster_starts_at_first_use_and_ends_with_its_executor() -> None:
    run(
        """
        import asyncio, os
        import numpy as np, psutil
        import engine
        from engine import ops

        async def main():
            before = set(psutil.Process().children(recursive=True))
            async with engine.Executor(engine.Config(device_count={"DASK": 2}), execution_mode=engine.ASYNC):
                assert str(engine.list_devices()) == "(Device('CPU:0'), Device('DASK:0'), Device('DASK:1'))"
                assert set(psutil.Process().children(recursive=True)) == before
                with engine.device("DASK"):
                    pid = engine.op(lambda: np.array(os.getpid()))
                    pids = await engine.gather(*[pid() for _ in range(4)])
                assert len(set(map(int, pids))) == 2
                new = set(psutil.Process().children(recursive=True)) - before
                assert len(new) == 5  # a scheduler, two workers, and what answers for each
                ports = [c.laddr for each in new for c in each.net_connections() if c.status == "LISTEN"]
                assert len(ports) == 3 and {each.ip for each in ports} == {"127.0.0.1"}, ports
                kept = ops.asarray(np.ones(100_000), device="DASK:1") + 1
            assert (await kept).sum() == 200_000
            gone, alive = psutil.wait_procs(new, timeout=60)
            assert not alive, "processes are left"

        asyncio.run(main())
        """
    )


@pytest.mark.parametrize("mode", ["SYNC", "ASYNC"])
def test_a_program_that_just_ends(mode: str) -> None:
    run(
        f"""
        import engine
        from engine import ops
        engine.enable_eager_execution(engine.Config(device_count={{"DASK": 1}}), execution_mode=engine.{mode})
        with engine.device("DASK:0"):
            h = ops.ones(3) + 1
        assert h.result().tolist() == [2.0] * 3
        """
    )


def test_nothing_outlives_a_program_that_is_killed() -> None:
    program = """
        import os, signal
        import psutil
        import engine
        from engine import ops
        engine.enable_eager_execution(engine.Config(device_count={"DASK": 1}), execution_mode=engine.ASYNC)
        with engine.device("DASK:0"):
            h = ops.ones(3) + 1
        h.result()
        print(*[child.pid for child in psutil.Process().children(recursive=True)], flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    pids = [int(pid) for pid in run(program, code=-signal.SIGKILL).split()]
    assert len(pids) == 3
    ends = time.monotonic() + HANG
    while time.monotonic() < ends and any(_is_alive(pid) for pid in pids):
        time.sleep(0.01)
    assert not any(_is_alive(pid) for pid in pids)


def _is_alive(pid: int) -> bool:
    try:
        return not Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].startswith(" Z")
    except OSError:
        return False
