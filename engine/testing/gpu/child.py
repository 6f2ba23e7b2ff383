"""The process of one part of the check: `python -m engine.testing.gpu.child PART --journal FILE --seconds N`."""

from __future__ import annotations

import argparse
import faulthandler
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from pkgutil import resolve_name
from subprocess import TimeoutExpired, run
from time import perf_counter
from typing import Any

from engine.base.errors import UnknownDeviceError
from engine.devices.cuda.backend import CudaBackend
from engine.devices.cuda.runtime import Runtime
from engine.devices.registry import lost, register_backend
from engine.testing.gpu import conformance, facilities, speed
from engine.testing.gpu.ends import ENDS
from engine.testing.gpu.journal import Journal
from engine.testing.gpu.parts import CHECK_SECONDS, NOTICE_SECONDS, PRESENCE, all_parts, everything, in_order, share


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a part, and write what it finds to its journal."""
    options = parsed(arguments)
    faulthandler.enable()
    ends = perf_counter() + max(1.0, options.seconds - NOTICE_SECONDS)

    def watch(seconds: float) -> None:
        """Say where the process is in so many seconds, or at its end, and end it."""
        faulthandler.dump_traceback_later(max(0.1, min(seconds, ends - perf_counter())), exit=True)

    watch(options.seconds)
    runtime = serve(options.runtime) if options.runtime else None
    with options.journal.open("a", encoding="utf-8") as file:
        journal = Journal(file, options.skip, lambda: watch(CHECK_SECONDS))
        try:
            Process(journal, options, runtime).run()
        except BaseException:
            journal.add(f"the part {options.part}", traceback.format_exc())
            raise
    faulthandler.cancel_dump_traceback_later()
    return 0


def parsed(arguments: Sequence[str] | None) -> Any:
    """The options of the process."""
    parser = argparse.ArgumentParser(prog="python -m engine.testing.gpu.child")
    parser.add_argument("part", choices=[PRESENCE.name, *(part.name for part in all_parts(1))])
    parser.add_argument("--journal", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--number", type=int, default=0)
    parser.add_argument("--of", type=int, default=1)
    parser.add_argument("--skip", type=int, default=0)
    parser.add_argument("--programs", type=int, default=1_000)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--runtime", default="")
    return parser.parse_args(arguments)


def serve(path: str) -> Runtime:
    """Have GPUs driven by another runtime than CuPy's: `module:class`."""
    runtime: Runtime = resolve_name(path)()
    register_backend("GPU", lambda: CudaBackend(lost, lambda: runtime))
    return runtime


class Process:
    """The work of the process of a part; `runtime` drives the GPUs, CuPy's where it is None."""

    def __init__(self, journal: Journal, options: Any, runtime: Runtime | None) -> None:
        self._journal = journal
        self._runtime = runtime
        self._options = options
        self._until = perf_counter() + options.seconds - NOTICE_SECONDS - 1.0

    def run(self) -> None:
        """Do what the part of the options says."""
        parts: dict[str, Callable[[], None]] = {
            "presence": self._presence,
            "facilities": self._facilities,
            "behaviour": self._behaviour,
            "figures": self._figures,
            "cases": self._cases,
            "heartbeat": self._heartbeat,
            "programs": self._programs,
            "ends": self._ends,
        }
        parts[self._options.part]()

    def _presence(self) -> None:
        runtime = self._runtime
        backend = CudaBackend(lost, None if runtime is None else lambda: runtime)
        try:
            self._journal.note("gpus", backend.count())
        except UnknownDeviceError as error:
            self._journal.note("none", str(error))

    def _facilities(self) -> None:
        runtime = self._runtime or CudaBackend(lost).runtime()
        self._journal.note("runtime", runtime.describe())
        if self._runtime is None:
            self._journal.note("card", _by_hand().card())
        conformance.check_each(self._journal, facilities.on_the_runtime(runtime, scale=self._options.scale))
        begun = perf_counter()
        with facilities.executor():
            conformance.check_each(self._journal, facilities.on_an_executor(scale=self._options.scale))
        self._journal.note("seconds_on_an_executor", round(perf_counter() - begun, 2))

    def _behaviour(self) -> None:
        conformance.check_behaviour(self._journal, side=max(16, int(256 * self._options.scale)))

    def _figures(self) -> None:
        raw: speed.Raw = _by_hand().ByHand() if self._runtime is None else facilities.OnTheRuntime(self._runtime)
        for figure in speed.measured(raw, scale=self._options.scale, until=self._until):
            self._journal.note(figure.name, figure.as_row())

    def _cases(self) -> None:
        options = self._options
        cases = share(in_order(everything()), options.number, options.of)
        if options.scale < 1.0:
            cases = cases[: max(1, int(len(cases) * options.scale))]
        conformance.check_cases(self._journal, cases, until=self._until)

    def _heartbeat(self) -> None:
        scale = self._options.scale
        self._journal.note("heartbeat", speed.heartbeat(5.0 * scale, max(16, int(4_000 * scale))))

    def _programs(self) -> None:
        conformance.check_programs(self._journal, range(self._options.programs), until=self._until)

    def _ends(self) -> None:
        checks = ((name, lambda name=name: ended(name, self._share(name))) for name in ENDS)
        conformance.check_each(self._journal, checks)

    def _share(self, name: str) -> float:
        """Seconds for one end: a part of those that are left, of which the ends after it have as much."""
        rest = len(ENDS) - list(ENDS).index(name)
        return float(max(1.0, (self._until - perf_counter()) / rest))


def ended(name: str, seconds: float) -> str | None:
    """Say what is wrong with an end of a process; None where it was quiet."""
    command = [sys.executable, "-m", "engine.testing.gpu.ends", name, f"{seconds:.1f}"]
    try:
        done = run(command, capture_output=True, text=True, timeout=seconds + 1.0, check=False)
    except TimeoutExpired as error:
        return f"it had not ended after {seconds:.0f} s: {error.stderr!r}"
    said = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("eagerloop: ")]
    if done.returncode == 0 and not said:
        return None
    return f"ended with {done.returncode}: {done.stderr[-2_000:]}"


def _by_hand() -> Any:
    return import_module("engine.testing.gpu.by_hand")


if __name__ == "__main__":
    sys.exit(main())
