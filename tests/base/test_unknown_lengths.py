"""What a graph says of results whose operands have unknown lengths holds for each length that they turn out to have."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import engine
from engine.base.lengths import facts_in_common
from engine.base.op import ShapeDtype

ops: Any = engine.ops  # what it returns here is a symbol, or a handle of either kind

Shape = tuple[int | None, ...]

PROGRAMS: dict[str, tuple[Callable[..., Any], tuple[Shape, ...]]] = {
    "reshape to rows": (lambda x: ops.reshape(x, (3, -1)), ((None,),)),
    "reshape by columns": (lambda x: np.reshape(x, (3, -1), order="F"), ((None,),)),
    "reshape of more": (lambda x: ops.reshape(x, (2, -1)), ((None, 3),)),
    "split": (lambda x: np.split(x, 3)[0], ((None,),)),
    "array_split": (lambda x: np.array_split(x, 4)[0], ((None,),)),
    "squeeze": (lambda x: np.squeeze(x), ((None, 3),)),
    "squeeze of one": (lambda x: ops.squeeze(x, axis=0), ((None, 3),)),
    "broadcast_to": (lambda x: ops.broadcast_to(x, (6, 3)), ((None, 3),)),
    "broadcast_arrays": (lambda x, y: ops.broadcast_arrays(x, y)[0], ((None, 3), (5, 3))),
    "add": (lambda x, y: x + y, ((None, 3), (4, 3))),
    "add two unknown": (lambda x, y: x + y, ((None,), (None,))),
    "matmul": (lambda x, y: x @ y, ((None, 3), (3, None))),
    "matmul of stacks": (lambda x, y: x @ y, ((None, 2, 3), (4, 3, 2))),
    "concat": (lambda x, y: ops.concat([x, y]), ((None, 3), (4, 3))),
    "concat beside": (lambda x, y: ops.concat([x, y], axis=1), ((None, 3), (4, 3))),
    "vstack": (lambda x, y: np.vstack([x, y]), ((None,), (5,))),
    "slices": (lambda x: x[1:5], ((None,),)),
    "steps": (lambda x: x[::2], ((None,),)),
    "the last ones": (lambda x: x[-3:], ((None,),)),
    "an index": (lambda x: x[5], ((None, 3),)),
    "a mask": (lambda x: x[np.array([True] * 6)], ((None, 2),)),
    "repeat": (lambda x: ops.repeat(x, np.array([1, 2, 3])), ((None,),)),
    "cross": (lambda x, y: np.cross(x, y), ((4, None), (4, 3))),
    "inv": (lambda x: ops.linalg.inv(x), ((None, None),)),
    "solve": (lambda x, y: ops.linalg.solve(x, y), ((3, 3), (None, 2))),
    "qr": (lambda x: ops.linalg.qr(x)[0], ((None, 3),)),
    "svd": (lambda x: ops.linalg.svd(x, full_matrices=False)[0], ((None, 3),)),
    "einsum": (lambda x: np.einsum("ii->i", x), ((None, 5),)),
    "outer": (lambda x, y: np.add.outer(x, y), ((None,), (4,))),
    "diff": (lambda x: ops.diff(x, n=2), ((None,),)),
    "irfft": (lambda x: ops.fft.irfft(x), ((None,),)),
    "view of wider elements": (lambda x: x.view("c16"), ((2, None),)),
    "sliding windows": (lambda x: np.lib.stride_tricks.sliding_window_view(x, 4), ((None,),)),
    "convolve": (lambda x, y: np.convolve(x, y), ((None,), (3,))),
    "covariance": (lambda x: np.cov(x), ((None, 3),)),
    "in-place": (lambda x, y: np.add(x, y, out=x * 1.0), ((None, 3), (4, 3))),
}

LENGTHS = (1, 2, 3, 4, 5, 6, 9, 12)


def real_shapes(function: Callable[..., Any], shapes: tuple[Shape, ...]) -> Iterator[tuple[int, ...]]:
    """The shapes that NumPy gives, for all lengths that fit."""
    for lengths in itertools.product(LENGTHS, repeat=sum(shape.count(None) for shape in shapes)):
        left = iter(lengths)
        known = [tuple([next(left) if n is None else n for n in shape]) for shape in shapes]
        try:
            yield function(
                *[engine.ops.asarray(np.eye(*shape) if len(shape) == 2 else np.ones(shape)) for shape in known]
            ).shape
        except Exception:  # noqa: BLE001 - it does not fit
            continue


@pytest.mark.parametrize("name", PROGRAMS)
def test_what_is_said_holds_for_each_length(name: str) -> None:
    function, shapes = PROGRAMS[name]
    with engine.Graph().as_default():
        said = function(*[engine.placeholder("f8", shape) for shape in shapes]).shape
    with engine.execution_mode(engine.SYNC), engine.Executor(execution_mode=engine.SYNC):
        real = set(real_shapes(function, shapes))
    assert real
    for shape in real if said is not None else ():
        assert len(said) == len(shape)
        assert all(told in (None, length) for told, length in zip(said, shape, strict=True)), (said, shape)


def fits_multiples(of: int) -> Callable[[Any], tuple[ShapeDtype, ...]]:
    """A rule that takes only such lengths, and splits the axis by that."""

    def rule(operands: Any) -> tuple[ShapeDtype, ...]:
        (length,) = operands[0].shape
        if length % of:
            raise ValueError(f"{length} is no multiple of {of}")
        return (ShapeDtype((of, length // of), operands[0].dtype),)

    return rule


def test_one_length_that_fits_proves_nothing() -> None:
    vector = ShapeDtype((None,), np.dtype("f8"))
    assert facts_in_common(fits_multiples(12), [vector], ()) is None
    told = facts_in_common(fits_multiples(12), [vector], (12,))
    assert told == (ShapeDtype((12, None), np.dtype("f8")),)
    with pytest.raises(ValueError, match="no multiple of 35"):
        facts_in_common(fits_multiples(35), [vector], ())


def test_a_rule_of_the_user_that_fits_no_length_tried_is_no_error() -> None:
    folded = engine.op(lambda x: x.reshape(35, -1), shape=lambda its: ((35, its.shape[0] // 35), its.dtype))
    x = engine.placeholder("f8", (None,))
    result: Any = folded(x)  # of a symbol the shape may be None
    assert result.shape is None
    with engine.Session() as session:
        assert session.run(result, {x: np.ones(70)}).shape == (35, 2)
