"""The pulse of a worker: how the client finds out that one is silent, although no connection has broken.

A second connection asks every half second, and a small process beside the worker answers (`engine.remote.pulse`), since
a kernel may keep the worker's interpreter lock for long. The worker gives it a plain TCP connection; with TLS, that
process listens on a port of its own, with the worker's certificate. Where it cannot be reached, the system's own probes
find out where the network is cut, but not where a process stands still.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from typing import Any, Protocol

from distributed.comm import connect, get_address_host

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


class Pulse:
    """The connection to the process that answers for one worker. Used on one loop."""

    def __init__(self, address: str, connection_args: dict[str, Any]) -> None:
        self._address = address
        self._args = connection_args
        self._secure = address.startswith("tls://")
        self._port: int | None = None
        """Where the process listens, for those who speak TLS."""
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def begin(self) -> bool:
        """Connect for the first time; whether the worker can be watched."""
        try:
            await asyncio.wait_for(self._connect(), FIRST_SECONDS)
        except (OSError, EOFError, TimeoutError):
            return not self._secure  # a network may let through the worker's own port only
        return True

    async def watch(self, link: Watched) -> None:
        """Ask the worker whether it is there until it is lost; one that does not answer is."""
        while link.lost is None:
            try:
                if self._writer is None:
                    await asyncio.wait_for(self._connect(), SILENCE)
                await self._ask(link)
            except TimeoutError:
                link.lose(f"the worker {link.address} has not answered for {SILENCE:g} seconds")
            except (OSError, EOFError):
                # The process that answers has ended, most likely with its worker; or none could be started.
                await asyncio.sleep(BEAT if self._writer is not None else SILENCE)
            finally:
                self.close()

    def close(self) -> None:
        """Let go of the connection."""
        if self._writer is not None:
            self._writer.transport.abort()  # TLS would say goodbye, and wait for an answer
        self._reader = self._writer = None

    async def _connect(self) -> None:
        reader, writer = await (self._over_tls() if self._secure else self._taken_over())
        try:
            await reader.readexactly(1)  # the process has the connection now
        except BaseException:
            writer.transport.abort()
            raise
        self._reader, self._writer = reader, writer

    async def _taken_over(self) -> _Streams:
        """A connection to the worker, which gives it to the process."""
        comm = await connect(self._address, timeout=FIRST_SECONDS, **self._args)
        await comm.write({"op": "eagerloop_pulse", "reply": False})
        connection = taken_over_socket(comm)
        connection.setblocking(False)
        return await asyncio.open_connection(sock=connection)

    async def _over_tls(self) -> _Streams:
        """A connection to the port of the process, which the worker is asked for once: later it may be busy."""
        if self._port is None:
            comm = await connect(self._address, timeout=FIRST_SECONDS, **self._args)
            try:
                await comm.write({"op": "eagerloop_pulse_port", "reply": True})
                port = await comm.read()
            finally:
                comm.abort()
            if not isinstance(port, int):
                raise ConnectionError(f"no process answers for {self._address}: {port}")
            self._port = port
        host = get_address_host(self._address)
        return await asyncio.open_connection(host, self._port, ssl=self._args["ssl_context"])

    async def _ask(self, link: Watched) -> None:
        reader, writer = self._reader, self._writer
        assert reader is not None
        assert writer is not None
        while link.lost is None:
            writer.write(b"?")
            await asyncio.wait_for(reader.readexactly(1), SILENCE)
            await asyncio.sleep(BEAT)


_Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


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
