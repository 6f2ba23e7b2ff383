"""`python -m engine.testing.gpu [--json FILE]`: checks a GPU and measures it, in four minutes at most.

It needs a GPU and CuPy, and nothing else that the engine does not need. Its parts are processes with a limit each; the
file is written after each of them, so that it holds what was found, whatever happens. It ends with 0 where all checks
passed, 1 where some did not, and 3 where there is no GPU that can be used. Where it is interrupted or told to end, its
processes are ended, and what they had found is in the file.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from subprocess import DEVNULL, Popen, TimeoutExpired
from time import perf_counter
from typing import Any

import numpy as np

from engine.base.unread import drop_unread
from engine.base.version import VERSION
from engine.testing.gpu.journal import Found, read
from engine.testing.gpu.parts import PRESENCE, Part, all_parts, limit_of

NO_GPU = 3
LOG_CHARACTERS = 6_000
"""So much of what a process printed is kept."""
RESTARTS = 3
"""How often a process that has died is started again, after the check that it died of."""
LEAST_RESTART = 16.0
"""Seconds that have to be left for that."""
MEASURING = frozenset({"figures", "heartbeat"})
"""Parts that make no checks: there is nothing to go on with."""
REAP_SECONDS = 2.0
"""Seconds for a process to go once it was killed; one that waits for a driver may not."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all parts, print a summary, and write what they found to a file."""
    begun = perf_counter()
    options = parsed(arguments)
    with tempfile.TemporaryDirectory() as spare:
        options.environment = environment(os.environ, spare) if find_spec("cupy") is not None else dict(os.environ)
        return look_and_check(options, begun)


def environment(ours: Mapping[str, str], spare: str) -> dict[str, str]:
    """The environment of the processes: each op would fail where CuPy cannot keep what it compiles."""
    try:
        folder = Path(ours.get("CUPY_CACHE_DIR") or "~/.cupy/kernel_cache").expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return dict(ours)
    except (OSError, RuntimeError):  # there may be no home
        return {**ours, "CUPY_CACHE_DIR": spare}


def look_and_check(options: Any, begun: float) -> int:
    """Look for a GPU, and check it. Returns the exit status."""
    there = Found()
    run(PRESENCE, PRESENCE.seconds, options, there)
    if "gpus" not in there.notes:
        why = there.notes.get("none") or "; ".join(there.failures) or "the look for one found nothing"
        print(f"no GPU was checked: {why}", file=sys.stderr)
        return NO_GPU
    return check(options, begun)


def check(options: Any, begun: float) -> int:
    """Run the parts that are asked for; what they found is written after each. Returns the exit status."""
    result: dict[str, Any] = {"date": datetime.now(UTC).isoformat(timespec="seconds"), **versions(), "parts": {}}
    parts = tuple(part for part in all_parts(options.processes) if not options.parts or part.name in options.parts)
    right = True
    for number, part in enumerate(parts):
        limit = limit_of(part, perf_counter() - begun, len(parts) - number - 1)
        found = Found() if limit else Found(failures=["there was no time left"])
        try:
            if limit:
                run(part, limit, options, found)
        finally:
            right = right and is_right(found)
            result["parts"][part.name] = row(found)
            result["seconds"] = round(perf_counter() - begun, 1)
            write(options.json, result)
            tell(partial(show, part.name, found))
    tell(partial(print, f"{options.json}: {result['seconds']} s", flush=True))
    return 0 if right else 1


def is_right(found: Found) -> bool:
    """Tell whether a part found all as it should be: the CuPy that is asked for lacks nothing of what is checked."""
    return not found.failures and not found.lacking


def write(file: Path, result: dict[str, Any]) -> None:
    """Write what was found, in place of what the file said before: there is a whole file at any time."""
    coming = file.with_name(f"{file.name}.new")
    coming.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    coming.replace(file)


