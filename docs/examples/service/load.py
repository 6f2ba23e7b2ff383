"""Loads the service, and the same service without the engine, and prints a table: `python load.py --seconds 30`.

Each server runs in a process of its own, in turn. Connections ask again as soon as they are answered (a closed loop),
which loads any server as far as it goes; with `--pause MS` each waits for so long on average before it asks again, as
users do. Beside them a probe, in a process of its own, asks `/health` every 10 ms, and its time counts from when the
question was due. Raw asyncio, so that the load costs little beside what it measures. Each server is loaded for some
seconds before it is measured: it starts threads, fills caches, and compiles what it computes often. What a request
costs the processor tells more than rates do where other programs run on the machine.
"""

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from itertools import count, pairwise
from pathlib import Path
from statistics import median
from urllib.request import urlopen

import numpy as np

HERE = Path(__file__).resolve().parent
HOST = "127.0.0.1"
WARM_SECONDS = 4.0
SERVERS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "eagerloop": ("app:app", {}),
    "to_thread": ("baseline:app", {"SERVICE_THREADS": "all"}),
    "by hand": ("baseline:app", {"SERVICE_THREADS": "large"}),
    "NumPy": ("baseline:app", {"SERVICE_THREADS": "none"}),
}
"""The application of each server, and its environment."""
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1"}
"""For each product, unless the environment says otherwise: it suits all of the servers, whose requests overlap."""

# ---------------------------------------------------------------------------------------------------------------------
# Requests


def get(path: str) -> bytes:
    """A GET request."""
    return f"GET {path} HTTP/1.1\r\nHost: local\r\n\r\n".encode()


def post(path: str, body: bytes, kind: str) -> bytes:
    """A POST request."""
    head = f"POST {path} HTTP/1.1\r\nHost: local\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def npy(array: np.ndarray) -> bytes:
    """An array as a .npy file."""
    buffer = BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def requests_of(name: str) -> list[bytes]:
    """Some requests of one kind, which connections send in turn."""
    random = np.random.default_rng(1)
    if name == "search":
        return [get(f"/search?item={item}") for item in range(100)]
    if name == "image":
        images = [random.integers(0, 256, (512, 512, 3), dtype=np.uint8) for _ in range(4)]
        return [post("/image", npy(image), "application/octet-stream") for image in images]
    if name == "value":
        return [get(f"/value?payment={payment}&years=30&rate=0.03") for payment in range(100)]
    if name == "predict":
        rows = random.integers(0, 17, (100, 64)).astype(float)
        return [post("/predict", json.dumps(row.tolist()).encode(), "application/json") for row in rows]
    raise ValueError(f"there are no requests called {name!r}")


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> tuple[int, bytes]:
    """Send one request and read its answer: the status code and the body."""
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    return int(head[9:12]), await reader.readexactly(length)


@dataclass
class Answers:
    """What the connections of one kind saw."""

    seconds: list[float] = field(default_factory=list)
    failed: int = 0

    def note(self, seconds: float, code: int) -> None:
        """Count an answer."""
        self.seconds.append(seconds)
        self.failed += code != 200

    def percentile(self, share: float) -> float:
        """Milliseconds in which so many of the answers came."""
        times = sorted(self.seconds)
        return 1e3 * times[min(len(times) - 1, int(share * len(times)))] if times else float("nan")


async def client(
    port: int, requests: Sequence[bytes], first: int, ends: float, answers: Answers, pause: float = 0.0
) -> None:
    """Ask until it is time, with pauses of so many seconds on average."""
    reader, writer = await asyncio.open_connection(HOST, port)
    random = np.random.default_rng(first)
    try:
        for number in count(first):
            if pause:
                await asyncio.sleep(random.exponential(pause))
            began = time.perf_counter()
            if began >= ends:
                return
            code, _ = await ask(reader, writer, requests[number % len(requests)])
            answers.note(time.perf_counter() - began, code)
    finally:
        writer.close()


