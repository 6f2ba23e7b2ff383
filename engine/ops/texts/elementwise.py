"""Rows of elementwise functions and operators, in the form that `compose` reads."""

ROWS = """\
abs | numpy.absolute | real | dtype
>>> ops.abs([-1.5, 2.0]).result()
array([1.5, 2. ])
acos | numpy.arccos | float | dtype
>>> ops.acos([1.0, -1.0]).result()
array([0.        , 3.14159265])
acosh | numpy.arccosh | float | dtype
>>> ops.acosh([1.0, 2.0]).result()
array([0.       , 1.3169579])
add | numpy.add | pair | dtype broadcast
>>> ops.add([1, 2], 10).result()
array([11, 12])
asin | numpy.arcsin | float | dtype
>>> ops.asin([0.0, 1.0]).result()
array([0.        , 1.57079633])
asinh | numpy.arcsinh | float | dtype
>>> ops.asinh([0.0, 1.0]).result()
array([0.        , 0.88137359])
atan | numpy.arctan | float | dtype
>>> ops.atan([0.0, 1.0]).result()
array([0.        , 0.78539816])
atan2 | numpy.arctan2 | pair_float | dtype broadcast
>>> ops.atan2([1.0, -1.0], [0.0, 0.0]).result()
array([ 1.57079633, -1.57079633])
atanh | numpy.arctanh | float | dtype
>>> ops.atanh([0.0, 0.5]).result()
array([0.        , 0.54930614])
bitwise_and | numpy.bitwise_and | pair | integers broadcast
>>> ops.bitwise_and([12, 10], 6).result()
array([4, 2])
bitwise_invert | numpy.bitwise_invert | same | integers
>>> ops.bitwise_invert([0, 1, -1]).result()
array([-1, -2,  0])
bitwise_left_shift | numpy.bitwise_left_shift | pair | integers broadcast
>>> ops.bitwise_left_shift([1, 3], 2).result()
array([ 4, 12])
bitwise_or | numpy.bitwise_or | pair | integers broadcast
>>> ops.bitwise_or([12, 10], 6).result()
array([14, 14])
bitwise_right_shift | numpy.bitwise_right_shift | pair | integers broadcast
>>> ops.bitwise_right_shift([8, 9], 1).result()
array([4, 4])
bitwise_xor | numpy.bitwise_xor | pair | integers broadcast
>>> ops.bitwise_xor([12, 10], 6).result()
array([10, 12])
ceil | numpy.ceil | same | dtype
>>> ops.ceil([1.2, -1.2]).result()
array([ 2., -1.])
clip | numpy.clip | clip | dtype broadcast
>>> ops.clip([1, 5, 9], 2, 6).result()
array([2, 5, 6])
conj | numpy.conjugate | same | dtype
>>> ops.conj([1 + 2j, 3 - 1j]).result()
array([1.-2.j, 3.+1.j])
copysign | numpy.copysign | pair_float | dtype broadcast
>>> ops.copysign([1.0, 2.0], -1.0).result()
array([-1., -2.])
cos | numpy.cos | float | dtype
>>> ops.cos([0.0, np.pi]).result()
array([ 1., -1.])
cosh | numpy.cosh | float | dtype
>>> ops.cosh([0.0, 1.0]).result()
array([1.        , 1.54308063])
divide | numpy.divide | pair_float | dtype broadcast
>>> ops.divide([1, 9], [4, 3]).result()
array([0.25, 3.  ])
equal | numpy.equal | pair_bool | broadcast
>>> ops.equal([1, 2], [1, 3]).result()
array([ True, False])
exp | numpy.exp | float | dtype
>>> ops.exp([0.0, 1.0]).result()
array([1.        , 2.71828183])
expm1 | numpy.expm1 | float | dtype
>>> ops.expm1([0.0, 1e-10]).result()
array([0.e+00, 1.e-10])
floor | numpy.floor | same | dtype
>>> ops.floor([1.8, -1.8]).result()
array([ 1., -2.])
floor_divide | numpy.floor_divide | pair | dtype broadcast
>>> ops.floor_divide([7, -7], 2).result()
array([ 3, -4])
greater | numpy.greater | pair_bool | broadcast
>>> ops.greater([1, 2], [2, 1]).result()
array([False,  True])
greater_equal | numpy.greater_equal | pair_bool | broadcast
>>> ops.greater_equal([1, 2], [1, 3]).result()
array([ True, False])
hypot | numpy.hypot | pair_float | dtype broadcast
>>> ops.hypot([3.0, 5.0], [4.0, 12.0]).result()
array([ 5., 13.])
imag | numpy.imag | real | objects
>>> ops.imag([1 + 2j, 3 - 1j]).result()
array([ 2., -1.])
isfinite | numpy.isfinite | bool | dtype
>>> ops.isfinite([1.0, np.inf, np.nan]).result()
array([ True, False, False])
isinf | numpy.isinf | bool | dtype
>>> ops.isinf([1.0, np.inf, np.nan]).result()
array([False,  True, False])
isnan | numpy.isnan | bool | dtype
>>> ops.isnan([1.0, np.inf, np.nan]).result()
array([False, False,  True])
less | numpy.less | pair_bool | broadcast
>>> ops.less([1, 2], [2, 1]).result()
array([ True, False])
less_equal | numpy.less_equal | pair_bool | broadcast
>>> ops.less_equal([1, 2], [1, 1]).result()
array([ True, False])
log | numpy.log | float | dtype
>>> ops.log([1.0, np.e]).result()
array([0., 1.])
log1p | numpy.log1p | float | dtype
>>> ops.log1p([0.0, 1e-10]).result()
array([0.e+00, 1.e-10])
log2 | numpy.log2 | float | dtype
>>> ops.log2([1.0, 8.0]).result()
array([0., 3.])
log10 | numpy.log10 | float | dtype
>>> ops.log10([1.0, 1000.0]).result()
array([0., 3.])
logaddexp | numpy.logaddexp | pair_float | dtype broadcast
>>> ops.logaddexp([0.0, 0.0], [0.0, 1.0]).result()
array([0.69314718, 1.31326169])
logical_and | numpy.logical_and | pair_bool | broadcast
>>> ops.logical_and([True, True], [True, False]).result()
array([ True, False])
logical_not | numpy.logical_not | bool | dtype
>>> ops.logical_not([True, False]).result()
array([False,  True])
logical_or | numpy.logical_or | pair_bool | broadcast
>>> ops.logical_or([False, True], [False, False]).result()
array([False,  True])
logical_xor | numpy.logical_xor | pair_bool | broadcast
>>> ops.logical_xor([True, True], [True, False]).result()
array([False,  True])
maximum | numpy.maximum | pair | dtype broadcast
>>> ops.maximum([1, 5], [4, 2]).result()
array([4, 5])
minimum | numpy.minimum | pair | dtype broadcast
>>> ops.minimum([1, 5], [4, 2]).result()
array([1, 2])
multiply | numpy.multiply | pair | dtype broadcast
>>> ops.multiply([1, 2], [3, 4]).result()
array([3, 8])
negative | numpy.negative | same | dtype
>>> ops.negative([1, -2]).result()
array([-1,  2])
nextafter | numpy.nextafter | pair_float | dtype broadcast
>>> (ops.nextafter(1.0, 2.0) > 1.0).result()
np.True_
not_equal | numpy.not_equal | pair_bool | broadcast
>>> ops.not_equal([1, 2], [1, 3]).result()
array([False,  True])
positive | numpy.positive | same | dtype
>>> ops.positive([1, -2]).result()
array([ 1, -2])
pow | numpy.pow | pair | dtype broadcast negative_power
>>> ops.pow([2, 3], 2).result()
array([4, 9])
real | numpy.real | real | objects
>>> ops.real([1 + 2j, 3 - 1j]).result()
array([1., 3.])
reciprocal | numpy.reciprocal | same | dtype
>>> ops.reciprocal([2.0, 4.0]).result()
array([0.5 , 0.25])
remainder | numpy.remainder | pair | dtype broadcast
>>> ops.remainder([7, -7], 3).result()
array([1, 2])
round | numpy.round | same | dtype
>>> ops.round([0.5, 1.5, 2.6]).result()
array([0., 2., 3.])
sign | numpy.sign | same | dtype
>>> ops.sign([-2.5, 0.0, 3.0]).result()
array([-1.,  0.,  1.])
signbit | numpy.signbit | bool | dtype
>>> ops.signbit([-0.0, 1.0]).result()
array([ True, False])
sin | numpy.sin | float | dtype
>>> ops.sin([0.0, np.pi / 2]).result()
array([0., 1.])
sinh | numpy.sinh | float | dtype
>>> ops.sinh([0.0, 1.0]).result()
array([0.        , 1.17520119])
sqrt | numpy.sqrt | float | dtype
>>> ops.sqrt([4.0, 9.0]).result()
array([2., 3.])
square | numpy.square | same | dtype
>>> ops.square([2, -3]).result()
array([4, 9])
subtract | numpy.subtract | pair | dtype broadcast
>>> ops.subtract([5, 7], [1, 2]).result()
array([4, 5])
tan | numpy.tan | float | dtype
>>> ops.tan([0.0, np.pi / 4]).result()
array([0., 1.])
tanh | numpy.tanh | float | dtype
>>> ops.tanh([0.0, 1.0]).result()
array([0.        , 0.76159416])
trunc | numpy.trunc | same | dtype
>>> ops.trunc([1.8, -1.8]).result()
array([ 1., -1.])
"""
