"""`@engine.batched`: concurrent calls of a function become one call on stacked inputs."""

from __future__ import annotations

import functools
import inspect
import math
import threading
import weakref
from collections.abc import Callable, Hashable
from contextvars import copy_context
from enum import Enum
from time import perf_counter
from types import FrameType
from typing import Any, overload

import numpy as np

from engine.base.errors import EagerNotEnabledError
from engine.base.exact import by_value
from engine.base.loops import current_task, running_loop
from engine.custom.batcher import Batcher
from engine.custom.batches import BatchStatistics, Call, Counts, Place
from engine.devices.cpu import checked, snapshot
from engine.dispatch.dispatcher import Dispatcher
from engine.dispatch.executor import Core
from engine.dispatch.inline import SyncDispatcher
from engine.failures import user_frame
from engine.queues.operands import is_array_like
from engine.runtime.current import current
from engine.settings.in_force import executing_eagerly
from engine.settings.scope import scope_var
from handles.base import Handle
from handles.symbol import Symbol

Function = Callable[..., Any]


@overload
def batched(function: Function, /, *, max_size: int = 64, max_wait: float = 0.002, axis: int = 0) -> Batched: ...
@overload
def batched(
    function: None = None, /, *, max_size: int = 64, max_wait: float = 0.002, axis: int = 0
) -> Callable[[Function], Batched]: ...


def batched(
    function: Function | None = None, /, *, max_size: int = 64, max_wait: float = 0.002, axis: int = 0
) -> Batched | Callable[[Function], Batched]:
    """Make one call of many: concurrent calls `await predict(x)` become one call of the function on stacked inputs.

    Arrays, handles and numbers are stacked along a new axis `axis`; other objects, such as text, come as a list. The
    function returns an array that has the calls along the same axis (a tuple or a dict of such arrays; a list with one
    element for each call; None), and each call gets its part: an array that is read-only, or a NumPy scalar. Arguments
    that are keyword-only are options, passed as they are. Calls whose shapes, dtypes or options differ are not mixed.

    A call of an idle function starts at once, with those of the same turn of the loop. While the function runs, calls
    wait, and become the next batch, of up to `max_size`, when it returns; a call that has waited for `max_wait` seconds
    longer than the function computes, by experience, starts a batch beside the one that runs. Callers take turns, and
    those in a scope of a higher priority go first. A call whose task is cancelled leaves its batch before that begins.
    When a batch fails, its calls are tried one by one, so that an error goes to the call that caused it.

    Batches are ops: a sync function runs on a worker, an `async def` on the loop. `predict.call(x)` is the blocking
    twin for threads; in SYNC mode, and in the kernel of an op, each call runs by itself. On a method the batches are of
    one instance, which is held weakly; `@engine.batched` stands above `@classmethod` and `@staticmethod`.
    `predict.statistics()` tells of calls, batches, sizes and waits.

    Raises `TypeError` and `ValueError` for what is no function, and for arguments out of range; a call raises
    `EagerNotEnabledError` where eager execution is off.

    >>> @engine.batched(max_size=32)
    ... def predict(rows):  # float64, (calls, features)
    ...     return rows @ np.array([1.0, -1.0])
    >>> float(await predict(np.array([3.0, 1.0])))  # float64, (features,)
    2.0
    """
    _check_integer("max_size", max_size)
    _check_integer("axis", axis)
    if max_size < 1:
        raise ValueError(f"max_size must be 1 or more, but got {max_size!r}")
    if isinstance(max_wait, bool) or not isinstance(max_wait, int | float):
        raise TypeError(f"max_wait must be a number of seconds, but got {max_wait!r}")
    if not (max_wait >= 0 and math.isfinite(max_wait)):
        raise ValueError(f"max_wait must be a finite number of seconds, 0 or more, but got {max_wait!r}")
    if function is None:
        return functools.partial(batched, max_size=max_size, max_wait=max_wait, axis=axis)
    binding, function = _unwrapped(function)
    if isinstance(function, Batched):
        binding = function.binding if binding is _Binding.INSTANCE else binding
        function = function.function
    if isinstance(function, property):
        raise TypeError("engine.batched is for functions that take arguments, but a property takes none")
    if not callable(function):
        raise TypeError(f"engine.batched batches calls of functions, but got {function!r}")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(f"engine.batched needs a function that returns its results, but {function!r} yields them")
    frame = user_frame(1)
    return Batched(function, max_size, float(max_wait), axis, Place(frame.f_code, frame.f_lasti), binding)


