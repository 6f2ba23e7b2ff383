"""Writes into views and temporaries: they reach the array, as in NumPy, or raise an error that says how to write it."""

import asyncio
import gc
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import engine
from engine import ops
from engine.testing import GateOp
from handles import Handle

Names = dict[str, Any]

STATEMENTS = """
b[0][1] = 5
b[0] += 1
b[0][1] += 1
b[0, 1] += 1
b[1:][0][1:3] = 7
b[1:3] *= 2
b[...][0] = 9
b[0, ...] = 9
b[None][0, 0] = 4
b[::-1][0] = 3
b[:, 1][0] = 8
b[:, ::2][:, 1] += 1
b[-1][-1] = 2
b.T[0] = 3
b.T[0] += 3
b.T[0][1] = 3
b.T[1:][0][1:] -= 4
b.transpose()[1] = 6
b.transpose(1, 0)[1] = 6
b.swapaxes(0, 1)[2] = 5
b.mT[1] = 5
b.reshape(2, 6)[0] = 1
b.reshape(-1)[5] = 1
b.reshape((4, 3))[1][1] = 1
b.ravel()[3] = 2
b.ravel()[3] += 2
b.flatten()[3] = 2
b.copy()[0] = 1
b.squeeze()[0] = 1
b[None].squeeze()[0] = 1
b.real[0] = 1
b.conj()[0] = 1
b.conjugate()[0] += 1
b.astype(b.dtype, copy=False)[0] = 1
b.astype(b.dtype)[0] = 1
b[b > 3][0] = 1
b[[0, 1]][0] = 1
b[np.array([0, 1])][0] = 1
b[[0, 1]] += 1
b[b > 3] *= 2
b[[0, 1], [1, 2]] += 1
b[True][0] = 1
for row in b: row += 1
for row in b: row[0] = 7
for row in b[1:]: row[:] = 0
for row in b.T: row *= 2
for row in b: row.sort()
for row in b: row.fill(3)
for row in b: row[::2].fill(3)
for part in np.split(b, 3): part[0] = 5
for part in np.array_split(b, 2, axis=1): part += 1
for part in np.hsplit(b, 2): part[0] = 5
for part in np.vsplit(b, 3): part *= 2
for x in b[0]: x += 1
np.copyto(b[0], 3)
np.copyto(b[0], [1, 2, 3, 4], where=[True, False, True, False])
np.copyto(b.T[1], 3)
np.fill_diagonal(b[:2], 0)
np.put(b[1], [0, 2], 9)
np.place(b[1:], b[1:] > 5, 0)
np.putmask(b[1:], b[1:] > 5, 0)
np.put_along_axis(b[:2], np.array([[0], [1]]), 99, axis=1)
np.add(b[1], 1, out=b[0])
np.add(b[1], 1, out=b[0], where=[True, False, True, False])
np.negative(b.T, out=b.T)
np.cumsum(b[0], out=b[1])
np.sum(b, axis=0, out=b[0])
np.clip(b, 2, 5, out=b)
np.add.at(b[0], [0, 0, 1], 1)
np.transpose(b)[0] = 3
np.transpose(a=b)[0] = 3
np.swapaxes(b, 0, 1)[0] = 3
np.moveaxis(b, 0, 1)[0] = 3
np.rollaxis(b, 1)[0] = 3
np.reshape(b, (2, 6))[0] = 3
np.reshape(b, (2, 6), order="F")[0] = 3
np.ravel(b)[2] = 3
np.ravel(b, order="F")[2] = 3
np.expand_dims(b, 0)[0, 1] = 3
np.squeeze(b)[1] = 3
np.atleast_1d(b)[1] = 3
np.atleast_3d(b)[1] = 3
np.flip(b)[0] = 3
np.flip(b, 1)[0][0] = 3
np.fliplr(b)[0] = 3
np.flipud(b)[0] = 3
np.rot90(b)[0] = 3
np.real(b)[0] = 3
np.diag(b[0])[0] = 3
b.reshape(2, 6, order="F")[0] = 1
row = b[0]; row[1] = 5
row = b[0]; row += 1
row = b[0]; row += 1; row[2] = 9; row -= 4
row = b[0]; part = row[1:]; part[0] = 7
row = b[0]; part = row[1:]; part += 7
row = b[0]; part = row[1:]; del row; part[0] = 7
t = b.T; row = t[0]; row[1] = 6
t = b.T; row = t[0]; del t; row[1] = 6
row = b[0]; b[0, 1] = 50; row += 1
row = b[0]; b[0, 1] = 50; row[2] = 1
row = b[0]; b += 1; row *= 2
row = b[0]; b += 1; row.sort()
row = b[0]; b[0, 1] = 50; row.fill(1)
row = b[0]; b[0, 1] = 50; np.put(row, [0], 7)
row = b[0]; b[0, 1] = 50; np.copyto(row, 7, where=[True, False, False, False])
row = b[0]; b[0, 1] = 50; np.add(row, 1, out=row, where=[True, False, False, False])
row = b[0]; b[0, 1] = 50; np.add.at(row, 0, 1)
row = b[0]; b[:] = 1; row[0] = 2; b[1] = 3; row[1] = 4
t = b.T; row = t[0]; b[1, 0] = 50; del t; row += 1
t = b.T; row = t[0]; t[0, 0] = 50; del t; row += 1
row = b[0]; b = b + 1; row += 1
row = b[0]; b = None; row += 1
x = b[0, 0]; x += 1
x = b[0][0]; x += 1
x = b[0, 0]; b[0, 0] += 1
x = b[0, ...]; x[...] = 5
x = b[0, 0, ...]; x[...] = 5
x = b[0, 0, ...]; x += 5
b = b[1:]; b[0] = 5
b = b.T; b[0] = 5; b += 1
flat = b.reshape(-1); flat[0] = 9
flat = b.T.reshape(-1); flat[0] = 9
flat = b.T.reshape(-1); b[0, 0] = 50; flat += 1
flat = b[:2].reshape(-1); flat[0] = 9
flat = b[:, 1:3].ravel(); flat[0] = 9
b = b[:, :3] * 2; b[0] = 1; flat = b.reshape(-1); flat[0] = 9
b = b.T * 2; b[0] = 1; flat = b.reshape(-1); flat[0] = 9
x = b.reshape(4, 3); x[0] = 1; flat = x.ravel(); flat[0] = 9
b = b.reshape(4, 3); b[0] = 1; flat = b.ravel(); flat[0] = 9
b = b.reshape(4, 3).T; b[0] = 1; b += 1; flat = b.ravel(order="F"); flat[0] = 9
b = b[:, :3]; flat = b.reshape(-1); flat[0] = 9
b = b[:, :3].T; flat = b.reshape(-1); flat[0] = 9
c = b[::2]; d = c.T; d[0] = 1
c = b[:]; c[0] = 1
c = b; c[0] = 1
c = b; c += 1
i = np.argmax(b[0]); b[i - 3][0] = 77
b[0], b[1] = b[1].copy(), b[0].copy()
b[0] = b[1]; b[1][0] = 6
b[0] = b[0]
b[:2] = b[1:]
b[1:] += b[:-1]
b[0] -= b[0]
b[0][:] = b[1]
b[b[0].argmin()][1] = 5
""".strip().splitlines()

