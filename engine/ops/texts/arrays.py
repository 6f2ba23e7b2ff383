"""Rows of ops that create, index, arrange, search and reduce arrays, in the form that `compose` reads."""

ROWS = """\
all | numpy.all | reduced_bool | axis
>>> ops.all([[True, False], [True, True]], axis=1).result()
array([False,  True])
any | numpy.any | reduced_bool | axis
>>> ops.any([[True, False], [False, False]], axis=1).result()
array([ True, False])
arange | numpy.arange | arange | step
>>> ops.arange(2, 10, 3).result()
array([2, 5, 8])
argmax | numpy.argmax | index | axis empty
>>> ops.argmax([3, 9, 4]).result()
np.int64(1)
argmin | numpy.argmin | index | axis empty
>>> ops.argmin([3, 9, 4]).result()
np.int64(0)
argsort | numpy.argsort | argsort | axis
>>> ops.argsort([30, 10, 20]).result()
array([1, 2, 0])
asarray | numpy.asarray | asarray | objects ragged copy device
>>> ops.asarray([[1, 2], [3, 4]], dtype=np.float32).tolist()
[[1.0, 2.0], [3.0, 4.0]]
astype | numpy.astype | astype | objects device
>>> ops.astype([1.7, -1.7], np.int64).result()
array([ 1, -1])
broadcast_arrays | numpy.broadcast_arrays | broadcast_arrays | broadcast
>>> [each.shape for each in ops.broadcast_arrays([[1], [2]], [3, 4, 5])]
[(2, 3), (2, 3)]
broadcast_shapes | numpy.broadcast_shapes | broadcast_shapes | broadcast
>>> ops.broadcast_shapes((3, 1), (1, 4))
(3, 4)
broadcast_to | numpy.broadcast_to | broadcast_to | broadcast
>>> ops.broadcast_to([1, 2], (2, 2)).tolist()
[[1, 2], [1, 2]]
can_cast | numpy.can_cast | can_cast | no_dtype
>>> ops.can_cast(np.int32, np.float64)
True
concat | numpy.concatenate | concat | axis fit
>>> ops.concat([[1, 2], [3]]).result()
array([1, 2, 3])
count_nonzero | numpy.count_nonzero | reduced_count | axis
>>> ops.count_nonzero([[0, 1], [2, 3]], axis=1).result()
array([1, 2])
cumulative_prod | numpy.cumulative_prod | running | axis
>>> ops.cumulative_prod([1, 2, 3, 4]).result()
array([ 1,  2,  6, 24])
cumulative_sum | numpy.cumulative_sum | running | axis
>>> ops.cumulative_sum([1, 2, 3, 4]).result()
array([ 1,  3,  6, 10])
diff | numpy.diff | diff | axis
>>> ops.diff([1, 4, 9, 16]).result()
array([3, 5, 7])
empty | numpy.empty | made | lengths device
>>> ops.empty((2, 3)).shape
(2, 3)
empty_like | numpy.empty_like | made_like | device
>>> ops.empty_like([1, 2, 3]).dtype
dtype('int64')
expand_dims | numpy.expand_dims | expand_dims | axis
>>> ops.expand_dims([1, 2, 3], 0).shape
(1, 3)
eye | numpy.eye | eye | lengths device
>>> ops.eye(2).tolist()
[[1.0, 0.0], [0.0, 1.0]]
finfo | numpy.finfo | finfo | no_float
>>> ops.finfo(np.float32).bits
32
flip | numpy.flip | same | axis
>>> ops.flip([1, 2, 3]).result()
array([3, 2, 1])
from_dlpack | numpy.from_dlpack | from_dlpack | no_dlpack device
>>> ops.from_dlpack(np.arange(3)).result()
array([0, 1, 2])
full | numpy.full | full | lengths device
>>> ops.full((2, 2), 7).tolist()
[[7, 7], [7, 7]]
full_like | numpy.full_like | made_like | device
>>> ops.full_like([1.0, 2.0], 7).result()
array([7., 7.])
getitem | numpy.ndarray.__getitem__ | getitem | index
>>> ops.getitem(ops.asarray([10, 20, 30]), slice(1, None)).result()
array([20, 30])
iinfo | numpy.iinfo | iinfo | no_integer
>>> ops.iinfo(np.int16).max
32767
isdtype | numpy.isdtype | can_cast | no_dtype kind
>>> ops.isdtype(np.dtype("float32"), "real floating")
True
isin | numpy.isin | bool | objects
>>> ops.isin([1, 2, 3], [2, 4]).result()
array([False,  True, False])
linspace | numpy.linspace | linspace | lengths device
>>> ops.linspace(0.0, 1.0, 5).result()
array([0.  , 0.25, 0.5 , 0.75, 1.  ])
matmul | numpy.matmul | product | product
>>> ops.matmul([[1, 2], [3, 4]], [5, 6]).result()
array([17, 39])
matrix_transpose | numpy.matrix_transpose | matrix_transpose | matrix
>>> ops.matrix_transpose([[1, 2], [3, 4]]).tolist()
[[1, 3], [2, 4]]
max | numpy.max | reduced | axis empty
>>> ops.max([[1, 4], [3, 2]], axis=0).result()
array([3, 4])
mean | numpy.mean | reduced_float | axis
>>> ops.mean([1, 2, 4]).result()
np.float64(2.3333333333333335)
meshgrid | numpy.meshgrid | meshgrid | indexing
>>> [each.shape for each in ops.meshgrid([1, 2, 3], [4, 5])]
[(2, 3), (2, 3)]
min | numpy.min | reduced | axis empty
>>> ops.min([[1, 4], [3, 2]], axis=0).result()
array([1, 2])
moveaxis | numpy.moveaxis | moveaxis | axis
>>> ops.moveaxis(np.zeros((2, 3, 4)), 0, -1).shape
(3, 4, 2)
nonzero | numpy.nonzero | nonzero | no_dimensions
>>> [each.result().tolist() for each in ops.nonzero([[0, 1], [2, 0]])]
[[0, 1], [1, 0]]
ones | numpy.ones | made | lengths device
>>> ops.ones((2, 2)).tolist()
[[1.0, 1.0], [1.0, 1.0]]
ones_like | numpy.ones_like | made_like | device
>>> ops.ones_like([5, 6]).result()
array([1, 1])
permute_dims | numpy.permute_dims | moveaxis | axis
>>> ops.permute_dims(np.zeros((2, 3, 4)), (2, 0, 1)).shape
(4, 2, 3)
prod | numpy.prod | reduced_sum | axis dtype
>>> ops.prod([1, 2, 3, 4]).result()
np.int64(24)
repeat | numpy.repeat | repeat | axis counts
>>> ops.repeat([1, 2], 3).result()
array([1, 1, 1, 2, 2, 2])
reshape | numpy.reshape | reshape | size copy
>>> ops.reshape([1, 2, 3, 4], (2, -1)).tolist()
[[1, 2], [3, 4]]
result_type | numpy.result_type | result_type | no_dtype
>>> ops.result_type(np.int32, np.float32)
dtype('float64')
roll | numpy.roll | same | axis
>>> ops.roll([1, 2, 3], 1).result()
array([3, 1, 2])
searchsorted | numpy.searchsorted | searchsorted | vectors
>>> ops.searchsorted([10, 20, 30], [5, 25]).result()
array([0, 2])
setitem | numpy.ndarray.__setitem__ | from_dlpack | index fit_key
>>> ops.setitem(ops.asarray([1, 2, 3]), 0, 9).result()
array([9, 2, 3])
sort | numpy.sort | same | axis
>>> ops.sort([3, 1, 2], descending=True).result()
array([3, 2, 1])
split | numpy.split | split | axis parts
>>> [each.shape for each in ops.split([1, 2, 3, 4], 2)]
[(2,), (2,)]
squeeze | numpy.squeeze | squeeze | axis length_one
>>> ops.squeeze([[1, 2]]).shape
(2,)
stack | numpy.stack | stack | axis fit
>>> ops.stack([[1, 2], [3, 4]]).tolist()
[[1, 2], [3, 4]]
std | numpy.std | reduced_float | axis
>>> ops.std([2.0, 4.0]).result()
np.float64(1.0)
sum | numpy.sum | reduced_sum | axis dtype
>>> ops.sum([[1, 2], [3, 4]], axis=0).result()
array([4, 6])
take | numpy.take | take | axis index
>>> ops.take([10, 20, 30], [2, 0]).result()
array([30, 10])
take_along_axis | numpy.take_along_axis | take_along_axis | axis index
>>> ops.take_along_axis([[3, 1, 2]], [[1, 2, 0]]).result()
array([[1, 2, 3]])
tensordot | numpy.tensordot | tensordot | product
>>> ops.tensordot([[1, 2], [3, 4]], [[1, 0], [0, 1]]).result()
np.int64(5)
tile | numpy.tile | tile | counts
>>> ops.tile([1, 2], 2).result()
array([1, 2, 1, 2])
to_device | ndarray.to_device | from_dlpack | device
>>> ops.to_device(ops.ones(3), "CPU:0").device
Device('CPU:0')
tril | numpy.tril | same | diagonal
>>> ops.tril([[1, 2], [3, 4]]).tolist()
[[1, 0], [3, 4]]
triu | numpy.triu | same | diagonal
>>> ops.triu([[1, 2], [3, 4]]).tolist()
[[1, 2], [0, 4]]
unique_all | numpy.unique_all | unique_all | objects
>>> ops.unique_all([3, 1, 3]).counts.result()
array([1, 2])
unique_counts | numpy.unique_counts | unique_counts | objects
>>> ops.unique_counts([3, 1, 3]).counts.result()
array([1, 2])
unique_inverse | numpy.unique_inverse | unique_inverse | objects
>>> ops.unique_inverse([3, 1, 3]).inverse_indices.result()
array([1, 0, 1])
unique_values | numpy.unique_values | unique_values | objects
>>> ops.sort(ops.unique_values([3, 1, 3])).result()
array([1, 3])
unstack | numpy.unstack | unstack | axis
>>> [each.result().tolist() for each in ops.unstack([[1, 2], [3, 4]])]
[[1, 2], [3, 4]]
var | numpy.var | reduced_float | axis
>>> ops.var([2.0, 4.0]).result()
np.float64(1.0)
vecdot | numpy.vecdot | vecdot | product
>>> ops.vecdot([1, 2, 3], [4, 5, 6]).result()
np.int64(32)
where | numpy.where | where | broadcast
>>> ops.where([True, False], [1, 2], [3, 4]).result()
array([1, 4])
zeros | numpy.zeros | made | lengths device
>>> ops.zeros((2, 2)).tolist()
[[0.0, 0.0], [0.0, 0.0]]
zeros_like | numpy.zeros_like | made_like | device
>>> ops.zeros_like([5, 6]).result()
array([0, 0])
"""
