"""The configuration of an executor: plain values, checked when made, compared by value."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

MOST_DEVICES = 1024
DEFAULT_PENDING_OPS = 32_768
DEFAULT_PENDING_BYTES = 1 << 30


class _Counts(Mapping[str, int]):
    """A mapping that stays as it is; what copies it, as `dataclasses.asdict` does, gets a dict."""

    __slots__ = ("_counts",)

    def __init__(self, counts: dict[str, int]) -> None:
        self._counts = counts

    def __getitem__(self, kind: str) -> int:
        return self._counts[kind]

    def __iter__(self) -> Iterator[str]:
        return iter(self._counts)

    def __len__(self) -> int:
        return len(self._counts)

    def __repr__(self) -> str:
        return repr(self._counts)

    def __deepcopy__(self, memo: dict[int, object]) -> dict[str, int]:
        return dict(self._counts)


@dataclass(frozen=True)
class Config:
    """How an executor runs: plain values, frozen and compared by value. Every field is honoured.

    device_count (mapping of str to int, {"CPU": 1}):
        Devices of each kind: CPU (logical ones), GPU (by CUDA), DASK and CLUSTER (by Dask), and those that were
        registered. A kind that is not named, or with 0, has none, apart from the CPU: one at least. A kind that this
        machine lacks is an error at the first op.
    intra_op_parallelism_threads (int, 0):
        Threads that one op, or several fused into one, may use; 0 shares all cores among the ops that may run at once.
    inter_op_parallelism_threads (int, 0):
        Ops of one device that may run at once: 0 leaves the number to the engine, 1 is strictly one after the other,
        in dispatch order.
    allow_soft_placement (bool, True):
        A missing device falls back to CPU:0, logged once; with False it raises `UnknownDeviceError` at the call.
    log_device_placement (bool, False):
        Each dispatch logs op name and device on logger `engine.placement`.
    operation_timeout_in_ms (int, 0):
        Milliseconds after which a sync point raises `TimeoutError`, naming the op and its state; 0 is never.
    max_pending_ops (int, 32768):
        Ops of one executor in flight past which dispatch itself executes queued work (the high-water mark);
        `engine.drain()` waits until half of it is left.
    max_pending_bytes (int, 1 GiB):
        Bytes of snapshotted operands in flight past which dispatch itself executes queued work; the same for bytes.
    dask_scheduler (str, or a pair of str and distributed.Security, None):
        Address of the Dask scheduler whose workers are the `DASK` devices, and whose cluster is the `CLUSTER` device,
        such as `tcp://10.0.0.5:8786`; for `tls://...` with Dask's `Security` where Dask's own configuration has none.
        None is a local cluster of processes, started by the first op that needs it and ended with the executor.

    Raises `ValueError` for a value out of range and `TypeError` for one of the wrong type or an unknown field, naming
    the field.

    >>> config = engine.Config(device_count={"CPU": 2}, operation_timeout_in_ms=5_000)
    >>> config == engine.Config(device_count={"CPU": 2}, operation_timeout_in_ms=5_000)
    True
    >>> engine.Config(max_pending_ops=0)
    Traceback (most recent call last):
    ValueError: Config.max_pending_ops must be at least 1, but got 0
    """

    device_count: Mapping[str, int] = field(default_factory=lambda: {"CPU": 1})
    intra_op_parallelism_threads: int = 0
    inter_op_parallelism_threads: int = 0
    allow_soft_placement: bool = True
    log_device_placement: bool = False
    operation_timeout_in_ms: int = 0
    max_pending_ops: int = DEFAULT_PENDING_OPS
    max_pending_bytes: int = DEFAULT_PENDING_BYTES
    dask_scheduler: str | tuple[str, object] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "device_count", _device_count(self.device_count))
        for name in ("intra_op_parallelism_threads", "inter_op_parallelism_threads", "operation_timeout_in_ms"):
            object.__setattr__(self, name, _integer(name, getattr(self, name), least=0))
        for name in ("max_pending_ops", "max_pending_bytes"):
            object.__setattr__(self, name, _integer(name, getattr(self, name), least=1))
        for name in ("allow_soft_placement", "log_device_placement"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"Config.{name} must be a bool, but got {getattr(self, name)!r}")
        _check_scheduler(self.dask_scheduler)

    def cluster(self) -> tuple[str | None, object]:
        """The address of `dask_scheduler`, and the `Security` that was given with it; None for what was not given."""
        given = self.dask_scheduler
        return given if isinstance(given, tuple) else (given, None)

    def __hash__(self) -> int:
        values = (getattr(self, entry.name) for entry in fields(self) if entry.name != "device_count")
        return hash((*values, tuple(self.device_count.items())))

    def __reduce__(self) -> tuple[object, ...]:
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return _restore, (values | {"device_count": dict(self.device_count)},)


def check_config(config: Config | None) -> None:
    """Raise `TypeError` unless `config` is a `Config` or None."""
    if config is not None and not isinstance(config, Config):
        raise TypeError(f"config must be an engine.Config, but got {type(config)}")


def _restore(values: dict[str, Any]) -> Config:
    return Config(**values)


def _integer(name: str, value: object, *, least: int) -> int:
    if isinstance(value, bool):
        raise TypeError(f"Config.{name} must be an integer, but got {value!r}")
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"Config.{name} must be an integer, but got {value!r}") from None
    if number < least:
        raise ValueError(f"Config.{name} must be at least {least}, but got {number}")
    return number


_ADDRESS = re.compile(r"(?:[a-z][a-z0-9+]*://)?[^\s/]+(?::[0-9]{1,5})(?:/.*)?|inproc://\S+")


def _check_scheduler(value: object) -> None:
    address = value[0] if isinstance(value, tuple) and len(value) == 2 else value
    if address is None and value is None:
        return
    if not isinstance(address, str):
        raise TypeError(
            "Config.dask_scheduler must be None, an address such as 'tcp://10.0.0.5:8786', or a pair of an address and "
            f"a distributed.Security, but got {value!r}"
        )
    if _ADDRESS.fullmatch(address) is None:
        raise ValueError(
            f"Config.dask_scheduler must be an address with a port, such as 'tcp://10.0.0.5:8786', but got {address!r}"
        )


def _device_count(value: object) -> Mapping[str, int]:
    if not isinstance(value, Mapping):
        raise TypeError(f"Config.device_count must be a mapping of device kind to number, but got {value!r}")
    counts = {"CPU": 1}
    for kind, count in value.items():
        if not isinstance(kind, str):
            raise TypeError(f"Config.device_count must have device kinds (str) as keys, but got {kind!r}")
        if not kind.isidentifier():
            raise ValueError(f"Config.device_count must have device kinds such as 'CPU' as keys, but got {kind!r}")
        kind = kind.upper()
        counts[kind] = _integer(f"device_count[{kind!r}]", count, least=1 if kind == "CPU" else 0)
        if counts[kind] > MOST_DEVICES:
            raise ValueError(f"Config.device_count[{kind!r}] must be at most {MOST_DEVICES}, but got {counts[kind]}")
    return _Counts({kind: count for kind, count in sorted(counts.items()) if count})
