"""A small service, three times the same: handlers that compute with eagerloop, with `to_thread`, or in the coroutine.

`python -m benchmarks.service "eagerloop"` serves it with uvicorn on a free port of 127.0.0.1, prints the port, and ends
when its standard input does. The application is plain ASGI, so that no framework's time is in the figures.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import socket
import sys
import threading
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

import numpy as np

import engine
from benchmarks.workloads import Array
from engine import ops
from handles import Handle

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

MATMULS = 20
"""Matrix products of one request of `/slow`."""
PENDING_OPS = 200
"""`max_pending_ops` of the engine's executor where requests are bounded."""
TOP = 10
"""Rows that a search gives."""
QUERIES = 64


class Data:
    """What the service has loaded. Read-only, so that the engine copies nothing."""

    def __init__(self, *, side: int = 700, rows: int = 200_000, columns: int = 64) -> None:
        random = np.random.default_rng(0)
        self.small = read_only(random.random(16))
        self.matrix = read_only(random.random((side, side)) / side)
        half = side // 2
        self.middling = read_only(self.matrix[:half, :half])
        self.catalogue = read_only(random.random((rows, columns), dtype=np.float32))
        self.queries = [read_only(query) for query in random.random((QUERIES, columns), dtype=np.float32)]
        self._next = 0

    def rewind(self) -> None:
        """Begin the queries again."""
        self._next = 0

    def query(self) -> Array:
        """The next of some queries."""
        self._next = (self._next + 1) % QUERIES
        return self.queries[self._next]


def read_only(array: Array) -> Array:
    """The array, which no code can write to from now on; a copy where it was a view."""
    own = np.array(array)
    own.flags.writeable = False
    return own


# ---------------------------------------------------------------------------------------------------------------------
# What the requests compute, with plain NumPy


def tiny(data: Data) -> float:
    return float(np.sum(np.sqrt(data.small * 2.0 + 1.0)))


def powers(matrix: Array) -> float:
    product = matrix
    for _ in range(MATMULS):
        product = product @ matrix
    return float(product[0, 0])


def slow(data: Data) -> float:
    return powers(data.matrix)


def bounded(data: Data) -> float:
    return powers(data.middling)


def search(data: Data) -> list[int]:
    scores = np.matmul(data.catalogue, data.query())
    best = np.argpartition(scores, -TOP)[-TOP:]
    return [int(row) for row in np.sort(best)]


class Service:
    """NumPy in the coroutine: while it computes, no other request is answered."""

    def __init__(self, data: Data) -> None:
        self.data = data
        self.paths: Mapping[str, Callable[[], Awaitable[object]]] = {
            "/health": self.health,
            "/tiny": self.tiny,
            "/slow": self.slow,
            "/search": self.search,
            "/bounded": self.bounded,
        }

    async def start(self) -> None:
        """Get ready, before the first request."""

    async def stop(self) -> None:
        """Let go of everything, after the last one."""

    async def compute(self, function: Callable[[Data], object]) -> object:
        """Compute something the way that this service does it."""
        return function(self.data)

    async def health(self) -> object:
        return "ok"

    async def tiny(self) -> object:
        return await self.compute(tiny)

    async def slow(self) -> object:
        return await self.compute(slow)

    async def search(self) -> object:
        return await self.compute(search)

    async def bounded(self) -> object:
        """A smaller `slow`; the engine's executor lets in only so many of them at once."""
        return await self.compute(bounded)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve as an ASGI application."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        handler = self.paths.get(scope["path"])
        status, answer = (404, "no such path") if handler is None else (200, await handler())
        body = json.dumps(answer).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await self.start()
                await send({"type": "lifespan.startup.complete"})
            else:
                await self.stop()
                await send({"type": "lifespan.shutdown.complete"})
                return


class ThreadService(Service):
    """NumPy in `asyncio.to_thread`: one hop for each request."""

    async def compute(self, function: Callable[[Data], object]) -> object:
        return await asyncio.to_thread(function, self.data)


def products(matrix: Array) -> Handle:
    """What `powers` computes, dispatched op by op."""
    product = ops.asarray(matrix)
    for _ in range(MATMULS):
        product = product @ matrix
    return product[0, 0]


class EngineService(Service):
    """eagerloop: one executor for the life of the service, entered in each request."""

    def __init__(self, data: Data) -> None:
        super().__init__(data)
        self.executor = engine.Executor(execution_mode=engine.ASYNC)
        self.small_executor = engine.Executor(engine.Config(max_pending_ops=PENDING_OPS), execution_mode=engine.ASYNC)

    async def start(self) -> None:
        await self.executor.__aenter__()
        await self.small_executor.__aenter__()

    async def stop(self) -> None:
        await self.small_executor.__aexit__(None, None, None)
        await self.executor.__aexit__(None, None, None)

    async def tiny(self) -> object:
        with self.executor.as_default():
            return float(await ops.sum(ops.sqrt(ops.multiply(self.data.small, 2.0) + 1.0)))

    async def slow(self) -> object:
        with self.executor.as_default():
            return float(await products(self.data.matrix))

    async def search(self) -> object:
        with self.executor.as_default():
            scores: Any = ops.matmul(self.data.catalogue, self.data.query())
            best: Any = np.sort(np.argpartition(scores, -TOP)[-TOP:])
            rows: list[int] = (await best).tolist()
            return rows

    async def bounded(self) -> object:
        with self.small_executor.as_default():
            async with engine.scope():
                corner = products(self.data.middling)
        return float(await corner)


SERVICES: Mapping[str, type[Service]] = {
    "eagerloop": EngineService,
    "to_thread": ThreadService,
    "NumPy": Service,
}


def serve(application: Application, loop: str) -> None:
    """Serve on a free port until standard input ends; the first line of standard output is the port."""
    uvicorn = importlib.import_module("uvicorn")
    # With its protocol named: only then does asyncio turn Nagle's algorithm off on what it accepts. Where it is on, the
    # body of each answer waits 40 ms for the acknowledgement of its head.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(application, log_level="warning", access_log=False, loop=loop))

    def watch() -> None:
        sys.stdin.read()
        server.should_exit = True

    threading.Thread(target=watch, daemon=True).start()
    print(listener.getsockname()[1], flush=True)
    server.run(sockets=[listener])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.service", description=__doc__)
    parser.add_argument("service", choices=list(SERVICES))
    parser.add_argument("--loop", default="asyncio", choices=["asyncio", "uvloop"])
    options = parser.parse_args()
    serve(SERVICES[options.service](Data()), options.loop)


if __name__ == "__main__":
    main()
