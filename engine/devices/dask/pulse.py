"""The pulse of a worker: how the client finds out that one is silent, although no connection has broken.

A second connection asks every half second, and a small process beside the worker answers (`engine.remote.pulse`), since
a kernel may keep the worker's interpreter lock for long. Where there is no plain TCP, with TLS for one, that process
cannot answer: then the system's own probes find out where the network is cut, but not where a process stands still.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from typing import Any, Protocol

from distributed.comm import connect

from engine.devices.dask.wire import taken_over_socket

SILENCE = 4.0
"""Seconds after which a worker that does not answer is lost."""
BEAT = 0.5
"""Seconds between questions."""
FIRST_SECONDS = 30.0
"""Seconds that a worker may take to have its process answer for the first time."""


class Watched(Protocol):
    """A link, as its watch sees it."""

    address: str
    lost: str | None

    def lose(self, reason: str) -> None:
        """The worker is gone."""


Beats = tuple[asyncio.StreamReader, asyncio.StreamWriter]
"""A connection to the process that answers."""


async def first_beats(address: str, connection_args: dict[str, Any]) -> Beats | None:
    """Connect to the process that answers for a worker; None where there can be none."""
    try:
        return await asyncio.wait_for(_connected(address, connection_args), FIRST_SECONDS)
    except (OSError, EOFError):
        return None


async def watch(link: Watched, connection_args: dict[str, Any], beats: Beats | None) -> None:
    """Ask a worker whether it is there until it is lost; one that does not answer is."""
    while link.lost is None:
        try:
            if beats is None:
                beats = await asyncio.wait_for(_connected(link.address, connection_args), SILENCE)
            await _ask(link, *beats)
        except TimeoutError:
            link.lose(f"the worker {link.address} has not answered for {SILENCE:g} seconds")
        except (OSError, EOFError):
            # The process that answers has ended, most likely with its worker; or none could be started.
            await asyncio.sleep(BEAT if beats else SILENCE)
        finally:
            if beats is not None:
                beats[1].close()
            beats = None


async def _connected(address: str, connection_args: dict[str, Any]) -> Beats:
    comm = await connect(address, timeout=FIRST_SECONDS, **connection_args)
    await comm.write({"op": "eagerloop_pulse", "reply": False})
    connection = taken_over_socket(comm)
    connection.setblocking(False)
    reader, writer = await asyncio.open_connection(sock=connection)
    try:
        await reader.readexactly(1)  # the process has the connection now
    except BaseException:
        writer.close()
        raise
    return reader, writer


async def _ask(link: Watched, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while link.lost is None:
        writer.write(b"?")
        await asyncio.wait_for(reader.readexactly(1), SILENCE)
        await asyncio.sleep(BEAT)


def probe(comm: Any) -> None:
    """Have the system find out soon where the other side does not answer any more."""
    stream = getattr(comm, "stream", None)
    found: socket.socket | None = getattr(stream, "socket", None)
    if found is None:
        return
    options = {"TCP_KEEPIDLE": 1, "TCP_KEEPINTVL": 1, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 4_000}
    with suppress(OSError):
        found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in options.items():
            option = getattr(socket, name, None)
            if option is not None:
                found.setsockopt(socket.IPPROTO_TCP, option, value)
