"""`engine.function`: a Python function traced once for each kind of arguments, and replayed as one dispatch.

A call goes through these modules: `binding` makes calls alike that mean the same, `keys` and `attributes` say which
trace they share, `trace` makes it where there is none, and `invoke` computes its results.
"""

from __future__ import annotations

import functools
import inspect
import logging
import math
import threading
import weakref
from collections.abc import Callable, Hashable, Sequence
from dataclasses import astuple, dataclass
from operator import is_
from types import FunctionType, MethodType
from typing import Any, overload

from engine.base.pytree import LEAF, pack
from engine.dispatch.dispatcher import Dispatcher
from engine.failures import site, user_frame
from engine.graph.attributes import (
    ClassParts,
    Look,
    has_state,
    is_itself_only,
    may_be_instance,
    owner_of,
)
from engine.graph.binding import Named, Parameters, Positional
from engine.graph.dispatch import GraphDispatcher
from engine.graph.identity import Bound, reference
from engine.graph.invoke import inline, invoke
from engine.graph.keys import described, key_by_signature, key_of, specifications, with_symbols
from engine.graph.shortcut import Shortcut
from engine.graph.trace import Given, Kept, Traced, Tracer
from engine.graph.weights import are_unchanged, recorded
from engine.runtime.current import current
from handles.base import Handle
from handles.display import statistics_html

logger = logging.getLogger("engine.function")

SIGNATURES = 256
"""Kinds of arguments that a function remembers the replay of; and instances of classes without weak references."""
EXPLOSION = 10
"""Traces of one function at which a warning is logged; and again at ten times as many, and so on."""

_NONE = object()
"""In place of an instance, where a function is called as itself."""


@dataclass(frozen=True)
class FunctionStatistics:
    """Counts of the calls and traces of a function."""

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

    def _repr_html_(self) -> str:
        return statistics_html(self)


@overload
def function(fn: Callable[..., Any], /, *, input_signature: Sequence[Any] | None = None) -> Function: ...
@overload
def function(
    fn: None = None, /, *, input_signature: Sequence[Any] | None = None
) -> Callable[[Callable[..., Any]], Function]: ...


def function(fn: Any = None, /, *, input_signature: Sequence[Any] | None = None) -> Any:
    """Trace a Python function of arrays once for each kind of arguments, and replay it as one dispatch.

    Arrays (and handles) are traced by shape, dtype and device; objects by their attributes, which are looked at in each
    call; everything else, which must be hashable, by value. Arguments are bound by the function's signature: a default
    is the same whether it is given or left out. The Python code runs when it is traced, not at each call. A method
    keeps the traces of each instance apart, as long as the instance lives.

    With `input_signature`, a sequence with an `engine.ShapeDtype(shape, dtype)` or such a pair for each array argument
    (of a method without `self`), it is traced once; a shape may have None for a length that may be any, or be None.

    Raises `TypeError` for what is not a plain function, and for a signature that is none. A call raises `TypeError`
    where its arguments do not fit the function's signature or cannot be hashed, and `FeedError` where they do not fit
    `input_signature`.

    >>> @engine.function
    ... def norm(x):
    ...     return ops.sqrt(ops.sum(x * x))
    >>> await norm(np.array([3.0, 4.0]))
    np.float64(5.0)
    >>> await norm(np.array([6.0, 8.0]))
    np.float64(10.0)
    >>> norm.statistics().traces
    1
    """
    if fn is None:
        return functools.partial(function, input_signature=input_signature)
    if isinstance(fn, BoundFunction):
        return BoundFunction(Function(fn.python_function, input_signature), fn.__self__)
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


class _State:
    """The traces of a function, or of a method of one instance, and what it has done so far."""

    __slots__ = ("calls", "classes", "kept", "lock", "nodes", "traced", "traces")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.calls = 0
        self.traces = 0
        self.nodes = 0
        self.kept = 0
        self.classes: dict[type, ClassParts] = {}
        self.traced: dict[Hashable, tuple[Traced, tuple[object, ...]]] = {}
        """By their keys; with references to the objects that were passed, whose traces go when they do."""

    def statistics(self) -> FunctionStatistics:
        return FunctionStatistics(self.calls, self.traces, len(self.traced), self.nodes, self.kept)

    def remember(self, key: Hashable, traced: Traced, owners: Sequence[object]) -> int:
        """Keep a trace, until one of its owners dies without which it is of no use; returns how many there were."""

        def forget(_: object) -> None:
            self.traced.pop(key, None)

        needed = [each for each in owners if traced.arrays or is_itself_only(each)]
        references = tuple([reference(each, forget) for each in needed])
        with self.lock:
            while len(self.traced) >= SIGNATURES:
                self.traced.pop(next(iter(self.traced)))
            self.traced[key] = traced, references
            self.traces += 1
            self.nodes += traced.replay.plan.traced
            self.kept += len(traced.replay.plan.steps)
            return self.traces


