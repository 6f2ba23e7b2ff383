"""How objects are at the moment of a call: a trace holds as long as their attributes are as they were.

A look at an object gives a key and a list of arrays. The key has what is compared by value (numbers, strings, the
structure of containers) and what is compared by identity (functions, objects without attributes). Arrays are compared
apart, so that one trace is kept for each key, not one for each state of the weights: handles by the cell that they
hold, which is never written to, and other arrays bit by bit, unless neither can be written to.

Neither a key nor a list of arrays keeps an object alive that can be referred to weakly.
"""

from __future__ import annotations

import functools
import sys
import weakref
from collections import UserDict, UserList, deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Set
from enum import Enum
from operator import is_
from types import (
    BuiltinFunctionType,
    FunctionType,
    MemberDescriptorType,
    MethodType,
    ModuleType,
    SimpleNamespace,
)
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from engine.base.exact import bits_of
from engine.devices.cpu import holds_objects
from engine.graph.identity import BOUND, PARTIAL, Bound, Identity, reference
from handles.base import Handle
from handles.cell import Cell

Array = np.ndarray[Any, Any]

Part: TypeAlias = Hashable
"""Part of a key: what an object is compared by."""

Way: TypeAlias = "Callable[[Look, Any], Part]"
"""A method of `Look`, for objects of some classes."""

OBJECTS = 10_000
"""Objects and containers that are looked at in one call."""

_BY_VALUE = frozenset({bool, int, str, bytes, type(None)})
_NO_DATA: tuple[type, ...] = (type, ModuleType, FunctionType, BuiltinFunctionType, MethodType, Enum, Handle, np.ufunc)
_DATA: tuple[type, ...] = (SimpleNamespace, UserDict, UserList)
_LIBRARIES = frozenset(sys.stdlib_module_names) | {"engine", "handles", "numpy"}


# ---------------------------------------------------------------------------------------------------------------------
# Classes


class _Kind(NamedTuple):
    """The facts about a class; apart from `reference` it must not refer to the class, which may go."""

    has_attributes: bool
    """True if instances are compared by their attributes."""
    by_value: bool
    """True if instances are compared by a library's `__eq__`, too."""
    slots: tuple[str, ...]
    own: tuple[int, ...]
    """Where in the order of method resolution the classes are that are no library's."""
    look: Way
    """Makes the part of a key for an instance."""
    reference: Callable[[], type | None]
    may_be_instance: bool
    """True if a method that gets an instance of it first is a method of it."""


_kinds: dict[int, _Kind] = {}
"""By the ids of classes, which is faster than by weak references."""


def _kind_of(cls: type) -> _Kind:
    return _kinds.get(id(cls)) or _made_kind(cls)


def _made_kind(cls: type) -> _Kind:
    number = id(cls)
    order = cls.__mro__
    own = tuple(index for index, base in enumerate(order) if not _is_of_library(base))
    slots = [name for index in own for name, each in vars(order[index]).items() if type(each) is MemberDescriptorType]
    holds = bool(own) and (cls.__dictoffset__ != 0 or bool(slots))
    holds = (holds or issubclass(cls, _DATA)) and not issubclass(cls, _NO_DATA)
    by_value = getattr(cls, "__hash__", None) not in (None, object.__hash__)
    if holds and by_value:
        by_value = _is_of_library(next(base for base in order if "__hash__" in vars(base)))
    is_pytree = issubclass(cls, np.ndarray) or (issubclass(cls, tuple) and hasattr(cls, "_fields"))
    is_self = issubclass(cls, type) or (holds and not is_pytree)
    look = next((look for classes, look in _LOOKS if issubclass(cls, classes)), None)
    if look is None and hasattr(cls, "__array__"):
        look = Look.at_convertible
    if look is None:
        look = Look.at_object if holds else Look.at_value if by_value else Look.at_identity
    kind = _Kind(holds, by_value, tuple(slots), own, look, reference(cls, lambda _: _kinds.pop(number, None)), is_self)
    _kinds[number] = kind
    return kind


def _is_of_library(cls: type) -> bool:
    return str(cls.__module__).partition(".")[0] in _LIBRARIES


def has_attributes(cls: type) -> bool:
    """True if instances of a class are compared by their attributes: classes of the program, and of its libraries."""
    return _kind_of(cls).has_attributes


def has_state(value: object) -> bool:
    """True for what is compared by what it refers to: an object by its attributes, a bound method by its instance."""
    return isinstance(value, BOUND + PARTIAL) or has_attributes(value.__class__)


