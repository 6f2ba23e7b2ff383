"""Playing a random program on the engine, and comparing each value with what NumPy said."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np

import engine
from tests.programs.model import (
    RAISING,
    Action,
    Array,
    Program,
    Ref,
    Step,
    digest,
    quiet,
)
from tests.programs.reading import Aside, SyncPoints
from tests.programs.vocabulary import VOCABULARY


class Player:
    """Runs a program in the mode in force, and compares all that it reads with what NumPy said."""

    def __init__(self, program: Program, sync: SyncPoints, *, devices: int, one_by_one: bool) -> None:
        self.program = program
        self.sync = sync
        self.devices = devices
        self.one_by_one = one_by_one
        """Whether the first failed operand of an op is sure to be the one that poisons it."""
        self.mode = engine.get_execution_mode()
        self.handles: dict[int, Any] = {}
        self.errors: dict[int, BaseException] = {}
        """What ops that ran inline raised: those values have no handle."""
        self.refused: set[int] = set()
        """Values that were refused at the call because of shapes, though an operand had failed, and what was made of
        them: that error is not NumPy's, which stops at the operand."""
        self.cancelled: set[int] = set()
        """Values that were cancelled, and all that was made of them."""
        self.reported: dict[int, BaseException] = {}
        self.problems = {problem for expected in program.expected.values() for problem in expected.problems}
        self.asides: list[tuple[int, Aside]] = []
        self.read = 0

    async def play(self) -> None:
        with quiet():
            for step in self.program.steps:
                self._run(step)
                for action in step.actions:
                    await self._act(action)
            for value in self.program.left:
                await self._check(value)
            await self._join()
            await self._barrier()

    # One step

    def _run(self, step: Step) -> None:
        refs = [arg.value for arg in step.args if isinstance(arg, Ref)]
        if any(ref in self.cancelled for ref in refs):
            self.cancelled.update(step.outputs)
        error = next((self.errors[ref] for ref in refs if ref in self.errors), None)
        results: Sequence[Any] = ()
        if error is None:
            inline = step.inline or self.mode is engine.SYNC or _may_raise_at_the_call(step)
            try:
                results = self._dispatch(step)
            except Exception as raised:  # compared with NumPy's when the value is read
                if not inline:
                    raise AssertionError(f"{step.name} raised at the call, in ASYNC mode") from raised
                error = raised
                if _may_raise_at_the_call(step) and any(self.program.expected[ref].problems for ref in refs):
                    self.refused.update(step.outputs)
        elif any(ref in self.refused for ref in refs):
            self.refused.update(step.outputs)
        for index, output in enumerate(step.outputs):
            if error is not None:
                self.errors[output] = error
            else:
                self.handles[output] = results[index]
        for value in step.drops:
            self.handles.pop(value, None)
            self.errors.pop(value, None)

    def _dispatch(self, step: Step) -> Sequence[Any]:
        lent = [_twin(arg) if isinstance(arg, np.ndarray) else arg for arg in step.args]
        operands = [self.handles[arg.value] if isinstance(arg, Ref) else arg for arg in lent]
        with ExitStack() as scopes:
            if step.device is not None:
                scopes.enter_context(engine.device(f"CPU:{step.device % self.devices}"))
            if step.raising:
                scopes.enter_context(np.errstate(**RAISING))  # type: ignore[arg-type]
            if step.inline:
                scopes.enter_context(engine.execution_mode(engine.SYNC))
            result = VOCABULARY[step.name][1](*operands, **step.params)
        for array in lent:
            if isinstance(array, np.ndarray):
                array.fill(1)  # an operand is a snapshot: writing to it afterwards changes nothing
        return result if isinstance(result, tuple | list) else (result,)

    # Between steps

    async def _act(self, action: Action) -> None:
        values = [value for value in action.values if value in self.handles]
        if action.name == "turn":
            await self.sync.turn()
        elif action.name == "barrier":
            await self._barrier()
        elif action.name == "read":
            for value in action.values:
                await self._check(value)
        elif action.name == "cancel":
            self._cancel(values)
        elif action.name == "describe":
            self._describe(values)
        elif action.name in ("aside", "leave", "join"):
            await self._beside(action.name, values)
        elif values:
            await self._wait_for(action.name, values)

    async def _beside(self, name: str, values: Sequence[int]) -> None:
        """Have values read beside the program, each at a priority of its own; or have such readers leave, or end."""
        if name == "join":
            await self._join()
        elif name == "leave":
            for _, aside in self.asides[::2]:
                aside.leave()
        else:
            for value in values:
                self.asides.append((value, self.sync.read_aside(self.handles[value], value % 8)))

    async def _join(self) -> None:
        """Wait for all who read beside the program, and compare what they got."""
        asides, self.asides = self.asides, []
        for value, aside in asides:
            outcome = await aside.outcome()
            if isinstance(outcome, BaseException):
                self._compare_error(value, outcome)
            elif outcome is not None:
                assert value not in self.cancelled, "a cancelled value was read"
                self._compare(value, outcome)

    def _cancel(self, values: Sequence[int]) -> None:
        for value in values:
            if self.handles[value].cancel() is not engine.CancelOutcome.TOO_LATE:
                self.cancelled.update(self.program.made_with(value))
        self._spread()

    def _spread(self) -> None:
        """Count the dependents of cancelled values as cancelled, those made already as well."""
        for step in self.program.steps:
            if any(isinstance(arg, Ref) and arg.value in self.cancelled for arg in step.args):
                self.cancelled.update(step.outputs)

    def _describe(self, values: Sequence[int]) -> None:
        for value in values:
            expected, handle = self.program.expected[value], self.handles[value]
            assert repr(handle)
            if not expected.problems and value not in self.cancelled:
                try:
                    shape, dtype = handle.shape, handle.dtype
                except engine.UnknownShapeError:
                    continue
                fits = len(shape) == len(expected.shape)
                fits = fits and all(n in (None, m) for n, m in zip(shape, expected.shape, strict=True))
                said = f"said to be {shape} {dtype}: {self._story(value)} is {expected}"
                assert fits, said
                assert str(dtype) == expected.dtype, said

    async def _wait_for(self, name: str, values: Sequence[int]) -> None:
        handles = [self.handles[value] for value in values]
        try:
            if name == "impatient":
                await self.sync.give_up_reading(handles[0])
            elif name == "gather":
                for value, array in zip(values, await self.sync.read_all(handles), strict=True):
                    self._compare(value, array)
            else:
                await self.sync.read_as_completed(handles)
        except Exception as error:  # noqa: BLE001
            self._check_known(error)

    async def _barrier(self) -> None:
        try:
            await self.sync.barrier()
        except ExceptionGroup as group:
            for error in group.exceptions:
                self._check_report(error)
        except Exception as error:  # noqa: BLE001
            self._check_report(error)

    def _check_report(self, error: Exception) -> None:
        self._check_known(error)
        assert id(error) not in self.reported, f"reported twice: {error!r}"
        self.reported[id(error)] = error

    def _check_known(self, error: Exception) -> None:
        known = isinstance(error, engine.OpCancelledError) or any(each.describes(error) for each in self.problems)
        assert known, f"an error that no step has in NumPy: {error!r}"

    # Reading

    async def _check(self, value: int) -> None:
        """Read a value: NumPy's bits, or NumPy's error."""
        if value in self.errors:
            self._compare_error(value, self.errors[value])
        elif value in self.handles:
            try:
                array = await self.sync.read(self.handles[value])
            except Exception as error:  # noqa: BLE001
                self._compare_error(value, error)
            else:
                assert value not in self.cancelled, "a cancelled value was read"
                self._compare(value, array)

    def _compare(self, value: int, array: Array) -> None:
        expected = self.program.expected[value]
        assert not expected.problems, f"value {value} has data, but should have raised {expected.problems}"
        assert (str(array.dtype), array.shape) == (expected.dtype, expected.shape)
        assert not array.flags.writeable
        assert digest(array) == expected.digest, f"value {value} differs from NumPy's: {self._story(value)}"
        self.read += 1

    def _story(self, value: int) -> str:
        """The step that makes a value, and what it is made of."""
        step = next(step for step in self.program.steps if value in step.outputs)
        made_of = [self.program.expected[arg.value] if isinstance(arg, Ref) else arg for arg in step.args]
        return f"{step} of {made_of}"

    def _compare_error(self, value: int, error: BaseException) -> None:
        problems = self.program.expected[value].problems
        if isinstance(error, engine.OpCancelledError):
            assert value in self.cancelled, f"value {value} was not cancelled: {error}"
            return
        assert problems, f"value {value} should exist, but raised {error!r}: {self._story(value)}"
        if value in self.refused:
            return
        # In ASYNC mode an operand that was refused at the call has no handle: its error comes before that of another.
        in_order = self.mode is engine.SYNC or value not in self.errors
        acceptable = problems[:1] if self.one_by_one and in_order and value not in self.cancelled else problems
        assert any(problem.describes(error) for problem in acceptable), f"{error!r} instead of {acceptable}"


def _twin(array: Array) -> Array:
    """A copy laid out as the original: where strides differ, NumPy's last bits may."""
    if array.ndim and array.strides[0] < 0:
        return array[::-1].copy(order="K")[::-1]
    return array.copy(order="K")


def _may_raise_at_the_call(step: Step) -> bool:
    """Off the loop, what libraries rely on is refused at the call, where the shapes are known."""
    return step.name in ("matmul", "getitem") and asyncio._get_running_loop() is None
