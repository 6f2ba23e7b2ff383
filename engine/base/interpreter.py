"""The interpreter that the engine runs on: which builds of Python it refuses, before anything else is imported."""

from __future__ import annotations

import sys

REFUSED = (
    "eagerloop does not run on a free-threaded build of Python ({version}), nor with its lock switched on by "
    "PYTHON_GIL=1: what it keeps and what it writes over is decided by reference counts, which such a build keeps in "
    "another way. Use the ordinary build of the same version (its `python -VV` does not say 'free-threading'; with uv: "
    "`uv python install {short}`, without the `t`)."
)


def free_threaded() -> bool:
    """Tell whether this is a build that can do without the interpreter lock.

    The build decides, not whether the lock is on: an extension module that is imported later can switch it on, and
    with the lock on such a build still keeps two counts for an object, of its own thread and of all others.
    """
    return "t" in getattr(sys, "abiflags", "") or "free-threading" in sys.version


def check() -> None:
    """Raise `ImportError` on an interpreter that the engine cannot be trusted on."""
    if free_threaded():
        short = ".".join(map(str, sys.version_info[:2]))
        raise ImportError(REFUSED.format(version=sys.version.split(maxsplit=1)[0], short=short))
