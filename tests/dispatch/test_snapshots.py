"""Operands and results: writes after the call change nothing, layouts are kept, and nobody writes into a value."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import engine
from engine import ops
from engine.testing import GateOp
from handles import Handle

Array = np.ndarray[Any, Any]
Run = Callable[..., Handle]


def values(*shape: int, dtype: Any = np.float64) -> Array:
    """Random values of a shape, whose float sums depend on the order in which they are added."""
    random = np.random.default_rng(sum(shape))
    return (random.standard_normal(shape) * 10.0 ** random.integers(-8, 8, shape)).astype(dtype)


VIEWS: dict[str, Callable[[], Array]] = {
    "contiguous": lambda: values(37, 53),
    "Fortran order": lambda: np.asfortranarray(values(37, 53)),
    "transposed": lambda: values(53, 37).T,
    "reversed": lambda: values(37, 53)[::-1],
    "reversed columns": lambda: values(37, 53)[:, ::-1],
    "both reversed": lambda: values(37, 53)[::-1, ::-1],
    "strided": lambda: values(74, 106)[::2, ::2],
    "strided rows": lambda: values(74, 53)[::2],
    "strided columns": lambda: values(37, 106)[:, 1::2],
    "reversed and strided": lambda: values(74, 106)[::-2, ::-2],
    "a window": lambda: values(50, 60)[5:42, 4:57],
    "transposed and strided": lambda: values(106, 74)[::2, ::-2].T,
    "broadcast rows": lambda: np.broadcast_to(values(53), (37, 53)),
    "broadcast columns": lambda: np.broadcast_to(values(37, 1), (37, 53)),
    "broadcast scalar": lambda: np.broadcast_to(values(1), (37, 53)),
    "moved axes": lambda: np.moveaxis(values(4, 53, 37), 0, 2)[:, :, 1].T,
    "three axes permuted": lambda: values(5, 6, 7).transpose(1, 2, 0),
    "a field": lambda: values(37, 106).view([("a", "f8"), ("b", "f8")])["a"],
    "one column": lambda: values(1000, 3)[:, 1],
    "overlapping": lambda: np.lib.stride_tricks.sliding_window_view(values(100), 9, writeable=True),
    "an unaligned one": lambda: np.frombuffer(bytearray(8 * 100 + 1), np.uint8)[1:].view(np.float64),
    "big-endian": lambda: values(37, 53).astype(">f8"),
    "a subclass": lambda: values(37, 53).view(np.matrix),
    "nothing": lambda: values(0, 5),
    "no dimensions": lambda: values(),
    "float32": lambda: values(37, 53, dtype=np.float32)[:, ::-1],
    "complex": lambda: (values(37, 53) + 1j * values(53, 37).T)[::-1].T,
    "datetimes": lambda: np.arange(20).astype("datetime64[s]")[::2],
    "text": lambda: np.array([["a", "bc"], ["def", ""]])[::-1],
}
every_view = pytest.mark.parametrize("make", [pytest.param(make, id=name) for name, make in VIEWS.items()])


def overwrite(array: Array) -> None:
    """Write into the memory of an array, also where its own view of it is read-only."""
    owner: Any = array
    while isinstance(owner.base, np.ndarray):
        owner = owner.base
    if owner.flags.writeable:
        owner.view(np.ndarray)[...] = np.zeros((), owner.dtype)
        return
    raise AssertionError("this test needs memory that can be written to")


def same_bits(given: Array, expected: Any) -> bool:
    expected = np.asarray(expected)
    if given.dtype != expected.dtype or given.shape != expected.shape:
        return False
    return bool(given.tobytes() == expected.tobytes())


# Snapshots


@every_view
def test_writing_into_an_operand_after_the_call_changes_nothing(
    make: Callable[[], Array], gate: GateOp, mode: engine.ExecutionMode
) -> None:
    array = make()
    expected = np.array(array)
    if mode is engine.SYNC:
        gate.open()
    gate(1)
    handle = ops.asarray(array)
    if array.flags.writeable or array.base is not None:
        overwrite(np.asarray(array))
    gate.open()
    assert same_bits(handle.result(), expected)


REDUCTIONS: dict[str, tuple[Callable[..., Handle], Callable[..., Any]]] = {
    "sum": (ops.sum, np.sum),
    "mean": (ops.mean, np.mean),
    "prod": (ops.prod, np.prod),
    "std": (ops.std, np.std),
}


@pytest.mark.sweep
@every_view
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("axis", [None, 0, -1])
def test_float_reductions_of_views_are_bit_identical(
    make: Callable[[], Array], reduction: str, axis: int | None, mode: engine.ExecutionMode
) -> None:
    array = make()
    if array.dtype.kind not in "fc" or array.size == 0 or (axis is not None and array.ndim == 0):
        pytest.skip("nothing to reduce")
    array = np.asarray(array)
    ours, theirs = REDUCTIONS[reduction]
    with np.errstate(all="ignore"):
        assert same_bits(ours(array, axis=axis).result(), theirs(array, axis=axis))
        assert same_bits(ours(ops.asarray(array), axis=axis).result(), theirs(array, axis=axis))


@every_view
def test_matrix_products_of_views_are_bit_identical(make: Callable[[], Array], mode: engine.ExecutionMode) -> None:
    array = np.asarray(make())
    if array.dtype.kind not in "fc" or array.ndim != 2 or array.size == 0:
        pytest.skip("no matrix")
    other = values(array.shape[1], 11)
    assert same_bits(ops.matmul(array, other).result(), array @ other)


@pytest.mark.sweep
@pytest.mark.parametrize("name", ["log1p", "exp", "tan", "arctan"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_one_element_walked_backwards_is_bit_identical(mode: engine.ExecutionMode, name: str, dtype: Any) -> None:
    """NumPy computes it with other instructions than the same element walked forwards."""
    ufunc = getattr(np, name)
    for value in np.linspace(-0.9, 3.0, 300).astype(dtype):
        x = np.array([[value]])
        for view in (x[::-1], x[:, ::-1], x[::-1, ::-1], x[0, ::-1]):
            assert same_bits(ufunc(ops.asarray(view)).result(), ufunc(view))


@pytest.mark.parametrize("seed", range(30))
def test_sums_of_random_views_are_bit_identical(seed: int) -> None:
    engine.enable_eager_execution(execution_mode=engine.ASYNC)
    random = np.random.default_rng(seed)
    array = values(*random.integers(1, 24, random.integers(1, 5)).tolist())
    for _ in range(3):
        axis = int(random.integers(array.ndim))
        step = int(random.choice([-3, -2, -1, 1, 2, 3]))
        array = array[(slice(None),) * axis + (slice(None, None, step),)]
        array = array.transpose(random.permutation(array.ndim))
    if random.random() < 0.3:
        array = np.broadcast_to(array, (3, *array.shape))
    for axes in (None, 0, array.ndim - 1):
        assert same_bits(ops.sum(array, axis=axes).result(), np.sum(array, axis=axes))


def test_a_snapshot_of_a_huge_broadcast_takes_no_memory(gate: GateOp) -> None:
    engine.enable_eager_execution(execution_mode=engine.ASYNC)
    huge = np.broadcast_to(np.ones(4), (1 << 40, 4))
    handle = ops.asarray(huge)[3]
    assert handle.result().tolist() == [1, 1, 1, 1]


def test_nested_sequences_are_snapshotted(gate: GateOp, mode: engine.ExecutionMode) -> None:
    if mode is engine.SYNC:
        gate.open()
    data = [[1, 2], [3, 4]]
    gate(1)
    handle = ops.add(data, 0)
    data[0][0] = 99
    gate.open()
    assert handle.result().tolist() == [[1, 2], [3, 4]]


def test_operands_of_user_ops_are_snapshotted(gate: GateOp, mode: engine.ExecutionMode) -> None:
    if mode is engine.SYNC:
        gate.open()

    @engine.op
    def total(x: Array, others: list[Array], *, scale: Array) -> Array:
        return np.asarray((x + others[0] + others[1]) * scale)

    x, y, z, scale = (np.full(2, float(n)) for n in (1, 2, 3, 4))
    gate(1)
    handle = total(x, [y, z], scale=scale)
    for array in (x, y, z, scale):
        array[:] = 0
    gate.open()
    assert handle.result().tolist() == [24, 24]


def test_arrays_assigned_and_used_as_indices_are_snapshotted(gate: GateOp, mode: engine.ExecutionMode) -> None:
    if mode is engine.SYNC:
        gate.open()
    index, mask, value = np.array([0, 2]), np.array([True, False, True]), np.array([7.0, 8.0])
    handle = gate(np.arange(3.0))
    chosen, masked = handle[index], handle[mask]
    handle[index] = value
    index[:], mask[:], value[:] = 1, False, 0
    gate.open()
    assert chosen.result().tolist() == masked.result().tolist() == [0, 2]
    assert handle.result().tolist() == [7, 1, 8]


# What is left as it was

CALLS: dict[str, Callable[[Any, Any, Any, Any], object]] = {
    "operator": lambda h, v, i, m: h + v,
    "index": lambda h, v, i, m: (h[i], h[m]),
    "setitem": lambda h, v, i, m: h.__setitem__(i, v),
    "flat": lambda h, v, i, m: h.flat.__setitem__(i, v),
    "real": lambda h, v, i, m: setattr(h, "real", v),
    "put": lambda h, v, i, m: np.put(h, i, v),
    "place": lambda h, v, i, m: np.place(h, m, v),
    "putmask": lambda h, v, i, m: np.putmask(h, m, v),
    "copyto": lambda h, v, i, m: np.copyto(h, v, where=m),
    "put_along_axis": lambda h, v, i, m: np.put_along_axis(h, i, v, 0),
    "at": lambda h, v, i, m: np.add.at(h, i, v),
    "where of a ufunc": lambda h, v, i, m: np.add(h, v, where=m, out=h),
    "out of a function": lambda h, v, i, m: np.cumsum(h, out=h),
    "reduceat": lambda h, v, i, m: np.add.reduceat(h, i),
    "interp": lambda h, v, i, m: np.interp(h, i, v),
    "average": lambda h, v, i, m: np.average(h, weights=v),
    "piecewise": lambda h, v, i, m: np.piecewise(h, [m], [lambda x: x]),
    "choose": lambda h, v, i, m: np.choose(i, [h, v, h]),
    "op of a user": lambda h, v, i, m: engine.op(lambda *args: args[0])(h, v, i, m),
    "function": lambda h, v, i, m: engine.function(lambda *args: args[0] + 1)(h, v, i, m),
}


@pytest.mark.parametrize("name", CALLS)
def test_arrays_that_a_call_was_given_can_be_written_to_afterwards(name: str, mode: engine.ExecutionMode) -> None:
    arrays = np.array([1.0, 2.0, 3.0]), np.array([0, 1, 2]), np.array([True, False, True])
    CALLS[name](ops.asarray(np.zeros(3)), *arrays)
    engine.wait()
    for array in arrays:
        array[0] = array[2]


# What is not copied


def frozen(array: Array) -> Array:
    array.setflags(write=False)
    return array


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: frozen(np.arange(1000.0)), id="read-only"),
        pytest.param(lambda: frozen(np.arange(1000.0))[::-2], id="a view of a read-only one"),
        pytest.param(lambda: np.frombuffer(bytes(8000)), id="bytes"),
    ],
)
def test_an_array_that_nobody_can_write_to_is_not_copied(make: Callable[[], Array], mode: engine.ExecutionMode) -> None:
    array = make()
    assert np.shares_memory(ops.asarray(array).result(), array)


def test_what_numpy_hands_out_is_not_copied(mode: engine.ExecutionMode) -> None:
    value = ops.add(np.arange(1000.0), 1).result()
    assert np.shares_memory(ops.asarray(value).result(), value)
    assert np.shares_memory(ops.asarray(value[::2]).result(), value)


def test_a_read_only_view_of_writable_memory_is_copied(mode: engine.ExecutionMode) -> None:
    base = np.arange(1000.0)
    view = frozen(base[:])
    handle = ops.asarray(view)
    base[0] = 99
    assert handle.result()[0] == 0


def test_read_only_memory_of_somebody_else_is_copied(mode: engine.ExecutionMode) -> None:
    memory = bytearray(80)
    view = np.frombuffer(memoryview(memory).toreadonly())
    assert not view.flags.writeable
    handle = ops.asarray(view)
    memory[:8] = b"\xff" * 8
    assert handle.result()[0] == 0


def test_copy_false_shares_memory_and_leaves_the_callers_array_writable(mode: engine.ExecutionMode) -> None:
    array = np.arange(1000.0)
    handle = ops.asarray(array, copy=False)
    assert np.shares_memory(handle.result(), array)
    with pytest.raises(ValueError, match="read-only"):
        handle.result()[0] = 1
    array[0] = 5  # a promise, not a lock
    assert array.flags.writeable


@pytest.mark.parametrize(
    "array",
    [np.arange(6).astype("datetime64[s]"), np.zeros(3, [("a", "i4"), ("b", "f8")]), np.zeros((0, 3)), np.array(["ab"])],
    ids=lambda array: str(array.dtype.kind),
)
def test_copy_false_of_every_kind_of_dtype(array: Array, mode: engine.ExecutionMode) -> None:
    handle = ops.asarray(array, copy=False)
    value = handle.result()
    assert value.dtype == array.dtype
    assert array.size == 0 or np.shares_memory(value, array)
    assert not value.flags.writeable
    assert array.flags.writeable


@pytest.mark.parametrize(
    ("value", "dtype"), [([1, 2], None), (3, None), (np.arange(3), np.float32)], ids=["list", "scalar", "dtype"]
)
def test_copy_false_that_cannot_be_had_raises(value: Any, dtype: Any, mode: engine.ExecutionMode) -> None:
    with pytest.raises(ValueError, match="copy=False"):
        ops.asarray(value, dtype=dtype, copy=False)


def test_copy_true_of_a_handle_is_a_copy(mode: engine.ExecutionMode) -> None:
    handle = ops.add(np.arange(1000.0), 1)
    assert not np.shares_memory(ops.asarray(handle, copy=True).result(), handle.result())
    assert ops.asarray(handle) is handle


# Results


@every_view
def test_results_are_read_only_down_to_their_owner(make: Callable[[], Array], mode: engine.ExecutionMode) -> None:
    array = np.asarray(ops.asarray(make()))
    assert type(array) is np.ndarray
    owner: Any = array
    while isinstance(owner, np.ndarray):
        assert not owner.flags.writeable
        owner = owner.base


def test_views_of_results_share_memory(mode: engine.ExecutionMode) -> None:
    handle = ops.add(np.arange(1000.0).reshape(10, 100), 1)
    base = handle.result()
    for view in (handle[2:5], handle[::-1, ::2], ops.matrix_transpose(handle), ops.reshape(handle, (100, 10))):
        assert np.shares_memory(view.result(), base)


@pytest.mark.parametrize("attempt", ["write", "unlock", "unlock the base", "out", "sort"])
def test_a_kernel_cannot_write_into_the_values_of_the_engine(attempt: str, mode: engine.ExecutionMode) -> None:
    @engine.op
    def attack(x: Array) -> Array:
        if attempt == "write":
            x[0] = 99
        elif attempt == "unlock":
            x.setflags(write=True)
        elif attempt == "unlock the base":
            assert isinstance(x.base, np.ndarray)
            x.base[0] = 99
        elif attempt == "out":
            np.add(x, 1, out=x)
        else:
            x.sort()
        return x

    source = np.array([3.0, 1.0, 2.0])
    handle = ops.add(source, 0)
    direct = np.array([3.0, 1.0, 2.0])
    for operand in (handle, direct):
        with pytest.raises(ValueError):  # noqa: PT011 - NumPy has a message for each
            attack(operand).result()
    assert handle.result().tolist() == [3, 1, 2]
    assert direct.tolist() == [3, 1, 2]


def test_a_kernel_that_keeps_its_buffer_cannot_change_the_result(mode: engine.ExecutionMode) -> None:
    buffer = np.zeros(1000)
    kept: list[Array] = []
    kept_lists: list[list[Array]] = []

    @engine.op(max_concurrency=1)  # two calls at once would write to the buffer at once
    def reuse(x: Array) -> Array:
        buffer[:] = x
        return buffer

    @engine.op
    def keep(x: Array) -> Array:
        result = x + 1
        kept.append(result)
        return result

    @engine.op
    def keep_base(x: Array) -> Array:
        result = np.zeros(2000)
        result[:] = x[0]
        kept.append(result)
        return result[::2]

    @engine.op
    def keep_view(x: Array) -> Array:
        result = x + 1
        kept.append(result[:])
        return result

    @engine.op
    def keep_returned_view(x: Array) -> Array:
        result = np.repeat(x + 1, 2)[::2]
        kept.append(result)
        return result

    @engine.op(num_outputs=2)
    def keep_list(x: Array) -> list[Array]:
        results = [x + 1, x + 1]
        kept_lists.append(results)
        return results

    @engine.op
    async def keep_async(x: Array) -> Array:
        result = x + 1
        kept.append(result)
        return result

    handles = [reuse(np.full(1000, 1.0)), reuse(np.full(1000, 2.0))]
    others = [keep(np.ones(1000)), keep_base(np.ones(1000)), keep_view(np.ones(1000))]
    others += [keep_returned_view(np.ones(1000)), *keep_list(np.ones(1000)), keep_async(np.ones(1000))]
    engine.wait()
    for array in (buffer, *kept, *kept_lists[0]):
        array[:] = 99  # before anybody has read a result
    results = [handle.result() for handle in (*handles, *others)]
    for array in (buffer, *kept, *kept_lists[0]):
        array[:] = 77  # and after
    assert [result[0] for result in results] == [1, 2, 2, 1, 2, 2, 2, 2, 2]


async def test_a_kernel_that_returns_its_own_fresh_array_is_not_copied(mode: engine.ExecutionMode) -> None:
    addresses: list[int] = []

    def make(x: Array) -> Array:
        result = x + 1
        addresses.append(result.__array_interface__["data"][0])
        return result

    @engine.op
    def fresh(x: Array) -> Array:
        return make(x)

    @engine.op(num_outputs=2)
    def fresh_pair(x: Array) -> tuple[Array, Array]:
        return make(x), make(x)

    @engine.op
    def fresh_view(x: Array) -> Array:
        return make(x)[:500].reshape(5, 100)

    @engine.op
    async def fresh_async(x: Array) -> Array:
        return make(x)

    x = np.ones(1000)
    handles = [fresh(x), *fresh_pair(x), fresh_view(x), fresh_async(x)]
    values = await engine.gather(*handles)
    assert sorted(value.__array_interface__["data"][0] for value in values) == sorted(addresses)


def test_the_layout_of_what_a_kernel_returns_is_kept(mode: engine.ExecutionMode) -> None:
    kept = values(53, 37)[::-1].T

    @engine.op
    def give() -> Array:
        return kept

    assert same_bits(ops.sum(give()).result(), np.sum(kept))


def test_a_kernel_that_returns_its_operand_is_not_copied(mode: engine.ExecutionMode) -> None:
    @engine.op
    def same(x: Array) -> Array:
        return x[::2]

    handle = ops.add(np.arange(1000.0), 1)
    assert np.shares_memory(same(handle).result(), handle.result())


def test_several_results_that_are_one_buffer_stay_apart_from_it(mode: engine.ExecutionMode) -> None:
    buffer = np.arange(10.0)

    @engine.op(num_outputs=2)
    def halves() -> tuple[Array, Array]:
        return buffer[:5], buffer[5:]

    first, second = (handle.result() for handle in halves())
    buffer[:] = 0
    assert first.tolist() == [0, 1, 2, 3, 4]
    assert second.tolist() == [5, 6, 7, 8, 9]


def test_an_array_handed_out_earlier_never_changes(mode: engine.ExecutionMode) -> None:
    handle = ops.add(np.ones(100_000), 1)
    first = handle.result()
    expected = first.copy()
    for _ in range(50):
        handle = ops.multiply(ops.add(handle, 1), 0.5)
        handle.result()
    assert np.array_equal(first, expected)
