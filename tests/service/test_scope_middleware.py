"""`ScopeMiddleware`, message by message: what the application gets, what the client gets, and what is dropped."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anyio
import numpy as np
import pytest

import engine
from engine import ops
from engine.asgi import RequestStatistics, ScopeMiddleware, newcomers
from engine.asgi.inbox import HELD_BYTES
from engine.asgi.messages import Application, Message, Scope
from engine.queues import dropping
from engine.settings.scope import scope_var
from engine.testing import GateOp
from tests.service.exchange import Exchange, answer, living, with_lifespan

Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


@pytest.fixture
async def executor() -> AsyncIterator[engine.Executor]:
    """An executor that the application has opened."""
    async with engine.Executor(execution_mode=engine.ASYNC) as executor:
        yield executor


async def until(condition: Callable[[], bool]) -> None:
    """Turn the loop until something holds."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - there is no event for what others count
            await asyncio.sleep(0)


async def turns(count: int = 20) -> None:
    """Turn the loop a few times."""
    for _ in range(count):
        await asyncio.sleep(0)


# Requests as such


async def test_ops_of_a_request_go_to_the_executor_and_the_values_are_numpys(executor: engine.Executor) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert (await receive())["type"] == "http.request"
        await answer(send, float(await ops.sum(ops.sqrt(ops.arange(10.0)))))

    exchange = await Exchange().run(ScopeMiddleware(app, executor))
    assert exchange.status == 200
    assert exchange.body == repr(float(np.sum(np.sqrt(np.arange(10.0))))).encode()
    assert executor.statistics().completed >= 2


async def test_ops_of_each_request_have_its_number(executor: engine.Executor) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await ops.sin(1.0)
        async with engine.scope():
            ops.tanh(1.0)
        await answer(send, float(await ops.cos(1.0)))

    with engine.profile() as profile:
        for _ in range(3):
            await Exchange().run(ScopeMiddleware(app, executor))
    scopes = {name: [op.scope for op in profile.ops if op.name == name] for name in ("sin", "tanh", "cos")}
    assert scopes["sin"] == scopes["cos"]
    assert None not in scopes["sin"] + scopes["tanh"]
    assert len({*scopes["sin"], *scopes["tanh"]}) == 6


async def test_the_context_of_the_task_is_as_before(executor: engine.Executor) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert engine.executing_eagerly()
        await answer(send)

    await Exchange().run(ScopeMiddleware(app, executor))
    outside = asyncio.create_task(asyncio.sleep(0))
    await outside
    assert engine.get_execution_mode() in (None, engine.ASYNC)


class OddError(Exception):
    """An error of an application."""


@pytest.mark.parametrize("dispatches", [False, True])
async def test_an_exception_of_the_application_comes_out_as_it_is_and_drops_its_work(
    executor: engine.Executor, gate: GateOp, dispatches: bool
) -> None:
    error = OddError("odd")
    behind: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if dispatches:
            behind.append(gate(1) + 1)
        raise error

    middleware = ScopeMiddleware(app, executor)
    with pytest.raises(OddError) as caught:
        await Exchange().run(middleware)
    assert caught.value is error
    assert middleware.statistics().failed == 1
    if dispatches:
        with pytest.raises(engine.OpCancelledError):
            await behind[0]


async def test_a_failed_op_interrupts_nothing_and_may_be_answered(executor: engine.Executor) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        bad: Any = ops.add(np.ones(2), np.ones(3))
        await turns()
        try:
            await bad
        except ValueError as error:
            await answer(send, str(error), status=422)

    exchange = await Exchange().run(ScopeMiddleware(app, executor))
    assert exchange.status == 422
    assert b"broadcast" in exchange.body


async def test_a_failure_that_no_reader_has_seen_is_told_to_the_loops_handler(executor: engine.Executor) -> None:
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    gate = GateOp()

    @engine.op
    def explode(x: Any) -> Any:
        raise OddError("unread")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        explode(gate(1))
        await answer(send)

    await Exchange().run(ScopeMiddleware(app, executor))
    assert not told
    gate.open()
    await until(lambda: bool(told))
    assert isinstance(told[0]["exception"], OddError)


