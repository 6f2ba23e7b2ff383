"""Devices: a name that users see, and a backend that holds values and computes.

The seam: the engine hands a backend records, a batch at a time, and is told what came of each. It asks for copies of
values between the host and a device. Everything else, what waits for what and which record goes next, is the engine's.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Protocol, Self, TypeAlias, TypeVar, runtime_checkable

import numpy as np

from engine.base.errors import DeviceLostError

Array: TypeAlias = np.ndarray[Any, Any]

_PATTERN = re.compile(
    r"""(?: (?: /job:[a-z_][a-z0-9_.-]* | /replica:0 | /task:0 )* / )?  # TensorFlow's long names of this one process
        (?: device: )?
        (?! (?: job | replica | task ) : )
        ([a-z_][a-z0-9_]*) : ([0-9]+)""",
    re.IGNORECASE | re.VERBOSE,
)


ANY = -1
"""The index of what stands for any device of its kind."""
_SPREAD = frozenset({"DASK"})
"""Kinds whose name alone stands for any device of the kind."""

addresses: dict[Device, str] = {}
"""Where devices of other machines are, once their executor has connected to them."""


class Device:
    """A logical device, such as CPU:0. There is one object for each name: devices compare by identity.

    `Device("CPU:1")`, `Device("cpu:1")`, `Device("/cpu:1")`, `Device("/device:CPU:1")` and
    `Device("/job:worker/replica:0/task:0/device:CPU:1")` are the same object. `Device("DASK")`, without a number,
    stands for any worker of the cluster: an op goes to the one that its inputs are on, else to the least loaded.
    Raises `ValueError` for what is not a name of a device of this process (its task and replica are 0) and `TypeError`
    for what is not a name.

    >>> engine.Device("/device:CPU:1") is engine.Device("cpu:1")
    True
    """

    __slots__ = ("index", "kind")

    kind: str
    index: int

    _made: dict[tuple[str, int], Device] = {}  # noqa: RUF012 - the table of all devices, shared on purpose

    def __new__(cls, name: str | Device) -> Self:
        if isinstance(name, cls):
            return name
        if not isinstance(name, str):
            raise TypeError(f"device must be a name such as 'CPU:0' or an engine.Device, but got {name!r}")
        match = _PATTERN.fullmatch(name.strip())
        spread = name.strip().lstrip("/").upper()
        if match is None and spread not in _SPREAD:
            raise ValueError(
                f"device must be named like 'CPU:0' or '/device:CPU:0' (/job, /task:0 and /replica:0 may come before), "
                f"but got {name!r}"
            )
        key = (spread, ANY) if match is None else (match[1].upper(), int(match[2]))
        device = cls._made.get(key)
        if device is None:
            device = object.__new__(cls)
            device.kind, device.index = key
            device = cls._made.setdefault(key, device)
        return device  # type: ignore[return-value]

    @property
    def address(self) -> str | None:
        """Where it is, of a device on another machine that an executor has connected to; else None."""
        return addresses.get(self)

    def covers(self, device: Device) -> bool:
        """Tell whether it is that device, or stands for any of its kind."""
        return self is device or (self.index == ANY and self.kind == device.kind)

    def __str__(self) -> str:
        return self.kind if self.index == ANY else f"{self.kind}:{self.index}"

    def __repr__(self) -> str:
        address = self.address
        return f"Device({str(self)!r})" + ("" if address is None else f" at {address}")

    def __reduce__(self) -> tuple[Any, ...]:
        return Device, (str(self),)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self


class Value(Protocol):
    """A value that a backend holds for one array, of its own class. It is never written to once it was handed over."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Its dtype, NumPy's."""


Operand: TypeAlias = "Value | Array | np.generic | complex | float | int | bool | Record"
"""A value of the device, an ndarray (read-only) or a scalar of the host, or an earlier record of the same batch."""


