"""Run the tests on every supported Python that is found on this machine; name those that are not.

`python tests/all_pythons.py` runs all of them, each in an environment of its own below build/pythons; what stands after
`--` goes to pytest. `--others --quarter --minutes 5` is what continuous integration runs: every interpreter but this
one, a quarter of the files that need no more than NumPy and the tools of the tests, another quarter each day, for so
long at most, an equal share for each version. Ends with status 1 where tests failed, in a quarter where they failed
twice; a version that is missing, an environment that cannot be made, and time that is over are named and fail nothing.
"""

import argparse
import ast
import datetime
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VERSIONS = ("3.11", "3.12", "3.13", "3.14")
SHARE = 4
"""A selection is the files whose place, counted from the day's, this divides."""
FOLDERS = (
    *("base", "custom", "dispatch", "fusion", "graph", "handles", "memory"),
    *("ops", "parallel", "queues", "runtime", "settings", "threads"),
)
"""Where the tests of a quarter come from: what depends on the interpreter, and needs no service, browser or page."""
TOOLS = ("hypothesis", "pytest", "pytest-asyncio", "pytest-xdist")
"""What the environment of a quarter has beside `eagerloop[native,uvloop]`, of what `eagerloop[test]` asks for."""
PARALLEL = ("--numprocesses=auto", "--dist=loadfile", "--max-worker-restart=1")
"""How pytest shares the files out among processes; one that has crashed or hung is replaced once."""
OURS = frozenset({"engine", "handles", "tests"})
INSTALLED = frozenset({"anyio", "hypothesis", "llvmlite", "numpy", "pytest", "threadpoolctl", "uvloop"})
"""The packages that tests of a quarter may import."""
PROBE = "import ensurepip, sys, venv; print('%d.%d' % sys.version_info[:2], sys.version.find('free-threading') >= 0)"
FAILED, INTERRUPTED = 1, 2
"""The status of pytest where tests failed, and where files could not be read; others say that it could not begin."""


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
    yield from installed(f"*{version}*/bin/python{version}")


def installed(pattern: str) -> list[str]:
    """Return the programs that pyenv and uv have in folders of their own, the newest of each first."""
    pyenv = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")) / "versions"
    uv = Path(os.environ.get("UV_PYTHON_INSTALL_DIR", "~/.local/share/uv/python"))
    return [str(path) for folder in (pyenv, uv) for path in sorted(folder.expanduser().glob(pattern), reverse=True)]


def free_threaded() -> list[str]:
    """Return the free-threaded interpreters that are found: on the path, of pyenv and of uv, at most one a version."""
    found: dict[str, str] = {}
    on_path = (shutil.which(f"python{version}t") for version in VERSIONS)
    for program in (*filter(None, on_path), *installed("*/bin/python3.*[0-9]t")):
        probe = probed(program)
        if probe[1:] == ["True"]:
            found.setdefault(probe[0], program)
    return list(found.values())


