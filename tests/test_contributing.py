"""The page for contributors, followed word by word: its edits are made on a copy of the repository, its commands run.

A sentence that ends with a colon says where the block below it goes: "In `file`, after the line that begins with
`text`:", the same with "in place of", or "A new file `file`:". Blocks of commands are run at the root of the copy.
"""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "contributing.md"
COPIED = ("docs", "engine", "handles", "tests", "pyproject.toml")
TIMEOUT_SECONDS = 300

_BLOCK = re.compile(r"(?P<before>[^`]*(?:`[^`\n]+`[^`]*)*)^```(?P<words>[^\n]*)\n(?P<text>.*?)^```\n", re.M | re.S)
_CHANGE = re.compile(r"In `([^`]+)`, (after|in place of) the line that begins with `([^`]+)`:\s*\Z")
_NEW = re.compile(r"A new file\s+`([^`]+)`:\s*\Z")


@dataclass(frozen=True)
class Edit:
    """A block that goes into a file: after, or in place of, the line that begins with `line`, or as the whole file."""

    path: str
    line: str | None
    text: str
    replaces: bool = False

    def apply(self, root: Path) -> None:
        path = root / self.path
        if self.line is None:
            assert not path.exists(), f"{self.path} is not new"
            path.write_text(self.text, encoding="utf-8")
            return
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        found = [number for number, line in enumerate(lines) if line.startswith(self.line)]
        assert len(found) == 1, f"{len(found)} lines of {self.path} begin with {self.line!r}"
        lines[found[0] : found[0] + 1] = [self.text] if self.replaces else [lines[found[0]], self.text]
        path.write_text("".join(lines), encoding="utf-8")


@dataclass(frozen=True)
class Commands:
    """A block of commands, one a line, after a prompt."""

    text: str

    def run(self, root: Path) -> None:
        bin_path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        for line in self.text.splitlines():
            completed = subprocess.run(
                line.removeprefix("$ ").split(),
                cwd=root,
                env=os.environ | {"PYTHONPATH": str(root), "PATH": bin_path},
                capture_output=True,
                text=True,
                timeout=TIMEOUT_SECONDS,
                check=False,
            )
            assert completed.returncode == 0, f"{line}\n{completed.stdout}\n{completed.stderr}"


def steps(text: str) -> list[Edit | Commands]:
    """What a text tells to do, in order. Raises `ValueError` for a block of which it does not say where it goes."""
    found: list[Edit | Commands] = []
    for block in _BLOCK.finditer(text):
        before = " ".join(block["before"].split("\n"))
        if block["words"] == "console":
            found.append(Commands(block["text"]))
        elif match := _CHANGE.search(before):
            found.append(Edit(match[1], match[3], block["text"], replaces=match[2] != "after"))
        elif match := _NEW.search(before):
            found.append(Edit(match[1], None, block["text"]))
        else:
            raise ValueError(f"the page does not say where this block goes: {block['text']!r}")
    return found


def sections(page: str) -> dict[str, str]:
    """The text of each section by its heading."""
    parts = re.split(r"^## (.*)\n", page, flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


SECTIONS = sections(PAGE.read_text(encoding="utf-8"))


@pytest.mark.parametrize("heading", SECTIONS)
def test_a_section_can_be_followed_word_by_word(heading: str, tmp_path: Path) -> None:
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, tmp_path)
    todo = steps(SECTIONS[heading])
    assert any(isinstance(step, Commands) for step in todo), "nothing would be tried"
    for step in todo:
        if isinstance(step, Edit):
            step.apply(tmp_path)
        else:
            step.run(tmp_path)


def test_steps_are_read_in_order() -> None:
    text = "In `a b.py`, after the line that\nbegins with `x = `:\n\n```python no-run\ny = 1\n```\n\nThen:\n"
    text += "```console\n$ true\n```\nA new file\n`c.py`:\n\n```python\nz = 1\n```\n"
    assert steps(text) == [Edit("a b.py", "x = ", "y = 1\n"), Commands("$ true\n"), Edit("c.py", None, "z = 1\n")]
    with pytest.raises(ValueError, match="where this block goes"):
        steps("Somewhere:\n\n```python\nx\n```\n")


def test_an_edit_whose_place_is_not_there_fails(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1\n", encoding="utf-8")
    Edit("a.py", "x", "y = 2\n").apply(tmp_path)
    assert (tmp_path / "a.py").read_text(encoding="utf-8") == "x = 1\ny = 2\n"
    Edit("a.py", "x", "x = 3\n", replaces=True).apply(tmp_path)
    assert (tmp_path / "a.py").read_text(encoding="utf-8") == "x = 3\ny = 2\n"
    with pytest.raises(AssertionError, match="0 lines of a"):
        Edit("a.py", "z", "").apply(tmp_path)
    with pytest.raises(AssertionError, match="is not new"):
        Edit("a.py", None, "").apply(tmp_path)


def test_a_command_that_fails_is_shown(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="no such test"):
        Commands(f"$ {sys.executable} -c raise(SystemExit('no_such_test'.replace('_',chr(32))))\n").run(tmp_path)
