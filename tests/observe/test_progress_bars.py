"""`progress=`: totals, failures, nested scopes, where nothing is written, and what is refused."""

import asyncio
import io
import logging
import os
import pty
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import numpy as np
import pytest
from tqdm import tqdm  # type: ignore[import-untyped]

import engine
from engine import ops
from engine.testing import GateOp


class Kept(tqdm):  # type: ignore[misc]
    """A bar that writes nowhere, and that a test can look at."""

    made: list["Kept"] = []  # noqa: RUF012 - emptied for each test

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, file=io.StringIO(), **kwargs)
        self.closed = 0
        Kept.made.append(self)

    def close(self) -> None:
        self.closed = 1
        super().close()

    def __del__(self) -> None: ...


@pytest.fixture(autouse=True)
def bars() -> Iterator[list[Kept]]:
    Kept.made.clear()
    yield Kept.made
    Kept.made.clear()


@engine.op
def napped(x: np.ndarray) -> np.ndarray:
    time.sleep(0.001)
    return x


@engine.op
def failing(x: np.ndarray) -> np.ndarray:
    raise ValueError("no")


async def gathered(handles: list[Any], progress: Any) -> None:
    await engine.gather(*handles, progress=progress)


async def completed(handles: list[Any], progress: Any) -> None:
    async for _ in engine.as_completed(handles, progress=progress):
        pass


async def synchronized(handles: list[Any], progress: Any) -> None:
    await engine.synchronize(progress=progress)


WAITS = [gathered, completed, synchronized]
Wait = Callable[[list[Any], Any], Coroutine[Any, Any, None]]


@pytest.mark.parametrize("wait", WAITS)
async def test_a_bar_ends_where_all_have_ended(wait: Wait, bars: list[Kept]) -> None:
    async with engine.Executor(execution_mode=engine.ASYNC):
        with engine.testing.hold():
            handles = [napped(float(i)) for i in range(20)]
            waiting = asyncio.create_task(wait(handles, Kept))
            await asyncio.sleep(0)
        await waiting
    (bar,) = bars
    assert (bar.n, bar.total, bar.closed) == (20, 20, 1)


@pytest.mark.parametrize("wait", WAITS)
async def test_in_sync_mode_all_have_ended(wait: Wait, bars: list[Kept]) -> None:
    engine.enable_eager_execution()
    await wait([napped(1.0), napped(2.0)], Kept)
    (bar,) = bars
    assert bar.n == bar.total
    assert bar.closed


@pytest.mark.parametrize("wait", [gathered, completed])
async def test_the_same_handle_twice_counts_twice(wait: Wait, bars: list[Kept]) -> None:
    async with engine.Executor(execution_mode=engine.ASYNC):
        handle = napped(1.0)
        await wait([handle, handle], Kept)
    assert (bars[0].n, bars[0].total) == (2, 2)


async def test_a_bar_moves_meanwhile(gate: GateOp, bars: list[Kept]) -> None:
    async with engine.Executor(execution_mode=engine.ASYNC):
        blocked = gate(1.0)
        waiting = asyncio.create_task(engine.gather(ops.add(1, 2), napped(1.0), blocked, progress=Kept))
        while not (bars and bars[0].n == 2):  # noqa: ASYNC110 - a bar tells no one
            await asyncio.sleep(0.01)
        assert not bars[0].closed
        gate.open()
        await waiting
    assert bars[0].n == 3


async def test_synchronize_watches_without_keeping_ops_from_being_fused(bars: list[Kept]) -> None:
    async with engine.Executor(execution_mode=engine.ASYNC):
        x = ops.ones(1_000_000)
        await engine.synchronize()
        with engine.profile() as profile:
            with engine.testing.hold():
                result = ops.sqrt(ops.abs(x * 2.0))
                waiting = asyncio.create_task(engine.synchronize(progress=Kept))
                await asyncio.sleep(0)
            await waiting
            assert result.is_ready()
    assert len({op.run for op in profile.ops}) == 1
    assert [op.nbytes for op in profile.ops] == [0, 0, 8_000_000]
    assert (bars[0].n, bars[0].total) == (3, 3)


async def test_the_total_of_a_scope_grows_with_it(bars: list[Kept]) -> None:
    async with engine.Executor(execution_mode=engine.ASYNC):
        async with engine.scope(progress=Kept):
            await engine.gather(*(napped(float(i)) for i in range(5)))
            handles = [napped(float(i)) for i in range(7)]
        assert all(handle.is_ready() for handle in handles)
    assert (bars[0].n, bars[0].total, bars[0].closed) == (12, 12, 1)


