"""The command line: `eagerloop demo`, `eagerloop info`, `eagerloop dashboard`; the same as `python -m engine`."""

from __future__ import annotations

import argparse
import math
import platform
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path

import numpy as np

import engine
from engine.base.unread import UNREAD, drop_unread
from engine.demo import main as demo
from engine.fusion.native.kept import DEFAULT, VARIABLE, kept
from engine.observe.extras import needed
from engine.threads.blas import core_count

QUICK_FACTOR = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status."""
    try:
        try:
            return _run(parser().parse_args(arguments))
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()  # here an error can be met; at exit it cannot
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted\n")
        return 130
    except BrokenPipeError:
        if not drop_unread():
            raise
        return UNREAD


def _run(options: argparse.Namespace) -> int:
    if options.command == "dashboard":
        return run_dashboard(options)
    return run_demo(options) if options.command == "demo" else info()


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    top = argparse.ArgumentParser(prog="eagerloop", description="Asynchronous eager execution for NumPy.")
    top.add_argument("--version", action="version", version=f"eagerloop {engine.__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("info", help="print version, devices, mode, policy and configuration")
    demo_parser = commands.add_parser(
        "demo",
        help="shade a real elevation model in three ways, and compare them",
        description="Shade an elevation model from eight sun azimuths in an asyncio program: with plain NumPy in the "
        "coroutine, with asyncio.to_thread, and with the engine. Prints a table and writes the relief as a PNG.",
    )
    demo_parser.add_argument(
        "--input",
        type=Path,
        metavar="FILE",
        help="an elevation model in metres, .npy or .npz (`elevation`, and `dx`, `dy` in metres); "
        "default: the Jacksboro fault, which matplotlib ships",
    )
    demo_parser.add_argument(
        "--output", type=Path, metavar="PNG", default=Path("relief.png"), help="where to write it; default: %(default)s"
    )
    demo_parser.add_argument(
        "--trace",
        type=Path,
        metavar="JSON",
        help="run the engine once more and write what it did, for ui.perfetto.dev, and a picture of that, .png",
    )
    demo_parser.add_argument("--factor", type=_factor, default=8, help="how many times finer; default: %(default)s")
    demo_parser.add_argument("--quick", action="store_true", help=f"the same as --factor {QUICK_FACTOR}")
    demo_parser.add_argument(
        "--cell", type=_metres, default=30.0, metavar="METRES", help="between cells of a file without dx, dy"
    )
    _add_dashboard(commands.add_parser("dashboard", help="run a program, and serve a live page of what it does"))
    return top


def _add_dashboard(dashboard: argparse.ArgumentParser) -> None:
    dashboard.description = (
        "Run a Python program, and serve a page that shows, live, what the engine does in it. The page shows lines of "
        "the program: do not let strangers reach it."
    )
    dashboard.add_argument("--host", default="127.0.0.1", help="where to listen; default: %(default)s")
    dashboard.add_argument("--port", type=_port, default=8787, help="default: %(default)s; 0 for any that is free")
    dashboard.add_argument(
        "--stay", action="store_true", help="serve the page when the program has ended, until an interrupt"
    )
    dashboard.add_argument("script", type=Path, help="the program, run as `python SCRIPT` would")
    dashboard.add_argument("arguments", nargs=argparse.REMAINDER, help="its arguments")


def _port(text: str) -> int:
    return _whole(text, 0, 65535)


def _factor(text: str) -> int:
    return _whole(text, 1, 32)


def _whole(text: str, least: int, most: int) -> int:
    with suppress(ValueError):
        if least <= int(text) <= most:
            return int(text)
    raise argparse.ArgumentTypeError(f"must be a whole number from {least} to {most}, but got {text!r}")


def _metres(text: str) -> float:
    with suppress(ValueError):
        if 0 < float(text) < math.inf:
            return float(text)
    raise argparse.ArgumentTypeError(f"must be a positive number, but got {text!r}")


def run_demo(options: argparse.Namespace) -> int:
    """Run the demo."""
    factor = QUICK_FACTOR if options.quick else options.factor
    settings = demo.Settings(options.input, options.output, factor, options.cell, options.trace)
    return demo.run(settings, sys.stdout, sys.stderr)


def run_dashboard(options: argparse.Namespace) -> int:
    """Run a program, and serve the live page of it."""
    try:
        needed("starlette", "eagerloop dashboard")
        needed("uvicorn", "eagerloop dashboard")
    except ImportError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    from engine.observe.page import server

    settings = server.Settings(options.script, tuple(options.arguments), options.host, options.port, options.stay)
    return server.run(settings, sys.stderr)


def _cache_facts() -> str:
    """Say where compiled code is kept, and how much."""
    disk = kept().disk
    if disk is None:
        return f"off; {VARIABLE}={DEFAULT} keeps compiled code for the next process"
    try:
        usage = disk.usage()
    except FileNotFoundError:
        return f"{disk.folder}, which is not there yet"
    except OSError as error:
        return f"{disk.folder}, which is not used: {error}"
    return f"{disk.folder}, {usage.files} files, {usage.nbytes / 1e6:.1f} MB"


def info() -> int:
    """Print what the engine is and how it is set up in this process."""
    mode, policy, config = engine.get_execution_mode(), engine.get_device_policy(), engine.get_config()
    eager = engine.executing_eagerly()
    shown = config or engine.Config()
    automatic = "" if eager else " (automatic)"
    facts = {
        "eagerloop": engine.__version__,
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}, {core_count()} cores",
        "numpy": np.__version__,
        "eager": "on" if eager else "off; engine.enable_eager_execution() turns it on",
        "devices": " ".join(map(str, engine.list_devices())),
        "mode": f"{(mode or engine.SYNC).name}{automatic}",
        "policy": f"{(policy or engine.DEVICE_PLACEMENT_SILENT).name}{automatic}",
    }
    facts["native fusion"] = (
        "on"
        if engine.fusion_statistics().available
        else "off; pip install 'eagerloop[native]' for a known machine (x86-64, AArch64)"
    )
    facts["native cache"] = _cache_facts()
    facts |= {f"config.{field.name}": str(getattr(shown, field.name)) for field in fields(shown)}
    facts["config.device_count"] = str(dict(shown.device_count))
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name:<{width}}  {value}")
    return 0