def _check_integer(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an integer, but got {value!r}")


class _Binding(Enum):
    """The first argument of a batched function that is an attribute of a class."""

    INSTANCE = "the instance"
    CLASS = "the class"
    NONE = "its arguments alone"


def _unwrapped(function: object) -> tuple[_Binding, Any]:
    """A decorated function as it was before `classmethod` or `staticmethod`, after the binding that these ask for."""
    if isinstance(function, classmethod):
        return _Binding.CLASS, function.__func__
    if isinstance(function, staticmethod):
        return _Binding.NONE, function.__func__
    return _Binding.INSTANCE, function


class Batched:
    """A batched function, as `engine.batched` makes it: await its calls."""

    __name__: str
    __qualname__: str

    def __init__(
        self,
        function: Function,
        max_size: int,
        max_wait: float,
        axis: int,
        made: Place,
        binding: _Binding = _Binding.INSTANCE,
    ) -> None:
        functools.update_wrapper(self, function)
        self.function = function
        """The function that is called with stacked arguments."""
        self.made = made
        """Where it was made a batched function."""
        self.binding = binding
        coroutine = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)
        self.name = str(getattr(function, "__name__", type(function).__name__))
        self._options = (self.name, coroutine, max_size, max_wait, axis)
        self._parameters = _Parameters(function, self.name, bound=False)
        self._bound_parameters = _Parameters(function, self.name, bound=True)
        self._own = Batches(function, *self._options)
        self._of_instances: dict[int, tuple[Callable[[], object], Batches]] = {}
        self._lock = threading.Lock()

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        if self.binding is _Binding.CLASS:
            return BoundBatched(self, type(instance) if owner is None else owner)
        if instance is None or self.binding is _Binding.NONE:
            return self
        return BoundBatched(self, instance)

    def __repr__(self) -> str:
        return f"<engine.batched {self.name!r}>"

    def __reduce__(self) -> str:
        return str(getattr(self, "__qualname__", self.name))  # copied and pickled by its name, as functions are

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Wait for this call's part of a batch."""
        if args and isinstance(args[0], type) and self._is_classmethod_of(args[0]):
            return await BoundBatched(self, args[0])(*args[1:], **kwargs)
        return await self._own.run(self._parameters, args, kwargs, _place(self.made, user_frame(1)))

    def call(self, *args: object, **kwargs: object) -> Any:
        """Block until this call's part of a batch is there. Raises `BlockingSyncError` on a running event loop."""
        return self._own.block(self._parameters, args, kwargs, _place(self.made, user_frame(1)))

    def _is_classmethod_of(self, owner: type) -> bool:
        """Tell whether a `classmethod` around this passes the class: from Python 3.13 on it asks for no `__get__`."""
        found = next((vars(each)[self.name] for each in owner.__mro__ if self.name in vars(each)), None)
        return isinstance(found, classmethod) and found.__func__ is self

    def statistics(self) -> BatchStatistics:
        """Count what the function has done so far."""
        return self._own.statistics()

    def bound(self, instance: object) -> tuple[Batches, _Parameters]:
        """The batches of a method of an instance, as long as that lives."""
        number = id(instance)
        with self._lock:
            known = self._of_instances.get(number)
            if known is None or known[0]() is not instance:
                known = self._of_instances[number] = self._made(instance, number)
        return known[1], self._bound_parameters

    def _made(self, instance: object, number: int) -> tuple[Callable[[], object], Batches]:
        states = self._of_instances

        def forget(dead: object) -> None:
            gone = states.get(number)
            if gone is not None and gone[0] is dead:
                del states[number]

        try:
            its = weakref.ref(instance, forget)
        except TypeError:
            raise TypeError(
                f"the batches of {self.name!r} are kept as long as its instance lives, so {type(instance).__name__} "
                "has to take weak references: add '__weakref__' to its __slots__"
            ) from None
        function = self.function

        def method(*args: object, **kwargs: object) -> object:
            return function(its(), *args, **kwargs)

        return its, Batches(method, *self._options)


