"""The connection of one executor to a cluster: found, or started, at the first op that needs it.

Dask's client is a synchronous one; it runs on a loop in a thread of the session's, and so do the links to the workers.
Everything here is called on workers of the engine, and may block, for `CONNECT_SECONDS` where nothing answers.
"""

from __future__ import annotations

import asyncio
import logging
import pkgutil
import threading
import time
import warnings
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

from distributed import Client

from engine.base.errors import DeviceLostError, UnknownDeviceError
from engine.devices.base import Device, addresses, loss
from engine.devices.dask.link import ANSWER_SECONDS, Link
from engine.devices.dask.local import LocalCluster
from engine.devices.dask.loop_thread import LoopThread
from engine.devices.dask.versions import versions

CONNECT_SECONDS = 30.0
"""Seconds that a scheduler or a worker may take to answer: as long as Dask itself waits."""
WORKER_SECONDS = 10.0
"""Seconds that a worker may take to join a cluster that is there."""
WATCH = 0.5
"""Seconds between looks at whether the scheduler is still there."""


class _Installer:
    """`engine.remote.serving.install`, by its name: the worker imports it, this process need not."""

    def __reduce__(self) -> tuple[Any, ...]:
        return pkgutil.resolve_name, ("engine.remote.serving:install",)

    def __call__(self, dask_worker: Any = None) -> dict[str, str]:
        raise NotImplementedError("it is called on workers, as what they import")


class _Silence(logging.Filter):
    """Drops what Dask logs on the thread of a session's loop: what goes wrong there is told by the handles."""

    NAMES = (
        "distributed.batched",
        "distributed.client",
        "distributed.core",
        "distributed.comm.tcp",
        "distributed.utils",
    )

    def __init__(self, thread: int | None) -> None:
        super().__init__()
        self._thread = thread
        for name in self.NAMES:
            logging.getLogger(name).addFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether a record is logged."""
        return record.thread != self._thread

    def end(self) -> None:
        """The session has ended."""
        for name in self.NAMES:
            logging.getLogger(name).removeFilter(self)


class _Client(Client):  # type: ignore[misc]
    """Dask's client; one that could not connect finds its loop ended when it is collected."""

    def __del__(self) -> None:
        with suppress(RuntimeError):
            super().__del__()