class Function:
    """Returned by `engine.function`: call it as the Python function it was made of."""

    __name__: str
    __qualname__: str

    def __init__(self, fn: Callable[..., Any], input_signature: Sequence[Any] | None) -> None:
        functools.update_wrapper(self, fn)
        self.python_function = fn
        """The function that is traced."""
        self._name = _name_of(fn)
        self._signature = specifications(input_signature)
        self._parameters = Parameters(fn, self._name)
        # A bound method, a partial or a callable object is what it is by its attributes too.
        self._holder: tuple[object, ...] = (fn,) if has_state(fn) else ()
        owner = str(getattr(fn, "__qualname__", "")).rpartition(".")[0]
        self._is_method = isinstance(fn, FunctionType) and bool(owner) and not owner.endswith("<locals>")
        self._own = _State()
        self._shortcut: Shortcut | None = None
        """The short way of calls that are like the last one that was computed by one compiled call."""
        self._states: dict[int, tuple[Callable[[], object], _State]] = {}
        """The states of instances, by their ids; an instance that goes takes its state with it."""
        self._lock = threading.Lock()

    def __get__(self, instance: object, owner: object = None) -> Any:
        return self if instance is None else BoundFunction(self, instance)

    def __repr__(self) -> str:
        return f"<engine.function {self._name!r}>"

    def __reduce__(self) -> str:
        return self.__qualname__  # copied and pickled by its name, as functions are

    def statistics(self) -> FunctionStatistics:
        """Count the calls and traces so far; of a method, for the instances that are alive and calls without one."""
        states = [self._own, *[state for _, state in tuple(self._states.values())]]
        return FunctionStatistics(*map(sum, zip(*[astuple(each.statistics()) for each in states], strict=True)))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        shortcut = self._shortcut
        if shortcut is not None and not kwargs:
            handle = shortcut.dispatch(args)
            if handle is not None:
                self._own.calls += 1
                return handle
        if self._is_method and args and may_be_instance(args[0]):
            return self._call(self._state_of(args[0]), args[0], args[1:], kwargs)  # by a property, or by its class
        return self._call(self._own, _NONE, args, kwargs)

    # Instances

    @functools.cached_property
    def _bound_parameters(self) -> Parameters:
        return Parameters(self.python_function, self._name, bound=True)

    def call_bound(self, instance: object, args: Positional, kwargs: Named) -> Any:
        """Call the function as a method."""
        if not may_be_instance(instance):
            return self._call(self._own, _NONE, (instance, *args), kwargs)
        return self._call(self._state_of(instance), instance, args, kwargs)

    def statistics_of(self, instance: object) -> FunctionStatistics:
        """Count the calls and traces of a method for an instance; a number, which has no attributes, is an argument."""
        return (self._state_of(instance) if may_be_instance(instance) else self._own).statistics()

    def _state_of(self, instance: object) -> _State:
        number = id(instance)
        known = self._states.get(number)
        if known is not None and known[0]() is instance:
            return known[1]
        with self._lock:
            known = self._states.get(number)
            if known is not None and known[0]() is instance:
                return known[1]
            state = _State()
            states = self._states

            def forget(dead: object) -> None:
                gone = states.get(number)
                if gone is not None and gone[0] is dead:
                    del states[number]

            its = reference(instance, forget)
            if not isinstance(its, weakref.ref):
                self._make_room_for_held()
            states[number] = its, state
        return state

    def _make_room_for_held(self) -> None:
        """Drop the oldest states of instances that cannot be referred to weakly, which the states keep alive."""
        held = [number for number, (its, _) in self._states.items() if not isinstance(its, weakref.ref)]
        for number in held[: max(0, len(held) + 1 - SIGNATURES)]:
            del self._states[number]

    # A call

    def _call(self, state: _State, instance: object, args: Positional, kwargs: Named) -> Any:
        state.calls += 1
        arrays: list[Any] = []
        objects: list[object] = []
        given = args
        parameters = self._parameters if instance is _NONE else self._bound_parameters
        if self._signature is None:
            args, kwargs = parameters.bind(args, kwargs)
            key = key_of(args, arrays, objects)
            if kwargs:
                key = key, key_of(kwargs, arrays, objects)
        else:
            args, kwargs = parameters.order(args, kwargs)
            key = key_by_signature((*args, *kwargs.values()), self._signature, self._name, arrays)
        look = None
        if objects or instance is not _NONE or self._holder:
            look = self._looked_at(state, instance, objects)
            key = key, look.key
        dispatcher = current()
        try:
            known = state.traced.get(key)
        except TypeError:
            raise self._unhashable(args, kwargs) from None
        if known is None or (look is not None and not are_unchanged(look.arrays, known[0].arrays)):
            traced = self._trace(instance, args, kwargs, arrays, dispatcher, look)
            owners = [] if look is None else [owner_of(each) for each in objects]
            self._remember(state, key, traced, [each for each in owners if each is not None])
        else:
            traced = known[0]
        if isinstance(dispatcher, GraphDispatcher):
            outputs: Sequence[Handle] = inline(traced.replay.plan, arrays, dispatcher, user_frame(1))
        else:
            outputs = invoke(traced.replay, arrays, dispatcher, apart=traced.apart)
        if look is None and not kwargs and len(given) == len(arrays) and all(map(is_, given, arrays)):
            self._shortcut = traced.shortcut()
        if traced.outline is LEAF:
            (result,) = traced.results
            return outputs[result] if isinstance(result, int) else _unchanged(result, look)
        results = [outputs[each] if isinstance(each, int) else _unchanged(each, look) for each in traced.results]
        return pack(traced.outline, iter(results))

    def _looked_at(self, state: _State, instance: object, objects: list[object]) -> Look:
        look = Look(state.classes if instance is not _NONE else {})
        if instance is not _NONE:
            look.at_instance(instance, self._name)
        for each in (*objects, *self._holder):
            look.at(each, self._name)
        return look

    def _unhashable(self, args: Positional, kwargs: Named) -> TypeError:
        for name, value in (*enumerate(args), *kwargs.items()):
            try:
                hash(key_of(value, [], []))
            except TypeError:
                return TypeError(
                    f"argument {name!r} of function {self._name!r} is passed by value, so it must be hashable, "
                    f"but {type(value).__name__} is not: pass an array, or make it part of the function"
                )
        return TypeError(f"the arguments of function {self._name!r} must be arrays or hashable")

    def _trace(
        self,
        instance: object,
        args: Positional,
        kwargs: Named,
        arrays: list[Any],
        dispatcher: Dispatcher,
        look: Look | None,
    ) -> Traced:
        before = [] if look is None else recorded(look.arrays)
        outer = dispatcher.graph if isinstance(dispatcher, GraphDispatcher) else None
        tracer = Tracer(self.python_function, self._name, outer, look)
        symbols = iter(tracer.inputs(arrays, self._signature or tuple(map(described, arrays))))
        if self._signature is None:
            args, kwargs = with_symbols(args, symbols), with_symbols(kwargs, symbols)
        else:
            args, kwargs = tuple(next(symbols) for _ in args), {name: next(symbols) for name in kwargs}
        if instance is not _NONE:
            args = (instance, *args)
        return tracer.run(self._name, args, kwargs, before)

    def _remember(self, state: _State, key: Hashable, traced: Traced, owners: Sequence[object]) -> None:
        traces = state.remember(key, traced, owners)
        if traces >= EXPLOSION and math.log10(traces / EXPLOSION).is_integer():
            logger.warning(
                "engine.function %r (%s) was traced %d times in %d calls; each shape, dtype, device and value of an "
                "argument that is no array is traced anew, and so is each change of an attribute of an object: pass "
                "numbers, and attributes, that change as arrays, or give "
                "input_signature=[engine.ShapeDtype(shape, dtype), ...] with None for lengths that change",
                self._name,
                _place(self.python_function),
                traces,
                state.calls,
            )


