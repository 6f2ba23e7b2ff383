"""Displays of a handle in notebooks, and of a few facts in general. Nothing here waits, and nothing raises."""

from __future__ import annotations

import base64
import dataclasses
import struct
import sys
import zlib
from collections.abc import Mapping
from html import escape
from types import CodeType
from typing import TYPE_CHECKING, Any

import numpy as np

from handles.cell import Failure

if TYPE_CHECKING:
    from handles.holder import Holder

Array = np.ndarray[Any, Any]

LONGEST_SIDE = 128
"""Pixels of a thumbnail."""
SMALLEST_SIDE = 8
"""Rows and columns from which an array is shown as a picture."""
MOST_LINES = 8
"""Lines of values that are shown of an array that is not a picture."""


def line_of(code: CodeType, lasti: int) -> int:
    """The line of the instruction `lasti`."""
    return next((line for start, end, line in code.co_lines() if start <= lasti < end and line), code.co_firstlineno)


def site(code: CodeType | None, lasti: int) -> str:
    """`file:line` of the instruction `lasti` of `code`; in a notebook `Cell In[n], line m`, as IPython has it."""
    if code is None:
        return "an unknown place"
    known = _sites.get((id(code), lasti))
    if known is not None and known[0] is code:
        return known[1]
    cell = _cell_name(code.co_filename)
    line = line_of(code, lasti)
    where = f"{code.co_filename}:{line}" if cell is None else f"{cell}, line {line}"
    if len(_sites) >= SITES:
        _sites.clear()
    _sites[id(code), lasti] = code, where
    return where


SITES = 1_000
"""Places whose line is remembered: ops that are cancelled together were mostly dispatched at one place."""
_sites: dict[tuple[int, int], tuple[CodeType, str]] = {}
"""By the identity of the code, whose hash takes longer than to look for the line."""


def shell() -> Any:
    """The IPython shell that runs this program; None where there is none. IPython is not imported for it."""
    get = getattr(sys.modules.get("IPython"), "get_ipython", None)
    return None if get is None else get()


def _cell_name(filename: str) -> str | None:
    """The name that IPython has for the cell whose code was compiled under this name."""
    name = getattr(getattr(shell(), "compile", None), "format_code_name", None)
    words = None if name is None else name(filename)
    return " ".join(words) if words else None


def table_html(title: str, facts: Mapping[str, object]) -> str:
    """Some facts as a small table."""
    rows = "".join(
        f'<tr><td style="text-align:left">{escape(name)}</td><td style="text-align:left">{escape(str(fact))}</td></tr>'
        for name, fact in facts.items()
    )
    return f"<div><b>{escape(title)}</b><table>{rows}</table></div>"


def statistics_html(statistics: Any) -> str:
    """A frozen dataclass as a small table."""
    names = [field.name for field in dataclasses.fields(statistics)]
    facts = {name.replace("_", " "): _number(getattr(statistics, name)) for name in names}
    return table_html(type(statistics).__name__, facts)


def _number(value: object) -> str:
    if isinstance(value, tuple):  # the last of many: a table is for reading
        last = ", ".join(f"{each:.3g}" if isinstance(each, float) else str(each) for each in value[-8:])
        return f"{len(value):,}, the last: … {last}" if len(value) > 8 else last
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def handle_html(handle: Holder) -> str:
    """Say what is known of a handle: state, its shape, its op and place, and its value or error where it has one."""
    try:
        return table_html(type(handle).__name__, _facts(handle)) + _result_html(handle)
    except Exception as error:  # noqa: BLE001 - a display never raises
        return f"<pre>{escape(type(handle).__name__)}: not shown because of {escape(type(error).__name__)}</pre>"


def _facts(handle: Holder) -> dict[str, object]:
    cell = handle._cell
    facts: dict[str, object] = {"state": cell.state}
    try:
        inferred = cell.home.infer(cell, tell=False)
        facts |= {"shape": inferred.shape, "dtype": inferred.dtype}
    except Exception as error:  # noqa: BLE001 - a mismatch is worth showing before the op has run
        if not isinstance(cell.value, Failure):
            facts["shape"] = f"unknown: {error}"
    facts |= {"device": cell.home.device, "op": cell.op.name}
    if cell.code is not None:
        facts["dispatched at"] = site(cell.code, cell.lasti)
    return facts


def _result_html(handle: Holder) -> str:
    cell = handle._cell
    if isinstance(cell.value, Failure):
        failure = cell.value
        lines = [f"{type(failure.error).__name__}: {failure.error}", *map(str, failure.notes)]
        return f'<pre style="color:#b3261e">{escape(chr(10).join(lines))}</pre>'
    if cell.state != "ready":
        return ""
    value = cell.home.peek(cell)
    if value is None:
        return f"<p>on {escape(str(cell.home.device))}, not read yet</p>"
    picture = thumbnail(value)
    if picture is not None:
        return f'<img src="{picture}" alt="the values as a picture" style="image-rendering:pixelated">'
    return f"<pre>{escape(head(value))}</pre>"


def head(value: Array) -> str:
    """The first values as text."""
    text = np.array2string(value, threshold=64, edgeitems=3, max_line_width=100)
    lines = text.splitlines()
    return "\n".join([*lines[:MOST_LINES], "..."] if len(lines) > MOST_LINES else lines)


def thumbnail(value: Array) -> str | None:
    """An array of two dimensions as a grey picture, one of `(h, w, 3 or 4)` bytes in colour; None for others.

    As the address of a PNG. Only the elements that are shown are looked at.
    """
    coloured = value.ndim == 3 and value.shape[2] in (3, 4) and value.dtype == np.uint8
    if not (coloured or (value.ndim == 2 and value.dtype.kind in "biuf")) or min(value.shape[:2]) < SMALLEST_SIDE:
        return None
    step = max(1, -(-max(value.shape[:2]) // LONGEST_SIDE))
    part = np.ascontiguousarray(value[::step, ::step])
    return "data:image/png;base64," + base64.b64encode(_png(part if coloured else _grey(part))).decode("ascii")


def _grey(part: Array) -> Array:
    """From the least value, black, to the largest, white; what is not finite is black."""
    with np.errstate(all="ignore"):
        values = part.astype(np.float64)
        finite = np.isfinite(values)
        low = values.min(where=finite, initial=np.inf)
        high = values.max(where=finite, initial=-np.inf)
        scale = 255.0 / (high - low) if high > low else 0.0
        return np.where(finite, (values - low) * scale, 0.0).astype(np.uint8)


def _png(pixels: Array) -> bytes:
    """Bytes of shape `(h, w)`, `(h, w, 3)` or `(h, w, 4)` as a PNG."""
    height, width = pixels.shape[:2]
    kind = 0 if pixels.ndim == 2 else {3: 2, 4: 6}[pixels.shape[2]]
    rows = pixels.reshape(height, -1)
    data = np.hstack([np.zeros((height, 1), np.uint8), rows]).tobytes()  # each row says that it is not filtered

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
