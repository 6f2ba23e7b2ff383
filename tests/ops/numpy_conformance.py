"""The table of docs/conformance.md: what becomes of each public NumPy function on handles, as the sweep finds it.

`python -m tests.ops.numpy_conformance` writes it anew.
"""

import asyncio
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy

import engine
from engine.ops import numpy_protocols
from engine.ops.numpy_forms import FORMS
from engine.ops.numpy_shapes_table import UNTOLD
from tests.ops.test_numpy_arguments import ARRAYS, CHANGING, FUNCTIONS, as_handles, base

np: Any = numpy  # its stubs know of no arrays but its own

PAGE = Path(__file__).resolve().parents[2] / "docs" / "conformance.md"
BEGIN = "<!-- the table below is written by `python -m tests.ops.numpy_conformance` -->"
END = "<!-- the end of that table -->"

ROW, OWN = "the function of `engine.ops`", "an op of its own"
KNOWN, PARTLY = "yes", "but for a length that values decide (`None`)"

ANSWERS: dict[Callable[..., Any], tuple[str, str]] = {
    numpy_protocols.SPECIAL[np.copyto]: ("an op; the handle is rebound to its result", KNOWN),
    numpy_protocols.SPECIAL[np.save]: ("answered at once, by the value: a sync point", "no handle"),
    numpy_protocols.SPECIAL[np.array_equal]: ("answered at once, by the value: a sync point", "no handle"),
    numpy_protocols.SPECIAL[np.ndim]: ("answered at once, by shape and dtype", "no handle"),
    numpy_protocols.SPECIAL[np.shape]: ("answered at once, by shape and dtype", "no handle"),
    numpy_protocols.SPECIAL[np.einsum_path]: ("answered at once, by the lengths", "no handle"),
}

DIFFERENT: dict[Any, str] = {
    **dict.fromkeys((np.array_equal, np.array_equiv, np.allclose), "in a graph it gives a symbol"),
    **dict.fromkeys((np.shape, np.size), "an unknown length is None"),
    **dict.fromkeys(CHANGING, "handles made before keep the old value"),
    np.nan_to_num: "`copy=False` rebinds the handle",
    **dict.fromkeys(
        (np.median, np.nanmedian, np.nanpercentile, np.nanquantile, np.percentile, np.quantile),
        "`overwrite_input` leaves the input as it is",
    ),
    **dict.fromkeys((np.apply_along_axis, np.apply_over_axes, np.piecewise), "the functions run on a worker"),
    **dict.fromkeys(
        (np.poly, np.roots),
        "on a running loop, in ASYNC mode, it is refused as a sync point; `engine.op(np.roots)` is an op",
    ),
}
"""What a user has to know of a function; values, shapes, dtypes and the classes of errors are NumPy's for all."""


class Line(NamedTuple):
    """What functions have in common."""

    dispatched: str
    shape: str
    different: str


def dispatched_as(function: Any) -> tuple[str, str | None]:
    """What a call becomes, and whether the shape is known where that is the same for all such functions."""
    special = numpy_protocols.SPECIAL.get(function)
    if special in ANSWERS:
        return ANSWERS[special]
    return (ROW if function in FORMS else OWN), None


def shape_known(function: Any) -> str:
    """Whether the shape of what the plain call gives is known before it has run. Call it on a running loop."""
    if function in UNTOLD:
        return f"no: {UNTOLD[function]}"
    args, kwargs = as_handles(function, base(function))
    result = function(*args, **kwargs)
    shapes = list(shapes_in(result))
    reasons = [str(each) for each in shapes if isinstance(each, Exception)]
    if reasons:
        return f"no: {reasons[0].partition('(')[2].partition(')')[0]}"
    return PARTLY if any(None in shape for shape in shapes) else KNOWN


def shapes_in(result: Any) -> Iterator[Any]:
    """The shapes of the handles in a result, or the errors that say why there is none."""
    if isinstance(result, tuple | list):
        for each in result:
            yield from shapes_in(each)
        return
    try:
        yield result.shape
    except engine.UnknownShapeError as error:
        yield error


async def lines() -> dict[Line, list[str]]:
    """The functions by what they have in common."""
    found: dict[Line, list[str]] = {}
    async with engine.Executor(execution_mode=engine.ASYNC):
        for name, function in FUNCTIONS.items():
            dispatched, shape = dispatched_as(function)
            if shape is None:
                shape = shape_known(function) if name in ARRAYS else KNOWN
            found.setdefault(Line(dispatched, shape, DIFFERENT.get(function, "")), []).append(name)
        engine.cancel_pending()
    return found


def not_dispatched() -> list[str]:
    """The public functions of arrays that NumPy itself does not dispatch."""
    given = ("a", "x", "arr", "obj", "object", "array", "m", "pyfunc")
    names = []
    for name in sorted(dir(np)):
        function = getattr(np, name)
        if name.startswith("_") or not inspect.isroutine(function) or hasattr(function, "_implementation"):
            continue
        try:
            parameters = list(inspect.signature(function).parameters)
        except ValueError:
            continue
        if parameters and parameters[0] in given:
            names.append(name)
    return names


def table() -> str:
    """The text between the marks of the page."""
    rows = sorted(asyncio.run(lines()).items(), key=lambda row: (row[0].dispatched != ROW, row[0]))
    version = ".".join(np.__version__.split(".")[:2])
    text = [
        f"The {len(FUNCTIONS)} functions that NumPy {version} dispatches, in `numpy`, `numpy.linalg` and `numpy.fft`:",
        "",
        "| functions | a call becomes | shape known at once | to know |",
        "|---|---|---|---|",
    ]
    for line, names in rows:
        shown = ", ".join(f"`{name}`" for name in sorted(names))
        text.append(f"| {shown} | {line.dispatched} | {line.shape} | {line.different} |")
    shown = ", ".join(f"`{name}`" for name in not_dispatched())
    text += ["", f"NumPy itself turns what these are given into arrays, which is an implicit sync point: {shown}."]
    return "\n".join(text)


def parts() -> tuple[str, str, str]:
    """The page before the table, the table, and the page after it."""
    page = PAGE.read_text()
    before, _, rest = page.partition(BEGIN + "\n")
    written, _, after = rest.partition("\n" + END)
    return before, written, after


if __name__ == "__main__":
    before, _, after = parts()
    PAGE.write_text(f"{before}{BEGIN}\n{table()}\n{END}{after}")
