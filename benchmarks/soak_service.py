"""The service that `make soak` loads for an hour: that of `benchmarks.service`, with paths that go wrong on purpose.

`python -m benchmarks.soak_service` serves it; the first line it prints is the port. A request whose client has gone is
cancelled, and its work dropped. Tokens in the query tell which request an error belongs to, so that none can be lost
or reported to another unseen.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any

import numpy as np

import engine
from benchmarks.service import Data, EngineService, Receive, Scope, Send, products, serve
from benchmarks.workloads import Array
from engine import ops

SIDE, ROWS = 120, 20_000
"""Of the matrix and the catalogue: small enough that an hour holds many requests of each kind."""
DEADLINE_SECONDS = 0.01
LARGE = 100_000
"""Elements of `/chain`: such that results go to buffers that are used again."""
Handler = Callable[[str], Awaitable[object]]


class GivenError(Exception):
    """An error that a request asked for; its text is the token of the request."""


@engine.op
def failing(x: Array, token: Array) -> Array:
    """Fail with the number of the request."""
    raise GivenError(f"token-{int(token)}")


@engine.op
async def fetched(x: Array) -> Array:
    """Wait as for a database, then compute."""
    await asyncio.sleep(0.001)
    return x + 1.0


class SoakService(EngineService):
    """The service under load, and what it has counted."""

    def __init__(self, data: Data) -> None:
        super().__init__(data)
        self.disconnected = 0
        self.series = np.linspace(0.0, 1.0, LARGE)
        self.series.flags.writeable = False
        self.handlers: Mapping[str, Handler] = {
            "/chain": self.chain,
            "/fail": self.fail,
            "/scope": self.scope,
            "/orphan": self.orphan,
            "/barrier": self.barrier,
            "/deadline": self.deadline,
            "/fetch": self.fetch,
            "/counts": self.counts,
        }

    async def slow(self) -> object:
        """The service's own, in a scope: what a client that goes away has asked for is dropped."""
        with self.executor.as_default():
            async with engine.scope():
                corner = products(self.data.matrix)
        return float(await corner)

    async def chain(self, token: str) -> object:
        """A chain that is computed as one fusion group."""
        with self.executor.as_default():
            async with engine.scope():
                x = ops.sqrt(ops.asarray(self.series) * 2.0 + 1.0)
                total = ops.sum(x * x - x)
        return float(await total)

    async def fail(self, token: str) -> object:
        """An error that comes out where the request awaits, through an op that depends on the one that failed."""
        with self.executor.as_default():
            return float(await ops.sum(failing(self.data.small, int(token))))

    async def scope(self, token: str) -> object:
        """An error of a scope whose handles are never read."""
        with self.executor.as_default():
            async with engine.scope():
                failing(self.data.small, int(token))
                products(self.data.middling)
        return None

    async def orphan(self, token: str) -> object:
        """An error that is left for the next barrier."""
        with self.executor.as_default():
            failing(self.data.small, int(token))
        return "left"

    async def barrier(self, token: str) -> object:
        """The tokens of all failures that have not been reported."""
        with self.executor.as_default():
            try:
                await engine.synchronize()
            except Exception as error:  # noqa: BLE001 - told to the client
                return leaves(error)
        return []

    async def deadline(self, token: str) -> object:
        """More work than fits into its time: what has not started then is dropped."""
        with self.executor.as_default():
            async with engine.scope(timeout=DEADLINE_SECONDS, priority=-1):
                for _ in range(4):
                    products(self.data.matrix)
        return "in time"

    async def fetch(self, token: str) -> object:
        """An op that is a coroutine."""
        with self.executor.as_default():
            return float(await ops.sum(fetched(self.data.small)))

    async def counts(self, token: str) -> object:
        """What is there when no request is on its way but this one; buffers that wait to be used again are let go."""
        gc.collect()
        engine.clear_buffers()
        both = [executor.statistics() for executor in (self.executor, self.small_executor)]
        return {
            "pending": sum(each.pending for each in both),
            "pending_bytes": sum(each.pending_bytes for each in both),
            "completed": sum(each.completed for each in both),
            "cancelled": sum(each.cancelled for each in both),
            "failed": sum(each.failed for each in both),
            "tasks": len(asyncio.all_tasks()),
            "disconnected": self.disconnected,
        }

    async def answered(self, path: str, token: str) -> tuple[int, object]:
        """The status and the body of one request."""
        plain = self.paths.get(path)
        handler = self.handlers.get(path)
        try:
            if handler is not None:
                return 200, await handler(token)
            return (404, "no such path") if plain is None else (200, await plain())
        except TimeoutError:
            return 504, "not in time"
        except Exception as error:  # noqa: BLE001 - told to the client, which knows what it asked for
            return 500, leaves(error)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve as an ASGI application; a request whose client goes is cancelled."""
        if scope["type"] == "lifespan":
            await super().__call__(scope, receive, send)
            return
        work = asyncio.create_task(self.answered(scope["path"], scope["query_string"].decode()))
        gone = asyncio.create_task(disconnect(receive))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            if not work.done():
                work.cancel()
                self.disconnected += 1
            with suppress(asyncio.CancelledError):
                await work
        if work.cancelled():
            return
        status, answer = work.result()
        body = json.dumps(answer).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


async def disconnect(receive: Receive) -> None:
    """Return when the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


def leaves(error: BaseException) -> list[str]:
    """The texts of an error, or of all in a group."""
    if isinstance(error, BaseExceptionGroup):
        return [text for each in error.exceptions for text in leaves(each)]
    return [str(error) if isinstance(error, GivenError) else f"{type(error).__name__}: {error}"]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak_service", description=__doc__)
    parser.add_argument("--loop", default="asyncio", choices=["asyncio", "uvloop"])
    options = parser.parse_args()
    application: Any = SoakService(Data(side=SIDE, rows=ROWS))
    serve(application, options.loop)


if __name__ == "__main__":
    main()
