"""NumPy's functions that mean a row of the namespace, and how their parameters are called there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from engine.ops import creation, elementwise, fft, indexing, linalg, manipulation, sorting, statistics
from engine.ops.numpy_forms import form
from handles.base import Handle

_TYPED = "a / axis:axes dtype -out keepdims -initial -where"
_PLAIN = "a / axis:axes -out keepdims -initial -where"

form(np.sum, statistics.sum, _TYPED)
form(np.prod, statistics.prod, _TYPED)
form(np.max, statistics.max, _PLAIN)
form(np.min, statistics.min, _PLAIN)
form(np.amax, statistics.max, _PLAIN)
form(np.amin, statistics.min, _PLAIN)
form(np.all, statistics.all, "a / axis:axes -out keepdims -where")
form(np.any, statistics.any, "a / axis:axes -out keepdims -where")
form(np.mean, statistics.mean, "a / axis:axes -dtype -out keepdims -where")
form(np.std, statistics.std, "a / axis:axes -dtype -out ddof=correction keepdims -where -mean correction")
form(np.var, statistics.var, "a / axis:axes -dtype -out ddof=correction keepdims -where -mean correction")
form(np.argmax, sorting.argmax, "a / axis -out keepdims")
form(np.argmin, sorting.argmin, "a / axis -out keepdims")
form(np.count_nonzero, sorting.count_nonzero, "a / axis:axes keepdims")
form(np.nonzero, sorting.nonzero, "a /")
form(np.searchsorted, sorting.searchsorted, "a v / side sorter")
form(np.isin, sorting.isin, "element test_elements / -assume_unique=False invert -kind")
form(np.cumulative_sum, statistics.cumulative_sum, "x / axis dtype -out include_initial")
form(np.cumulative_prod, statistics.cumulative_prod, "x / axis dtype -out include_initial")
form(np.diff, statistics.diff, "a / n axis prepend append")
form(np.unique_all, sorting.unique_all, "x /")
form(np.unique_counts, sorting.unique_counts, "x /")
form(np.unique_inverse, sorting.unique_inverse, "x /")
form(np.unique_values, sorting.unique_values, "x /")

form(np.matrix_transpose, manipulation.matrix_transpose, "x /")
form(np.linalg.matrix_transpose, manipulation.matrix_transpose, "x /")
form(np.transpose, manipulation.permute_dims, "a / axes")
form(np.permute_dims, manipulation.permute_dims, "a / axes")
form(np.expand_dims, manipulation.expand_dims, "a / axis:list")
form(np.squeeze, manipulation.squeeze, "a / axis:axes")
form(np.broadcast_to, manipulation.broadcast_to, "array / shape -subok=False")
form(np.flip, manipulation.flip, "m / axis:sequence")
form(np.roll, manipulation.roll, "a / shift axis:sequence")
form(np.moveaxis, manipulation.moveaxis, "a source destination /")
form(np.tile, manipulation.tile, "A reps /")
form(np.repeat, manipulation.repeat, "a repeats / axis")
form(np.concatenate, manipulation.concat, "arrays / axis -out -dtype -casting")
form(np.concat, manipulation.concat, "arrays / axis -out -dtype -casting")
form(np.stack, manipulation.stack, "arrays / axis -out -dtype -casting")
form(np.unstack, manipulation.unstack, "x / axis")

form(np.where, indexing.where, "condition x y /")
form(np.take, indexing.take, "a indices / axis -out -mode=raise")
form(np.take_along_axis, indexing.take_along_axis, "arr indices / axis")

form(np.real, elementwise.real, "val /")
form(np.imag, elementwise.imag, "val /")
form(np.around, elementwise.round, "a / -decimals=0 -out")
form(np.round, elementwise.round, "a / -decimals=0 -out")

form(np.zeros_like, creation.zeros_like, "a / dtype -order=K -subok=True -shape device")
form(np.ones_like, creation.ones_like, "a / dtype -order=K -subok=True -shape device")
form(np.full_like, creation.full_like, "a fill_value / dtype -order=K -subok=True -shape device")
form(np.empty_like, creation.empty_like, "prototype / dtype -order=K -subok=True -shape device")
form(np.tril, creation.tril, "m / k")
form(np.triu, creation.triu, "m / k")
form(np.astype, creation.astype, "x dtype:given / copy device")

form(np.linalg.matmul, linalg.matmul, "x1 x2 /")
form(np.linalg.vecdot, linalg.vecdot, "x1 x2 / axis")
form(np.linalg.tensordot, linalg.tensordot, "x1 x2 / axes:pair")
form(np.tensordot, linalg.tensordot, "a b / axes:pair")
form(np.linalg.outer, linalg.outer, "x1 x2 /")
form(np.linalg.cross, linalg.cross, "x1 x2 / axis:integer")
form(np.linalg.inv, linalg.inv, "a /")
form(np.linalg.det, linalg.det, "a /")
form(np.linalg.svdvals, linalg.svdvals, "x /")
form(np.linalg.cholesky, linalg.cholesky, "a / upper")
form(np.linalg.solve, linalg.solve, "a b /")
form(np.linalg.matrix_power, linalg.matrix_power, "a n /")
form(np.linalg.diagonal, linalg.diagonal, "x / offset")
form(np.linalg.trace, linalg.trace, "x / offset dtype")
form(np.linalg.vector_norm, linalg.vector_norm, "x / axis:axes keepdims ord:number")
form(np.linalg.matrix_norm, linalg.matrix_norm, "x / keepdims ord")
form(np.linalg.eigh, linalg.eigh, "a / -UPLO=L")
form(np.linalg.eigvalsh, linalg.eigvalsh, "a / -UPLO=L")
form(np.linalg.slogdet, linalg.slogdet, "a /")
form(np.linalg.qr, linalg.qr, "a / -mode=reduced")
form(np.linalg.svd, linalg.svd, "a / full_matrices -compute_uv=True -hermitian=False")

for _name in ("fft", "ifft", "rfft", "irfft", "hfft", "ihfft"):
    form(getattr(np.fft, _name), getattr(fft, _name), "a / n axis norm -out")
for _name in ("fftn", "ifftn", "rfftn", "irfftn"):
    form(getattr(np.fft, _name), getattr(fft, _name), "a / s:only_sequence axes:only_sequence norm -out")


def _in_a_plane(row: fft.SeveralTransformRow) -> Callable[..., Handle]:
    """The transform along the last two axes, where no others are given."""

    def function(a: Any, s: Any = None, axes: Any = (-2, -1), norm: Any = None) -> Handle:
        return row(a, s=s, axes=axes, norm=norm)

    return function


for _name in ("fft", "ifft", "rfft", "irfft"):
    _row = _in_a_plane(getattr(fft, f"{_name}n"))
    form(getattr(np.fft, f"{_name}2"), _row, "a / s:only_sequence axes:only_sequence norm -out")
form(np.fft.fftshift, fft.fftshift, "x / axes")
form(np.fft.ifftshift, fft.ifftshift, "x / axes")


def _reshape(a: Any, shape: Any, copy: bool | None = None) -> Handle:
    return manipulation.reshape(a, shape, copy=copy)


form(np.reshape, _reshape, "a shape / -order=C copy:flag_or_none")


def _clip(a: Any, **limits: Any) -> Handle:
    if ("a_min" in limits) != ("a_max" in limits):
        raise TypeError(
            "np.clip(a, a_min, a_max) takes both limits, or min and max, by name, of which one may be missing"
        )
    if "a_min" in limits:
        if len(limits) > 2:
            raise ValueError("np.clip takes a_min and a_max, or min and max, not both")
        return elementwise.clip(a, limits["a_min"], limits["a_max"])
    return elementwise.clip(a, **limits)


form(np.clip, _clip, "a / a_min a_max -out min max")
