"""The few things that the engine asks of asyncio's event loops; nothing here knows about ops."""

from __future__ import annotations

import asyncio
import threading
import weakref
from asyncio import (
    AbstractEventLoop,
    CancelledError,
    Task,
    TimerHandle,
    _get_running_loop as running_loop,
    current_task,
)
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextvars import Context
from types import TracebackType, coroutine
from typing import Protocol, TypeVar, TypeVarTuple, Unpack

__all__ = [
    "AbstractEventLoop",
    "CancelledError",
    "Task",
    "TimerHandle",
    "Waiter",
    "asyncio_loop",
    "call_soon",
    "current_task",
    "done_elsewhere",
    "kept_turning",
    "on_shutdown",
    "report",
    "run_apart",
    "running_loop",
    "seat_of",
    "start_task",
    "turn",
]


Arguments = TypeVarTuple("Arguments")
Result = TypeVar("Result")


class Seat(Protocol):
    """Says which thread a loop runs on: None where it runs on none, or does not tell."""

    _thread_id: int | None


class _Unknown:
    _thread_id: int | None = None


_UNKNOWN = _Unknown()


def seat_of(loop: AbstractEventLoop | None) -> Seat:
    """Where the loop says which thread it runs on, which is faster than to ask a thread for its running loop."""
    return loop if hasattr(loop, "_thread_id") else _UNKNOWN  # type: ignore[return-value]


def asyncio_loop() -> AbstractEventLoop:
    """The running loop, which an awaitable needs."""
    loop = running_loop()
    if loop is None:
        raise RuntimeError("a handle is awaited on a running asyncio event loop; elsewhere use handle.result()")
    return loop


def call_soon(loop: AbstractEventLoop, callback: Callable[[Unpack[Arguments]], object], *args: *Arguments) -> bool:
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


LOST = 0.1
"""Seconds after which a callback that the loop was to make in its next turn is taken to be lost.

An interrupt may end one before it has begun: then a loop that is run again, as a shell does, does not make it.
"""


@coroutine
def turn() -> Generator[None, None, None]:
    """Let the loop turn once."""
    yield


BEAT = 0.05
"""Seconds after which a loop turns that has nothing to do but wait."""


class Renewable(Protocol):
    """What calls back on a loop."""

    def renew(self) -> None:
        """Call back again where the loop has lost the callback."""


class Heartbeat:
    """Has its loop turn now and then while a task waits in the block, so that an interrupt gets through.

    A notebook cancels the awaiting cell from a signal handler, which does not wake the loop: without a turn the cell
    would go on until what it awaits has ended. One timer serves all waiters of a loop, and runs out with the last.
    """

    __slots__ = ("__weakref__", "_armed", "_loop", "_waiting", "_watched")

    def __init__(self, loop: AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)
        self._armed = False
        self._waiting = 0
        self._watched: weakref.WeakSet[Renewable] = weakref.WeakSet()

    def watch(self, driver: Renewable) -> None:
        """Have a driver look, in each turn that is made, whether the loop has lost a callback of its own."""
        self._watched.add(driver)

    def __enter__(self) -> None:
        self._waiting += 1
        if not self._armed:
            self._arm()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._waiting -= 1

    def _arm(self) -> None:
        loop = self._loop()
        self._armed = True
        # Signal handlers run on the main thread, so no other loop needs a heartbeat.
        if loop is not None and threading.current_thread() is threading.main_thread():
            loop.call_later(BEAT, self._beat, context=Context())  # that of a waiter would keep its scope

    def _beat(self) -> None:
        self._armed = False
        if self._waiting:
            self._arm()
            for driver in list(self._watched):
                driver.renew()


_heartbeats: weakref.WeakKeyDictionary[AbstractEventLoop, Heartbeat] = weakref.WeakKeyDictionary()


def kept_turning(loop: AbstractEventLoop) -> Heartbeat:
    """The heartbeat of the running loop: `with kept_turning(loop): await ...`."""
    heartbeat = _heartbeats.get(loop)
    if heartbeat is None:
        heartbeat = _heartbeats[loop] = Heartbeat(loop)
    return heartbeat


class Waiter:
    """The private future of one awaiter: any thread may wake it, and cancelling its task disturbs no other."""

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

    async def woken(self, seconds: float | None) -> bool:
        """Wait in a coroutine, as `wait` does in a generator."""
        return await _suspend(self, seconds)

    def wait(self, seconds: float | None) -> Generator[object, None, bool]:
        """Suspend until woken; False when `seconds` went by first."""
        if seconds is None:
            with kept_turning(self._loop):
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
            with kept_turning(self._loop):
                yield from self._future
        finally:
            timer.cancel()
        return not expired


@coroutine
def _suspend(waiter: Waiter, seconds: float | None) -> Generator[object, None, bool]:
    return (yield from waiter.wait(seconds))


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
    loop: AbstractEventLoop,
    coroutine: Coroutine[object, object, Result],
    context: Context,
    done: Callable[[Task[Result]], None],
) -> Callable[[], None]:
    """Run the coroutine as a task of the running loop; returns a function that cancels it."""
    task = loop.create_task(coroutine, context=context)
    task.add_done_callback(done)

    def cancel() -> None:
        call_soon(loop, task.cancel)

    return cancel


async def done_elsewhere(submit: Callable[[Callable[[], None]], None], job: Callable[[], Result]) -> Result:
    """Have `submit` call `job` elsewhere, and return or raise what that does; the loop goes on meanwhile."""
    loop = asyncio_loop()
    future: asyncio.Future[Result] = loop.create_future()

    def succeed(result: Result) -> None:
        if not future.done():  # else its task was cancelled
            future.set_result(result)

    def fail(error: Exception) -> None:
        if not future.done():
            future.set_exception(error)

    def work() -> None:
        try:
            call_soon(loop, succeed, job())
        except Exception as error:  # noqa: BLE001 - handed to the caller
            call_soon(loop, fail, error)

    submit(work)
    return await future


def report(loop: AbstractEventLoop, message: str, error: BaseException) -> None:
    """Tell the loop's exception handler."""
    loop.call_exception_handler({"message": message, "exception": error})


def run_apart(coroutine: Coroutine[object, object, Result], context: Context) -> Result:
    """Run the coroutine to its end on a loop of its own, also when this thread has a running one."""
    results: list[Result] = []
    errors: list[BaseException] = []

    def target() -> None:
        try:
            with asyncio.Runner() as runner:
                results.append(runner.run(coroutine, context=context))
        except BaseException as error:  # noqa: BLE001 - handed to the caller
            errors.append(error)

    if running_loop() is None:
        target()
    else:
        thread = threading.Thread(target=target, name="eagerloop-coroutine", daemon=True)
        thread.start()
        thread.join()
    for error in errors:
        raise error
    return results[0]
