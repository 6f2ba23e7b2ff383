"""Traced functions on a GPU: their steps one after the other, or captured once and launched as a whole.

A function of many small ops costs as many launches. Captured as a CUDA graph it costs one, but a graph reads and writes
the same memory each time: its operands are copied in, and its results are copied out. So it is captured where that is
less than what it saves: where its steps are many against its operands and results, and those are small.

The memory of a graph is its own. What it computes between lies in a pool that nothing else allocates from, since a
launch writes there whenever it comes; its operands and results lie in arrays that this module keeps.

A graph belongs to one stream of one GPU, and is used under the lock of its unit.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary, ref

import numpy as np

from engine.base.traced import Traced, TracedStep
from engine.devices.cuda.kernels import rule_of
from engine.devices.cuda.runtime import Fate, GpuArray, Graph, Runtime, Sharing, Stream

_eagerloop_internal = True  # its frames are not the user's

WARM = 1
"""Calls with the same shapes before one is captured: they compile the kernels, which a capture could not."""
MOST_BYTES = 4 << 20
"""Bytes of operands and results of one call up to which copying them costs less than launches."""
LEAST_SAVED = 4
"""Launches that a graph has to save."""
GRAPHS = 64
"""Graphs of one unit; the one that was launched longest ago goes first."""
SHAPES = 256
"""Combinations of shapes of one function that are counted; with more, all are counted from the beginning."""
PAUSE = 100
"""Calls until a capture that there was no memory for is tried again."""

Signature: TypeAlias = tuple[tuple[tuple[int, ...], np.dtype[Any]], ...]


class Way(Enum):
    """How a call of a traced function is computed."""

    STEPS = "its steps are launched one after the other"
    CAPTURE = "its steps are captured, and launched as a whole"
    REPLAY = "what was captured is launched"


def way_of(*, calls: int, captured: bool | None, steps: int, arrays: int, nbytes: int) -> Way:
    """Decide how a call is computed. Pure.

    `calls` is how many there were with these shapes, `captured` tells whether it was captured (None: it was not tried,
    False: it cannot be), `arrays` and `nbytes` are of its operands and results.
    """
    if captured:
        return Way.REPLAY
    worth = steps - arrays >= LEAST_SAVED and nbytes <= MOST_BYTES
    if captured is False or calls < WARM or not worth:
        return Way.STEPS
    return Way.CAPTURE


class _Shaped:
    """A traced function for operands of certain shapes and dtypes."""

    __slots__ = ("calls", "captured", "graph", "inputs", "nbytes", "traced")

    def __init__(self, traced: Traced) -> None:
        self.traced = ref(traced)
        self.calls = 0
        self.captured: bool | None = None
        self.nbytes = 0
        """Bytes of the operands and the results."""
        self.graph: Graph | None = None
        self.inputs: list[GpuArray] = []

    def forget(self) -> None:
        """Let go of the graph and its memory; the next call captures it again."""
        self.captured, self.graph, self.inputs = None, None, []


class Graphs:
    """The traced functions of one GPU."""

    def __init__(self, runtime: Runtime, upload: Callable[[Any], GpuArray], apart: Callable[[], Stream]) -> None:
        self._runtime = runtime
        self._upload = upload
        self._apart = apart
        self._capturing: Stream | None = None
        self._shaped: WeakKeyDictionary[Traced, dict[Signature, _Shaped]] = WeakKeyDictionary()
        self._constants: WeakKeyDictionary[Traced, dict[int, Any]] = WeakKeyDictionary()
        self._recent: OrderedDict[int, _Shaped] = OrderedDict()
        self.launches = 0
        """How often a graph was launched."""
        self.refused: str | None = None
        """Why the last function that could not be captured could not be."""

    def compute(self, traced: Traced, operands: Sequence[Any], stream: Stream) -> Any:
        """Launch a call on a stream: its result, or a tuple of results. Raises what its steps raise."""
        if any(isinstance(each, np.generic | complex | float | int) for each in operands):
            return self._steps(traced, operands, stream)  # a number is part of the launch, so it cannot be captured
        signature = tuple((tuple(each.shape), each.dtype) for each in operands)
        shaped = self._shaped_as(traced, signature)
        way = way_of(
            calls=shaped.calls,
            captured=shaped.captured,
            steps=len(traced.steps),
            arrays=len(traced.inputs) + len(traced.outputs),
            nbytes=shaped.nbytes,
        )
        if way is Way.CAPTURE:
            self._capture(traced, shaped, operands, stream)
        elif not shaped.calls:  # which compiles the kernels for what the operands are in a capture: packed
            operands = [stream.packed(each) for each in operands]
        shaped.calls += 1
        if shaped.graph is None:
            result = self._steps(traced, operands, stream)
            results = result if isinstance(result, tuple) else (result,)
            shaped.nbytes = sum(each.nbytes for each in (*operands, *results))
            return result
        return self._replay(shaped, operands, stream)

    def _shaped_as(self, traced: Traced, signature: Signature) -> _Shaped:
        known = self._shaped.setdefault(traced, {})
        shaped = known.get(signature)
        if shaped is None:
            if len(known) >= SHAPES:  # of a function whose lengths may be any
                for each in known.values():
                    self._drop(each)
                known.clear()
            shaped = known[signature] = _Shaped(traced)
        return shaped

    def _drop(self, shaped: _Shaped) -> None:
        self._recent.pop(id(shaped), None)
        shaped.forget()

    def forget(self) -> None:
        """Let go of all graphs, and the memory that they hold."""
        for shaped in self._recent.values():
            shaped.forget()
        self._recent.clear()
        self._constants.clear()

    # One after the other

    def _steps(self, traced: Traced, operands: Sequence[Any], stream: Stream) -> Any:
        constants = self._constants_of(traced)

        def call(step: TracedStep, values: list[Any]) -> Any:
            return stream.call(rule_of(step.name, step.kernel), values, step.params)

        whole = Traced(traced.name, traced.steps, traced.inputs, traced.outputs, constants)
        result = whole.compute(operands, call)
        if isinstance(result, tuple):
            return tuple(map(self._array, result))
        return self._array(result)

    def _constants_of(self, traced: Traced) -> dict[int, Any]:
        """The constants, arrays among them on the GPU."""
        constants = self._constants.get(traced)
        if constants is None:
            constants = self._constants[traced] = {
                slot: self._upload(value) if isinstance(value, np.ndarray) else value
                for slot, value in traced.constants.items()
            }
        return constants

    def _array(self, value: Any) -> GpuArray:
        """A result, which may be a constant of the function."""
        return self._upload(np.asarray(value)) if isinstance(value, np.generic | complex | float | int) else value

    # As a whole

    def _capture(self, traced: Traced, shaped: _Shaped, operands: Sequence[GpuArray], stream: Stream) -> None:
        """Capture the steps; where that cannot be done, they are launched one by one from now on."""
        sharing = next((step.name for step in traced.steps if self._shares(step)), None)
        if sharing is not None:
            shaped.captured, self.refused = False, f"{traced.name}: {sharing!r} keeps memory that a graph must not use"
            return
        if self._capturing is None:
            self._capturing = self._apart()
        self._constants_of(traced)  # which are brought there outside of the capture
        apart = self._capturing
        inputs: list[GpuArray] = []

        def work() -> Sequence[GpuArray]:
            result = self._steps(traced, inputs, apart)
            return result if isinstance(result, tuple) else (result,)

        try:
            inputs += [stream.allocate(tuple(each.shape), each.dtype) for each in operands]
            with apart.active():
                shaped.graph = apart.capture(work)
        except Exception as error:
            fate = self._runtime.fate(error)
            if fate is Fate.LOST:
                raise
            self.refused = f"{traced.name}: {error!r}"
            if fate is Fate.MEMORY:  # the op needs less, and there may be more another time
                shaped.calls = -PAUSE
            else:
                shaped.captured = False
            return
        shaped.inputs, shaped.captured = inputs, True
        self._recent[id(shaped)] = shaped
        for each in [each for each in self._recent.values() if each.traced() is None]:  # nothing can call it any more
            self._drop(each)
        while len(self._recent) > GRAPHS:
            self._drop(next(iter(self._recent.values())))

    @staticmethod
    def _shares(step: TracedStep) -> bool:
        return isinstance(rule_of(step.name, step.kernel), Sharing)

    def _replay(self, shaped: _Shaped, operands: Sequence[GpuArray], stream: Stream) -> Any:
        assert shaped.graph is not None
        self._recent.move_to_end(id(shaped))
        for source, target in zip(operands, shaped.inputs, strict=True):
            stream.pull(stream.packed(source), target)
        stream.replay(shaped.graph)
        self.launches += 1
        results = []
        for source in shaped.graph.outputs:
            target = stream.allocate(tuple(source.shape), source.dtype)
            stream.pull(stream.packed(source), target)
            results.append(target)
        return results[0] if len(results) == 1 else tuple(results)
