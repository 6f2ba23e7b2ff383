"""`engine.profile()`: what ran, when, where, and what it waited for.

While the block lasts only the recorder's tuples are kept; records, tables and pictures are made when they are asked
for.
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING, Self

from engine.observe import tables, trace_events
from engine.observe.assembly import Assembly, Draft, Lag, Stall
from engine.observe.events import OpRecord
from engine.observe.extras import needed
from engine.observe.hub import hub
from engine.observe.pictures import as_html, plot
from engine.observe.recorder import CALLED, DISPATCHED, Raw, Recorder
from engine.queues.leftovers import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_OPS = 1_000_000


class Profile:
    """A record of what the engine did inside its block; `with engine.profile() as profile:`, also `async with`.

    Leaving the block waits for nothing: ops that have not ended by then are in it as far as they came. In a notebook
    the profile shows itself as a timeline and a table.
    """

    def __init__(self, most_ops: int) -> None:
        self._most_events = 4 * most_ops
        self._events: list[Raw] = []
        self._recorder: Recorder | None = None
        self._running = False
        self._began = 0.0
        self._ended = 0.0
        self._dropped = 0
        self._read: tuple[int, tuple[OpRecord, ...], tuple[Lag, ...], tuple[Stall, ...]] = (-1, (), (), ())

    def __enter__(self) -> Self:
        if self._recorder is not None:
            raise RuntimeError("a profile is entered once: make another one with engine.profile()")
        self._recorder = hub.begin(self)
        self._running = True
        self._began = perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended = perf_counter()
        hub.end(self)
        self._running = False

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)

    def keep(self, events: list[Raw]) -> None:
        """Take what was recorded, from the hub."""
        room = self._most_events - len(self._events)
        if len(events) > room:
            self._dropped += sum(raw[0] in (DISPATCHED, CALLED) for raw in events[room:])
            events = events[:room]
        self._events.extend(events)

    # What it knows

    @property
    def ops(self) -> tuple[OpRecord, ...]:
        """A record of each op that was dispatched inside the block, in that order; inside the block, so far."""
        return self._reading()[1]

    @property
    def lags(self) -> tuple[Lag, ...]:
        """How late event loops called back: `time`, a number for the `loop`, and `seconds`."""
        return self._reading()[2]

    @property
    def stalls(self) -> tuple[Stall, ...]:
        """When an event loop did nothing else for a tenth of a second or more: `time`, `seconds`, and the `site`."""
        return self._reading()[3]

    @property
    def span(self) -> tuple[float, float]:
        """When the block began and ended, or now; in seconds of `time.perf_counter()`, as all times."""
        return self._began, perf_counter() if self._running else self._ended

    @property
    def dropped(self) -> int:
        """Ops that were not recorded, because there were more than `most_ops`."""
        return self._dropped

    def _reading(self) -> tuple[int, tuple[OpRecord, ...], tuple[Lag, ...], tuple[Stall, ...]]:
        if self._running:
            hub.deliver()
        if self._read[0] != len(self._events):
            self._read = self._assemble()
        return self._read

    def _assemble(self) -> tuple[int, tuple[OpRecord, ...], tuple[Lag, ...], tuple[Stall, ...]]:
        drafts: list[Draft] = []
        lags: list[Lag] = []
        stalls: list[Stall] = []
        count = len(self._events)
        assembly = Assembly()
        assembly.on_dispatched = drafts.append
        assembly.on_lag = lags.append
        assembly.on_stalled = stalls.append
        began = self._began
        assembly.read(raw for raw in self._events[:count] if raw[1] >= began)
        return count, tuple(map(assembly.record, drafts)), tuple(lags), tuple(stalls)

    # How it shows it

    def summary(self, limit: int = 20) -> str:
        """Tables as text: for each op name, and each line of the program, how often, how long, waiting, and bytes.

        Also what was fused, what was waited for, and how late the event loop was. `limit` is how many rows each table
        shows, those that took longest.
        """
        given: object = limit
        if not isinstance(given, int) or given < 1:
            raise ValueError(f"limit must be a positive integer, the rows of each table, but got {limit!r}")
        return tables.summary(self.ops, self.lags, self.stalls, self.span, self._dropped, limit)

    def save(self, path: str | PathLike[str]) -> None:
        """Write the timeline as trace-event JSON, which https://ui.perfetto.dev and chrome://tracing open.

        Each device is a process with a track for each thread; arrows lead from ops to those that read their results;
        counters show ops in flight, bytes held, and how late the event loop was. Raises `OSError` where `path` cannot
        be written.
        """
        if not isinstance(path, str | PathLike):
            raise TypeError(f"path must be the name of a file to write the trace to, but got {path!r}")
        text = trace_events.to_json(self.ops, self.lags, self.stalls, self.span)
        Path(path).write_text(text, encoding="utf-8")

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the timeline with matplotlib, on `ax` or on new axes, and return the axes.

        Raises `ImportError` where matplotlib is missing: `pip install 'eagerloop[observe]'`.
        """
        needed("matplotlib", "profile.plot()")
        if ax is not None and not hasattr(ax, "set_yticks"):
            raise TypeError(f"ax must be axes of matplotlib, as `_, ax = pyplot.subplots()` gives, but got {ax!r}")
        return plot(self.ops, self.span, ax)

    def _repr_html_(self) -> str:
        try:
            return as_html(self.ops, self.lags, self.stalls, self.span, self._dropped)
        except Exception as error:  # noqa: BLE001 - a display never raises
            return f"<pre>{type(self).__name__}: {type(error).__name__}</pre>"

    def __repr__(self) -> str:
        if self._recorder is None:
            return "<Profile not entered yet>"
        begin, end = self.span
        state = "running" if self._running else "ended"
        return f"<Profile {state}, {counted(len(self.ops))} in {end - begin:.3g} s>"


def profile(most_ops: int = MOST_OPS) -> Profile:
    """Record what the engine does inside a block: `with engine.profile() as profile:`, also `async with`.

    `profile.ops` are records, `profile.summary()` is a table, `profile.save("trace.json")` writes a trace for
    ui.perfetto.dev, `profile.plot()` draws a timeline; in a notebook the profile shows itself. Ops of all executors and
    threads of the process are recorded, up to `most_ops`. Raises `TypeError` and `ValueError` for a `most_ops` that is
    not a positive integer.

    >>> async with engine.profile() as profile:
    ...     value = await (ops.asarray([1.0, 2.0]) + 1.0)
    >>> print(profile.summary())
    2 ops in ...
    """
    if isinstance(most_ops, bool) or not isinstance(most_ops, int):
        raise TypeError(f"most_ops must be an integer, the number of ops to record, but got {most_ops!r}")
    if most_ops < 1:
        raise ValueError(f"most_ops must be at least 1, but got {most_ops}")
    return Profile(most_ops)
