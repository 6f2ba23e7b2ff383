"""Interrupts at a chosen place: `KeyboardInterrupt` where CPython looks for signals, in code of the package.

CPython looks where a function begins, after a call, and where a loop goes back, and nowhere else. `Interrupt(n)` raises
in the block at the n-th such place that this thread comes to. The end of a `with` block is spared: where it has not
begun when an interrupt comes, Python leaves the block without it.
"""

import dis
import functools
import gc
import os
import sys
from collections.abc import Collection
from pathlib import Path
from types import CodeType, FrameType, TracebackType
from typing import Any, Self

import engine
import handles

PACKAGES = tuple(f"{Path(str(package.__file__)).parent}{os.sep}" for package in (engine, handles))
CALLS = {"CALL", "CALL_FUNCTION_EX", "CALL_KW"}


@functools.cache
def places(code: CodeType) -> dict[int, str]:
    """The instructions before which an interrupt may come, by offset, and the name of the one that is run before."""
    before = ""
    found = {}
    for each in dis.get_instructions(code):
        if before in CALLS or before == "RESUME":
            found[each.offset] = before
        before = each.opname
        if before == "JUMP_BACKWARD":
            found[each.argval] = before
    return found


class Interrupt:
    """Interrupts the block at one place, of those in functions `within` where given; `came` says which it was."""

    def __init__(self, at: int, within: Collection[str] = ()) -> None:
        self._left = at
        self._within = within
        self._returned = False
        """True where a function of Python has returned: CPython does not look behind the call of one."""
        self._armed = False
        self._before: Any = None
        self.came = ""

    def __enter__(self) -> Self:
        gc.disable()
        self._before = sys.gettrace()
        self._armed = True
        sys.settrace(self._trace)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._armed = False
        sys.settrace(self._before)
        gc.enable()
        return isinstance(error, KeyboardInterrupt)

    def _trace(self, frame: FrameType, _event: str, _argument: object) -> Any:
        if not self._armed or not frame.f_code.co_filename.startswith(PACKAGES):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self._step

    def _step(self, frame: FrameType, event: str, _argument: object) -> Any:
        if self._armed and event == "opcode":
            looked = places(frame.f_code).get(frame.f_lasti)
            there = not self._within or frame.f_code.co_name in self._within
            if there and looked is not None and not (looked in CALLS and self._returned) and not _is_spared(frame):
                self._left -= 1
                if self._left == 0:
                    self._armed = False
                    self.came = f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_name}"
                    raise KeyboardInterrupt
        self._returned = event == "return"
        return self._step


def _is_spared(frame: FrameType | None) -> bool:
    if frame is not None and frame.f_code.co_name in ("__exit__", "leave"):
        return True
    while frame is not None:  # what a finalizer raises is printed, and goes no further
        if frame.f_code.co_name == "__del__":
            return True
        frame = frame.f_back
    return False
