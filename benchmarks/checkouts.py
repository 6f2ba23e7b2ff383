"""Processes that measure: each with the benchmarks of this checkout, and the engine of this one or another."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
START = """\
import runpy, sys
here, other, module, *arguments = sys.argv[1:]
sys.path[0] = other
import engine, handles
sys.path[0] = here
sys.argv = [module, *arguments]
runpy.run_module(module, run_name="__main__")
"""
"""The packages come from where they were imported first; what they import later comes from there as well."""


def command(module: str, arguments: Sequence[str], checkout: Path | None = None) -> list[str]:
    """What starts a module of the benchmarks in a fresh process, with the engine of a checkout."""
    other = HERE if checkout is None else checkout.resolve()
    if not (other / "engine" / "__init__.py").is_file():
        raise FileNotFoundError(f"{other} is no checkout of eagerloop: it has no engine/__init__.py")
    return [sys.executable, "-c", START, str(HERE), str(other), module, *arguments]


def output(
    module: str, arguments: Sequence[str], *, timeout: float, checkout: Path | None = None, threads: int | None = None
) -> str:
    """The standard output of a module that was run to its end; `threads` is what BLAS is told to use.

    Raises `subprocess.CalledProcessError` where it fails, `subprocess.TimeoutExpired` where it takes too long.
    """
    completed = subprocess.run(
        command(module, arguments, checkout),
        stdout=subprocess.PIPE,
        text=True,
        timeout=timeout,
        check=True,
        env=environment(threads),
    )
    return completed.stdout


def environment(threads: int | None) -> dict[str, str]:
    """The variables of this process, with the number of BLAS threads set, or left to the library."""
    left = {name: value for name, value in os.environ.items() if name not in BLAS_VARIABLES}
    return left if threads is None else left | dict.fromkeys(BLAS_VARIABLES, str(threads))


BLAS_VARIABLES = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")
