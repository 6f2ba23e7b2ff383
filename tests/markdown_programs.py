"""The programs in a Markdown file: its ``python`` blocks, in order, run as the reader would run them.

Blocks of one file are one program, with ``await`` allowed at top level as in a notebook; a program without one runs as
a plain script, on no event loop. Words after ``python`` on the fence: ``fresh`` starts a new program, ``no-run`` leaves
the block out. Everything but code is blanked rather than removed, so a traceback names the line of the Markdown file.

As a script, ``markdown_programs.py FILE INDEX`` runs one program.
"""

import ast
import asyncio
import builtins
import inspect
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FunctionType, ModuleType

FENCE = re.compile(r"(?P<indent> *)(?P<ticks>`{3,}|~{3,})\s*(?P<info>[^`]*)")
OPTIONS = {"fresh", "no-run"}


@dataclass
class Program:
    """Lines of code by line number of the file that they stand in."""

    path: Path
    lines: dict[int, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.path.name}:{min(self.lines)}"

    def source(self) -> str:
        """Return the code, each line at its place in the file."""
        return "\n".join(self.lines.get(number, "") for number in range(1, max(self.lines) + 1)) + "\n"


def _options(path: Path, number: int, info: str) -> set[str] | None:
    """Return the words after the language, or `None` for a block in another language."""
    language, *words = info.split() or [""]
    if language.lower() not in {"python", "py", "python3"}:
        return None
    if language != "python" or not OPTIONS.issuperset(words):
        # A misspelt option would silently change what is run.
        raise ValueError(f"{path}:{number}: fence {info!r}: expected 'python' and any of {sorted(OPTIONS)}")
    return set(words)


def programs(path: Path) -> list[Program]:
    """Return the programs of one Markdown file."""
    found: list[Program] = []
    lines = iter(enumerate(path.read_text(encoding="utf-8").splitlines(), start=1))
    for number, line in lines:
        if not (fence := FENCE.fullmatch(line)):
            continue
        options = _options(path, number, fence["info"])
        end = re.compile(rf" *{fence['ticks']}{fence['ticks'][0]}*\s*")
        block: dict[int, str] = {}
        for inner, code in lines:
            if end.fullmatch(code):
                break
            block[inner] = code.removeprefix(fence["indent"])
        else:
            raise ValueError(f"{path}:{number}: this fence is never closed")
        if options is None or "no-run" in options or not block:
            continue
        if "fresh" in options or not found:
            found.append(Program(path))
        found[-1].lines.update(block)
    return found


def run(program: Program) -> None:
    """Execute one program as ``__main__``."""
    module = ModuleType("__main__")
    module.__dict__["__builtins__"] = builtins  # imports made by C code look for them in the caller's globals
    sys.modules["__main__"] = module
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    code: CodeType = compile(program.source(), str(program.path), "exec", flags=flags, dont_inherit=True)
    main = FunctionType(code, module.__dict__)
    if code.co_flags & inspect.CO_COROUTINE:
        asyncio.run(main())
    else:
        main()


if __name__ == "__main__":
    run(programs(Path(sys.argv[1]))[int(sys.argv[2])])
