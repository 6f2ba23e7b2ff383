"""`engine.function`: a Python function traced once for each kind of arguments, and replayed as one dispatch."""

from __future__ import annotations

import functools
import inspect
import logging
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType, MethodType
from typing import Any, NamedTuple, overload

import numpy as np

from engine.ambient import program, scope_var
from engine.context import current, entered
from engine.devices.base import Device
from engine.devices.cpu import lock
from engine.dispatch import AsyncDispatcher, Dispatcher, SyncDispatcher, handle_of, user_frame
from engine.errors import FeedError
from engine.failures import site, throw
from engine.graph.graph import (
    DEFAULT_DEVICE,
    PLACEHOLDER,
    Graph,
    GraphDispatcher,
    Node,
    output_cells,
    placeholder_shape,
    slot_of,
)
from engine.graph.inference import UNKNOWN, infer_node
from engine.graph.optimizer import Plan, optimize
from engine.graph.replay import Ready, Replay
from engine.graph.running import Run
from engine.graph.session import check_fit, feed_value
from engine.graph.structure import LEAF, flatten, pack
from engine.operands import holds_handle, operand
from engine.planning.op import ShapeDtype
from engine.queues.device_queue import DeviceQueue
from engine.queues.waiting import block_until
from handles.base import Handle
from handles.cell import Cell, Failure, pending_cell
from handles.eager import EagerHandle
from handles.pending import AsyncHandle
from handles.symbol import Symbol

logger = logging.getLogger("engine.function")

SIGNATURES = 256
"""Kinds of arguments that a function remembers the replay of."""
EXPLOSION = 10
"""Traces of one function at which a warning is logged; and again at ten times as many, and so on."""


@dataclass(frozen=True)
class FunctionStatistics:
    """What a function has done so far."""

    calls: int
    """Calls, those that traced included."""
    traces: int
    """Times that the Python function ran, to be traced."""
    signatures: int
    """Kinds of arguments whose replay is remembered."""
    nodes_traced: int
    """Ops that the Python function called in those."""
    nodes_kept: int
    """Ops that are left of them to do."""


class Traced(NamedTuple):
    """What tracing a function gave."""

    replay: Replay
    outline: Any
    """The structure of the results."""
    results: tuple[Any, ...]
    """For each leaf the number of the plan's output, or a `Kept` value."""
    apart: bool
    """Whether the arguments may be on several devices."""


class Kept(NamedTuple):
    """A result that is no array: each call returns the value that the trace did."""

    value: Any


class Tracing(Graph):
    """The graph of one trace: it may hold results from outside, as constants."""

    def __init__(self, name: str, outer: Graph | None) -> None:
        super().__init__()
        self._name = name
        self._outer = outer

    @property
    def description(self) -> str:
        return f"engine.function {self._name!r}"

    def begin(self, frame: FrameType) -> None:
        """Tracing a function is no graph of the program's."""

    def placeholder(self, dtype: Any, shape: Any, name: str | None, frame: FrameType) -> Symbol:
        raise RuntimeError(
            f"placeholder() inside {self.description}: there is no session that could feed it; make it an argument"
        )

    def adopt(self, cell: Cell) -> Cell:
        home = cell.home
        outer: Graph | None = self
        while isinstance(home, Node) and outer is not None:
            if home.graph is outer:
                return cell
            outer = outer._outer if isinstance(outer, Tracing) else None
        return super().adopt(cell)

    def capture(self, cell: Cell) -> Cell:
        return cell

    def refusal(self, subject: str, what: str) -> str:
        return (
            f"{what} needs a value, but {subject} has none: it stands for an array of later calls of "
            f"{self.description}. Choose between values with ops.where, index it with symbol[i], "
            "or do this outside the function; an argument that is no array is passed by value"
        )


@overload
def function(fn: Callable[..., Any], /, *, input_signature: Sequence[Any] | None = None) -> Function: ...
@overload
def function(
    fn: None = None, /, *, input_signature: Sequence[Any] | None = None
) -> Callable[[Callable[..., Any]], Function]: ...


