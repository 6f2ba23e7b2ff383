"""How a Dask worker serves clients: a connection is a stream of messages, in order, in both directions.

`install` is run on a worker by the first client that uses it; `serve` then has each connection to itself, `pulse` gives
one to the process that answers for the worker, and `fetch` answers other workers. The thread of the worker's loop only
accepts connections: a thread for each client reads its messages and does what they ask, and another one answers what is
not answered at once. So heartbeats go on during any message.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from queue import SimpleQueue
from typing import Any

from distributed.comm import get_address_host

from engine.devices.dask.errors import packed_error
from engine.devices.dask.programs import Message, Package, packed, unpacked
from engine.devices.dask.versions import versions
from engine.devices.dask.wire import READY, StreamWire, Wire, for_dask, from_dask, taken_over, taken_over_socket
from engine.failures import INTERNAL
from engine.remote import pulse as answering
from engine.remote.service import Service

vars()[INTERNAL] = True  # loaded after the package has marked its modules

LOOK = 0.5
"""Seconds between looks at whether the worker still serves."""

_SERVING = ("init", "running", "paused")

_services: dict[str, Service] = {}
"""Those that serve now, by the names that their clients gave them."""


def install(dask_worker: Any) -> dict[str, str]:
    """Have a worker serve clients of this package; returns its versions. Doing it again changes nothing."""
    handlers = dask_worker.handlers
    if "eagerloop" not in handlers:
        beside = _Beside()
        beside.start()

        async def serving(comm: Any, session: str, plain: bool, cores: bool) -> None:
            await serve(comm, dask_worker, session, plain=plain, cores=cores)

        async def pulse(comm: Any) -> None:
            await asyncio.to_thread(beside.give, taken_over_socket(comm))

        async def pulse_port(comm: Any = None) -> int | None:
            return await asyncio.to_thread(beside.port, dask_worker)

        handlers["eagerloop"] = serving
        handlers["eagerloop_pulse"] = pulse
        handlers["eagerloop_pulse_port"] = pulse_port
        handlers["eagerloop_fetch"] = fetch
    return versions()


async def serve(comm: Any, worker: Any, session: str, *, plain: bool, cores: bool) -> None:
    """Serve one client until its connection breaks, or the worker ends.

    `plain` says that the client takes the connection over, too; `cores` that an op may use all cores of the machine.
    """
    loop = asyncio.get_running_loop()
    wire: Wire = taken_over(comm) if plain else StreamWire(comm)
    conversation = Conversation(wire, worker, loop, cores=cores)
    _services[session] = conversation.service
    try:
        while conversation.goes_on() and worker.status.name in _SERVING:  # noqa: ASYNC110 - no event tells of both
            await asyncio.sleep(LOOK)
    finally:
        wire.break_off()
        del _services[session]


class Conversation:
    """One client: a thread reads its messages and does what they ask, and another one sends what comes of it later."""

    def __init__(self, wire: Wire, worker: Any, loop: asyncio.AbstractEventLoop, *, cores: bool) -> None:
        threads = worker.state.nthreads
        self._wire = wire
        self._worker = worker
        self._loop = loop
        self.service = Service(worker.address, calls=threads, cores=0 if cores else threads, wake=self._wake)
        self._answering = threading.Lock()
        """Taken while an answer is made and sent: of two answers, the one that was made first is sent first."""
        self._calls: SimpleQueue[bool] = SimpleQueue()
        """Calls for an answer; False at the end."""
        self._called = False
        self._thread = threading.Thread(target=self._listen, name="eagerloop-service", daemon=True)
        self._answerer = threading.Thread(target=self._answer, name="eagerloop-answers", daemon=True)
        self._thread.start()
        self._answerer.start()

    def goes_on(self) -> bool:
        """Tell whether the client is still there."""
        return self._thread.is_alive()

    def _listen(self) -> None:
        """Take messages in order; a defect ends the connection, so that the client loses no handle in silence."""
        service = self.service
        try:
            self._wire.send(READY)
            while True:
                message = Message(*unpacked(self._wire.read()))
                service.take(message)
                for number, address, session, there in message.pulls:
                    pulling = _pull(self._worker, service, number, address, session, there)
                    asyncio.run_coroutine_threadsafe(pulling, self._loop)
                del message
                self._send()
        except OSError:
            pass  # the client is gone, or has closed
        finally:
            service.close()
            self._calls.put(False)
            self._wire.close()

    def _wake(self) -> None:
        """On any thread: there is something to say."""
        if not self._called and threading.get_ident() != self._thread.ident:  # that one looks when it is done
            self._called = True
            self._calls.put(True)

    def _answer(self) -> None:
        while self._calls.get():
            self._called = False
            self._send()

    def _send(self) -> None:
        with suppress(OSError), self._answering:  # the reader finds that out, too
            package = self.service.reply()
            if package is not None:
                self._wire.send(package)


class _Beside:
    """The process that answers for this worker."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._port: int | None = None

    def give(self, connection: socket.socket) -> None:
        """Give it a connection, and let go of that here. Where there can be no such process, the connection ends."""
        with connection, self._lock, suppress(OSError):
            socket.send_fds(self._there(), [answering.CONNECTION], [connection.fileno()])

    def port(self, worker: Any) -> int | None:
        """The port where it answers those who speak TLS; None where there can be none."""
        with self._lock, suppress(OSError):
            control = self._there()
            if self._port is None:
                host = get_address_host(worker.listener.listen_address)
                family = socket.AF_INET6 if ":" in host else socket.AF_INET
                with socket.create_server((host, 0), family=family) as listener:
                    socket.send_fds(control, [answering.LISTENER], [listener.fileno()])
                    control.sendall(answering.framed(_tls_facts(worker.security)))
                    self._port = listener.getsockname()[1]
            return self._port
        return None

    def _there(self) -> socket.socket:
        """Under the lock: the socket to it; it is started anew where it has ended."""
        if self._process is None or self._process.poll() is not None:
            self.start()
        assert self._control is not None
        return self._control

    def start(self) -> None:
        """Start it."""
        self._port = None
        if self._control is not None:
            self._control.close()
        self._control, theirs = socket.socketpair()
        command = [sys.executable, "-I", "-S", answering.__file__, str(os.getpid())]
        with theirs, suppress(OSError):
            self._process = subprocess.Popen(command, stdin=theirs.fileno(), stdout=subprocess.DEVNULL)


