"""Rows of linear algebra and Fourier transforms, in the form that `compose` reads."""

ROWS = """\
linalg.cholesky | numpy.linalg.cholesky | matrices | square singular_definite
>>> ops.linalg.cholesky([[4.0, 2.0], [2.0, 2.0]]).tolist()
[[2.0, 0.0], [1.0, 1.0]]
linalg.cross | numpy.linalg.cross | pair | product
>>> ops.linalg.cross([1, 0, 0], [0, 1, 0]).result()
array([0, 0, 1])
linalg.det | numpy.linalg.det | det | square
>>> ops.linalg.det([[2.0, 0.0], [0.0, 3.0]]).result()
np.float64(6.0)
linalg.diagonal | numpy.linalg.diagonal | diagonal | matrix
>>> ops.linalg.diagonal([[1, 2], [3, 4]]).result()
array([1, 4])
linalg.eig | numpy.linalg.eig | eig | square converge
>>> ops.linalg.eig([[2.0, 0.0], [0.0, 3.0]]).eigenvalues.result()
array([2.+0.j, 3.+0.j])
linalg.eigh | numpy.linalg.eigh | eigh | square
>>> ops.linalg.eigh([[2.0, 0.0], [0.0, 3.0]]).eigenvalues.result()
array([2., 3.])
linalg.eigvals | numpy.linalg.eigvals | eigvals | square converge
>>> ops.linalg.eigvals([[2.0, 0.0], [0.0, 3.0]]).result()
array([2.+0.j, 3.+0.j])
linalg.eigvalsh | numpy.linalg.eigvalsh | eigvalsh | square
>>> ops.linalg.eigvalsh([[2.0, 0.0], [0.0, 3.0]]).result()
array([2., 3.])
linalg.inv | numpy.linalg.inv | matrices | square singular
>>> ops.linalg.inv([[2.0, 0.0], [0.0, 4.0]]).tolist()
[[0.5, 0.0], [0.0, 0.25]]
linalg.matrix_norm | numpy.linalg.matrix_norm | matrix_norm | matrix order
>>> ops.linalg.matrix_norm([[3.0, 0.0], [0.0, 4.0]]).result()
np.float64(5.0)
linalg.matrix_power | numpy.linalg.matrix_power | same | square singular_negative
>>> ops.linalg.matrix_power([[1, 1], [0, 1]], 3).tolist()
[[1, 3], [0, 1]]
linalg.matrix_rank | numpy.linalg.matrix_rank | matrix_rank | converge
>>> ops.linalg.matrix_rank([[1.0, 2.0], [2.0, 4.0]]).result()
np.int64(1)
linalg.outer | numpy.linalg.outer | outer | vectors
>>> ops.linalg.outer([1, 2], [3, 4]).tolist()
[[3, 4], [6, 8]]
linalg.pinv | numpy.linalg.pinv | pinv | matrix converge
>>> ops.linalg.pinv([[2.0, 0.0], [0.0, 4.0]]).tolist()
[[0.5, 0.0], [0.0, 0.25]]
linalg.qr | numpy.linalg.qr | qr | matrix mode
>>> [each.shape for each in ops.linalg.qr(np.eye(3, 2))]
[(3, 2), (2, 2)]
linalg.slogdet | numpy.linalg.slogdet | slogdet | square
>>> ops.linalg.slogdet([[2.0, 0.0], [0.0, 3.0]]).sign.result()
np.float64(1.0)
linalg.solve | numpy.linalg.solve | solve | square singular
>>> ops.linalg.solve([[2.0, 0.0], [0.0, 4.0]], [2.0, 8.0]).result()
array([1., 2.])
linalg.svd | numpy.linalg.svd | svd | matrix converge
>>> [each.shape for each in ops.linalg.svd(np.eye(3, 2))]
[(3, 3), (2,), (2, 2)]
linalg.svdvals | numpy.linalg.svdvals | svdvals | matrix converge
>>> ops.linalg.svdvals([[3.0, 0.0], [0.0, 4.0]]).result()
array([4., 3.])
linalg.trace | numpy.linalg.trace | trace | matrix
>>> ops.linalg.trace([[1, 2], [3, 4]]).result()
np.int64(5)
linalg.vector_norm | numpy.linalg.vector_norm | vector_norm | axis
>>> ops.linalg.vector_norm([3.0, 4.0]).result()
np.float64(5.0)
fft.fft | numpy.fft.fft | spectrum | axis_index points
>>> ops.fft.fft([1.0, 0.0, 0.0, 0.0]).result()
array([1.+0.j, 1.+0.j, 1.+0.j, 1.+0.j])
fft.fftfreq | numpy.fft.fftfreq | fftfreq | lengths device
>>> ops.fft.fftfreq(4).result()
array([ 0.  ,  0.25, -0.5 , -0.25])
fft.fftn | numpy.fft.fftn | spectra | axis_index points
>>> ops.fft.fftn([[1.0, 0.0], [0.0, 0.0]]).tolist()
[[(1+0j), (1+0j)], [(1+0j), (1+0j)]]
fft.fftshift | numpy.fft.fftshift | same | axis_index
>>> ops.fft.fftshift([0, 1, -2, -1]).result()
array([-2, -1,  0,  1])
fft.hfft | numpy.fft.hfft | hfft | axis_index points
>>> ops.fft.hfft([1.0, 0.0]).result()
array([1., 1.])
fft.ifft | numpy.fft.ifft | spectrum | axis_index points
>>> ops.fft.ifft([4.0, 0.0, 0.0, 0.0]).result()
array([1.+0.j, 1.+0.j, 1.+0.j, 1.+0.j])
fft.ifftn | numpy.fft.ifftn | spectra | axis_index points
>>> ops.fft.ifftn([[4.0, 0.0], [0.0, 0.0]]).tolist()
[[(1+0j), (1+0j)], [(1+0j), (1+0j)]]
fft.ifftshift | numpy.fft.ifftshift | same | axis_index
>>> ops.fft.ifftshift([-2, -1, 0, 1]).result()
array([ 0,  1, -2, -1])
fft.ihfft | numpy.fft.ihfft | ihfft | axis_index points
>>> ops.fft.ihfft([1.0, 1.0]).result()
array([1.-0.j, 0.-0.j])
fft.irfft | numpy.fft.irfft | hfft | axis_index points
>>> ops.fft.irfft([2.0, 0.0]).result()
array([1., 1.])
fft.irfftn | numpy.fft.irfftn | irfftn | axis_index points
>>> ops.fft.irfftn([[4.0, 0.0], [0.0, 0.0]]).tolist()
[[1.0, 1.0], [1.0, 1.0]]
fft.rfft | numpy.fft.rfft | ihfft | axis_index points
>>> ops.fft.rfft([1.0, 0.0, 0.0, 0.0]).result()
array([1.+0.j, 1.+0.j, 1.+0.j])
fft.rfftfreq | numpy.fft.rfftfreq | rfftfreq | lengths device
>>> ops.fft.rfftfreq(4).result()
array([0.  , 0.25, 0.5 ])
fft.rfftn | numpy.fft.rfftn | rfftn | axis_index points
>>> ops.fft.rfftn([[1.0, 0.0], [0.0, 0.0]]).tolist()
[[(1+0j), (1+0j)], [(1+0j), (1+0j)]]
"""
