"""Build the wheel, install it in an empty environment and use it from another folder, as a user would.

A script rather than a test: what it checks must not be able to see the checkout, and it installs the dependencies anew.
"""

import os
import subprocess
import sys
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


def build(folder: Path) -> Path:
    """Build the wheel into `folder`."""
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT, cwd=ROOT)
    (wheel,) = folder.glob("*.whl")
    return wheel


def check_contents(wheel: Path) -> None:
    """Both packages, typed, with the license, and nothing else."""
    names = set(zipfile.ZipFile(wheel).namelist())
    top_level = {name.split("/")[0] for name in names}
    metadata = {name for name in top_level if name.endswith(".dist-info")}
    assert top_level - metadata == PACKAGES, f"the wheel holds {sorted(top_level)}"
    wanted = {f"{package}/py.typed" for package in PACKAGES} | {f"{name}/licenses/LICENSE" for name in metadata}
    assert wanted <= names, f"the wheel lacks {sorted(wanted - names)}"


def check_use(wheel: Path, folder: Path) -> None:
    """Install the wheel in an empty environment and run a program, the module and the command with it."""
    venv.create(folder / "venv", with_pip=True)
    scripts = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    run(scripts / "python", "-m", "pip", "install", "--quiet", wheel, cwd=elsewhere)
    run(scripts / "python", "-m", "pip", "check", cwd=elsewhere)
    run(scripts / "python", "-W", "error", "-c", PROGRAM, cwd=elsewhere)
    run(scripts / "python", "-m", "engine", "info", cwd=elsewhere)
    run(scripts / "eagerloop", "info", cwd=elsewhere)


def main() -> None:
    """Check the wheel."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wheel = build(folder / "dist")
        check_contents(wheel)
        check_use(wheel, folder)
    print(f"{wheel.name}: built, installed elsewhere and used")


if __name__ == "__main__":
    main()
