"""Rows of the methods and attributes of handles, in a form that `compose` reads: `name | result | errors`.

The result is a key of `RESULTS`, or says itself what it is. The example goes on from
`h = ops.asarray([[3.0, 1.0], [2.0, 4.0]])`.
"""

ROWS = """\
all | reduced_bool | axis
>>> (h > 1).all(axis=0).tolist()
[True, False]
any | reduced_bool | axis
>>> (h > 3).any(axis=0).tolist()
[False, True]
sum | reduced_sum | axis broadcast
>>> h.sum(axis=0).tolist()
[5.0, 5.0]
prod | reduced_sum | axis broadcast
>>> h.prod(axis=0).tolist()
[6.0, 4.0]
max | reduced | axis empty
>>> h.max(axis=1).tolist()
[3.0, 4.0]
min | reduced | axis empty
>>> h.min(axis=1).tolist()
[1.0, 2.0]
mean | reduced_float | axis
>>> h.mean(axis=0).tolist()
[2.5, 2.5]
std | reduced_float | axis
>>> h.std(axis=0).tolist()
[0.5, 1.5]
var | reduced_float | axis
>>> h.var(axis=0).tolist()
[0.25, 2.25]
argmax | index | axis empty
>>> h.argmax(axis=1).tolist()
[0, 1]
argmin | index | axis empty
>>> h.argmin(axis=1).tolist()
[1, 0]
cumsum | running_flat | axis
>>> h.cumsum(axis=1).tolist()
[[3.0, 4.0], [2.0, 6.0]]
cumprod | running_flat | axis
>>> h.cumprod(axis=1).tolist()
[[3.0, 3.0], [2.0, 8.0]]
trace | A handle of the shape of this one without the two axes, of dtype `dtype`. | axis matrix
>>> h.trace().item()
7.0
reshape | reshape | size
>>> h.reshape(4).tolist()
[3.0, 1.0, 2.0, 4.0]
transpose | A handle of the lengths of this one in the order of the axes, of its dtype. | axis
>>> h.transpose(1, 0).tolist()
[[3.0, 2.0], [1.0, 4.0]]
T | A handle of the lengths of this one in reverse order, of its dtype. | -
>>> h.T.tolist()
[[3.0, 2.0], [1.0, 4.0]]
mT | matrix_transpose | matrix
>>> h.mT.tolist()
[[3.0, 2.0], [1.0, 4.0]]
swapaxes | A handle of the shape of this one with the two lengths exchanged, of its dtype. | axis
>>> h.swapaxes(0, 1).tolist()
[[3.0, 2.0], [1.0, 4.0]]
ravel | A handle of one dimension, as long as this one has elements, of its dtype. | -
>>> h.ravel(order="F").tolist()
[3.0, 2.0, 1.0, 4.0]
flatten | A handle of one dimension, as long as this one has elements, of its dtype. | -
>>> h.flatten().shape
(4,)
squeeze | squeeze | axis length_one
>>> h[None].squeeze(axis=0).shape
(2, 2)
diagonal | A handle: the two axes replaced by one as long as the diagonal, of the dtype of this one. | axis matrix
>>> h.diagonal().tolist()
[3.0, 4.0]
astype | astype | objects dtype
>>> h.astype("int8").dtype
dtype('int8')
copy | same | -
>>> h.copy().tolist() == h.tolist()
True
conj | same | -
>>> (h + 1j).conj()[0].tolist()
[(3-1j), (1-1j)]
conjugate | same | -
>>> (h + 1j).conjugate()[0].tolist()
[(3-1j), (1-1j)]
real | real | -
>>> (h + 1j).real.dtype
dtype('float64')
imag | real | -
>>> (h + 1j).imag.tolist()
[[1.0, 1.0], [1.0, 1.0]]
round | same | dtype
>>> (h / 8).round(1).tolist()
[[0.4, 0.1], [0.2, 0.5]]
clip | clip | broadcast
>>> h.clip(2, 3).tolist()
[[3.0, 2.0], [2.0, 3.0]]
dot | product | product
>>> h.dot([1.0, 2.0]).tolist()
[5.0, 10.0]
take | take | axis index
>>> h.take([0, 3]).tolist()
[3.0, 4.0]
repeat | repeat | axis counts
>>> h.repeat(2, axis=0).shape
(4, 2)
choose | A handle of the broadcast shape, of the dtype that the choices are promoted to. | index broadcast
>>> (h > 2).astype(int).choose([-1, 1]).tolist()
[[1, -1], [-1, 1]]
compress | A handle of the shape of this one, the length of its axis known once it has run. | axis index
>>> h.compress([False, True], axis=0).tolist()
[[2.0, 4.0]]
nonzero | nonzero | no_dimensions
>>> [each.tolist() for each in (h > 2).nonzero()]
[[0, 1], [0, 1]]
searchsorted | A handle of the shape of `v`, int64. | vectors
>>> h[0, ::-1].searchsorted(2.0).item()
1
argsort | argsort | axis
>>> h.argsort(axis=1).tolist()
[[1, 0], [0, 1]]
argpartition | argsort | axis index
>>> h.argpartition(0, axis=1).tolist()
[[1, 0], [0, 1]]
sort | None: this handle is rebound, to its own shape and dtype. | axis
>>> h.sort(axis=1); h.tolist()
[[1.0, 3.0], [2.0, 4.0]]
partition | None: this handle is rebound, to its own shape and dtype. | axis index
>>> h.partition(0, axis=1); h.tolist()
[[1.0, 3.0], [2.0, 4.0]]
fill | None: this handle is rebound, to its own shape and dtype. | broadcast
>>> h.fill(7); h.tolist()
[[7.0, 7.0], [7.0, 7.0]]
put | None: this handle is rebound, to its own shape and dtype. | index
>>> h.put([0, 3], 0); h.tolist()
[[0.0, 1.0], [2.0, 0.0]]
view | A handle of the shape of this one, its last length by the size of `dtype`. | bytes dtype
>>> h.view("int64").shape
(2, 2)
getfield | A handle of the shape of this one, of dtype `dtype`. | bytes dtype
>>> h.getfield("int32").shape
(2, 2)
setfield | None: this handle is rebound, to its own shape and dtype. | bytes broadcast
>>> h.setfield(0.0, "float64"); h.tolist()
[[0.0, 0.0], [0.0, 0.0]]
byteswap | same | -
>>> h.byteswap().byteswap().tolist() == h.tolist()
True
resize | None: this handle is rebound, to the shape `new_shape` and its own dtype. | lengths
>>> h.resize(2, 3); h.tolist()
[[3.0, 1.0, 2.0], [4.0, 0.0, 0.0]]
item | A Python scalar. | index one_element sync
>>> h.item(1, 0)
2.0
tolist | Nested lists of Python scalars; one scalar where there are no dimensions. | sync
>>> h.tolist()
[[3.0, 1.0], [2.0, 4.0]]
tobytes | Bytes, as many as `nbytes`. | sync
>>> len(h.tobytes())
32
strides | A tuple of bytes, one for each dimension. | sync
>>> h.strides
(16, 8)
data | A read-only `memoryview` of the shape of this handle. | sync
>>> h.data.readonly
True
dtype | A `numpy.dtype`. | unknown
>>> h.dtype
dtype('float64')
shape | A tuple of lengths. | unknown
>>> h.shape
(2, 2)
ndim | An integer. | unknown
>>> h.ndim
2
size | An integer, or None. | unknown
>>> h.size
4
itemsize | Bytes, an integer. | unknown
>>> h.itemsize
8
nbytes | Bytes, an integer, or None. | unknown
>>> h.nbytes
32
device | An `engine.Device`. | -
>>> str(h.device)
'CPU:0'
to_device | same | device
>>> str(h.to_device("CPU:0").device)
'CPU:0'
is_ready | A bool. | -
>>> h.result() is not None and h.is_ready()
True
cancel | A `CancelOutcome`; `TOO_LATE` for an op that has run. | -
>>> h.result() is not None and h.cancel().name
'TOO_LATE'
flat | An iterator with an index: what is written to it reaches this handle. | -
>>> h.flat[3] = 9.0; h.flat[1:].tolist()
[1.0, 2.0, 9.0]
base | A handle, or None. | -
>>> row = h[0]; row.base is h
True
flags | An object with the attributes of `numpy.ndarray.flags`. | sync
>>> h.flags.writeable
False
dumps | Bytes, a pickle of an array. | sync
>>> type(h.dumps())
<class 'bytes'>
result | A read-only array, or a NumPy scalar where there are no dimensions. | sync time own
>>> h.result().tolist()
[[3.0, 1.0], [2.0, 4.0]]
"""

