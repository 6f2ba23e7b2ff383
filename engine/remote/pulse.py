"""Answers for a worker whose interpreter may be busy: a process that needs nothing but the standard library.

It is given connections by the worker, and answers each question on them, as long as the worker is a process that runs.
It ends with the worker: its standard input is a socket whose other end is there.
"""

import os
import selectors
import socket
import sys
from pathlib import Path

BEAT = b"!"
LOOK = 1.0
"""Seconds between looks at whether the worker is still there."""


def is_running(pid: int) -> bool:
    """Tell whether a process runs, or waits: it is neither stopped nor gone. True where the system does not tell."""
    try:
        facts = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return True
    return facts.rpartition(b")")[2].split()[0] not in (b"T", b"X", b"Z")


def take(control: socket.socket, selector: selectors.BaseSelector) -> bool:
    """Take a connection that the worker gives; False where the worker has ended."""
    data, descriptors, _, _ = socket.recv_fds(control, 1, 1)
    for descriptor in descriptors:
        connection = socket.socket(fileno=descriptor)
        connection.setblocking(False)
        if answered(connection):
            selector.register(connection, selectors.EVENT_READ)
    return bool(data)


def answered(connection: socket.socket) -> bool:
    """Answer; False where the connection has ended."""
    try:
        connection.send(BEAT)
    except BlockingIOError:
        return True  # it does not read: a beat is lost, as it may be
    except OSError:
        connection.close()
        return False
    return True


def asked(connection: socket.socket) -> bool:
    """Read a question; False where the connection has ended."""
    try:
        data = connection.recv(64)
    except BlockingIOError:
        return False
    except OSError:
        data = b""
    return bool(data)


def main(pid: int) -> None:
    """Answer until the worker has ended."""
    control = socket.socket(fileno=0)
    selector = selectors.DefaultSelector()
    selector.register(control, selectors.EVENT_READ)
    while True:
        events = selector.select(LOOK)
        if os.getppid() != pid:  # a child of the worker's may have the other end, too, and live on
            return
        for key, _ in events:
            found = key.fileobj
            assert isinstance(found, socket.socket)
            if found is control:
                if not take(control, selector):
                    return
            elif not asked(found):
                selector.unregister(found)
                found.close()
            elif is_running(pid) and not answered(found):
                selector.unregister(found)


if __name__ == "__main__":
    main(int(sys.argv[1]))
