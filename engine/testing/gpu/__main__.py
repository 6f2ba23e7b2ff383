"""`python -m engine.testing.gpu [--json FILE]`: checks a GPU and measures it, in four minutes at most.

It needs a GPU and CuPy, and nothing else that the engine does not need. Its parts are processes with a limit each; the
file is written after each of them, so that it holds what was found, whatever happens. It ends with 0 where all checks
passed, 1 where some did not, and 3 where there is no GPU that can be used.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from subprocess import DEVNULL, Popen, TimeoutExpired
from time import perf_counter
from typing import Any

import numpy as np

from engine.base.errors import UnknownDeviceError
from engine.base.version import VERSION
from engine.devices.cuda.backend import CudaBackend
from engine.devices.registry import lost
from engine.testing.gpu.journal import Found, read
from engine.testing.gpu.parts import Part, all_parts, limit_of

NO_GPU = 3
LOG_CHARACTERS = 6_000
"""So much of what a process printed is kept."""
RESTARTS = 3
"""How often a process of the cases that has died is started again, after the case that it died of."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all parts, print a summary, and write what they found to a file."""
    options = parsed(arguments)
    if not options.runtime:
        try:
            CudaBackend(lost).count()
        except UnknownDeviceError as error:
            print(f"no GPU was checked: {error}", file=sys.stderr)
            return NO_GPU
    begun = perf_counter()
    result: dict[str, Any] = {"date": datetime.now(UTC).isoformat(timespec="seconds"), **versions(), "parts": {}}
    parts = all_parts(options.processes)
    parts = tuple(part for part in parts if not options.parts or part.name in options.parts)
    right = True
    for number, part in enumerate(parts):
        limit = limit_of(part, perf_counter() - begun, len(parts) - number - 1)
        found = run(part, limit, options) if limit else Found(failures=["there was no time left"])
        right = right and not found.failures
        result["parts"][part.name] = row(found)
        result["seconds"] = round(perf_counter() - begun, 1)
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        show(part.name, found)
    print(f"{options.json}: {result['seconds']} s")
    return 0 if right else 1


def parsed(arguments: Sequence[str] | None) -> Any:
    """The options of the program."""
    parser = argparse.ArgumentParser(prog="python -m engine.testing.gpu", description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path, default=Path("gpu.json"), help="where the outcome goes (gpu.json)")
    parser.add_argument("--programs", type=int, default=1_000, help="random programs (1000)")
    parser.add_argument("--parts", nargs="*", default=(), help="only these parts")
    processes = max(1, min(12, (os.cpu_count() or 1) - 2))
    parser.add_argument("--processes", type=int, default=processes, help=f"that share out the cases ({processes})")
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
            self.process = Popen(command, stdin=DEVNULL, stdout=log, stderr=log)

    def wait(self, until: float) -> None:
        """Wait for its end, and end it where it does not by itself; start it again where it died of a case."""
        assert self.process is not None
        while True:
            try:
                code = self.process.wait(max(0.1, until - perf_counter()))
            except TimeoutExpired:
                self.process.kill()
                self.process.wait()
                self._stopped("was killed at its limit")
                return
            if code == 0:
                return
            self._stopped(f"ended with {code}")
            self._skip = len(self.found().begun)
            left = until - perf_counter()
            if self._part.name != "cases" or self.restarts >= RESTARTS or left < 2 * 8.0:
                return
            self.restarts += 1
            self.start(left)

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


def run(part: Part, limit: float, options: Any) -> Found:
    """Run the processes of a part side by side, and put together what they found."""
    begun = perf_counter()
    whole = Found()
    with tempfile.TemporaryDirectory() as folder:
        children = [Child(part, number, Path(folder), options) for number in range(part.processes)]
        for child in children:
            child.start(limit)
        for child in children:
            child.wait(begun + limit)
            add(whole, child)
    whole.seconds = round(perf_counter() - begun, 1)
    return whole


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


if __name__ == "__main__":
    sys.exit(main())
