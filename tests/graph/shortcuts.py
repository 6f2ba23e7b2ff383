"""Which calls of functions are recognized by their arguments, for the tests of that."""

from typing import Any

import pytest

from engine.graph.shortcut import Shortcut


def noted(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Note for each call that a shortcut is asked for, until the end of the test, whether it takes it."""
    answers: list[bool] = []
    dispatch = Shortcut.dispatch

    def noting(self: Shortcut, args: Any) -> Any:
        result = dispatch(self, args)
        answers.append(result is not None)
        return result

    monkeypatch.setattr(Shortcut, "dispatch", noting)
    return answers
