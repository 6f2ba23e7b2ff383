"""Warnings of kernels name the user's line of the dispatch, as they would where NumPy is called there.

A warning takes its place, and the registry that says whether it was shown there before, from the Python frame that
called the C code which warns. For a kernel that is a frame of the engine, and at the time the frame of the user may be
gone. Nothing process-wide (`warnings.showwarning`, the filters) may be changed for it, so there are two means:

* `call_at` calls a kernel from a frame that has the file, the line and the globals of the place of dispatch.
* Where that would cost too much, in the code that runs most ops, the kernel is called as it is, and the globals of that
  code hold `REFUSES` for a registry. It is no dict, so that a warning fails there before any filter has seen it. Then
  the kernel is called again, by `call_at`: these kernels are the library's own, and calling one twice changes nothing.
  What does not warn pays nothing.

A kernel that is a function of the engine itself has a twin for each of the two (`guarded`, `_moved`), as the frame that
warns is its own.

The two caches are only ever read and replaced as a whole or by one item, so threads need no lock for them.
"""

from __future__ import annotations

import builtins
import inspect
import sys
import warnings
from collections import UserDict
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from handles.display import line_of

Globals = dict[str, Any]

REFUSES: object = UserDict()
"""Stands for the registry of warnings in globals. It is empty, and what tidies registries up may clear it."""

REGISTRY = "__warningregistry__"


def _words_of_refusal() -> tuple[object, ...] | None:
    """The arguments of the `TypeError` that a warning raises where `REFUSES` is; None where this Python has none."""
    try:
        exec("warn('')", {"warn": warnings.warn, REGISTRY: REFUSES, "__name__": __name__})
    except TypeError as error:
        return error.args
    except Warning:
        return None
    return None


_WORDS = _words_of_refusal()


def is_refusal(error: BaseException) -> bool:
    """Tell whether a kernel ended because it was to warn where `REFUSES` is."""
    return error.__class__ is TypeError and error.args == _WORDS


def forget_refusal(error: BaseException) -> None:
    """Take a refusal out of the context of an error that the second call raised."""
    if error.__context__ is not None and is_refusal(error.__context__):
        error.__context__ = None


# ---------------------------------------------------------------------------------------------------------------------
# Kernels whose warnings cannot be refused


def says_warn(kernel: object) -> bool:
    """Tell whether Python code of NumPy that a kernel may call warns: from frames of its own, where nothing refuses it.

    The code is read, not run: the functions that it names, and those that they name.
    """
    seen: set[CodeType] = set()
    left = [kernel]
    while left:
        function = inspect.unwrap(left.pop())  # type: ignore[arg-type]
        if function.__class__ is not FunctionType or function.__code__ in seen:
            continue
        seen.add(function.__code__)
        if "warn" in function.__code__.co_names:
            return True
        left += _named_in(function)
    return False


def _named_in(function: FunctionType) -> list[object]:
    """Find what a function names: functions of its module, attributes of the modules there, what it closes over."""
    around = function.__globals__
    names = function.__code__.co_names
    found = [around[name] for name in names if name in around]
    modules = [each for each in found if isinstance(each, ModuleType) and each.__name__.startswith("numpy")]
    found += [vars(module).get(name) for module in modules for name in names]
    return found + [cell.cell_contents for cell in function.__closure__ or ()]


# ---------------------------------------------------------------------------------------------------------------------
# A frame at the place of dispatch


def _template(_eagerloop_kernel: Any, values: Any, params: Any) -> Any:
    return _eagerloop_kernel(*values, **params)


_CODE = _template.__code__


def is_placed(code: CodeType) -> bool:
    """Tell whether a frame of this code is one that `call_at` made."""
    return code.co_varnames == _CODE.co_varnames


_MOST = 4096
_frames: dict[tuple[int, int], tuple[CodeType | None, FunctionType]] = {}
"""The function whose frame is at a place. With it stands the code of the place, whose identity is in the key."""


def call_at(
    code: CodeType | None,
    lasti: int,
    kernel: Callable[..., object],
    values: Sequence[object],
    params: dict[str, object],
    module: Globals | None = None,
) -> Any:
    """Call a kernel so that its warnings name the instruction `lasti` of `code`, in a module of these globals.

    Without `module` it is found by the name of the file.
    """
    if module is not None:  # not kept: it may be a namespace that nothing else refers to
        placed = _frame_at(code, lasti, module)
    else:
        known = _frames.get((id(code), lasti))
        placed = known[1] if known is not None and known[0] is code else _keep_frame(code, lasti)
    if _is_engines(kernel):
        kernel = _moved(kernel, placed)
    return placed(kernel, values, params)


def _keep_frame(code: CodeType | None, lasti: int) -> FunctionType:
    if len(_frames) >= _MOST:
        _frames.clear()
    placed = _frame_at(code, lasti, globals_of(code))
    _frames[id(code), lasti] = (code, placed)
    return placed