def parsed(arguments: Sequence[str] | None) -> Any:
    """The options of the program."""
    description = (
        "Check a GPU and measure it, in four minutes at most, and write what was found to a file. Ends with 0 where "
        "all checks passed, 1 where some did not, 3 where there is no GPU that can be used."
    )
    parser = argparse.ArgumentParser(prog="python -m engine.testing.gpu", description=description)
    found = "where to write what was found; default: gpu.json"
    parser.add_argument("--json", type=Path, default=Path("gpu.json"), metavar="FILE", help=found)
    programs = "random programs to run on both devices; default: 1000"
    parser.add_argument("--programs", type=int, default=1_000, metavar="N", help=programs)
    names = [part.name for part in all_parts(1)]
    parts = f"only these parts: {', '.join(names)}"
    parser.add_argument("--parts", nargs="+", choices=names, default=(), metavar="PART", help=parts)
    processes = max(1, min(12, (os.cpu_count() or 1) - 2))
    sharing = f"processes that share out the cases; default, by the cores of this machine: {processes}"
    parser.add_argument("--processes", type=int, default=processes, metavar="N", help=sharing)
    parser.add_argument("--scale", type=float, default=1.0, help=argparse.SUPPRESS)
    parser.add_argument("--runtime", default="", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


# ---------------------------------------------------------------------------------------------------------------------
# Processes


class Child:
    """A process of a part, and its journal."""

    def __init__(self, part: Part, number: int, folder: Path, options: Any) -> None:
        self._part = part
        self._number = number
        self._options = options
        self._journal = folder / f"{part.name}-{number}.jsonl"
        self._log = folder / f"{part.name}-{number}.log"
        self._skip = 0
        self.restarts = 0
        self.process: Popen[bytes] | None = None
        self.stops: list[str] = []
        """How it ended, each time that it did not end well."""

    def start(self, seconds: float) -> None:
        """Start it, after what an earlier process of it had begun."""
        options = self._options
        command = [sys.executable, "-X", "faulthandler", "-m", "engine.testing.gpu.child", self._part.name]
        command += ["--journal", str(self._journal), "--seconds", f"{seconds:.1f}", "--skip", str(self._skip)]
        command += ["--number", str(self._number), "--of", str(self._part.processes)]
        command += ["--programs", str(options.programs), "--scale", str(options.scale), "--runtime", options.runtime]
        with self._log.open("ab") as log:
            self.process = Popen(
                command, stdin=DEVNULL, stdout=log, stderr=log, start_new_session=True, env=options.environment
            )

    def wait(self, until: float) -> None:
        """Wait for its end, and end it where it does not by itself; start it again where it died of a case."""
        assert self.process is not None
        while True:
            try:
                code = self.process.wait(max(0.1, until - perf_counter()))
            except TimeoutExpired:
                self.end("was killed at its limit")
                return
            if code == 0:
                return
            self._stopped(f"ended with {code}")
            before, self._skip = self._skip, len(self.found().begun)
            left = until - perf_counter()
            is_stuck = self._part.name in MEASURING or self._skip == before
            if is_stuck or self.restarts >= RESTARTS or left < LEAST_RESTART:
                return
            self.restarts += 1
            self.start(left)

    def end(self, how: str) -> None:
        """End it, with the processes that it started, unless it has ended."""
        if self.process is None or self.process.poll() is not None:
            return
        if hasattr(os, "killpg"):
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        else:
            self.process.kill()
        try:
            self.process.wait(REAP_SECONDS)
        except TimeoutExpired:
            how += ", and did not go"
        self._stopped(how)

    def _stopped(self, how: str) -> None:
        at = self.found().at
        self.stops.append(f"the process {how}" + (f" while at {at!r}" if at is not None else ""))

    def found(self) -> Found:
        """Return what it has found until now."""
        found = Found()
        found.merge(read(self._journal))
        if self._log.exists():
            found.log = self._log.read_text(encoding="utf-8", errors="replace")[-LOG_CHARACTERS:]
        return found


def run(part: Part, limit: float, options: Any, whole: Found) -> None:
    """Run the processes of a part side by side, and put together in `whole` what they found."""
    begun = perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        children = [Child(part, number, Path(folder), options) for number in range(part.processes)]
        try:
            for child in children:
                child.start(limit)
            for child in children:
                child.wait(begun + limit)
        finally:
            for child in children:
                child.end("was ended, as the whole was")
                add(whole, child)
            whole.seconds = round(perf_counter() - begun, 1)


def add(whole: Found, child: Child) -> None:
    """Add what one process found to what the others did."""
    found = child.found()
    whole.checked += found.checked
    whole.failures += found.failures + child.stops
    whole.lacking += found.lacking
    whole.notes |= found.notes
    if child.restarts:
        whole.notes["restarts"] = whole.notes.get("restarts", 0) + child.restarts
    if child.stops:
        whole.log += found.log


# ---------------------------------------------------------------------------------------------------------------------
# What is told


def row(found: Found) -> dict[str, Any]:
    """The outcome of a part for the file."""
    told: dict[str, Any] = {"checked": found.checked, "seconds": found.seconds, "failures": found.failures}
    if found.lacking:
        told["lacking"] = found.lacking
    if found.notes:
        told["notes"] = found.notes
    if found.log:
        told["log"] = found.log
    return told


def tell(what: Callable[[], object]) -> None:
    """Print something; where nothing reads it any more, the checks go on, and the file says it."""
    try:
        what()
    except BrokenPipeError:
        drop_unread()


def show(name: str, found: Found) -> None:
    """Print the outcome of a part."""
    print(f"{name}: {found.checked} checks, {len(found.failures)} failed, {found.seconds:.1f} s", flush=True)
    for failure in found.failures[:60]:
        print(f"  {failure[-600:]}")
    for key, value in found.notes.items():
        print(f"  {key}: {value}")
    if found.lacking:
        print(f"  CuPy lacks, and the error says so: {', '.join(found.lacking)}")
    sys.stdout.flush()


def versions() -> dict[str, str]:
    """The versions of all that is checked, and of what it is checked with."""
    return {
        "engine": VERSION,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
    }


def _told_to_end(*_: object) -> None:
    sys.exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _told_to_end)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
