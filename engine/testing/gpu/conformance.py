"""Conformance: the results of a GPU beside those of the host, which are NumPy's."""

from __future__ import annotations

import random
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from time import perf_counter
from typing import Any

import numpy as np

from engine.base.config import Config
from engine.base.errors import DeviceLostError, DevicePlacementError, OpCancelledError
from engine.base.modes import DevicePolicy, ExecutionMode
from engine.devices.base import Array
from engine.runtime.executor import Executor
from engine.settings.scope import device, device_policy
from engine.testing.gpu.cases import Case, op
from engine.testing.gpu.journal import Report
from handles.base import Handle

RELATIVE = {"e": 5e-3, "f": 2e-5, "d": 1e-11, "F": 2e-5, "D": 1e-11}
"""How far results may be from NumPy's, by their dtype: CUDA's functions are exact to some units in the last place, and
sums are added up in another order."""


def config() -> Config:
    """A configuration with one GPU."""
    return Config(device_count={"GPU": 1})


def compared(mine: Any, theirs: Any, exact: bool) -> str | None:
    """Say what is wrong with a result of the GPU, beside that of the host; None where nothing is."""
    if isinstance(mine, tuple) != isinstance(theirs, tuple):
        return f"the GPU gave {type(mine).__name__}, the host {type(theirs).__name__}"
    if isinstance(mine, tuple):
        if len(mine) != len(theirs):
            return f"the GPU gave {len(mine)} results, the host {len(theirs)}"
        return next(filter(None, (compared(a, b, exact) for a, b in zip(mine, theirs, strict=True))), None)
    a, b = np.asarray(mine), np.asarray(theirs)
    if (a.shape, a.dtype) != (b.shape, b.dtype):
        return f"the GPU gave {a.dtype} {a.shape}, the host {b.dtype} {b.shape}"
    bound = 0.0 if exact else RELATIVE.get(a.dtype.char, 0.0)
    scale = float(np.max(np.abs(b[np.isfinite(b)]), initial=0.0)) if bound else 0.0
    if not np.allclose(a, b, rtol=bound, atol=bound * scale, equal_nan=b.dtype.kind in "fc"):
        return f"the GPU gave {a.ravel()[:4]}, the host {b.ravel()[:4]}"
    return None


def computed(case: Case, where: str) -> Any:
    """The values of a case on a device, or the error that it raised. What is known before must be what comes."""
    with device(where), np.errstate(all="ignore"):
        try:
            handles = [op("asarray")(each, device=where) for each in case.arrays]
            result = case.run(*handles)
            several = isinstance(result, tuple | list)
            return tuple(map(_read, result)) if several else _read(result)
        except Exception as error:  # noqa: BLE001 - an error is a result, too
            return error


def _read(handle: Any) -> Any:
    if not isinstance(handle, Handle):
        return handle
    try:
        known: tuple[Any, Any] | None = (handle.dtype, handle.shape)
    except Exception:  # noqa: BLE001 - some shapes are known later only
        known = None
    value = np.asarray(handle.result())
    if known is not None and (
        known[0] != value.dtype or any(n not in (None, m) for n, m in zip(known[1], value.shape, strict=False))
    ):
        raise AssertionError(f"{known} was said before, {value.dtype} {value.shape} came")
    return value


def judged(case: Case, mine: Any, theirs: Any) -> str | None:
    """Compare two outcomes, errors among them."""
    if isinstance(theirs, Exception):
        if isinstance(mine, type(theirs)):
            return None
        return f"the host raised {theirs!r}, the GPU gave {mine!r}"
    if isinstance(mine, Exception):
        return f"the GPU raised {mine!r}"
    return compared(mine, theirs, case.exact)


def check_cases(report: Report, cases: Iterable[Case], *, until: float = float("inf")) -> None:
    """Run cases on the host and on the GPU, in ASYNC mode."""
    begun = perf_counter()
    with Executor(config(), execution_mode=ExecutionMode.ASYNC):
        for case in cases:
            if report.was_begun():
                continue
            if perf_counter() > until:
                report.add(case.name, "not run: there was no time left")
                break
            report.begin(case.name)
            theirs, mine = computed(case, "CPU:0"), computed(case, "GPU:0")
            if isinstance(mine, NotImplementedError) and "to_device('CPU:0')" in str(mine):
                report.lack(case.name)
                continue
            if isinstance(mine, DeviceLostError):
                report.add(case.name, f"the GPU was lost: {mine}")
                raise mine
            report.add(case.name, judged(case, mine, theirs))
    report.seconds += perf_counter() - begun


# ---------------------------------------------------------------------------------------------------------------------
# Programs

BINARY = ("add", "subtract", "multiply", "maximum", "minimum", "divide")
UNARY = ("tanh", "abs", "sin", "square", "negative")


def grow(rng: random.Random, values: list[tuple[Handle, Array]], steps: int, places: Sequence[str]) -> None:
    """Add random ops to some values, on random devices, each with what NumPy gives."""
    for _ in range(steps):
        (h1, a1), (h2, a2) = rng.choice(values), rng.choice(values)
        kind = rng.random()
        with device(rng.choice(places)):
            if kind < 0.15:
                values.append((h1.to_device(rng.choice(places)), a1))
            elif kind < 0.3:
                name = rng.choice(UNARY)
                values.append((op(name)(h1), getattr(np, name)(a1)))
            elif kind < 0.4:
                values.append((op("where")(h1 > h2, h1, h2 / 2), np.where(a1 > a2, a1, a2 / 2)))
            elif kind < 0.5:
                values.append((h1.T + h2[:, :1].T * 0, a1.T + a2[:, :1].T * 0))
            else:
                name = rng.choice(BINARY)
                values.append((op(name)(h1, h2), getattr(np, name)(a1, a2)))


