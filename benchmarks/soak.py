"""A service under mixed load for an hour: `make soak`, or `python -m benchmarks.soak --seconds 60`.

Rounds of load (small and large requests, errors, deadlines, clients that go away) alternate with silence, in which the
service is measured: memory, threads, file descriptors and tasks have to be what they were after the first rounds,
nothing may be pending, each error has to have come out once where it belonged, each answer has to be right, and none
may take longer than a minute. Prints a row for each round and ends with status 1 where any of that does not hold.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import perf_counter

from benchmarks import service
from benchmarks.load import HOST
from benchmarks.measure import MEGABYTE, percentile
from benchmarks.soak_service import ROWS, SIDE

ROUNDS, ROUND_SECONDS = 24, 5.0
"""At most so many rounds, of so many seconds at least, as far as there is time."""
LONGEST_SECONDS = 60.0
"""For one answer; what takes longer counts as a hang."""
LONGEST_PAUSE = 0.08
"""Seconds between an answer and the next request of the same client."""
QUIET_SECONDS = 30.0
"""Until a service that is not asked anything has come to rest; what takes longer counts as never."""
SETTLED = 0.25
"""The part of the rounds after which memory, threads and descriptors have to stay as they are."""
GROWTH_BYTES, GROWTH_SHARE = 24 * MEGABYTE, 0.05
"""Resident memory may differ by that much from one measurement to the next without a leak."""
SPARE = 2
"""Threads and descriptors more than at first are no leak: workers that idle come and go."""

# How many clients of each kind.
MIX: Mapping[str, int] = {
    "/tiny": 4,
    "/search": 1,
    "/slow": 1,
    "/bounded": 2,
    "/chain": 2,
    "/fetch": 2,
    "/fail": 2,
    "/scope": 1,
    "/orphan": 1,
    "/deadline": 1,
}
LEAVING: Mapping[str, int] = {"/slow": 1, "/bounded": 1, "/chain": 1}
"""Clients that go away before they are answered."""
NUMBERED = {"/fail", "/scope", "/orphan"}


@dataclass
class Seen:
    """What the clients of one run have seen."""

    codes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    """Answers that are not what they should be."""
    left: set[str] = field(default_factory=set)
    """Tokens of errors that were left for a barrier."""
    reported: Counter[str] = field(default_factory=Counter)
    """How often barriers have told of each token."""
    health: list[float] = field(default_factory=list)
    """Seconds until each answer of `/health`."""
    hung: list[str] = field(default_factory=list)
    tokens: int = 0

    def token(self) -> str:
        """A number that no other request has."""
        self.tokens += 1
        return str(self.tokens)


@dataclass(frozen=True)
class Row:
    """The service in the silence after one round."""

    seconds: float
    rss: int
    threads: int
    descriptors: int
    tasks: int
    pending: int
    pending_bytes: int
    completed: int
    cancelled: int
    failed: int
    disconnected: int
    health_p99: float


def violations(rows: Sequence[Row], seen: Seen) -> list[str]:
    """Say what does not hold; nothing when all does."""
    found = [f"no answer within {LONGEST_SECONDS:g} s: {what}" for what in seen.hung]
    found += [f"wrong answer: {what}" for what in seen.wrong[:10]]
    lost = sorted(seen.left - seen.reported.keys(), key=int)
    twice = sorted(token for token in seen.left if seen.reported[token] > 1)
    if lost:
        found.append(f"{len(lost)} errors were lost, the first of request {lost[0]}")
    if twice:
        found.append(f"{len(twice)} errors were reported more than once, one of them of request {twice[0]}")
    found += [f"{row.pending} ops pending in the silence after {row.seconds:.0f} s" for row in rows if row.pending]
    if not rows:
        return [*found, "no round came to its end"]
    start = min(len(rows) - 1, int(len(rows) * SETTLED))
    first, last = rows[start], rows[-1]
    if last.rss - first.rss > GROWTH_BYTES + GROWTH_SHARE * first.rss:
        found.append(f"memory grew from {first.rss / MEGABYTE:.0f} to {last.rss / MEGABYTE:.0f} MB")
    for name in ("threads", "descriptors", "tasks"):
        before, after = max(getattr(row, name) for row in rows[: start + 1]), getattr(last, name)
        if after > before + SPARE:
            found.append(f"{name} grew from {before} to {after}")
    return found


HEADINGS = ("s", "RSS, MB", "threads", "fds", "tasks", "done", "cancelled", "failed", "gone", "/health p99, ms")


def line(row: Row) -> str:
    """One row of the table."""
    cells = (
        f"{row.seconds:.0f}",
        f"{row.rss / MEGABYTE:.0f}",
        *map(
            str, (row.threads, row.descriptors, row.tasks, row.completed, row.cancelled, row.failed, row.disconnected)
        ),
        f"{row.health_p99 * 1e3:.0f}",
    )
    return "  ".join(f"{cell:>{max(7, len(heading))}}" for cell, heading in zip(cells, HEADINGS, strict=True))


class Client:
    """One connection to the service, opened again where it was left."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, target: str) -> tuple[int, object]:
        """Send one request; return the status and the body of its answer."""
        reader, _ = await self._connected(target)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = next(int(each[15:]) for each in head.split(b"\r\n") if each.startswith(b"content-length:"))
        return int(head[9:12]), json.loads(await reader.readexactly(length))

    async def leave(self, target: str, after: float) -> None:
        """Send one request and go away after so many seconds."""
        await self._connected(target)
        await asyncio.sleep(after)
        await self.close()

    async def close(self) -> None:
        """Close the connection, at once."""
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None

    async def _connected(self, target: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._streams is None:
            self._streams = await asyncio.open_connection(HOST, self._port)
        self._streams[1].write(f"GET {target} HTTP/1.1\r\nHost: local\r\n\r\n".encode())
        return self._streams


class Load:
    """The clients, which run until a moment that each round sets."""

    def __init__(self, port: int, seen: Seen, seed: int) -> None:
        self.port, self.seen = port, seen
        self.random = random.Random(seed)
        self.ends = 0.0
        data = service.Data(side=SIDE, rows=ROWS)
        self.expected = {"/tiny": service.tiny(data), "/slow": service.slow(data), "/bounded": service.bounded(data)}

    async def round(self, seconds: float) -> None:
        """Load the service for so long, then read what barriers have to tell."""
        self.ends = perf_counter() + seconds
        clients = [self._asking(path) for path, count in MIX.items() for _ in range(count)]
        clients += [self._leaving(path) for path, count in LEAVING.items() for _ in range(count)]
        clients += [self._barriers(), self._health()]
        async with asyncio.TaskGroup() as group:
            for client in clients:
                group.create_task(client)
        await self._with_client(self._barrier)

    async def _with_client(self, use: Callable[[Client], Awaitable[None]]) -> None:
        client = Client(self.port)
        try:
            await use(client)
        finally:
            await client.close()

    async def _answer(self, client: Client, target: str) -> tuple[int, object]:
        try:
            async with asyncio.timeout(LONGEST_SECONDS):
                return await client.ask(target)
        except TimeoutError:
            self.seen.hung.append(target)
            await client.close()
        except (OSError, asyncio.IncompleteReadError) as error:
            self.seen.wrong.append(f"{target}: the connection ended: {error!r}")
            await client.close()
        return 0, None

    async def _asking(self, path: str) -> None:
        async def use(client: Client) -> None:
            while perf_counter() < self.ends:
                token = self.seen.token() if path in NUMBERED else ""
                code, body = await self._answer(client, f"{path}?{token}" if token else path)
                self._check(path, token, code, body)
                await asyncio.sleep(self.random.uniform(0.0, LONGEST_PAUSE))

        await self._with_client(use)

    def _check(self, path: str, token: str, code: int, body: object) -> None:
        """Compare an answer with what it should be."""
        self.seen.codes[f"{path} {code}"] += 1
        if not code:
            return  # told of already
        match path:
            case "/fail" | "/scope":
                right = code == 500 and body == [f"token-{token}"]
            case "/orphan":
                right = code == 200
                self.seen.left.add(token)
            case "/deadline":
                right = code in (200, 504)
            case "/search":  # another query each time
                right = (
                    code == 200 and isinstance(body, list) and body == sorted(set(body)) and len(body) == service.TOP
                )
            case _:
                right = code == 200 and self.expected.setdefault(path, body) == body  # type: ignore[arg-type]
        if not right:
            self.seen.wrong.append(f"{path}?{token}: {code} {body!r}")

    async def _leaving(self, path: str) -> None:
        async def use(client: Client) -> None:
            while perf_counter() < self.ends:
                await client.leave(path, self.random.uniform(0.0, 0.02))
                self.seen.codes[f"{path} left"] += 1
                await asyncio.sleep(self.random.uniform(0.0, LONGEST_PAUSE))

        await self._with_client(use)

    async def _barriers(self) -> None:
        async def use(client: Client) -> None:
            while perf_counter() < self.ends:
                await self._barrier(client)
                await asyncio.sleep(0.2)

        await self._with_client(use)

    async def _barrier(self, client: Client) -> None:
        code, body = await self._answer(client, "/barrier")
        self.seen.codes[f"/barrier {code}"] += 1
        for text in body if isinstance(body, list) else ():
            if text.startswith("token-"):
                self.seen.reported[text.removeprefix("token-")] += 1
            else:
                self.seen.wrong.append(f"/barrier: {text}")

    async def _health(self) -> None:
        async def use(client: Client) -> None:
            while perf_counter() < self.ends:
                began = perf_counter()
                await self._answer(client, "/health")
                self.seen.health.append(perf_counter() - began)
                await asyncio.sleep(0.02)

        await self._with_client(use)


def process_facts(pid: int) -> tuple[int, int, int]:
    """Resident bytes, threads and open descriptors of a process."""
    status = dict(
        text.split(":", 1)
        for text in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
        if ":" in text
    )
    descriptors = sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    return int(status["VmRSS"].split()[0]) * 1024, int(status["Threads"]), descriptors


async def silence(port: int, pid: int, began: float, health: list[float]) -> Row:
    """Wait until the service rests, and measure it."""
    client = Client(port)
    try:
        limit = perf_counter() + QUIET_SECONDS
        while True:
            async with asyncio.timeout(LONGEST_SECONDS):
                _, counts = await client.ask("/counts")
            assert isinstance(counts, dict)
            if (not counts["pending"] and counts["tasks"] <= 6) or perf_counter() > limit:
                break
            await asyncio.sleep(0.1)
    finally:
        await client.close()
    rss, threads, descriptors = process_facts(pid)
    return Row(
        seconds=perf_counter() - began,
        rss=rss,
        threads=threads,
        descriptors=descriptors,
        health_p99=percentile(health, 0.99),
        **counts,
    )


def rounds_in(seconds: float) -> int:
    """How many rounds a run of so many seconds has; four at least, to have some that come after the first."""
    return max(4, min(ROUNDS, int(seconds / ROUND_SECONDS)))


async def listening(port: int) -> None:
    """Return when the service accepts connections: it tells its port before it does."""
    async with asyncio.timeout(LONGEST_SECONDS):
        while True:
            try:
                _, writer = await asyncio.open_connection(HOST, port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return


async def soaked(port: int, pid: int, seconds: float, seed: int, show: Callable[[str], None]) -> tuple[list[Row], Seen]:
    """Load a service in rounds, and measure it after each."""
    await listening(port)
    seen = Seen()
    load = Load(port, seen, seed)
    rows: list[Row] = []
    began = perf_counter()
    show("  ".join(f"{heading:>7}" for heading in HEADINGS))
    rounds = rounds_in(seconds)
    for _ in range(rounds):
        seen.health.clear()
        try:
            await load.round(seconds / rounds)
            rows.append(await silence(port, pid, began, seen.health))
        except* (OSError, EOFError) as errors:
            seen.wrong.append(f"the service is gone: {errors.exceptions[0]!r}")
        if seen.wrong[-1:] and seen.wrong[-1].startswith("the service is gone"):
            break
        show(line(rows[-1]))
        if seen.hung:
            break
    return rows, seen


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=3600.0, help="of load, all rounds together; default: an hour")
    parser.add_argument("--seed", type=int, default=None, help="of what clients do; default: another one each time")
    parser.add_argument(
        "--loop", default="asyncio", choices=["asyncio", "uvloop"], help="of the service; default: asyncio"
    )
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(1 << 16) if options.seed is None else options.seed
    if not Path("/proc/self/status").exists():
        print("soak: the figures of a process are read from /proc, which this system does not have")
        return 2
    print(f"{options.seconds:g} s of load in {rounds_in(options.seconds)} rounds, seed {seed}", flush=True)
    command = [sys.executable, "-X", "faulthandler", "-m", "benchmarks.soak_service", "--loop", options.loop]
    # Threads of BLAS that spin for each other on a busy machine would be most of what is measured.
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        try:
            port = int(process.stdout.readline())
            rows, seen = asyncio.run(soaked(port, process.pid, options.seconds, seed, partial(print, flush=True)))
        except BaseException:
            process.kill()
            raise
        assert process.stdin is not None
        process.stdin.close()
        try:
            status = process.wait(LONGEST_SECONDS)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGABRT)  # shows where its threads are
            status = None
    found = violations(rows, seen)
    if status != 0:
        found.append("the service did not end" if status is None else f"the service ended with status {status}")
    print()
    print("  ".join(f"{what}: {count}" for what, count in sorted(seen.codes.items())))
    print(*(f"VIOLATION: {what}" for what in found), sep="\n")
    print("memory, threads and descriptors stayed flat; no error was lost; nothing hung" if not found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
