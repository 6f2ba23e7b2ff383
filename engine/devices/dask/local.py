"""A cluster of processes on this machine, for an executor that was given no scheduler.

One process imports what all of them need, which is most of what a start takes, forks the workers, and is the scheduler
then; where forking is not safe each worker is started by itself. All are started without multiprocessing: the program's
main module is not imported again, so a script needs no `if __name__ == "__main__"`. Each ends with its standard input,
a pipe from this process.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from contextlib import suppress
from io import FileIO
from itertools import chain
from selectors import EVENT_READ, DefaultSelector
from typing import Any, NamedTuple

from engine.threads.blas import core_count

START_SECONDS = 180.0
"""Seconds that a process may take until it is ready: it imports much, perhaps on a machine that is busy."""
END_SECONDS = 2.0
"""Seconds that a process may take to end."""
FORKS = sys.platform == "linux"
"""True where a process that has imported much may fork: elsewhere libraries of the system do not allow for it."""
_CODE = "import sys; sys.path[:] = {path!r}; from engine.devices.dask.process import main; main()"
_BLAS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

_started: weakref.WeakSet[LocalCluster] = weakref.WeakSet()


class Node(NamedTuple):
    """One process of a cluster, and the pipes to it."""

    pid: int
    stdin: FileIO
    stdout: FileIO

    def say(self, **wanted: Any) -> None:
        """Tell it what it needs to know."""
        with suppress(BrokenPipeError):  # it has ended, as its answer will tell
            self.stdin.write(json.dumps(wanted).encode() + b"\n")

    def hear(self) -> str:
        """The next line that it says. Raises `RuntimeError` where it has ended, or says nothing for too long."""
        ends = time.monotonic() + START_SECONDS
        line = b""
        while not line.endswith(b"\n"):
            data = self.stdout.read(1) if self._speaks_until(ends) else b""
            if not data:
                raise RuntimeError(
                    "a process of the local Dask cluster ended, or hung, before it was ready; what it wrote to stderr "
                    "says why"
                )
            line += data
        return line.decode().strip()

    def end(self) -> None:
        """Wait until it has ended, as its input was closed; end it where it has not."""
        ends = time.monotonic() + END_SECONDS
        while True:
            if not self._speaks_until(ends):
                with suppress(ProcessLookupError):
                    os.kill(self.pid, signal.SIGKILL)
                break
            if not self.stdout.read(1 << 12):
                break
        self.stdout.close()

    def _speaks_until(self, ends: float) -> bool:
        """Wait for it to say something, or to end."""
        with DefaultSelector() as selector:
            selector.register(self.stdout, EVENT_READ)
            return bool(selector.select(max(0.0, ends - time.monotonic())))


class LocalCluster:
    """A scheduler and some workers, each a process. Raises `RuntimeError` where one does not start.

    With `wait=False` they are only begun, and `wait` waits until they are there.
    """

    def __init__(self, workers: int, *, wait: bool = True) -> None:
        self.scheduler = ""
        """The address of the scheduler."""
        self.workers: list[str] = []
        """The addresses of the workers."""
        self._count = workers
        self._children: list[subprocess.Popen[bytes]] = []
        self._nodes: list[Node] = []
        """The scheduler first."""
        self._pipes: list[tuple[FileIO, FileIO]] = []
        """Those to workers whose numbers are not known yet."""
        self._closing = threading.Lock()
        _started.add(self)
        try:
            self._begin()
            if wait:
                self.wait()
        except BaseException:
            self.close()
            raise

    def pids(self) -> list[int]:
        """The processes of the workers."""
        return [node.pid for node in self._nodes[1:]]

    def scheduler_pid(self) -> int:
        """The process of the scheduler."""
        return self._nodes[0].pid

    def wait(self) -> None:
        """Wait until all are ready."""
        scheduler, *servants = self._nodes
        pids = json.loads(scheduler.hear())
        servants += [Node(pid, *pipes) for pid, pipes in zip(pids, self._pipes, strict=True)]
        self._nodes, self._pipes = [scheduler, *servants], []
        self.scheduler = scheduler.hear()
        for index, node in enumerate(servants):
            node.say(scheduler=self.scheduler, name=str(index))
        self.workers = [node.hear() for node in servants]

    def _begin(self) -> None:
        """Start the scheduler, and all that is not forked by it."""
        forked = self._count if FORKS else 0
        theirs: list[tuple[int, int]] = []
        try:
            for _ in range(forked):
                (their_in, our_out), (our_in, their_out) = os.pipe(), os.pipe()
                theirs.append((their_in, their_out))
                self._pipes.append((FileIO(our_out, "w"), FileIO(our_in)))
            scheduler = self._start(*(each for pair in theirs for each in pair))
            self._nodes = [scheduler, *(self._start() for _ in range(self._count - forked))]
            scheduler.say(workers=theirs)
        finally:
            for pair in theirs:
                for each in pair:
                    os.close(each)

    def _start(self, *descriptors: int) -> Node:
        environment = os.environ.copy()
        for name in _BLAS:
            environment.setdefault(name, str(max(1, core_count() // max(1, self._count))))
        child = subprocess.Popen(
            [sys.executable, "-c", _CODE.format(path=sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            pass_fds=descriptors,
        )
        self._children.append(child)
        assert child.stdin is not None
        assert child.stdout is not None
        with child.stdin, child.stdout:
            pipes = os.dup(child.stdin.fileno()), os.dup(child.stdout.fileno())
        return Node(child.pid, FileIO(pipes[0], "w"), FileIO(pipes[1]))

    def close(self) -> None:
        """End the processes, and wait until they have ended."""
        with self._closing:
            nodes, self._nodes = self._nodes, []
            children, self._children = self._children, []
            pipes, self._pipes = self._pipes, []
        for pipe in (*(node.stdin for node in nodes), *chain(*pipes)):
            pipe.close()
        for node in reversed(nodes):
            node.end()
        for child in children:
            try:
                child.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def _close_all() -> None:
    for cluster in list(_started):
        cluster.close()


atexit.register(_close_all)