@runtime_checkable
class Record(Protocol):
    """One op that a backend is to compute.

    The backend ends it once, by `complete` or by `fail`: on any thread, also inside `submit`. Ending it a second time
    raises `RuntimeError`; ending one that was cancelled, or whose device was lost, changes nothing and is no error.
    Records are compared by identity; `isinstance(operand, Record)` tells them from values.
    """

    name: str
    """The op's name, such as `add` or `linalg.inv`, or that of the user's function."""
    kernel: Callable[..., Any]
    """NumPy's function, or one that calls the user's: `kernel(*arrays, **params)` gives the result, unchecked."""
    params: dict[str, Any]
    """The keyword arguments of the kernel."""
    operands: Sequence[Operand]
    """The positional arguments of the kernel, as the device knows them.

    Where `Backend.lookahead` is more than 1, an operand may be an earlier record of the same batch: its value is what
    that was, or will be, completed with. Where that one fails, this one cannot be computed: however it is ended,
    the engine gives it the failure of its operand.
    """
    sources: Sequence[Device | None]
    """For each operand the device that it is on; None for what is on none, such as ndarrays and scalars."""
    outputs: int
    """How many results there are."""
    device: Device
    """The device to compute on."""
    kept: bool
    """False where only later records of the batch read the result: once they have run, its value is of no use."""

    @property
    def abandoned(self) -> bool:
        """Tell whether the result is not wanted any more. Such a record may be ended at once, with anything."""

    def call(self, *arrays: Any) -> Array | tuple[Array, ...]:
        """Call the kernel in this process, on arrays in place of the operands, as it would be called on the host.

        That is with its parameters, in the context variables and the `np.errstate` of the dispatch, and with the arrays
        read-only where the kernel is a user's function. Returns an ndarray, or a tuple of `outputs` of them. Raises
        what the kernel raises.
        """

    def complete(self, value: Any) -> None:
        """End it with its value; with a tuple of them where `outputs` is not 1."""

    def fail(self, error: BaseException) -> None:
        """End it with an error, which readers of its handle get, and those of all that depends on it."""


V = TypeVar("V")


class Backend(Protocol[V]):
    """A backend: what the devices of one kind do; `V` is the class of its values, which have `shape` and `dtype`.

    Subclass it, and write `submit`, `to_host` and `from_host`. An executor makes one backend for all its devices of a
    kind, when it is entered; a factory should be cheap, and start what is expensive when it is first needed.

    No method is ever called on the thread of a running event loop in ASYNC mode: all but `lookahead`, `runs` and
    `count` may block.
    """

    on_host: bool = False
    """True if values are NumPy arrays in this process, on which the engine runs kernels itself: the CPU's are."""
    takes_functions: bool = False
    """True if a call of an `engine.function` comes as one record, whose kernel is an `engine.base.traced.Traced`."""

    def count(self) -> int | None:
        """How many such devices there are; None (unless overridden) where there may be any number."""
        return None

    def lookahead(self) -> int:
        """How many records it likes to get at once: 1 unless overridden.

        With more, records that are pending together come in batches of at most so many, in dispatch order, and an
        operand of one may be an earlier record of its batch. With 1, each operand is a value. May differ each time.
        """
        return 1

    def runs(self, name: str, kernel: Callable[..., Any]) -> bool:
        """Tell whether it computes the op of this name: True unless overridden.

        What it does not compute, a worker of the host computes with NumPy: operands come by `to_host`, results go by
        `from_host`. Async functions are never asked for: they run on the event loop, in the same way.
        """
        return True

    @abstractmethod
    def submit(self, device: Device, records: Sequence[Record]) -> None:
        """Start these records, each of which is to be ended once. An exception fails those that were not ended.

        Batches of a device come one after the other, in ASYNC mode on a worker; in SYNC mode one record at a time, on
        the thread that called the op, which then blocks until the record has ended.
        """

    @abstractmethod
    def to_host(self, value: V) -> Array:
        """The value as an array that is not written to any more. Raises `DeviceLostError` where it is gone."""

    @abstractmethod
    def from_host(self, device: Device, array: Array) -> V:
        """A value on `device`. The array is read-only, and may be kept."""

    def copy(self, value: V, source: Device, target: Device) -> V:
        """The value on another device of this backend: through the host unless overridden."""
        return self.from_host(target, self.to_host(value))

    def close(self) -> None:
        """Its executor has closed and no record will come. Values may still be read, and raise where they are gone."""
        return


def loss(device: Device, reason: str) -> DeviceLostError:
    """The error of what was, or is asked for, on a lost device."""
    return DeviceLostError(f"device {device} was lost: {reason}")
