"""Sessions: running what a graph says, on the executor in force or on one of the session's own."""

from __future__ import annotations

from collections.abc import Generator, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import perf_counter
from types import TracebackType
from typing import Any, NoReturn, Self

import numpy as np

from engine.base.config import Config, check_config
from engine.base.errors import BlockingSyncError, FeedError
from engine.base.loops import running_loop
from engine.base.modes import DevicePolicy, ExecutionMode
from engine.base.pytree import pack
from engine.devices.cpu import lock
from engine.dispatch.executor import Core
from engine.dispatch.queueing import AsyncDispatcher
from engine.failures import site, user_frame
from engine.graph.default_graph import get_default_graph
from engine.graph.feeds import take_feeds
from engine.graph.fetches import Fetches, take_fetches
from engine.graph.graph import Graph
from engine.graph.run import GraphRun
from engine.graph.schedule import Schedule, prune
from engine.graph.segments import Segmented, explain_node, segmented, takers
from engine.graph.steps import Step, step_of
from engine.queues.slice import SLICE
from engine.queues.waiting import Settled, block_until
from engine.runtime.current import current_core
from engine.runtime.defaults import Executors
from engine.settings.in_force import mode_in_force
from engine.settings.scope import Block, scope_var
from engine.settings.switch import Options, program
from handles.cell import Cell, Failure

Array = np.ndarray[Any, Any]

SCHEDULES = 64
"""Sets of fetches and feeds whose steps a session remembers."""


