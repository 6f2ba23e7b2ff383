"""A server and its client without sockets: what an application is sent, and what it sends."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from engine.asgi.messages import Application, Message, Scope

Handler = Callable[[Scope, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]


class Exchange:
    """One request, or one websocket: the messages of the client, and those of the application."""

    def __init__(self, *messages: Message, path: str = "/", kind: str = "http", **more: Any) -> None:
        headers = more.pop("headers", [])
        self.scope: Scope = {"type": kind, "path": path, "method": "GET", "headers": headers, **more}
        self.sent: list[Message] = []
        self.asked = 0
        """How often the application, or what stands before it, asked for a message."""
        self.asking = 0
        """How many ask now."""
        self._messages = deque(messages or ({"type": "http.request", "body": b"", "more_body": False},))
        self._more = asyncio.Event()
        self._began = asyncio.Event()

    def say(self, message: Message) -> None:
        """The client sends a message."""
        self._messages.append(message)
        self._more.set()

    def go(self) -> None:
        """The client goes."""
        self.say({"type": "http.disconnect" if self.scope["type"] == "http" else "websocket.disconnect", "code": 1001})

    async def receive(self) -> Message:
        self.asked += 1
        self.asking += 1
        assert self.asking == 1, "two tasks ask the server at once"
        try:
            while not self._messages:
                self._more.clear()
                await self._more.wait()
        finally:
            self.asking -= 1
        if self._messages[0]["type"].endswith("disconnect"):
            return self._messages[0]  # servers say it as often as they are asked
        return self._messages.popleft()

    async def send(self, message: Message) -> None:
        self.sent.append(message)
        self._began.set()

    async def began(self) -> None:
        """Wait for the first message of the application."""
        await self._began.wait()

    def start(self, app: Application) -> asyncio.Task[None]:
        """Have an application serve it, in a task."""

        async def serve() -> None:
            await app(self.scope, self.receive, self.send)

        return asyncio.create_task(serve())

    async def run(self, app: Application) -> "Exchange":
        """Have an application serve it."""
        await app(self.scope, self.receive, self.send)
        return self

    @property
    def status(self) -> int:
        """The status of the response."""
        starts = [each["status"] for each in self.sent if each["type"].endswith("response.start")]
        assert len(starts) == 1, self.sent
        return int(starts[0])

    @property
    def body(self) -> bytes:
        """The body of the response, as far as it has come."""
        return b"".join(each.get("body", b"") for each in self.sent if each["type"].endswith("response.body"))


async def answer(send: Callable[[Message], Awaitable[None]], body: object = b"ok", status: int = 200) -> None:
    """Send a whole response."""
    content = body if isinstance(body, bytes) else repr(body).encode()
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": content})


@asynccontextmanager
async def living(app: Application, **scope: Any) -> AsyncIterator[Scope]:
    """Run an application's lifespan, as servers do; yields the lifespan's ASGI scope."""
    lifespan: Scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}, **scope}
    inbox: asyncio.Queue[Message] = asyncio.Queue()
    outbox: asyncio.Queue[Message] = asyncio.Queue()

    async def live() -> None:
        await app(lifespan, inbox.get, outbox.put)

    task = asyncio.create_task(live())
    inbox.put_nowait({"type": "lifespan.startup"})
    assert (await outbox.get())["type"] == "lifespan.startup.complete"
    try:
        yield lifespan
    finally:
        inbox.put_nowait({"type": "lifespan.shutdown"})
        assert (await outbox.get())["type"] == "lifespan.shutdown.complete"
        await task


def with_lifespan(handler: Handler) -> Application:
    """An application of a handler of requests, with a lifespan that does nothing."""

    async def app(scope: Scope, receive: Callable[[], Awaitable[Message]], send: Any) -> None:
        if scope["type"] != "lifespan":
            await handler(scope, receive, send)
            return
        while (await receive())["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})

    return app