class BoundBatched:
    """A batched method of one instance: await its calls."""

    __slots__ = ("__func__", "__self__", "__weakref__")

    def __init__(self, its: Batched, instance: object) -> None:
        self.__func__ = its
        self.__self__ = instance

    def __repr__(self) -> str:
        return f"<bound {self.__func__!r} of {self.__self__!r}>"

    @property
    def __name__(self) -> str:
        return self.__func__.name

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Wait for this call's part of a batch."""
        batches, parameters = self.__func__.bound(self.__self__)
        return await batches.run(parameters, args, kwargs, _place(self.__func__.made, user_frame(1)))

    def call(self, *args: object, **kwargs: object) -> Any:
        """Block until this call's part of a batch is there."""
        batches, parameters = self.__func__.bound(self.__self__)
        return batches.block(parameters, args, kwargs, _place(self.__func__.made, user_frame(1)))

    def statistics(self) -> BatchStatistics:
        """Count what the method has done so far for this instance."""
        return self.__func__.bound(self.__self__)[0].statistics()


class Batches:
    """The batchers of a function, or of a method of one instance: one for each executor."""

    def __init__(
        self, function: Function, name: str, coroutine: bool, max_size: int, max_wait: float, axis: int
    ) -> None:
        self._make = functools.partial(Batcher, function, name, coroutine, max_size, max_wait, axis)
        self._name = name
        self._axis = axis
        self._counts = Counts(name)
        self._batchers: weakref.WeakKeyDictionary[Core, Batcher] = weakref.WeakKeyDictionary()
        self._lock = threading.Lock()

    async def run(self, parameters: _Parameters, args: tuple[Any, ...], kwargs: dict[str, Any], place: Place) -> Any:
        """Run a call, and wait for its result as a task."""
        dispatcher = self._dispatcher()
        stacked, names, options = parameters.bind(args, kwargs)
        values = [await value if isinstance(value, Handle) else value for value in stacked]
        call = self._call(dispatcher, values, names, options, place)
        batcher = self._batcher(dispatcher.core)
        return batcher.alone(call) if isinstance(dispatcher, SyncDispatcher) else await batcher.run(call)

    def block(self, parameters: _Parameters, args: tuple[object, ...], kwargs: dict[str, object], place: Place) -> Any:
        """Run a call, and wait for its result as a thread."""
        dispatcher = self._dispatcher()
        stacked, names, options = parameters.bind(args, kwargs)
        values = [value.result() if isinstance(value, Handle) else value for value in stacked]
        call = self._call(dispatcher, values, names, options, place)
        batcher = self._batcher(dispatcher.core)
        return batcher.alone(call) if isinstance(dispatcher, SyncDispatcher) else batcher.block(call)

    def statistics(self) -> BatchStatistics:
        """Count what all of them have done so far."""
        return self._counts.read(sum(batcher.waiting() for batcher in list(self._batchers.values())))

    def _dispatcher(self) -> Dispatcher:
        if not executing_eagerly():
            raise EagerNotEnabledError(
                f"{self._name!r} is batched, which needs eager execution, and here is none (graphs have no calls that "
                "run at once): call engine.enable_eager_execution() at program startup, or call it inside "
                "`async with engine.Executor(): ...`, in a service behind engine.asgi.ScopeMiddleware"
            )
        return current()

    def _batcher(self, core: Core) -> Batcher:
        batcher = self._batchers.get(core)
        if batcher is None:
            with self._lock:
                batcher = self._batchers.get(core)
                if batcher is None:
                    batcher = self._batchers[core] = self._make(self._counts)
        return batcher

    def _call(
        self,
        dispatcher: Dispatcher,
        values: list[object],
        names: tuple[str, ...],
        options: dict[str, object],
        place: Place,
    ) -> Call:
        args = tuple(map(_stackable, values))
        scope = scope_var.get()
        return Call(
            args=args,
            names=names,
            options=options,
            key=(tuple(self._kind(each) for each in args), names, self._option_key(options), dispatcher.device),
            caller=_caller(scope.group),
            priority=scope.priority,
            context=copy_context(),
            dispatcher=dispatcher,
            place=place,
            began=perf_counter(),
        )

    def _kind(self, value: object) -> Hashable:
        """The key of arguments that may be stacked together."""
        if not isinstance(value, np.ndarray):
            return list
        if not -value.ndim - 1 <= self._axis <= value.ndim:
            raise ValueError(
                f"{self._name!r} stacks its arguments along axis {self._axis}, which an array of shape {value.shape} "
                "cannot be"
            )
        return value.shape, value.dtype

    def _option_key(self, options: dict[str, object]) -> Hashable:
        if not options:
            return ()
        try:
            hash(tuple(options.values()))
            return frozenset((name, by_value(value)) for name, value in options.items())
        except TypeError:
            raise TypeError(
                f"the keyword-only arguments of {self._name!r} are options, which calls of one batch share, so they "
                f"must be hashable, but got {options!r}"
            ) from None


