"""One process of a local cluster, started by `engine.devices.dask.local`: a worker, or the scheduler that forks them.

It reads what it needs to know from its standard input, and ends when that is closed: so it never outlives the program
that started it, however that one ends. It listens on the loopback interface only, and opens no dashboard.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from itertools import chain
from pkgutil import resolve_name
from typing import Any

import numpy as np
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
        _say(node.address)
        await node.finished()


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


async def _scheduler() -> None:
    await _serve(QuietScheduler(host="127.0.0.1", port=0, dashboard=False))


async def _worker(scheduler: str, name: str) -> None:
    options: dict[str, Any] = {"nthreads": 1, "memory_limit": 0, "dashboard": False}  # the engine bounds its memory
    await _serve(QuietWorker(scheduler, name=name, host="127.0.0.1", **options))


def _watch_input() -> None:
    threading.Thread(target=_end_with_the_program, name="eagerloop-stdin", daemon=True).start()


def _be_worker() -> None:
    """Be the worker that the next line of the standard input asks for."""
    wanted = _heard()
    _watch_input()
    asyncio.run(_worker(**wanted))


def _heard() -> dict[str, Any]:
    """Return what the program says, once it does; where it has ended before, this process does, too."""
    line = sys.stdin.readline()
    if not line:
        os._exit(0)
    wanted: dict[str, Any] = json.loads(line)
    return wanted


def _forked(own: tuple[int, int], pipes: Sequence[tuple[int, int]]) -> int:
    """Fork a worker whose standard input and output are these of the pipes; returns its process."""
    pid = os.fork()
    if pid:
        return pid
    try:
        for number, descriptor in enumerate(own):
            os.dup2(descriptor, number)
        for descriptor in chain(*pipes):
            os.close(descriptor)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        np.random.seed()  # noqa: NPY002 - the generator that functions of the user may use: two workers, two streams
        _be_worker()
    except BaseException:  # noqa: BLE001 - all that this process can do about it
        traceback.print_exc()
    finally:
        os._exit(1)


def _be_scheduler(pipes: Sequence[tuple[int, int]]) -> None:
    """Fork a worker for each pair of pipes, and be the scheduler. No thread was started before."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the system forgets workers that have ended
    if pipes:
        resolve_name("engine.remote.serving")  # here, once for all of them
        _say(json.dumps([_forked(each, pipes) for each in pipes]))
        for descriptor in chain(*pipes):
            os.close(descriptor)
    else:
        _say("[]")
    _watch_input()
    asyncio.run(_scheduler())


def main() -> None:
    """Run the node that the first line of the standard input asks for."""
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    wanted = _heard()
    if "workers" in wanted:
        _be_scheduler(wanted["workers"])
    else:
        _watch_input()
        asyncio.run(_worker(**wanted))
