"""Messages that servers and applications send each other, as the ASGI specification has it. Pure."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

GONE = frozenset({"http.disconnect", "websocket.disconnect"})
"""The messages that say that the client has gone."""
TRY_AGAIN_LATER = 1013
"""The code that a websocket is closed with where HTTP has 503."""
RETRY_SECONDS = 1
_SMALLEST = 1024


def size_of(message: Message) -> int:
    """Bytes that a message counts for where few are to be held: it is never free."""
    content = message.get("body") or message.get("bytes") or message.get("text") or b""
    return max(_SMALLEST, len(content))


def path_of(scope: Scope) -> str:
    """The path within the application: without the prefix that it is mounted at."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "").rstrip("/")
    return path[len(root) :] if root and path.startswith(f"{root}/") else path


def awaits_permission(scope: Scope) -> bool:
    """Tell whether the client sends its body only when the application asks for it (`Expect: 100-continue`)."""
    return any(name == b"expect" for name, _ in scope.get("headers", ()))


def is_last(message: Message, *, trailers: bool) -> bool:
    """Tell whether a response, or a websocket, ends with this message; `trailers` says that some were announced."""
    kind = message["type"]
    if kind == "http.response.trailers":
        return not message.get("more_trailers", False)
    if kind in ("http.response.body", "http.response.zerocopysend"):
        return not message.get("more_body", False) and not trailers
    if kind == "http.response.pathsend":
        return not trailers
    return bool(kind == "websocket.close")


def begins(message: Message) -> bool:
    """Tell whether a response, or the talk of a websocket, begins with this message."""
    kind = message["type"]
    return kind in ("http.response.start", "websocket.http.response.start", "websocket.accept", "websocket.close")


_REASONS = {503: "The service is busy: try again later.\n", 504: "The service was not done in time.\n"}


def refusal(scope: Scope, status: int) -> list[Message]:
    """The whole answer of a request that is not served, or not in time; a websocket is closed before it is open."""
    if scope["type"] == "websocket":
        if "websocket.http.response" not in scope.get("extensions", {}):
            return [{"type": "websocket.close", "code": TRY_AGAIN_LATER, "reason": _REASONS[status].strip()}]
        prefix = "websocket.http.response"
    else:
        prefix = "http.response"
    body = _REASONS[status].encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    if status == 503:
        headers.append((b"retry-after", str(RETRY_SECONDS).encode()))
    return [
        {"type": f"{prefix}.start", "status": status, "headers": headers},
        {"type": f"{prefix}.body", "body": body},
    ]
