"""Optional libraries: what is said where one is missing."""

from __future__ import annotations

from importlib.util import find_spec


def needed(library: str, what_for: str, *, distribution: str | None = None) -> None:
    """Raise `ImportError` unless the library is there."""
    if not is_there(library):
        name = distribution or library
        raise ImportError(f"{what_for} needs {name}: pip install 'eagerloop[observe]'", name=library)


def is_there(library: str) -> bool:
    """Tell whether a library can be imported."""
    try:
        return find_spec(library) is not None
    except (ImportError, ValueError):
        return False
