"""A folder of the user's own that small files are kept in, from one process to the next: bounded, and never trusted
blindly.

What is read from it is run as machine code, so no other user may be able to write there: the folder and its files
have to belong to this user, or to the system, and to be writable by no other; so have the folders on the way.
Each file says what it is kept for, how long it is and its SHA-256: one that was cut short, or has another one's name,
is not read but removed. Files come into being under another name and are renamed, so that processes that read and write
at the same time see whole files.

Methods raise `OSError` where the disk, or who may write to it, gives a reason to.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from secrets import token_hex
from time import time
from typing import NamedTuple

LIMIT = 64 << 20
"""Bytes that are kept, at most; as files are counted now and then, a process may add an eighth to it for a while."""
LARGEST = 8 << 20
"""Bytes of a file, at most."""
TOUCHED = 3_600.0
"""Seconds after which a file that is read is marked as used again; and after which one that was never whole goes."""

_MAGIC = b"eagerloop kept 1\n"
_NAME = re.compile(r"[0-9a-f]{64}(\.[0-9a-f]{16}\.new)?")
_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_READ = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)
"""How files are opened: a pipe of the name of one is no reason to wait."""


class Usage(NamedTuple):
    """How much is kept."""

    files: int
    nbytes: int


class Disk:
    """The folder. Names are hexadecimal digests of 32 bytes; files of other names are left alone."""

    def __init__(self, folder: Path, limit: int = LIMIT) -> None:
        self.folder = Path(os.path.realpath(folder))
        self._limit = limit
        self._room = -1
        """Bytes that may be written before files are counted again."""
        self._is_checked = False

    def read(self, name: str) -> bytes | None:
        """The content of a file; None where there is none, or none that is whole."""
        with self._opened() as folder:
            try:
                file = os.open(name, _READ, dir_fd=folder)
            except FileNotFoundError:
                return None
            if not stat.S_ISREG(os.fstat(file).st_mode):
                os.close(file)
                return None
            with os.fdopen(file, "rb") as stream:
                about = os.fstat(file)
                _check(about, self.folder / name)
                content = _content(name, stream.read(LARGEST + 1))
                if content is not None and time() - about.st_mtime > TOUCHED:
                    with suppress(OSError):
                        os.utime(file)
            if content is None:
                with suppress(OSError):
                    os.unlink(name, dir_fd=folder)
            return content

    def write(self, name: str, content: bytes) -> None:
        """Keep a file; what was used longest ago goes where there is no room."""
        data = _header(name, content) + content
        if len(data) > min(LARGEST, self._limit):
            return
        self._make_folder()
        with self._opened() as folder:
            if self._room < len(data):
                self._make_room(folder, len(data))
            self._room -= len(data)
            made = f"{name}.{token_hex(8)}.new"
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            try:
                with os.fdopen(os.open(made, flags, 0o600, dir_fd=folder), "wb") as stream:
                    stream.write(data)
                os.rename(made, name, src_dir_fd=folder, dst_dir_fd=folder)
            except BaseException:
                with suppress(OSError):
                    os.unlink(made, dir_fd=folder)
                raise

    def usage(self) -> Usage:
        """Count what is kept."""
        with self._opened() as folder:
            sizes = [about.st_size for _, about in _files(folder)]
        return Usage(len(sizes), sum(sizes))

    def _make_folder(self) -> None:
        """Make the folder, and those on the way that are missing, for this user alone."""
        missing = [each for each in (self.folder, *self.folder.parents) if not each.exists()]
        for each in reversed(missing):
            with suppress(FileExistsError):
                each.mkdir(mode=0o700)

    @contextmanager
    def _opened(self) -> Iterator[int]:
        """The folder, once it is certain that only this user may write to it. It is not kept open: programs that
        become daemons close what is."""
        if not self._is_checked:
            for each in self.folder.parents:
                with suppress(FileNotFoundError):  # it is made, for this user alone
                    _check(each.stat(), each, on_the_way=True)
        folder = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _check(os.fstat(folder), self.folder)
            self._is_checked = True
            yield folder
        finally:
            os.close(folder)

    def _make_room(self, folder: int, needed: int) -> None:
        """Count the files, remove those used longest ago where there are too many, and those that were never whole."""
        files = sorted(_files(folder), key=lambda each: each[1].st_mtime)
        total = sum(about.st_size for _, about in files)
        for name, about in files:
            is_coming = name.endswith(".new")
            if time() - about.st_mtime > TOUCHED if is_coming else total + needed > self._limit:
                with suppress(FileNotFoundError):  # another process was faster
                    os.unlink(name, dir_fd=folder)
                total -= about.st_size
        self._room = max(needed, min(self._limit - total, self._limit // 8))


def _files(folder: int) -> list[tuple[str, os.stat_result]]:
    """The files that are kept in a folder, and what is known of them."""
    found = []
    for name in os.listdir(folder):
        if _NAME.fullmatch(name):
            with suppress(FileNotFoundError):
                about = os.stat(name, dir_fd=folder, follow_symlinks=False)
                if not stat.S_ISDIR(about.st_mode):
                    found.append((name, about))
    return found


def _check(about: os.stat_result, path: Path, *, on_the_way: bool = False) -> None:
    """Raise `PermissionError` where another user owns something, or may write to it.

    In a folder on the way others may have things of their own, if they cannot put them in the place of what is there.
    """
    if about.st_uid not in (0, os.geteuid()):
        raise PermissionError(f"{path} belongs to another user")
    if about.st_mode & _OTHERS and not (on_the_way and about.st_mode & stat.S_ISVTX):
        raise PermissionError(f"{path} may be written by other users: it has to be this user's alone")


def _header(name: str, content: bytes) -> bytes:
    return _MAGIC + bytes.fromhex(name) + len(content).to_bytes(8, "little") + sha256(content).digest()


_HEADER_BYTES = len(_header("00" * 32, b""))


def _content(name: str, data: bytes) -> bytes | None:
    content = data[_HEADER_BYTES:]
    return content if data[:_HEADER_BYTES] == _header(name, content) else None
