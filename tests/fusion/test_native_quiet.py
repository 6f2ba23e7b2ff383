"""What the compiling thread does leaves the interpreter to other threads."""

import gc
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from engine.fusion.native.machine import is_available
from engine.fusion.native.selfcheck import _columns

ROOT = Path(__file__).resolve().parents[2]

LOADED = """
import sys
from engine.fusion.native import llvm
llvm._load_library()
assert "llvmlite.binding" not in sys.modules
assert "libllvmlite" in open("/proc/self/maps").read()
assert llvm._binding().llvm_version_info
"""


@pytest.mark.skipif(not is_available(), reason="llvmlite is missing: pip install 'eagerloop[native]'")
@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="there is no list of what is loaded here")
def test_the_library_is_loaded_before_llvmlite_is_imported() -> None:
    subprocess.run([sys.executable, "-c", LOADED], check=True, env=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=60)


def test_values_to_check_are_no_reason_to_look_for_garbage() -> None:
    began: list[int] = []
    here = threading.get_ident()

    def note(phase: str, _: dict[str, Any]) -> None:
        if phase == "start" and threading.get_ident() == here:
            began.append(1)

    threshold = gc.get_threshold()
    gc.collect()
    gc.set_threshold(500, *threshold[1:])
    gc.callbacks.append(note)
    try:
        first, second = _columns(("f8", "f8"))
    finally:
        gc.callbacks.remove(note)
        gc.set_threshold(*threshold)
    assert len(first) == len(second) > 1_000
    assert len({(x.tobytes(), y.tobytes()) for x, y in zip(first, second, strict=True)}) == len(first)
    assert len(began) <= 1  # other threads may have come close to one
