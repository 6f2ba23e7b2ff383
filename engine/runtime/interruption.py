"""Interrupting the body of a block in its task, as the groups and timeouts of asyncio do.

The task is cancelled at most once. The request is counted (`Task.cancelling`) and taken back when the block is left;
the `CancelledError` is taken for this request's only where no other is outstanding, so cancellations from outside,
asyncio's or anyio's, pass through.

All of it runs on the thread of the task's loop.
"""

from __future__ import annotations

import contextlib
import sys
from inspect import CO_ASYNC_GENERATOR
from opcode import opmap
from types import FrameType

from engine.base.loops import CancelledError, Task, current_task, turn

_GROUPS_KEEP_THE_COUNT = sys.version_info < (3, 13)
"""True if a group of asyncio that ends by a failure while it waits leaves its task's `cancelling()` one too high."""

_RESUME = opmap["RESUME"]
_AFTER_YIELD = 1
"""The argument of the instruction that a generator resumes at when it has yielded to its consumer."""


class Interruption:
    """The one interruption of a block that the current task enters now.

    An async generator that holds the block across `yield` lends its consumer's task to the body: while the generator
    is suspended there, the task runs code of the consumer, which is not interrupted. The generator of a context
    manager is not of that kind: there the code of its user is the body.
    """

    __slots__ = ("_before", "_frame", "_open", "_sent", "task")

    def __init__(self, *, in_generator: bool = True) -> None:
        """`in_generator` is False where the block cannot be in an async generator, so that need not be looked at."""
        task = current_task()
        if task is None:
            raise RuntimeError("a scope is entered in a task of the running event loop: use asyncio.run(main())")
        self.task = task
        self._before = task.cancelling()
        self._open = True
        self._sent = False
        self._frame = _consumed_generator(sys._getframe(2)) if in_generator else None

    def send(self) -> None:
        """Cancel the body, unless it has ended or was cancelled before. To be called by the loop, not by a task."""
        if self._open and not self._sent and not (self._frame is not None and _at_yield(self._frame)):
            self._sent = True
            self.task.cancel()

    def close(self) -> None:
        """The body has ended, and was not interrupted: it is not from now on."""
        self._open = False

    def is_left_behind(self, error: BaseException | None) -> bool:
        """True if the loop closes an async generator that held the block, while its consumer goes on."""
        return isinstance(error, GeneratorExit) and self.task is not current_task() and not self.task.done()

    async def take_back(self, error: BaseException | None, *, dropped: bool = False) -> bool:
        """The body has ended: take the request back, and say whether `error` is the `CancelledError` of it alone.

        `dropped` says that work of the block failed or was dropped, so that groups of tasks in its body may have ended
        by that.
        """
        self._open = False
        self._frame = None
        task = self.task
        if dropped and _GROUPS_KEEP_THE_COUNT and isinstance(error, BaseExceptionGroup) and not _is_due(task):
            while task.cancelling() > self._before + self._sent:
                task.uncancel()
        if not self._sent:
            return False
        alone = task.uncancel() <= self._before
        if isinstance(error, CancelledError) or not alone or task is not current_task():
            return alone and isinstance(error, CancelledError)
        if _is_due(task):  # the body ended before the CancelledError reached it
            try:
                await turn()
            except CancelledError:
                if task.cancelling() > self._before:
                    raise
        return False


def _is_due(task: Task[object]) -> bool:
    """True if the next step of a task will raise a `CancelledError` in it."""
    return bool(getattr(task, "_must_cancel", False))


def _consumed_generator(frame: FrameType | None) -> FrameType | None:
    """The frame of the async generator that `frame`, which enters a block, belongs to, unless it is of a context
    manager: then that of the generator, if it is one, that uses the context manager."""
    inside = vars(contextlib)
    while frame is not None:
        if frame.f_globals is inside:
            frame = frame.f_back
        elif not frame.f_code.co_flags & CO_ASYNC_GENERATOR:
            return None
        elif frame.f_back is None or frame.f_back.f_globals is not inside:
            return frame
        else:
            frame = frame.f_back
    return None


def _at_yield(frame: FrameType) -> bool:
    """True if an async generator has yielded to its consumer, rather than awaits something or runs."""
    code, at = frame.f_code.co_code, frame.f_lasti
    if 0 <= at < len(code) - 2 and code[at] != _RESUME:
        at += 2
    return 0 <= at < len(code) and code[at] == _RESUME and code[at + 1] & 3 == _AFTER_YIELD
