"""Documentation of the ops, put together when the namespace is imported.

An op has a sentence of its own where it is defined, and a row: `name | NumPy's name | result | errors`, then an
example and what it gives. The result is a key of `RESULTS`, the errors are keys of `ERRORS`. What a parameter means is
said once for all ops that have one of that name, unless `PARAMETERS` has an entry for the op.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from engine.ops.texts import arrays, elementwise, linear

_WITHOUT = "A handle of the shape of `x` without the axes (of length 1 with `keepdims`)"
_SUMMED = "Without it small integers become int64, unsigned ones uint64, and other dtypes stay."

RESULTS = {
    "same": "A handle of the shape and dtype of `x`.",
    "real": "A handle of the shape and dtype of `x`; of complex numbers the real dtype of their parts.",
    "float": "A handle of the shape of `x`; a floating dtype stays, integers and booleans become one that holds them.",
    "bool": "A handle of the shape of `x`, bool.",
    "pair": "A handle of the broadcast shape, of the dtype that `x1` and `x2` are promoted to.",
    "pair_float": "A handle of the broadcast shape; integers and booleans become a floating dtype that holds them.",
    "pair_bool": "A handle of the broadcast shape, bool.",
    "reduced": _WITHOUT + ", of the dtype of `x`.",
    "reduced_bool": _WITHOUT + ", bool.",
    "reduced_count": _WITHOUT + ", int64.",
    "reduced_float": _WITHOUT + ".\n    Integers become float64, other dtypes stay.",
    "reduced_sum": f"{_WITHOUT}, of dtype `dtype`.\n    {_SUMMED}",
    "running": "A handle of the shape of `x`, one longer along the axis with `include_initial`, of dtype `dtype`.\n"
    f"    {_SUMMED}",
    "index": "A handle of the shape of `x` without the axis (of length 1 with `keepdims`), int64.",
    "made": "A handle of the shape `shape`; float64, or `dtype`.",
    "made_like": "A handle of the shape of `x`; its dtype, or `dtype`.",
    "arange": "A handle of one dimension; integers where all arguments are, else float64, or `dtype`.",
    "argsort": "A handle of the shape of `x`, int64.",
    "asarray": "A handle of the shape of the data; its dtype, or `dtype`.",
    "astype": "A handle of the shape of `x`, of dtype `dtype`.",
    "broadcast_arrays": "A tuple of handles of the common shape, each of its own dtype.",
    "broadcast_shapes": "The shape, a tuple; None where a length is not known.",
    "broadcast_to": "A handle of the shape `shape`, of the dtype of `x`.",
    "can_cast": "A bool.",
    "clip": "A handle of the broadcast shape, of the dtype that the operands are promoted to.",
    "concat": "A handle: the lengths along the axis added up, of the dtype that the arrays are promoted to.",
    "diff": "A handle with `n` elements less along the axis, of the dtype of `x`.",
    "expand_dims": "A handle of one dimension more for each axis, of the dtype of `x`.",
    "eye": "A handle of the shape `(n_rows, n_cols)`; float64, or `dtype`.",
    "finfo": "An object with `bits`, `eps`, `max`, `min`, `smallest_normal` and `dtype`.",
    "from_dlpack": "A handle of the shape and dtype of `x`.",
    "full": "A handle of the shape `shape`; the dtype of `fill_value`, or `dtype`.",
    "getitem": "A handle of the shape that NumPy gives for the key, of the dtype of `x`.\n"
    "    A length that depends on values is None until the op has run.",
    "iinfo": "An object with `bits`, `max`, `min` and `dtype`.",
    "linspace": "A handle of `num` elements; float64, complex128 where an end is complex, or `dtype`.",
    "product": "A handle of the shape of a product, of the dtype that the two are promoted to.",
    "matrix_transpose": "A handle with the last two lengths exchanged, of the dtype of `x`.",
    "meshgrid": "A tuple of handles, each of as many dimensions as there are arrays, each of its own dtype.",
    "moveaxis": "A handle of the lengths of `x` in another order, of the dtype of `x`.",
    "nonzero": "A tuple of handles of one dimension, int64, one for each dimension of `x`.",
    "repeat": "A handle: the counts added up along the axis, of the dtype of `x`.",
    "reshape": "A handle of the shape `shape`, of the dtype of `x`.",
    "result_type": "A `numpy.dtype`.",
    "searchsorted": "A handle of the shape of `x2`, int64.",
    "split": "A tuple of handles, the parts, of the dtype of `x`.",
    "squeeze": "A handle of the lengths of `x` without those of the axes, of the dtype of `x`.",
    "stack": "A handle of one dimension more, as long as there are arrays, of the dtype that they are promoted to.",
    "take": "A handle: the axis in the shape of `x` replaced by the shape of `indices`, of the dtype of `x`.",
    "take_along_axis": "A handle of the shape of `indices`, broadcast outside the axis, of the dtype of `x`.",
    "tensordot": "A handle of the axes that are not summed, those of `x1` first, of the dtype of the two promoted.",
    "tile": "A handle: each length times its repetitions, of the dtype of `x`.",
    "unique_all": "A named tuple of handles: `values`, and int64 `indices`, `inverse_indices` and `counts`.",
    "unique_counts": "A named tuple of handles of one dimension: `values`, and int64 `counts`.",
    "unique_inverse": "A named tuple of handles: `values`, and int64 `inverse_indices` in the shape of `x`.",
    "unique_values": "A handle of one dimension, of a length known once it has run, of the dtype of `x`.",
    "unstack": "A tuple of handles of one dimension less, of the dtype of `x`.",
    "vecdot": "A handle of the two shapes broadcast, without the axis, of the dtype that the two are promoted to.",
    "where": "A handle of the broadcast shape, of the dtype that `x1` and `x2` are promoted to.",
    "matrices": "A handle of the shape of `x`, of a floating dtype.",
    "det": "A handle of the shape of `x` without the last two axes, of a floating dtype.",
    "diagonal": "A handle: the last two axes replaced by one as long as the diagonal, of the dtype of `x`.",
    "eig": "A named tuple of handles: `eigenvalues` and `eigenvectors` (the columns), complex.",
    "eigh": "A named tuple of handles: `eigenvalues` (real, ascending) and `eigenvectors` (the columns).",
    "eigvals": "A handle of the shape of `x` without the last axis, complex.",
    "eigvalsh": "A handle of the shape of `x` without the last axis, of a real floating dtype.",
    "matrix_norm": "A handle of the shape of `x` without the last two axes (of length 1 with `keepdims`), floating.",
    "matrix_rank": "A handle of the shape of `x` without the last two axes, int64.",
    "outer": "A handle of the shape `(len(x1), len(x2))`, of the dtype that the two are promoted to.",
    "pinv": "A handle with the last two lengths of `x` exchanged, of a floating dtype.",
    "qr": "A named tuple of handles, `Q` and `R`, of a floating dtype.",
    "slogdet": "A named tuple of handles, `sign` and `logabsdet`, of the shape of `x` without the last two axes.",
    "solve": "A handle of the shape of `x2`, broadcast with the stack of `x1`, of a floating dtype.",
    "svd": "A named tuple of handles, `U`, `S` (real) and `Vh`, of a floating dtype.",
    "svdvals": "A handle of the shape of `x` with the last two axes replaced by the shorter one, floating.",
    "trace": "A handle of the shape of `x` without the last two axes, of dtype `dtype`.\n    " + _SUMMED,
    "vector_norm": _WITHOUT + ", floating.",
    "spectrum": "A handle of the shape of `x`, with `n` elements along the axis, complex.",
    "spectra": "A handle of the shape of `x`, with the lengths `s` along the axes, complex.",
    "fftfreq": "A handle of `n` elements; float64, or `dtype`.",
    "hfft": "A handle of the shape of `x`, with `n` elements (`2 * (m - 1)` of `m`) along the axis, floating.",
    "ihfft": "A handle of the shape of `x`, with `n // 2 + 1` elements along the axis, complex.",
    "irfftn": "A handle of the shape of `x`, with the lengths `s` along the axes, of a real floating dtype.",
    "rfftfreq": "A handle of `n // 2 + 1` elements; float64, or `dtype`.",
    "rfftn": "A handle of the shape of `x`, with the lengths `s` along the axes (half of the last one), complex.",
}

_AXIS_ERROR = "`numpy.exceptions.AxisError`, a `ValueError`"
_LINALG_ERROR = "`numpy.linalg.LinAlgError`, a `ValueError`"

ERRORS = {
    "axis": f"{_AXIS_ERROR}, for an axis that is not there.",
    "axis_index": "`IndexError` for an axis that is not there.",
    "broadcast": "`ValueError` where the shapes do not broadcast.",
    "converge": f"{_LINALG_ERROR}, where LAPACK does not converge.",
    "copy": "`ValueError` where `copy=False` cannot be had.",
    "counts": "`ValueError` for a negative count.",
    "device": "`ValueError` for what is no name of a device.",
    "diagonal": "`TypeError` for a `k` that is no integer.",
    "dtype": "`TypeError` for a dtype that NumPy's function does not take.",
    "empty": "`ValueError` where there is no element to choose from.",
    "fit": "`ValueError` where lengths that have to agree differ.",
    "fit_key": "`ValueError` where the value does not fit.",
    "index": "`IndexError` for an index that is out of bounds.",
    "indexing": "`ValueError` for another `indexing`.",
    "integers": "`TypeError` for what are no integers or booleans.",
    "kind": "`ValueError` for a kind that does not exist.",
    "length_one": "`ValueError` for an axis whose length is not 1.",
    "lengths": "`ValueError` for a negative length.",
    "matrix": "`ValueError` with fewer than two dimensions.",
    "mode": "`ValueError` for another mode.",
    "negative_power": "`ValueError` for integers to negative integer powers.",
    "no_dimensions": "`ValueError` for an array of no dimensions.",
    "no_dlpack": "`TypeError` for what has no `__dlpack__`.",
    "no_dtype": "`TypeError` for what is no dtype.",
    "no_float": "`ValueError` for a dtype that is not floating.",
    "no_integer": "`ValueError` for a dtype that is not one of integers.",
    "objects": "`TypeError` for Python objects.",
    "order": "`ValueError` for an order that does not exist.",
    "parts": "`ValueError` where the parts would not be equal.",
    "points": "`ValueError` for fewer than one point.",
    "product": "`ValueError` where the lengths to be summed over differ.",
    "ragged": "`ValueError` for nested sequences of different lengths.",
    "singular": f"{_LINALG_ERROR}, for a singular matrix.",
    "singular_definite": f"{_LINALG_ERROR}, for a matrix that is not positive definite.",
    "singular_negative": f"{_LINALG_ERROR}, for a negative power of a singular matrix.",
    "size": "`ValueError` where the number of elements would change.",
    "square": f"{_LINALG_ERROR}, for matrices that are not square.",
    "step": "`ValueError` for a step of 0.",
    "vectors": "`ValueError` for what has not one dimension where it has to.",
}

_ARRAY = "a handle, an array, a scalar, or a nested sequence of them."
_AXES = "the axes, an integer or a tuple of them; None for all."
_ONE_AXIS = "the axis, an integer."

PARAMETERS = {
    "x": _ARRAY,
    "x1": _ARRAY,
    "x2": _ARRAY,
    "obj": _ARRAY,
    "condition": "booleans: " + _ARRAY,
    "arrays": "handles, arrays or nested sequences.",
    "shapes": "tuples of lengths; None for an unknown length.",
    "arrays_and_dtypes": "handles, arrays, dtypes and Python scalars.",
    "append": "what is joined to the array at its end, before the differences are taken.",
    "axes": "the axes, in order; None for all.",
    "axis": _ONE_AXIS,
    "copy": "True for a copy, False for an error where one is needed, None to let the engine choose.",
    "correction": "what is taken from the number of elements (1 for a sample).",
    "d": "the distance between samples.",
    "descending": "whether the largest element comes first.",
    "destination": "where the axes go, in the same order.",
    "device": 'the device of the result (`"CPU:1"`); None for that in force.',
    "dtype": "the dtype of the result; None for that of NumPy.",
    "endpoint": "whether `stop` is the last value.",
    "fill_value": "the value of each element.",
    "from_": "a dtype, or an array for its dtype.",
    "full_matrices": "whether `U` and `Vh` are square.",
    "include_initial": "whether the neutral element comes first.",
    "indexing": '`"xy"` for the order of plots, `"ij"` for that of matrices.',
    "indices": "integers: " + _ARRAY,
    "indices_or_sections": "the number of equal parts, or the indices at which parts begin.",
    "invert": "whether to ask for what is not among them.",
    "k": "the diagonal: 0 for the main one, above it if positive, below it if negative.",
    "keepdims": "whether the axes stay, with length 1.",
    "key": "integers, slices, `...`, None, arrays or handles of integers or booleans, or a tuple of them.",
    "kind": 'a name such as `"real floating"`, a dtype, or a tuple of them.',
    "max": "the largest value; None for no limit.",
    "min": "the smallest value; None for no limit.",
    "mode": '`"reduced"`, or `"complete"` for a square `Q`.',
    "n": "the number of points; None for the length of the axis.",
    "n_cols": "the number of columns; None for that of the rows.",
    "n_rows": "the number of rows.",
    "norm": '`"backward"`, `"ortho"` or `"forward"`: which direction is scaled.',
    "num": "the number of values.",
    "offset": "the diagonal: 0 for the main one, above it if positive, below it if negative.",
    "ord": "the order of the norm: 1, 2, inf, ...",
    "prepend": "what is joined to the array at its beginning, before the differences are taken.",
    "repeats": "how often each element is repeated: one count, or one for each element.",
    "repetitions": "how often the array is repeated along each axis.",
    "rtol": "the share of the largest singular value below which others count as zero; None for that of NumPy.",
    "s": "the lengths along the axes; None for those of `x`.",
    "shape": "the lengths, an integer or a tuple of them.",
    "shift": "how far the elements move, an integer or one for each axis.",
    "side": '`"left"` for the first place that fits, `"right"` for the last.',
    "sorter": "the indices that sort `x1`; None where it is sorted.",
    "source": "the axes that are moved.",
    "stable": "whether equal elements keep their order.",
    "start": "the first value.",
    "step": "the distance between values.",
    "stop": "the last value.",
    "to": "a dtype.",
    "type": "a dtype, or an array for its dtype.",
    "upper": "whether the factor is upper triangular.",
    "value": "what is written: " + _ARRAY,
    "arange.start": "the first value; the end, where it is the only one.",
    "arange.stop": "the end, which is not included.",
    "argmax.axis": _ONE_AXIS + " None for the flattened array.",
    "argmin.axis": _ONE_AXIS + " None for the flattened array.",
    "astype.copy": "whether to copy where the dtype is right already; values never change, so nothing can tell.",
    "concat.axis": _ONE_AXIS + " None to flatten the arrays first.",
    "cumulative_prod.axis": _ONE_AXIS + " It may be left out for one dimension.",
    "cumulative_sum.axis": _ONE_AXIS + " It may be left out for one dimension.",
    "diff.n": "how often differences are taken.",
    "expand_dims.axis": "where the new axes are in the result, an integer or a tuple of them.",
    "fftfreq.n": "the number of samples.",
    "from_dlpack.x": "an array of any library that has `__dlpack__`.",
    "full.fill_value": "the value of each element, a scalar.",
    "getitem.x": "a handle.",
    "isdtype.dtype": "a dtype.",
    "matrix_norm.ord": '`"fro"`, `"nuc"`, 1, -1, 2, -2, inf or -inf.',
    "matrix_power.n": "the power, an integer.",
    "rfftfreq.n": "the number of samples.",
    "reshape.shape": "the lengths, an integer or a tuple of them; one may be -1.",
    "repeat.axis": _ONE_AXIS + " None for the flattened array.",
    "roll.axis": _AXES + " For None the flattened array is rolled.",
    "setitem.x": "a handle.",
    "squeeze.axis": _AXES + " For None all that have length 1.",
    "take.axis": _ONE_AXIS + " None for the flattened array.",
    "tensordot.axes": "how many axes are summed over, or the axes of `x1` and those of `x2`.",
    "to_device.device": 'the device, such as `"CPU:1"`.',
    "to_device.x": "a handle.",
    **{f"{name}.axis": _AXES for name in ("all", "any", "count_nonzero", "flip", "max", "mean", "min", "prod")},
    **{f"{name}.axis": _AXES for name in ("std", "sum", "var", "vector_norm")},
    **{f"{name}.axes": _AXES for name in ("fftshift", "ifftshift")},
}


class Row(NamedTuple):
    """A row: the texts of one op."""

    numpy: str
    result: str
    errors: tuple[str, ...]
    example: str


def rows() -> Iterator[tuple[str, Row]]:
    """The rows, by the names of the ops in the namespace."""
    for text in (elementwise.ROWS, arrays.ROWS, linear.ROWS):
        lines = text.splitlines()
        for head, example, result in zip(lines[::3], lines[1::3], lines[2::3], strict=True):
            name, numpy, shape, errors = head.split(" | ")
            yield name, Row(numpy, shape, tuple(errors.split()), f"    {example}\n    {result}")


def composed(function: Any, row: Row) -> str:
    """The whole documentation of an op; its own sentence comes first."""
    name, code = function.__name__.rpartition(".")[2], function.__code__
    count = code.co_argcount + code.co_kwonlyargcount
    own = function.__doc__.rstrip().replace("\n    ", "\n")
    lines = [own, f"\nNumPy calls it `{row.numpy}`.\n\nParameters:"]
    if code.co_flags & _HAS_MORE:
        more = code.co_varnames[count]
        lines.append(f"    * `*{more}`: {PARAMETERS[more]}")
    names = code.co_varnames[:count]
    lines += [f"    * `{each}`: {PARAMETERS.get(f'{name}.{each}') or PARAMETERS[each]}" for each in names]
    lines += [f"\nReturns:\n    {RESULTS[row.result]}\n\nRaises:"]
    lines += [f"    * {ERRORS[each]}" for each in row.errors]
    return "\n".join(lines) + f"\n\nExample:\n{row.example}\n"


_HAS_MORE = 0x04
"""The flag of code that takes any number of arguments by position."""


def document(namespace: dict[str, Any], linalg: dict[str, Any], fft: dict[str, Any]) -> None:
    """Give each op its documentation."""
    for name, row in rows():
        chapter, _, own = name.rpartition(".")
        function = {"": namespace, "linalg": linalg, "fft": fft}[chapter][own]
        function.__doc__ = composed(function, row)
