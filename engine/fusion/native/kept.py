"""Compiled code that is kept on disk: object files, and which instructions agree with NumPy, for the next process.

It is off unless the environment variable `EAGERLOOP_CACHE_DIR` names a folder, or says `default`. An object file is
kept for the very text that it was compiled from, and like the verdicts for this processor, LLVM, NumPy and engine: what
another machine or version has kept is never found. It has no address of this process in it: those are in frames.

Whatever the disk does, the program goes on: what cannot be read is compiled, and what cannot be kept is not. The thread
that holds `llvm.at_work` calls all this.
"""

from __future__ import annotations

import logging
import os
import struct
import sys
from collections.abc import Mapping
from functools import cache
from hashlib import sha256
from pathlib import Path

import numpy as np

from engine.base.version import VERSION
from engine.fusion.native.disk import Disk
from engine.fusion.native.llvm import machine_name

VARIABLE = "EAGERLOOP_CACHE_DIR"
DEFAULT = "default"
OFF = frozenset({"", "0", "off", "none"})

_log = logging.getLogger(__name__)


class Kept:
    """Code and findings that are kept on disk, if any are.

    A disk that cannot be read is given up; one that cannot be written is read on.
    """

    def __init__(self, disk: Disk | None, machine: str | None = None) -> None:
        self._disk = disk
        self._machine = machine
        """What code depends on beside its text; None for this machine."""
        self._may_write = True
        self._is_said = False
        """True if the log has had its word on the disk."""

    @property
    def disk(self) -> Disk | None:
        """The folder; None where nothing is kept, or not any more."""
        return self._disk

    def image(self, text: str) -> bytes | None:
        """The object file that was compiled from a text; None where none is kept."""
        return self._read("image", text)

    def keep_image(self, text: str, image: bytes) -> None:
        """Keep an object file."""
        self._write("image", text, image)

    def verdict(self, instruction: str) -> bool | None:
        """Tell whether an instruction was found to have NumPy's bits; None where that is not known."""
        content = self._read("verdict", instruction)
        return None if content is None else content == b"agrees"

    def keep_verdict(self, instruction: str, agrees: bool) -> None:
        """Keep what was found of an instruction."""
        self._write("verdict", instruction, b"agrees" if agrees else b"differs")

    def _read(self, kind: str, text: str) -> bytes | None:
        if self._disk is None:
            return None
        try:
            return self._disk.read(self._name(kind, text))
        except FileNotFoundError:  # nothing was ever kept
            return None
        except OSError as error:
            self._say(error)
            self._disk = None
            return None

    def _write(self, kind: str, text: str, content: bytes) -> None:
        if self._disk is None or not self._may_write:
            return
        try:
            self._disk.write(self._name(kind, text), content)
        except OSError as error:
            self._say(error)
            self._may_write = False

    def _say(self, error: OSError) -> None:
        if not self._is_said:
            _log.warning("compiled code is not kept on disk: %s", error)
        self._is_said = True

    def _name(self, kind: str, text: str) -> str:
        if self._machine is None:
            self._machine = this_machine()
        return sha256("\0".join((kind, self._machine, text)).encode()).hexdigest()


@cache
def kept() -> Kept:
    """Return the store of this process, as the environment says at the first call."""
    try:
        folder = folder_of(os.environ, sys.platform)
    except ValueError as error:
        _log.warning("compiled code is not kept on disk: %s", error)
        folder = None
    return Kept(None if folder is None or not hasattr(os, "geteuid") else Disk(folder))


def folder_of(environment: Mapping[str, str], platform: str) -> Path | None:
    """The folder that the environment names; None for none. Raises `ValueError` where it is not a whole path."""
    said = environment.get(VARIABLE, "").strip()
    if said.lower() in OFF:
        return None
    if said.lower() == DEFAULT:
        return default_folder(environment, platform)
    try:
        folder = Path(said).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{VARIABLE} names the home of a user that has none: {said!r}") from error
    if not folder.is_absolute():
        raise ValueError(f"{VARIABLE} has to be a whole path, {DEFAULT!r} or 'off', but is {said!r}")
    return folder


def default_folder(environment: Mapping[str, str], platform: str) -> Path:
    """The place where programs of this platform keep what they can make again. Raises `ValueError` without a home."""
    named = environment.get("XDG_CACHE_HOME", "")
    if Path(named).is_absolute():
        return Path(named) / "eagerloop"
    try:
        home = Path.home()
    except RuntimeError as error:
        raise ValueError(f"this user has no home: {VARIABLE} has to be a whole path") from error
    caches = Path("Library", "Caches") if platform == "darwin" else Path(".cache")
    return home / caches / "eagerloop"


@cache
def this_machine() -> str:
    """All that decides what code is made, and whether it gives NumPy's bits: processor, versions, and NumPy's build."""
    numpy = np._core._multiarray_umath  # type: ignore[attr-defined]
    features = sorted(name for name, has in getattr(numpy, "__cpu_features__", {}).items() if has)
    file = getattr(numpy, "__file__", None)
    about = None if file is None else Path(file).stat()
    build = "" if about is None else f"{about.st_size} {about.st_mtime_ns}"
    parts = [machine_name(), f"NumPy {np.__version__} {build} {' '.join(features)}"]
    parts.append(f"eagerloop {VERSION} {_sources()} {struct.calcsize('P')} {sys.byteorder}")
    return "\0".join(parts)


def _sources() -> str:
    """The digest of what writes the code: where the engine is worked on, its version stays the same."""
    digest = sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
