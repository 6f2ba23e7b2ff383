"""How the shape of each NumPy function without a row is told, and why that of some is not.

`VIEWED`, `COPIED` and `RULES` are the three ways of `numpy_shapes`; `UNTOLD` gives the reason for every other function.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from engine.ops.numpy_results import Several
from engine.ops.numpy_shapes import Function, Rule, Way, copied, inference, ruled, viewed
from engine.ops.numpy_shapes_counted import (
    argwhere_rule,
    bincount_rule,
    compress_rule,
    difference_rule,
    edges_rule,
    extract_rule,
    histogram2d_rule,
    histogram_rule,
    histogramdd_rule,
    indices_rule,
    joined_sets_rule,
    some_rule,
    triangle_rule,
    unique_rule,
    where_rule,
)
from engine.ops.numpy_shapes_joining import (
    along_rule,
    append_rule,
    block_rule,
    column_stack_rule,
    copy_rule,
    delete_rule,
    diag_rule,
    diagflat_rule,
    ediff1d_rule,
    flat_rule,
    insert_rule,
    packbits_rule,
    pad_rule,
    piecewise_rule,
    resize_rule,
    stacked_rule,
    unpackbits_rule,
)
from engine.ops.numpy_shapes_numeric import (
    convolve_rule,
    correlate_rule,
    covariance_rule,
    eig_rule,
    eigenvalues_rule,
    kron_rule,
    lstsq_rule,
    outer_rule,
    polyadd_rule,
    polyder_rule,
    polyfit_rule,
    polyint_rule,
    polysub_rule,
    tensorinv_rule,
    tensorsolve_rule,
)
from engine.ops.numpy_shapes_terms import INTP

VIEWED: tuple[Function, ...] = (
    *(np.array_split, np.atleast_1d, np.atleast_2d, np.atleast_3d, np.broadcast_arrays, np.diagonal, np.dsplit),
    *(np.fliplr, np.flipud, np.hsplit, np.rollaxis, np.rot90, np.split, np.swapaxes, np.vsplit),
    *(np.lib.stride_tricks.sliding_window_view, np.linalg.diagonal, np.matrix_transpose, np.linalg.matrix_transpose),
    *(np.transpose, np.permute_dims, np.expand_dims, np.squeeze, np.broadcast_to, np.flip, np.moveaxis),
)
"""Functions that only rearrange: what they give has the memory of their operand."""

_KEEPING_LENGTHS = (
    *("capitalize", "count", "endswith", "find", "index", "lower", "lstrip", "rfind", "rindex", "rstrip"),
    *("startswith", "strip", "swapcase", "title", "upper"),
)
"""Functions of strings whose results are no longer than their operands, or numbers."""

COPIED: tuple[Function, ...] = (
    *(np.allclose, np.angle, np.argpartition, np.array_equal, np.array_equiv, np.average, np.busday_count),
    *(np.busday_offset, np.choose, np.clip, np.cross, np.datetime_as_string, np.digitize, np.dot, np.einsum, np.fix),
    *(np.geomspace, np.gradient, np.i0, np.inner, np.interp, np.is_busday, np.isclose, np.iscomplex, np.isneginf),
    *(np.isposinf, np.isreal, np.ix_, np.lexsort, np.linspace, np.logspace, np.mean, np.median, np.meshgrid),
    *(np.nan_to_num, np.nanargmax, np.nanargmin, np.nanmax, np.nanmean, np.nanmedian, np.nanmin, np.nanpercentile),
    *(np.nanprod, np.nanquantile, np.nanstd, np.nansum, np.nanvar, np.partition, np.percentile, np.polyval, np.ptp),
    *(np.quantile, np.ravel_multi_index, np.round, np.select, np.sinc, np.sort_complex, np.std, np.sum, np.take),
    *(np.trace, np.trapezoid, np.unravel_index, np.unwrap, np.vander, np.var, np.vdot),
    *(np.amax, np.amin, np.max, np.min, np.prod, np.all, np.any, np.argmax, np.argmin, np.around, np.count_nonzero),
    *(np.astype, np.tensordot, np.linalg.cond, np.linalg.cross, np.linalg.matmul, np.linalg.matrix_norm),
    *(np.linalg.matrix_power, np.linalg.matrix_rank, np.linalg.multi_dot, np.linalg.norm, np.linalg.pinv),
    *(np.linalg.qr, np.linalg.svd, np.linalg.vector_norm, np.linalg.trace, np.linalg.eigvalsh),
    *(np.linalg.eigh, np.linalg.vecdot, np.linalg.tensordot),
    *(getattr(module, name) for module in (np.strings, np.char) for name in _KEEPING_LENGTHS),
)
"""Functions whose results have lengths of the operands."""


RULES: dict[Function, Rule] = {
    np.append: append_rule,
    np.argsort: along_rule(np.argsort, INTP, last=True),
    np.argwhere: argwhere_rule,
    np.bincount: bincount_rule,
    np.block: block_rule,
    np.column_stack: column_stack_rule,
    np.compress: compress_rule,
    np.convolve: convolve_rule,
    np.copy: copy_rule,
    np.corrcoef: covariance_rule(np.corrcoef),
    np.correlate: correlate_rule,
    np.cov: covariance_rule(np.cov),
    np.cumprod: along_rule(np.cumprod),
    np.cumsum: along_rule(np.cumsum),
    np.delete: delete_rule,
    np.diag: diag_rule,
    np.diag_indices_from: indices_rule,
    np.diagflat: diagflat_rule,
    np.dstack: stacked_rule(3, 2),
    np.ediff1d: ediff1d_rule,
    np.extract: extract_rule,
    np.flatnonzero: some_rule(INTP),
    np.histogram: histogram_rule,
    np.histogram2d: histogram2d_rule,
    np.histogram_bin_edges: edges_rule,
    np.histogramdd: histogramdd_rule,
    np.hstack: stacked_rule(1, None),
    np.insert: insert_rule,
    np.intersect1d: joined_sets_rule,
    np.kron: kron_rule,
    np.linalg.eig: eig_rule,
    np.linalg.eigvals: eigenvalues_rule,
    np.linalg.lstsq: lstsq_rule,
    np.linalg.tensorinv: tensorinv_rule,
    np.linalg.tensorsolve: tensorsolve_rule,
    np.nancumprod: along_rule(np.nancumprod),
    np.nancumsum: along_rule(np.nancumsum),
    np.outer: outer_rule,
    np.packbits: packbits_rule,
    np.pad: pad_rule,
    np.piecewise: piecewise_rule,
    np.polyadd: polyadd_rule,
    np.polyder: polyder_rule,
    np.polyfit: polyfit_rule,
    np.polyint: polyint_rule,
    np.polysub: polysub_rule,
    np.ravel: flat_rule,
    np.resize: resize_rule,
    np.setdiff1d: difference_rule,
    np.setxor1d: joined_sets_rule,
    np.sort: along_rule(np.sort, last=True),
    np.tril_indices_from: triangle_rule(upper=False),
    np.trim_zeros: some_rule(),
    np.triu_indices_from: triangle_rule(upper=True),
    np.union1d: joined_sets_rule,
    np.unique: unique_rule,
    np.unpackbits: unpackbits_rule,
    np.vstack: stacked_rule(2, 0),
    np.where: where_rule,
}
"""The rule of each function that has one: of its arguments, with shapes and dtypes in place of arrays."""

_CHANGING_LENGTHS = (
    *("center", "decode", "encode", "expandtabs", "join", "ljust", "mod", "multiply", "partition", "replace"),
    *("rjust", "rpartition", "slice", "translate", "zfill"),
)

UNTOLD: dict[Function, str] = {
    np.apply_along_axis: "it calls a function of the user",
    np.apply_over_axes: "it calls a function of the user",
    np.poly: "NumPy iterates over the argument before it dispatches, which is a sync point",
    np.polydiv: "leading zeros are cut off",
    np.polymul: "leading zeros are cut off",
    np.real_if_close: "the values decide its dtype",
    np.roots: "NumPy iterates over the argument before it dispatches, which is a sync point",
}
"""Functions of which nothing can be told before they have run, and why."""

UNTOLD.update(
    (getattr(module, name), "the values decide how long the strings are")
    for module in (np.strings, np.char)
    for name in _CHANGING_LENGTHS
    if hasattr(module, name)
)

WAYS: dict[Function, Way] = {
    **dict.fromkeys(VIEWED, viewed),
    **dict.fromkeys(COPIED, copied),
    **{function: ruled(rule) for function, rule in RULES.items()},
}


def shape_of_call(function: Function, result: Several | None) -> Callable[..., Any] | None:
    """The rule for the shapes and dtypes of a call; None where only running it can."""
    way = WAYS.get(function)
    return None if way is None else inference(way, function, result)
