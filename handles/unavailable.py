"""Attributes that arrays or futures have, and handles have not."""

from __future__ import annotations

from typing import NoReturn


class Unavailable:
    """An attribute that handles have not: `AttributeError` says what to use in its place.

    In `instead`, `{value}` stands for how the value of a handle of that class is read, and `{name}` for the attribute.
    """

    __slots__ = ("_instead", "_name")

    def __init__(self, instead: str, name: str = "") -> None:
        self._instead = instead
        self._name = name

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: object, owner: type | None = None) -> NoReturn:
        self._refuse(owner or type(instance))

    def __set__(self, instance: object, value: object) -> NoReturn:
        self._refuse(type(instance))

    def _refuse(self, owner: type) -> NoReturn:
        instead = self._instead.format(value=owner.READING, name=self._name)  # type: ignore[attr-defined]
        said = f"{owner.__name__!r} object has no attribute {self._name!r}: {instead}"
        raise AttributeError(said, name=self._name)
