"""The monitor: a thread that runs while there are observers, measures how late event loops are, and hands events on.

It asks each running loop that the engine works on to call back, and takes the time. While a loop does not, it looks
where the loop's thread is: that is the line which blocks it. The monitor changes nothing but what is its own.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from threading import get_ident
from time import perf_counter

from engine.base.loops import AbstractEventLoop, call_soon, running_loop
from engine.failures import INTERNAL, site
from engine.observe.recorder import LAG, STALLED, Recorder
from engine.queues import forking
from engine.queues.device_queue import DeviceQueue

TICK = 0.02
"""Seconds between two looks."""
STALL = 0.1
"""Seconds from which a loop that does not call back counts as stalled."""
UNKNOWN = "an unknown place"


def device_queues() -> list[DeviceQueue]:
    """The queues of all executors of the process."""
    while True:
        try:
            return list(forking.queues)
        except RuntimeError:  # one was made meanwhile
            continue


class Beat:
    """The watch of one loop."""

    def __init__(self, loop: AbstractEventLoop, number: int, recorder: Recorder) -> None:
        self.loop = loop
        self._number = number
        self._recorder = recorder
        self._sent: float | None = None
        self._site = UNKNOWN
        self._thread: int | None = get_ident() if running_loop() is loop else None

    def look(self, now: float) -> None:
        """Ask the loop, or look where it is when it has not answered for long."""
        if not self.loop.is_running():
            self._sent = None  # an answer that comes when it runs again says nothing
        elif self._sent is None:
            self._sent = now
            if not call_soon(self.loop, self._answer, now):
                self._sent = None
        elif now - self._sent > STALL / 2 and self._site is UNKNOWN:
            self._site = self._where()

    def _answer(self, sent: float) -> None:
        """On the loop."""
        self._thread = get_ident()
        if self._sent == sent:
            self.end(perf_counter())

    def end(self, now: float) -> None:
        """The loop has answered, or is not asked any more."""
        sent, where = self._sent, self._site
        if sent is None:
            return
        seconds = now - sent
        self._sent, self._site = None, UNKNOWN
        self._recorder.write((LAG, now, self._number, seconds))
        if seconds >= STALL:
            self._recorder.write((STALLED, now, seconds, where))

    def _where(self) -> str:
        """The innermost line outside the engine that the loop's thread is at."""
        frame = sys._current_frames().get(self._thread or 0)
        while frame is not None and INTERNAL in frame.f_globals:
            frame = frame.f_back
        return UNKNOWN if frame is None else site(frame.f_code, frame.f_lasti)


class Monitor:
    """The thread."""

    def __init__(self, recorder: Recorder, hand_on: Callable[[], None]) -> None:
        self._recorder = recorder
        self._hand_on = hand_on
        self._beats: dict[AbstractEventLoop, Beat] = {}
        self._count = 0
        self._ended = threading.Event()
        loop = running_loop()
        if loop is not None:
            self._ask(loop, perf_counter())
        self._thread = threading.Thread(target=self._run, name="eagerloop-observe", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; loops that have not answered are told of as they are."""
        self._ended.set()
        if self._thread is not threading.current_thread():
            self._thread.join(1.0)
        now = perf_counter()
        for beat in list(self._beats.values()):
            beat.end(now)

    def _ask(self, loop: AbstractEventLoop, now: float) -> None:
        beat = self._beats.get(loop)
        if beat is None:
            self._count += 1
            beat = self._beats[loop] = Beat(loop, self._count, self._recorder)
        beat.look(now)

    def _run(self) -> None:
        while not self._ended.wait(TICK):
            now = perf_counter()
            loops = {queue.driver.loop for queue in device_queues()} | set(self._beats)
            for loop in loops:
                if loop is not None and loop.is_closed():
                    self._beats.pop(loop, None)
                elif loop is not None:
                    self._ask(loop, now)
            self._hand_on()
