"""Run the tests on every supported Python that is found on this machine; name those that are not.

`python tests/all_pythons.py` runs all of them, each in an environment of its own below build/pythons; what stands after
`--` goes to pytest. `--others --quarter --minutes 8` is what continuous integration runs: every interpreter but this
one, a quarter of the files, another one each day, for so long at most. Ends with status 1 where tests failed, and not
because a version is missing.
"""

import argparse
import datetime
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VERSIONS = ("3.11", "3.12", "3.13", "3.14")
SHARE = 4
"""A selection is the files whose place, counted from the day's, this divides."""
PROBE = "import ensurepip, sys, venv; print('%d.%d' % sys.version_info[:2], sys.version.find('free-threading') >= 0)"


@dataclass(frozen=True)
class Outcome:
    """How the tests ended on one version."""

    version: str
    what: str
    failed: bool = False


def candidates(version: str) -> Iterator[str]:
    """Yield the programs that may be an interpreter of this version, the likeliest first."""
    yield sys.executable
    yield from filter(None, (shutil.which(f"python{version}"), shutil.which("python3"), shutil.which("python")))
    pyenv = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")) / "versions"
    uv = Path(os.environ.get("UV_PYTHON_INSTALL_DIR", "~/.local/share/uv/python"))
    for folder in (pyenv, uv):
        yield from map(str, sorted(folder.expanduser().glob(f"*{version}*/bin/python{version}"), reverse=True))


def interpreter(version: str) -> str | None:
    """Find an ordinary interpreter of this version that can make an environment."""
    for program in candidates(version):
        probe = subprocess.run([program, "-c", PROBE], capture_output=True, text=True, check=False)
        if probe.returncode == 0 and probe.stdout.split() == [version, "False"]:
            return program
    return None


def environment(version: str, program: str, deadline: float) -> Path:
    """Make the environment of one version, unless it is there and as new as what it is made from.

    Raises `CalledProcessError`, or `TimeoutExpired` past the deadline.
    """
    folder = ROOT / "build" / "pythons" / version
    stamp = folder / ".made"
    if not stamp.exists() or stamp.stat().st_mtime < (ROOT / "pyproject.toml").stat().st_mtime:
        subprocess.run([program, "-m", "venv", "--clear", str(folder)], check=True)
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        seconds = max(1.0, deadline - time.monotonic())
        subprocess.run([*pip, "--editable", f"{ROOT}[test]"], check=True, timeout=seconds)
        stamp.touch()
    return folder / "bin" / "python"


def selection(quarter: bool, day: int) -> list[str]:
    """Return the test files that are run: all, or every fourth, beginning with another one each day."""
    files = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob("test_*.py"))
    return files[day % SHARE :: SHARE] if quarter else files


def tested(version: str, arguments: Sequence[str], deadline: float) -> Outcome:
    """Run the tests on one version."""
    program = interpreter(version)
    if program is None:
        return Outcome(version, "not found on this machine: not tested")
    if time.monotonic() > deadline:
        return Outcome(version, "not tested: no time was left")
    try:
        python = environment(version, program, deadline)
    except subprocess.TimeoutExpired:
        return Outcome(version, "not tested: time was over before its environment was made")
    except subprocess.CalledProcessError as error:
        return Outcome(version, f"its environment could not be made (status {error.returncode})", failed=True)
    print(f"--- Python {version}: {program}", flush=True)
    try:
        status = subprocess.run(
            [str(python), "-m", "pytest", "-q", "--exitfirst", "--numprocesses=auto", "--dist=loadfile", *arguments],
            cwd=ROOT,
            check=False,
            timeout=max(1.0, deadline - time.monotonic()),
        ).returncode
    except subprocess.TimeoutExpired:
        return Outcome(version, "stopped: its time was over, and nothing had failed until then")
    return Outcome(version, "passed" if status == 0 else f"FAILED (status {status})", failed=status != 0)


def main() -> int:
    """Run what the command line asks for, and print a line for each version."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--others", action="store_true", help="leave out the version of this interpreter")
    parser.add_argument("--quarter", action="store_true", help="a quarter of the files, another one each day")
    parser.add_argument("--minutes", type=float, default=24 * 60.0, help="for all versions together; default: a day")
    parser.add_argument("pytest", nargs="*", help="what pytest is given instead of the files; after `--`")
    options = parser.parse_args()
    own = f"{sys.version_info[0]}.{sys.version_info[1]}"
    versions = [version for version in VERSIONS if not (options.others and version == own)]
    day = datetime.datetime.now(tz=datetime.UTC).toordinal()
    arguments = options.pytest or selection(options.quarter, day)
    if options.quarter:
        print(f"quarter {day % SHARE + 1} of {SHARE} of the test files")
    else:
        os.environ.setdefault("SWEEP", "all")  # slow sweeps are not sampled
    deadline = time.monotonic() + 60 * options.minutes
    outcomes = [tested(version, arguments, deadline) for version in versions]
    for outcome in outcomes:
        print(f"Python {outcome.version}: {outcome.what}")
    return 1 if any(outcome.failed for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
