"""`python -m engine.testing.gpu`: its parts are processes, and what each has found is kept, whatever becomes of it."""

import json
import os
import subprocess
from collections import Counter
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from engine.testing.gpu import __main__ as script, child
from engine.testing.gpu.child import Process, parsed
from engine.testing.gpu.conformance import check_each
from engine.testing.gpu.journal import Found, Journal, read
from engine.testing.gpu.parts import (
    LEAST_SECONDS,
    LIMIT_SECONDS,
    Part,
    all_parts,
    everything,
    in_order,
    limit_of,
    share,
)
from tests.devices.cuda.host_runtime import HostRuntime

RUNTIME = "tests.devices.cuda.host_runtime:HostRuntime"


# ---------------------------------------------------------------------------------------------------------------------
# What each part does, on GPUs made of threads


@pytest.mark.parametrize("part", ["facilities", "cases", "heartbeat", "programs"])
def test_a_part_finds_nothing_wrong(gpus: HostRuntime, tmp_path: Path, part: str) -> None:
    gpus.limit = 1 << 29
    options = parsed(
        [part, "--journal", str(tmp_path / "j"), "--seconds", "100", "--scale", "0.01", "--programs", "2", "--of", "4"]
    )
    with (tmp_path / "j").open("w", encoding="utf-8") as file:
        Process(Journal(file), options, gpus).run()
    found = Found()
    found.merge(read(tmp_path / "j"))
    assert found.failures == []
    assert found.at is None
    assert found.checked or found.notes


# ---------------------------------------------------------------------------------------------------------------------
# Limits and order: pure


def test_all_parts_end_in_time_and_all_are_begun_where_there_is_time() -> None:
    parts = all_parts(6)
    spent = 0.0
    for number, part in enumerate(parts):  # each needs all that it may have
        limit = limit_of(part, spent, len(parts) - number - 1)
        assert limit >= LEAST_SECONDS
        spent += limit
    assert spent <= LIMIT_SECONDS < 240


def test_a_part_for_which_there_is_no_time_is_not_begun() -> None:
    assert limit_of(Part("any", 30.0), LIMIT_SECONDS - 1.0, 0) == 0.0


def test_cases_begin_with_one_of_each_op() -> None:
    mixed = list(everything())
    cases = in_order(mixed)
    names = [case.name.partition("(")[0] for case in cases]
    assert len(set(names[: len(set(names))])) == len(set(names))
    assert Counter(case.name for case in cases) == Counter(case.name for case in mixed)


def test_processes_share_the_cases_and_go_on_after_the_one_that_one_died_of() -> None:
    cases: list[Any] = list(range(10))
    shares: list[Any] = [each for number in range(3) for each in share(cases, number, 3)]
    assert sorted(shares) == cases
    report = Journal(StringIO(), skip=2)
    check_each(report, [(f"check {number}", lambda: None) for number in share(cases, 1, 3)])
    assert report.checked == 1


# ---------------------------------------------------------------------------------------------------------------------
# Processes that die


def test_a_journal_that_was_cut_off_says_where_its_process_was() -> None:
    found = Found()
    found.merge(
        [
            '{"begun": "a"}',
            '{"checked": "a", "problem": null}',
            '{"begun": "b"}',
            '{"lacking": "b"}',
            '{"noted": "card", "value": "any"}',
            '{"begun": "c"}',
            '{"checked": "c", "prob',
        ]
    )
    assert (found.checked, found.failures, found.lacking) == (2, [], ["b"])
    assert (found.at, found.begun, found.notes) == ("c", ["a", "b", "c"], {"card": "any"})


@pytest.mark.parametrize(
    ("code", "said", "wrong"),
    [
        (0, "", None),
        (0, "eagerloop: at exit 3 ops never ran\n\n", None),
        (0, "Exception ignored in: any\n", "ended with 0: Exception ignored"),
        (-11, "", "ended with -11: "),
    ],
)
def test_a_process_has_to_end_quietly(monkeypatch: pytest.MonkeyPatch, code: int, said: str, wrong: str | None) -> None:
    done = subprocess.CompletedProcess[str](["any"], code, "", said)
    monkeypatch.setattr(child, "run", lambda *args, **options: done)
    found = child.ended("exit", 5.0)
    assert found is wrong if wrong is None else str(found).startswith(wrong)


def test_a_process_that_does_not_end_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: Any, **options: Any) -> Any:
        raise subprocess.TimeoutExpired("any", 5.0, stderr="where it is")

    monkeypatch.setattr(child, "run", never)
    assert child.ended("exit", 5.0) == "it had not ended after 5 s: 'where it is'"


class Dying:
    """Processes that die of each second case, until they were started three times."""

    started: list[Sequence[str]]

    def __init__(self) -> None:
        self.started = []

    def __call__(self, command: Sequence[str], **options: Any) -> Any:
        self.started.append(command)
        journal, skip = (command[command.index(name) + 1] for name in ("--journal", "--skip"))
        with Path(journal).open("a", encoding="utf-8") as file:
            report = Journal(file)
            report.begin(f"case {skip}")
            report.add(f"case {skip}", None)
            if len(self.started) < 3:
                report.begin("the one that it dies of")
        code = -11 if len(self.started) < 3 else 0
        return SimpleNamespace(wait=lambda timeout: code, poll=lambda: code)


