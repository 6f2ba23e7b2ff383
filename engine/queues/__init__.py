"""Queues: one protocol, an inline implementation (SYNC) and one on `asyncio.Queue` (ASYNC)."""