@pytest.mark.parametrize("path", ["/health", "/health/", "/health/live"])
async def test_excluded_paths_are_left_alone(executor: engine.Executor, path: str) -> None:
    seen: list[tuple[Any, ...]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append((scope, receive, send))
        await answer(send)

    exchange = Exchange(path=path)
    middleware = ScopeMiddleware(app, executor)
    await middleware(exchange.scope, exchange.receive, exchange.send)
    assert seen[0][0] is exchange.scope
    assert seen[0][1:] == (exchange.receive, exchange.send)
    assert middleware.statistics() == RequestStatistics(0, 0, 0, 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("path", "root"), [("/healthy", ""), ("/", ""), ("/api/healthy", "/api"), ("/apihealth", "/api")]
)
async def test_other_paths_are_not(executor: engine.Executor, path: str, root: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send)

    middleware = ScopeMiddleware(app, executor)
    await Exchange(path=path, root_path=root).run(middleware)
    assert middleware.statistics().completed == 1


async def test_a_prefix_that_the_application_is_mounted_at_does_not_count(executor: engine.Executor) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send)

    middleware = ScopeMiddleware(app, executor)
    await Exchange(path="/api/health", root_path="/api").run(middleware)
    assert middleware.statistics().completed == 0


async def test_priority_is_a_number_or_a_function_of_the_scope(executor: engine.Executor) -> None:
    seen: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope_var.get().priority)
        await answer(send)

    await Exchange().run(ScopeMiddleware(app, executor, priority=3))
    by_path = ScopeMiddleware(app, executor, priority=lambda scope: 5 if scope["path"] == "/tiny" else -1)
    await Exchange(path="/tiny").run(by_path)
    await Exchange(path="/slow").run(by_path)
    assert seen == [3, 5, -1]
    with pytest.raises(TypeError, match="priority"):
        await Exchange().run(ScopeMiddleware(app, executor, priority=lambda scope: "high"))  # type: ignore[arg-type,return-value]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"executor": 3}, TypeError, "executor"),
        ({"timeout": -1}, ValueError, "timeout"),
        ({"timeout": "1"}, ValueError, "timeout"),
        ({"priority": "high"}, TypeError, "priority"),
        ({"priority": True}, TypeError, "priority"),
        ({"exclude": "/health"}, TypeError, "exclude"),
        ({"exclude": ["health"]}, ValueError, "exclude"),
        ({"app": None}, TypeError, "app"),
    ],
)
def test_arguments_are_checked(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None: ...

    with pytest.raises(error, match=message):
        ScopeMiddleware(**{"app": app} | arguments)


# Messages pass through


async def test_the_body_reaches_the_application_whole_and_in_order(executor: engine.Executor) -> None:
    parts = [bytes([number]) * 10_000 for number in range(50)]
    read: list[bytes] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await turns()  # the inbox reads ahead meanwhile
        more = True
        while more:
            message = await receive()
            read.append(message["body"])
            more = message["more_body"]
            await asyncio.sleep(0)
        await answer(send)

    messages = [{"type": "http.request", "body": part, "more_body": part is not parts[-1]} for part in parts]
    await Exchange(*messages).run(ScopeMiddleware(app, executor))
    assert read == parts


async def test_a_body_that_is_not_read_is_not_held_in_memory(executor: engine.Executor, gate: GateOp) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await gate(1)
        await answer(send)

    part = b"x" * 1000
    exchange = Exchange(*[{"type": "http.request", "body": part, "more_body": True} for _ in range(1000)])
    task = exchange.start(ScopeMiddleware(app, executor))
    await until(lambda: exchange.asked > 10)
    await turns(500)
    assert exchange.asked <= HELD_BYTES // 1000 + 1
    gate.open()
    await task


@pytest.mark.parametrize("stays", [False, True], ids=["takes the next one", "takes its time"])
async def test_between_pieces_of_a_body_the_server_is_asked_ahead_only_after_a_moment(
    executor: engine.Executor, monkeypatch: pytest.MonkeyPatch, stays: bool
) -> None:
    pieces = [{"type": "http.request", "body": b"x" * HELD_BYTES, "more_body": more} for more in (True, True, False)]
    exchange = Exchange(*pieces)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await until(lambda: exchange.asked == 1)
        monkeypatch.setattr(newcomers, "MOMENT", 0.0 if stays else 3600.0)
        await receive()
        if stays:
            await until(lambda: exchange.asked == 2)
        await turns()
        assert exchange.asked == 1 + stays
        await receive()
        await turns()
        assert exchange.asked == 2 + stays
        assert not (await receive())["more_body"]
        await answer(send)

    monkeypatch.setattr(newcomers, "MOMENT", 0.0)
    assert (await exchange.run(ScopeMiddleware(app, executor))).status == 200


async def test_a_client_that_waits_to_be_asked_for_its_body_is_not_asked(
    executor: engine.Executor, gate: GateOp
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await gate(1)
        await answer(send, status=413)

    exchange = Exchange(headers=[(b"expect", b"100-continue")])
    task = exchange.start(ScopeMiddleware(app, executor))
    await turns()
    assert exchange.asked == 0
    gate.open()
    await task


async def test_an_application_that_asks_first_gets_the_next_message(executor: engine.Executor) -> None:
    got: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        got.append((await receive())["type"])
        listening: asyncio.Task[Message] = asyncio.create_task(receive())  # type: ignore[arg-type]
        await turns()
        listening.cancel()  # as frameworks do with the task that listens for the client's going
        await asyncio.wait([listening])
        await answer(send)
        got.append((await receive())["type"])

    exchange = Exchange()
    task = exchange.start(ScopeMiddleware(app, executor))
    await exchange.began()
    exchange.go()
    await task
    assert got == ["http.request", "http.disconnect"]


async def test_an_error_of_the_servers_receive_reaches_the_application(executor: engine.Executor) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await turns()
        with pytest.raises(OddError):
            await receive()
        await answer(send)

    async def receive() -> Message:
        raise OddError("no more")

    exchange = Exchange()
    await ScopeMiddleware(app, executor)(exchange.scope, receive, exchange.send)
    assert exchange.status == 200


# A client that goes


async def test_a_client_that_goes_cancels_the_request_and_drops_its_work(
    executor: engine.Executor, gate: GateOp
) -> None:
    handles: list[Any] = []
    cancelled: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            handle = gate(1)
            for _ in range(100):
                handle = handle + 1
                handles.append(handle)
            await handle
        except asyncio.CancelledError:
            cancelled.append("task")
            raise

    exchange = Exchange()
    middleware = ScopeMiddleware(app, executor)
    task = exchange.start(middleware)
    await asyncio.to_thread(gate.wait_entered)
    exchange.go()
    await asyncio.wait_for(task, 10)
    assert cancelled == ["task"]
    assert exchange.sent == []
    statistics = middleware.statistics()
    assert (statistics.disconnected, statistics.active, statistics.dropped_ops) == (1, 0, 101)
    assert executor.statistics().cancelled == 101
    with pytest.raises(engine.OpCancelledError, match="client has gone"):
        await handles[-1]


@pytest.mark.parametrize("swallows", [False, True])
async def test_tasks_of_the_application_are_cancelled_with_it(
    executor: engine.Executor, gate: GateOp, swallows: bool
) -> None:
    ends: list[str] = []

    async def child() -> None:
        try:
            await (gate(1) + 1)
        except BaseException as error:
            ends.append(type(error).__name__)
            if not swallows:
                raise

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async with anyio.create_task_group() as outer, asyncio.TaskGroup() as group:
            outer.start_soon(child)
            group.create_task(child())
        await answer(send)

    exchange = Exchange()
    task = exchange.start(ScopeMiddleware(app, executor))
    await asyncio.to_thread(gate.wait_entered)
    exchange.go()
    await asyncio.wait_for(task, 10)
    assert ends == ["CancelledError"] * 2


async def test_a_thread_of_a_dropped_request_can_dispatch_no_more(executor: engine.Executor, gate: GateOp) -> None:
    ended = threading.Event()
    errors: list[BaseException] = []

    def endpoint() -> None:
        try:
            (gate(1) + 1).result()
        except engine.OpCancelledError as error:
            errors.append(error)
        try:
            ops.add(1, 1)
        except engine.OpCancelledError as error:
            errors.append(error)
        ended.set()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.to_thread(endpoint)

    exchange = Exchange()
    task = exchange.start(ScopeMiddleware(app, executor))
    await asyncio.to_thread(gate.wait_entered)
    exchange.go()
    await asyncio.wait_for(task, 10)
    assert await asyncio.to_thread(ended.wait, 10)
    assert len(errors) == 2
    assert "was not dispatched: its client has gone" in str(errors[1])


async def test_an_error_that_the_interruption_did_not_cause_comes_out(executor: engine.Executor, gate: GateOp) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await gate(1)
        finally:
            raise OddError("while tidying up")

    exchange = Exchange()
    task = exchange.start(ScopeMiddleware(app, executor))
    await asyncio.to_thread(gate.wait_entered)
    exchange.go()
    with pytest.raises(OddError):
        await task


async def test_going_after_the_last_byte_is_no_disconnection(executor: engine.Executor) -> None:
    background: list[float] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await turns()
        await answer(send)
        await turns()
        background.append(float(await (ops.asarray(1.0) + 1)))

    exchange = Exchange()
    middleware = ScopeMiddleware(app, executor, timeout=30)
    task = exchange.start(middleware)
    await exchange.began()
    exchange.go()
    await task
    assert background == [2.0]
    assert middleware.statistics().completed == 1


async def test_what_runs_after_the_last_byte_runs_outside_the_scope(executor: engine.Executor, gate: GateOp) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        handle = gate(1)
        await answer(send)
        gate.open()
        assert (await handle) == 1
        async with engine.scope() as own:  # it may have scopes of its own
            ops.add(1, 1)
        assert own.in_flight == 0
        raise OddError("of a background task")

    middleware = ScopeMiddleware(app, executor)
    with pytest.raises(OddError):
        await Exchange().run(middleware)
    assert middleware.statistics().dropped_ops == 0


async def test_cancellation_from_outside_passes_and_drops(executor: engine.Executor, gate: GateOp) -> None:
    handles: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        handles.append(gate(1) + 1)
        await handles[0]

    middleware = ScopeMiddleware(app, executor)
    task = Exchange().start(middleware)
    await asyncio.to_thread(gate.wait_entered)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(engine.OpCancelledError):
        await handles[0]
    assert middleware.statistics().active == 0


async def test_scopes_inside_a_request_are_dropped_with_it(executor: engine.Executor, gate: GateOp) -> None:
    handles: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async with engine.scope():
            handles.append(gate(1) + 1)
            await handles[0]

    exchange = Exchange()
    task = exchange.start(ScopeMiddleware(app, executor))
    await asyncio.to_thread(gate.wait_entered)
    exchange.go()
    await task
    with pytest.raises(engine.OpCancelledError):
        await handles[0]


async def test_a_request_that_is_soon_answered_is_not_watched_and_one_that_stays_is(
    executor: engine.Executor, gate: GateOp, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await asyncio.sleep(0)
        tasks.append(len(asyncio.all_tasks()))
        if scope["path"] == "/stays":
            await gate(1)
        await answer(send)

    monkeypatch.setattr(newcomers, "MOMENT", 3600.0)
    before = len(asyncio.all_tasks())
    soon = await Exchange().run(ScopeMiddleware(app, executor, timeout=30.0))
    assert tasks == [before]
    assert soon.asked == 1
    monkeypatch.setattr(newcomers, "MOMENT", 0.0)
    stays = Exchange(path="/stays")
    task = stays.start(ScopeMiddleware(app, executor, timeout=30.0))
    await until(lambda: stays.asking == 1)  # beside the application
    assert soon.asked == 1
    gate.open()
    await task
    assert stays.status == 200


@pytest.mark.parametrize("interrupted", [False, True])
async def test_many_ops_are_dropped_in_several_turns_of_the_loop(
    executor: engine.Executor, gate: GateOp, monkeypatch: pytest.MonkeyPatch, interrupted: bool
) -> None:
    monkeypatch.setattr(dropping, "SECONDS", 0.0)
    monkeypatch.setattr(dropping, "LONGEST", 0.0)
    handles: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        handles.append(gate(1.0))
        for _ in range(10 * dropping.TOGETHER):
            handles.append(handles[-1] + 1.0)
        await handles[-1]

    def dropped() -> int:
        return sum(handle._cell.state == "cancelled" for handle in handles)

    exchange = Exchange()
    middleware = ScopeMiddleware(app, executor)
    task = exchange.start(middleware)
    await asyncio.to_thread(gate.wait_entered)
    exchange.go()
    await until(lambda: dropped() > 0)
    assert dropped() < len(handles)
    if interrupted:
        task.cancel()  # by the server, which shuts down
    await asyncio.wait([task])
    await until(lambda: dropped() == len(handles))
    assert middleware.statistics().disconnected == 1
    if not interrupted:
        assert middleware.statistics().dropped_ops == len(handles)
    for handle in handles:
        with pytest.raises(engine.OpCancelledError, match="its client has gone"):
            await handle


# Streaming


async def test_a_stream_keeps_its_scope_until_the_last_byte(executor: engine.Executor, gate: GateOp) -> None:
    dropped: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for number in range(3):
            value = float(await (ops.asarray(float(number)) * 2))
            await send({"type": "http.response.body", "body": f"{value};".encode(), "more_body": True})
        dropped.append(gate(1) + 1)
        await dropped[0]
        await send({"type": "http.response.body", "body": b"end"})

    exchange = Exchange()
    middleware = ScopeMiddleware(app, executor)
    task = exchange.start(middleware)
    await asyncio.to_thread(gate.wait_entered)
    assert exchange.body == b"0.0;2.0;4.0;"
    exchange.go()
    await task
    assert middleware.statistics().disconnected == 1
    assert middleware.statistics().dropped_ops == 2


async def test_a_response_with_trailers_ends_with_them(executor: engine.Executor) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [], "trailers": True})
        await send({"type": "http.response.body", "body": b"all"})
        await asyncio.get_running_loop().create_future()

    exchange = Exchange()
    middleware = ScopeMiddleware(app, executor)
    task = exchange.start(middleware)
    await exchange.began()
    exchange.go()
    await task
    assert middleware.statistics().disconnected == 1


# Deadlines


async def test_a_request_that_is_not_answered_in_time_is_answered_504(executor: engine.Executor, gate: GateOp) -> None:
    handles: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        handles.append(gate(1) + 1)
        await handles[0]

    middleware = ScopeMiddleware(app, executor, timeout=0.05)
    exchange = await Exchange().run(middleware)
    assert exchange.status == 504
    assert exchange.body
    statistics = middleware.statistics()
    assert (statistics.expired, statistics.dropped_ops) == (1, 2)
    with pytest.raises(engine.OpCancelledError, match="time was up"):
        await handles[0]


async def test_the_504_does_not_wait_for_an_application_that_does_not_end(executor: engine.Executor) -> None:
    release = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        waiting = asyncio.create_task(release.wait())
        while not waiting.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.shield(waiting)
        await answer(send, b"too late")

    exchange = Exchange()
    task = exchange.start(ScopeMiddleware(app, executor, timeout=0.02))
    await exchange.began()
    assert exchange.status == 504
    release.set()
    await task
    assert exchange.status == 504
    assert b"too late" not in exchange.body


async def test_a_stream_that_goes_on_has_no_deadline(executor: engine.Executor) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(8):
            await asyncio.sleep(0.15)  # the whole takes longer than the timeout
            await send({"type": "http.response.body", "body": b".", "more_body": True})
        await send({"type": "http.response.body", "body": b"end"})

    exchange = await Exchange().run(ScopeMiddleware(app, executor, timeout=1.0))
    assert (exchange.status, exchange.body) == (200, b"........end")


async def test_a_stream_that_stands_still_is_cut_off(executor: engine.Executor, gate: GateOp) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b".", "more_body": True})
        await gate(1)

    exchange = Exchange()
    middleware = ScopeMiddleware(app, executor, timeout=0.05)
    with pytest.raises(TimeoutError, match="did not go on"):
        await exchange.run(middleware)
    assert (exchange.status, exchange.body) == (200, b".")
    assert middleware.statistics().expired == 1


