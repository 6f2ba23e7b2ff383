"""Writing the compiled function of a structure: a walk that takes blocks until none is left.

For each block it clears the floating-point flags, makes its passes over the block, and looks at the flags. Where NumPy
would have warned, or where a result might have other bits than NumPy's, the block is marked to be computed again in
NumPy's way; what it wrote over is put back before.
"""

from __future__ import annotations

from collections.abc import Sequence

from engine.fusion.native.arguments import Arguments
from engine.fusion.native.blueprint import Blueprint
from engine.fusion.native.elements import Elements
from engine.fusion.native.flagging import Flagging
from engine.fusion.native.loop_calls import LoopCalls
from engine.fusion.native.passes import Pass
from engine.fusion.native.reducing import Reducing
from engine.fusion.native.rows import Rows
from engine.fusion.native.structure import STREAMED, Frame, Stages, Structure

NAME = "walk"
SIGNATURE = f"i64 @{NAME}(ptr noalias %frame, ptr noalias %scratch, ptr %shared)"
"""It is given a frame, scratch memory, and the counter that threads share, if they do; it returns how many blocks have
to be computed again."""


def written(
    structure: Structure, stages: Stages, frame: Frame, silent: Sequence[bool], minds_nans: bool | None = None
) -> str:
    """The module of a structure. `silent` says of each loop of NumPy's whether NumPy ignores the flags it raises."""
    made = Blueprint(structure, stages, frame, silent)
    return _Writer(made, structure.minds_nans if minds_nans is None else minds_nans).text()


class _Writer:
    """Writes one function, from its parts."""

    def __init__(self, made: Blueprint, minds_nans: bool) -> None:
        self._made = made
        self._begin()
        self._given = Arguments(made)
        self._flags = Flagging(made, self._given)
        self._rows = Rows(made, self._given)
        self._elements = Elements(made, self._given, self._rows, minds_nans=minds_nans)
        self._reducing = Reducing(made, self._given, self._rows, self._elements)

    def text(self) -> str:
        """The module."""
        source = self._made.source
        source.line("br label %next")
        number = self._take_block()
        self._compute(number)
        self._judge(number)
        source.label("end")
        if any(each.inner == STREAMED for each in self._made.structure.arrays):
            source.line("fence seq_cst")  # what was written past the caches is there before the end is told
        self._flags.clear()
        source.line(f"ret i64 {source.let('load i64, ptr %repeated')}")
        return source.text(SIGNATURE)

    def _begin(self) -> None:
        made, source = self._made, self._made.source
        source.label("entry")
        arguments = max([3, *(len(each.loop) for each in made.structure.instructions)])
        source.line(f"%doubts = alloca {made.vector.vector(made.doubt_type)}")
        source.line(f"%doubt = alloca {made.doubt_type}")
        source.line("%flags = alloca i32")
        source.line(f"%data = alloca [{arguments} x ptr]")
        source.line(f"%steps = alloca [{arguments} x i64]")
        source.line("%length = alloca i64")
        source.line("%repeated = alloca i64")
        source.line("store i64 0, ptr %repeated")
        source.line("%own = alloca i64")  # a counter for the thread that has all blocks to itself
        source.line("store i64 0, ptr %own")
        source.line("%alone = icmp eq ptr %shared, null")
        source.line("%counter = select i1 %alone, ptr %own, ptr %shared")

    def _take_block(self) -> str:
        """Take the next block, having given way to other threads where that is asked for; its number."""
        made, source, given = self._made, self._made.source, self._given
        source.label("next")
        number = source.let("atomicrmw add ptr %counter, i64 1 monotonic, align 8")
        more = source.let(f"icmp slt i64 {number}, {given.stop}")
        source.line(f"br i1 {more}, label %begin, label %end")
        source.label("begin")
        source.line(f"br i1 {source.let(f'icmp eq ptr {given.give_way}, null')}, label %go, label %give")
        source.label("give")
        source.line(f"call i32 {given.give_way}()")
        source.line("br label %go")
        source.label("go")
        source.line(f"store {made.vector.vector(made.doubt_type)} zeroinitializer, ptr %doubts")
        source.line(f"store {made.doubt_type} 0, ptr %doubt")
        return number

    def _compute(self, number: str) -> None:
        made, rows = self._made, self._rows
        rows.begin(number)
        self._flags.begin()
        calls = LoopCalls(made, self._given, rows, self._elements, self._flags)
        self._reducing.block = number
        for stage in made.stages.stages:
            if stage.called:
                index = stage.instructions[0]
                calls.call(made.structure.instructions[index], index)
            else:
                one = Pass(made, self._given, rows, self._elements, self._reducing, stage)
                rows.each(one.write)
        for which in made.stages.called_reductions:
            calls.reduce(made.structure.reductions[which], which, number)

    def _judge(self, number: str) -> None:
        """Mark the block where it has to be computed again."""
        made, source, given = self._made, self._made.source, self._given
        self._flags.note()
        flags = source.let("load i32, ptr %flags")
        raised = source.let(f"icmp ne i32 {source.let(f'and i32 {flags}, {given.mask}')}, 0")
        again = source.let(f"or i1 {raised}, {self._is_unsure()}")
        source.line(f"br i1 {again}, label %again, label %next")
        source.label("again")
        source.line(f"store i8 1, ptr {made.at(given.redo, number)}")
        before = source.let("load i64, ptr %repeated")
        source.line(f"store i64 {source.let(f'add i64 {before}, 1')}, ptr %repeated")
        if made.stages.backups:
            self._rows.each(lambda: self._rows.along(self._elements.restore))
        source.line("br label %next")

    def _is_unsure(self) -> str:
        """Tell whether some lane has had doubts."""
        made, source, doubt = self._made, self._made.source, self._made.doubt_type
        kind = made.vector.vector(doubt)
        unsure = source.let(f"load {doubt}, ptr %doubt")
        if made.lanes > 1:
            function = f"@llvm.vector.reduce.or.v{made.lanes}{doubt}"
            source.declared[function] = f"declare {doubt} {function}({kind})"
            every = source.let(f"load {kind}, ptr %doubts")
            unsure = source.let(f"or {doubt} {unsure}, {source.let(f'call {doubt} {function}({kind} {every})')}")
        return source.let(f"icmp ne {doubt} {unsure}, 0")
