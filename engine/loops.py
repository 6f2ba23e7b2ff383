"""The few things that the engine asks of asyncio's event loops; nothing here knows about ops."""

from __future__ import annotations

import asyncio
import threading
from asyncio import AbstractEventLoop, _get_running_loop as running_loop
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextvars import Context
from typing import Any

__all__ = [
    "AbstractEventLoop",
    "Waiter",
    "asyncio_loop",
    "call_soon",
    "on_shutdown",
    "report",
    "run_apart",
    "running_loop",
    "start_task",
]


def asyncio_loop() -> AbstractEventLoop:
    """The running loop, which an awaitable needs."""
    loop = running_loop()
    if loop is None:
        raise RuntimeError("a handle is awaited on a running asyncio event loop; elsewhere use handle.result()")
    return loop


def call_soon(loop: AbstractEventLoop, callback: Callable[..., object], *args: Any) -> bool:
    """Call back on the loop, from any thread; False when the loop is closed."""
    try:
        if running_loop() is loop:
            loop.call_soon(callback, *args)
        else:
            loop.call_soon_threadsafe(callback, *args)
    except RuntimeError:
        if not loop.is_closed():
            raise
        return False
    return True


class Waiter:
    """The private future of one awaiter: woken from any thread, cancelled without disturbing anybody."""

    __slots__ = ("_future", "_loop")

    def __init__(self, loop: AbstractEventLoop) -> None:
        self._loop = loop
        self._future: asyncio.Future[None] = loop.create_future()

    def wake(self, _: object = None) -> None:
        if running_loop() is self._loop:
            self._set()
        else:
            call_soon(self._loop, self._set)

    def _set(self) -> None:
        if not self._future.done():
            self._future.set_result(None)

    def wait(self, seconds: float | None) -> Generator[Any, None, bool]:
        """Suspend until woken; False when `seconds` went by first."""
        if seconds is None:
            yield from self._future
            return True
        expired = False

        def expire() -> None:
            nonlocal expired
            if not self._future.done():
                expired = True
                self._future.set_result(None)

        timer = self._loop.call_later(max(0.0, seconds), expire)
        try:
            yield from self._future
        finally:
            timer.cancel()
        return not expired


def on_shutdown(loop: AbstractEventLoop, callback: Callable[[], None]) -> object:
    """Call back when the running loop shuts down (`asyncio.run` and its kin do that); keep what is returned.

    An asynchronous generator that was started on a loop is closed by `loop.shutdown_asyncgens()`.
    """

    async def sentinel() -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            callback()

    generator = sentinel()
    try:
        generator.asend(None).send(None)
    except StopIteration:
        pass
    return generator


def start_task(
    loop: AbstractEventLoop, coroutine: Coroutine[Any, Any, Any], context: Context, done: Callable[[Any], None]
) -> Callable[[], None]:
    """Run the coroutine as a task of the running loop; returns what cancels it."""
    task = loop.create_task(coroutine, context=context)
    task.add_done_callback(done)

    def cancel() -> None:
        call_soon(loop, task.cancel)

    return cancel


def report(loop: AbstractEventLoop, message: str, error: BaseException) -> None:
    """Tell the loop's exception handler."""
    loop.call_exception_handler({"message": message, "exception": error})


def run_apart(coroutine: Coroutine[Any, Any, Any], context: Context) -> Any:
    """Run the coroutine to its end on a loop of its own, also when this thread has a running one."""
    outcome: list[Any] = []

    def target() -> None:
        try:
            with asyncio.Runner() as runner:
                outcome.append((runner.run(coroutine, context=context), None))
        except BaseException as error:  # noqa: BLE001 - handed to the caller
            outcome.append((None, error))

    if running_loop() is None:
        target()
    else:
        thread = threading.Thread(target=target, name="eagerloop-coroutine", daemon=True)
        thread.start()
        thread.join()
    result, error = outcome[0]
    if error is not None:
        raise error
    return result
