"""The event loop of a session, in a thread of its own: Dask's client and the links to the workers run on it.

Dask would make one, too, but gives its thread ten seconds to begin: a machine that is busy, or a program that collects
much garbage, may need longer.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future

from tornado.ioloop import IOLoop

END_SECONDS = 10.0
"""Seconds that the thread may take to end."""


class LoopThread:
    """A thread that runs an event loop until `close` is called, or the program ends."""

    def __init__(self) -> None:
        self._began: Future[IOLoop] = Future()
        self._end = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="eagerloop-dask", daemon=True)
        self._thread.start()
        self.tornado: IOLoop = self._began.result()
        """The loop as Dask knows it."""

    @property
    def asyncio(self) -> asyncio.AbstractEventLoop:
        """The loop itself."""
        loop: asyncio.AbstractEventLoop = self.tornado.asyncio_loop  # type: ignore[attr-defined]
        return loop

    @property
    def ident(self) -> int | None:
        """The thread, as log records name it."""
        return self._thread.ident

    def close(self) -> None:
        """End the loop, and wait until it has ended."""
        self.tornado.add_callback(self._end.set)
        self._thread.join(END_SECONDS)

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
                runner.run(self._main())
        except BaseException as error:
            if self._began.done():
                raise
            self._began.set_exception(error)

    async def _main(self) -> None:
        self._began.set_result(IOLoop.current())
        await self._end.wait()
