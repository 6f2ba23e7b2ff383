"""Methods of a handle: those of `ndarray`, with its signatures; each calls the NumPy function of that name."""

from __future__ import annotations

from handles.elements import Elements
from handles.protocols import Protocols
from handles.reductions import Reductions
from handles.selection import Rearrangement, Selection
from handles.shapes import Shapes


class Methods(Protocols, Reductions, Shapes, Elements, Selection, Rearrangement):
    """Methods that NumPy users call on arrays, and NumPy's own protocols."""

    __slots__ = ()