class Session:
    """A cluster, as one executor sees it: Dask's client, and a link for each worker that is a device."""

    def __init__(self, scheduler: str | None, security: Any, workers: int, local: LocalCluster | None) -> None:
        """`local` is the cluster that was begun, where there is no `scheduler`."""
        self._versions = versions()
        self._local = local
        if local is not None:
            local.wait()
        self._address = scheduler or local.scheduler  # type: ignore[union-attr]
        self._links: dict[Device, Link] = {}
        self._lock = threading.Lock()
        self._closed = False
        self.lost: str | None = None
        """Why the cluster is gone; None while it is not."""
        self._when_lost: list[Callable[[str], None]] = []
        self._thread = LoopThread()
        self._loop = self._thread.asyncio
        self._silence = _Silence(self._thread.ident)
        try:
            self.client = self._connected(security)
        except BaseException:
            self._end()
            raise
        self.workers = self._known_workers()
        """The addresses of the workers, by the numbers of their devices."""
        self._devices = {Device(f"DASK:{index}"): address for index, address in enumerate(self.workers[:workers])}
        addresses.update(self._devices)
        asyncio.run_coroutine_threadsafe(_watch(weakref.ref(self)), self._loop)

    def _connected(self, security: Any) -> Client:
        options = {"security": security} if security is not None else {}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # versions are compared here, and what differs is an error
                return _Client(
                    self._address,
                    loop=self._thread.tornado,
                    timeout=CONNECT_SECONDS,
                    set_as_default=False,
                    name="eagerloop",
                    **options,
                )
        except (OSError, TimeoutError) as error:
            raise ConnectionError(
                f"no Dask scheduler answers at {self._address} (Config.dask_scheduler): {type(error).__name__}: {error}"
            ) from error

    def _known_workers(self) -> list[str]:
        """The addresses of the workers, in an order that is the same for every client."""
        if self._local is not None:
            return self._local.workers
        workers = self.client.scheduler_info(n_workers=-1)["workers"]
        return [address for _, address in sorted((_sortable(each["name"]), key) for key, each in workers.items())]

    # Links

    def link(self, device: Device, lost: Callable[[str], None]) -> Link:
        """The link to the worker of a device. Raises where there is none, or where it cannot serve this program."""
        with self._lock:
            link = self._links.get(device)
            if link is None:
                link = self._links[device] = self._new_link(device, lost)
            return link

    def _new_link(self, device: Device, lost: Callable[[str], None]) -> Link:
        address = self._worker(device)
        self._devices[device] = addresses[device] = address  # the worker may have come after the client
        self._install(device, address)
        link = Link(device, address, self._loop, lost)
        there: Future[None] = Future()
        args = self.client.security.get_connection_args("client")
        hello = {"cores": self._local is not None}
        asyncio.run_coroutine_threadsafe(link.run(there, args, hello), self._loop)
        try:
            there.result(2 * ANSWER_SECONDS)
        except TimeoutError:
            raise
        except OSError as error:
            raise loss(device, f"its worker {address} is gone: {error}") from error
        return link

    def _worker(self, device: Device) -> str:
        """The address of a device's worker, waited for where the cluster is only starting."""
        ends = time.monotonic() + WORKER_SECONDS
        while device.index >= len(self.workers):
            if time.monotonic() > ends:
                raise UnknownDeviceError(
                    f"{device} does not exist: the cluster at {self._address} has {len(self.workers)} worker(s) "
                    "(Config.device_count says how many are expected)"
                )
            with suppress(TimeoutError):
                self.client.wait_for_workers(device.index + 1, timeout=min(1.0, WORKER_SECONDS))
            found = [each for each in self._known_workers() if each not in self.workers]
            self.workers = [*self.workers, *found]  # a number stays that of the worker that had it first
        return self.workers[device.index]

    def _install(self, device: Device, address: str) -> None:
        """Have a worker load the package. Raises `RuntimeError` where it is not there, or another version."""
        try:
            answers = self.client.run(_Installer(), workers=[address], on_error="return")
        except OSError as error:
            raise loss(device, f"the scheduler of its worker {address} is gone: {error}") from error
        except Exception as error:
            raise RuntimeError(f"the Dask worker {address} of {device} does not answer: {error}") from error
        answer = answers.get(address)
        if isinstance(answer, OSError):
            raise loss(device, f"its worker {address} is gone: {answer}") from answer
        if not isinstance(answer, dict):
            raise RuntimeError(
                f"the Dask worker {address} of {device} cannot run programs of eagerloop: {answer!r}; install the "
                f"package there, in the version that is used here ({self._versions['eagerloop']})"
            )
        wrong = [
            f"{name} is {answer.get(name)} there and {version} here"
            for name, version in self._versions.items()
            if answer.get(name) != version
        ]
        if wrong:
            raise RuntimeError(
                f"the Dask worker {address} of {device} has other versions than this program: {', '.join(wrong)}; "
                "install the same ones on both sides"
            )

    # The end

    def look(self) -> bool:
        """On the loop's thread: whether to look again. Where the scheduler is gone, so are the workers."""
        if self._closed:
            return False
        if self.client.status == "running":
            return True
        self.lost = f"the Dask scheduler at {self._address} is gone"
        for tell in [*(link.lose for link in self._links.values()), *self._when_lost]:
            tell(self.lost)
        return False

    def when_lost(self, tell: Callable[[str], None]) -> None:
        """Have `tell` called with the reason where the cluster is lost."""
        self._when_lost.append(tell)

    def check_there(self) -> None:
        """Raise `DeviceLostError` where the cluster is gone, or the executor has closed."""
        if self.lost is not None or self._closed:
            raise DeviceLostError(f"the cluster was lost: {self.lost or 'its executor has closed'}")

    def pids(self) -> list[int]:
        """The processes of the workers of a local cluster."""
        return [] if self._local is None else self._local.pids()

    def close(self) -> None:
        """The executor has closed: bring what is still referred to here, and end what was started."""
        with self._lock:
            if self._closed:
                return
            for link in self._links.values():
                link.close()
            self._closed = True
        for device, address in self._devices.items():
            if addresses.get(device) == address:
                del addresses[device]
        with suppress(Exception):  # the scheduler may be gone
            self.client.close(timeout=2.0)
        self._end()

    def _end(self) -> None:
        self._thread.close()
        if self._local is not None:
            self._local.close()
        self._silence.end()


def _sortable(name: object) -> tuple[int, str]:
    text = str(name)
    return (int(text), "") if text.isdigit() else (1 << 62, text)


async def _watch(session: weakref.ref[Session]) -> None:
    while True:
        await asyncio.sleep(WATCH)
        alive = session()
        if alive is None or not alive.look():
            return
        del alive
