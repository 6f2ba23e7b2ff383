"""Asks a server for its health every 10 ms, in a process of its own, and prints how long each answer took.

In the process of the load its answers would lie about while that reads others; here only the server makes it wait, and
the system, which may be late to wake it: how late is told as well. `python probe.py PORT` waits for a line of input,
asks until its input ends, and prints JSON: seconds of answers, counted from when the question was due; seconds that it
was woken late; and how many answers were not 200.
"""

import json
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

QUESTION = b"GET /health HTTP/1.1\r\nHost: local\r\n\r\n"
EVERY = 0.01


def status_of_answer(connection: socket.socket) -> int:
    """Read one answer."""
    seen = b""
    while True:
        more = connection.recv(65_536)
        if not more:
            raise ConnectionError("the server closed the connection")
        seen += more
        head, end, body = seen.partition(b"\r\n\r\n")
        if end and len(body) >= int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0]):
            return int(head[9:12])


def probe(port: int, over: Callable[[], bool]) -> dict[str, Any]:
    """Ask every 10 ms, or as soon as there is an answer where that takes longer, until it is over."""
    seconds: list[float] = []
    late: list[float] = []
    failed = 0
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        due = time.perf_counter()
        while not over():
            ahead = due - time.perf_counter()
            if ahead > 0:
                time.sleep(ahead)
                late.append(time.perf_counter() - due)
            connection.sendall(QUESTION)
            failed += status_of_answer(connection) != 200
            now = time.perf_counter()
            seconds.append(now - due)
            due = max(due + EVERY, now)
    return {"seconds": seconds, "late": late, "failed": failed}


def main() -> None:
    """Wait for a line, ask until the input ends, and print."""
    print("ready", flush=True)
    sys.stdin.readline()
    ended = threading.Thread(target=sys.stdin.read, daemon=True)
    ended.start()
    print(json.dumps(probe(int(sys.argv[1]), lambda: not ended.is_alive())))


if __name__ == "__main__":
    main()
