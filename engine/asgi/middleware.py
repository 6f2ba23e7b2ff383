"""`ScopeMiddleware`: the one line that protects a service."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any
from weakref import WeakKeyDictionary

from engine.asgi.messages import Application, Message, Receive, Scope, Send, path_of, refusal
from engine.asgi.newcomers import Newcomers
from engine.asgi.request import End, Request
from engine.base.loops import AbstractEventLoop, asyncio_loop, report
from engine.base.modes import ExecutionMode
from engine.dispatch.executor import Core
from engine.observe.sums import Requests, all_requests, requests_of
from engine.runtime.defaults import Executors
from engine.runtime.executor import Executor, in_force, options_given, options_of
from engine.settings.scope import Block
from engine.settings.switch import Options
from handles.base import check_seconds
from handles.display import statistics_html

Priority = int | Callable[[Scope], int]


@dataclass(frozen=True)
class RequestStatistics:
    """Counts of what became of requests and websockets so far, excluded paths apart."""

    active: int
    """Those being served now."""
    completed: int
    """Those that the application served to the end."""
    failed: int
    """Those in which it raised an error."""
    disconnected: int
    """Those whose client went before the last byte."""
    expired: int
    """Those that were not served in time."""
    refused: int
    """Those that were answered 503, as the executor was full."""
    dropped_ops: int
    """Ops that were dropped, or abandoned, with requests that ended before their time."""

    def _repr_html_(self) -> str:
        return statistics_html(self)


def _counted(requests: Requests) -> RequestStatistics:
    ended = requests.ended.copy()
    return RequestStatistics(
        active=requests.active,
        completed=ended.get(End.COMPLETED, 0),
        failed=ended.get(End.FAILED, 0),
        disconnected=ended.get(End.DISCONNECTED, 0),
        expired=ended.get(End.EXPIRED, 0),
        refused=ended.get(End.REFUSED, 0),
        dropped_ops=requests.dropped_ops,
    )


def statistics() -> RequestStatistics:
    """Count what became of the requests of all `ScopeMiddleware` of this process, those that are gone included.

    >>> engine.asgi.statistics().active
    0
    """
    return _counted(all_requests())


class _OnLoop:
    """The executor and the newcomers that a middleware has on one loop."""

    __slots__ = ("executor", "newcomers")

    def __init__(self) -> None:
        self.newcomers = Newcomers()
        self.executor: Executor | None = None
        """Its own, opened by the lifespan."""


class ScopeMiddleware:
    """ASGI middleware that runs each request, and each websocket, in a scope of an executor.

    A client that disconnects cancels the task of its request, and what the request had dispatched is dropped. Where the
    executor is above its high-water marks, a request is answered 503 with `Retry-After`. A request that has not begun
    to respond after `timeout` seconds is answered 504, and is cancelled and dropped in the same way; so is a response
    that stands still for as long between two parts, which is cut off. Responses keep their scope to the last byte;
    what the application does after that, such as background tasks, runs outside it. A websocket has one scope from the
    first message to the last, and no timeout once it is accepted.

    Without `executor` the middleware makes one in ASYNC mode, opened and closed with the application's lifespan, for
    which it is also `state["executor"]`; where a server runs no lifespan there is one for each loop. A function that is
    given makes it (`lambda: engine.Executor(config, execution_mode=engine.ASYNC)`); an executor that is given has to be
    entered by the application, in its lifespan. `priority` is an integer, larger goes first, or a
    function of the ASGI scope that returns one. Paths in `exclude`, and those below them, are left alone: they get no
    executor, and are never held up.

    It is to be the outermost middleware: others may hide the word of a client's going. Exceptions of the application
    come out as they are. Raises `TypeError` and `ValueError` for arguments of another kind.

    >>> async def app(scope, receive, send): ...
    >>> app = engine.asgi.ScopeMiddleware(app, timeout=5.0)

    FastAPI and Starlette have `app.add_middleware(engine.asgi.ScopeMiddleware, timeout=5.0)` for it.
    """

    def __init__(
        self,
        app: Application,
        executor: Executor | Callable[[], Executor] | None = None,
        *,
        timeout: float | None = None,
        priority: Priority = 0,
        exclude: Sequence[str] = ("/health",),
    ) -> None:
        _check(app, executor, timeout, exclude)
        self.app = app
        self.executor = executor if isinstance(executor, Executor) else None
        """The one that the application has opened; None where the middleware makes its own."""
        self._make = _own_executor if executor is None or isinstance(executor, Executor) else executor
        self.timeout = timeout
        self.priority = priority if callable(priority) else _checked_priority(priority)
        self.exclude = tuple(path.rstrip("/") or "/" for path in exclude)
        self._below = tuple(f"{path.rstrip('/')}/" for path in self.exclude)
        self._requests = requests_of(self)
        self._loops: WeakKeyDictionary[AbstractEventLoop, _OnLoop] = WeakKeyDictionary()
        self._unopened = Executors()
        """Its own executors of loops without a lifespan."""
        self._without_lifespan: Options | None = None
        """Their options, once one was needed."""

    def statistics(self) -> RequestStatistics:
        """Count what became of its requests so far."""
        return _counted(self._requests)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve as an ASGI application."""
        kind = scope["type"]
        if kind in ("http", "websocket"):
            path = path_of(scope)
            if path not in self.exclude and not path.startswith(self._below):
                await self._serve(scope, receive, send)
                return
        elif kind == "lifespan" and self.executor is None:
            await self._live(scope, receive, send)
            return
        await self.app(scope, receive, send)

    # Requests

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        loop = asyncio_loop()
        priority = self.priority if isinstance(self.priority, int) else _checked_priority(self.priority(scope))
        here = self._on(loop)
        options = self._options(here.executor)
        core: Core = options["executor"]
        if options["mode"] is ExecutionMode.ASYNC and not core.admission.is_open():
            self._requests.refuse(End.REFUSED)
            await _refuse(scope, receive, send)
            return
        request = Request(scope, receive, send, loop, here.newcomers, self.timeout)
        options["group"], options["priority"] = request.work, priority
        block = Block(**options)
        self._requests.begin()
        end = None
        began = perf_counter()
        try:
            end = await request.run(self.app)
        finally:
            block.leave()
            self._requests.end(end or request.end, perf_counter() - began, request.work.dropped)

    def _on(self, loop: AbstractEventLoop) -> _OnLoop:
        known = self._loops.get(loop)
        if known is None:
            known = self._loops[loop] = _OnLoop()
        return known

    def _options(self, opened: Executor | None) -> dict[str, Any]:
        executor = self.executor or opened
        if executor is not None:
            return in_force(executor)
        if self._without_lifespan is None:
            self._without_lifespan = options_given(self._make())
        given = self._without_lifespan
        return options_of(self._unopened.core(given), given.mode, given.policy)

    # The lifespan

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application's lifespan inside an executor, which is closed before the server hears of the end."""
        loop = asyncio_loop()
        here = self._on(loop)
        executor = self._make()
        if isinstance(scope.get("state"), dict):
            scope["state"].setdefault("executor", executor)

        async def close() -> None:
            if here.executor is executor:
                here.executor = None
            if executor.state == "open":
                try:
                    await executor.__aexit__(None, None, None)
                except Exception as error:  # noqa: BLE001 - the failure of an op is no reason not to shut down
                    report(loop, "an op failed and its result was never read", error)

        async def send_closing(message: Message) -> None:
            if message["type"] in _ENDS:
                await close()
            await send(message)

        await executor.__aenter__()
        here.executor = executor
        try:
            await self.app(scope, receive, send_closing)
        finally:
            await close()