class Session:
    """Runs a graph: the default one here, unless one is given.

    With `config` the session has an executor of its own; without, it uses the one in force, and one of its own where
    there is none. A session is used with `with` (inside the block it is the session of `symbol.eval()`, and ops are
    added to its graph) or closed with `close()`. Many runs may be under way at once, on any thread and any loop.

    Raises `TypeError` for a graph or config that is none.

    >>> graph = engine.Graph()
    >>> with engine.Session(graph) as session:
    ...     x = engine.placeholder("float64", (2,))
    ...     y = x * 2
    ...     await session.run_async(y, {x: [1.0, 2.0]})
    array([2., 4.])
    """

    def __init__(self, graph: Graph | None = None, config: Config | None = None) -> None:
        if graph is not None and not isinstance(graph, Graph):
            raise TypeError(f"graph must be an engine.Graph, but got {type(graph)}")
        check_config(config)
        self._graph = graph or get_default_graph()
        self._config = config
        self._closed = False
        self._own = {False: Executors(), True: Executors(on_loops=False)}
        """Executors of the session's own: of runs that are awaited, and of those that block."""
        self._schedules: dict[Hashable, tuple[Schedule, list[Step]]] = {}
        self._segmented: dict[Hashable, Segmented] = {}
        self._entered: list[Block] = []

    @property
    def graph(self) -> Graph:
        """The graph that is run."""
        return self._graph

    @property
    def closed(self) -> bool:
        """True after the session was closed."""
        return self._closed

    # Running

    def run(self, fetches: object, feed_dict: Mapping[Any, object] | None = None) -> Any:
        """The values of `fetches`: a symbol, an operation (whose value is None), or tuples, lists and dicts of them.

        Returns read-only ndarrays in the same structure. Runs once what the fetches need, and nothing else.
        `feed_dict` has a value for each placeholder that is needed; other symbols may be fed in place of computing
        them.

        Raises what the ops raise, with a note that names the node and the line that made it; `FeedError` for feeds
        that do not fit; `SymbolError` for fetches of another graph, `TypeError` for what cannot be fetched;
        `RuntimeError` when the session is closed; `BlockingSyncError` on a running event loop in ASYNC mode;
        `TimeoutError` after `Config.operation_timeout_in_ms`.
        """
        frame = user_frame(1)
        self._begin(site(frame.f_code, frame.f_lasti))
        self._check_may_block()
        wanted, run = self._prepare(fetches, feed_dict, blocking=True)
        with _running(run):
            run.launch()
            for cell in _awaited(wanted, run):
                block_until(cell, run.core.timeout)
                _check(cell, run)
            return _values(wanted, run)

    async def run_async(self, fetches: object, feed_dict: Mapping[Any, object] | None = None) -> Any:
        """As `run`, without blocking the event loop. A run that is cancelled drops what has not started."""
        frame = user_frame(1)
        self._begin(site(frame.f_code, frame.f_lasti))
        await self._wait_for_room()
        wanted, run = self._prepare(fetches, feed_dict, blocking=False)
        with _running(run):
            await _Launch(run)
            for cell in _awaited(wanted, run):
                await Settled(cell)
                _check(cell, run)
            for cell in _awaited(wanted, run):
                if not cell.home.on_host:
                    await _Read(cell)
            return _values(wanted, run)

    async def _wait_for_room(self) -> None:
        """Bound what many runs at once have fed and dispatched."""
        core = self._core(blocking=False)
        config = core.config
        while core.flow.pending_bytes >= config.max_pending_bytes or core.in_flight() >= config.max_pending_ops:
            cell = core.flow.over_low_mark()
            if cell is None:
                return
            await Settled(cell)

    def _begin(self, place: str) -> None:
        if self._closed:
            raise RuntimeError("Attempted to use a closed Session.")
        if program.graph_begun is None:
            program.graph_begun = place

    def _check_may_block(self) -> None:
        scope = scope_var.get()
        if scope.kernel is not None:
            raise BlockingSyncError(
                f"session.run() inside the kernel of {scope.kernel.op.name!r}: a kernel that waits for the engine "
                "could wait for itself"
            )
        if running_loop() is not None and mode_in_force() is ExecutionMode.ASYNC and not scope.consent:
            raise BlockingSyncError(
                "session.run() would block the running event loop: use `await session.run_async(...)`, or permit it "
                "with `with engine.allow_sync(): ...`"
            )

    def _prepare(
        self, fetches: object, feed_dict: Mapping[Any, object] | None, *, blocking: bool
    ) -> tuple[Fetches, GraphRun]:
        wanted = take_fetches(self._graph, fetches)
        core = self._core(blocking)
        feeds, nbytes = take_feeds(self._graph, feed_dict)
        key = (wanted.leaves, wanted.roots, frozenset(feeds))
        known = self._schedules.get(key)
        if known is None:
            slots = [slot for slot in wanted.leaves if slot is not None]
            known = prune(self._graph.records, slots, wanted.roots, feeds.keys())
            while len(self._schedules) >= SCHEDULES:
                self._schedules.pop(next(iter(self._schedules)), None)
            self._schedules[key] = known
        schedule, missing = known
        if missing:
            self._refuse_missing(missing)
        values = self._graph.initial.copy()
        for slot, value in feeds.items():
            values[slot] = value
        schedule, moved = self._joined(key, core, schedule, values, wanted)
        options, scope = program.options, scope_var.get()
        policy = scope.policy or (options.policy if options is not None else DevicePolicy.SILENT)
        group = scope.group and scope.group.innermost_open()
        return wanted, GraphRun(AsyncDispatcher(core, policy, None, group), schedule, values, nbytes, moved)

    def _joined(
        self,
        key: tuple[Hashable, Hashable, frozenset[int]],
        core: Core,
        plain: Schedule,
        values: list[Any],
        wanted: Fetches,
    ) -> tuple[Schedule, Mapping[int, int]]:
        """The schedule with its segments joined, where a device takes such, and moved slots; `values` gets longer."""
        if core.devices.on_host:
            return plain, {}
        takes = takers(plain.steps, core.devices.serving)
        if not takes:
            return plain, {}
        known = self._segmented.get((key, *takes.items()))
        if known is None:
            _, _, fed = key
            known = segmented(plain, self._graph.initial, fed, _kept(wanted), takes)
            while len(self._segmented) >= SCHEDULES:
                self._segmented.pop(next(iter(self._segmented)), None)
            self._segmented[(key, *takes.items())] = known
        values.extend([None] * (known.slots - len(values)))
        return known.schedule, known.moved

    def _core(self, blocking: bool) -> Core:
        """The executor that runs go to from here."""
        if self._config is None and (scope_var.get().executor is not None or program.options is not None):
            return current_core()
        config = self._config or Config()
        return self._own[blocking].core(Options(ExecutionMode.ASYNC, DevicePolicy.SILENT, config))

    def _refuse_missing(self, missing: Sequence[Step]) -> NoReturn:
        said = " and ".join(f"{step.name!r} (made at {site(step.code, step.lasti)})" for step in missing)
        raise FeedError(
            f"a value must be fed for placeholder {said}: session.run(fetches, feed_dict={{symbol: value}})"
        )

    # The end

    def close(self) -> None:
        """Take no more runs; those under way on executors of the session's own are cancelled."""
        self._closed = True
        self._schedules.clear()
        self._segmented.clear()
        for executors in self._own.values():
            executors.close("its session was closed")

    def __enter__(self) -> Self:
        if self._closed:
            raise RuntimeError("Attempted to use a closed Session.")
        self._entered.append(Block(graph=self._graph, session=self))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._entered.pop().leave()
        self.close()

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)

    def __repr__(self) -> str:
        return f"<Session of {self._graph!r}, {'closed' if self._closed else 'open'}>"