def test_a_process_that_dies_of_a_case_is_started_again_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    dying = Dying()
    monkeypatch.setattr(script, "Popen", dying)
    found = Found()
    options = script.parsed([])
    options.environment = dict(os.environ)
    script.run(Part("facilities", 60.0), 60.0, options, found)
    assert [command[command.index("--skip") + 1] for command in dying.started] == ["0", "2", "4"]
    assert found.checked == 3
    assert found.failures == ["the process ended with -11 while at 'the one that it dies of'"] * 2
    assert found.notes == {"restarts": 2}


class Hanging:
    """Processes that do not end, not even when they are killed: they wait for a driver. The look for a GPU does."""

    made: ClassVar[list["Hanging"]] = []
    killed: ClassVar[list[str]] = []

    def __init__(self, command: Sequence[str], **options: Any) -> None:
        self.part = command[5]
        self.pid = len(self.made)
        self.made.append(self)
        line = '{"noted": "gpus", "value": 1}' if self.part == "presence" else '{"begun": "a copy"}'
        Path(command[command.index("--journal") + 1]).write_text(f"{line}\n", encoding="utf-8")

    def wait(self, timeout: float) -> int:
        if self.part != "presence":
            raise subprocess.TimeoutExpired("any", timeout)
        return 0

    def poll(self) -> int | None:
        return 0 if self.part == "presence" or self.part in self.killed else None

    @classmethod
    def kill_group(cls, number: int, _: int) -> None:
        cls.killed.append(cls.made[number].part)


def test_a_process_that_hangs_is_ended_and_the_file_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    killed: list[str] = []
    Hanging.killed = killed
    monkeypatch.setattr(script, "Popen", Hanging)
    monkeypatch.setattr("os.killpg", Hanging.kill_group)
    file = tmp_path / "gpu.json"
    assert script.main(["--runtime", RUNTIME, "--json", str(file), "--parts", "facilities", "programs"]) == 1
    parts = json.loads(file.read_text(encoding="utf-8"))["parts"]
    assert killed == ["facilities", "programs"]
    for part in killed:
        assert parts[part]["failures"] == ["the process was killed at its limit, and did not go while at 'a copy'"]
    assert "facilities: 0 checks, 1 failed" in capsys.readouterr().out


def test_the_whole_of_it_as_a_program(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "gpu.json"
    options = ["--runtime", RUNTIME, "--scale", "0.01", "--programs", "2", "--json", str(file)]
    assert script.main([*options, "--parts", "programs"]) == 0, capfd.readouterr()
    part = json.loads(file.read_text(encoding="utf-8"))["parts"]["programs"]
    assert (part["checked"], part["failures"]) == (2, [])


def test_a_part_that_was_misspelt_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        script.main(["--parts", "facility"])
    assert "invalid choice: 'facility'" in capsys.readouterr().err


def test_a_cuda_that_does_not_answer_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hanging: type = type("Silent", (Hanging,), {"poll": lambda self: None, "killed": []})

    def wait(self: Any, timeout: float) -> int:
        raise subprocess.TimeoutExpired("any", timeout)

    hanging.wait = wait  # type: ignore[attr-defined]
    monkeypatch.setattr(Hanging, "made", [])
    monkeypatch.setattr(script, "Popen", lambda command, **options: _without_journal(hanging(command), command))
    monkeypatch.setattr("os.killpg", lambda *_: None)
    file = tmp_path / "gpu.json"
    assert script.main(["--json", str(file)]) == script.NO_GPU
    assert "no GPU was checked: the process was killed at its limit" in capsys.readouterr().err
    assert not file.exists()


def _without_journal(process: Any, command: Sequence[str]) -> Any:
    Path(command[command.index("--journal") + 1]).unlink()
    return process


def test_what_was_found_is_written_where_the_whole_is_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: Any, timeout: float) -> int:
        if self.part == "presence":
            return 0
        if timeout > script.REAP_SECONDS:
            raise KeyboardInterrupt
        return -9

    killed: list[str] = []
    monkeypatch.setattr(Hanging, "made", [])
    monkeypatch.setattr(Hanging, "killed", killed)
    monkeypatch.setattr(Hanging, "wait", interrupted)
    monkeypatch.setattr(script, "Popen", Hanging)
    monkeypatch.setattr("os.killpg", Hanging.kill_group)
    file = tmp_path / "gpu.json"
    with pytest.raises(KeyboardInterrupt):
        script.main(["--json", str(file), "--parts", "facilities", "programs"])
    parts = json.loads(file.read_text(encoding="utf-8"))["parts"]
    assert (killed, list(parts)) == (["facilities"], ["facilities"])
    assert parts["facilities"]["failures"] == ["the process was ended, as the whole was while at 'a copy'"]


@pytest.mark.parametrize(
    ("found", "right"),
    [(Found(checked=1), True), (Found(failures=["x"]), False), (Found(lacking=["y"]), False)],
)
def test_what_cupy_lacks_is_not_right(found: Found, right: bool) -> None:
    """CuPy 14.2 has all that is checked: a rule that asks for what it has not is a defect."""
    assert script.is_right(found) is right


def test_the_checks_go_on_where_nothing_reads_what_is_printed() -> None:
    def unread() -> None:
        raise BrokenPipeError

    script.tell(unread)


def test_compiled_kernels_have_a_place_where_there_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    spare = str(tmp_path / "spare")
    given = {"CUPY_CACHE_DIR": str(tmp_path / "file" / "cache"), "other": "1"}
    assert script.environment(given, spare) == {"CUPY_CACHE_DIR": spare, "other": "1"}
    given = {"CUPY_CACHE_DIR": str(tmp_path / "cache")}
    assert script.environment(given, spare) == given