def _own_executor() -> Executor:
    return Executor(execution_mode=ExecutionMode.ASYNC)


_ENDS = frozenset({"lifespan.shutdown.complete", "lifespan.shutdown.failed", "lifespan.startup.failed"})


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await receive()  # the server says that the client wants to connect
    for message in refusal(scope, 503):
        await send(message)


def _check(app: object, executor: object, timeout: float | None, exclude: object) -> None:
    if not callable(app):
        raise TypeError(f"app must be an ASGI application, but got {app!r}")
    if executor is not None and not (isinstance(executor, Executor) or callable(executor)):
        raise TypeError(
            f"executor must be an engine.Executor, a function that makes one, or None, but got {executor!r}"
        )
    check_seconds("timeout", timeout)
    if isinstance(exclude, str) or not isinstance(exclude, Sequence | set | frozenset):
        raise TypeError(f'exclude must be a sequence of paths, such as ("/health",), but got {exclude!r}')
    for path in exclude:
        if not isinstance(path, str) or not path.startswith("/"):
            raise ValueError(f'exclude must hold paths that begin with "/", but got {path!r}')


def _checked_priority(priority: object) -> int:
    if isinstance(priority, bool) or not hasattr(priority, "__index__"):
        raise TypeError(
            f"priority must be an integer (larger goes first), or a function that returns one, but got {priority!r}"
        )
    return operator.index(priority)