def owner_of(value: object) -> object:
    """The object with whose life the traces of an argument end, if there is one."""
    while isinstance(value, BOUND):
        value = value.__self__
    return value if has_attributes(value.__class__) else None


def is_itself_only(value: object) -> bool:
    """True for an object that is equal to no other, so that none shares its traces."""
    return value.__class__.__hash__ is object.__hash__


def may_be_instance(value: object) -> bool:
    """True if a method that gets this first is a method of it: an object with attributes, or a class."""
    return _kind_of(value.__class__).may_be_instance


# ---------------------------------------------------------------------------------------------------------------------
# Looking


class ClassParts(NamedTuple):
    """A class that has no attributes which can be written to, as an earlier look found it."""

    names: list[str]
    values: list[object]
    part: Part


class Look:
    """A look at some objects, and all that they refer to, as they are at this moment."""

    __slots__ = ("_classes", "_numbers", "_parts", "arrays", "walked")

    def __init__(self, classes: dict[type, ClassParts]) -> None:
        """`classes` has the classes of earlier looks; it keeps them alive."""
        self._classes = classes
        self.arrays: list[Cell | Array] = []
        """The arrays that were met: cells of handles, and ndarrays."""
        self.walked: list[object] = []
        """The objects and containers, in the order in which they were met."""
        self._numbers: dict[int, int] = {}
        self._parts: list[Part] = []

    @property
    def key(self) -> tuple[Part, ...]:
        """A key that is equal where a trace may be shared, if the arrays are the same too."""
        return tuple(self._parts)

    def at_instance(self, instance: object, name: str) -> None:
        """Look at the object, or the class, that the traces belong to."""
        self._look(instance, name, self.at_class if isinstance(instance, type) else self.part)

    def at(self, value: object, name: str) -> None:
        """Look at an object that was passed: one that is equal to itself only has traces of its own."""
        owner = owner_of(value)
        if owner is not None and is_itself_only(owner):
            self._parts.append(Identity(owner))
        self._look(value, name, self.part)

    def _look(self, value: object, name: str, look: Callable[[Any], Part]) -> None:
        try:
            self._parts.append(look(value))
        except (RecursionError, _TooMany):
            raise TypeError(
                f"engine.function {name!r} compares the attributes of the objects that it gets, but "
                f"{type(value).__name__} refers to more than {OBJECTS} objects, or too deeply: pass what the "
                "function needs as arguments, in place of the object"
            ) from None

    def number(self, value: object) -> int | None:
        """The place of an object in `walked`, if it is there."""
        number = self._numbers.get(id(value))
        return number if number is not None and self.walked[number] is value else None

    # Parts of the key

    def part(self, value: object) -> Part:
        """The part of the key for an object, and all that it refers to: equal for those that are alike."""
        cls = value.__class__
        if cls in _BY_VALUE:
            return cls, value
        return (_kinds.get(id(cls)) or _made_kind(cls)).look(self, value)

    def _meet(self, value: object) -> int | None:
        """The number of what was met before, be it inside of itself; else it gets one."""
        number = self._numbers.get(id(value))
        if number is not None:
            return number
        if len(self.walked) >= OBJECTS:
            raise _TooMany
        self._numbers[id(value)] = len(self.walked)
        self.walked.append(value)
        return None

    def at_sequence(self, value: Iterable[object]) -> Part:
        number = self._meet(value)
        if number is not None:
            return value.__class__, number
        return value.__class__, tuple(map(self.part, tuple(value))), self._rest(value)

    def at_mapping(self, value: Mapping[object, object]) -> Part:
        number = self._meet(value)
        if number is not None:
            return value.__class__, number
        pairs = [(self.part(name), self.part(each)) for name, each in tuple(value.items())]
        return value.__class__, tuple(pairs), self._rest(value)

    def at_set(self, value: Iterable[object]) -> Part:
        return value.__class__, frozenset([self.part(each) for each in tuple(value)])

    def at_float(self, value: float | complex) -> Part:
        cls = value.__class__
        if cls is float and value and value == value:
            return cls, value
        return cls, bits_of(value), self._rest(value)

    def at_generic(self, value: np.generic) -> Part:
        return value.__class__, value.dtype, value.tobytes()

    def at_handle(self, value: Handle) -> Part:
        self.arrays.append(value._cell)
        return Handle

    def at_array(self, value: Array) -> Part:
        if isinstance(value, np.ma.MaskedArray):
            return np.ma.MaskedArray, self.at_array(value.data), self.at_array(np.ma.getmaskarray(value))
        if holds_objects(value.dtype):
            return np.ndarray, value.shape, tuple(map(self.part, value.ravel().tolist()))
        self.arrays.append(value if value.__class__ is np.ndarray else np.asarray(value))
        return value.__class__, self._rest(value)

    def at_convertible(self, value: object) -> Part:
        """Look at an object that NumPy can make an array of, whose memory may be no attribute of it."""
        try:
            array = np.asarray(value)
        except Exception:  # noqa: BLE001 - what does not convert is the same as long as it is the same object
            return self.at_object(value)
        return self.at_array(array) if array.shape or not array.dtype.hasobject else None, self.at_object(value)

    def at_reference(self, value: Callable[[], object]) -> Part:
        return value.__class__, self.part(value())

    def at_bound(self, value: MethodType | Bound) -> Part:
        return value.__class__, self.part(value.__func__), self.part(value.__self__)

    def at_partial(self, value: functools.partial[object]) -> Part:
        return value.__class__, self.part(value.func), self.part(value.args), self.part(value.keywords)

    def at_bytes(self, value: bytearray) -> Part:
        return value.__class__, bytes(value)

    def at_value(self, value: object) -> Part:
        return value.__class__, value

    def at_identity(self, value: object) -> Part:
        return Identity(value)

    def at_object(self, value: object) -> Part:
        cls = value.__class__
        kind = _kind_of(cls)
        if not kind.has_attributes:
            return Identity(value)
        number = self._meet(value)
        if number is not None:
            return cls, number
        part = self._attributes(value)
        return (part, value) if kind.by_value else part

    def _rest(self, value: object) -> Part:
        """The attributes of a container that may have some beside its items."""
        return self._attributes(value) if _kind_of(value.__class__).has_attributes else None

    def _attributes(self, value: object) -> Part:
        cls = value.__class__
        part = self.part
        parts = [(name, part(each)) for name, each in tuple(getattr(value, "__dict__", _EMPTY).items())]
        for name in _kind_of(cls).slots:
            try:
                parts.append((name, part(getattr(value, name))))
            except AttributeError:  # not set
                continue
        return self.at_class(cls), tuple(parts)

    def at_class(self, cls: type) -> Part:
        """The attributes that a class gives its instances, unless it was met before."""
        if self._meet(cls) is not None:
            return cls
        order = cls.__mro__
        names: list[str] = []
        values: list[object] = []
        for index in _kind_of(cls).own:
            its = vars(order[index])
            names += its
            values += its.values()
        known = self._classes.get(cls)
        if known is not None and known.names == names and all(map(is_, known.values, values)):
            return known.part
        part = cls, tuple([self._of_class(name, each) for name, each in zip(names, values, strict=False)])
        if all(map(_is_constant, names, values)):
            self._classes[cls] = ClassParts(names, values, part)
        return part

    def _of_class(self, name: str, value: object) -> Part:
        if value.__class__ is FunctionType:
            return value  # the class holds it too
        return None if _is_of_python(name) else (name, self.part(value))