# Overload


@pytest.fixture
async def full(gate: GateOp) -> AsyncIterator[engine.Executor]:
    """An executor above its high-water marks."""
    config = engine.Config(max_pending_ops=2)
    async with engine.Executor(config, execution_mode=engine.ASYNC) as executor:
        handle = gate(1)
        ops.add(handle, 1)
        yield executor
        gate.open()


async def test_a_full_executor_answers_503(full: engine.Executor) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError("it is not called")

    middleware = ScopeMiddleware(app, full)
    exchange = await Exchange().run(middleware)
    assert exchange.status == 503
    assert (b"retry-after", b"1") in exchange.sent[0]["headers"]
    assert middleware.statistics().refused == 1


async def test_excluded_paths_are_answered_by_a_full_executor(full: engine.Executor) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send)

    exchange = await Exchange(path="/health").run(ScopeMiddleware(app, full))
    assert exchange.status == 200


async def test_it_serves_again_when_there_is_room(full: engine.Executor, gate: GateOp) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send)

    middleware = ScopeMiddleware(app, full)
    assert (await Exchange().run(middleware)).status == 503
    gate.open()
    await until(lambda: full.statistics().pending < 2)
    assert (await Exchange().run(middleware)).status == 200


# Websockets

CONNECT: Message = {"type": "websocket.connect"}


