"""What a random program is: steps in static single assignment form, and what NumPy says of each value."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Function = Callable[..., Any]

SMALL = 2_048
"""Elements that most values have at most."""
LARGE = 150_000
"""Elements past which even an `add` goes to a worker."""
DIMENSIONS = 5
DTYPES = ("bool", "int32", "int64", "float32", "float64", "complex128")
RAISING = {"divide": "raise", "over": "raise", "invalid": "raise"}


@dataclass(frozen=True)
class Ref:
    """An operand that an earlier step made."""

    value: int


@dataclass(frozen=True)
class Problem:
    """Why a value does not exist: the error of the step where it began."""

    kind: type[BaseException]
    message: str

    def describes(self, error: BaseException) -> bool:
        return type(error) is self.kind and str(error) == self.message


@dataclass(frozen=True)
class Expected:
    """What reading a value gives: its bits, or one of the problems (the first, where ops run one by one)."""

    problems: tuple[Problem, ...] = ()
    shape: tuple[int, ...] = ()
    dtype: str = ""
    digest: bytes = b""


@dataclass(frozen=True)
class Action:
    """Something that a program does between its ops, to values: read, cancel, describe, have them read aside, ..."""

    name: str
    values: tuple[int, ...] = ()


@dataclass(frozen=True)
class Step:
    """One op: a row of the vocabulary, its operands, the values it makes, and what happens next."""

    name: str
    args: tuple[Any, ...]
    params: dict[str, Any]
    outputs: tuple[int, ...]
    device: int | None = None
    raising: bool = False
    """Whether NumPy's floating point errors are errors here."""
    inline: bool = False
    """Whether an ASYNC program runs this op in SYNC mode."""
    drops: tuple[int, ...] = ()
    """Values whose handles the program lets go of."""
    actions: tuple[Action, ...] = ()


@dataclass
class Program:
    """Steps, what each value must be, and the values that are left at the end."""

    steps: list[Step] = field(default_factory=list)
    expected: dict[int, Expected] = field(default_factory=dict)
    left: list[int] = field(default_factory=list)

    def made_with(self, value: int) -> tuple[int, ...]:
        """The values that one op made: to cancel one is to cancel all of them."""
        return next((step.outputs for step in reversed(self.steps) if value in step.outputs), (value,))


def digest(array: Array) -> bytes:
    """All bits of an array, in few."""
    return hashlib.blake2b(array.tobytes(), digest_size=16).digest()


@contextmanager
def quiet() -> Iterator[None]:
    """Silence warnings in every thread, and leave NumPy's own error state the default, which is a case of its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
