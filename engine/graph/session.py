"""Sessions: running what a graph says, on the executor in force or on one of the session's own."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from types import TracebackType
from typing import Any, NoReturn, Self

import numpy as np

from engine.base.config import Config, check_config
from engine.base.errors import BlockingSyncError, FeedError, SymbolError, UnknownShapeError
from engine.base.loops import running_loop
from engine.base.modes import DevicePolicy, ExecutionMode
from engine.base.op import ShapeDtype
from engine.devices.cpu import lock, plain, snapshot
from engine.dispatch.dispatcher import AsyncDispatcher
from engine.dispatch.executor import Core
from engine.failures import site, user_frame
from engine.graph.graph import PLACEHOLDER, Graph, Node, Operation, get_default_graph, slot_of
from engine.graph.inference import UNKNOWN
from engine.graph.pruning import prune
from engine.graph.pytree import flatten, pack
from engine.graph.running import Run
from engine.graph.steps import Schedule, Step
from engine.queues.slice import SLICE
from engine.queues.waiting import Settled, block_until
from engine.runtime.current import current_core
from engine.runtime.defaults import Executors
from engine.settings.in_force import mode_in_force
from engine.settings.scope import Block, scope_var
from engine.settings.switch import Options, program
from handles.base import Handle
from handles.cell import Cell, Failure
from handles.symbol import Symbol

Array = np.ndarray[Any, Any]

SCHEDULES = 64
"""Sets of fetches and feeds whose steps a session remembers."""


@dataclass(frozen=True)
class Fetches:
    """What a run is to compute, taken apart."""

    outline: Any
    leaves: tuple[Any, ...]
    """For each leaf its slot; None for an operation, of which only the running is asked for."""
    roots: tuple[Cell, ...]
    """The nodes that run whether or not their results are fetched."""


class Session:
    """Runs a graph: the default one here, unless one is given.

    With `config` the session has an executor of its own; without, it uses the one in force, and one of its own where
    there is none. A session is used with `with` (inside the block it is the session of `symbol.eval()`, and ops are
    added to its graph) or closed with `close()`. Many runs may be under way at once, on any thread and any loop.

    Raises `TypeError` for a graph or config that is none.
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
        self._schedules: dict[Any, tuple[Schedule, list[Step]]] = {}
        self._entered: list[Block] = []

    @property
    def graph(self) -> Graph:
        """The graph that is run."""
        return self._graph

    @property
    def closed(self) -> bool:
        """Whether the session was closed."""
        return self._closed

    # Running

    def run(self, fetches: Any, feed_dict: Mapping[Any, Any] | None = None) -> Any:
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

    async def run_async(self, fetches: Any, feed_dict: Mapping[Any, Any] | None = None) -> Any:
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
        while core.pending_bytes >= config.max_pending_bytes or core.in_flight() >= config.max_pending_ops:
            cell = core.over_low_mark()
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

    def _prepare(self, fetches: Any, feed_dict: Mapping[Any, Any] | None, *, blocking: bool) -> tuple[Fetches, Run]:
        wanted = self._fetches(fetches)
        core = self._core(blocking)
        feeds, nbytes = self._feeds(feed_dict)
        key = (wanted.leaves, wanted.roots, frozenset(feeds))
        known = self._schedules.get(key)
        if known is None:
            slots = [slot for slot in wanted.leaves if slot is not None]
            known = prune(self._graph, slots, wanted.roots, feeds.keys())
            while len(self._schedules) >= SCHEDULES:
                self._schedules.pop(next(iter(self._schedules)), None)
            self._schedules[key] = known
        schedule, missing = known
        if missing:
            self._refuse_missing(missing)
        values = self._graph.initial.copy()
        for slot, value in feeds.items():
            values[slot] = value
        options, scope = program.options, scope_var.get()
        policy = scope.policy or (options.policy if options is not None else DevicePolicy.SILENT)
        group = scope.group and scope.group.innermost_open()
        return wanted, Run(AsyncDispatcher(core, policy, None, group), schedule, values, nbytes)

    def _core(self, blocking: bool) -> Core:
        """The executor that runs go to from here."""
        if self._config is None and (scope_var.get().executor is not None or program.options is not None):
            return current_core()
        config = self._config or Config()
        return self._own[blocking].core(Options(ExecutionMode.ASYNC, DevicePolicy.SILENT, config))

    # What goes in

    def _fetches(self, fetches: Any) -> Fetches:
        leaves: list[Any] = []
        outline = flatten(fetches, leaves)
        slots: list[int | None] = []
        roots = []
        for leaf in leaves:
            if isinstance(leaf, Symbol):
                slots.append(slot_of(self._own_cell(leaf, "fetched")))
            elif isinstance(leaf, Operation):
                if leaf.graph is not self._graph:
                    raise SymbolError(f"{leaf!r} cannot be fetched: it belongs to another graph than the session's")
                slots.append(None)
                roots.append(leaf._record)
            else:
                raise TypeError(
                    "a fetch must be a symbol, an operation, or a tuple, list or dict of them, "
                    f"but got {type(leaf).__name__}: {leaf!r}"
                )
        return Fetches(outline, tuple(slots), tuple(roots))

    def _own_cell(self, symbol: Symbol, what: str) -> Cell:
        cell = symbol._cell
        home = cell.home
        assert isinstance(home, Node)
        if home.graph is not self._graph:
            raise SymbolError(
                f"{home.subject(cell)} cannot be {what}: it belongs to another graph than the session's; "
                "make the session with engine.Session(symbol.graph)"
            )
        return cell

    def _feeds(self, feed_dict: Mapping[Any, Any] | None) -> tuple[dict[int, Any], int]:
        """The values by slot, arrays as snapshots, and how many bytes those take."""
        if feed_dict is not None and not isinstance(feed_dict, Mapping):
            raise TypeError(f"feed_dict must be a mapping of symbols to values, but got {type(feed_dict).__name__}")
        feeds: dict[int, Any] = {}
        nbytes = 0
        for key, value in (feed_dict or {}).items():
            if not isinstance(key, Symbol):
                raise FeedError(
                    f"the keys of feed_dict must be symbols of the graph, but got {key!r}; {self._known_placeholders()}"
                )
            cell, home = key._cell, key._cell.home
            assert isinstance(home, Node)
            if home.graph is not self._graph:
                raise FeedError(f"{_subject(cell)} cannot be fed: it belongs to another graph than the session's")
            if cell.op.outputs > 1:
                raise FeedError(f"{_subject(cell)} cannot be fed: it is one of several results of one operation")
            fed = feed_value(value, cell.extend().inferred, _subject(cell))
            feeds[slot_of(cell)] = fed
            nbytes += fed.nbytes if isinstance(fed, np.ndarray) else 0
        return feeds, nbytes

    def _known_placeholders(self) -> str:
        names = [operation.name for operation in self._graph.operations if operation.type == "placeholder"]
        return f"its placeholders are {', '.join(map(repr, names))}" if names else "it has no placeholders"

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
    """Awaits that all steps are dispatched, leaving the loop to others after each slice."""

    __slots__ = ("_run",)

    def __init__(self, run: Run) -> None:
        self._run = run

    def __await__(self) -> Generator[Any, None, None]:
        ends = perf_counter() + SLICE
        for cell in self._run.chunks():
            if cell is not None:
                yield from Settled(cell).__await__()
                continue
            self._run.schedule()
            self._run.help(ends, patient=False)
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
def _running(run: Run) -> Iterator[None]:
    """However the block is left before the run has ended, what is left of the run is cancelled."""
    try:
        yield
    except BaseException:
        run.cancel("its session run has ended")
        raise