def _place(made: Place, frame: FrameType) -> Place:
    """Where a call was made; where its coroutine is a task of its own, which knows no caller, where it was made."""
    beside_the_loop = frame.f_globals.get("__name__", "").partition(".")[0] in ("asyncio", "uvloop")
    return made if beside_the_loop else Place(frame.f_code, frame.f_lasti)


def _caller(group: object) -> Hashable:
    """Among whom turns are taken: requests and other scopes, or else tasks, or else threads."""
    if group is not None:
        return id(group)
    loop = running_loop()
    task = None if loop is None else current_task(loop)
    return threading.get_ident() if task is None else id(task)


def _stackable(value: object) -> object:
    """An array that no caller can write to, of what is to be stacked; another object as it is."""
    if isinstance(value, Symbol):
        value.refuse("a batched function")
    if isinstance(value, np.ndarray):
        return snapshot(value)
    if isinstance(value, bool | int | float | complex | np.generic):
        return np.asarray(value)
    if is_array_like(value):
        array = np.array(value)
        return value if array.dtype.kind in "USO" else checked(array)
    return value


class _Parameters:
    """Which arguments of a function are stacked, and which are options."""

    def __init__(self, function: Function, name: str, *, bound: bool) -> None:
        self._name = name
        self._signature: inspect.Signature | None = None
        self._least = 1
        self._most = math.inf
        """How many arguments by position need no look at the signature."""
        try:
            signature = inspect.signature(function)
        except (TypeError, ValueError):
            return  # a builtin that does not tell
        parameters = list(signature.parameters.values())[bound:]
        self._signature = signature.replace(parameters=parameters)
        positional = [each for each in parameters if each.kind in _POSITIONAL]
        self._least = max(1, sum(each.default is inspect.Parameter.empty for each in positional))
        if all(each.kind is not inspect.Parameter.VAR_POSITIONAL for each in parameters):
            self._most = len(positional)
        if any(each.kind is inspect.Parameter.KEYWORD_ONLY and each.default is each.empty for each in parameters):
            self._most = -1

    def bind(
        self, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> tuple[tuple[object, ...], tuple[str, ...], dict[str, object]]:
        """The arguments to stack, the names of the last of it, and the options."""
        if not kwargs and self._least <= len(args) <= self._most:
            return args, (), {}
        names: tuple[str, ...] = ()
        if self._signature is not None:
            try:
                bound = self._signature.bind(*args, **kwargs)
            except TypeError as error:
                raise TypeError(f"{self._name}: {error}") from None
            args, kwargs = bound.args, bound.kwargs
            names = tuple(name for name in kwargs if self._is_stacked(name))
        if not args and not names:
            raise TypeError(f"{self._name}: a call of a batched function needs an argument that is stacked")
        options = {name: value for name, value in kwargs.items() if name not in names}
        return (*args, *(kwargs[name] for name in names)), names, options

    def _is_stacked(self, name: str) -> bool:
        assert self._signature is not None
        parameter = self._signature.parameters.get(name)
        return parameter is not None and parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD


_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
