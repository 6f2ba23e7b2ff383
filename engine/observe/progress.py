"""Progress bars: `progress=` where one waits. tqdm draws them, in terminals and in notebooks.

Ops end on any thread; a bar is drawn by the loop of the task that waits, at most ten times a second, so that no worker
ever writes to a terminal.
"""

from __future__ import annotations

import logging
import math
import threading
import weakref
from collections.abc import Callable, Iterable
from time import monotonic
from types import TracebackType
from typing import Any, Protocol, Self

from engine.base.loops import AbstractEventLoop, TimerHandle, asyncio_loop, call_soon
from engine.observe.extras import needed
from handles.cell import PENDING, Cell, Failure

logger = logging.getLogger("engine.observe")

REDRAWN = 0.1
"""Seconds between two drawings."""

Progress = bool | str | type | None
"""The values of `progress=`: True, a label, or a tqdm class."""


class Tqdm(Protocol):
    """A bar, as far as it is used."""

    total: Any

    def update(self, n: int) -> object: ...

    def refresh(self) -> object: ...

    def set_postfix_str(self, s: str, refresh: bool) -> object: ...

    def close(self) -> object: ...


def check(progress: Progress) -> None:
    """Raise `TypeError` unless `progress` is what `progress=` takes, and `ImportError` where tqdm is missing."""
    if progress is None or progress is False:
        return
    if isinstance(progress, type) and hasattr(progress, "update") and hasattr(progress, "close"):
        return
    if progress is not True and not isinstance(progress, str):
        raise TypeError(f"progress must be True, a label, or a tqdm class, but got {progress!r}")
    needed("tqdm", "progress=")


class Bar:
    """Counts ops as they are added and as they end, on any thread, and draws a bar of it on its loop."""

    def __init__(self, made: Tqdm, total: int, loop: AbstractEventLoop) -> None:
        self._tqdm: Tqdm | None = made
        self._loop = loop
        self._lock = threading.Lock()
        self._total = total
        self._done = self._shown = self._failed = 0
        self._drawn = -math.inf
        self._timer: TimerHandle | None = None
        self._scheduled = False
        self._watched: list[weakref.ref[Cell]] = []

    def added(self) -> None:
        """One more is waited for."""
        with self._lock:
            self._total += 1
        self._changed()

    def ended(self, cell: Cell) -> None:
        """One has ended."""
        with self._lock:
            self._done += 1
            self._failed += cell.value.__class__ is Failure
        self._changed()

    def watch(self, cells: Iterable[Cell]) -> None:
        """Look now and then which of these have ended. They are not kept, nor told of, so that they may be fused."""
        self._watched = [weakref.ref(cell) for cell in cells]
        self._total += len(self._watched)
        self._changed()

    def _look(self) -> None:
        left = []
        for reference in self._watched:
            cell = reference()
            if cell is not None and cell.value is PENDING:
                left.append(reference)
            else:
                self._failed += cell is not None and cell.value.__class__ is Failure
        self._done += len(self._watched) - len(left)
        self._watched = left

    def _changed(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            call_soon(self._loop, self._later)

    def _later(self) -> None:
        """On the loop: draw, now or when it is time."""
        left = self._drawn + REDRAWN - monotonic()
        if self._tqdm is None:
            return
        if left > 0:
            self._timer = self._loop.call_later(left, self._later)
            return
        self._scheduled = False
        self._draw()
        if self._watched:
            self._changed()

    def _draw(self) -> None:
        bar = self._tqdm
        try:
            if bar is not None:
                self._show(bar)
        except Exception:
            logger.exception("the progress bar %r raised and is shown no more", bar)
            self._tqdm = None

    def _show(self, bar: Tqdm) -> None:
        self._drawn = monotonic()
        if self._watched:
            self._look()
        with self._lock:
            done, bar.total = self._done, self._total
        if self._failed:
            bar.set_postfix_str(f"{self._failed} failed", False)
        bar.update(done - self._shown)
        self._shown = done
        bar.refresh()

    def close(self) -> None:
        """Show how it ended, and draw no more."""
        if self._timer is not None:
            self._timer.cancel()
        self._draw()
        bar, self._tqdm = self._tqdm, None
        if bar is not None:
            bar.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class NoBar:
    """Where no bar was asked for."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def added(self) -> None: ...

    def ended(self, cell: Cell) -> None: ...

    def watch(self, cells: Iterable[Cell]) -> None: ...

    def close(self) -> None: ...


NO_BAR = NoBar()


def bar(progress: Progress, label: str, total: int = 0) -> Bar | NoBar:
    """The bar that `progress=` asks for, on the running loop."""
    if progress is None or progress is False:
        return NO_BAR
    check(progress)
    return Bar(_make(progress, progress if isinstance(progress, str) else label, total), total, asyncio_loop())


def _make(progress: Progress, label: str, total: int) -> Tqdm:
    if isinstance(progress, type):
        factory: Callable[..., Tqdm] = progress
        return factory(total=total, desc=label, unit="op")
    from tqdm.auto import tqdm  # type: ignore[import-untyped]

    # disable=None: nothing is written where stderr is no terminal, a notebook's widget apart. leave=None: only the
    # outermost of nested bars stays when it is done.
    made: Tqdm = tqdm(total=total, desc=label, unit="op", disable=None, leave=None)
    return made
