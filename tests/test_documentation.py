"""The code that readers are shown runs: each program of the README and docs, and each notebook."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from tests.markdown_programs import Program, programs

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PROGRAMS = [(page, index, str(program)) for page in PAGES for index, program in enumerate(programs(page))]
NOTEBOOKS = sorted((ROOT / "docs").glob("*.ipynb"))
TIMEOUT_SECONDS = 120


def run_program(
    page: Path, index: int, folder: Path, seconds: float = TIMEOUT_SECONDS
) -> subprocess.CompletedProcess[str]:
    """Run one program of a page in its own interpreter, in `folder`, with warnings as errors.

    One that does not end is told to abort, upon which it prints the stacks of all its threads.
    """
    # -P: what lies beside the runner is not what a reader can import.
    options = ["-P", "-W", "error", "-X", "faulthandler"]
    command = [sys.executable, *options, str(ROOT / "tests" / "markdown_programs.py"), str(page), str(index)]
    with subprocess.Popen(
        command,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "MPLBACKEND": "agg"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            output, errors = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGABRT)
            output, errors = process.communicate()
    return subprocess.CompletedProcess(command, process.returncode, output, errors)


def run_notebook(notebook: nbformat.NotebookNode, folder: Path) -> None:
    """Execute every cell in a real kernel, whatever its tags say, and raise what the first failing one raised."""
    client = NotebookClient(
        notebook,
        timeout=TIMEOUT_SECONDS,
        kernel_name="python3",
        force_raise_errors=True,
        skip_cells_with_tag="",
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output.output_type == "error"]


@pytest.fixture
def kernel_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let kernels see this checkout, and none of the user's own settings."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))


@pytest.mark.parametrize(("page", "index"), [row[:2] for row in PROGRAMS], ids=[row[2] for row in PROGRAMS])
def test_a_documented_program_runs(page: Path, index: int, tmp_path: Path) -> None:
    completed = run_program(page, index, tmp_path)
    assert completed.returncode == 0, completed.stderr


@pytest.mark.usefixtures("kernel_environment")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_runs_without_errors(path: Path, tmp_path: Path) -> None:
    run_notebook(nbformat.read(path, as_version=4), tmp_path)


PAGE = """\
# A page

```python
import asyncio
x = 1
```

```console
$ python
```

- indented

  ```python
  await asyncio.sleep(0)
  print("first", x)
  ```

```python no-run
syntax error
```

````markdown
```python
raise RuntimeError("only shown")
```
````

```python fresh
import asyncio
assert "x" not in globals()
asyncio.run(asyncio.sleep(0))
def fail():
    raise LookupError("second")
fail()
```
"""


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """A page with two programs, the second of which fails in line 34."""
    path = tmp_path / "page.md"
    path.write_text(PAGE, encoding="utf-8")
    return path


def test_blocks_are_one_program_until_a_fresh_one(page: Path) -> None:
    assert [str(program) for program in programs(page)] == ["page.md:4", "page.md:30"]


def test_blocks_share_names_and_may_await(page: Path, tmp_path: Path) -> None:
    completed = run_program(page, 0, tmp_path)
    assert (completed.returncode, completed.stdout) == (0, "first 1\n"), completed.stderr


def test_a_program_that_does_not_end_shows_where_it_stands(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "```python\nimport threading\ndef stand():\n    threading.Event().wait()\nstand()\n```\n", encoding="utf-8"
    )
    completed = run_program(page, 0, tmp_path, seconds=2)
    assert completed.returncode == -signal.SIGABRT
    assert f'File "{page}", line 4 in stand' in completed.stderr


def test_a_failing_block_is_traced_to_its_line_of_the_page(page: Path, tmp_path: Path) -> None:
    completed = run_program(page, 1, tmp_path)
    assert completed.returncode == 1
    assert f'File "{page}", line 34, in fail' in completed.stderr
    assert 'raise LookupError("second")' in completed.stderr


@pytest.mark.parametrize("text", ["```python norun\n```\n", "```py\n```\n", "```python\nx = 1\n"])
def test_a_fence_that_would_hide_code_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"page\.md:1: "):
        programs(path)


@pytest.mark.usefixtures("kernel_environment")
def test_a_failing_cell_fails_its_notebook(tmp_path: Path) -> None:
    cells = ["import asyncio\nimport engine\nawait asyncio.sleep(0)", "raise LookupError('seen')"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
    notebook.cells[1].metadata.tags = ["raises-exception", "skip-execution"]
    with pytest.raises(CellExecutionError, match="seen"):
        run_notebook(notebook, tmp_path)


def test_a_program_is_named_by_its_first_line_of_code() -> None:
    assert str(Program(Path("docs/page.md"), {7: "", 8: "x"})) == "page.md:7"