def _frame_at(code: CodeType | None, lasti: int, around: Globals) -> FunctionType:
    if around.get(REGISTRY) is REFUSES:  # the engine itself dispatched the op
        around = _own_globals("engine")
    if code is None:
        return FunctionType(_CODE, around)
    table = _one_line(_CODE, line_of(code, lasti) - code.co_firstlineno)
    here = _CODE.replace(co_filename=code.co_filename, co_firstlineno=code.co_firstlineno, co_linetable=table)
    return FunctionType(here.replace(co_name=code.co_name, co_qualname=code.co_qualname), around)


def globals_of(code: CodeType | None) -> Globals:
    """The globals of the module that code is of; globals of its own where there is none, or no such module."""
    return _own_globals("engine") if code is None else _globals_of_file(code.co_filename)


@lru_cache(maxsize=1024)
def _globals_of_file(name: str) -> Globals:
    path = str(Path(name).absolute())
    for module in list(sys.modules.values()):
        if getattr(module, "__file__", None) in (name, path):
            return vars(module)
    main = sys.modules.get("__main__")
    if main is not None and not hasattr(main, "__file__"):  # what is typed, or the cells of a notebook
        return vars(main)
    return _own_globals(name.removesuffix(".py"))


@lru_cache(maxsize=1024)
def _own_globals(name: str) -> Globals:
    return {"__name__": name, "__builtins__": vars(builtins)}


# ---------------------------------------------------------------------------------------------------------------------
# Kernels that are functions of the engine

_guarded: dict[str, Globals] = {}
"""The globals of each module, with `REFUSES` in them."""
_complete = False


def guarded(kernel: Callable[..., object]) -> Callable[..., object]:
    """The twin of a function of the engine whose own warnings are refused; any other kernel as it is."""
    if not _is_engines(kernel) or _WORDS is None:
        return kernel
    assert isinstance(kernel, FunctionType)
    name = kernel.__globals__["__name__"]
    if _complete and name not in _guarded:
        return kernel
    around = _guarded.setdefault(name, {})
    if not _complete:
        around.update(kernel.__globals__)  # what the module has so far; the rest when all is imported
    return _twin(kernel, kernel.__code__, around)


def guard_modules() -> None:
    """Have the twins see all of their modules; called when all of them are imported."""
    global _complete
    _complete = True
    for name, around in _guarded.items():
        around.update(vars(sys.modules[name]))
        around[REGISTRY] = REFUSES


def _is_engines(kernel: Callable[..., object]) -> bool:
    return kernel.__class__ is FunctionType and kernel.__globals__.get("__name__", "").startswith("engine.")


_movings: dict[tuple[int, int], tuple[FunctionType, FunctionType, FunctionType]] = {}
"""The twin of a function of the engine at a place; with it stand the function and that of the place."""


def _moved(kernel: Any, placed: FunctionType) -> Callable[..., Any]:
    """The twin of a function whose frames are where that of `placed` is."""
    around = placed.__globals__
    registry = around.setdefault(REGISTRY, {})
    known = _movings.get((id(kernel), id(placed)))
    if known is not None and known[0] is kernel and known[1] is placed:
        twin = known[2]
        twin.__globals__[REGISTRY] = registry  # test suites put new ones in place
        return twin
    names = {**kernel.__globals__, "__name__": around.get("__name__"), REGISTRY: registry}
    twin = _twin(kernel, _moved_code(kernel.__code__, placed.__code__), names)
    if kernel.__closure__ is None:  # else it may be made for one call
        if len(_movings) >= _MOST:
            _movings.clear()
        _movings[id(kernel), id(placed)] = (kernel, placed, twin)
    return twin


def _moved_code(code: CodeType, here: CodeType) -> CodeType:
    return code.replace(
        co_filename=here.co_filename,
        co_firstlineno=here.co_firstlineno,
        co_linetable=_one_line(code, line_of(here, 0) - here.co_firstlineno),
        co_consts=tuple(_moved_code(each, here) if isinstance(each, CodeType) else each for each in code.co_consts),
    )


def _twin(function: FunctionType, code: CodeType, around: Globals) -> FunctionType:
    twin = FunctionType(code, around, function.__name__, function.__defaults__, function.__closure__)
    twin.__kwdefaults__ = function.__kwdefaults__
    twin.__qualname__, twin.__module__, twin.__doc__ = function.__qualname__, function.__module__, function.__doc__
    return twin


_NO_COLUMNS = 13
"""The kind of an entry in the table of places that has a line and no columns."""


def _one_line(code: CodeType, offset: int) -> bytes:
    """The table of places of code that is all on one line, so far from its first one.

    It has an entry for each eight instructions at most; the first one moves from the first line to that line.
    """
    whole, rest = divmod(len(code.co_code) // 2, 8)
    lengths = [8] * whole + [rest] * bool(rest)
    entries = [bytes((0x80 | _NO_COLUMNS << 3 | length - 1,)) for length in lengths]
    return entries[0] + _signed(offset) + b"".join(entry + b"\0" for entry in entries[1:])


def _signed(number: int) -> bytes:
    """A number as these tables have it: the sign in the lowest bit, then six bits in each byte."""
    rest = abs(number) << 1 | (number < 0)
    digits = []
    while rest > 0x3F:
        digits.append(0x40 | rest & 0x3F)
        rest >>= 6
    return bytes((*digits, rest))