def _awaited(wanted: Fetches, run: Run) -> list[Cell]:
    """The cells that the run waits for."""
    slots = [slot for slot in wanted.leaves if slot is not None]
    slots += [root.extend().node.slot for root in wanted.roots]
    return [run.slots[slot] for slot in slots if run.slots[slot].__class__ is Cell]


def _check(cell: Cell, run: Run) -> None:
    """Raise the error of a cell, with the name of the node that it began with and the run's other errors."""
    failure = cell.value
    if not isinstance(failure, Failure):
        return
    failure.seen = True
    run.cancel("another node of its session run has failed")
    step = run.failed_step(failure)
    notes = [] if step is None else [f"node {step.name!r} of the graph, made at {site(step.code, step.lasti)}"]
    notes += [f"in the same run: {type(other).__name__}: {other}" for other in run.acknowledge()]
    failure.notes += tuple(note for note in notes if note not in failure.notes)
    failure.throw()


def _values(wanted: Fetches, run: Run) -> Any:
    values = (None if slot is None else _host(run.slots[slot]) for slot in wanted.leaves)
    return pack(wanted.outline, values)


def _host(value: Any) -> Array:
    """What a slot holds after the run, as an array that nobody can write to."""
    if value.__class__ is Cell:
        host: Array = value.home.host(value)
        return host
    array = np.asarray(value)
    lock(array)
    return array.view()


