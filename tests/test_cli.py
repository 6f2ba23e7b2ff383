"""The command line: what `info` says, and how wrong calls end."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import engine
from engine import cli
from engine.base.unread import UNREAD

ROOT = Path(__file__).resolve().parents[1]


def facts(printed: str) -> dict[str, str]:
    """Parse what `info` prints."""
    return {name: value.strip() for name, _, value in (line.partition(" ") for line in printed.splitlines())}


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python in the checkout."""
    return subprocess.run(
        [sys.executable, "-W", "error", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )


def test_info_says_what_is_automatic(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info"]) == 0
    printed = facts(capsys.readouterr().out)
    assert printed["eagerloop"] == engine.__version__
    assert printed["eager"].startswith("off; engine.enable_eager_execution()")
    assert (printed["mode"], printed["policy"]) == ("SYNC (automatic)", "SILENT (automatic)")
    assert printed["devices"] == "CPU:0"
    assert printed["config.max_pending_ops"] == str(engine.Config().max_pending_ops)


def test_info_says_what_is_in_force(capsys: pytest.CaptureFixture[str]) -> None:
    config = engine.Config(device_count={"CPU": 2}, operation_timeout_in_ms=7)
    engine.enable_eager_execution(config, engine.DevicePolicy.WARN, engine.ASYNC)
    cli.main(["info"])
    printed = facts(capsys.readouterr().out)
    assert (printed["eager"], printed["mode"], printed["policy"]) == ("on", "ASYNC", "WARN")
    assert printed["devices"] == "CPU:0 CPU:1"
    assert printed["config.device_count"] == "{'CPU': 2}"
    assert printed["config.operation_timeout_in_ms"] == "7"


def test_info_makes_no_graph_and_enables_nothing() -> None:
    cli.main(["info"])
    assert not engine.executing_eagerly()
    engine.enable_eager_execution(execution_mode=engine.ASYNC)


def test_the_module_runs_and_needs_no_matplotlib() -> None:
    blocked = "import sys, runpy; sys.modules['matplotlib'] = None; sys.argv = ['engine', 'info']; "
    completed = python("-c", blocked + "runpy.run_module('engine', run_name='__main__')")
    assert (completed.returncode, completed.stderr) == (0, "")
    assert facts(completed.stdout)["eagerloop"] == engine.__version__


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert (ended.value.code, capsys.readouterr().out) == (0, f"eagerloop {engine.__version__}\n")


@pytest.mark.parametrize(
    "arguments",
    [
        *([], ["nothing"], ["demo", "--factor", "0"], ["demo", "--factor", "x"], ["demo", "--cell", "-1"]),
        *(["demo", "--cell", "x"], ["info", "more"], ["dashboard", "--port", "x", "f.py"], ["dashboard"]),
    ],
    ids=" ".join,
)
def test_a_wrong_call_ends_with_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert "usage: eagerloop" in error
    assert "value: " not in error  # a name of ours, which argparse shows where it is not told what was expected


def test_an_interrupt_is_no_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "info", interrupted)
    assert cli.main(["info"]) == 130
    assert capsys.readouterr().err == "\ninterrupted\n"


# ---------------------------------------------------------------------------------------------------------------------
# Output that nothing reads


@pytest.mark.parametrize(("command", "buffered"), [("info", False), ("--help", True)])
def test_a_command_whose_output_nothing_reads_ends_quietly(command: str, buffered: bool) -> None:
    """The reader of the pipe has gone before the first word, as `head` has before the last."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, *([] if buffered else ["-u"]), "-m", "engine", command],
            cwd=ROOT,
            env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        os.close(writing)
    assert (done.stderr, done.returncode) == ("", UNREAD)


def test_a_pipe_of_the_programs_own_that_breaks_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> int:
        raise BrokenPipeError("a connection")

    monkeypatch.setattr(cli, "info", broken)
    with pytest.raises(BrokenPipeError, match="a connection"):
        cli.main(["info"])


def test_a_process_without_an_output_is_told_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert cli.main(["info"]) == 0
