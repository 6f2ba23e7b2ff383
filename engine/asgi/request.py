"""One request, or one websocket, from the first message to the last byte.

The application runs in the server's task. It is interrupted at most once: when the client has gone, or when the time is
up. What it had dispatched is dropped then, some turns of the loop later, so that tasks of the application see the
cancellation before they see what came of its ops. All of it runs on the thread of the loop.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import Context
from enum import StrEnum
from typing import Any

from engine.asgi.inbox import Inbox
from engine.asgi.messages import (
    Application,
    Message,
    Receive,
    Scope,
    Send,
    awaits_permission,
    begins,
    is_last,
    refusal,
)
from engine.asgi.newcomers import Newcomers
from engine.asgi.work import Work
from engine.base.errors import OpCancelledError
from engine.base.loops import AbstractEventLoop, CancelledError, TimerHandle, start_task
from engine.runtime.interruption import Interruption

TURNS = 8
"""Turns of the loop until a cancellation has reached the tasks of tasks: groups need one or two for each level."""


class End(StrEnum):
    """How a request ended: the values are those of the label `outcome` of metrics."""

    COMPLETED = "completed"
    """The application returned."""
    FAILED = "failed"
    """It raised an error."""
    DISCONNECTED = "disconnected"
    """Its client has gone."""
    EXPIRED = "expired"
    """Its time was up."""
    REFUSED = "refused"
    """There was no room for it."""


_WHY = {
    End.FAILED: "the application raised an error",
    End.DISCONNECTED: "its client has gone",
    End.EXPIRED: "its time was up",
}
"""Why the ops of a request were dropped, in the words of their errors."""


class Request:
    """A go-between of the server and the application for one request, or one websocket.

    What a request that ends within a moment does not need is made after that: the timer, and the task that reads ahead.
    """

    __slots__ = (
        *(
            "_answering",
            "_began",
            "_complete",
            "_early",
            "_ends",
            "_interruption",
            "_is_websocket",
            "_loop",
            "_over",
            "_send",
        ),
        *("_timeout", "_timer", "_trailers", "inbox", "scope", "work"),
    )

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        loop: AbstractEventLoop,
        newcomers: Newcomers,
        timeout: float | None,
    ) -> None:
        self.scope = scope
        self.work = Work(loop)
        self.inbox = Inbox(receive, loop, self._gone, newcomers)
        self._send = send
        self._loop = loop
        self._timeout = timeout
        self._is_websocket = scope["type"] == "websocket"
        self._early: End | None = None
        """Why the application was interrupted; None where it was not."""
        self._began = False
        self._trailers = False
        self._complete = False
        self._answering: Any = None
        """The future of the answer that the time is up."""
        self._timer: TimerHandle | None = None
        self._ends: float | None = None if timeout is None else loop.time() + timeout
        """When the time is up, by the loop's clock; None while the client is waited for, and where there is no end."""
        self._over = False
        """True if the application has returned."""
        self._interruption = Interruption(in_generator=False)
        newcomers.add(self, loop)

    async def run(self, app: Application) -> End:
        """Run the application; raises what it raises, apart from what came of its interruption."""
        error: BaseException | None = None
        try:
            await app(self.scope, self.inbox.receive, self.send)
        except BaseException as raised:  # noqa: BLE001 - raised again below
            error = raised
        alone = False
        self._ends = None
        self._over = True
        self.inbox.close()
        if error is None and self._early is None:  # as nearly all end
            if self._timer is not None:
                self._timer.cancel()
            self._interruption.close()
            self.work.end()
            return End.COMPLETED
        try:
            alone = await self._wind_up(error)
        finally:
            if error is not None or self._early is not None:
                await self._drop_all(error)
            self.work.end()
        if alone or (self._early is not None and error is not None and _came_of_dropping(error)):
            error = None
        if error is not None:
            raise error
        if self._early is End.EXPIRED and self._answering is None:
            raise TimeoutError(f"the response did not go on for {self._timeout:g} s: {self.scope['path']}")
        return self._early or End.COMPLETED

    async def _wind_up(self, error: BaseException | None) -> bool:
        """The application has returned: whether `error` is the `CancelledError` of the interruption alone."""
        if self._timer is not None:
            self._timer.cancel()
        alone = await self._interruption.take_back(error)
        if self._answering is not None:
            await self._answering
        return alone

    @property
    def end(self) -> End:
        """How the request ended where the application raised an error."""
        return self._early or End.FAILED

    async def send(self, message: Message) -> None:
        """Pass a message of the application on; after the answer that the time is up, nothing more."""
        if self._answering is not None:
            return
        if not self._began and begins(message):
            self._began = True
            self._trailers = bool(message.get("trailers", False))
            last = message["type"] == "websocket.close"
        else:
            last = is_last(message, trailers=self._trailers)
        self._ends = None
        if last:
            self._complete = True  # before it is sent: a server may say at once that the client has what it wanted
        await self._send(message)
        if last:
            self.work.release()
        elif self._timeout is not None and not self._is_websocket:
            self._ends = self._loop.time() + self._timeout

    # The client

    def watch(self) -> None:
        """Look out for the client, and for the clock, unless the request has ended."""
        if self._over or self._complete or self._early is not None:
            return
        if not awaits_permission(self.scope):
            self.inbox.watch()
        if self._timeout is not None:
            self._look_at_clock()

    def _gone(self, told: bool) -> None:
        if self._complete or self._early is not None:
            return
        if self._is_websocket:  # the application is told by a message, and may have something to tidy up
            self.work.drop(_WHY[End.DISCONNECTED], refuse=False)
            return
        self._early = End.DISCONNECTED
        # An application that has asked for the message may end by itself, and cancel the tasks that it has made.
        self._after(TURNS if told else 1, self._interrupt)

    # The time

    def _look_at_clock(self) -> None:
        """The timer has run out: the end may have been put off since it was set."""
        assert self._timeout is not None
        if self._complete or self._early is not None or (self._began and self._is_websocket):
            return
        left = self._timeout if self._ends is None else self._ends - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._look_at_clock)
        else:
            self._expire()

    def _expire(self) -> None:
        self._early = End.EXPIRED
        if not self._began:
            self._answering = self._loop.create_future()
            start_task(self._loop, self._answer(refusal(self.scope, 504)), Context(), self._has_answered)
        self._interrupt()

    async def _answer(self, messages: list[Message]) -> None:
        for message in messages:
            await self._send(message)

    def _has_answered(self, task: Any) -> None:
        if not task.cancelled():
            task.exception()  # the client has gone as well
        if not self._answering.done():
            self._answering.set_result(None)

    # The end before the end

    def _interrupt(self) -> None:
        self._interruption.send()
        self._after(TURNS, self._drop)

    def _after(self, turns: int, then: Callable[[], None]) -> None:
        """Call back when the loop has turned so many times."""
        if turns:
            self._loop.call_soon(self._after, turns - 1, then)
        else:
            then()

    def _drop(self) -> None:
        self.work.drop(_WHY[self.end])

    async def _drop_all(self, error: BaseException | None) -> None:
        """The application has ended: drop what is left of its work."""
        if isinstance(error, GeneratorExit):
            self._drop()  # the loop closes the task, which cannot wait
        else:
            await self.work.drop_all(_WHY[self.end])


def _came_of_dropping(error: BaseException) -> bool:
    """Tell whether an error is only what an interrupted application makes of it."""
    if isinstance(error, BaseExceptionGroup):
        return all(map(_came_of_dropping, error.exceptions))
    return isinstance(error, OpCancelledError | CancelledError)
