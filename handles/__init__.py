"""Handles, which users hold: of results that are there, of ones that will be, and of those that a graph describes."""

# Libraries that look for functions where a class comes from (opt_einsum does) find these, which dispatch to the engine.
from numpy import einsum as einsum, tensordot as tensordot, transpose as transpose

from handles.base import Handle
from handles.cell import CancelOutcome
from handles.eager import EagerHandle
from handles.missing import name_missing
from handles.pending import AsyncHandle
from handles.symbol import Symbol

name_missing(Handle)

__all__ = ["AsyncHandle", "CancelOutcome", "EagerHandle", "Handle", "Symbol"]


def __dir__() -> list[str]:
    return sorted(__all__)
