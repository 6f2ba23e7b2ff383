"""Writes down what CuPy has: `python tests/devices/cuda/describe_cupy.py` where it is installed, with a GPU or without.

The rules of GPUs are tried with NumPy's functions cut down to what is written there, in `cupy_names.txt`.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

FILE = Path(__file__).with_name("cupy_names.txt")


def described(cupy: Any) -> Iterator[str]:
    """A line for each function: its name and its parameters as a call has them, or the dtypes that a ufunc takes."""
    yield f"# CuPy {cupy.__version__}"
    for prefix, module in (("", cupy), ("linalg.", cupy.linalg), ("fft.", cupy.fft)):
        for name in sorted(dir(module)):
            value = getattr(module, name)
            if name.startswith("_") or not callable(value) or isinstance(value, type | ModuleType):
                continue
            if isinstance(value, cupy.ufunc):
                loops = " ".join(dict.fromkeys(each.partition("->")[0] for each in value.types))
                yield f"{prefix}{name}: ufunc of {value.nin}: {loops}"
                continue
            try:
                yield f"{prefix}{name}({_parameters(inspect.signature(value))})"
            except (TypeError, ValueError):  # compiled, and says nothing of its parameters
                yield f"{prefix}{name}(*args, **kwargs)"


def _parameters(signature: inspect.Signature) -> str:
    parts = []
    starred = False
    for each in signature.parameters.values():
        if each.kind is each.KEYWORD_ONLY and not starred:
            parts.append("*")
        starred = starred or each.kind in (each.KEYWORD_ONLY, each.VAR_POSITIONAL)
        stars = "*" if each.kind is each.VAR_POSITIONAL else "**" if each.kind is each.VAR_KEYWORD else ""
        parts.append(f"{stars}{each.name}" + ("" if each.default is each.empty else "=..."))
    return ", ".join(parts)


if __name__ == "__main__":
    import cupy

    FILE.write_text("\n".join(described(cupy)) + "\n", encoding="utf-8")
