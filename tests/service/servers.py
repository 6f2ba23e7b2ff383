"""Real servers in processes of their own, and a client that talks to them over sockets."""

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

ROOT = Path(__file__).resolve().parents[2]
HOST = "127.0.0.1"
SECONDS = 60.0
"""After which something is taken to hang."""


def free_port() -> int:
    """A port that no server has."""
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        return int(listener.getsockname()[1])


class Server:
    """A server that runs."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process = process
        self.port = port
        self._log = log

    @property
    def log(self) -> str:
        """What it has written."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def get(self, path: str, data: bytes | None = None) -> tuple[int, bytes]:
        """Ask for a path: the status and the body."""
        kind = "application/json" if data is not None and data[:1] == b"[" else "application/octet-stream"
        request = Request(f"http://{HOST}:{self.port}{path}", data, {"Content-Type": kind})
        try:
            with urlopen(request, timeout=SECONDS) as answer:
                return answer.status, answer.read()
        except HTTPError as error:
            with error:
                return error.code, error.read()

    def json(self, path: str, data: bytes | None = None) -> Any:
        """What a path answers."""
        status, body = self.get(path, data)
        assert status == 200, (status, body, self.log)
        return json.loads(body)

    def hang_up(self, request: bytes, when: Callable[[], bool]) -> None:
        """Send a request, and go as soon as something holds."""
        with socket.create_connection((HOST, self.port), timeout=SECONDS) as connection:
            connection.sendall(request)
            wait_until(when)

    def connect(self, request: bytes) -> socket.socket:
        """A connection on which a request was sent."""
        connection = socket.create_connection((HOST, self.port), timeout=SECONDS)
        connection.sendall(request)
        return connection

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, and wait for the end; returns the exit status."""
        self.process.send_signal(number)
        return self.process.wait(SECONDS)


def wait_until(condition: Callable[[], bool]) -> None:
    """Poll a process that has no other way to tell."""
    ends = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < ends, "it did not come to that"
        time.sleep(0.005)


def get_request(path: str) -> bytes:
    """The bytes of a GET request."""
    return f"GET {path} HTTP/1.1\r\nHost: local\r\n\r\n".encode()


def need(*modules: str) -> None:
    """Skip the test where one of these is not installed."""
    for module in modules:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")


@contextmanager
def serving(
    command: list[str], folder: Path, port: int, *, cwd: Path = ROOT, healthy: str = "/health", **environment: str
) -> Iterator[Server]:
    """Run a server until the end of the block."""
    log = folder / f"server-{port}.log"
    variables = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"} | environment
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=cwd,
            env=variables,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    server = Server(process, port, log)

    def answers() -> bool:
        assert process.poll() is None, server.log
        with suppress(OSError):
            return server.get(healthy)[0] == 200
        return False

    try:
        wait_until(answers)
        yield server
    finally:
        if process.poll() is None:
            server.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # workers of a server that did not end in time
        process.wait()


def uvicorn(application: str, *options: str, port: int) -> list[str]:
    """The command of uvicorn."""
    return ["uvicorn", application, "--host", HOST, "--port", str(port), "--log-level", "warning", *options]


def hypercorn(application: str, *options: str, port: int) -> list[str]:
    """The command of hypercorn."""
    return ["hypercorn", application, "--bind", f"{HOST}:{port}", "--log-level", "warning", *options]


def gunicorn(application: str, *options: str, port: int) -> list[str]:
    """The command of gunicorn."""
    return ["gunicorn", application, "--bind", f"{HOST}:{port}", *options]