def says(text: str) -> Message:
    return {"type": "websocket.receive", "text": text}


async def test_a_websocket_has_one_scope_for_its_life(executor: engine.Executor) -> None:
    groups: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert await receive() == CONNECT
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            groups.append(scope_var.get().group)
            value = float(await ops.sqrt(float(message["text"])))
            await send({"type": "websocket.send", "text": f"{value:g}"})

    exchange = Exchange(CONNECT, *map(says, "149"), {"type": "websocket.disconnect"}, kind="websocket")
    middleware = ScopeMiddleware(app, executor, timeout=0.2)
    await exchange.run(middleware)
    assert [each["text"] for each in exchange.sent[1:]] == ["1", "2", "3"]
    assert len(set(map(id, groups))) == 1
    assert middleware.statistics().completed == 1


async def test_a_websocket_whose_client_goes_drops_its_work_and_is_told(
    executor: engine.Executor, gate: GateOp
) -> None:
    seen: list[object] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        try:
            await (gate(1) + 1)
        except engine.OpCancelledError:
            seen.append("dropped")
        seen.append((await receive())["type"])
        seen.append(float(await (ops.asarray(1.0) + 1)))  # tidying up may compute

    exchange = Exchange(CONNECT, kind="websocket")
    middleware = ScopeMiddleware(app, executor)
    task = exchange.start(middleware)
    await asyncio.to_thread(gate.wait_entered)
    exchange.go()
    await task
    assert seen == ["dropped", "websocket.disconnect", 2.0]
    assert middleware.statistics().dropped_ops == 2