def _is_of_python(name: str) -> bool:
    """True if an attribute of a class, where it is no function, says something of the class only."""
    return name[:2] == "__" or name == "_abc_impl"


def _is_constant(name: str, value: object) -> bool:
    """True if an attribute of a class is the same as long as it is the same object."""
    cls = value.__class__
    if cls is FunctionType or cls in _BY_VALUE or _is_of_python(name):
        return True
    look = _kind_of(cls).look
    return look is Look.at_identity or look is Look.at_value or look is Look.at_float


_EMPTY: dict[str, object] = {}

_LOOKS: tuple[tuple[type | tuple[type, ...], Way], ...] = (
    (Handle, Look.at_handle),
    (np.ndarray, Look.at_array),
    (np.generic, Look.at_generic),
    ((float, complex), Look.at_float),
    (weakref.ref, Look.at_reference),
    (BOUND, Look.at_bound),
    (PARTIAL, Look.at_partial),
    (Mapping, Look.at_mapping),
    ((list, tuple, deque), Look.at_sequence),
    (Set, Look.at_set),
    (bytearray, Look.at_bytes),
)
"""How instances of these classes are looked at; others are by their attributes, by value, or by identity."""


class _TooMany(Exception):
    """More is referred to than can be looked at in each call."""


def contents(owner: object) -> Iterator[tuple[object, object]]:
    """The objects that an object or container refers to, by name or index."""
    if isinstance(owner, Mapping):
        yield from tuple(owner.items())
    elif isinstance(owner, list | deque):
        yield from enumerate(tuple(owner))
    yield from tuple(getattr(owner, "__dict__", {}).items())
    for name in _kind_of(owner.__class__).slots:
        yield name, getattr(owner, name, None)
