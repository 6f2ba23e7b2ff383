"""Libraries that have to be told of handles: told once they are loaded, never imported from here."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from engine.settings.switch import program
from handles.base import Handle

_told: dict[str, object] = {}


def meet_libraries() -> None:
    """Tell einops, if the program has loaded it, how to work with handles."""
    if "einops" not in _told and "einops._backends" in sys.modules:
        # Kept here: a class keeps no references to its subclasses.
        _told["einops"] = _make_einops_backend(sys.modules["einops._backends"])


def _make_einops_backend(backends: Any) -> type:
    """einops finds subclasses of its `AbstractBackend` by itself, once the package that they name is loaded."""

    class HandleBackend(backends.NumpyBackend):  # type: ignore[misc]
        framework_name = "handles"

        def is_appropriate_type(self, tensor: object) -> bool:
            return isinstance(tensor, Handle)

        def from_numpy(self, x: object) -> object:
            return program.namespace.asarray(x)

        def to_numpy(self, x: Handle) -> np.ndarray[Any, Any]:
            return np.asarray(x)

    return HandleBackend
