"""Answers for a worker whose interpreter may be busy: a process that needs nothing but the standard library.

It is given connections by the worker, and answers each question on them, as long as the worker is a process that runs.
Connections with TLS cannot be given away, as their keys are the worker's: for those it is given a socket that listens,
and what the worker proves itself with. It ends with the worker: its standard input is a socket whose other end is
there.
"""

import json
import os
import selectors
import socket
import struct
import sys
import threading
from contextlib import ExitStack, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

BEAT = b"!"
CONNECTION, LISTENER = b"+", b"="
"""What the worker says with a socket that it gives. A listener comes with facts, as `framed` writes them."""
QUIET = 30.0
"""Seconds after which a connection with TLS is closed where nothing has come."""
LOOK = 1.0
"""Seconds between looks at whether the worker is still there."""


def is_running(pid: int) -> bool:
    """Tell whether a process runs, or waits: it is neither stopped nor gone. True where the system does not tell."""
    try:
        facts = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return True
    return facts.rpartition(b")")[2].split()[0] not in (b"T", b"X", b"Z")


def framed(facts: dict[str, Any]) -> bytes:
    """Facts as they follow a listener."""
    text = json.dumps(facts).encode()
    return struct.pack("<I", len(text)) + text


def take(control: socket.socket, selector: selectors.BaseSelector, pid: int) -> bool:
    """Take a socket that the worker gives; False where the worker has ended."""
    data, descriptors, _, _ = socket.recv_fds(control, 1, 1)
    for descriptor in descriptors:
        connection = socket.socket(fileno=descriptor)
        if data == LISTENER:
            (length,) = struct.unpack("<I", control.recv(4, socket.MSG_WAITALL))
            facts = json.loads(control.recv(length, socket.MSG_WAITALL))
            threading.Thread(target=accept, args=(connection, facts, pid), daemon=True).start()
            continue
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


def accept(listener: socket.socket, facts: dict[str, Any], pid: int) -> None:
    """Accept connections with TLS, and answer on each in a thread of its own."""
    context = tls_context(**facts)
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=converse, args=(connection, context, pid), daemon=True).start()


def converse(connection: socket.socket, context: Any, pid: int) -> None:
    """Answer on a connection with TLS until it ends."""
    connection.settimeout(QUIET)
    with connection, suppress(OSError), context.wrap_socket(connection, server_side=True) as secure:
        secure.sendall(BEAT)
        while secure.recv(64):
            if is_running(pid):
                secure.sendall(BEAT)


def tls_context(ca: str, cert: str, key: str | None, ciphers: str | None, minimum: int) -> Any:
    """How the worker speaks TLS: each side proves itself. Certificates are files, or text that has lines."""
    ssl, tempfile = import_module("ssl"), import_module("tempfile")  # importing them takes long, and few need them
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = minimum
    context.verify_mode = ssl.CERT_REQUIRED
    if ciphers:
        context.set_ciphers(ciphers)
    with ExitStack() as stack:

        def file_of(certificate: str | None) -> str | None:
            if certificate is None or "\n" not in certificate:
                return certificate
            file = stack.enter_context(tempfile.NamedTemporaryFile("w"))  # no other user can read it
            file.write(certificate)
            file.flush()
            return str(file.name)

        context.load_verify_locations(file_of(ca))
        context.load_cert_chain(file_of(cert), file_of(key))
    return context


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
                if not take(control, selector, pid):
                    return
            elif not asked(found):
                selector.unregister(found)
                found.close()
            elif is_running(pid) and not answered(found):
                selector.unregister(found)


if __name__ == "__main__":
    main(int(sys.argv[1]))
