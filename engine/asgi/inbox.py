"""The messages of one client, in their order, and word of its going as soon as the server says so.

Purpose: servers say that a client has gone by a message behind all others, and only where the application asks for the
next one. So the inbox reads ahead, in a task of its own, while the application does something else. An application that
takes one piece of a body after the other asks the server itself: a task for each piece would cost more than the piece.

Guarantees: every message reaches the application, in order; the server is asked by one task at a time; what is held
stays below `HELD_BYTES` (and one message), so that a large body waits in the network as it does without the inbox. All
of it runs on the thread of one loop.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import Context
from typing import Any

from engine.asgi.messages import GONE, Message, Receive, size_of
from engine.asgi.newcomers import Newcomers
from engine.base.loops import AbstractEventLoop, start_task

HELD_BYTES = 65_536
"""Bytes of messages that are held for the application, before the inbox reads no further."""


def _ignore(told: bool) -> None:
    """The client of a request that has ended may go."""


class Inbox:
    """Stands between the server's `receive` and the application; calls `gone` once, when the client has gone.

    `gone` is told whether the application has asked for the message itself.
    """

    __slots__ = (
        *("_asking", "_gone", "_held", "_loop", "_messages", "_newcomers", "_over", "_receive", "_stop_reading"),
        *("_waiting", "_watching"),
    )

    def __init__(
        self, receive: Receive, loop: AbstractEventLoop, gone: Callable[[bool], object], newcomers: Newcomers
    ) -> None:
        self._receive = receive
        self._loop = loop
        self._gone = gone
        self._newcomers = newcomers
        self._messages: list[Message] = []  # a few at most: what is held is bounded
        self._held = 0
        self._asking = 0
        """Calls of the application that ask the server themselves."""
        self._watching = False
        self._over = False
        """True if the client has gone, the server raised, or the application has returned: nothing is read ahead."""
        self._stop_reading: Callable[[], None] | None = None
        """Cancels the task that reads ahead, where there is one."""
        self._waiting: list[Any] = []
        """The futures of the application's calls that wait for the task."""

    def watch(self) -> None:
        """Read ahead from now on."""
        self._watching = True
        self._read_on()

    def close(self) -> None:
        """The application has returned: read no further, and tell nothing more."""
        self._watching = False
        self._over = True
        self._gone = _ignore  # which referred to what refers to this: no collector is needed for the two
        if self._stop_reading is not None:
            self._stop_reading()

    async def receive(self) -> Message:
        """Give the application the next message."""
        while not self._messages and self._stop_reading is not None:
            turn = self._loop.create_future()
            self._waiting.append(turn)
            await turn
        if self._messages:
            message = self._messages.pop(0)
            self._held -= size_of(message)
            self._read_on_after(message)
            return message
        self._asking += 1
        try:
            message = await self._receive()
        except BaseException:
            self._asking -= 1
            self._read_on()
            raise
        self._asking -= 1
        self._look_at(message, told=True)
        self._read_on_after(message)
        return message

    def _read_on_after(self, message: Message) -> None:
        """The application has got a message: where more of a body is to come, it may ask for that within a moment."""
        if self._watching and message.get("more_body", False):
            self._watching = False
            self._newcomers.add(self, self._loop)
        else:
            self._read_on()

    def _read_on(self) -> None:
        if self._watching and not (self._over or self._asking or self._stop_reading) and self._held < HELD_BYTES:
            self._stop_reading = start_task(self._loop, self._read_ahead(), Context(), self._has_read)

    async def _read_ahead(self) -> None:
        while self._held < HELD_BYTES and not self._over:
            message = await self._receive()
            self._messages.append(message)
            self._held += size_of(message)
            self._look_at(message, told=bool(self._waiting))
            self._wake()

    def _has_read(self, task: Any) -> None:
        self._stop_reading = None
        if not task.cancelled() and task.exception() is not None:
            self._over = True  # the application's own call will get the error of the server
        self._wake()

    def _wake(self) -> None:
        while self._waiting:
            turn = self._waiting.pop(0)
            if not turn.done():
                turn.set_result(None)

    def _look_at(self, message: Message, *, told: bool) -> None:
        if message["type"] in GONE and not self._over:
            self._over = True
            self._gone(told)