@pytest.mark.parametrize("extension", [False, True])
async def test_a_websocket_is_refused_before_it_is_open(full: engine.Executor, extension: bool) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError("it is not called")

    extensions: dict[str, Any] = {"websocket.http.response": {}} if extension else {}
    exchange = await Exchange(CONNECT, kind="websocket", extensions=extensions).run(ScopeMiddleware(app, full))
    if extension:
        assert exchange.status == 503
    else:
        assert exchange.sent == [{"type": "websocket.close", "code": 1013, "reason": exchange.sent[0]["reason"]}]


async def test_a_websocket_that_is_accepted_has_no_deadline(executor: engine.Executor) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await asyncio.sleep(0.1)
        await send({"type": "websocket.close"})

    exchange = await Exchange(CONNECT, kind="websocket").run(ScopeMiddleware(app, executor, timeout=0.02))
    assert [each["type"] for each in exchange.sent] == ["websocket.accept", "websocket.close"]


# Its own executor


async def add(scope: Scope, receive: Receive, send: Send) -> None:
    await answer(send, float(await (ops.asarray(1.0) + 1)))


async def test_its_own_executor_lives_as_long_as_the_application() -> None:
    middleware = ScopeMiddleware(with_lifespan(add))
    for _ in range(2):  # a second life has another executor
        async with living(middleware) as lifespan:
            executor = lifespan["state"]["executor"]
            assert executor.state == "open"
            assert (await Exchange().run(middleware)).body == b"2.0"
            assert executor.statistics().completed > 0
        assert executor.state == "closed"


