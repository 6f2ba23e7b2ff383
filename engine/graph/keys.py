"""Keys of arguments: equal for calls that may share a trace; and the arguments that an `input_signature` asks for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from engine.base.errors import FeedError
from engine.base.exact import bits_of
from engine.base.op import ShapeDtype
from engine.base.pytree import map_leaves
from engine.devices.base import Device
from engine.graph.attributes import has_state
from engine.graph.feeds import check_fit, feed_value
from engine.graph.graph import DEFAULT_DEVICE, placeholder_shape
from engine.graph.identity import BOUND
from engine.graph.inference import UNKNOWN
from engine.graph.node import known_of
from engine.queues.operands import holds_handle
from engine.settings.switch import program
from handles.base import Handle
from handles.cell import Cell
from handles.eager import EagerHandle
from handles.pending import AsyncHandle
from handles.symbol import Symbol

T = TypeVar("T")

_BY_VALUE = frozenset({bool, int, str, bytes, type(None)})


class Unset:
    """Stands for an argument that was left out, and whose default cannot be compared by value."""

    __slots__ = ("default",)

    def __init__(self, default: object) -> None:
        self.default = default


def key_of(value: Any, arrays: list[Any], objects: list[object]) -> object:
    """Make the key of an argument: equal for arguments that may share a trace.

    Appends the arrays, which a trace depends on by shape, dtype and device, and the objects that are compared by their
    attributes.
    """
    cls = value.__class__
    if cls is EagerHandle or cls is AsyncHandle:
        arrays.append(value)
        cell = value._cell
        array = cell.value
        if array.__class__ is np.ndarray:
            return array.shape, array.dtype, cell.home.device
        return (*described(value), cell.home.device)
    if cls in _BY_VALUE:
        return cls, value
    if isinstance(value, Symbol):
        arrays.append(value)
        return (*described(value), value._cell.home.device)
    if isinstance(value, np.ndarray | np.generic):
        arrays.append(np.asarray(value) if isinstance(value, np.generic) else value)
        return value.shape, value.dtype, DEFAULT_DEVICE
    if isinstance(value, float | complex):
        return cls, bits_of(value)
    if isinstance(value, list | tuple):
        return cls, tuple([key_of(each, arrays, objects) for each in value])
    if isinstance(value, Mapping):
        return cls, tuple([(name, key_of(each, arrays, objects)) for name, each in value.items()])
    if has_state(value) and (cls.__hash__ in (object.__hash__, None) or isinstance(value, BOUND)):
        objects.append(value)
        return cls
    return cls, value


def is_hashable(value: object) -> bool:
    """True if a value may be passed to a function: it has a key."""
    try:
        hash(key_of(value, [], []))
    except TypeError:
        return False
    return True


def with_symbols(value: T, symbols: Iterator[Handle]) -> T:
    """The arguments as a trace gets them: symbols in place of the arrays, defaults where an argument was left out."""

    def replaced(leaf: object) -> object:
        if isinstance(leaf, Handle | np.ndarray | np.generic):
            return next(symbols)
        return leaf.default if isinstance(leaf, Unset) else leaf

    return map_leaves(replaced, value)  # type: ignore[no-any-return]


def described(value: Handle | np.ndarray[Any, Any]) -> ShapeDtype:
    """Shape and dtype of an array argument; those of a result which only running its op can tell are unknown."""
    if not isinstance(value, Handle):
        return ShapeDtype(value.shape, value.dtype)
    cell = value._cell
    if isinstance(value, Symbol):
        return known_of(cell)
    try:
        return cell.home.infer(cell, tell=False)  # type: ignore[return-value]
    except Exception:  # noqa: BLE001 - a failed argument poisons the results, and is raised where they are read
        return UNKNOWN


# ---------------------------------------------------------------------------------------------------------------------
# input_signature


def specifications(given: object) -> tuple[ShapeDtype, ...] | None:
    """The entries of `input_signature`; None where it is None."""
    if given is None:
        return None
    if isinstance(given, ShapeDtype) or not isinstance(given, Sequence) or isinstance(given, str):
        raise TypeError(
            "input_signature must be a sequence with an engine.ShapeDtype(shape, dtype) for each array argument, such "
            f"as [engine.ShapeDtype((None, 3), np.dtype('float64'))], but got {given!r}"
        )
    return tuple(map(_specification, given))


def _specification(given: object) -> ShapeDtype:
    """An entry of `input_signature`: a shape and a dtype, in this order or the other, or what has both."""
    if hasattr(given, "shape") and hasattr(given, "dtype"):
        shape, dtype = given.shape, given.dtype
    elif isinstance(given, tuple | list) and len(given) == 2:
        shape, dtype = given
        if dtype is None or isinstance(dtype, tuple | list):
            shape, dtype = dtype, shape
    else:
        raise TypeError(
            f"input_signature must have an engine.ShapeDtype(shape, dtype) for each array argument, but got {given!r}"
        )
    return ShapeDtype(placeholder_shape(shape), np.dtype(dtype))  # type: ignore[arg-type]


def key_by_signature(
    given: tuple[object, ...], signature: tuple[ShapeDtype, ...], name: str, arrays: list[Any]
) -> tuple[Device, ...]:
    """The key of arguments that must be as `input_signature` says; appends the arrays.

    Raises `FeedError` where they are not.
    """
    if len(given) != len(signature):
        raise FeedError(f"function {name!r} takes {len(signature)} arrays by its input_signature, but got {len(given)}")
    for index, (value, its) in enumerate(zip(given, signature, strict=True)):
        array = program.namespace.asarray(value) if holds_handle(value) else value
        subject = f"argument {index} of function {name!r}"
        if isinstance(array, Symbol):
            check_fit(known_of(array._cell), its, subject)
            arrays.append(array)
        else:
            fed = feed_value(array, its, subject)
            arrays.append(array if fed.__class__ is Cell else fed)
    return tuple([device_of(each) for each in arrays])


def device_of(array: object) -> Device:
    """The device of an array argument; an ndarray is on the default one."""
    device: Device = array._cell.home.device if isinstance(array, Handle) else DEFAULT_DEVICE
    return device
