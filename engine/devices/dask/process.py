"""One process of a local cluster: `scheduler` or `worker`, started by `engine.devices.dask.local`.

It reads what it needs to know from its standard input, and ends when that is closed: so it never outlives the program
that started it, whatever ends that. It listens on the loopback interface only, and opens no dashboard.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import threading
from typing import Any

from distributed import Scheduler, Worker


class _NoServer:
    """Stands for the HTTP server that a node of Dask would open a port for."""

    port = 0

    def stop(self) -> None:
        """Nothing listens."""


class QuietScheduler(Scheduler):  # type: ignore[misc]
    """A scheduler without an HTTP server."""

    def start_http_server(self, *_: Any, **__: Any) -> None:
        """Open no port."""
        self.http_server = _NoServer()


class QuietWorker(Worker):  # type: ignore[misc]
    """A worker without an HTTP server."""

    def start_http_server(self, *_: Any, **__: Any) -> None:
        """Open no port."""
        self.http_server = _NoServer()


def _end_with_the_program() -> None:
    sys.stdin.buffer.read()
    os._exit(0)  # at once: the program that started this is gone, or has no use for it


async def _serve(node: Any) -> None:
    async with node:
        sys.stdout.write(node.address + "\n")
        sys.stdout.flush()
        await node.finished()


async def _scheduler() -> None:
    await _serve(QuietScheduler(host="127.0.0.1", port=0, dashboard=False))


async def _worker(scheduler: str, name: str) -> None:
    options: dict[str, Any] = {"nthreads": 1, "memory_limit": 0, "dashboard": False}  # the engine bounds its memory
    await _serve(QuietWorker(scheduler, name=name, host="127.0.0.1", **options))


def main() -> None:
    """Run the node that the first line of the standard input asks for."""
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    wanted = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_the_program, name="eagerloop-stdin", daemon=True).start()
    if wanted["kind"] == "scheduler":
        asyncio.run(_scheduler())
    else:
        asyncio.run(_worker(wanted["scheduler"], wanted["name"]))