BASES: dict[str, Callable[[], np.ndarray[Any, Any]]] = {
    "rows": lambda: np.arange(12.0).reshape(3, 4),
    "columns": lambda: np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    "integers": lambda: np.arange(12).reshape(3, 4),
    "complex": lambda: (np.arange(12.0) + 1j).reshape(3, 4),
}

NOT_OF_COMPLEX = ("b > 3", "clip", "sort", "> 5")


def final(statement: str, base: Any) -> tuple[Names, Any]:
    """The arrays that there are after a program, and the error that it ended with."""
    names: Names = {"np": np, "b": base}
    error = None
    try:
        exec(statement, names)
    except (TypeError, ValueError) as caught:
        error = caught
    del names["np"], names["__builtins__"]
    return {name: value for name, value in names.items() if value is not None}, error


def values(names: Names) -> Names:
    return {name: np.asarray(value).tolist() for name, value in names.items()}


@pytest.mark.sweep
@pytest.mark.parametrize("kind", BASES)
@pytest.mark.parametrize("statement", STATEMENTS)
def test_after_a_write_all_names_hold_what_they_hold_in_numpy(
    statement: str, kind: str, mode: engine.ExecutionMode
) -> None:
    if kind == "complex" and any(part in statement for part in NOT_OF_COMPLEX):
        return
    expected, refused = final(statement, BASES[kind]())
    b = ops.asarray(BASES[kind]())
    result, error = final(statement, b)
    if refused is not None:
        assert error is not None
    elif error is not None:
        raise AssertionError(f"refused: {error}")
    assert values(result) == values(expected)


