"""Attributes of arrays that handles cannot have."""

from __future__ import annotations

from typing import NoReturn


class Unavailable:
    """An attribute of arrays that handles cannot have: `AttributeError` says what to use in its place."""

    __slots__ = ("instead", "name")

    def __init__(self, instead: str) -> None:
        self.instead = instead

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: object, owner: type | None = None) -> NoReturn:
        self._refuse(owner or type(instance))

    def __set__(self, instance: object, value: object) -> NoReturn:
        self._refuse(type(instance))

    def _refuse(self, owner: type) -> NoReturn:
        said = f"{owner.__name__!r} object has no attribute {self.name!r}: {self.instead}"
        raise AttributeError(said, name=self.name)
