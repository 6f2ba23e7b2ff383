"""Versions that have to be the same in this program and on its workers."""

from __future__ import annotations

import platform

import numpy as np

from engine.base import version


def versions() -> dict[str, str]:
    """The versions here, by the names of what they are of."""
    python = ".".join(platform.python_version_tuple()[:2])
    return {"eagerloop": version.VERSION, "NumPy": ".".join(np.__version__.split(".")[:2]), "Python": python}