ERRORS = {
    "bytes": "`ValueError` where the sizes of the two dtypes do not fit, `TypeError` for a dtype of Python objects.",
    "one_element": "`ValueError` where no index is given and there is not exactly one element.",
    "own": "the error that the op failed with, with notes that name the op and its place.",
    "sync": "`engine.BlockingSyncError` on a thread whose event loop is running, in ASYNC mode: await it first.",
    "time": "`TimeoutError` after `timeout` seconds.",
    "unknown": "`ValueError` where only running the op can tell.",
}
"""Errors of methods beside those of ops."""

RESULTS = {
    "running_flat": "A handle of the shape of this one, or of one dimension without an axis, of dtype `dtype`.",
}

_FLAT = ("argsort", "argpartition", "compress", "cumprod", "cumsum")

PARAMETERS = {
    "axis1": "the first of two axes, an integer.",
    "axis2": "the second of two axes, an integer.",
    "axes": "the axes in their new order; reversed where none is given.",
    "casting": "which casts are allowed, as in `numpy.can_cast`.",
    "choices": "a sequence of arrays, broadcast with the array.",
    "condition": "booleans, one for each place along the axis.",
    "copy": "whether to copy where nothing changes; values of handles never change, so nothing can tell.",
    "ddof": "what is taken from the number of elements (1 for a sample).",
    "decimals": "how many decimals are kept; tens and hundreds are rounded where it is negative.",
    "index": "the place of the element: one index of the flattened array, or one for each axis.",
    "inplace": "whether this handle is rebound to the result.",
    "initial": "the value that the reduction begins with.",
    "kind": "the algorithm, as in NumPy.",
    "kth": "the places whose elements are where sorting would put them.",
    "mean": "the mean, where it is known, with `keepdims`.",
    "mode": '`"raise"`, `"wrap"` or `"clip"`: what is done with an index that is out of bounds.',
    "new_shape": "the lengths.",
    "offset": "the diagonal: 0 for the main one, above it if positive, below it if negative.",
    "order": '`"C"` by rows, `"F"` by columns, `"A"` or `"K"` as in memory.',
    "other": "a handle, an array, or a nested sequence.",
    "out": "a handle, which is rebound to the result, or an array, which is written to and waits.",
    "refcheck": "accepted, and without effect.",
    "repeats": "how often each element is repeated: one count, or one for each element.",
    "shape": "the lengths; one may be -1.",
    "sorter": "the indices that sort this handle; None where it is sorted.",
    "stable": "whether equal elements keep their order.",
    "stream": "None.",
    "subok": "accepted, and without effect.",
    "timeout": "seconds; None to wait for ever.",
    "type": "None, or `numpy.ndarray`.",
    "v": "the values to insert.",
    "value": "what is written.",
    "values": "what is written, repeated where there is too little.",
    "where": "booleans: the elements that take part.",
    **{f"{name}.axis": "the axis, an integer; None for the flattened array." for name in _FLAT},
    "argsort.order": "fields of structured elements, by which they are compared first.",
    "sort.order": "fields of structured elements, by which they are compared first.",
    "dot.out": "a handle, which is rebound to the result, or an array, which is written to and waits.",
    "getfield.offset": "the first byte of the part in each element.",
    "setfield.offset": "the first byte of the part in each element.",
    "clip.kwargs": "other keywords of `numpy.clip`.",
}
"""Parameters of methods, where `compose` does not say the same for ops."""
