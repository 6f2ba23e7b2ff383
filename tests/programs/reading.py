"""Reading results while a program is played: by awaiting, by blocking, and aside on another task or thread."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import anyio
import anyio.lowlevel

import engine
from engine.settings.scope import Scope, entered
from tests.programs.model import (
    Array,
)


class SyncPoints(Protocol):
    """How a program waits: with `await` on a loop, or by blocking."""

    async def read(self, handle: Any) -> Array: ...
    async def read_all(self, handles: Sequence[Any]) -> list[Array]: ...
    async def read_as_completed(self, handles: Sequence[Any]) -> None: ...
    async def give_up_reading(self, handle: Any) -> None: ...
    async def turn(self) -> None: ...
    async def barrier(self) -> None: ...
    def read_aside(self, handle: Any, urgency: int) -> Aside: ...


class Aside:
    """A reader of a handle beside the program: it demands the handle for as long as it waits."""

    def __init__(self, wait: Callable[[], Any], leave: Callable[[], object]) -> None:
        self._wait = wait
        self.leave = leave
        """Have it wait no longer, where that is possible."""

    async def outcome(self) -> Array | BaseException | None:
        """The value or the error; None where it left without either."""
        outcome = self._wait()
        result: Array | BaseException | None = await outcome if inspect.isawaitable(outcome) else outcome
        return result


async def _outcome(handle: Any, urgency: int) -> Array | BaseException:
    with _urgent(urgency):
        try:
            value: Array = await handle
        except Exception as error:  # noqa: BLE001 - compared when the program joins its readers
            return error
        return value


def _blocking_outcome(handle: Any, urgency: int) -> Array | BaseException:
    with _urgent(urgency):
        try:
            value: Array = handle.result()
        except Exception as error:  # noqa: BLE001
            return error
        return value


def _urgent(urgency: int) -> AbstractContextManager[None]:
    """The priority of what is waited for inside, where the engine knows priorities."""
    return entered(priority=urgency) if "priority" in Scope.__slots__ else nullcontext()


def _on_thread(read: Callable[[], Array | BaseException]) -> Aside:
    """A reader on a thread; it cannot be made to leave."""
    outcome: list[Array | BaseException] = []
    thread = threading.Thread(target=lambda: outcome.append(read()))
    thread.start()

    def wait() -> Array | BaseException:
        thread.join()
        return outcome[0]

    return Aside(wait, lambda: None)


def _in_thread(handle: Any, urgency: int) -> Aside:
    """A reader on another thread: one that blocks, or one that awaits on a loop of its own."""
    if urgency % 2:
        return _on_thread(lambda: asyncio.run(_outcome(handle, urgency)))
    return _on_thread(lambda: _blocking_outcome(handle, urgency))


class Awaiting:
    """The sync points of a program on an event loop."""

    def read_aside(self, handle: Any, urgency: int) -> Aside:
        """A task, or one time in four another thread."""
        if urgency > 5:
            return _in_thread(handle, urgency)
        task = asyncio.ensure_future(_outcome(handle, urgency))

        async def wait() -> Array | BaseException | None:
            await asyncio.wait([task])
            return None if task.cancelled() else task.result()

        return Aside(wait, task.cancel)

    async def read(self, handle: Any) -> Array:
        value: Array = await handle
        return value

    async def read_all(self, handles: Sequence[Any]) -> list[Array]:
        return await engine.gather(*handles)

    async def read_as_completed(self, handles: Sequence[Any]) -> None:
        async for handle in engine.as_completed(handles):
            await handle

    async def give_up_reading(self, handle: Any) -> None:
        """A waiter that is cancelled at its first chance; the op and other waiters are not."""
        with anyio.CancelScope() as scope:
            scope.cancel()
            await handle

    async def turn(self) -> None:
        await anyio.lowlevel.checkpoint()
        await engine.drain()

    async def barrier(self) -> None:
        await engine.synchronize()


class Blocking:
    """The sync points of a program without a loop."""

    async def read(self, handle: Any) -> Array:
        value: Array = handle.result()
        return value

    def read_aside(self, handle: Any, urgency: int) -> Aside:
        return _in_thread(handle, urgency)

    async def read_all(self, handles: Sequence[Any]) -> list[Array]:
        return [handle.result() for handle in handles]

    async def read_as_completed(self, handles: Sequence[Any]) -> None:
        await self.read_all(handles)

    async def give_up_reading(self, handle: Any) -> None:
        try:
            handle.result(timeout=0)
        except TimeoutError:
            pass

    async def turn(self) -> None:
        pass

    async def barrier(self) -> None:
        engine.wait()


def run_blocking(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine that never suspends."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    raise AssertionError("a blocking program suspended")
