"""What users hold: handles of results that are there, and of results that will be."""

from handles.base import Handle
from handles.cell import CancelOutcome
from handles.eager import EagerHandle
from handles.pending import AsyncHandle

__all__ = ["AsyncHandle", "CancelOutcome", "EagerHandle", "Handle"]