async def test_the_lifespan_of_the_application_may_compute() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            scope["state"]["weights"] = ops.asarray([1.0, 2.0]) * 2
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        await answer(send, float(await ops.sum(lifespan["state"]["weights"])))

    middleware = ScopeMiddleware(app)
    async with living(middleware) as lifespan:
        assert (await Exchange().run(middleware)).body == b"6.0"


async def test_leaving_the_lifespan_waits_for_what_is_pending(gate: GateOp) -> None:
    handles: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        handles.append(gate(1) + 1)
        await answer(send)

    middleware = ScopeMiddleware(with_lifespan(app))
    async with living(middleware):
        await Exchange().run(middleware)
        asyncio.get_running_loop().call_later(0.02, gate.open)
    assert handles[0].is_ready()


async def test_a_failure_that_is_left_over_does_not_stop_the_shutdown() -> None:
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            ops.add(np.ones(2), np.ones(3))
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})

    async with living(ScopeMiddleware(app)):
        pass
    assert [type(each["exception"]) for each in told] == [ValueError]


async def test_without_a_lifespan_each_loop_has_an_executor() -> None:
    middleware = ScopeMiddleware(with_lifespan(add))
    assert (await Exchange().run(middleware)).body == b"2.0"
    elsewhere = await asyncio.to_thread(asyncio.run, Exchange().run(middleware))
    assert elsewhere.body == b"2.0"