async def test_nested_scopes_have_bars_of_their_own(bars: list[Kept]) -> None:
    async with engine.Executor(execution_mode=engine.ASYNC), engine.scope(progress=Kept):
        napped(1.0)
        async with engine.scope(progress=Kept):
            napped(2.0)
            napped(3.0)
        assert bars[1].closed
        assert not bars[0].closed
    assert [(bar.n, bar.total) for bar in bars] == [(1, 1), (2, 2)]


async def test_failures_are_shown(bars: list[Kept]) -> None:
    async with engine.Executor(execution_mode=engine.ASYNC):
        handles = [failing(1.0), failing(2.0), napped(1.0)]
        await completed(handles, Kept)
        engine.clear_errors()
        with pytest.raises(ExceptionGroup):
            async with engine.scope(progress=Kept):
                failing(1.0)
    assert [bar.postfix for bar in bars] == ["2 failed", "1 failed"]
    assert all(bar.closed for bar in bars)


@pytest.mark.parametrize("wait", WAITS)
async def test_a_cancelled_wait_closes_its_bar(wait: Wait, gate: GateOp, bars: list[Kept]) -> None:
    async with engine.Executor(execution_mode=engine.ASYNC):
        handle = gate(1.0)
        waiting = asyncio.create_task(wait([handle], Kept))
        await asyncio.to_thread(gate.wait_entered)
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert bars[0].closed
        gate.open()
        assert await handle == 1.0


async def test_a_bar_that_raises_is_shown_no_more_and_the_wait_goes_on(
    bars: list[Kept], caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Kept):
        def update(self, n: float | None = 1) -> bool | None:
            raise RuntimeError("broken")

    async with engine.Executor(execution_mode=engine.ASYNC):
        with caplog.at_level(logging.ERROR, "engine.observe"):
            assert await engine.gather(napped(1.0), progress=Broken) == [1.0]
    assert "is shown no more" in caplog.text


@pytest.mark.parametrize("wrong", [3, 1.5, object(), ["label"], int, Exception])
async def test_what_is_no_progress_is_refused(wrong: Any) -> None:
    async with engine.Executor(execution_mode=engine.ASYNC):
        for attempt in (*WAITS, scoped):
            with pytest.raises(TypeError, match="progress must be True, a label, or a tqdm class"):
                await attempt([ops.add(1, 2)], wrong)


async def test_a_bar_that_cannot_be_made_leaves_no_scope_entered() -> None:
    class Broken(Kept):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            raise RuntimeError("broken")

    async with engine.Executor(execution_mode=engine.ASYNC), engine.profile() as profile:
        with pytest.raises(RuntimeError, match="broken"):
            async with engine.scope(timeout=0.001, progress=Broken):
                pass
        await asyncio.sleep(0.01)  # past the timeout, which interrupts this task no more
        assert await ops.add(1, 2) == 3
    assert [op.scope for op in profile.ops] == [None]


async def scoped(handles: list[Any], progress: Any) -> None:
    async with engine.scope(progress=progress):
        pass


async def test_without_tqdm_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tqdm", None)
    async with engine.Executor(execution_mode=engine.ASYNC):
        with pytest.raises(ImportError, match=r"needs tqdm: pip install 'eagerloop\[observe\]'"):
            await engine.synchronize(progress=True)
        await engine.synchronize(progress=False)


PROGRAM = """
import asyncio, engine
from engine import ops
async def main():
    async with engine.Executor(execution_mode=engine.ASYNC):
        await engine.gather(*(ops.add(i, 1) for i in range(40)), progress="forty sums")
        async with engine.scope(progress=True):
            ops.add(1, 2)
asyncio.run(main())
"""


def test_nothing_is_written_where_there_is_no_terminal() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_a_terminal_gets_a_bar_with_its_label() -> None:
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stderr=theirs) as process:
        os.close(theirs)
        written = b""
        while True:
            try:
                part = os.read(ours, 4096)
            except OSError:  # the program has ended
                break
            if not part:
                break
            written += part
        assert process.wait(60) == 0
    os.close(ours)
    assert "forty sums: 100%" in written.decode()
    assert "40/40" in written.decode()
    assert "scope: 100%" in written.decode()