# ---------------------------------------------------------------------------------------------------------------------
# One run


class _Launch:
    """Awaits that all steps are dispatched; after each slice the loop has a turn."""

    __slots__ = ("_run",)

    def __init__(self, run: GraphRun) -> None:
        self._run = run

    def __await__(self) -> Generator[Any, None, None]:
        ends = perf_counter() + SLICE
        for cell in self._run.chunks():
            if cell is not None:
                yield from Settled(cell).__await__()
                continue
            self._run.schedule()
            self._run.drive(ends, patient=False)
            if perf_counter() > ends:
                yield
                ends = perf_counter() + SLICE


class _Read:
    """Awaits that the value of a device is on the host."""

    __slots__ = ("_cell",)

    def __init__(self, cell: Cell) -> None:
        self._cell = cell

    def __await__(self) -> Generator[Any, None, None]:
        yield from self._cell.home.fetch(self._cell)


@contextmanager
def _running(run: GraphRun) -> Iterator[None]:
    """Cancel what is left of the run where the block is left before it has ended."""
    try:
        yield
    except BaseException:
        run.cancel("its session run has ended")
        raise


def _awaited(wanted: Fetches, run: GraphRun) -> list[Cell]:
    """The cells that the run waits for."""
    return [run.slots[slot] for slot in _kept(wanted) if run.slots[slot].__class__ is Cell]


def _kept(wanted: Fetches) -> list[int]:
    """The slots that are read after a run."""
    return [*(slot for slot in wanted.leaves if slot is not None), *(step_of(root).slot for root in wanted.roots)]


def _check(cell: Cell, run: GraphRun) -> None:
    """Raise the error of a cell, with the name of the node that it began with and the run's other errors."""
    failure = cell.value
    if not isinstance(failure, Failure):
        return
    failure.seen = True
    run.cancel("another node of its session run has failed")
    step = run.failed_step(failure)
    notes = [] if step is None or not step.name else [explain_node(step)]  # a segment says itself which node it was
    notes += [f"in the same run: {type(other).__name__}: {other}" for other in run.acknowledge()]
    failure.notes += tuple(note for note in notes if note not in failure.notes)
    failure.throw()


def _values(wanted: Fetches, run: GraphRun) -> Any:
    values = (None if slot is None else _host(run.slots[slot]) for slot in wanted.leaves)
    return pack(wanted.outline, values)


def _host(value: object) -> Array:
    """The content of a slot after the run, as an array that users cannot write to."""
    if isinstance(value, Cell):
        return value.home.host(value)
    array = np.asarray(value)
    lock(array)
    return array.view()
