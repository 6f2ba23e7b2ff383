"""`python -m engine dashboard script.py`: runs a program, and serves the live page of it meanwhile.

Imported where it is used only: it needs starlette and uvicorn.
"""

from __future__ import annotations

import errno
import os
import runpy
import socket
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import uvicorn

from engine.observe.page import application

_eagerloop_internal = True  # its frames are not the user's


@dataclass(frozen=True)
class Settings:
    """The options of the command line."""

    script: Path
    arguments: tuple[str, ...]
    host: str
    port: int
    stay: bool
    """True if to serve the page when the program has ended, until an interrupt."""


class Server:
    """Serves the page on a thread and an event loop of its own, which the program cannot hold up."""

    def __init__(self, listener: socket.socket) -> None:
        config = uvicorn.Config(
            application.make(), log_level="warning", lifespan="off", timeout_graceful_shutdown=1, access_log=False
        )
        self._server = uvicorn.Server(config)
        self._listener = listener
        self._thread = threading.Thread(target=self._run, name="eagerloop-page", daemon=True)

    def _run(self) -> None:
        self._server.run(sockets=[self._listener])

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(3.0)


def run(settings: Settings, err: TextIO) -> int:
    """Run the program; its exit status, or 2 where it cannot be run or the page not be served."""
    if not settings.script.is_file():
        err.write(f"eagerloop dashboard: {settings.script}: expected a Python program, but there is no such file\n")
        return 2
    try:
        listener = _listen(settings.host, settings.port)
    except OSError as error:
        err.write(f"eagerloop dashboard: {settings.host}:{settings.port}: {_reason(error)}\n")
        return 2
    with listener, Server(listener):
        host, port = listener.getsockname()[:2]
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}/"
        err.write(f"eagerloop dashboard: {address}\n")
        err.flush()
        status = _run_program(settings)
        if settings.stay:
            err.write(f"eagerloop dashboard: the program has ended; {address} stays until Ctrl-C\n")
            err.flush()
            threading.Event().wait()
        return status


def _listen(host: str, port: int) -> socket.socket:
    """Listen there, at an address of either kind."""
    family = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
    return socket.create_server((host, port), family=family)


def _reason(error: OSError) -> str:
    """The reason why it cannot listen, and what to do."""
    unknown = isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL
    what_to_do = "an address of this machine with --host" if unknown else "another with --port, 0 for any"
    text = error.strerror if isinstance(error, socket.gaierror) or not error.errno else os.strerror(error.errno)
    return f"{text or error}: choose {what_to_do}"


def _run_program(settings: Settings) -> int:
    """Run it as Python does, in this process."""
    before = sys.argv, sys.path[:]
    sys.argv = [str(settings.script), *settings.arguments]
    sys.path[0] = str(settings.script.resolve().parent)
    try:
        runpy.run_path(str(settings.script), run_name="__main__")
    except SystemExit as leaving:
        if isinstance(leaving.code, str):
            sys.stderr.write(leaving.code + "\n")
            return 1
        return leaving.code or 0
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - shown as Python shows it
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename != str(settings.script):
            trace = trace.tb_next
        sys.excepthook(type(error), error.with_traceback(trace), trace)  # of a syntax error the place is in it
        return 1
    finally:
        sys.argv, sys.path[:] = before
    return 0