def check_programs(report: Report, seeds: Iterable[int], *, until: float = float("inf")) -> None:
    """Run random programs over the host and the GPU, and compare every value with NumPy's."""
    begun = perf_counter()
    with Executor(config(), execution_mode=ExecutionMode.ASYNC):
        for seed in seeds:
            if report.was_begun():
                continue
            if perf_counter() > until:
                report.add(f"programs from {seed} on", "not run: there was no time left")
                break
            report.begin(f"program {seed}")
            rng = random.Random(seed)
            start = np.random.default_rng(seed).uniform(0.5, 1.5, (4, 4))
            values = [(op("asarray")(start + number), start + number) for number in range(2)]
            with np.errstate(all="ignore"):
                grow(rng, values, 20, ("CPU:0", "GPU:0", "GPU:0"))
                problems = [compared(handle.result(), array, False) for handle, array in values]
            report.add(f"program {seed}", next(filter(None, problems), None))
    report.seconds += perf_counter() - begun


# ---------------------------------------------------------------------------------------------------------------------
# Errors, policies, cancellation


def raises(error: type[BaseException], text: str, call: Callable[[], Any]) -> str | None:
    """Say what is wrong with a call that is to raise an error that says some text; None where it does."""
    try:
        result = call()
        if isinstance(result, Handle):
            result.result()
    except error as raised:
        return None if text in f"{raised} {getattr(raised, '__notes__', '')}" else f"{raised!r} does not say {text!r}"
    except Exception as raised:  # noqa: BLE001 - the wrong error is what is reported
        return f"raised {raised!r} in place of {error.__name__}"
    return f"raised no {error.__name__}"


def _behaviour(side: int) -> Iterator[tuple[str, Callable[[], str | None]]]:
    def here(value: Any) -> Handle:
        handle: Handle = op("asarray")(np.asarray(value), device="GPU:0")
        return handle

    def poisoned() -> str | None:
        bad = here([1.0, 2.0]) + here([1.0, 2.0, 3.0])
        dependent, other = bad * 2, here([1.0]) + 1
        return raises(ValueError, "on GPU:0", lambda: dependent) or compared(other.result(), np.array([2.0]), True)

    def explicit() -> str | None:
        x = here([1.0])
        with device_policy(DevicePolicy.EXPLICIT), device("CPU:0"):
            return raises(DevicePlacementError, "actually on GPU:0", lambda: x + 1) or compared(
                (x.to_device("CPU:0") + 1).result(), np.array([2.0]), True
            )

    def integers() -> str | None:
        with device_policy(DevicePolicy.SILENT_FOR_INT32), device("CPU:0"):
            moved = (here(np.array([1], np.int32)) + 1).result()
            return compared(moved, np.array([2], np.int32), True) or raises(
                DevicePlacementError, "GPU:0", lambda: here([1.0]) + 1
            )

    def silent() -> str | None:
        with device_policy(DevicePolicy.SILENT), device("GPU:0"):
            result = op("asarray")(np.ones(3), device="CPU:0") + here(np.ones(3))
        return None if str(result.device) == "GPU:0" and result.tolist() == [2.0] * 3 else f"gave {result!r}"

    def cancelled() -> str | None:
        x = here(np.ones((side, side)))
        chain = [x]
        for _ in range(100):
            chain.append(op("matmul")(chain[-1], x) / side)
        chain[-1].cancel()
        return raises(OpCancelledError, "", lambda: chain[-1]) or compared(
            (x + 1).result()[0, 0], np.float64(2.0), True
        )

    def whole() -> str | None:
        large = np.arange(3_000_000.0)
        return compared((here(large) + 1).result(), large + 1, True)

    yield "a mismatch poisons dependents only", poisoned
    yield "EXPLICIT refuses", explicit
    yield "SILENT_FOR_INT32", integers
    yield "SILENT copies", silent
    yield "what is cancelled is dropped", cancelled
    yield "more than one piece is copied", whole
    yield "not enough memory", lambda: raises(MemoryError, "GPU:0", lambda: op("zeros")((1 << 42,), device="GPU:0"))
    yield "no strings", lambda: raises(TypeError, "CPU:0", lambda: here(["a"]) == "a")
    yield (
        "a function that is lacking",
        lambda: raises(NotImplementedError, "to_device('CPU:0')", lambda: here([1.0]).byteswap()),
    )


def check_behaviour(report: Report, *, side: int = 256) -> None:
    """Check errors, policies, cancellation (of products of matrices with this side) and copies."""
    begun = perf_counter()
    with Executor(config(), execution_mode=ExecutionMode.ASYNC):
        check_each(report, _behaviour(side))
    report.seconds += perf_counter() - begun


def check_each(report: Report, checks: Iterable[tuple[str, Callable[[], str | None]]]) -> None:
    """Make some checks, each of which may raise anything."""
    for name, check in checks:
        if report.was_begun():
            continue
        report.begin(name)
        try:
            problem = check()
        except Exception:  # noqa: BLE001 - what is found after it is worth as much
            problem = traceback.format_exc()
        report.add(name, problem)
