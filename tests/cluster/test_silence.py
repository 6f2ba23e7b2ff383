"""Workers that fall silent without closing their connections: stopped, cut off, or only busy."""

import asyncio
import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import pytest

import engine
from engine import ops
from engine.devices.dask import pulse
from engine.devices.dask.local import LocalCluster
from handles import Handle

W0, W1 = engine.Device("DASK:0"), engine.Device("DASK:1")
HANG = 60.0
"""Seconds after which a test gives up: on any machine that is a hang."""
ON_ONE_LOOP = pytest.mark.asyncio(loop_factories=["asyncio"])


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> float:
    """Less patience with silence than there is, which is five seconds at most; returns the seconds."""
    assert pulse.SILENCE + pulse.BEAT < 5
    monkeypatch.setattr(pulse, "SILENCE", 1.0)
    return 1.0


def executor(cluster: LocalCluster, workers: int) -> engine.Executor:
    config = engine.Config(device_count={"DASK": workers}, dask_scheduler=cluster.scheduler)
    return engine.Executor(config, execution_mode=engine.ASYNC)


def on(device: Any, value: Any) -> Handle:
    return ops.asarray(np.asarray(value, dtype=np.float64), device=device)


async def raises_lost(*handles: Handle) -> None:
    for handle in handles:
        with pytest.raises(engine.DeviceLostError, match="has not answered for"):
            await asyncio.wait_for(handle.wait_ready(), HANG)


@ON_ONE_LOOP
async def test_a_worker_that_is_stopped_is_lost(fragile_cluster: LocalCluster, impatient: float) -> None:
    victim = fragile_cluster.pids()[0]
    async with executor(fragile_cluster, 2):
        large, there = on(W0, np.ones(50_000)), on(W1, [3.0])
        await engine.gather(large[:1], there)
        os.kill(victim, signal.SIGSTOP)
        running = large + 1
        await raises_lost(running, running * 2, (large * 3).to_device(W1))
        with pytest.raises(engine.DeviceLostError):
            await large
        assert (await (there + 1)).tolist() == [4.0]
        with engine.device("DASK"):
            assert ops.zeros(1).device is W1
        engine.clear_errors()
    os.kill(victim, signal.SIGKILL)


@engine.op
def keep_the_interpreter(microseconds: int) -> Any:
    ctypes.PyDLL(None).usleep(microseconds)  # a PyDLL keeps the interpreter's lock while it calls
    return np.array(float(microseconds))


@ON_ONE_LOOP
async def test_a_worker_whose_interpreter_is_busy_is_not_lost(shared_cluster: LocalCluster, impatient: float) -> None:
    async with executor(shared_cluster, 1):
        await on(W0, [1.0])
        with engine.device(W0):
            busy = keep_the_interpreter(int(2 * impatient * 1e6))
            behind = busy + 1
        assert await asyncio.wait_for(asyncio.ensure_future(_value(behind)), HANG) == 2 * impatient * 1e6 + 1


async def _value(handle: Handle) -> Any:
    return await handle


class Cable:
    """A TCP connection through this process that can be cut: then it takes what comes, and says nothing."""

    def __init__(self) -> None:
        self.is_cut = threading.Event()
        self.target = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: list[socket.socket] = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        for each in self._open:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                here, _ = self._listener.accept()
                there = socket.create_connection(("127.0.0.1", self.target))
                self._open += [here, there]
                for source, sink in ((here, there), (there, here)):
                    threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                if not self.is_cut.is_set():
                    sink.sendall(data)
            if not self.is_cut.is_set():
                sink.shutdown(socket.SHUT_WR)


BEHIND_A_CABLE = """
import asyncio, sys
from distributed import Worker

async def main():
    scheduler, contact = sys.argv[1:]
    async with Worker(scheduler, nthreads=1, host="127.0.0.1", contact_address=contact, dashboard=False) as it:
        print(it.listeners[0].listen_address.rpartition(":")[2], flush=True)
        await it.finished()

asyncio.run(main())
"""


@contextmanager
def worker_behind(cable: Cable, scheduler: str) -> Iterator[None]:
    command = [sys.executable, "-c", BEHIND_A_CABLE, scheduler, f"tcp://127.0.0.1:{cable.port}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        cable.target = int(process.stdout.readline())
        try:
            yield
        finally:
            process.kill()
            cable.close()


@ON_ONE_LOOP
async def test_a_network_that_is_cut(bare_cluster: LocalCluster, impatient: float) -> None:
    cable = Cable()
    with worker_behind(cable, bare_cluster.scheduler):
        async with executor(bare_cluster, 1):
            large = on(W0, np.ones(50_000))
            assert await ops.sum(large) == 50_000
            cable.is_cut.set()
            running = [large + number for number in range(3)]
            await raises_lost(*running, running[0] * 2)
            with pytest.raises(engine.DeviceLostError):
                await large
            assert (await (ops.ones(2, device="CPU:0") + 1)).tolist() == [2.0, 2.0]
            engine.clear_errors()
