"""Code generation: many small steps written as one Python function, so that a replay of them all is one op.

Purpose: to call a function of a hundred small ops costs little more than the calls of NumPy's functions themselves.

The function has a line for each step, without branches. It is compiled by Python; NumPy's functions do the work. An
error in it gets a note that says which step raised it, by the number of the line (`FIRST_LINE` says where they begin).

Invariants: a name is used again only when the value that it had is not needed any more, as `schedule` says; large
values are let go at once. The code holds no text of users: kernels, parameters and constants are names that it finds
in its namespace.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from types import CodeType
from typing import Any

import numpy as np

from engine.base.inference import describe, size_of
from engine.base.op import SMALL_NS, Estimate, Infer, Kernel, Op, Params, ShapeDtype
from engine.base.traced import Traced, TracedStep
from engine.base.warned import REFUSES, call_at, forget_refusal, is_refusal
from engine.failures import site
from engine.fusion.chains.chain import Chain
from engine.graph.compiled import CompiledReplay
from engine.graph.inference import UNKNOWN, infer_node, is_complete
from engine.graph.optimize import Plan
from engine.graph.schedule import schedule
from engine.graph.steps import Step

OVERHEAD_NS = 400.0
"""Nanoseconds that a call of any NumPy function takes."""
LET_GO_BYTES = 65_536
"""Bytes from which a value is let go at once when it is no longer needed, not when its name is used again."""
UNLIMITED = 1 << 62


def merge(
    plan: Plan,
    steps: Sequence[Step],
    costs: Sequence[float | None],
    inputs: Sequence[int],
    outputs: Sequence[int],
    name: str,
    compiled: CompiledReplay | None = None,
    *,
    quick: bool = False,
    recognized: bool = False,
) -> Op:
    """Make an op that takes the slots `inputs` and gives the slots `outputs`, by running these steps in order.

    `costs` has the estimated nanoseconds of each step, None where a shape is not known. `compiled` is used where it
    can be; with `quick`, the op is run in place without another look at it. With `recognized`, its operands were looked
    at before.
    """
    total = sum(filter(None, costs)) if all(cost is not None for cost in costs) else math.inf
    kernel = straight_line(plan, steps, inputs, outputs, name)
    return Op(
        name,
        kernel if compiled is None else compiled.kernel(kernel),
        infer=_inference(plan, steps, inputs, outputs),
        cost=_cost(costs, steps) if compiled is None else _compiled_cost(costs, steps, compiled),
        view=any(step.op.memory.view for step in steps)
        or not {slot for step in steps for slot in step.outputs()}.issuperset(outputs),
        blas=any(step.op.cost.blas for step in steps),
        small=UNLIMITED if total <= SMALL_NS or quick else 0,
        brief=UNLIMITED if total <= SMALL_NS / 2 or quick else None,
        outputs=len(outputs),
        recognized=recognized,
    )


def place_of(step: Step) -> str:
    """Which op a step is, and where the user called it."""
    function = f" in {step.code.co_qualname}" if step.code is not None else ""
    return f"op {step.op.name!r}, called at {site(step.code, step.lasti)}{function}"


def known_call(plan: Plan, compiled: CompiledReplay, chain: Chain, name: str) -> Op:
    """Make the op of all steps of a plan, for arguments that are known to be what the chain is for."""
    inputs = range(plan.inputs)
    return Op(
        name,
        compiled.kernel_for_known(chain, straight_line(plan, plan.steps, inputs, plan.outputs, name)),
        infer=_inference(plan, plan.steps, inputs, plan.outputs),
        cost=lambda values, params: compiled.cost(chain.ns),
        small=UNLIMITED,
        brief=UNLIMITED,
        outputs=len(plan.outputs),
        recognized=True,
    )


def traced(plan: Plan, inputs: Sequence[int], name: str, explain: Callable[[Step], str] = place_of) -> Op:
    """Make the op of all steps, in the form that a backend gets which takes functions as they are."""
    kept = schedule(plan.steps, plan.outputs)
    steps = [
        TracedStep(
            step.op.name,
            step.op.kernel,
            dict(step.params or {}),
            step.inputs,
            tuple(step.outputs()),
            frees,
            partial(explain, step),
            step.op,
        )
        for step, frees in zip(plan.steps, kept.frees, strict=True)
    ]
    given = set(inputs)
    constants = {
        slot: value
        for slot, value in enumerate(plan.initial)
        if slot not in given and isinstance(value, np.ndarray | np.generic | complex | float | int)
    }
    return Op(
        name,
        Traced(name, steps, inputs, plan.outputs, constants),
        infer=_inference(plan, plan.steps, inputs, plan.outputs),
        outputs=len(plan.outputs),
    )


# ---------------------------------------------------------------------------------------------------------------------
# Cost and shape


def cost_of(plan: Plan, step: Step) -> float | None:
    """Estimate the nanoseconds of a step; None where a shape is not known."""
    values: list[object] = []
    for slot in step.inputs:
        value = plan.initial[slot]
        if value is None or not isinstance(value, np.ndarray | bool | int | float | complex | np.generic):
            its = plan.described.get(slot, UNKNOWN)
            if not is_complete(its):
                return None
            value = _stand_in(its.shape, its.dtype)
        values.append(value)
    return OVERHEAD_NS + step.op.cost.estimate(values, step.params or {})


@lru_cache(maxsize=1024)
def _stand_in(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """An array of this shape that takes no memory."""
    return np.broadcast_to(np.zeros((), dtype), shape)


def _cost(costs: Sequence[float | None], steps: Sequence[Step]) -> Estimate:
    known = [cost for cost in costs if cost is not None]
    if len(known) == len(costs):
        total = sum(known)
        return lambda values, params: total
    fixed = OVERHEAD_NS * len(steps)

    def estimate(values: Sequence[Any], params: Params) -> float:
        return fixed + 2.0 * len(steps) * max((np.size(value) for value in values), default=1)

    return estimate


def _compiled_cost(costs: Sequence[float | None], steps: Sequence[Step], compiled: CompiledReplay) -> Estimate:
    otherwise = _cost(costs, steps)
    return lambda values, params: compiled.cost(otherwise(values, params))


def _inference(plan: Plan, steps: Sequence[Step], inputs: Sequence[int], outputs: Sequence[int]) -> Infer:
    constants = [describe(plan.initial[slot]) for slot in outputs]
    described = [
        its if isinstance(its, ShapeDtype) else plan.described.get(slot, UNKNOWN)
        for slot, its in zip(outputs, constants, strict=True)
    ]
    if all(map(is_complete, described)):
        known = described[0] if len(described) == 1 else tuple(described)
        return lambda *operands: known

    def infer(*operands: object) -> ShapeDtype | tuple[ShapeDtype, ...]:
        values: dict[int, Any] = dict(zip(inputs, operands, strict=True))
        for step in steps:
            read = [values.get(slot, plan.initial[slot]) for slot in step.inputs]
            values.update(zip(step.outputs(), infer_node(step.op, read, step.params), strict=True))
        results = tuple(values.get(slot, its) for slot, its in zip(outputs, described, strict=True))
        return results[0] if len(results) == 1 else results

    return infer


# ---------------------------------------------------------------------------------------------------------------------
# Code


class _Writer:
    """Writes the function: a line for each step, with names used again as soon as their values are not needed."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._names: dict[int, str] = {}
        self._free: list[str] = []
        self._made = 0
        self._kernels: dict[int, str] = {}
        self.constants: dict[str, Any] = {"asarray": np.asarray}
        """Names that the code uses: kernels, parameters and constants."""

    def bind(self, slot: int, name: str) -> None:
        self._names[slot] = name

    def name(self, slot: int) -> str:
        """The name of a value: of a result, an argument, or a constant."""
        known = self._names.get(slot)
        return self._constant(slot) if known is None else known

    def _constant(self, slot: int) -> str:
        name = f"c{slot}"
        self.constants[name] = self._plan.initial[slot]
        self._names[slot] = name
        return name

    def _new(self) -> str:
        if self._free:
            return self._free.pop()
        self._made += 1
        return f"v{self._made}"

    def line(self, index: int, step: Step, frees: Sequence[int]) -> str:
        """The line of one step."""
        call = self._call(index, step)
        names = [self._new() for _ in step.outputs()]
        for slot, name in zip(step.outputs(), names, strict=True):
            self._names[slot] = name
        parts = [f"{', '.join(names)} = {self._wrapped(call, step)}"]
        if step.op.outputs > 1:
            parts += [f"{name} = asarray({name})" for name in names]
        for slot in frees:
            name = self._names.pop(slot, "")
            if name.startswith("v"):
                self._free.append(name)
                if self._is_large(slot):
                    parts.append(f"{name} = None")
        return "; ".join(parts)

    def _call(self, index: int, step: Step) -> str:
        kernel = self._kernels.setdefault(id(step.op.kernel), f"k{len(self._kernels)}")
        self.constants[kernel] = step.op.kernel
        arguments = [self.name(slot) for slot in step.inputs]
        for name, value in (step.params or {}).items():
            self.constants[f"p{index}_{name}"] = value
            arguments.append(f"{name}=p{index}_{name}")
        return f"{kernel}({', '.join(arguments)})"

    def _wrapped(self, call: str, step: Step) -> str:
        """NumPy gives scalars in place of arrays without dimensions: only those need to be made arrays again."""
        its = self._plan.described[step.slot]
        return call if step.op.outputs > 1 or its.shape else f"asarray({call})"

    def _is_large(self, slot: int) -> bool:
        its = self._plan.described.get(slot, UNKNOWN)
        return not is_complete(its) or size_of(its) >= LET_GO_BYTES


