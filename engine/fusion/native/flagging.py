"""The floating-point flags, as the function clears them, reads them, and notes those of a block."""

from __future__ import annotations

from engine.fusion.native.arguments import Arguments
from engine.fusion.native.blueprint import Blueprint

FLAGS = 61
"""All floating-point flags that NumPy looks at: of x86 and of AArch64 alike, more bits do no harm."""


class Flagging:
    """Writes what has to do with flags; `%flags` has those that a block has raised so far."""

    def __init__(self, made: Blueprint, given: Arguments) -> None:
        self._source = made.source
        self._clear = given.load("ptr", made.frame.header(made.frame.CLEAR))
        self._test = given.load("ptr", made.frame.header(made.frame.TEST))

    def begin(self) -> None:
        """Clear all, for a new block."""
        self._source.line("store i32 0, ptr %flags")
        self.clear()

    def clear(self) -> None:
        self._source.line(f"call i32 {self._clear}(i32 {FLAGS})")

    def note(self) -> None:
        """Note what has been raised since they were cleared."""
        source = self._source
        raised = source.let(f"call i32 {self._test}(i32 {FLAGS})")
        before = source.let("load i32, ptr %flags")
        source.line(f"store i32 {source.let(f'or i32 {before}, {raised}')}, ptr %flags")
