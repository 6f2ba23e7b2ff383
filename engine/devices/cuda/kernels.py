"""Kernels: which function of CuPy computes an op, found by the name of the NumPy function that computes it on the host.

Three kinds of kernels are known: NumPy's ufuncs, which CuPy has under the same names; NumPy's functions, which it has
too, apart from a few in `rules`; and the engine's own, each of which has a row there. Functions of users are Python
code on ndarrays, and draws of random numbers go on with a generator of the host: the host computes those.

What is known of neither side is an error that says to compute it on the host: moving arrays over the bus in silence
would be slower than never having moved them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache

import numpy as np

from engine.base.op import Type, loop_dtypes
from engine.base.pytree import fill
from engine.base.traced import Traced
from engine.devices.cuda.bounds import check_exponents
from engine.devices.cuda.rules import RULES
from engine.devices.cuda.rules_statistics import as_computed, is_too_wide
from engine.devices.cuda.rules_views import rules as rules_of_views
from engine.devices.cuda.runtime import Namespace, Rule, Sharing, Term

_eagerloop_internal = True  # its frames are not the user's

_OURS = ("engine.ops.", "engine.parallel.", "_operator", "numpy")
"""Beginnings of the modules whose kernels are looked for; any other is a user's, or has to do with the host."""
_OURS_OF_HOST = ("engine.ops.numpy_writes",)
"""Kernels that write into arrays of the host, or call functions of users."""

_CALLING = frozenset({"apply_along_axis", "apply_over_axes", "piecewise"})
"""Functions of NumPy that call functions of users, which are written for ndarrays."""


class Lacking(NotImplementedError):
    """An op that a GPU does not compute."""


def lacking(name: str, why: str = "CuPy has no such function") -> Lacking:
    """Make the error of an op that a GPU does not compute."""
    return Lacking(
        f"{name!r} cannot be computed on a GPU: {why}; compute it on the host, with handle.to_device('CPU:0')"
    )


def is_for_gpu(name: str, kernel: Callable[..., Term]) -> bool:
    """Tell whether a GPU is asked for an op; what it is asked for and lacks is an error."""
    if isinstance(kernel, Traced):
        return True
    if isinstance(kernel, np.ufunc):
        return getattr(np, kernel.__name__, None) is kernel
    module = str(getattr(kernel, "__module__", None))
    if name in _CALLING:
        return False
    return module.startswith(_OURS) and not module.startswith(_OURS_OF_HOST)


def rule_of(name: str, kernel: Callable[..., Term]) -> Rule:
    """The rule that computes an op on a GPU. Raises `NotImplementedError` where there is none."""
    if isinstance(kernel, np.ufunc):
        return _ufunc_rule(kernel)
    module, qualname = str(kernel.__module__), str(kernel.__qualname__)
    return _function_rule(name, module, qualname)


@cache
def _ufunc_rule(ufunc: np.ufunc) -> Rule:
    return Elementwise(ufunc)


@cache
def _function_rule(name: str, module: str, qualname: str) -> Rule:
    for key in (f"{module}:{qualname}:{name}", f"{module}:{qualname}"):
        if key in RULES:
            return RULES[key]
    if f"{module}:{qualname}" in _OPERATORS:
        return _ufunc_rule(_OPERATORS[f"{module}:{qualname}"])
    if f"{module}:{qualname}" in _VIEWS:
        return _VIEWS[f"{module}:{qualname}"]
    if module.startswith("numpy"):
        path = module.removeprefix("numpy").lstrip(".")
        return named_rule(f"{path}.{qualname}" if path and not path.startswith("_") else qualname)
    if (module, qualname) == ("engine.ops.numpy_protocols", "_opaque.<locals>.kernel"):
        return called_rule(name)
    if (module, qualname) == ("engine.ops.numpy_protocols", "method_op.<locals>.kernel"):
        return _method_rule(name)
    if (module, qualname) == ("engine.ops.operators", "_in_place.<locals>.kernel"):
        return _in_place_rule(name)
    raise lacking(name, "there is no rule for it")


_VIEWS = rules_of_views(rule_of)
_OPERATORS = {"_operator:eq": np.equal, "_operator:ne": np.not_equal}


def found(xp: Namespace, path: str) -> Callable[..., Term]:
    """A function of the namespace by its name, such as `linalg.inv`."""
    value: Term = xp
    for part in path.split("."):
        value = getattr(value, part, None)
    if not callable(value):
        raise lacking(path)
    return value  # type: ignore[no-any-return]


def named_rule(path: str) -> Rule:
    """The rule of a function that CuPy has with the same parameters, as far as the engine uses them."""

    def rule(xp: Namespace, *arguments: Term, **params: Term) -> Term:
        return found(xp, path)(*arguments, **params)

    return _in_turn(path, rule)