def probed(program: str) -> list[str]:
    """Return the version of an interpreter and whether it is free-threaded, as text; nothing where it is none."""
    try:
        probe = subprocess.run([program, "-c", PROBE], capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return probe.stdout.split() if probe.returncode == 0 else []


def interpreter(version: str) -> str | None:
    """Find an ordinary interpreter of this version that can make an environment."""
    return next((program for program in candidates(version) if probed(program) == [version, "False"]), None)


def requirements(quarter: bool) -> list[str]:
    """Return what pip installs in an environment."""
    if not quarter:
        return ["--editable", f"{ROOT}[test]"]
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["test"]
    tools = [line for line in declared if re.split(r"[^\w.-]", line, maxsplit=1)[0] in TOOLS]
    return ["--editable", f"{ROOT}[native,uvloop]", *tools]


def environment(version: str, program: str, quarter: bool, deadline: float) -> Path:
    """Make the environment of one version, unless it is there and as new as what it is made from.

    Raises `OSError`, `CalledProcessError`, or `TimeoutExpired` past the deadline.
    """
    folder = ROOT / "build" / "pythons" / (f"{version}-quarter" if quarter else version)
    python = folder / "bin" / "python"
    stamp = folder / ".made"
    if not stamp.exists() or stamp.stat().st_mtime < (ROOT / "pyproject.toml").stat().st_mtime:
        run([program, "-m", "venv", "--clear", str(folder)], deadline, check=True)
        install(python, requirements(quarter), deadline)
        stamp.touch()
    return python


def install(python: Path, wanted: Sequence[str], deadline: float) -> None:
    """Install with uv, which takes seconds, where it is there and finds all; else with pip."""
    if importlib.util.find_spec("uv") is not None:
        uv = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", str(python)]
        if run([*uv, *wanted], deadline) == 0:
            return
    pip = [str(python), "-m", "pip", "install", "-qq", "--disable-pip-version-check", "--no-input"]
    run([*pip, *wanted], deadline, check=True)


def run(command: Sequence[str], deadline: float, check: bool = False) -> int:
    """Run a command until the deadline; past that, end it with all that it has started, and raise `TimeoutExpired`."""
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
    try:
        status = process.wait(max(0.05, deadline - time.monotonic()))
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    if check and status != 0:
        raise subprocess.CalledProcessError(status, command)
    return status


@cache
def imported(path: Path) -> frozenset[str]:
    """Name the packages that a test file imports anywhere, itself or by other modules of the tests."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names if node.module.startswith("tests"))
    modules = [ROOT.joinpath(*name.split(".")).with_suffix(".py") for name in names if name.startswith("tests.")]
    further = frozenset[str]().union(*(imported(module) for module in modules if module.exists() and module != path))
    return frozenset(name.partition(".")[0] for name in names) | further


def runs_in_a_quarter(path: Path) -> bool:
    """Tell whether a test file is of the folders of a quarter, and imports nothing that is not installed for it."""
    if path.relative_to(ROOT).parts[1] not in FOLDERS:
        return False
    return imported(path) <= sys.stdlib_module_names | OURS | INSTALLED


def selection(quarter: bool, day: int) -> list[str]:
    """Return the test files that are run: all, or every fourth of a quarter's, beginning with another one each day."""
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    if quarter:
        files = list(filter(runs_in_a_quarter, files))[day % SHARE :: SHARE]
    return [str(path.relative_to(ROOT)) for path in files]


def tested(version: str, program: str, arguments: Sequence[str], quarter: bool, deadline: float) -> Outcome:
    """Run the tests on one version."""
    print(f"--- Python {version}: {program}", flush=True)
    try:
        python = environment(version, program, quarter, deadline)
    except subprocess.TimeoutExpired:
        return Outcome(version, "not tested: time was over before its environment was made")
    except (OSError, subprocess.CalledProcessError) as error:
        return Outcome(version, f"not tested: its environment could not be made ({error})", failed=not quarter)
    pytest = [str(python), "-m", "pytest", "-q", "-o", f"cache_dir={python.parents[1] / 'cache'}"]
    try:
        status = run([*pytest, *PARALLEL, "--exitfirst", *arguments], deadline)
        if status == FAILED and quarter:
            print(f"--- Python {version}: what failed, once more", flush=True)
            status = run([*pytest, "--numprocesses=1", "--last-failed", *arguments], deadline)
            if status == 0:
                return Outcome(version, "stopped: a test failed that passes when it is run again")
    except subprocess.TimeoutExpired:
        return Outcome(version, "stopped: its time was over, and nothing had failed twice until then")
    if quarter and status not in (0, FAILED, INTERRUPTED):
        return Outcome(version, f"not tested: pytest could not run them (status {status})")
    return Outcome(version, "passed" if status == 0 else f"FAILED (status {status})", failed=status != 0)


def all_tested(versions: Sequence[str], arguments: Sequence[str], quarter: bool, deadline: float) -> list[Outcome]:
    """Run the tests on each version that is found; those that are left share the time that is left."""
    programs = {version: interpreter(version) for version in versions}
    left = sum(program is not None for program in programs.values())
    outcomes = []
    for version, program in programs.items():
        if program is None:
            outcomes.append(Outcome(version, "not found on this machine: not tested"))
            continue
        now = time.monotonic()
        outcomes.append(tested(version, program, arguments, quarter, now + max(0.0, deadline - now) / left))
        left -= 1
    return outcomes


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
        print(f"quarter {day % SHARE + 1} of {SHARE} of the test files: {len(arguments)} of them", flush=True)
        os.environ.setdefault("SWEEP_SEED", str(day))  # the same sample where what failed is run once more
    else:
        os.environ.setdefault("SWEEP", "all")  # slow sweeps are not sampled
    outcomes = all_tested(versions, arguments, options.quarter, time.monotonic() + 60 * options.minutes)
    for outcome in outcomes:
        print(f"Python {outcome.version}: {outcome.what}")
    return 1 if any(outcome.failed for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
