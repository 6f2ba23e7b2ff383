"""Build both distributions, install the wheel in an empty environment and use it elsewhere, as a user would.

A script rather than a test: what it checks must not be able to see the checkout, and it installs the dependencies anew.
"""

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {"engine", "handles"}

PROGRAM = """
import asyncio

import engine
from engine import ops

engine.enable_eager_execution(execution_mode=engine.ASYNC)


async def main():
    return await ops.add([1, 2], 3)


assert asyncio.run(main()).tolist() == [4, 5]
"""


def run(*command: str | Path, cwd: Path) -> None:
    """Run a command that must succeed, hidden from this interpreter's settings."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    subprocess.run([str(part) for part in command], cwd=cwd, env=environment, check=True)


def build(folder: Path) -> tuple[Path, Path]:
    """Build the source distribution, and the wheel from that, into `folder`."""
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT, cwd=ROOT)
    (wheel,), (source,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, source


def check_metadata(wheel: Path, source: Path) -> None:
    """What an index would say of both, and what is wrong inside the wheel."""
    run(sys.executable, "-m", "twine", "--no-color", "check", "--strict", wheel, source, cwd=ROOT)
    run(sys.executable, "-m", "check_wheel_contents", wheel, cwd=ROOT)


def check_source(source: Path) -> None:
    """All that is needed to test and to document it."""
    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {"README.md", "CHANGELOG.md", "LICENSE", "Makefile", "pyproject.toml", "docs/conf.py", "tests/conftest.py"}
    assert wanted <= names, f"the source distribution lacks {sorted(wanted - names)}"


def check_contents(wheel: Path) -> None:
    """Both packages, typed, with the license, and nothing else."""
    names = set(zipfile.ZipFile(wheel).namelist())
    top_level = {name.split("/")[0] for name in names}
    metadata = {name for name in top_level if name.endswith(".dist-info")}
    assert top_level - metadata == PACKAGES, f"the wheel holds {sorted(top_level)}"
    wanted = {f"{package}/py.typed" for package in PACKAGES} | {f"{name}/licenses/LICENSE" for name in metadata}
    assert wanted <= names, f"the wheel lacks {sorted(wanted - names)}"


def install(wheel: Path, folder: Path) -> Path:
    """Install the wheel in an empty environment; return the folder of its programs."""
    venv.create(folder / "venv", with_pip=True)
    scripts = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
    run(scripts / "python", "-m", "pip", "install", "--quiet", wheel, cwd=folder)
    run(scripts / "python", "-m", "pip", "check", cwd=folder)
    return scripts


def check_use(scripts: Path, elsewhere: Path) -> None:
    """Run a program, the module and the command."""
    run(scripts / "python", "-W", "error", "-c", PROGRAM, cwd=elsewhere)
    run(scripts / "python", "-m", "engine", "info", cwd=elsewhere)
    run(scripts / "eagerloop", "info", cwd=elsewhere)


def check_types(scripts: Path, elsewhere: Path) -> None:
    """Run a typed program of a user, and pass it through both type checkers in their strict modes."""
    program = shutil.copy(ROOT / "tests" / "typed_program.py", elsewhere)
    (elsewhere / "pyrightconfig.json").write_text('{"typeCheckingMode": "strict"}', encoding="utf-8")
    python = scripts / "python"
    run(python, "-W", "error", program, cwd=elsewhere)
    run(sys.executable, "-m", "mypy", "--strict", "--python-executable", python, program, cwd=elsewhere)
    run(sys.executable, "-m", "basedpyright", "--pythonpath", python, program, cwd=elsewhere)


def main() -> None:
    """Check both distributions."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wheel, source = build(folder / "dist")
        check_metadata(wheel, source)
        check_contents(wheel)
        check_source(source)
        elsewhere = folder / "elsewhere"
        elsewhere.mkdir()
        scripts = install(wheel, folder)
        check_use(scripts, elsewhere)
        check_types(scripts, elsewhere)
    print(f"{wheel.name}: built, installed elsewhere, used and typed")


if __name__ == "__main__":
    main()