def _in_turn(path: str, rule: Rule) -> Rule:
    """The rule, as one that shares memory where its function makes transforms."""
    transforms = path.startswith("fft.") or path in ("convolve", "correlate")
    return Sharing(rule) if transforms else rule


def called_rule(path: str) -> Rule:
    """The rule of a function that was called with arguments of any form: they are in the parameter `call`."""

    def rule(xp: Namespace, *operands: Term, call: Term) -> Term:
        args, kwargs = fill(call, operands)
        given = {key: _plain(value) for key, value in kwargs.items()}
        parts = list(_leaves(xp, _called(xp, path, tuple(map(_plain, args)), given)))
        return tuple(parts) if len(parts) != 1 else parts[0]

    return _in_turn(path, rule)


def _called(xp: Namespace, path: str, args: Sequence[Term], kwargs: dict[str, Term]) -> Term:
    """Call a function; a parameter of NumPy's that CuPy's function has not is what it lacks."""
    try:
        return found(xp, path)(*args, **kwargs)
    except TypeError as error:
        if "argument" in str(error):
            raise lacking(path, f"CuPy's function says: {error}") from error
        raise


def _leaves(xp: Namespace, result: Term) -> Iterator[Term]:
    """The arrays of a result, which may be nested tuples and lists of them, and of numbers."""
    if isinstance(result, tuple | list):
        for each in result:
            yield from _leaves(xp, each)
    else:
        yield result if hasattr(result, "shape") else xp.asarray(np.asarray(result))


def _plain(value: Term) -> Term:
    """An argument; the engine's wrapper of a small constant array gives the numbers that are in it."""
    array = getattr(value, "array", None) if type(value).__module__ == "engine.ops.numpy_shapes" else None
    return array.tolist() if isinstance(array, np.ndarray) else value


def _method_rule(name: str) -> Rule:
    """The rule of a method of a ufunc, such as `add.reduce`, or of a ufunc that is called with keywords."""

    def rule(xp: Namespace, *operands: Term, call: Term) -> Term:
        args, kwargs = fill(call, operands)
        if kwargs.get("out") is not None or "where" in kwargs:
            raise lacking(name, "CuPy's functions know no `where`, and values are never written over")
        given = {key: value for key, value in kwargs.items() if value is not None}
        ufunc, _, method = name.partition(".")
        if method == "reduce" and ufunc in _REDUCTIONS:
            name_there = _REDUCTIONS[ufunc]
            return _called(xp, name_there, args, {"axis": 0, **given} if len(args) < 2 else given)
        return _called(xp, name, args, given)

    return rule


_REDUCTIONS = {"maximum": "max", "minimum": "min", "logical_and": "all", "logical_or": "any"}
"""Reductions that CuPy has as functions, and not as methods of its ufuncs."""


def _in_place_rule(name: str) -> Rule:
    """The rule of an operator such as `x += y`, whose result has the shape and the dtype of `x`."""
    ufunc: np.ufunc = getattr(np, name)

    def rule(xp: Namespace, x1: Term, x2: Term) -> Term:
        result = Elementwise(ufunc)(xp, x1, x2)
        return into(xp, ufunc, result, x1)

    return rule


def into(xp: Namespace, ufunc: np.ufunc, result: Term, target: Term) -> Term:
    """The result as what is written over a target, by NumPy's rules for that. Raises what NumPy raises."""
    if result.shape != target.shape:
        raise ValueError(
            f"non-broadcastable output operand with shape {target.shape} doesn't match the broadcast shape "
            f"{result.shape}"
        )
    if not np.can_cast(result.dtype, target.dtype, "same_kind"):
        raise TypeError(
            f"Cannot cast ufunc {ufunc.__name__!r} output from {result.dtype!r} to {target.dtype!r} with casting rule "
            "'same_kind'"
        )
    return result.astype(target.dtype, copy=False)


# ---------------------------------------------------------------------------------------------------------------------
# Ufuncs

_COMPARISONS = frozenset({"equal", "not_equal", "less", "less_equal", "greater", "greater_equal"})
_LOGICAL = frozenset({"logical_and", "logical_not", "logical_or", "logical_xor"})
"""Functions that CuPy has not for complex numbers: it is asked for them of what is not zero."""
_NARROWER = frozenset({"float_power"})
"""Functions that CuPy computes in the dtype of the operands, and NumPy in a wider one."""
_PREPARED = _LOGICAL | _NARROWER | {"power"}


