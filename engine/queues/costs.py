"""Costs: what a queue has learned of how long ops take on its device. Guarded by the queue's lock."""

from __future__ import annotations

from typing import Any

from engine.base.op import SMALL_NS, Op


class Costs:
    """How much slower than estimated the ops of one device have turned out to be."""

    __slots__ = ("slow",)

    def __init__(self) -> None:
        self.slow: dict[Op, float] = {}

    def is_large(self, op: Op, values: list[Any], params: dict[str, Any] | None) -> bool:
        """Tell whether an op is a worker's. Where the estimate cannot tell, the kernel says what is wrong."""
        try:
            return self.slow.get(op, 1.0) * op.cost.estimate(values, params or {}) > SMALL_NS
        except Exception:  # noqa: BLE001
            return not op.known

    def took(self, op: Op, nanoseconds: float) -> None:
        """Learn from an op that ran in place and took much longer than it may: next time it is a worker's."""
        if nanoseconds > 2 * SMALL_NS:
            self.slow[op] = self.slow.get(op, 1.0) * min(nanoseconds / SMALL_NS, 16.0)

    def took_elsewhere(self, op: Op, nanoseconds: float) -> None:
        """Learn from a worker, which ran what could have run in place: something else had made the op slow once."""
        factor = self.slow.get(op)
        if factor is not None and nanoseconds < SMALL_NS:
            factor *= max(nanoseconds / SMALL_NS, 0.25)
            if factor > 1.0:
                self.slow[op] = factor
            else:
                del self.slow[op]
