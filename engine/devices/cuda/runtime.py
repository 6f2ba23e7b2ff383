"""The runtime of GPUs as this package needs it: streams, events, memory, and a namespace of functions.

Purpose: everything that is decided here (what is launched when, what is kept alive until which event, what an error
means, what is captured) is written against these protocols. `cupy_runtime` fulfils them with CuPy; the tests fulfil
them with threads and NumPy, so that the decisions are tested where there is no GPU.

What an implementation promises:

* Calls on a stream return at once. What they ask for is done later, in the order of the calls; streams do not wait for
  each other, unless one was told to `follow` an event.
* Memory of an array goes back to the stream that it was allocated on when the last reference to the array goes, also
  where work on it is still to come. So work on the same stream needs no reference to be kept; work on another stream
  does, until an event behind it has passed.
* Nothing here changes the current device or stream of a thread beyond `Stream.active()`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from enum import Enum
from typing import Any, Protocol, TypeAlias

import numpy as np

from engine.devices.base import Array


class GpuArray(Protocol):
    """An array in the memory of a GPU. Its contents are there when the work before them on its stream is done."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Its dtype."""

    @property
    def nbytes(self) -> int:
        """How many bytes its elements take."""

    @property
    def base(self) -> object | None:
        """The array that it is a view of; None where it has memory of its own."""


Scalar: TypeAlias = "np.generic | complex | float | int | bool"
Argument: TypeAlias = "GpuArray | Scalar"

Namespace: TypeAlias = Any
"""A module that has NumPy's functions for arrays of the GPU, as `cupy`."""

Term: TypeAlias = Any
"""An array of a namespace, a number, or a parameter of a kernel: the functions of a namespace are not typed."""

Rule: TypeAlias = Callable[..., Term]
"""`rule(namespace, *arguments, **params)` gives the result of an op, or a tuple of results."""


class Sharing:
    """A rule whose function keeps memory from call to call of a thread, and so has to be run in turn.

    A transform's plan has a place to work in: two streams must not use it at once, and a graph must not use it at all,
    since it may be let go of before the graph is.
    """

    __slots__ = ("_rule",)

    def __init__(self, rule: Rule) -> None:
        self._rule = rule

    def __call__(self, xp: Namespace, *arguments: Term, **params: Term) -> Term:
        return self._rule(xp, *arguments, **params)


class Fate(Enum):
    """The meaning of an error for what comes after it."""

    OP = "the op has failed, and nothing else"
    MEMORY = "there is not enough memory for the op"
    LOST = "the device cannot be used by this process any more"


class Event(Protocol):
    """A place in a stream."""

    def passed(self) -> bool:
        """Tell whether all work before it is done. Never blocks. Raises what has gone wrong on the device."""

    def wait(self) -> None:
        """Block until all work before it is done, without the interpreter lock. Raises what has gone wrong."""


class Graph(Protocol):
    """Work that was captured, to be launched as a whole. Its memory goes when it does, once nothing is under way there.

    So its results are not referred to when it is let go of.
    """

    @property
    def outputs(self) -> Sequence[GpuArray]:
        """The results of a launch, in memory of the graph: the next one writes there."""


class Stream(Protocol):
    """A line of work of one GPU. All methods but `active` are called inside of its block."""

    def active(self) -> AbstractContextManager[object]:
        """A block, of one thread, in which work goes to this stream."""

    def call(self, rule: Rule, arguments: Sequence[Argument], params: Mapping[str, Any]) -> Any:
        """Have a rule computed; its results are allocated on this stream. Raises what can be told at once.

        A rule that is `Sharing` runs after those of other streams that this thread called before.
        """

    def record(self) -> Event:
        """Mark this place."""

    def follow(self, event: Event) -> None:
        """Have later work of this stream wait for an event, of any stream of any GPU."""

    def allocate(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> GpuArray:
        """Memory for an array, row by row in order, whose contents are undefined."""

    def packed(self, array: GpuArray) -> GpuArray:
        """The array itself if its elements lie row by row in order, else a copy of it that does."""

    def send(self, staging: Array, target: GpuArray, begin: int, end: int) -> None:
        """Copy the first bytes of page-locked memory to the bytes `begin` to `end` of an array."""

    def fetch(self, source: GpuArray, begin: int, end: int, staging: Array) -> None:
        """Copy the bytes `begin` to `end` of an array to the first ones of page-locked memory."""

    def pull(self, source: GpuArray, target: GpuArray) -> None:
        """Copy a packed array, of this GPU or of another one, to one of this GPU."""

    def capture(self, work: Callable[[], Sequence[GpuArray]]) -> Graph:
        """Capture what `work` asks for, in place of having it done; memory that it allocates is the graph's own.

        What `work` returns are the outputs of the graph. Raises what `work` raises, and what the runtime raises for
        work that cannot be captured; the stream is as before then.
        """

    def replay(self, graph: Graph) -> None:
        """Have the work of a graph done."""


class Gpu(Protocol):
    """One graphics processor."""

    def stream(self) -> Stream:
        """A new stream that waits for no other, the default one included."""

    def staging(self, nbytes: int) -> Array:
        """Page-locked memory of this process, as bytes."""

    def unused(self) -> int:
        """Bytes of its memory that no process has taken."""


class Runtime(Protocol):
    """The GPUs of this machine."""

    def describe(self) -> str:
        """The library and its version, and that of CUDA."""

    def count(self) -> int:
        """How many GPUs there are."""

    def gpu(self, index: int) -> Gpu:
        """One of them; nothing is started yet."""

    def fate(self, error: BaseException) -> Fate:
        """Tell what an error means for what comes after it."""
