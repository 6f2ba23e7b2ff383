"""Results of no dimensions: read as NumPy scalars, unhashable while they are handles; and what iteration gives."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import engine
from engine import ops
from engine.testing import GateOp
from handles import Handle

SCALARS: dict[str, Any] = {
    "float64": np.float64(1.5),
    "float32": np.float32(1.5),
    "int8": np.int8(3),
    "uint64": np.uint64(2**63),
    "bool": np.True_,
    "complex": np.complex64(1 + 2j),
    "longdouble": np.longdouble(1.5),
    "str": np.str_("ab"),
    "bytes": np.bytes_(b"ab"),
    "datetime": np.datetime64("2020-01-01"),
    "timedelta": np.timedelta64(3, "s"),
    "structured": np.array([(1, 2.5)], "i4,f8")[0],
}


@pytest.mark.parametrize("scalar", SCALARS.values(), ids=SCALARS)
async def test_a_result_of_no_dimensions_is_read_as_a_scalar(scalar: Any, mode: engine.ExecutionMode) -> None:
    def make() -> Handle:
        return ops.asarray(np.array([scalar, scalar]))[0]

    with engine.allow_sync():
        numpy: Any = make().numpy()  # type: ignore[attr-defined]
        read = [await make(), make().result(), numpy if mode is engine.SYNC else await numpy]
        read += await engine.gather(make(), make())
        for value in read:
            assert type(value) is type(scalar)
            assert value.dtype == scalar.dtype
            assert value == scalar
        array = np.asarray(make())
        assert type(array) is np.ndarray
        assert array.shape == ()
        assert make().shape == ()


async def test_a_structured_scalar_cannot_write_into_the_result(mode: engine.ExecutionMode) -> None:
    handle = ops.asarray(np.array((1, 2.5), "i4,f8"))
    with pytest.raises(ValueError, match="read-only"):
        (await handle)["f0"] = 7
    assert (await handle)["f0"] == 1


async def test_scalars_go_where_numbers_go(mode: engine.ExecutionMode) -> None:
    x = ops.asarray([1.0, 2.0])
    assert json.dumps({"loss": await ops.sum(x)}) == '{"loss": 3.0}'
    assert f"{await ops.sum(x):.2f}" == "3.00"
    assert {await ops.sum(x): 1}[3.0] == 1


def test_a_handle_of_no_dimensions_is_unhashable(mode: engine.ExecutionMode) -> None:
    x = ops.asarray([1.0, 2.0])
    once = engine.op(lambda a: a.sum())
    for handle in (ops.asarray(1.0), ops.sum(x), x[0], x[0] + 1, once(x), once(x) + 1):
        for _ in range(2):  # pending, and once it has run
            with pytest.raises(TypeError, match=r"unhashable type: '.*Handle' with no dimensions"):
                hash(handle)
            handle.result()


def test_a_handle_with_dimensions_is_hashed_by_identity(mode: engine.ExecutionMode) -> None:
    x = ops.asarray([1.0, 2.0])
    unknown = engine.op(lambda a: a + 1)
    for handle in (x, x + 1, x[:0], x[x > 5], unknown(x), unknown(x) * 2):
        before = hash(handle)
        handle.result()
        assert before == hash(handle) == hash(handle)
        names = {handle: "name", x: "x"}
        assert names[handle] == "x" if handle is x else "name"


async def test_on_the_loop_a_hash_never_depends_on_whether_the_op_has_run(gate: GateOp) -> None:
    engine.enable_eager_execution(execution_mode=engine.ASYNC)
    x = ops.asarray([1.0, 2.0])
    known, scalar, unknown = gate(x), ops.sum(gate(x)), engine.op(lambda a: a + 1)(gate(x))
    before = hash(known)
    with pytest.raises(TypeError, match="unhashable"):
        hash(scalar)
    with pytest.raises(engine.BlockingSyncError, match=r"hash\(\).*number of dimensions"):
        hash(unknown)
    gate.open()
    await engine.gather(known, scalar, unknown)
    assert hash(known) == before
    with pytest.raises(TypeError, match="unhashable"):
        hash(scalar)
    assert hash(unknown) == hash(unknown)


async def test_a_handle_that_was_hashed_is_found_once_its_op_has_failed() -> None:
    engine.enable_eager_execution(execution_mode=engine.ASYNC)
    failing = ops.linalg.inv(ops.zeros((2, 2)))
    names = {failing: "inverse"}
    with pytest.raises(np.linalg.LinAlgError):
        await failing
    assert names[failing] == "inverse"


def test_symbols_are_keys_of_feeds_whatever_their_shape() -> None:
    for shape, value in (((), 2.0), ((2,), [1.0, 2.0]), (None, 3.0)):
        x = engine.placeholder(np.float64, shape)
        with engine.Session() as session:
            assert np.array_equal(session.run(x * 2, {x: value}), np.multiply(value, 2))


ITERATIONS: dict[str, Callable[[Any], Any]] = {
    "list": list,
    "set": set,
    "in a set": lambda x: 1.0 in set(x),
    "keys": dict.fromkeys,
    "sum": sum,
    "max": max,
    "sorted": sorted,
    "unpacked": lambda x: (lambda a, b, c: [c, b, a])(*x),
    "dictionary": lambda x: {1.0: "one", 2.0: "two", 5.0: "five"}[next(iter(x))],
    "zip": lambda x: dict(zip(x, "abc", strict=True)),
}


@pytest.mark.parametrize("use", ITERATIONS.values(), ids=ITERATIONS)
@pytest.mark.parametrize("values", [[1.0, 2.0, 5.0], [1, 2, 5]], ids=["float", "int"])
def test_iterating_over_one_dimension_gives_what_numpy_gives(
    use: Callable[[Any], Any], values: list[Any], mode: engine.ExecutionMode
) -> None:
    expected = use(np.array(values))
    result = use(ops.asarray(values))
    assert type(result) is type(expected)
    assert result == expected


def test_iterating_over_more_dimensions_gives_handles(mode: engine.ExecutionMode) -> None:
    rows = list(ops.asarray([[1, 2], [3, 4]]))
    assert all(isinstance(row, Handle) for row in rows)
    assert [row.tolist() for row in rows] == [[1, 2], [3, 4]]
    with pytest.raises(TypeError, match="no dimensions: give its value, `await h`"):
        iter(ops.asarray(1.0))


def test_iterating_over_one_dimension_on_the_loop_says_to_await() -> None:
    async def main() -> None:
        h = ops.asarray([1.0, 2.0])
        with pytest.raises(engine.BlockingSyncError, match=r"iterating over the elements.*await"):
            list(h)
        assert [x + 1 for x in await h] == [2, 3]
        assert [(await row).tolist() for row in ops.stack([h, h])] == [[1, 2], [1, 2]]

    engine.enable_eager_execution(execution_mode=engine.ASYNC)
    asyncio.run(main())


@pytest.mark.parametrize("axis", [0, -1])
@pytest.mark.parametrize("squeeze", [np.squeeze, ops.squeeze], ids=["numpy", "ops"])
def test_a_scalar_is_squeezed_along_an_axis_as_in_numpy(
    mode: engine.ExecutionMode, squeeze: Callable[..., Any], axis: int
) -> None:
    assert np.asarray(squeeze(ops.asarray(2.5), axis=axis)).shape == np.squeeze(np.array(2.5), axis=axis).shape == ()
    with pytest.raises(np.exceptions.AxisError):
        np.asarray(squeeze(ops.asarray(2.5), axis=1))
