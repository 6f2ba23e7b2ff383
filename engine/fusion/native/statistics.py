"""The figures of native fusion that users see."""

from __future__ import annotations

from dataclasses import dataclass

from handles.display import statistics_html


@dataclass(frozen=True, slots=True)
class FusionStatistics:
    """Native fusion in this process, at one moment.

    Example:
        >>> import engine
        >>> engine.fusion_statistics().failed
        0
    """

    available: bool
    """True if groups are compiled: llvmlite is installed, and the machine is one that code is written for."""
    cached: int
    """Structures whose code is there."""
    limit: int
    """Structures whose code is kept at most."""
    compiled: int
    """Structures that were compiled."""
    evicted: int
    """Structures whose code was given up for that of others."""
    unsupported: int
    """Structures that no code is written for: they are computed by NumPy's ufuncs, block by block."""
    failed: int
    """Structures that the compiler failed on; they are computed as if they were not supported."""
    compile_seconds: float
    """Seconds that compiling took, all in the background."""
    hits: int
    """Groups that were executed as compiled code."""
    misses: int
    """Groups that were executed by NumPy's ufuncs, block by block."""
    blocks_repeated: int
    """Blocks that were computed once more by NumPy's ufuncs, for a warning or for bits that were not certain."""
    differing: tuple[str, ...]
    """Ops whose compiled form did not have NumPy's bits on this machine, with their dtypes: NumPy's are called."""
    from_disk: int = 0
    """Structures, of those compiled, whose code an earlier process had kept on disk (`EAGERLOOP_CACHE_DIR`)."""

    def _repr_html_(self) -> str:
        return statistics_html(self)
