"""Journals: what a part of the check has found, written line by line as it is found.

A process that hangs, is killed or loses the GPU leaves what it had found until then, and the name of what it was at.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO


@dataclass
class Report:
    """The outcome of some checks."""

    checked: int = 0
    failures: list[str] = field(default_factory=list)
    lacking: list[str] = field(default_factory=list)
    """Cases that CuPy has no function for, as the error says."""
    seconds: float = 0.0

    def was_begun(self) -> bool:
        """Tell whether an earlier process began the check that comes next, which is left out then."""
        return False

    def begin(self, name: str) -> None:
        """A check begins."""

    def add(self, name: str, problem: str | None) -> None:
        """A check was made; None says that it was passed."""
        self.checked += 1
        if problem is not None:
            self.failures.append(f"{name}: {problem}")

    def lack(self, name: str) -> None:
        """A case has no function, and the error said so."""
        self.checked += 1
        self.lacking.append(name)


class Journal(Report):
    """A report that is written to a file as it grows. It goes on after `skip` checks of an earlier process.

    `begins` is called before each check, once its name is written.
    """

    def __init__(self, file: TextIO, skip: int = 0, begins: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self._file = file
        self._skip = skip
        self._begins = begins

    def was_begun(self) -> bool:
        """Count the checks that an earlier process began: it died of the last one."""
        self._skip -= 1
        return self._skip >= 0

    def begin(self, name: str) -> None:
        """Write the name of a check before it is made."""
        self._write({"begun": name})
        self._begins()

    def add(self, name: str, problem: str | None) -> None:
        """Write an outcome."""
        super().add(name, problem)
        self._write({"checked": name, "problem": problem})

    def lack(self, name: str) -> None:
        """Write what is lacking."""
        super().lack(name)
        self._write({"lacking": name})

    def note(self, name: str, value: Any) -> None:
        """Write a figure or a fact."""
        self._write({"noted": name, "value": value})

    def _write(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line, default=str) + "\n")
        self._file.flush()


@dataclass
class Found(Report):
    """The outcome of a part, read from its journal."""

    notes: dict[str, Any] = field(default_factory=dict)
    begun: list[str] = field(default_factory=list)
    """Names of the checks that were begun, in order."""
    at: str | None = None
    """The check that it was at when its process ended; None if it was at none."""
    log: str = ""
    """The end of what its process printed."""

    def merge(self, lines: Iterable[str]) -> None:
        """Add what a journal says."""
        for text in lines:
            try:
                line = json.loads(text)
            except ValueError:  # the process was killed while it wrote
                continue
            if "begun" in line:
                self.at = line["begun"]
                self.begun.append(line["begun"])
            elif "noted" in line:
                self.notes[line["noted"]] = line["value"]
            elif "lacking" in line:
                self.lack(line["lacking"])
                self.at = None
            else:
                self.add(line["checked"], line["problem"])
                self.at = None


def read(path: Path) -> list[str]:
    """The lines of a journal, of which there may be none yet."""
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []
