"""`python -m engine.testing.gpu [--json FILE]`: checks a GPU and measures it, in four minutes at most.

It needs a GPU and `pip install -e '.[cuda]'`. It ends with 0 where all checks passed, 1 where some did not, and 3 where
there is no GPU that can be used.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import platform
import sys
import traceback
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from engine.base.errors import UnknownDeviceError
from engine.base.version import VERSION
from engine.devices.cuda.backend import CudaBackend
from engine.devices.cuda.runtime import Runtime
from engine.devices.registry import lost
from engine.testing.gpu import conformance, speed
from engine.testing.gpu.cases import all_cases

NO_GPU = 3
LIMIT_SECONDS = 235
"""After so long it ends, wherever it is."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all, print a summary, and write the figures to a file."""
    parser = argparse.ArgumentParser(prog="python -m engine.testing.gpu", description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path, default=Path("gpu.json"), help="where the figures go (gpu.json)")
    parser.add_argument("--programs", type=int, default=1_000, help="random programs (1000)")
    parser.add_argument("--seconds", type=float, default=150.0, help="for the checks, at most (150)")
    options = parser.parse_args(arguments)
    try:
        backend = CudaBackend(lost)
        backend.count()
    except UnknownDeviceError as error:
        print(f"no GPU was checked: {error}", file=sys.stderr)
        return NO_GPU
    faulthandler.dump_traceback_later(LIMIT_SECONDS, exit=True)  # a run that hangs says where, and ends
    result: dict[str, Any] = {"date": datetime.now(UTC).isoformat(timespec="seconds"), **versions(backend.runtime())}
    report = conformance.Report()
    module: Any = import_module("engine.testing.gpu.by_hand")
    begun = perf_counter()
    problems = 0
    for name, section in (
        ("card", lambda: module.card()),
        ("checks", lambda: checks(report, options.programs, options.seconds)),
        ("figures", lambda: figures(module.ByHand())),
        ("heartbeat", speed.heartbeat),
    ):
        try:
            result[name] = section()
        except Exception:  # noqa: BLE001 - what has been found so far is worth keeping
            problems += 1
            result[name] = traceback.format_exc()
            print(f"{name}: {result[name]}", file=sys.stderr)
        result["seconds"] = round(perf_counter() - begun, 1)
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"heartbeat: {result['heartbeat']}\n{options.json}: {result['card']}, {result['seconds']} s")
    return 1 if problems or report.failures else 0


def checks(report: conformance.Report, programs: int, seconds: float) -> dict[str, Any]:
    """Check everything, and say what failed."""
    conformance.check_all(report, list(all_cases()), programs=programs, seconds=seconds)
    print(f"checked {report.checked}, of which {len(report.failures)} failed, in {report.seconds:.1f} s")
    for failure in report.failures[:100]:
        print(f"  {failure[:400]}")
    if report.lacking:
        print(f"CuPy lacks, and the error says so: {', '.join(report.lacking)}")
    return asdict(report)


def figures(raw: speed.Raw) -> list[dict[str, Any]]:
    """Measure the engine beside CuPy by hand."""
    measured = speed.measure(raw)
    for figure in measured:
        print(f"{figure.name}: {figure.engine:.3g} {figure.unit}, raw {figure.raw:.3g}, ratio {figure.ratio:.2f}")
    return [figure.as_row() for figure in measured]


def versions(runtime: Runtime) -> dict[str, str]:
    """The versions of all that was checked, and of what it was checked with."""
    return {
        "engine": VERSION,
        "runtime": runtime.describe(),
        "numpy": np.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
    }


if __name__ == "__main__":
    sys.exit(main())
