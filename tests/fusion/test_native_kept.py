"""Compiled code that is kept on disk: found by the next process, safe against other users, and never in the way."""

import asyncio
import errno
import logging
import os
import resource
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import engine
from engine import cli, ops
from engine.fusion.native import compiler, disk as disks, kept as module, selfcheck
from engine.fusion.native.compiler import Code, compile_structure
from engine.fusion.native.disk import Disk
from engine.fusion.native.kept import Kept, default_folder, folder_of
from engine.fusion.native.machine import is_available
from engine.fusion.native.natives import Natives
from engine.fusion.native.selfcheck import SelfCheck, _structure, computed
from engine.fusion.native.structure import Instruction
from tests.planning import force_runs

pytestmark = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="nothing is kept on this platform")
compiling = pytest.mark.skipif(not is_available(), reason="there is no compiler: llvmlite is not installed")

A, B, C = (f"{number:064x}" for number in (10, 11, 12))
ADD = Instruction(np.add, (), ("f8", "f8", "f8"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "more" / "kept"


# The folder


def test_what_is_written_is_read(folder: Path) -> None:
    Disk(folder).write(A, b"some code")
    disk = Disk(folder)
    assert (disk.read(A), disk.read(B)) == (b"some code", None)
    assert disk.usage().files == 1
    assert [stat.S_IMODE(each.stat().st_mode) for each in (folder, folder.parent)] == [0o700, 0o700]


def test_the_folder_is_made_for_this_user_alone_whatever_the_mask(folder: Path) -> None:
    before = os.umask(0)
    try:
        Disk(folder).write(A, b"some code")
    finally:
        os.umask(before)
    modes = [stat.S_IMODE(each.stat().st_mode) for each in (folder, folder / A)]
    assert modes == [0o700, 0o600]


@pytest.mark.parametrize("length", [0, 1, 40, 90, 96])
def test_a_file_that_was_cut_short_is_removed(folder: Path, length: int) -> None:
    disk = Disk(folder)
    disk.write(A, b"some code")
    whole = (folder / A).read_bytes()
    assert length < len(whole)
    (folder / A).write_bytes(whole[:length])
    assert disk.read(A) is None
    assert not (folder / A).exists()


@pytest.mark.parametrize("place", [3, 20, 50, 60, 90, -1])
def test_a_file_with_another_bit_is_removed(folder: Path, place: int) -> None:
    disk = Disk(folder)
    disk.write(A, b"some code")
    data = bytearray((folder / A).read_bytes())
    data[place] ^= 1
    (folder / A).write_bytes(data)
    assert disk.read(A) is None
    assert not (folder / A).exists()


def test_a_file_of_another_name_is_not_read(folder: Path) -> None:
    disk = Disk(folder)
    disk.write(A, b"some code")
    (folder / A).rename(folder / B)
    assert disk.read(B) is None


def test_a_link_is_not_followed(folder: Path, tmp_path: Path) -> None:
    disk = Disk(folder)
    disk.write(A, b"some code")
    (folder / A).rename(tmp_path / A)
    (folder / A).symlink_to(tmp_path / A)
    with pytest.raises(OSError, match=r"symbolic|links"):
        disk.read(A)


DISGUISES: dict[str, Callable[[Path], None]] = {"a pipe": os.mkfifo, "a folder": Path.mkdir}


@pytest.mark.parametrize("make", DISGUISES.values(), ids=DISGUISES)
def test_what_is_no_file_is_none_and_is_not_waited_for(folder: Path, make: Callable[[Path], None]) -> None:
    disk = Disk(folder, limit=2_048)
    disk.write(A, b"some code")
    (folder / A).unlink()
    make(folder / A)
    os.utime(folder / A, (1, 1))
    assert disk.read(A) is None
    for number in range(4):  # more than there is room for
        disk.write(f"{number:064x}", bytes(900))
    assert disk.usage().nbytes <= 2_048


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
def test_a_folder_that_others_may_write_to_is_refused(folder: Path, mode: int) -> None:
    Disk(folder).write(A, b"some code")
    folder.chmod(mode)
    disk = Disk(folder)
    for use in (lambda: disk.read(A), lambda: disk.write(B, b"other"), disk.usage):
        with pytest.raises(PermissionError, match="may be written by other users"):
            use()


def test_a_file_that_others_may_write_to_is_refused(folder: Path) -> None:
    disk = Disk(folder)
    disk.write(A, b"some code")
    (folder / A).chmod(0o622)
    with pytest.raises(PermissionError, match="may be written"):
        disk.read(A)


def test_a_folder_on_the_way_that_others_may_write_to_is_refused(folder: Path) -> None:
    Disk(folder).write(A, b"some code")
    folder.parent.chmod(0o777)
    with pytest.raises(PermissionError, match="may be written"):
        Disk(folder).read(A)
    folder.parent.chmod(0o1777)  # as /tmp: others may not replace what is there
    assert Disk(folder).read(A) == b"some code"


def test_what_belongs_to_another_user_is_refused(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    Disk(folder).write(A, b"some code")
    own = os.geteuid()
    if own == 0:
        os.chown(folder, 4_242, 4_242)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: own + 1)
    disk = Disk(folder)
    for use in (lambda: disk.read(A), lambda: disk.write(B, b"other"), disk.usage):
        with pytest.raises(PermissionError, match="belongs to another user"):
            use()


def test_what_was_used_longest_ago_goes(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(disks, "TOUCHED", -1.0)  # a file that is read counts as used from then on
    disk = Disk(folder, limit=4_096)
    for number, name in enumerate((A, B, C)):
        disk.write(name, bytes(1_000))
        os.utime(folder / name, (number + 1, number + 1))
    disk.read(A)
    for number in range(20):
        Disk(folder, limit=4_096).write(f"{number:064x}", bytes(900))
        assert sum(each.stat().st_size for each in folder.iterdir()) <= 4_096
        if number == 0:
            assert (disk.read(A), disk.read(B)) == (bytes(1_000), None)


def test_one_process_writes_a_little_more_than_the_limit_at_most(folder: Path) -> None:
    disk = Disk(folder, limit=8_192)
    for number in range(50):
        disk.write(f"{number:064x}", bytes(500))
        assert disk.usage().nbytes <= 8_192
    disk.write(A, bytes(9_000))  # larger than all there is room for
    assert disk.read(A) is None


def test_other_files_are_left_alone_and_left_overs_are_not(folder: Path) -> None:
    disk = Disk(folder, limit=2_048)
    disk.write(A, bytes(10))
    for name in ("letter.txt", "f" * 63, f"{B}.{'0' * 16}.new"):
        (folder / name).write_bytes(bytes(3_000))
        os.utime(folder / name, (1, 1))
    Disk(folder, limit=2_048).write(C, bytes(10))
    assert sorted(each.name for each in folder.iterdir()) == sorted(["letter.txt", "f" * 63, A, C])


def test_many_threads_of_many_processes_see_whole_files(folder: Path) -> None:
    wrong: list[object] = []

    def work(first: int) -> None:
        disk = Disk(folder, limit=6_000)
        for number in range(60):
            name = f"{(first + number) % 12:064x}"
            content = disk.read(name)
            if content is None:
                disk.write(name, name.encode() * 10)
            elif content != name.encode() * 10:
                wrong.append(content)

    def guarded(first: int) -> None:
        try:
            work(first)
        except BaseException as error:  # noqa: BLE001 - told to the test
            wrong.append(error)

    Disk(folder).write(A, A.encode() * 10)
    threads = [threading.Thread(target=guarded, args=(first,)) for first in range(0, 12, 3)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert wrong == []


# What is kept


def test_another_machine_finds_nothing(folder: Path) -> None:
    Kept(Disk(folder), "a processor").keep_image("text", b"code")
    assert Kept(Disk(folder), "a processor").image("text") == b"code"
    assert Kept(Disk(folder), "another one").image("text") is None
    assert Kept(Disk(folder), "a processor").image("another text") is None
    assert Kept(Disk(folder), "a processor").verdict("text") is None


@compiling
def test_processor_and_versions_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [module.this_machine()]
    changes: list[tuple[str, Any]] = [
        ("engine.fusion.native.kept.VERSION", "99"),
        ("engine.fusion.native.kept.machine_name", lambda: "x86_64 some other processor +f16c LLVM 3"),
        ("numpy.__version__", "99"),
        ("engine.fusion.native.kept._sources", lambda: "other sources"),
    ]
    for name, value in changes:
        with monkeypatch.context() as changed:
            changed.setattr(name, value)
            names.append(module.this_machine.__wrapped__())
    assert len(set(names)) == 5


@pytest.mark.parametrize("agrees", [True, False])
def test_verdicts_are_kept(folder: Path, agrees: bool) -> None:
    Kept(Disk(folder), "here").keep_verdict("add f8 f8 f8", agrees)
    assert Kept(Disk(folder), "here").verdict("add f8 f8 f8") is agrees


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EACCES, errno.EIO])
def test_a_disk_that_cannot_be_written_is_read_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, folder: Path, number: int
) -> None:
    def refuse(*args: Any, **options: Any) -> None:
        raise OSError(number, os.strerror(number))

    store = Kept(Disk(folder), "here")
    store.keep_image("text", b"code")
    monkeypatch.setattr(os, "rename", refuse)
    with caplog.at_level(logging.WARNING):
        for text in ("more", "and more"):
            store.keep_image(text, b"code")
            assert store.image(text) is None
            assert store.image("text") == b"code"
    assert [os.strerror(number) in record.getMessage() for record in caplog.records] == [True]
    assert len(list(folder.iterdir())) == 1


def test_a_disk_that_cannot_be_read_is_given_up_with_a_word(caplog: pytest.LogCaptureFixture, folder: Path) -> None:
    store = Kept(Disk(folder), "here")
    store.keep_image("text", b"code")
    folder.chmod(0o777)
    for _ in range(3):
        assert store.image("text") is None
        store.keep_image("more", b"code")
    assert ["may be written by other users" in record.getMessage() for record in caplog.records] == [True]
    assert len(list(folder.iterdir())) == 1


def test_a_disk_that_is_full_half_way_leaves_nothing_behind(caplog: pytest.LogCaptureFixture, folder: Path) -> None:
    store = Kept(Disk(folder), "here")
    store.keep_image("text", b"code")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_096, before[1]))
    try:
        store.keep_image("more", bytes(100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert len(caplog.records) == 1
    assert len(list(folder.iterdir())) == 1


@pytest.mark.parametrize(
    ("said", "folder"),
    [
        (None, None),
        ("", None),
        ("off", None),
        (" 0 ", None),
        ("/var/cache/mine", "/var/cache/mine"),
        ("default", "/home/me/.cache/eagerloop"),
        ("~/kept", "/home/me/kept"),
    ],
)
def test_the_environment_names_the_folder(
    monkeypatch: pytest.MonkeyPatch, said: str | None, folder: str | None
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    environment = {} if said is None else {"EAGERLOOP_CACHE_DIR": said}
    assert folder_of(environment, "linux") == (None if folder is None else Path(folder))


def test_a_path_that_is_not_whole_is_refused() -> None:
    with pytest.raises(
        ValueError, match="EAGERLOOP_CACHE_DIR has to be a whole path, 'default' or 'off', but is 'x/y'"
    ):
        folder_of({"EAGERLOOP_CACHE_DIR": "x/y"}, "linux")


def test_the_home_of_a_user_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match="EAGERLOOP_CACHE_DIR names the home of a user that has none: '~no_such_user/"):
        folder_of({"EAGERLOOP_CACHE_DIR": "~no_such_user/x"}, "linux")


def test_the_default_folder_is_where_the_platform_has_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert default_folder({"XDG_CACHE_HOME": "/caches"}, "linux") == Path("/caches/eagerloop")
    assert default_folder({"XDG_CACHE_HOME": "relative"}, "linux") == Path("/home/me/.cache/eagerloop")
    assert default_folder({}, "darwin") == Path("/home/me/Library/Caches/eagerloop")


# Compiling with it


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Path:
    """Code is kept, by one process after the other: `kept` is asked anew each time."""
    for user in (compiler, selfcheck):
        monkeypatch.setattr(user, "kept", lambda: Kept(Disk(folder)))
    return folder


def compiled() -> Code:
    return compile_structure(_structure(ADD), lambda _: True, False)


def refuse(*args: object) -> bytes:
    raise AssertionError("there is nothing to compile")


@compiling
def test_code_that_was_kept_is_not_compiled(monkeypatch: pytest.MonkeyPatch, store: Path) -> None:
    assert not compiled().from_disk
    monkeypatch.setattr(compiler, "compiled", refuse)
    code = compiled()
    assert code.from_disk
    (x, y), result, unsure = computed(ADD, code, 1)
    with np.errstate(all="ignore"):
        expected = x + y
    sure = ~unsure & ~(np.isnan(x) & np.isnan(y))  # of two NaNs, compiled code leaves it to NumPy which one it is
    assert expected[sure].tobytes() == result[sure].tobytes()
    assert sure.sum() > 100


@compiling
def test_what_is_kept_and_is_no_code_is_compiled_and_replaced(store: Path) -> None:
    compiled()
    (name,) = (each.name for each in store.iterdir())
    whole = Disk(store).read(name)
    Disk(store).write(name, b"whole, and no object file")
    assert not compiled().from_disk
    assert Disk(store).read(name) == whole
    assert compiled().from_disk


@compiling
def test_instructions_are_not_checked_again(monkeypatch: pytest.MonkeyPatch, store: Path) -> None:
    assert SelfCheck().agrees(ADD)
    monkeypatch.setattr(compiler, "compiled", refuse)
    monkeypatch.setattr(selfcheck, "has_numpys_bits", refuse)
    assert SelfCheck().agrees(ADD)


PROGRAM = """
import asyncio
import numpy as np
import engine
from engine import ops
from engine.fusion.native.natives import natives

async def main():
    async with engine.Executor(execution_mode=engine.ASYNC):
        x = np.arange(500_000.0)
        for _ in range(2):
            assert (await (ops.asarray(x) * 2 + 1) == x * 2 + 1).all()
            natives.settle()

asyncio.run(main())
s = engine.fusion_statistics()
print(s.from_disk > 0, s.hits > 0, s.failed)
"""


@compiling
def test_the_next_process_finds_the_code(monkeypatch: pytest.MonkeyPatch, store: Path) -> None:
    natives = Natives(at_once=True)
    force_runs(monkeypatch, 1 << 20, natives)

    async def compute() -> None:
        async with engine.Executor(execution_mode=engine.ASYNC):
            x = np.arange(500_000.0)
            assert (await (ops.asarray(x) * 2 + 1) == x * 2 + 1).all()

    asyncio.run(compute())
    assert (natives.statistics().compiled, natives.statistics().from_disk) == (1, 0)
    environment = os.environ | {"EAGERLOOP_CACHE_DIR": str(store)}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.stdout.split(), done.stderr) == (["True", "True", "0"], "")


def test_info_says_where_and_how_much(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    disk = Disk(folder)
    for store, said in (
        (Kept(None), "off; EAGERLOOP_CACHE_DIR=default keeps compiled code for the next process"),
        (Kept(disk), f"{disk.folder}, which is not there yet"),
    ):
        monkeypatch.setattr(cli, "kept", lambda store=store: store)
        cli.main(["info"])
        assert said in capsys.readouterr().out
    disk.write(A, bytes(200_000))
    cli.main(["info"])
    assert f"{disk.folder}, 1 files, 0.2 MB" in capsys.readouterr().out
    folder.chmod(0o777)
    cli.main(["info"])
    assert f"{disk.folder}, which is not used: {disk.folder} may be written by other users" in capsys.readouterr().out


def test_reading_counts_as_using(folder: Path) -> None:
    disk = Disk(folder)
    disk.write(A, b"some code")
    os.utime(folder / A, (1, 1))
    disk.read(A)
    assert time.time() - (folder / A).stat().st_mtime < 3_600
