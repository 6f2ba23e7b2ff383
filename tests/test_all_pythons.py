"""Which tests are run on the other versions of Python, and what of that fails a check."""

import importlib.util
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests import all_pythons
from tests.all_pythons import (
    FAILED,
    INTERRUPTED,
    SHARE,
    Outcome,
    interpreter,
    requirements,
    run,
    runs_in_a_quarter,
    selection,
)

OWN = f"{sys.version_info[0]}.{sys.version_info[1]}"
LATER = 60.0


def test_four_quarters_are_all_files_that_need_no_more_than_is_installed() -> None:
    quarters = [selection(True, day) for day in range(SHARE)]
    files = [all_pythons.ROOT / name for quarter in quarters for name in quarter]
    assert len(files) == len(set(files)) > 50
    assert set(files) == set(filter(runs_in_a_quarter, (all_pythons.ROOT / "tests").rglob("test_*.py")))
    assert {path.relative_to(all_pythons.ROOT).parts[1] for path in files} == set(all_pythons.FOLDERS)
    assert selection(True, SHARE) == quarters[0]


@pytest.mark.parametrize(
    "name",
    ["tests/cluster/test_workers.py", "tests/observe/test_page.py", "tests/ops/test_array_api_namespace.py"],
)
def test_a_file_that_needs_more_is_left_out(name: str) -> None:
    assert name in selection(False, 0)
    assert not runs_in_a_quarter(all_pythons.ROOT / name)


def test_what_is_installed_is_what_the_tests_ask_for() -> None:
    _, itself, *tools = requirements(True)
    assert itself.endswith("[native,uvloop]")
    assert sorted(tool.partition(">")[0] for tool in tools) == sorted(all_pythons.TOOLS)


def test_a_program_that_is_no_interpreter_is_passed_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "python"
    broken.write_text("no program")
    monkeypatch.setattr(
        all_pythons, "candidates", lambda _: iter([str(tmp_path / "absent"), str(broken), sys.executable])
    )
    assert interpreter(OWN) == sys.executable
    assert interpreter("2.7") is None


def test_past_the_deadline_a_command_is_ended() -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        run([sys.executable, "-c", "import time; time.sleep(1000)"], time.monotonic())


@pytest.mark.parametrize(
    ("statuses", "quarter", "failed"),
    [
        ([0], True, False),
        ([FAILED, 0], True, False),
        ([FAILED, FAILED], True, True),
        ([FAILED, INTERRUPTED], True, True),
        ([INTERRUPTED], True, True),
        ([4], True, False),  # of pytest's own: it could not begin
        ([-9], True, False),
        ([0], False, False),
        ([FAILED], False, True),
        ([4], False, True),
        ([None], True, False),  # past the deadline
        ([FAILED, None], True, False),
    ],
)
def test_what_pytest_says(
    statuses: list[int | None], quarter: bool, failed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = iter(statuses)

    def fake_run(command: Sequence[str], deadline: float, check: bool = False) -> int:
        status = next(said)
        if status is None:
            raise subprocess.TimeoutExpired(command, 0)
        return status

    monkeypatch.setattr(all_pythons, "run", fake_run)
    monkeypatch.setattr(all_pythons, "environment", lambda *_: Path(sys.executable))
    outcome = all_pythons.tested(OWN, sys.executable, [], quarter, LATER)
    assert outcome.failed is failed
    assert list(said) == []


@pytest.mark.parametrize(
    "error", [OSError("no space"), subprocess.CalledProcessError(1, ["pip"]), subprocess.TimeoutExpired("pip", 1)]
)
def test_an_environment_that_cannot_be_made_is_named(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> Path:
        raise error

    monkeypatch.setattr(all_pythons, "environment", refuse)
    outcome = all_pythons.tested(OWN, sys.executable, [], True, LATER)
    assert "not tested" in outcome.what
    assert not outcome.failed


@pytest.mark.parametrize(
    ("there", "status", "installers"),
    [(True, 0, ["uv"]), (True, 2, ["uv", "pip"]), (False, 0, ["pip"])],
    ids=["uv", "uv finds not all", "no uv"],
)
def test_pip_installs_what_uv_cannot(
    there: bool, status: int, installers: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Sequence[str]] = []

    def note(command: Sequence[str], deadline: float, check: bool = False) -> int:
        given.append(command)
        return status

    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object() if there else None)
    monkeypatch.setattr(all_pythons, "run", note)
    all_pythons.install(Path("python"), ["numpy"], LATER)
    assert [command[command.index("-m") + 1] for command in given] == installers
    assert all("python" in command and command[-1] == "numpy" for command in given)


def test_a_version_that_is_not_found_is_named_and_takes_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, float] = {}

    def note(version: str, program: str, arguments: Sequence[str], quarter: bool, deadline: float) -> Outcome:
        given[version] = deadline - time.monotonic()
        return Outcome(version, "passed")

    monkeypatch.setattr(all_pythons, "interpreter", lambda version: None if version == "3.98" else sys.executable)
    monkeypatch.setattr(all_pythons, "tested", note)
    outcomes = all_pythons.all_tested(["3.97", "3.98", "3.99"], [], True, time.monotonic() + 600_000)
    assert [outcome.what for outcome in outcomes] == ["passed", "not found on this machine: not tested", "passed"]
    assert not any(outcome.failed for outcome in outcomes)
    assert given["3.97"] < 400_000 < given["3.99"]
