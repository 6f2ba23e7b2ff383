"""Loads a local service from a process of its own: `python -m benchmarks.load --port N --seconds S /tiny:2 /slow:4`.

Each path gets so many connections, which ask again as soon as they are answered (a closed loop), or at most so often a
second as is said (`/tiny:2@150`); beside them a probe asks `/health` every 20 ms. Raw asyncio, so that the load costs
little beside what it measures; only 127.0.0.1 is asked. It ends by itself, and prints its figures as JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Sequence
from dataclasses import asdict, dataclass, field
from time import perf_counter
from typing import Self

from benchmarks.measure import percentile

HOST = "127.0.0.1"
HEALTH = "/health"
PROBE_SECONDS = 0.02
"""Between two probes."""
GRACE_SECONDS = 30.0
"""After the end, for the answers that are still on their way: a service that stands still is a result as well."""


@dataclass
class Answers:
    """What the connections of one path saw."""

    began: float
    seconds: list[float] = field(default_factory=list)
    codes: Counter[int] = field(default_factory=Counter)
    last: float = 0.0
    """When the last answer came."""

    async def note(self, answer: Awaitable[int], began: float) -> None:
        """Wait for an answer and count it; one that is not waited for any longer counts as a failure."""
        code = 0
        try:
            code = await answer
        finally:
            self.codes[code] += 1
            self.last = perf_counter()
            self.seconds.append(self.last - began)

    def figures(self) -> Figures:
        """Rate until the last answer, median, 99th percentile and the count of answers that were no success."""
        duration = max(self.last - self.began, 1e-9)
        failed = sum(count for code, count in self.codes.items() if code != 200)
        return Figures(
            rate=len(self.seconds) / duration,
            p50=percentile(self.seconds, 0.5) * 1e3,
            p99=percentile(self.seconds, 0.99) * 1e3,
            longest=max(self.seconds, default=0.0) * 1e3,
            failed=failed,
        )


@dataclass(frozen=True)
class Figures:
    """Requests a second, and milliseconds until an answer."""

    rate: float
    p50: float
    p99: float
    longest: float
    failed: int


@dataclass(frozen=True)
class Asked:
    """A path, how many connections ask for it, and how many seconds lie at least between two questions of one."""

    path: str
    connections: int
    pause: float = 0.0

    @classmethod
    def parsed(cls, text: str) -> Self:
        """`/path:connections`, or `/path:connections@questions` with the questions a second of each."""
        path, _, many = text.rpartition(":")
        connections, _, rate = many.partition("@")
        return cls(path, int(connections), 1.0 / float(rate) if rate else 0.0)


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str) -> int:
    """Send one request and read its answer to the end; gives the status code."""
    writer.write(f"GET {path} HTTP/1.1\r\nHost: local\r\n\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            await reader.readexactly(int(line.partition(b":")[2]))
    return int(head[9:12])


async def client(port: int, asked: Asked, ends: float, answers: Answers) -> None:
    """Ask for a path until it is time, once at least; an answer that comes late counts with the time it took."""
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        while True:
            began = perf_counter()
            await answers.note(ask(reader, writer, asked.path), began)
            if perf_counter() >= ends:
                break
            await asyncio.sleep(max(0.0, began + asked.pause - perf_counter()))
    finally:
        writer.close()


async def probe(port: int, ends: float, answers: Answers) -> None:
    """Ask for the health every 20 ms; the time counts from when the question was due."""
    reader, writer = await asyncio.open_connection(HOST, port)
    due = perf_counter()
    try:
        while True:
            await asyncio.sleep(max(0.0, due - perf_counter()))
            await answers.note(ask(reader, writer, HEALTH), due)
            if perf_counter() >= ends:
                break
            due = max(due + PROBE_SECONDS, perf_counter())
    finally:
        writer.close()


async def load(port: int, paths: Sequence[Asked], seconds: float) -> dict[str, Figures]:
    """Load each path with so many connections for so long; figures by path, `/health` among them."""
    began = perf_counter()
    ends = began + seconds
    seen = {each.path: Answers(began) for each in paths}
    health = Answers(began)
    clients = [client(port, each, ends, seen[each.path]) for each in paths for _ in range(each.connections)]
    try:
        async with asyncio.timeout(seconds + GRACE_SECONDS), asyncio.TaskGroup() as group:
            for each in (probe(port, ends, health), *clients):
                group.create_task(each)
    except TimeoutError:
        pass
    return {path: answers.figures() for path, answers in (seen | {HEALTH: health}).items()}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__)
    parser.add_argument("paths", nargs="+", type=Asked.parsed, metavar="/PATH:CONNECTIONS[@RATE]")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--seconds", type=float, default=8.0)
    options = parser.parse_args()
    figures = asyncio.run(load(options.port, options.paths, options.seconds))
    print(json.dumps({path: asdict(each) for path, each in figures.items()}))


if __name__ == "__main__":
    main()
