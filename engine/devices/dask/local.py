"""A cluster of processes on this machine, for an executor that was given no scheduler.

The processes are plain children, started without multiprocessing: the program's main module is not imported again, so
a script needs no `if __name__ == "__main__"`. They end with their standard input, which is a pipe from this process.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import threading
import weakref
from contextlib import suppress

from engine.threads.blas import core_count

START_SECONDS = 180.0
"""Seconds that a process may take until it is ready: it imports much, perhaps on a machine that is busy."""
_CODE = "import sys; sys.path[:] = {path!r}; from engine.devices.dask.process import main; main()"
_BLAS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

_started: weakref.WeakSet[LocalCluster] = weakref.WeakSet()


class LocalCluster:
    """A scheduler and some workers, each a process. Raises `RuntimeError` where one does not start."""

    def __init__(self, workers: int) -> None:
        self._children: list[subprocess.Popen[bytes]] = []
        _started.add(self)
        try:
            # All at once, as importing is what takes long; the workers are told the address of the scheduler then.
            scheduler = self._start()
            servants = [self._start(max(1, core_count() // workers)) for _ in range(workers)]
            self.scheduler = self._tell(scheduler, kind="scheduler")
            """The address of the scheduler."""
            for index, child in enumerate(servants):
                self._say(child, kind="worker", scheduler=self.scheduler, name=str(index))
            self.workers = [self._hear(child) for child in servants]
            """The addresses of the workers."""
        except BaseException:
            self.close()
            raise

    def pids(self) -> list[int]:
        """The processes of the workers."""
        return [child.pid for child in self._children[1:]]

    def close(self) -> None:
        """End the processes, and wait until they have ended."""
        children, self._children = self._children, []
        for child in children:
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    with suppress(OSError):
                        pipe.close()
        for child in reversed(children):
            try:
                child.wait(2.0)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    def _start(self, blas_threads: int | None = None) -> subprocess.Popen[bytes]:
        environment = os.environ.copy()
        if blas_threads is not None:
            for name in _BLAS:
                environment.setdefault(name, str(blas_threads))
        child = subprocess.Popen(
            [sys.executable, "-c", _CODE.format(path=sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        self._children.append(child)
        return child

    def _tell(self, child: subprocess.Popen[bytes], **wanted: str) -> str:
        self._say(child, **wanted)
        return self._hear(child)

    def _say(self, child: subprocess.Popen[bytes], **wanted: str) -> None:
        assert child.stdin is not None
        with suppress(BrokenPipeError):  # it has ended, as its answer will tell
            child.stdin.write(json.dumps(wanted).encode() + b"\n")
            child.stdin.flush()

    def _hear(self, child: subprocess.Popen[bytes]) -> str:
        """The address that a child says it listens on."""
        assert child.stdout is not None
        patience = threading.Timer(START_SECONDS, child.kill)
        patience.daemon = True
        patience.start()
        try:
            line = child.stdout.readline().decode().strip()
        finally:
            patience.cancel()
        if not line:
            raise RuntimeError(
                f"a process of the local Dask cluster ended with exit status {child.wait()} before it was ready; "
                "what it wrote to stderr says why"
            )
        return line


def _close_all() -> None:
    for cluster in list(_started):
        cluster.close()


atexit.register(_close_all)
