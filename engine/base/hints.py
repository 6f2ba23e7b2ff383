"""Hints: what to use in place of a name that a module has not: the error of its `__getattr__` says so."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from difflib import get_close_matches
from functools import lru_cache
from typing import NoReturn

import numpy as np

RENAMED = {
    "absolute": "abs",
    "amax": "max",
    "amin": "min",
    "array": "asarray",
    "asanyarray": "asarray",
    "ascontiguousarray": "asarray",
    "around": "round",
    "bitwise_not": "bitwise_invert",
    "concatenate": "concat",
    "conjugate": "conj",
    "cumprod": "cumulative_prod",
    "cumsum": "cumulative_sum",
    "fabs": "abs",
    "mod": "remainder",
    "transpose": "permute_dims",
    "true_divide": "divide",
}
"""NumPy's names, and those of the array API standard where they are not of one ufunc."""


def raise_missing(
    module: str,
    name: str,
    names: Iterable[str],
    numpy_module: str = "",
    renamed: Callable[[object], str | None] = lambda _: None,
) -> NoReturn:
    """Raise the `AttributeError` of a module for a name that it has not.

    `numpy_module` is the module of NumPy whose functions take handles ("numpy.linalg"), where there is one; `renamed`
    says what the module calls a function of NumPy.
    """
    hint = "" if name.startswith("_") else _hint(module, name, tuple(names), numpy_module, renamed)
    raise AttributeError(f"module {module!r} has no attribute {name!r}{hint}")


@lru_cache(maxsize=1024)  # libraries ask for what may be there, again and again
def _hint(
    module: str, name: str, names: tuple[str, ...], numpy_module: str, renamed: Callable[[object], str | None]
) -> str:
    known = _of_numpy(numpy_module, name)
    ours = RENAMED.get(name) or renamed(known) if callable(known) else None
    said = []
    if ours in names:
        said.append(f"the array API standard calls it {module}.{ours}")
    if isinstance(known, np.ufunc) or hasattr(known, "_implementation"):
        said.append(f"{numpy_module}.{name}(handle, ...) takes handles")
    if not said:
        close = get_close_matches(name, names, n=1, cutoff=0.6)
        said = [f"did you mean {module}.{close[0]}?"] if close else []
    return ": " + ", and ".join(said) if said else ""


def _of_numpy(module: str, name: str) -> object:
    found: object = np
    for part in module.split(".")[1:] if module else ():
        found = getattr(found, part, None)
    return getattr(found, name, None) if module else None