def _tls_facts(security: Any) -> dict[str, Any]:
    """The part of a worker's `Security` that `pulse.tls_context` needs."""
    tls = security.get_tls_config_for_role("worker")
    return {
        "ca": tls["ca_file"],
        "cert": tls["cert"],
        "key": tls["key"],
        "ciphers": tls["ciphers"],
        "minimum": int(security.tls_min_version),
    }


async def _pull(worker: Any, service: Service, number: int, address: str, session: str, there: int) -> None:
    """Get a value from another worker."""
    try:
        (array,) = unpacked(from_dask(await worker.rpc(address).eagerloop_fetch(session=session, number=there)))
        if isinstance(array, BaseException):
            raise array
        service.hold(number, array)
        service.answer(number, None)
    except Exception as error:  # noqa: BLE001 - it is the caller's, who waits for it
        service.refuse(number, packed_error(error, worker.address))


async def fetch(session: str, number: int) -> list[Any]:
    """Give a value to another worker."""
    service = _services.get(session)
    try:
        if service is None:
            raise LookupError("the worker that holds the value serves its client no more")
        return for_dask(service.packed_value(number))
    except Exception as error:  # noqa: BLE001 - raised by the one who asks
        return for_dask(packed_any(error))


def packed_any(thing: Any) -> Package:
    """Anything, in a message of its own."""
    return packed((thing,))  # type: ignore[arg-type]