@asynccontextmanager
async def probing(port: int, health: Answers, late: Answers) -> AsyncIterator[None]:
    """Have the health asked for inside the block, by a process of its own."""
    pipe = asyncio.subprocess.PIPE
    command = [sys.executable, str(HERE / "probe.py"), str(port)]
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, limit=1 << 24)
    assert process.stdin is not None
    assert process.stdout is not None
    await process.stdout.readline()
    process.stdin.write(b"\n")
    try:
        yield
    finally:
        told, _ = await process.communicate(b"")  # which ends its input, and so the probe
    found = json.loads(told)
    health.seconds, health.failed, late.seconds = found["seconds"], found["failed"], found["late"]


async def load(port: int, mix: Mapping[str, int], seconds: float, pause: float = 0.0) -> dict[str, Answers]:
    """Load a server with so many connections of each kind, and the probe."""
    kinds = {name: requests_of(name) for name in mix}
    seen = {name: Answers() for name in (*mix, "health", "late")}
    async with probing(port, seen["health"], seen["late"]):
        ends = time.perf_counter() + seconds
        async with asyncio.TaskGroup() as group:
            for name, connections in mix.items():
                for number in range(connections):
                    group.create_task(client(port, kinds[name], 7 * number, ends, seen[name], pause))
    return seen


# ---------------------------------------------------------------------------------------------------------------------
# Servers


def free_port() -> int:
    """A port that no server has."""
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        return int(listener.getsockname()[1])


