"""Attributes that users of other libraries look for on a handle, and that it has not: the error says what to do.

Each is a descriptor that raises `AttributeError`, so `hasattr` is False and looking up what is there takes no longer.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from handles.unavailable import Unavailable

_FUTURES = "handles are awaited, they are no futures: `asyncio.ensure_future(handle)` makes a task of one"
_COLLECTIONS = "; for several, `engine.gather(...)`, or `async for handle in engine.as_completed([...])`"
_IN_MEMORY = "the result of an op has no memory that can be written to"

HINTS: Mapping[str, str] = {
    **dict.fromkeys(("add_done_callback", "remove_done_callback", "get_loop", "set_result"), _FUTURES + _COLLECTIONS),
    **dict.fromkeys(("set_exception", "exception"), _FUTURES + _COLLECTIONS),
    "done": "use handle.is_ready(); " + _FUTURES,
    "cancelled": "handle.cancel() says what it achieved, and the repr of a handle its state",
    "result_type": "use numpy.result_type(handle, ...)",
    "resize": f"{_IN_MEMORY}: use numpy.resize(handle, shape), or handle.reshape(shape)",
    "setflags": f"use numpy.array({{value}}), an array of your own: {_IN_MEMORY}",
    "setfield": f"{_IN_MEMORY}: write handle[key] = value",
    "cpu": 'use handle.to_device("CPU:0"), or read the value: {value}',
    "get": "read the value: {value}",
    "detach": "read the value: {value}",
    "block_until_ready": "use `await handle.wait_ready()`, or read the value: {value}",
    "compute": "nothing has to be asked for, the op runs by itself; read the value: {value}",
    "persist": "an op is computed once, and its result kept as long as a handle refers to it",
    "append": "an array does not grow: use numpy.append(handle, values), or engine.ops.concat",
}
"""Advice in place of an attribute; where nothing is said, the value of the handle has it."""


def _attributes(cls: type) -> dict[str, object]:
    """Return the attributes of a class, inherited ones too, as they stand there: none is asked for its value."""
    return {name: what for base in reversed(cls.__mro__) for name, what in vars(base).items()}


def name_missing(cls: type) -> None:
    """Put descriptors where a class of handles has not what arrays and futures have."""
    of_arrays = [name for name in dir(np.ndarray) if not name.startswith("_")]
    there = _attributes(cls)
    for name in (*of_arrays, *HINTS):
        if name not in there:
            setattr(cls, name, Unavailable(HINTS.get(name, "read the value first, {value}.{name}"), name))


def names_there(instance: object) -> list[str]:
    """The attributes of an object that are there, for `dir`."""
    own = _attributes(type(instance))
    return sorted(name for name in object.__dir__(instance) if not isinstance(own.get(name), Unavailable))