class Elementwise:
    """The rule of a ufunc: CuPy's of the same name, with NumPy's dtypes and NumPy's refusals.

    What is known of the types of the operands alone is found out once: it is asked for each small op.
    """

    __slots__ = ("_array", "_name", "_plain", "_there", "_ufunc")

    def __init__(self, ufunc: np.ufunc) -> None:
        self._ufunc = ufunc
        self._name = ufunc.__name__
        self._there: tuple[Namespace, Callable[..., Term]] | None = None
        """The namespace that was asked last, and what it has."""
        self._array: type | None = None
        """The class of its arrays."""
        self._plain: dict[tuple[Type, ...], np.dtype[Term]] = {}
        """The dtype of the result for types of operands, an array among them, that need no other look."""

    def __call__(self, xp: Namespace, *operands: Term, **params: Term) -> Term:
        types = tuple([_CLASSES.get(each.__class__) or each.dtype for each in operands])
        there = self._there
        dtype = self._plain.get(types)
        if dtype is not None and there is not None and there[0] is xp:
            for each in operands:
                if each.__class__ is self._array:
                    try:
                        result = there[1](*operands, **params)
                    except (OverflowError, ValueError):
                        break  # a scalar that NumPy takes; or what NumPy refuses, which is said again
                    return result if result.dtype is dtype else _of(result, dtype)
        return self._looked_at(xp, types, operands, params)

    def _looked_at(
        self, xp: Namespace, types: tuple[Type, ...], operands: tuple[Term, ...], params: dict[str, Term]
    ) -> Term:
        dtypes = _dtypes(self._ufunc, types)
        expected = dtypes[-self._ufunc.nout :]
        there = self._there
        if there is None or there[0] is not xp:
            there = self._there = xp, found(xp, self._name)
            self._plain.clear()
        array = next((each for each in operands if each.__class__ not in _CLASSES and _is_array(each)), None)
        if array is None:
            operands = tuple(xp.asarray(np.asarray(each)) for each in operands)
        elif int in types:
            pairs = zip(operands, dtypes, strict=False)
            wide = next((each for each, dtype in pairs if is_too_wide(each, dtype)), None)
            if wide is not None:
                return self._constant(xp, wide, operands, dtypes)
        operands = tuple(map(as_computed, operands, dtypes))
        if self._name in _PREPARED:
            operands = self._prepared(xp, operands, types)
        result = there[1](*operands, **params)
        if isinstance(result, tuple):
            return tuple(_of(each, dtype) for each, dtype in zip(result, expected, strict=True))
        if array is not None and self._name not in _PREPARED and not _may_be_too_wide(types):
            self._array = array.__class__
            self._plain[types] = expected[-1]
        return _of(result, expected[-1])

    def _prepared(self, xp: Namespace, operands: Sequence[Term], types: tuple[Type, ...]) -> tuple[Term, ...]:
        """The operands of functions that CuPy has for other dtypes than NumPy, or for values that NumPy refuses."""
        if self._name == "power":
            check_exponents(xp, _dtypes(self._ufunc, types)[-1], operands[1])
            return tuple(operands)
        if self._name in _LOGICAL:
            return tuple(each != 0 if _is_complex(kind) else each for each, kind in zip(operands, types, strict=True))
        wide = self._ufunc.resolve_dtypes((*types, *(None,) * self._ufunc.nout))
        return tuple(
            each.astype(dtype, copy=False) if hasattr(each, "astype") else each
            for each, dtype in zip(operands, wide, strict=False)
        )

    def _constant(self, xp: Namespace, wide: int, operands: Sequence[Term], dtypes: Sequence[np.dtype[Term]]) -> Term:
        """A comparison with a number that no element can be: the answer is the same for all."""
        if self._name not in _COMPARISONS or any(getattr(each, "dtype", None) == np.bool_ for each in operands):
            raise OverflowError(f"Python integer {wide} out of bounds for {dtypes[0]}")
        answer = bool(self._ufunc(*(each if each is wide else 0 for each in operands)))
        shape = next(each.shape for each in operands if hasattr(each, "shape"))
        return xp.full(shape, answer, dtype=bool)


_CLASSES: Mapping[type, Type] = {int: int, float: float, complex: complex, bool: np.dtype(bool)}
"""Python's scalars, and what they are to NumPy."""


def _is_array(operand: Term) -> bool:
    return not isinstance(operand, np.generic)


@cache
def _dtypes(ufunc: np.ufunc, types: tuple[Type, ...]) -> tuple[np.dtype[Term], ...]:
    """The dtypes that NumPy converts the operands to, and those of the results. Raises `TypeError` as NumPy does."""
    if ufunc.nout == 1:
        return loop_dtypes(ufunc, types)
    return ufunc.resolve_dtypes((*types, *(None,) * ufunc.nout))


def _may_be_too_wide(types: tuple[Type, ...]) -> bool:
    """Tell whether a Python integer may be one that the integers of the other operand cannot be."""
    return int in types and all(each.kind in "biu" for each in types if isinstance(each, np.dtype))


def _is_complex(kind: Type) -> bool:
    return kind is complex or (isinstance(kind, np.dtype) and kind.kind == "c")


def _of(result: Term, dtype: np.dtype[Term]) -> Term:
    return result if result.dtype == dtype else result.astype(dtype)
