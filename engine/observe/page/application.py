"""The ASGI application of the live page.

Imported where it is used only: it needs starlette. Addresses on the page are relative, so it works wherever it is
mounted; nothing is loaded from elsewhere.
"""

from __future__ import annotations

import json
import linecache
from collections.abc import AsyncIterator
from importlib.resources import files

import anyio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from engine.observe.hub import hub
from engine.observe.page.live import Live

_eagerloop_internal = True  # its frames are not the user's

INTERVAL = 0.5
"""Seconds between two updates of a page."""
AROUND = 6
"""Lines of code that are shown before and after the one that was asked for."""

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:"


class Page:
    """The answers of the application, by address."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._html = files("engine.observe.page").joinpath("page.html").read_text(encoding="utf-8")

    async def page(self, request: Request) -> Response:
        """The page itself."""
        if not request.url.path.endswith("/"):  # mounted without one: relative addresses would miss
            return RedirectResponse(request.url.replace(path=request.url.path + "/"))
        return HTMLResponse(self._html, headers={"Content-Security-Policy": POLICY, "Cache-Control": "no-store"})

    async def state(self, request: Request) -> Response:
        """How it stands, once."""
        return JSONResponse(self._live.state())

    async def events(self, request: Request) -> Response:
        """How it stands, again and again, as server-sent events."""
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(self._updates(request), media_type="text/event-stream", headers=headers)

    async def _updates(self, request: Request) -> AsyncIterator[str]:
        yield "retry: 1000\n\n"
        while not await request.is_disconnected():
            yield f"data: {json.dumps(self._live.state(), separators=(',', ':'))}\n\n"
            await anyio.sleep(INTERVAL)

    async def source(self, request: Request) -> Response:
        """The lines around a place; only around such as the page has shown."""
        site = request.query_params.get("site", "")
        file, _, line = site.rpartition(":")
        if site not in self._live.sites or not line.isdigit():
            return JSONResponse({"error": "this place has not been shown"}, status_code=404)
        lines = linecache.getlines(file)
        first = max(1, int(line) - AROUND)
        text = [each.rstrip("\n") for each in lines[first - 1 : int(line) + AROUND]]
        return JSONResponse({"site": site, "line": int(line), "first": first, "lines": text})


def make() -> Starlette:
    """Make the application of `engine.observe.dashboard`."""
    live = Live()
    page = Page(live)
    hub.add(live)
    routes = [
        Route("/", page.page),
        Route("/state", page.state),
        Route("/events", page.events),
        Route("/source", page.source),
    ]
    return Starlette(routes=routes)
