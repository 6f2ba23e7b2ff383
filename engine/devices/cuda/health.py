"""Health: whether this process can still use a GPU, and what each error of the runtime means for that."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NoReturn, TypeVar

from engine.base.errors import DeviceLostError
from engine.devices.base import Device, loss
from engine.devices.cuda.errors import FORKED, out_of_memory, reason_of
from engine.devices.cuda.kernels import Lacking, lacking
from engine.devices.cuda.runtime import Fate, Runtime

_eagerloop_internal = True  # its frames are not the user's

T = TypeVar("T")


class Health:
    """The health of one GPU. Any thread may call any method; the engine is told once that the device is lost."""

    def __init__(self, device: Device, runtime: Runtime, lost: Callable[[str], None]) -> None:
        self._device = device
        self._runtime = runtime
        self._tell_lost = lost
        self._process = os.getpid()
        self._lost: str | None = None

    @property
    def is_lost(self) -> bool:
        """True if the device cannot be used any more."""
        return self._lost is not None

    @property
    def is_forked(self) -> bool:
        """True if this process is another one than that which began to use the device."""
        return os.getpid() != self._process

    def check(self) -> None:
        """Raise `DeviceLostError` where the device cannot be used any more, also as the process was forked."""
        if self._lost is None and self.is_forked:
            self._lost = FORKED
        if self._lost is not None:
            raise self._loss()

    def is_memory(self, error: BaseException) -> bool:
        """Tell whether there was not enough memory."""
        return self._runtime.fate(error) is Fate.MEMORY

    def met(self, error: BaseException, name: str) -> BaseException:
        """The error that an op of this name ends with for one of the runtime."""
        fate = self._runtime.fate(error)
        if fate is Fate.MEMORY:
            return out_of_memory(self._device, name, error)
        if isinstance(error, NotImplementedError) and not isinstance(error, Lacking):
            return lacking(name, " ".join(str(error).split()))
        if fate is Fate.OP:
            return error
        if self._lost is None:
            self._lost = reason_of(error)
            self._tell_lost(self._lost)
        return self._loss()

    def guarded(self, name: str, work: Callable[[], T]) -> T:
        """Do some work; what the runtime raises there is raised as the error of an op of this name."""
        self.check()
        try:
            return work()
        except Exception as error:  # noqa: BLE001 - it is raised again
            self.throw(error, name)

    def throw(self, error: Exception, name: str) -> NoReturn:
        """Raise what an op of this name ends with for an error of the runtime: that itself, or one that it caused."""
        met = self.met(error, name)
        if met is error:
            raise error
        raise met from error

    def _loss(self) -> DeviceLostError:
        return loss(self._device, self._lost or "")
