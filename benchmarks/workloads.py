"""What is measured: rows of a table. Work on arrays is written once, against the names of the array API."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Chain = Callable[..., Any]
"""A function of a namespace (`add`, `where`, `sum`, ...) and the inputs."""


@dataclass(frozen=True)
class Workload:
    """One row: what is done, on how many elements (or how many times), and what the figure is."""

    name: str
    title: str
    kind: str
    """What a system must be able to do: `chain`, `stream`, `round_trip`, `tasks`, ..."""
    size: int
    unit: str = "ms"
    chain: Chain | None = None
    inputs: Callable[[int], tuple[Array, ...]] | None = None
    expression: str = ""
    """The chain in numexpr's language."""
    after: str = ""
    """The reduction that ends the chain."""


# ---------------------------------------------------------------------------------------------------------------------
# Chains


def ten_ops(xp: Any, x: Any, y: Any) -> Any:
    """Ten elementwise ops, of the kind that formulas are made of."""
    t = xp.add(xp.multiply(x, 2.0), y)
    t = xp.square(xp.subtract(t, 0.5))
    t = xp.sqrt(xp.add(t, 1.0))
    t = xp.abs(xp.multiply(t, x))
    return xp.subtract(xp.maximum(t, y), x)


TEN_OPS = "where(abs(sqrt((x*2.0+y-0.5)**2+1.0)*x)>y, abs(sqrt((x*2.0+y-0.5)**2+1.0)*x), y)-x"


def ten_integer_ops(xp: Any, x: Any, y: Any) -> Any:
    t = xp.add(xp.multiply(x, 2), y)
    t = xp.square(xp.subtract(t, 5))
    t = xp.negative(xp.add(t, 1))
    t = xp.abs(xp.multiply(t, x))
    return xp.subtract(xp.maximum(t, y), x)


TEN_INTEGER_OPS = "where(abs(-((x*2+y-5)**2+1)*x)>y, abs(-((x*2+y-5)**2+1)*x), y)-x"


def with_row_and_column(xp: Any, x: Any, row: Any, column: Any) -> Any:
    t = xp.add(xp.multiply(x, row), column)
    t = xp.square(xp.subtract(t, 0.5))
    t = xp.sqrt(xp.add(t, 1.0))
    t = xp.abs(xp.multiply(t, column))
    return xp.subtract(xp.maximum(t, row), x)


ROW_AND_COLUMN = (
    "where(abs(sqrt((x*row+column-0.5)**2+1.0)*column)>row, abs(sqrt((x*row+column-0.5)**2+1.0)*column), row)-x"
)


def with_transposed(xp: Any, x: Any, y: Any) -> Any:
    t = xp.add(xp.multiply(x, 2.0), xp.permute_dims(y, (1, 0)))
    t = xp.sqrt(xp.abs(t))
    return xp.square(xp.subtract(t, x))


def with_choices(xp: Any, x: Any, y: Any) -> Any:
    t = xp.where(xp.less(x, y), x, y)
    t = xp.add(xp.multiply(t, 2.0), x)
    return xp.where(xp.greater(t, 1.0), xp.subtract(t, y), t)


CHOICES = "where(where(x<y,x,y)*2.0+x>1.0, where(x<y,x,y)*2.0+x-y, where(x<y,x,y)*2.0+x)"


def ending_in(name: str) -> Chain:
    def chain(xp: Any, x: Any, y: Any) -> Any:
        return getattr(xp, name)(ten_ops(xp, x, y))

    return chain


def row_sums(xp: Any, x: Any, y: Any) -> Any:
    return xp.sum(ten_ops(xp, x, y), axis=1)


def add(xp: Any, x: Any, y: Any) -> Any:
    return xp.add(x, y)


def sqrt(xp: Any, x: Any, y: Any) -> Any:
    return xp.sqrt(x)


def astype(xp: Any, x: Any, y: Any) -> Any:
    return xp.astype(x, xp.float32)


# ---------------------------------------------------------------------------------------------------------------------
# Inputs


def pair(dtype: str) -> Callable[[int], tuple[Array, ...]]:
    def inputs(size: int) -> tuple[Array, ...]:
        random = np.random.default_rng(0)
        scale = 100 if np.dtype(dtype).kind == "i" else 1
        return tuple((random.random(size) * scale).astype(dtype) for _ in range(2))

    return inputs


