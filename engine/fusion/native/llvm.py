"""LLVM, by way of llvmlite: from the text of a module to an object file, and from that to a function in memory.

What LLVM needs while it compiles, most of a megabyte, is given back as soon as the object file is there. A function in
memory is loaded from the object file, takes a few pages, and goes when nothing refers to it any more.

Guarantees: LLVM is called by one thread at a time, the one that holds `at_work`. A fork waits for it; and once the
interpreter's exit has begun, no thread enters it any more: `ending` takes the lock for good, and sees to it that no
function is given back while modules are torn down. llvmlite itself does not, where it is imported that late.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from engine.threads.pool import hand_over

_NICE = 10
at_work = threading.RLock()
"""Held by the thread that calls LLVM."""
os.register_at_fork(before=at_work.acquire, after_in_parent=at_work.release, after_in_child=at_work.release)


class Function(NamedTuple):
    """A function in memory, which is there as long as its owner is."""

    address: int
    owner: object


class EndingError(Exception):
    """The program has ended: nothing is compiled any more."""


def ending(timeout: float) -> None:
    """Wait until LLVM is not at work, and let no other thread enter it: the interpreter is about to end."""
    at_work.acquire(timeout=timeout)
    for each in list(_alive):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(each))  # never collected, also while the interpreter ends


def is_ending() -> bool:
    """Tell whether the program has ended, and the interpreter is waiting for its threads or runs its exit handlers."""
    return not threading.main_thread().is_alive()


def compiled(text: str, name: str) -> bytes:
    """The object file of a module with one function. Raises what LLVM raises, and `EndingError`."""
    llvm = _binding()
    if is_ending():  # while llvmlite was imported
        raise EndingError
    work = partial(_compiled, llvm, text, name)
    return _at_low_priority(work) if current.is_patient else work()


@cache
def _binding() -> Any:
    """The part of llvmlite that calls LLVM."""
    breathe()
    _load_library()
    breathe()
    from llvmlite import binding

    return binding


def _load_library() -> None:
    """Have the system load LLVM's library, which takes it many milliseconds, without the interpreter lock.

    llvmlite, which loads it when it is imported, would keep the lock for as long; it finds the library loaded.
    """
    spec = find_spec("llvmlite")
    with suppress(OSError, AttributeError, TypeError):  # where there is no such function; llvmlite says what is wrong
        load = ctypes.CDLL(None).dlopen
        load.restype = ctypes.c_void_p
        for folder in [] if spec is None else spec.submodule_search_locations or []:
            for library in sorted(Path(folder, "binding").glob("libllvmlite.*")):
                load(os.fsencode(library), ctypes.c_int(os.RTLD_NOW | os.RTLD_LOCAL))


class _Current(threading.local):
    """The thread that asks."""

    is_patient = False
    """True if no other thread waits for what it does."""


current = _Current()


def breathe() -> None:
    """Let the loop's thread have the interpreter, where no other thread waits for what is compiled."""
    if current.is_patient:
        hand_over()


def _at_low_priority(work: Callable[[], bytes]) -> bytes:
    """Do something on a thread of low priority; this one waits, and holds `at_work` for it."""
    outcomes: list[bytes | BaseException] = []

    def run() -> None:
        with suppress(OSError, AttributeError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        try:
            outcomes.append(work())
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits
            outcomes.append(error)

    thread = threading.Thread(target=run, name="eagerloop-llvm", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # the system has no more threads
        return work()
    thread.join()
    (outcome,) = outcomes
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


def _compiled(llvm: Any, text: str, name: str) -> bytes:
    target = _target()
    with llvm.create_context() as context, llvm.parse_assembly(text, context) as module:
        options = llvm.create_pipeline_tuning_options(speed_level=1)
        with llvm.create_pass_builder(target, options) as builder, llvm.create_new_function_pass_manager() as passes:
            passes.add_sroa_pass()
            passes.run(module.get_function(name), builder)
        return bytes(target.emit_object(module))


def loaded(image: bytes, name: str) -> Function:
    """The function of an object file. Raises `RuntimeError` where the file has none, or is none."""
    if not image.startswith(_OBJECTS):  # LLVM would crash
        raise RuntimeError("it is no object file")
    llvm = _binding()
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _new_target())
    _alive.add(engine)
    engine.add_object_file(llvm.ObjectFileRef.from_data(image))
    engine.finalize_object()
    address = engine.get_function_address(name)
    if not address:
        raise RuntimeError(f"the object file has no function {name!r}")
    return Function(address, _Owner(engine))


class _Owner:
    """The memory of a function: given back when nothing refers to it any more."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    def __del__(self) -> None:
        _unused.append(self._engine)


_OBJECTS = (b"\x7fELF", b"\xcf\xfa\xed\xfe", b"\x64\x86", b"\x64\xaa")
"""The first bytes of object files: of ELF, of Mach-O, and of COFF for both kinds of processors."""
_alive: set[Any] = set()
"""The objects of llvmlite that live longer than a compilation."""
_unused: deque[Any] = deque()
"""Those whose functions no thread refers to any more; LLVM is called by the compiling thread."""


def dispose() -> None:
    """Give back the memory of functions that are not referred to any more."""
    while _unused:
        engine = _unused.popleft()
        _alive.discard(engine)
        engine.close()


def machine_name() -> str:
    """The processor, its features and the versions that an object file was made for."""
    llvm = _binding()
    version = ".".join(map(str, llvm.llvm_version_info))
    binding = sys.modules["llvmlite"].__version__
    return f"{llvm.get_process_triple()} {llvm.get_host_cpu_name()} {_features()} LLVM {version} llvmlite {binding}"


@cache
def _target() -> Any:
    """The target machine that object files are made with."""
    target = _new_target()
    _alive.add(target)
    return target


def _new_target() -> Any:
    """A target machine; what loads a function takes over one of its own."""
    llvm = _binding()
    _initialize()
    return llvm.Target.from_triple(llvm.get_process_triple()).create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=_features(), opt=2, jit=True
    )


@cache
def _features() -> str:
    features: str = _binding().get_host_cpu_features().flatten()
    return features


@cache
def converts_halves() -> bool:
    """Tell whether the processor has instructions that make floats of 16 bits of wider ones, and the other way."""
    from llvmlite import binding as llvm

    if llvm.get_process_triple().startswith(("aarch64", "arm64")):
        return True
    return bool(llvm.get_host_cpu_features().get("f16c"))


@cache
def _initialize() -> None:
    llvm = _binding()
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
