"""What is deprecated says so on the line of the program that uses it, and works on."""

import inspect
import warnings

import pytest

from engine.base.deprecation import EagerloopDeprecationWarning, deprecated, warn_deprecated


@deprecated(since="0.3", removed_in="0.5", instead="new")
def old(x: int, *, y: int = 1) -> int:
    """Add two numbers."""
    return x + y


@deprecated(since="0.3", removed_in="0.5", instead="new")
async def old_coroutine() -> str:
    return "done"


def renamed(*, size: int | None = None, length: int | None = None) -> int | None:
    """Take an argument by its old name as well."""
    if length is not None:
        warn_deprecated("the argument `length`", since="0.3", removed_in="0.5", instead="`size`")
        return length
    return size


def line() -> int:
    """The number of the line that called this function."""
    frame = inspect.currentframe()
    assert frame is not None
    assert frame.f_back is not None
    return frame.f_back.f_lineno


def test_a_deprecated_function_works_and_names_the_callers_line() -> None:
    with pytest.warns(EagerloopDeprecationWarning, match=r"old\(\) is deprecated since eagerloop 0\.3") as caught:
        assert (old(1, y=2), line()) == (3, caught[0].lineno)
    assert caught[0].filename == __file__
    assert str(caught[0].message).endswith("and goes in 0.5: use new")


async def test_a_deprecated_coroutine_function_warns_at_the_call() -> None:
    with pytest.warns(EagerloopDeprecationWarning) as caught:
        coroutine = old_coroutine()
    assert caught[0].filename == __file__
    assert await coroutine == "done"


def test_a_deprecated_argument_names_the_callers_line() -> None:
    with pytest.warns(EagerloopDeprecationWarning, match="the argument `length`") as caught:
        assert (renamed(length=3), line()) == (3, caught[0].lineno)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert renamed(size=3) == 3


def test_the_signature_stays_and_the_docstring_says_it() -> None:
    assert list(inspect.signature(old).parameters) == ["x", "y"]
    assert (old.__doc__ or "").splitlines() == [
        "Deprecated since 0.3, goes in 0.5: use `new`.",
        "",
        "Add two numbers.",
    ]


def test_it_is_a_deprecation_warning_to_filters() -> None:
    assert issubclass(EagerloopDeprecationWarning, DeprecationWarning)
