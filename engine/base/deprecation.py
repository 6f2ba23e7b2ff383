"""Saying that a name, an argument or a way of calling will go: one helper, so that each is said in the same way.

docs/stability.md tells users what they can rely on: what is deprecated works for two minor versions at least, and warns
in each of them, on the line of the program that uses it.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class EagerloopDeprecationWarning(DeprecationWarning):
    """Something of eagerloop will go; the message says in which version, and what to use instead."""


def warn_deprecated(what: str, *, since: str, removed_in: str, instead: str, stacklevel: int = 2) -> None:
    """Warn that `what` will go, on the line that called the function which calls this one.

    `since` and `removed_in` are versions, `instead` says what to write. `stacklevel` counts as that of `warnings.warn`
    does from the caller of this function: 2 is the line that called it.

    >>> import warnings
    >>> def old():
    ...     warn_deprecated("old()", since="0.3", removed_in="0.5", instead="new()")
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     old()
    >>> print(caught[0].message)
    old() is deprecated since eagerloop 0.3 and goes in 0.5: use new()
    """
    message = f"{what} is deprecated since eagerloop {since} and goes in {removed_in}: use {instead}"
    warnings.warn(message, EagerloopDeprecationWarning, stacklevel=stacklevel + 1)


def deprecated(*, since: str, removed_in: str, instead: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a function, or coroutine function, warn at each call, and say so at the top of its docstring.

    >>> @deprecated(since="0.3", removed_in="0.5", instead="engine.gather")
    ... def collect():
    ...     "Collect."
    >>> print(collect.__doc__)
    Deprecated since 0.3, goes in 0.5: use `engine.gather`.
    <BLANKLINE>
    Collect.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def warning(*args: P.args, **kwargs: P.kwargs) -> R:
            name = f"{function.__qualname__}()"
            warn_deprecated(name, since=since, removed_in=removed_in, instead=instead)
            return function(*args, **kwargs)

        said = f"Deprecated since {since}, goes in {removed_in}: use `{instead}`."
        warning.__doc__ = f"{said}\n\n{function.__doc__ or ''}".rstrip()
        return warning

    return decorate
