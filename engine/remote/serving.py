"""How a Dask worker serves clients: a connection is a stream of messages, in order, in both directions.

`install` is run on a worker by the first client that uses it; `serve` then has each connection to itself, and `fetch`
answers other workers. The thread of the worker's loop only reads and writes; a thread for each client does the rest, so
heartbeats go on whatever a message brings.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from queue import SimpleQueue
from typing import Any

from distributed.protocol import to_serialize

from engine.devices.dask.errors import packed_error
from engine.devices.dask.programs import Message, Package, packed, unpacked
from engine.devices.dask.versions import versions
from engine.failures import INTERNAL
from engine.remote.service import Service

vars()[INTERNAL] = True  # loaded after the package has marked its modules

_services: dict[str, Service] = {}
"""Those that serve now, by the names that their clients gave them."""


def install(dask_worker: Any) -> dict[str, str]:
    """Have a worker serve clients of this package; returns its versions. Doing it again changes nothing."""
    handlers = dask_worker.handlers
    if "eagerloop" not in handlers:

        async def serving(comm: Any, session: str, cores: bool) -> None:
            await serve(comm, dask_worker, session, cores)

        handlers["eagerloop"] = serving
        handlers["eagerloop_fetch"] = fetch
    return versions()


async def serve(comm: Any, worker: Any, session: str, cores: bool) -> None:
    """Serve one client until its connection breaks. `cores` says that an op may use all cores of the machine."""
    loop = asyncio.get_running_loop()
    writer = _Writer(comm, loop)
    threads = worker.state.nthreads
    service = Service(worker.address, calls=threads, cores=0 if cores else threads, wake=writer.wake)
    inbox: SimpleQueue[list[Any] | None] = SimpleQueue()
    thread = threading.Thread(
        target=_work, args=(inbox, service, comm, loop, worker), name="eagerloop-service", daemon=True
    )
    thread.start()
    _services[session] = service
    writing = asyncio.ensure_future(writer.write(service))
    try:
        while True:
            inbox.put(await comm.read())
    except OSError:
        pass  # the client is gone, or has closed
    finally:
        inbox.put(None)
        del _services[session]
        writing.cancel()
        comm.abort()


class _Writer:
    """Sends what a service has to say, as soon as it has."""

    def __init__(self, comm: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._comm = comm
        self._loop = loop
        self._event = asyncio.Event()
        self._woken = False

    def wake(self) -> None:
        """On any thread: there is something to say."""
        if not self._woken:
            self._woken = True
            with suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._event.set)

    async def write(self, service: Service) -> None:
        with suppress(OSError):  # the reader finds that out, too
            while True:
                await self._event.wait()
                self._event.clear()
                self._woken = False
                package = service.reply()
                if package is not None:
                    await self._comm.write([_travelling(package)])


def _travelling(package: Package) -> list[Any]:
    return [part if isinstance(part, bytes) else to_serialize(part) for part in package.parts()]


def _work(
    inbox: SimpleQueue[list[Any] | None],
    service: Service,
    comm: Any,
    loop: asyncio.AbstractEventLoop,
    worker: Any,
) -> None:
    """Take messages in order; a defect ends the connection, so that the client loses no handle in silence."""
    try:
        while (messages := inbox.get()) is not None:
            for parts in messages:
                message = Message(*unpacked(parts))
                service.take(message)
                for number, address, session, there in message.pulls:
                    asyncio.run_coroutine_threadsafe(_pull(worker, service, number, address, session, there), loop)
                del message
            del messages
    except BaseException:
        loop.call_soon_threadsafe(comm.abort)
        raise
    finally:
        service.close()


async def _pull(worker: Any, service: Service, number: int, address: str, session: str, there: int) -> None:
    """Get a value from another worker."""
    try:
        (array,) = unpacked(await worker.rpc(address).eagerloop_fetch(session=session, number=there))
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
        return _travelling(service.packed_value(number))
    except Exception as error:  # noqa: BLE001 - raised by the one who asks
        return _travelling(packed_any(error))


def packed_any(thing: Any) -> Package:
    """Anything, in a message of its own."""
    return packed((thing,))  # type: ignore[arg-type]