@pytest.mark.parametrize("statement", ["b.imag[0] = 1", "b.imag += 1", "b.real[0][1] = 5", "np.imag(b)[:, 0] = 4"])
def test_parts_of_complex_numbers_are_written_to(statement: str, mode: engine.ExecutionMode) -> None:
    if statement == "b.imag += 1":
        statement = "part = b.imag; part += 1"
    expected, _ = final(statement, BASES["complex"]())
    assert values(final(statement, ops.asarray(BASES["complex"]()))[0]) == values(expected)


READ_ONLY = (
    "np.diagonal(b)[0] = 1",
    "b.diagonal()[0] = 1",
    "d = b.diagonal(); d += 1",
    "np.broadcast_to(b, (2, 3, 4))[0] = 1",
    "np.linalg.diagonal(b)[0] = 1",
    "np.lib.stride_tricks.sliding_window_view(b, 2, axis=1)[0] = 1",
    "np.copyto(np.diagonal(b), 1)",
)


@pytest.mark.parametrize("statement", READ_ONLY)
def test_a_view_that_numpy_makes_read_only_is_refused_at_the_write(statement: str, mode: engine.ExecutionMode) -> None:
    _, refused = final(statement, BASES["rows"]())
    assert isinstance(refused, ValueError)
    b = ops.asarray(BASES["rows"]())
    _, error = final(statement, b)
    assert isinstance(error, ValueError)
    assert "read-only" in str(error)
    assert "write into the array itself" in str(error)
    assert b.tolist() == BASES["rows"]().tolist()


SCALARS = ("b[0, 0][...] = 1", "b[0][0][...] = 1", "np.copyto(b[0, 0], 1)", "x = b[0, 0]; x[()] = 1", "b[0, 0].fill(1)")


@pytest.mark.parametrize("statement", SCALARS)
def test_an_element_is_a_scalar_and_refuses_to_be_written_to(statement: str, mode: engine.ExecutionMode) -> None:
    b = ops.asarray(BASES["rows"]())
    _, error = final(statement, b)
    assert isinstance(error, TypeError)
    assert "is a scalar" in str(error)
    assert "handle[key] = value" in str(error)
    assert b.tolist() == BASES["rows"]().tolist()


WITH_HANDLES = """
np.reshape(b, (two, 6))[0] = 1
b.reshape(two, -1)[0] = 1
np.transpose(b, [one, 0])[0] = 1
np.moveaxis(b, one, 0)[0] = 1
np.flip(b, axis=one)[0] = 1
np.expand_dims(b, one)[0] = 1
np.squeeze(b[None], axis=one - 1)[0] = 1
""".strip().splitlines()


@pytest.mark.parametrize("statement", WITH_HANDLES)
def test_lengths_and_axes_from_handles_give_views_too(statement: str, mode: engine.ExecutionMode) -> None:
    b, numbers = BASES["rows"](), {"one": np.int64(1), "two": np.int64(2)}
    exec(statement, {"np": np, "b": b} | numbers)
    handle = ops.asarray(BASES["rows"]())
    names: Names = {name: ops.asarray(number) for name, number in numbers.items()}
    exec(statement, {"np": np, "b": handle} | names)
    assert handle.tolist() == b.tolist()


WITH_HANDLES_FOR_NUMPY = """
np.swapaxes(b, one, 0)
np.rollaxis(b, one)
np.rot90(b, k=one)
np.diag(b, k=one)
np.diagonal(b, one)
np.real_if_close(b, tol=one)
np.split(b, one + 2)[0]
np.array_split(b, [one])[0]
""".strip().splitlines()
"""NumPy is given the handles' values in the op, so what it gives is not known where the result is written to."""


@pytest.mark.parametrize("expression", WITH_HANDLES_FOR_NUMPY)
def test_what_may_be_a_view_or_a_copy_says_how_to_write(expression: str, mode: engine.ExecutionMode) -> None:
    b, one = ops.asarray(BASES["rows"]()), ops.asarray(1)
    part = eval(expression, {"np": np, "b": b, "one": one})
    name = expression[3 : expression.index("(")]
    with pytest.raises(ValueError, match=rf"{name}\(\) may be part of another array or a copy.*\.copy\(\)"):
        part[0] = 1
    assert b.tolist() == BASES["rows"]().tolist()