@contextmanager
def serving(name: str, *options: str) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """A server in a process of its own: its port, and the process."""
    application, more = SERVERS[name]
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", application, "--host", HOST, "--port", str(port), *options]
    environment = ONE_THREAD | os.environ | more
    process = subprocess.Popen([*command, "--log-level", "warning"], cwd=HERE, env=environment)
    try:
        wait_until_healthy(port, process)
        yield port, process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until_healthy(port: int, process: subprocess.Popen[bytes], seconds: float = 180.0) -> None:
    """Wait until a server answers."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with {process.returncode}")
        try:
            with urlopen(f"http://{HOST}:{port}/health", timeout=5) as answer:
                answer.read()
            return
        except OSError:
            time.sleep(0.05)
    raise TimeoutError(f"the server did not answer within {seconds:g} s")


def processor_seconds(process: subprocess.Popen[bytes]) -> float:
    """The time that a process has computed, all threads together; not a number where the system does not tell."""
    try:
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return float("nan")
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_megabytes(process: subprocess.Popen[bytes]) -> float:
    """The most memory that a process has had; not a number where the system does not tell."""
    try:
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    except OSError:
        return float("nan")
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")), float("nan"))


# ---------------------------------------------------------------------------------------------------------------------
# The table


def figures(seen: Mapping[str, Answers], seconds: float) -> dict[str, float]:
    """What one load gave: rates, and times in milliseconds."""
    kinds = {name: answers for name, answers in seen.items() if name not in ("health", "late")}
    rates = {f"{name} /s": len(answers.seconds) / seconds for name, answers in kinds.items()}
    together = Answers([seconds for answers in kinds.values() for seconds in answers.seconds])
    return {
        **rates,
        "all /s": sum(rates.values()),
        **{f"{name} p50 ms": answers.percentile(0.5) for name, answers in kinds.items()},
        "all p99 ms": together.percentile(0.99),
        "health p50 ms": seen["health"].percentile(0.5),
        "health p99 ms": seen["health"].percentile(0.99),
        "probe late p99 ms": seen["late"].percentile(0.99),
        "failed": float(sum(answers.failed for answers in seen.values())),
    }


def table(found: Mapping[str, Mapping[str, float]]) -> str:
    """The figures of all servers, and how the first compares with the second."""
    names = list(found)
    lines = [f"{'':<20}" + "".join(f"{name:>12}" for name in names) + (f"{'ratio':>9}" if len(names) > 1 else "")]
    for row in found[names[0]]:
        values = [found[name][row] for name in names]
        ratio = f"{values[0] / values[1]:>8.2f}x" if len(values) > 1 and values[1] else ""
        lines.append(f"{row:<20}" + "".join(f"{value:>12.4g}" for value in values) + ratio)
    return "\n".join(lines)


def mixture(text: str) -> tuple[str, int]:
    """`name:connections`."""
    name, _, connections = text.partition(":")
    requests_of(name)
    return name, int(connections)


def measure(
    names: Sequence[str], mix: Mapping[str, int], seconds: float, rounds: int, pause: float
) -> dict[str, dict[str, float]]:
    """Medians of the figures of each server, from rounds taken in turn."""
    each = seconds / (len(names) * rounds)
    taken: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            with serving(name) as (port, process):
                asyncio.run(load(port, mix, min(WARM_SECONDS, each / 2), pause))
                before = processor_seconds(process)
                found = figures(asyncio.run(load(port, mix, each, pause)), each)
                computed = processor_seconds(process) - before
                found["CPU ms a request"] = 1e3 * computed / max(1.0, each * found["all /s"])
                taken[name].append(found | {"peak MB": peak_megabytes(process)})
    return {name: {row: median(one[row] for one in figures) for row in figures[0]} for name, figures in taken.items()}


CONNECTIONS = (1, 2, 4, 8, 16, 32, 64)


def at_median(points: Sequence[tuple[float, float]], milliseconds: float) -> float:
    """The rate at a median, from medians and rates that were measured with ever more connections."""
    (least, rate), *_ = points
    if least >= milliseconds:
        return rate
    for (before, slower), (after, faster) in pairwise(points):
        if before < milliseconds <= after:
            return slower + (faster - slower) * (milliseconds - before) / (after - before)
    return points[-1][1]


def compare_at_median(
    names: Sequence[str], kind: str, milliseconds: float, seconds: float
) -> dict[str, dict[str, float]]:
    """The rates of each server where half of the answers come within so many milliseconds."""
    each = seconds / (len(names) * len(CONNECTIONS))
    found: dict[str, dict[str, float]] = {}
    for name in names:
        points: list[tuple[float, float]] = []
        with serving(name) as (port, _):
            asyncio.run(load(port, {kind: 4}, min(WARM_SECONDS, each)))
            for connections in CONNECTIONS:
                seen = figures(asyncio.run(load(port, {kind: connections}, each)), each)
                points.append((seen[f"{kind} p50 ms"], seen[f"{kind} /s"]))
        rates = {f"with {number:>3}": rate for number, (_, rate) in zip(CONNECTIONS, points, strict=True)}
        medians = {f"p50 ms {number:>3}": middle for number, (middle, _) in zip(CONNECTIONS, points, strict=True)}
        found[name] = rates | medians | {"at that p50 /s": at_median(points, milliseconds)}
    return found


MIX = ("search:4", "image:4", "value:4", "predict:4")


def main(say: Callable[[str], object] = print) -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "mix",
        nargs="*",
        type=mixture,
        metavar="KIND:CONNECTIONS",
        help=f"connections of each kind; default: {' '.join(MIX)}",
    )
    parser.add_argument(
        "--seconds", type=float, default=30.0, help="seconds of load, for all servers together; default: 30"
    )
    parser.add_argument("--rounds", type=int, default=1, help="turns in which the seconds are shared out; default: 1")
    pause = "milliseconds that each connection waits, on average, between two requests; default: 0"
    parser.add_argument("--pause", type=float, default=0.0, metavar="MS", help=pause)
    parser.add_argument("--servers", nargs="+", choices=list(SERVERS), default=list(SERVERS), help="only these servers")
    parser.add_argument(
        "--equal-median",
        type=mixture,
        metavar="KIND:MS",
        help="compare rates of one kind where half of the answers come within so many milliseconds",
    )
    options = parser.parse_args()
    if options.equal_median is not None:
        say(table(compare_at_median(options.servers, *options.equal_median, options.seconds)))
        return
    mix = dict(options.mix or map(mixture, MIX))
    say(table(measure(options.servers, mix, options.seconds, options.rounds, options.pause / 1e3)))


if __name__ == "__main__":
    main()