class BoundFunction(Bound):
    # A method made by `engine.function`, of one instance: call it as the method, whose docstring it has.

    __slots__ = ()

    __func__: Function

    __doc__ = property(lambda self: self.__func__.__doc__)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(MethodType(self.python_function, self.__self__))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.__func__.call_bound(self.__self__, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__func__, name)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, BoundFunction):
            return NotImplemented
        return self.__self__ is other.__self__ and self.__func__ is other.__func__

    def __hash__(self) -> int:
        return hash((id(self.__self__), self.__func__))

    def __repr__(self) -> str:
        return f"<bound engine.function {self.__func__.__qualname__!r} of {self.__self__!r}>"

    def __reduce__(self) -> Any:
        return BoundFunction, (self.__func__, self.__self__)

    def statistics(self) -> FunctionStatistics:
        """Count the calls and traces of the method for this instance."""
        function: Function = self.__func__
        return function.statistics_of(self.__self__)


def _unchanged(result: Kept | Given, look: Look | None) -> object:
    """The value of a result that is no array."""
    if isinstance(result, Given):
        assert look is not None
        return look.walked[result.number]
    return result.value


def _name_of(fn: object) -> str:
    while isinstance(fn, functools.partial):
        fn = fn.func
    return str(getattr(fn, "__name__", type(fn).__name__))


def _place(fn: Callable[..., Any]) -> str:
    code = getattr(fn, "__code__", None)
    return site(code, -1) if code is not None else "an unknown place"