FILLING_HOLES = """
np.nan_to_num(b[0], copy=False)
np.nan_to_num(b[0], False)
np.nan_to_num(x=b[0], copy=False, nan=5.0)
np.nan_to_num(b.T[1:], copy=False, posinf=7.0)
np.nan_to_num(b[0][1:], copy=False)
np.nan_to_num(b[:, ::2], copy=False, neginf=-7.0)
np.nan_to_num(b.reshape(-1), copy=False)
np.nan_to_num(b[[0, 1]], copy=False)
np.nan_to_num(b[0].copy(), copy=False)
np.nan_to_num(b[0])
row = np.nan_to_num(b[0], copy=False); row[0] = 3
row = b[0]; b[0, 0] = np.inf; np.nan_to_num(row, copy=False)
row = b[0]; part = row[1:]; b[0, 2] = np.nan; np.nan_to_num(part, copy=False)
for row in b: np.nan_to_num(row, copy=False)
""".strip().splitlines()


@pytest.mark.parametrize("statement", FILLING_HOLES)
def test_holes_filled_in_a_view_are_filled_in_the_array(statement: str, mode: engine.ExecutionMode) -> None:
    holes = np.array([[1.0, np.nan, np.inf], [-np.inf, 2.0, np.nan], [np.nan, 4.0, 5.0]])
    expected, refused = final(statement, holes.copy())
    result, error = final(statement, ops.asarray(holes))
    assert refused is None
    assert error is None
    assert result.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(np.asarray(result[name]), array)


def test_holes_in_a_view_that_is_read_only_are_not_filled(mode: engine.ExecutionMode) -> None:
    b = ops.asarray(np.full((2, 2), np.nan))
    with pytest.raises(ValueError, match="read-only"):
        np.nan_to_num(np.diagonal(b), copy=False)
    assert np.isnan(np.asarray(b)).all()


UNCERTAIN = """
b = b[:, ::2]; b[0] = 1; flat = b.reshape(-1); flat[0] = 9
b = b[:, :3]; b[0] = 1; flat = b.reshape(-1); flat[0] = 9
c = b[:, :3]; c[0] = 1; flat = c.reshape(-1); flat[0] = 9
c = b[:, :3]; c += 1; flat = c.reshape(-1); flat[0] = 9
c = b[:, :3]; c.T[0] = 1; flat = c.reshape(-1); flat[0] = 9
b = b[:, :3]; b += 1; flat = b.reshape(-1); flat[0] = 9
b = b[:, :3]; b.sort(); flat = b.reshape(-1); flat[0] = 9
b = b[:, :3]; np.copyto(b, 1); flat = b.reshape(-1); flat[0] = 9
""".strip().splitlines()


@pytest.mark.parametrize("statement", UNCERTAIN)
def test_reshaping_a_part_that_was_written_to_may_be_a_copy(statement: str, mode: engine.ExecutionMode) -> None:
    expected, _ = final(statement.removesuffix("flat[0] = 9"), BASES["rows"]())
    result, error = final(statement, ops.asarray(BASES["rows"]()))
    assert isinstance(error, ValueError)
    assert "may be part of another array or a copy" in str(error)
    assert values(result) == values(expected)


def test_functions_of_the_namespace_give_views_too(mode: engine.ExecutionMode) -> None:
    programs: list[Callable[[Any], Any]] = [
        lambda x: ops.reshape(x, (2, 6)),
        lambda x: ops.reshape(x, (2, 6), copy=True),
        lambda x: ops.permute_dims(x, (1, 0)),
        ops.matrix_transpose,
        lambda x: ops.expand_dims(x, axis=0),
        lambda x: ops.squeeze(ops.expand_dims(x, axis=0), axis=0),
        lambda x: ops.flip(x, axis=1),
        lambda x: ops.moveaxis(x, 0, 1),
        ops.real,
        lambda x: ops.unstack(x)[1],
        lambda x: ops.astype(x, x.dtype, copy=False),
        lambda x: ops.astype(x, x.dtype),
    ]
    numpys: list[Callable[[Any], Any]] = [
        lambda x: x.reshape(2, 6),
        lambda x: x.reshape(2, 6).copy(),
        np.transpose,
        np.transpose,
        lambda x: x[None],
        lambda x: x[None][0],
        lambda x: x[:, ::-1],
        np.transpose,
        np.real,
        lambda x: x[1],
        lambda x: x,
        lambda x: x.copy(),
    ]
    for program, numpys_own in zip(programs, numpys, strict=True):
        x, h = BASES["rows"](), ops.asarray(BASES["rows"]())
        numpys_own(x)[0] = 77
        program(h)[0] = 77
        assert h.tolist() == x.tolist()


async def test_handles_made_from_the_old_value_keep_it(mode: engine.ExecutionMode) -> None:
    b = ops.asarray(BASES["rows"]())
    row, double = b[0], b * 2
    b[0][1] = 50
    assert (await row).tolist() == [0, 1, 2, 3]
    assert (await double)[0].tolist() == [0, 2, 4, 6]
    assert (await b)[0].tolist() == [0, 50, 2, 3]