# ---------------------------------------------------------------------------------------------------------------------
# Feeds


def feed_value(value: Any, expected: Any, subject: str) -> Any:
    """What is fed, as a step reads it: the cell of a handle, or an array that nobody writes to.

    Python scalars and sequences take the dtype that is expected, where that loses nothing; arrays and handles must
    have it. Raises `FeedError` for a wrong shape or dtype.
    """
    if isinstance(value, Symbol):
        raise FeedError(f"{subject} was fed {value!r}, which has no value itself")
    if isinstance(value, Handle):
        cell = value._cell
        check_fit(_described(cell), expected, subject)
        return cell
    array = plain(value) if isinstance(value, np.ndarray) else np.asarray(value)
    weak = not isinstance(value, np.ndarray | np.generic)
    if weak and expected.dtype is not None and array.dtype != expected.dtype:
        array = _converted(array, expected.dtype, subject)
    check_fit(ShapeDtype(array.shape, array.dtype), expected, subject)
    array = snapshot(array)
    lock(array)
    return array


def _converted(array: Array, dtype: np.dtype[Any], subject: str) -> Array:
    kinds = "biufc"
    if array.size and (array.dtype.kind not in kinds or dtype.kind not in kinds or _loses(array, dtype)):
        raise FeedError(f"{subject} expects dtype {dtype}, but was fed {array.dtype} values that do not convert to it")
    return array.astype(dtype)


def _loses(array: Array, dtype: np.dtype[Any]) -> bool:
    """Whether Python numbers do not convert: to a lesser kind, or out of the range of an integer type."""
    kinds = "biufc"
    if kinds.index(array.dtype.kind) > kinds.index(dtype.kind) and {array.dtype.kind, dtype.kind} != {"i", "u"}:
        return True
    if array.dtype.kind not in "iu" or dtype.kind not in "iu":
        return False
    limits = np.iinfo(dtype)
    return int(array.min()) < limits.min or int(array.max()) > limits.max


def _described(cell: Cell) -> ShapeDtype:
    try:
        return cell.home.infer(cell)  # type: ignore[return-value]
    except UnknownShapeError:
        return UNKNOWN


def check_fit(its: Any, expected: Any, subject: str) -> None:
    if its.dtype is not None and expected.dtype is not None and its.dtype != expected.dtype:  # dtype == None holds
        raise FeedError(f"{subject} expects dtype {expected.dtype}, but was fed {its.dtype}")
    if its.shape is None or expected.shape is None:
        return
    fits = len(its.shape) == len(expected.shape) and all(
        None in (length, wanted) or length == wanted for length, wanted in zip(its.shape, expected.shape, strict=True)
    )
    if not fits:
        raise FeedError(f"{subject} expects shape {expected.shape}, but was fed shape {its.shape}")


def _subject(cell: Cell) -> str:
    """What is fed, in the words of an error."""
    home = cell.home
    assert isinstance(home, Node)
    kind = "placeholder" if cell.op is PLACEHOLDER else "symbol"
    return f"{kind} {home.name_of(cell)!r} (made at {home.place_of(cell)})"