def function(fn: Any = None, /, *, input_signature: Sequence[Any] | None = None) -> Any:
    """Trace a Python function of arrays once for each kind of arguments, and replay it as one dispatch.

    Arrays (and handles) are traced by shape, dtype and device; everything else, which must be hashable, by value. The
    Python code runs when it is traced, not at each call. With `input_signature`, a sequence with a
    `engine.ShapeDtype(shape, dtype)` or such a pair for each array argument, it is traced once; a shape may have None
    for a length that may be any, or be None.

    Raises `TypeError` for what is not a plain function, and for a signature that is none.
    """
    if fn is None:
        return functools.partial(function, input_signature=input_signature)
    if isinstance(fn, Function):
        fn = fn.python_function
    if not callable(fn):
        raise TypeError(f"engine.function traces functions, but got {fn!r}")
    if inspect.iscoroutinefunction(fn) or inspect.isasyncgenfunction(fn) or inspect.isgeneratorfunction(fn):
        raise TypeError(
            f"engine.function traces plain functions, but {fn!r} is a coroutine function or a generator: await outside "
            "of it, or make the awaiting part an op of its own with @engine.op, which may be called inside"
        )
    return Function(fn, input_signature)


class Function:
    """What `engine.function` gives: call it as the Python function it was made of."""

    __name__: str

    def __init__(self, fn: Callable[..., Any], input_signature: Sequence[Any] | None) -> None:
        functools.update_wrapper(self, fn)
        self.python_function = fn
        """The function that is traced."""
        self._name = str(getattr(fn, "__name__", type(fn).__name__))
        self._signature = None if input_signature is None else tuple(map(_specification, input_signature))
        self._traced: dict[Any, Traced] = {}
        self._lock = threading.Lock()
        self._calls = 0
        self._traces = 0
        self._nodes_traced = 0
        self._nodes_kept = 0

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None else MethodType(self, instance)

    def __repr__(self) -> str:
        return f"<engine.function {self._name!r}>"

    def statistics(self) -> FunctionStatistics:
        """What the function has done so far."""
        return FunctionStatistics(self._calls, self._traces, len(self._traced), self._nodes_traced, self._nodes_kept)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._calls += 1
        if kwargs:
            bound = inspect.signature(self.python_function).bind(*args, **kwargs)
            args, kwargs = bound.args, bound.kwargs
        arrays: list[Any] = []
        if self._signature is None:
            key = _key(args, arrays) if not kwargs else (_key(args, arrays), _key(kwargs, arrays))
        else:
            key = self._check_signature((*args, *kwargs.values()), arrays)
        dispatcher = current()
        try:
            traced = self._traced.get(key)
        except TypeError:
            raise self._unhashable(args, kwargs) from None
        if traced is None:
            traced = self._trace(key, args, kwargs, arrays, dispatcher)
        if isinstance(dispatcher, GraphDispatcher):
            outputs: Sequence[Handle] = inline(traced.replay.plan, arrays, dispatcher, user_frame(1))
        else:
            outputs = _replay(traced, arrays, dispatcher)
        if traced.outline is LEAF:
            (result,) = traced.results
            return result.value if result.__class__ is Kept else outputs[result]
        results = (each.value if each.__class__ is Kept else outputs[each] for each in traced.results)
        return pack(traced.outline, results)

    # Arguments

    def _check_signature(self, given: tuple[Any, ...], arrays: list[Any]) -> Any:
        """Take the arrays out, as the signature wants them. Raises `FeedError` where they do not fit it."""
        assert self._signature is not None
        if len(given) != len(self._signature):
            raise FeedError(
                f"function {self._name!r} takes {len(self._signature)} arrays by its input_signature, "
                f"but got {len(given)}"
            )
        for index, (value, its) in enumerate(zip(given, self._signature, strict=True)):
            array = program.namespace.asarray(value) if holds_handle(value) else value
            subject = f"argument {index} of function {self._name!r}"
            if isinstance(array, Symbol):
                check_fit(array._cell.extend().inferred, its, subject)
                arrays.append(array)
            else:
                fed = feed_value(array, its, subject)
                arrays.append(array if fed.__class__ is Cell else fed)
        return tuple([each._cell.home.device if isinstance(each, Handle) else DEFAULT_DEVICE for each in arrays])

    def _unhashable(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> TypeError:
        for name, value in (*enumerate(args), *kwargs.items()):
            try:
                hash(_key(value, []))
            except TypeError:
                return TypeError(
                    f"argument {name!r} of function {self._name!r} is passed by value, so it must be hashable, "
                    f"but {type(value).__name__} is not: pass an array, or make it part of the function"
                )
        return TypeError(f"the arguments of function {self._name!r} must be arrays or hashable")

    # Tracing

    def _trace(
        self, key: Any, args: tuple[Any, ...], kwargs: dict[str, Any], arrays: list[Any], dispatcher: Dispatcher
    ) -> Traced:
        outer = dispatcher.graph if isinstance(dispatcher, GraphDispatcher) else None
        graph = Tracing(self._name, outer)
        described = self._signature or tuple(map(_described, arrays))
        devices = [each._cell.home.device if isinstance(each, Handle) else None for each in arrays]
        inputs = [self._input(graph, its, device) for its, device in zip(described, devices, strict=True)]
        symbols = iter([handle_of(cell, Symbol) for cell in inputs])
        with entered(graph=graph, device=None, group=None):
            if self._signature is None:
                args, kwargs = _rebuilt(args, symbols), _rebuilt(kwargs, symbols)
            else:
                args, kwargs = tuple(next(symbols) for _ in args), {name: next(symbols) for name in kwargs}
            leaves: list[Any] = []
            outline = flatten(self.python_function(*args, **kwargs), leaves)
            results, outputs = self._results(graph, leaves)
        plan = optimize(graph, [slot_of(cell) for cell in inputs], outputs)
        apart = len({device or DEFAULT_DEVICE for device in devices}) > 1
        traced = Traced(Replay(plan, self._name), outline, results, apart)
        self._remember(key, traced)
        return traced

    def _input(self, graph: Graph, its: ShapeDtype, device: Device | None) -> Cell:
        code = getattr(self.python_function, "__code__", None)
        return graph.add(PLACEHOLDER, [], None, device, code, 0, (its,), "argument")

    def _results(self, graph: Graph, leaves: list[Any]) -> tuple[tuple[Any, ...], list[int]]:
        """For each result its number among the outputs, or the value itself; and the slots of the outputs."""
        results: list[Any] = []
        outputs: list[int] = []
        for leaf in leaves:
            if isinstance(leaf, np.ndarray | np.generic | bool | int | float | complex):
                leaf = program.namespace.asarray(leaf)
            if isinstance(leaf, Symbol):
                cell = graph.adopt(leaf._cell)
                if cell.home.graph is graph:  # type: ignore[attr-defined]
                    results.append(len(outputs))
                    outputs.append(slot_of(cell))
                    continue
            results.append(Kept(leaf))
        return tuple(results), outputs

    def _remember(self, key: Any, traced: Traced) -> None:
        with self._lock:
            while len(self._traced) >= SIGNATURES:
                self._traced.pop(next(iter(self._traced)))
            self._traced[key] = traced
            self._traces += 1
            traces = self._traces
            self._nodes_traced += traced.replay.plan.traced
            self._nodes_kept += len(traced.replay.plan.steps)
        if traces >= EXPLOSION and math.log10(traces / EXPLOSION).is_integer():
            logger.warning(
                "engine.function %r (%s) was traced %d times in %d calls; each shape, dtype, device and value of an "
                "argument that is no array is traced anew: pass numbers that change as arrays, or give "
                "input_signature=[engine.ShapeDtype(shape, dtype), ...] with None for lengths that change",
                self._name,
                _place(self.python_function),
                traces,
                self._calls,
            )


# ---------------------------------------------------------------------------------------------------------------------
# Arguments


_BY_VALUE = frozenset({bool, int, str, bytes, type(None)})


def _key(value: Any, arrays: list[Any]) -> Any:
    """What a trace depends on, and the arrays themselves: equal for arguments that may share a trace."""
    cls = value.__class__
    if cls is EagerHandle or cls is AsyncHandle:
        arrays.append(value)
        cell = value._cell
        array = cell.value
        if array.__class__ is np.ndarray:
            return array.shape, array.dtype, cell.home.device
        return (*_described(value), cell.home.device)
    if isinstance(value, Symbol):
        arrays.append(value)
        return (*_described(value), value._cell.home.device)
    if isinstance(value, np.ndarray | np.generic):
        arrays.append(np.asarray(value) if isinstance(value, np.generic) else value)
        return value.shape, value.dtype, DEFAULT_DEVICE
    if cls in _BY_VALUE:
        return cls, value
    if isinstance(value, float | complex):
        return cls, repr(value)  # 0.0 and -0.0 are equal, but not the same
    if isinstance(value, list | tuple):
        return cls, tuple([_key(each, arrays) for each in value])
    if isinstance(value, Mapping):
        return cls, tuple([(name, _key(each, arrays)) for name, each in value.items()])
    return cls, value


def _rebuilt(value: Any, symbols: Iterator[Handle]) -> Any:
    """The arguments with symbols in place of the arrays."""
    if isinstance(value, list | tuple):
        values = [_rebuilt(each, symbols) for each in value]
        if isinstance(value, list):
            return values
        return type(value)(*values) if hasattr(value, "_fields") else tuple(values)
    if isinstance(value, Mapping):
        return {name: _rebuilt(each, symbols) for name, each in value.items()}
    return next(symbols) if isinstance(value, Handle | np.ndarray | np.generic) else value


def _described(value: Any) -> ShapeDtype:
    """Shape and dtype of an array argument; that of a result which only running its op can tell is unknown."""
    if not isinstance(value, Handle):
        return ShapeDtype(value.shape, value.dtype)
    cell = value._cell
    if isinstance(value, Symbol):
        return cell.extend().inferred  # type: ignore[no-any-return]
    try:
        return cell.home.infer(cell, tell=False)  # type: ignore[return-value]
    except Exception:  # noqa: BLE001 - a failed argument poisons the results, and is raised where they are read
        return UNKNOWN


def _specification(given: Any) -> ShapeDtype:
    """An entry of `input_signature`: a shape and a dtype, in this order or the other, or what has both."""
    if hasattr(given, "shape") and hasattr(given, "dtype"):
        shape, dtype = given.shape, given.dtype
    elif isinstance(given, tuple | list) and len(given) == 2:
        shape, dtype = given
        if dtype is None or isinstance(dtype, tuple | list):
            shape, dtype = dtype, shape
    else:
        raise TypeError(
            f"input_signature must have an engine.ShapeDtype(shape, dtype) for each array argument, but got {given!r}"
        )
    return ShapeDtype(placeholder_shape(shape), np.dtype(dtype))  # type: ignore[arg-type]


def _place(fn: Callable[..., Any]) -> str:
    code = getattr(fn, "__code__", None)
    return site(code, -1) if code is not None else "an unknown place"


# ---------------------------------------------------------------------------------------------------------------------
# Replaying


def _replay(traced: Traced, arrays: list[Any], dispatcher: Dispatcher) -> Sequence[Handle]:
    """The outputs of a plan, computed on the executor in force."""
    replay = traced.replay
    if not (replay.follows_inputs and dispatcher.core.on_host) or _is_apart(traced, arrays, dispatcher):
        return run_steps(replay.unmerged, arrays, dispatcher)
    if isinstance(dispatcher, SyncDispatcher) and replay.is_large and may_use_queues(dispatcher):
        return run_on_queues(replay.merged, arrays, dispatcher)
    whole = replay.whole
    if whole is None or not (replay.is_small or isinstance(dispatcher, SyncDispatcher)):
        return run_steps(replay.merged, arrays, dispatcher)
    operands = (*arrays, *[replay.plan.initial[slot] for slot in replay.captured])
    if whole.outputs == 1:
        return (dispatcher.dispatch_any(whole, operands),)
    return dispatcher.dispatch_several(whole, operands)


def _is_apart(traced: Traced, arrays: list[Any], dispatcher: Dispatcher) -> bool:
    """Whether the arguments are on several devices, and ops go to their first input's."""
    if not traced.apart or dispatcher.device is not None:
        return False
    return len({each._cell.home.device for each in arrays if isinstance(each, Handle)}) > 1


def run_steps(ready: Ready, arrays: list[Any], dispatcher: Dispatcher) -> list[Handle]:
    """Dispatch steps one by one."""
    slots = ready.initial.copy()
    for index, array in enumerate(arrays):
        value = operand(array, keep=True)
        if value.__class__ is np.ndarray:
            lock(value)
        slots[index] = value
    run = Run(dispatcher, ready.schedule, slots)
    try:
        run.push_all()
    except BaseException:
        run.cancel("a later op of its function could not be dispatched")
        raise
    cls = AsyncHandle if isinstance(dispatcher, AsyncDispatcher) else EagerHandle
    computed = range(len(arrays), len(slots))
    return [
        handle_of(slots[slot], cls)
        if slot in computed and ready.initial[slot] is None
        else program.namespace.asarray(arrays[slot] if slot not in computed else ready.initial[slot])
        for slot in ready.outputs
    ]


def may_use_queues(dispatcher: Dispatcher) -> bool:
    """Whether a SYNC replay may go through the queues: not in a kernel, nor behind what may wait for this thread."""
    return scope_var.get().kernel is None and dispatcher.core.in_flight() == 0


def run_on_queues(ready: Ready, arrays: list[Any], dispatcher: Dispatcher) -> list[Handle]:
    """Run steps as in ASYNC mode, which fuses chains of large ops, and wait for their results."""
    core = dispatcher.core
    queued = run_steps(ready, arrays, AsyncDispatcher(core, dispatcher.policy, dispatcher.device, dispatcher.group))
    results: list[Handle] = []
    for handle in queued:
        cell = handle._cell
        block_until(cell, core.timeout)
        if isinstance(cell.value, Failure):
            throw(cell.value)
        if isinstance(handle, AsyncHandle) and isinstance(cell.home, DeviceQueue):
            done = pending_cell(cell.op, (), None, core.inline[cell.home.device], cell.code, cell.lasti)
            done.value = cell.value
            handle = handle_of(done, EagerHandle)
        results.append(handle)
    return results


def inline(plan: Plan, arrays: list[Any], dispatcher: GraphDispatcher, frame: FrameType) -> list[Handle]:
    """Add the steps of a plan to the current graph; their outputs there."""
    graph = dispatcher.graph
    slots = plan.initial.copy()
    for value in slots:
        if value.__class__ is Cell and isinstance(value.home, Node):
            graph.adopt(value)
    slots[: len(arrays)] = map(dispatcher.operand, arrays)
    graph.begin(frame)
    for step in plan.steps:
        operands = list(step.getter(slots))
        inferred = infer_node(step.op, operands, step.params)
        device = step.device or dispatcher.device
        record = graph.add(step.op, operands, step.params, device, step.code, step.lasti, inferred)
        slots[step.slot : step.slot + step.op.outputs] = output_cells(record)
    return [
        handle_of(slots[slot], Symbol)
        if slots[slot].__class__ is Cell and isinstance(slots[slot].home, Node)
        else program.namespace.asarray(arrays[slot] if slot < len(arrays) else slots[slot])
        for slot in plan.outputs
    ]
