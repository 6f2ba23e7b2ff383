"""Events that observers are told: one frozen record for each op, and the class that they inherit from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class OpRecord:
    """One dispatched op, as far as it had come when the record was made.

    Times are seconds of `time.perf_counter()`. What is not known yet, or does not apply, is None.

    >>> with engine.profile() as profile:
    ...     value = await (ops.asarray([1.0, 2.0]) + 1.0)
    >>> profile.ops[-1].name
    'add'
    """

    id: int
    """A number that no other op of the same observer or profile has; they count up in dispatch order."""
    name: str
    device: str
    """Where it runs, as `CPU:0`."""
    site: str
    """`file:line` of the program that dispatched it."""
    dispatched: float
    started: float | None
    """When a thread, the loop or the device took it up; None for an op that never started."""
    finished: float | None
    outcome: str | None
    """`done`, `failed` or `cancelled`; None while it is in flight."""
    thread: str | None
    """The thread that ran it, or that handed it to its device."""
    run: int | None
    """The number of the fusion group that it was computed in, None for an op that was computed alone."""
    nbytes: int | None
    """Bytes of its results."""
    operands: tuple[int, ...]
    """The ops, by `id`, whose results it reads."""
    ready: float | None
    """When the last of its operands was there; until then it waited for them, and from then on for a slot."""
    held_bytes: int
    """Bytes of operands that were copied at dispatch."""
    source: str | None
    """The source of a transfer: the device that the value came from."""
    error: str | None
    """Class and message of what it failed with."""
    root: bool
    """True if the failure is its own, and not that of an operand."""
    note: str | None
    """The note of the failure: op, device and place."""
    scope: int | None
    """The number of the `engine.scope()`, or of the request, that it was dispatched in; None outside."""
    demanded_by: str | None
    """The task or thread that first waited for it, and where: `task Task-3 at program.py:12`."""

    @property
    def seconds(self) -> float:
        """How long it ran; 0.0 where it did not, or has not ended."""
        return 0.0 if self.started is None or self.finished is None else self.finished - self.started

    @property
    def operand_wait(self) -> float:
        """Seconds from its dispatch until its operands were there."""
        if self.started is None:
            return 0.0
        return max(0.0, min(self.started, self.ready or self.dispatched) - self.dispatched)

    @property
    def slot_wait(self) -> float:
        """Seconds for which its operands were there, and it waited for a slot or for its turn."""
        return 0.0 if self.started is None else max(0.0, self.started - self.dispatched - self.operand_wait)


class Observer:
    """Is told what happens to ops: inherit from it, override what is of interest, and `engine.observe.add` it.

    Calls come in batches, in the order of the events, one at a time: on a thread that has waited for an op, before it
    goes on, else within some hundredths of a second on a thread of their own. An observer must not wait for ops; ops
    that it dispatches are not told of. One that raises is removed, and the error is logged on `engine.observe`.

    >>> class Failures(engine.observe.Observer):
    ...     def finished(self, op):
    ...         if op.outcome == "failed":
    ...             print(op.name, op.site, op.error)
    >>> with engine.observe.using(Failures()):
    ...     total = await (ops.asarray([1.0, 2.0]) + 1.0)
    """

    def dispatched(self, op: OpRecord) -> None:
        """An op was put on the queue of its device; in SYNC mode, is about to run."""

    def started(self, op: OpRecord) -> None:
        """It is computed from now on."""

    def finished(self, op: OpRecord) -> None:
        """It has ended: done, failed or cancelled; also when it never started."""

    def stalled(self, seconds: float, site: str) -> None:
        """An event loop that the engine runs on did nothing else for so long; `site` is where its thread was."""
