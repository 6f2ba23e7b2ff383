"""Places in the user's program: how they are found, how they are named, and how tracebacks lead to them.

In a notebook the engine's own frames are kept out of the tracebacks that are shown.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from inspect import CO_OPTIMIZED
from sys import _getframe as frame_at
from types import CodeType, FrameType, TracebackType

from engine.base.warned import call_at, is_placed
from handles.cell import Failure
from handles.display import line_of, shell, site

INTERNAL = "_eagerloop_internal"
"""A name that stands in the modules whose frames are not the user's."""

_STANDARD_LIBRARY = os.path.dirname(os.__file__) + os.sep  # noqa: PTH120 - as the names of code have it
_PACKAGES = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")


def is_engines(frame: FrameType) -> bool:
    """Tell whether a frame is of the engine itself."""
    return INTERNAL in frame.f_globals or is_placed(frame.f_code)


def user_frame(depth: int) -> FrameType:
    """The innermost frame outside the engine, from `depth` frames above the caller on."""
    frame = frame_at(depth + 1)
    while INTERNAL in frame.f_globals and frame.f_back is not None:
        frame = frame.f_back
    return frame


def program_site() -> str | None:
    """Where the program itself is now, if it is a library that called the engine; None where it is the program."""
    frame: FrameType | None = user_frame(1)
    first = frame
    while frame is not None and _is_of_library(frame):
        frame = frame.f_back
    return None if frame is None or frame is first else site(frame.f_code, frame.f_lasti)


def _is_of_library(frame: FrameType) -> bool:
    name = frame.f_code.co_filename
    installed = name.startswith(("<frozen", "<__array_function__", _STANDARD_LIBRARY))
    return installed or is_engines(frame) or any(part in name for part in _PACKAGES)


def describe_op(name: str, device: object, code: CodeType | None, lasti: int) -> str:
    """An op, its device and where it was dispatched, in the words of an error's note."""
    where = f" in {code.co_qualname}" if code is not None and code.co_qualname else ""
    return f"op {name!r} on {device}, dispatched at {site(code, lasti)}{where}"


# ---------------------------------------------------------------------------------------------------------------------
# Tracebacks


def hide_frames() -> None:
    """Mark the engine's frames from the caller's outwards, so that IPython and pytest leave them out of tracebacks.

    To be called where an error is raised, which costs programs nothing that have none.
    """
    frame: FrameType | None = frame_at(1)
    while frame is not None and is_engines(frame):
        _hide(frame)
        frame = frame.f_back


def hide_traceback(trace: TracebackType | None) -> None:
    """Mark the engine's frames of a traceback."""
    while trace is not None:
        if is_engines(trace.tb_frame):
            _hide(trace.tb_frame)
        trace = trace.tb_next


def _hide(frame: FrameType) -> None:
    if not frame.f_code.co_flags & CO_OPTIMIZED:
        return  # of a module: these would be its globals
    names = frame.f_locals
    if names.__class__ is dict:  # before Python 3.13 a copy of the variables, which would keep their values
        names.clear()
    names["__tracebackhide__"] = True


def from_dispatch(code: CodeType | None, lasti: int, trace: TracebackType | None) -> TracebackType | None:
    """The traceback of a kernel, with the line of the dispatch in front of it."""
    if code is None:
        return trace
    frame: FrameType = call_at(code, lasti, frame_at, (), {})
    return TracebackType(trace, frame, frame.f_lasti, line_of(code, lasti))


def located(failure: Failure) -> BaseException:
    """The error as it left the kernel; its traceback leads from the line of the dispatch to that in the kernel."""
    error, record = failure.restored(), failure.record
    if record is None or record.code is None:
        return error
    return error.with_traceback(from_dispatch(record.code, record.lasti, failure.traceback))


def render_apart(error: BaseException) -> None:
    """In IPython, have the error shown without the engine's frames, also where one of them is the last."""
    if shell() is not None:
        vars(error)["_render_traceback_"] = render


def render() -> list[str]:
    """The traceback of the error that is being handled, as IPython shows tracebacks, without the engine's frames."""
    error = sys.exc_info()[1]
    assert error is not None
    trace: TracebackType | None = None
    for each in reversed(list(_entries(error.__traceback__))):
        if not is_engines(each.tb_frame):
            trace = TracebackType(trace, each.tb_frame, each.tb_lasti, each.tb_lineno)
    lines: list[str] = shell().InteractiveTB.structured_traceback(type(error), error, trace, tb_offset=1)
    return lines


def _entries(trace: TracebackType | None) -> Iterator[TracebackType]:
    while trace is not None:
        yield trace
        trace = trace.tb_next