def straight_line(
    plan: Plan, steps: Sequence[Step], inputs: Sequence[int], outputs: Sequence[int], name: str
) -> Kernel:
    """Write the steps as one function of the input slots; an error in it says which step it comes from."""
    writer = _Writer(plan)
    arguments = [f"a{index}" for index in range(len(inputs))]
    for slot, argument in zip(inputs, arguments, strict=True):
        writer.bind(slot, argument)
    frees = schedule(steps, outputs).frees
    lines = [writer.line(index, step, free) for index, (step, free) in enumerate(zip(steps, frees, strict=True))]
    results = [writer.name(slot) for slot in outputs]
    lines.append(f"return {results[0]}" if len(results) == 1 else f"return ({', '.join(results)})")
    given = "".join(f"{argument}, " for argument in arguments)
    source = [f"def kernel({given}):", " try:", *(f"  {line}" for line in lines)]
    source += [" except Exception as error:", f"  if is_refusal(error): return again({given})"]
    source += ["  explain(error)", "  raise"]
    module = compile("\n".join(source), f"<engine.function {name}>", "exec")
    code = next(each for each in module.co_consts if isinstance(each, CodeType))
    namespace = writer.constants
    namespace["explain"] = lambda error: explain(error, code, steps)
    namespace["is_refusal"], namespace["__warningregistry__"] = is_refusal, REFUSES
    namespace["again"] = lambda *values: _one_by_one(plan, steps, dict(zip(inputs, values, strict=True)), outputs)
    exec(module, namespace)
    kernel: Kernel = namespace.pop("kernel")  # or it would be in a cycle, and keep what the plan holds
    return kernel


def _one_by_one(plan: Plan, steps: Sequence[Step], values: dict[int, Any], outputs: Sequence[int]) -> Any:
    """Call the steps and return the results: each is called where the user wrote it, for warnings to say so."""
    for step in steps:
        read = [values[slot] if slot in values else plan.initial[slot] for slot in step.inputs]
        try:
            result = call_at(step.code, step.lasti, step.op.kernel, read, step.params or {})
        except Exception as error:
            forget_refusal(error)
            error.add_note(place_of(step))
            raise
        results = result if step.op.outputs > 1 else (result,)
        values.update(zip(step.outputs(), map(np.asarray, results), strict=True))
    given = [values[slot] if slot in values else plan.initial[slot] for slot in outputs]
    return given[0] if len(given) == 1 else tuple(given)


FIRST_LINE = 3
"""The line of the first step in the code."""


def explain(error: Exception, code: CodeType, steps: Sequence[Step]) -> None:
    """Note which step of the code raised the error, and where the user wrote it."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code is not code:
        trace = trace.tb_next
    index = (trace.tb_lineno if trace is not None and trace.tb_lineno is not None else 0) - FIRST_LINE
    if 0 <= index < len(steps):
        error.add_note(place_of(steps[index]))