async def test_a_write_into_a_pending_array_waits_for_nothing(gate: GateOp) -> None:
    engine.enable_eager_execution(execution_mode=engine.ASYNC)
    b = gate(ops.asarray(BASES["rows"]()))
    row = b[0]
    row[1] = 5
    b.T[0] += 1
    b[1][0] = 9
    assert not b.is_ready()
    gate.open()
    expected = BASES["rows"]()
    expected[0, 1] = 5
    expected[:, 0] += 1
    expected[1, 0] = 9
    assert (await b).tolist() == expected.tolist()


async def test_a_write_into_a_view_of_unknown_shape_reaches_the_array(mode: engine.ExecutionMode) -> None:
    unknown = engine.op(lambda a: a + 1)
    with engine.allow_sync():
        b = unknown(BASES["rows"]())
        b[0][1] = 50
        row = b[1]
        row += 1
        b[2] *= 2
        line = unknown(np.arange(3.0))
        line[0] += 1
        first = line[1]
        first += 1
    expected = BASES["rows"]() + 1
    expected[0, 1] = 50
    expected[1] += 1
    expected[2] *= 2
    assert (await b).tolist() == expected.tolist()
    assert (await line).tolist() == [2, 2, 3]
    assert await first == 3


async def test_a_failed_index_or_view_raises_where_it_is_read() -> None:
    engine.enable_eager_execution(execution_mode=engine.ASYNC)
    b = ops.asarray(BASES["rows"]())
    failing = ops.hypot(ops.asarray([1j]), 1)
    await engine.gather(b)
    with pytest.raises(TypeError, match="hypot"):
        await failing
    part = b[failing]
    row = b[0] + 0 * failing
    row[0] = 1
    row += 1
    b[1][0] = failing
    for handle in (part, row, b):
        with pytest.raises(TypeError, match="hypot"):
            await handle


def test_in_a_graph_and_in_a_traced_function_writes_reach_the_array() -> None:
    def program(x: Any) -> Any:
        b = x * 1
        b[0][1] = 5
        b.T[2] += 1
        row = b[1]
        row[0] = 7
        row *= 2
        return b

    expected = program(BASES["rows"]())
    x = engine.placeholder(np.float64, (3, 4))
    with engine.Session() as session:
        assert session.run(program(x), {x: BASES["rows"]()}).tolist() == expected.tolist()
    traced = engine.function(program)
    with engine.Executor(execution_mode=engine.SYNC):
        assert traced(BASES["rows"]()).tolist() == expected.tolist()


def test_links_keep_nothing_alive(mode: engine.ExecutionMode) -> None:
    b = ops.asarray(BASES["rows"]())
    row = b[0]
    source = weakref.ref(b)
    del b
    gc.collect()
    assert source() is None
    row[1] = 5
    assert row.tolist() == [0, 5, 2, 3]


def test_a_long_chain_of_views_can_be_written_to(mode: engine.ExecutionMode) -> None:
    root = ops.zeros(3000)
    view: Handle = root
    for _ in range(2000):
        view = view[1:]
    view[0] = 1
    assert int(ops.argmax(root).result()) == 2000


async def test_an_update_of_an_item_is_one_write(mode: engine.ExecutionMode) -> None:
    b = ops.asarray(BASES["rows"]())
    for _ in range(3):
        b[0] += 1
        b[1:3] *= 2
        b[2, 1] -= 1
        b[1:, ::2] += 1
    expected = BASES["rows"]()
    for _ in range(3):
        expected[0] += 1
        expected[1:3] *= 2
        expected[2, 1] -= 1
        expected[1:, ::2] += 1
    assert (await b).tolist() == expected.tolist()


def test_writes_on_the_loop_need_no_waiting() -> None:
    async def main() -> None:
        b = ops.asarray(BASES["rows"]())
        for row in b:
            row += 1
        b[0][0] = -1
        b[2].fill(3)
        expected = BASES["rows"]() + 1
        expected[0, 0], expected[2] = -1, 3
        assert (await b).tolist() == expected.tolist()

    engine.enable_eager_execution(execution_mode=engine.ASYNC)
    asyncio.run(main())


def test_elements_cannot_be_deleted(mode: engine.ExecutionMode) -> None:
    arrays: tuple[Any, ...] = (ops.ones(3), np.ones(3))
    for each in arrays:
        with pytest.raises(ValueError, match="cannot delete array elements"):
            del each[0]
