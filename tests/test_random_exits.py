"""Random exits: whatever is pending, running or waited for, a program ends in time, with its code, and without noise.

A sample of them, by a seed that is printed; `EXITS=10000 pytest tests/test_random_exits.py` plays as many as it says.
"""

import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.common import examples
from tests.exit_programs import program

ROOT = Path(__file__).resolve().parent.parent
LIMIT = 120
"""Seconds until a program counts as hung."""
LEFT = re.compile(
    r"eagerloop: at exit (1 op|\d+ ops) (never ran( and \d+ had not ended)?|had not ended)(, the oldest)?: "
    r"op '\w+' on CPU:\d, dispatched at .+; await its handle, or call engine\.wait\(\)\n"
)
NOISE = re.compile(
    r"Warning|Exception ignored|Fatal|never retrieved|never awaited|was destroyed|AttributeError|NoneType|Segmentation"
)
SAMPLE = int(os.environ.get("EXITS", str(examples(10, 4))))
FIRST = int(os.environ.get("EXITS_FROM", random.randrange(1_000_000)))


@pytest.mark.parametrize("number", range(SAMPLE))
def test_a_program_ends_in_time_with_its_code_and_without_noise(number: int, tmp_path: Path) -> None:
    seed = FIRST + number
    made = program(seed)
    path = tmp_path / "program.py"
    path.write_text(made.text)
    done = subprocess.run(
        [sys.executable, "-W", "error", str(path)],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    found = f"seed {seed}\n{made.text}\n{done.stderr}"
    assert done.returncode in made.returncodes, found
    assert not done.stdout, found
    assert not NOISE.search(done.stderr), found
    if not made.may_report:
        assert LEFT.fullmatch(done.stderr) or not done.stderr, found
