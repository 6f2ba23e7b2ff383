"""The examples in docstrings run, each as a program of its own in a fresh process state."""

import ast
import asyncio
import doctest
import importlib
import inspect
import io
import pkgutil
from collections.abc import Iterator
from contextlib import redirect_stdout
from types import FunctionType

import numpy as np
import pytest

import engine
import handles
from engine import ops
from engine.ops.texts import of_handles

NAMES = {"asyncio": asyncio, "engine": engine, "ops": ops, "np": np}
"""What every example may use without importing it."""


def modules() -> Iterator[str]:
    """Name every module of both packages but those that run when they are imported."""
    for package in (engine, handles):
        yield package.__name__
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not found.name.endswith("__main__") and not found.name.startswith("engine.ops"):
                yield found.name  # those of ops have a test of their own, in both modes


def is_composed(name: str) -> bool:
    """Whether the example has a test with those of the ops, which does not run it on a loop."""
    return name.startswith("handles.") and name.rpartition(".")[2] in dict(of_handles.rows())


def examples() -> Iterator[doctest.DocTest]:
    """Find the docstrings with examples."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    for name in modules():
        try:
            module = importlib.import_module(name)
        except ImportError:
            continue  # an optional library is missing
        for found in finder.find(module, name, extraglobs=NAMES):
            if found.examples and not is_composed(found.name):
                yield found


EXAMPLES = list(examples())
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


async def printed(source: str, names: dict[str, object]) -> str:
    """Run one statement of an example as a notebook would, `await` at its top level included; return what it shows."""
    code = compile(source, "<example>", "single", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    with redirect_stdout(io.StringIO()) as out:
        running = FunctionType(code, names)()
        if code.co_flags & inspect.CO_COROUTINE:
            await running
    return out.getvalue()


@pytest.mark.asyncio(loop_factories=["asyncio"])
@pytest.mark.parametrize("docstring", EXAMPLES, ids=[found.name for found in EXAMPLES])
async def test_an_example_of_a_docstring_runs(docstring: doctest.DocTest) -> None:
    engine.enable_eager_execution(execution_mode=engine.ASYNC)
    checker = doctest.OutputChecker()
    names = dict(docstring.globs)
    for example in docstring.examples:
        try:
            found = await printed(example.source, names)
        except Exception as error:
            if example.exc_msg is None:
                raise
            found, wanted = f"{type(error).__name__}: {error}\n", example.exc_msg
        else:
            assert example.exc_msg is None, f"{example.source} raised nothing"
            wanted = example.want
        assert checker.check_output(wanted, found, FLAGS), f"{example.source}\nwanted: {wanted}\nfound: {found}"


def test_there_are_examples() -> None:
    assert EXAMPLES
