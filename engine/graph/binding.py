"""Arguments bound by a signature: the calls of a function that mean the same are made the same."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from engine.graph.keys import Unset, is_hashable

Positional = tuple[Any, ...]
Named = dict[str, Any]
Arguments = tuple[Positional, Named]

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_EMPTY = inspect.Parameter.empty


class Parameters:
    """The parameters of a Python function; with `bound` without the first, which a method gets from its instance.

    A function that does not tell its parameters, as some builtins, takes what it is given.
    """

    def __init__(self, fn: Callable[..., Any], name: str, *, bound: bool = False) -> None:
        self._name = name
        self._signature = _signature_of(fn, bound=bound)
        parameters = [] if self._signature is None else list(self._signature.parameters.values())
        kinds = {each.kind for each in parameters}
        self._takes_more = inspect.Parameter.VAR_POSITIONAL in kinds
        self._is_plain = kinds <= {inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY}
        """True if each parameter has a name, by which it may be given if it is not the first so many."""
        self._count = sum(each.kind in _POSITIONAL for each in parameters)
        self._by_name_only = any(each.kind is inspect.Parameter.KEYWORD_ONLY for each in parameters)
        self._defaults = {each.name: _default(each) for each in parameters if each.default is not _EMPTY}
        self._names = [each.name for each in parameters]

    def bind(self, args: Positional, kwargs: Named) -> Arguments:
        """The arguments with the defaults of those left out: by position where a position is, else in their order.

        Raises `TypeError`, which names the function, for arguments that do not fit.
        """
        given = len(args)
        if self._signature is None:
            return args, kwargs
        if not (kwargs or self._by_name_only) and (given == self._count or (given > self._count and self._takes_more)):
            return args, kwargs
        return self._bind_by_name(args, kwargs) if self._is_plain else self._bind_slowly(args, kwargs)

    def order(self, args: Positional, kwargs: Named) -> Arguments:
        """As `bind`, without the defaults."""
        if not kwargs or self._signature is None:
            return args, kwargs
        bound = self._bound(args, kwargs)
        return bound.args, bound.kwargs

    def _bind_by_name(self, args: Positional, kwargs: Named) -> Arguments:
        count, left = self._count, len(kwargs)
        values = list(args)
        named = {}
        for index in range(len(args), len(self._names)):
            name = self._names[index]
            if name in kwargs:
                value = kwargs[name]
                left -= 1
            elif name in self._defaults:
                value = self._defaults[name]
            else:
                self._refuse(args, kwargs)
            if index < count:
                values.append(value)
            else:
                named[name] = value
        if left or len(args) > count:
            self._refuse(args, kwargs)
        return tuple(values), named

    def _bind_slowly(self, args: Positional, kwargs: Named) -> Arguments:
        bound = self._bound(args, kwargs)
        for name, default in self._defaults.items():
            bound.arguments.setdefault(name, default)
        return bound.args, bound.kwargs

    def _bound(self, args: Positional, kwargs: Named) -> inspect.BoundArguments:
        assert self._signature is not None
        try:
            return self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"engine.function {self._name!r}: {error}") from None

    def _refuse(self, args: Positional, kwargs: Named) -> NoReturn:
        bound = self._bound(args, kwargs)
        raise AssertionError(f"arguments were refused that can be bound: {bound}")


def _signature_of(fn: Callable[..., Any], *, bound: bool) -> inspect.Signature | None:
    try:
        # The signature of the function that a wrapper wraps may not be that of the wrapper itself.
        signature = inspect.signature(fn, follow_wrapped=False)
    except (TypeError, ValueError):
        return None
    if not bound:
        return signature
    return _without_first(signature, list(signature.parameters.values()))


def _without_first(signature: inspect.Signature, parameters: Sequence[inspect.Parameter]) -> inspect.Signature | None:
    if not parameters:
        return None
    if parameters[0].kind is inspect.Parameter.VAR_POSITIONAL:
        return signature
    return signature.replace(parameters=parameters[1:]) if parameters[0].kind in _POSITIONAL else None


def _default(parameter: inspect.Parameter) -> object:
    """The value bound where an argument is left out; a default that is not hashable is equal to itself only."""
    default = parameter.default
    return default if is_hashable(default) else Unset(default)
