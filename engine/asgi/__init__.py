"""Services: ASGI middleware that runs each request in a scope of an executor."""

from engine.asgi.middleware import RequestStatistics, ScopeMiddleware, statistics

__all__ = ["RequestStatistics", "ScopeMiddleware", "statistics"]


def __dir__() -> list[str]:
    return sorted(__all__)
