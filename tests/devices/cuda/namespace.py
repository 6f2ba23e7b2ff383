"""NumPy's functions, cut down to the names and parameters that CuPy has: a rule that gets by here does so there.

`cupy_names.txt` says what CuPy has; where CuPy is installed a test compares it with that.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from tests.devices.cuda.describe_cupy import FILE

Parameter = inspect.Parameter


@cache
def known() -> Mapping[str, inspect.Signature]:
    """The functions that CuPy has, with what they can be called with."""
    found = {}
    for line in FILE.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            continue
        if ": ufunc of " in line:
            name, _, rest = line.partition(": ufunc of ")
            found[name] = _ufunc(int(rest.partition(":")[0]))
        else:
            name, _, rest = line.partition("(")
            found[name] = _signature(rest.removesuffix(")"))
    return found


@cache
def loops() -> Mapping[str, Sequence[str]]:
    """The dtypes that each ufunc of CuPy takes, by their characters."""
    parts = (line.split(": ") for line in FILE.read_text(encoding="utf-8").splitlines() if ": ufunc of " in line)
    return {name: types.split() for name, _, types in parts}


def _check_dtypes(path: str, args: Sequence[Any]) -> None:
    """Raise `TypeError` as CuPy does for arrays of dtypes that a ufunc has no loop for."""
    dtypes = [each.dtype if hasattr(each, "dtype") else None for each in args]
    for loop in loops()[path]:
        pairs = zip(dtypes, loop, strict=False)
        if all(dtype is None or np.can_cast(dtype, np.dtype(char)) for dtype, char in pairs):
            return
    raise TypeError(f"Wrong type ({dtypes}) of arguments for cupy_{path}")


_COMPARISONS = ("equal", "not_equal", "less", "less_equal", "greater", "greater_equal")
"""Functions that have loops for integers with and without a sign."""


def _check_scalars(args: Sequence[Any]) -> None:
    """Raise `ValueError` as CuPy does for an integer of NumPy's that makes a float of the integers beside it."""
    if any(isinstance(each, np.generic) for each in args):
        dtypes = [each.dtype for each in args if hasattr(each, "dtype")]
        if all(dtype.kind in "iu" for dtype in dtypes) and np.result_type(*dtypes).kind == "f":
            raise ValueError("Invalid integer data type 'f'.")


def _ufunc(count: int) -> inspect.Signature:
    operands = [Parameter(f"x{index}", Parameter.POSITIONAL_ONLY) for index in range(count)]
    keywords = [Parameter(name, Parameter.KEYWORD_ONLY, default=None) for name in ("out", "dtype", "casting", "where")]
    return inspect.Signature([*operands, *keywords])


def _signature(text: str) -> inspect.Signature:
    parameters = []
    kind: Any = Parameter.POSITIONAL_OR_KEYWORD
    for part in filter(None, text.split(", ")):
        if part == "*":
            kind = Parameter.KEYWORD_ONLY
        elif part.startswith("**"):
            parameters.append(Parameter(part[2:], Parameter.VAR_KEYWORD))
        elif part.startswith("*"):
            parameters.append(Parameter(part[1:], Parameter.VAR_POSITIONAL))
            kind = Parameter.KEYWORD_ONLY
        else:
            name, given, _ = part.partition("=")
            parameters.append(Parameter(name, kind, default=None if given else Parameter.empty))
    return inspect.Signature(parameters)


class Captured(np.ndarray[Any, Any]):
    """An array while a stream captures: what it holds is not known, so that a look at it is an error."""

    def _look(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("the current stream is capturing, so a copy to the host is not allowed")

    def __getitem__(self, key: Any) -> Any:
        parts = key if isinstance(key, tuple) else (key,)
        if any(isinstance(each, np.ndarray) and each.dtype.kind == "b" for each in parts):
            self._look()  # how many elements a mask takes
        return super().__getitem__(key)

    __bool__ = __int__ = __float__ = __index__ = __complex__ = item = tolist = _look


class Names:
    """A module of functions that CuPy has."""

    def __init__(self, module: Any = np, prefix: str = "") -> None:
        self._module = module
        self._prefix = prefix

    def __getattr__(self, name: str) -> Any:
        if not self._prefix and name in ("linalg", "fft"):
            return Names(getattr(np, name), f"{name}.")
        path = self._prefix + name
        if path not in known():
            raise AttributeError(f"CuPy has no {path}")
        return _strict(getattr(self._module, name), path, known()[path])


@cache
def _strict(function: Callable[..., Any], path: str, signature: inspect.Signature) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"CuPy's {path}{signature} takes no such argument: {error}") from None
        for each in args:
            if each.__class__ is int and not -(1 << 63) <= each < 1 << 64:
                raise OverflowError("Python int too large to convert to C long")
        if path in loops():
            _check_dtypes(path, args)
            if path not in _COMPARISONS:
                _check_scalars(args)
        result = _arrays(function(*args, **kwargs))
        return _captured(result) if any(isinstance(each, Captured) for each in args) else result

    if path in ("add", "multiply"):  # it has them for these two only
        for name, parameters in _METHODS.items():
            setattr(call, name, _strict(getattr(function, name), f"{path}.{name}", _signature(parameters)))
    return call


_METHODS = {
    "reduce": "array, axis=..., dtype=..., out=..., keepdims=...",
    "accumulate": "array, axis=..., dtype=..., out=...",
    "outer": "A, B",
}
"""The methods of ufuncs that CuPy has; the class is compiled and does not say what they take."""


def _captured(result: Any) -> Any:
    if isinstance(result, tuple):
        return tuple(map(_captured, result))
    return result.view(Captured) if isinstance(result, np.ndarray) else result


def _arrays(result: Any) -> Any:
    """Arrays without dimensions where NumPy gives scalars, as CuPy has none."""
    if isinstance(result, tuple):
        return tuple(map(_arrays, result))
    return np.asarray(result) if isinstance(result, np.generic) else result