def square_pair(size: int) -> tuple[Array, ...]:
    side = int(size**0.5)
    return tuple(each[: side * side].reshape(side, side) for each in pair("float64")(size))


def matrix_row_column(size: int) -> tuple[Array, ...]:
    (x, y), columns = pair("float64")(size), 4000
    rows = size // columns
    return x[: rows * columns].reshape(rows, columns), y[:columns], y[:rows].reshape(rows, 1)


# ---------------------------------------------------------------------------------------------------------------------
# The table

FLOATS = pair("float64")


def _chain(
    name: str, title: str, chain: Chain, inputs: Any = FLOATS, expression: str = "", after: str = ""
) -> Workload:
    return Workload(name, title, "chain", 10_000_000, "ms", chain, inputs, expression, after)


WORKLOADS = (
    Workload("stream", "one tiny op (4 doubles) in a stream of 10,000", "stream", 10_000, "us"),
    Workload("round_trip", "one tiny op, awaited: `await (a + b)`", "round_trip", 2_000, "us"),
    _chain("ten_float64", "ten elementwise ops, 10M float64", ten_ops, FLOATS, TEN_OPS),
    _chain("ten_float32", "ten elementwise ops, 10M float32", ten_ops, pair("float32"), TEN_OPS),
    _chain("ten_int32", "ten elementwise ops, 10M int32", ten_integer_ops, pair("int32"), TEN_INTEGER_OPS),
    _chain("broadcast", "ten ops with a row and a column", with_row_and_column, matrix_row_column, ROW_AND_COLUMN),
    _chain(
        "transposed", "six ops with a transposed input", with_transposed, square_pair, "(sqrt(abs(x*2.0+y.T))-x)**2"
    ),
    _chain("choices", "seven ops with comparisons and `where`", with_choices, FLOATS, CHOICES),
    _chain("ten_sum", "ten ops ending in `sum`", ending_in("sum"), FLOATS, TEN_OPS, "sum"),
    _chain("ten_mean", "ten ops ending in `mean`", ending_in("mean"), FLOATS, TEN_OPS, "mean"),
    _chain("ten_max", "ten ops ending in `max`", ending_in("max"), FLOATS, TEN_OPS, "max"),
    _chain("row_sums", "ten ops ending in `sum` along the rows", row_sums, square_pair),
    _chain("add", "one `add`, 10M float64", add, FLOATS, "x+y"),
    _chain("sqrt", "one `sqrt`, 10M float64", sqrt, FLOATS, "sqrt(x)"),
    _chain("astype", "one `astype` to float32, 10M float64", astype),
    Workload(
        "ten_tasks", "ten chains of ten ops, 4M float64, from ten tasks", "tasks", 4_000_000, "ms", ten_ops, FLOATS
    ),
    Workload("many_tasks", "10,000 tasks of ten small ops each", "many_tasks", 10_000, "ms", ten_ops, pair("float64")),
    Workload(
        "bundled_tasks",
        "the same, with a task's ten ops handed to one thread at once",
        "bundled_tasks",
        10_000,
        "ms",
        ten_ops,
        pair("float64"),
    ),
    Workload("sorts", "eight sorts of 1M float64, on the devices in turn", "in_turn", 1_000_000),
    Workload("ffts", "eight FFTs of 1M float64, on the devices in turn", "in_turn", 1_000_000),
    Workload("cumsums", "eight cumsums of 4M float64, on the devices in turn", "in_turn", 4_000_000),
    Workload("lag_large", "heartbeat while 100 sorts of 1M float64 run", "backlog_large", 100, "ms"),
    Workload("lag_tiny", "heartbeat while 100,000 tiny ops run", "backlog_tiny", 100_000, "ms"),
    Workload("million", "a million tiny ops, dispatched and finished: growth", "million", 1_000_000, "MB"),
    Workload("million_pending", "a million tiny ops, dispatched without a pause: growth", "pending", 1_000_000, "MB"),
    Workload("peak_memory", "peak memory of ten ops, 10M float64", "peak", 10_000_000, "MB", ten_ops, FLOATS, TEN_OPS),
)


FRESH = ("peak", "million", "pending", "many_tasks", "bundled_tasks")
"""Kinds whose figure is memory: each in new processes, where nothing that was freed hides what is taken."""


def workload(name: str, *, quick: bool) -> Workload:
    """The row of this name; a tenth of the size when quick."""
    row = next(row for row in WORKLOADS if row.name == name)
    return Workload(**{**vars(row), "size": row.size // 10}) if quick else row