async def test_an_application_without_a_lifespan_says_so_as_before() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            raise OddError("no lifespan here")
        await add(scope, receive, send)

    middleware: Application = ScopeMiddleware(app)
    exchange = Exchange({"type": "lifespan.startup"}, kind="lifespan")
    with pytest.raises(OddError):
        await exchange.run(middleware)
    assert (await Exchange().run(middleware)).body == b"2.0"


@pytest.mark.parametrize("lifespan", [False, True])
async def test_a_function_makes_the_executor_anew_for_each_life(lifespan: bool) -> None:
    made: list[engine.Executor] = []

    def make() -> engine.Executor:
        made.append(engine.Executor(engine.Config(max_pending_ops=7), execution_mode=engine.ASYNC))
        return made[-1]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        config = engine.get_config()
        assert config is not None
        await answer(send, config.max_pending_ops)

    middleware = ScopeMiddleware(with_lifespan(app), make)
    for life in range(2):
        async with living(middleware) if lifespan else contextlib.nullcontext():
            assert (await Exchange().run(middleware)).body == b"7"
            assert len(made) == (life + 1 if lifespan else 1)


async def test_an_executor_that_was_not_entered_says_what_to_do() -> None:
    with pytest.raises(engine.ExecutorClosedError, match="enter it"):
        await Exchange().run(ScopeMiddleware(add, engine.Executor(execution_mode=engine.ASYNC)))


async def test_an_executor_in_sync_mode_works_as_well() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, (ops.asarray(1.0) + 1).item())

    async with engine.Executor(execution_mode=engine.SYNC) as executor:
        assert (await Exchange().run(ScopeMiddleware(app, executor))).body == b"2.0"


async def test_statistics_of_the_process_are_the_sum(executor: engine.Executor) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert engine.asgi.statistics().active - before.active == 1
        await answer(send)

    before = engine.asgi.statistics()
    middlewares = [ScopeMiddleware(app, executor) for _ in range(2)]
    for each in middlewares:
        await Exchange().run(each)
    assert engine.asgi.statistics().completed - before.completed == 2
