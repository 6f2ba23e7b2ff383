"""Random numbers: a generator whose draws are ops, with the very numbers of NumPy's generator of the same seed.

`Generator._lock` guards the order of the draws: each depends on the token of the one before it.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike

from engine.base.op import Op, Params, ShapeDtype
from engine.base.pytree import fill, take
from engine.ops import checks
from engine.ops.infer import broadcast, shape_of
from engine.queues.operands import settled
from engine.runtime.current import current
from engine.settings.in_force import list_devices
from engine.settings.scope import scope_var
from engine.settings.switch import program
from handles.base import Handle
from handles.cell import Failure
from handles.views import rebind, refresh

Seed: TypeAlias = int | Sequence[int] | np.random.SeedSequence | np.random.BitGenerator | np.random.Generator | None
Size: TypeAlias = int | tuple[int, ...] | None
Number: TypeAlias = object
"""A number, an array of numbers, or a handle of one."""


Rule: TypeAlias = Callable[[tuple[object, ...], Params], ShapeDtype]
"""Shape and dtype of a draw, from its arguments."""


def default_rng(seed: Seed = None) -> Generator:
    """A generator of the numbers that `numpy.random.default_rng(seed)` gives, in the order in which draws are called.

    `seed` is an integer, a sequence of integers, a `SeedSequence`, a bit generator, a generator of NumPy's (whose state
    the draws then advance), or None for one that the system gives. Raises what NumPy raises for a seed that is none.

    >>> rng = engine.random.default_rng(2026)
    >>> noise = rng.normal(size=3)
    >>> (await noise == np.random.default_rng(2026).normal(size=3)).all()
    np.True_
    """
    return Generator(np.random.default_rng(seed))


class Generator:
    """Draws random numbers as `numpy.random.Generator` does: each draw is an op, and comes after the one before it.

    `size` is the shape of a draw, an integer or a tuple of them; None is the shape of the parameters, broadcast: of
    numbers a handle of no dimensions. Parameters may be numbers, arrays and handles.

    What a draw gives depends on the draws called before it, not on when it runs or where. A draw of parameters that
    cannot be raises `ValueError` at the call, and takes no numbers. A draw that fails or is cancelled later on poisons
    those that were called after it and before that became known. Draws may be called from any task or thread.

    >>> rng = engine.random.default_rng(2026)
    >>> dice = rng.integers(1, 6, size=(2, 3), endpoint=True)
    >>> dice.shape, dice.dtype
    ((2, 3), dtype('int64'))
    """

    def __init__(self, generator: np.random.Generator) -> None:
        self._generator = generator
        self._lock = threading.Lock()
        self._last: weakref.WeakKeyDictionary[object, Handle] = weakref.WeakKeyDictionary()
        """The token that the next draw depends on: in each graph, and eagerly."""

    def __repr__(self) -> str:
        return f"<engine.random.Generator of {type(self._generator.bit_generator).__name__}>"

    if not TYPE_CHECKING:  # for a type checker a name that is not there is an error

        def __getattr__(self, name: str) -> None:
            hint = ""
            if not name.startswith("_") and callable(getattr(np.random.Generator, name, None)):
                hint = f": make an op of NumPy's own, engine.op(numpy.random.default_rng(seed).{name})(...)"
            raise AttributeError(f"{type(self).__name__!r} object of engine.random has no attribute {name!r}{hint}")

    # Draws

    def random(self, size: Size = None, dtype: DTypeLike = np.float64) -> Handle:
        """Uniform numbers from 0 up to, not including, 1, in float64 or float32."""
        return self._draw("random", (), size, dtype=dtype)

    def uniform(self, low: Number = 0.0, high: Number = 1.0, size: Size = None) -> Handle:
        """Uniform numbers from `low` up to, not including, `high`."""
        return self._draw("uniform", (low, high), size)

    def standard_normal(self, size: Size = None, dtype: DTypeLike = np.float64) -> Handle:
        """Normal numbers of mean 0 and standard deviation 1, in float64 or float32."""
        return self._draw("standard_normal", (), size, dtype=dtype)

    def normal(self, loc: Number = 0.0, scale: Number = 1.0, size: Size = None) -> Handle:
        """Normal numbers of mean `loc` and standard deviation `scale`."""
        return self._draw("normal", (loc, scale), size)

    def integers(
        self, low: Number, high: Number = None, size: Size = None, dtype: DTypeLike = np.int64, endpoint: bool = False
    ) -> Handle:
        """Integers from `low` (0 when only one bound is given) up to `high`, which is included with `endpoint`."""
        bounds = (0, low) if high is None else (low, high)
        return self._draw("integers", bounds, size, dtype=dtype, endpoint=endpoint)

    def exponential(self, scale: Number = 1.0, size: Size = None) -> Handle:
        """Exponentially distributed numbers of mean `scale`."""
        return self._draw("exponential", (scale,), size)

    def poisson(self, lam: Number = 1.0, size: Size = None) -> Handle:
        """Poisson distributed integers of mean `lam`."""
        return self._draw("poisson", (lam,), size)

    def binomial(self, n: Number, p: Number, size: Size = None) -> Handle:
        """How many of `n` trials succeed, each with probability `p`."""
        return self._draw("binomial", (n, p), size)

    def gamma(self, shape: Number, scale: Number = 1.0, size: Size = None) -> Handle:
        """Gamma distributed numbers."""
        return self._draw("gamma", (shape, scale), size)

    def beta(self, a: Number, b: Number, size: Size = None) -> Handle:
        """Beta distributed numbers."""
        return self._draw("beta", (a, b), size)

    def lognormal(self, mean: Number = 0.0, sigma: Number = 1.0, size: Size = None) -> Handle:
        """Numbers whose logarithm is normal."""
        return self._draw("lognormal", (mean, sigma), size)

    def choice(
        self,
        a: Number,
        size: Size = None,
        replace: bool = True,
        p: Number = None,
        axis: int = 0,
        shuffle: bool = True,
    ) -> Handle:
        """Elements of `a` (or integers below it), with probabilities `p`."""
        return self._dispatch("choice", (a, size), {"replace": replace, "p": p, "axis": axis, "shuffle": shuffle}, None)

    def permutation(self, x: Number, axis: int = 0) -> Handle:
        """The array (or the integers below `x`) in random order along an axis."""
        return self._dispatch("permutation", (x,), {"axis": axis}, _same_shape)

    def permuted(self, x: Number, *, axis: int | None = None) -> Handle:
        """The array with its elements in random order, each line along the axis on its own."""
        return self._dispatch("permuted", (x,), {"axis": axis}, _same_shape)

    def shuffle(self, x: Handle, axis: int = 0) -> None:
        """Rebind a handle to its array in random order along an axis."""
        refresh(x)
        rebind(x, self.permutation(x, axis))

    # Dispatch

    def _draw(self, name: str, args: tuple[object, ...], size: Size, **params: object) -> Handle:
        shape = None if size is None else checks.integers(f"random.{name}", "size", size)
        args = tuple(np.asarray(arg) if isinstance(arg, list | tuple) else arg for arg in args)
        _check(name, args, params)

        def infer(args: tuple[object, ...], kwargs: Params) -> ShapeDtype:
            return ShapeDtype(broadcast(*map(shape_of, args)) if shape is None else shape, _dtype(name, args, params))

        return self._dispatch(name, args, {"size": shape, **params}, infer)

    def _dispatch(self, name: str, args: tuple[object, ...], kwargs: Params, infer: Rule | None) -> Handle:
        operands: list[Any] = []
        call = take((args, kwargs), operands, settled)
        count = len(operands)
        method = getattr(self._generator, name)

        def kernel(*operands: object) -> object:
            args, kwargs = fill(call, operands[:count])
            return method(*args, **kwargs), np.empty(0)

        def inferred(*operands: object) -> tuple[ShapeDtype, ...]:
            assert infer is not None
            return infer(*fill(call, operands[:count])), ShapeDtype((0,), np.dtype(float))

        op = Op(
            f"random.{name}", kernel, infer=None if infer is None else inferred, ns=_cost(kwargs), outputs=2, pure=False
        )
        with self._lock:
            dispatcher = current()
            world = getattr(dispatcher, "graph", program)
            last = self._last.get(world)
            if last is not None and not isinstance(last._cell.value, Failure):
                operands.append(_moved(last))
            drawn, self._last[world] = dispatcher.dispatch_several(op, tuple(operands))
        return drawn


def _moved(token: Handle) -> Handle:
    """Bring the token of the draw before to the device of the next: it has no value, so no policy is asked."""
    device = scope_var.get().device or list_devices()[0]
    return token if device.covers(token.device) else token.to_device(device)


def _cost(kwargs: Params) -> float | None:
    """Known for a number of draws that is given and small; else the draw runs on a worker."""
    size = kwargs.get("size", np.inf)
    return 1.0 if size is None or np.prod(size) <= SMALL_DRAW else None


SMALL_DRAW = 2_000
"""Numbers up to which a draw runs in place."""


def _check(name: str, args: tuple[object, ...], params: Params) -> None:
    """Refuse parameters that cannot be, with NumPy's own error; those in handles are looked at when the draw runs."""
    if not any(isinstance(arg, Handle) for arg in args):
        shape = np.broadcast(*args, 0).shape  # type: ignore[arg-type]
        getattr(np.random.Generator(np.random.PCG64(0)), name)(*args, size=(0, *shape), **params)


def _dtype(name: str, args: tuple[object, ...], params: Params) -> np.dtype[Any]:
    default = np.int64 if name in ("poisson", "binomial") else np.float64
    found: np.dtype[Any] = np.dtype(params.get("dtype", default))
    return found


def _same_shape(args: tuple[object, ...], kwargs: Params) -> ShapeDtype:
    x: Any = args[0]
    return x if isinstance(x, ShapeDtype) else ShapeDtype((int(x),), np.dtype(np.int64))


__all__ = ["Generator", "default_rng"]


def __dir__() -> list[str]:
    return sorted(__all__)


if not TYPE_CHECKING:

    def __getattr__(name: str) -> None:
        drawn = not name.startswith("_") and hasattr(np.random.Generator, name)
        hint = f": draws are methods of a generator, engine.random.default_rng(seed).{name}(...)" if drawn else ""
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{hint}")
