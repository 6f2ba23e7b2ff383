"""A small program of a user, which type checkers pass in their strict modes."""

import asyncio
from typing import Any, assert_type

import numpy as np
from numpy.typing import NDArray

import engine
from engine import ops
from handles import AsyncHandle, Handle


@engine.op
def scaled(x: NDArray[np.float64], factor: float) -> NDArray[np.float64]:
    return x * factor


@engine.op(name="fetched", shape=((3,), "float64"))
async def fetched(delay: float) -> NDArray[np.float64]:
    await asyncio.sleep(delay)
    return np.ones(3)


@engine.op(num_outputs=2)
def extremes(x: NDArray[np.float64]) -> tuple[np.float64, np.float64]:
    return x.min(), x.max()


@engine.function
def polynomial(x: Handle) -> Handle:
    return x * x + 2.0 * x + 1.0


async def main() -> None:
    config = engine.Config(device_count={"CPU": 2}, max_pending_ops=1_000)
    async with engine.Executor(config, execution_mode=engine.ASYNC) as executor:
        x = ops.linspace(0.0, 1.0, 5)
        assert_type(x, Handle)
        y = ops.sqrt(1 - x * x)
        assert_type(y[1:], Handle)
        print(y.shape, y.dtype, y.ndim)
        print(await ops.mean(y), await polynomial(x), await scaled(x, 2.0), await fetched(0.0))
        async with engine.scope(timeout=10.0, priority=1) as scope:
            part = ops.sum(y, axis=0, keepdims=True)
        assert_type(scope.cancelled, bool)
        assert_type(scaled(x, 2.0), Handle)
        least, most = extremes(x)
        assert_type(least + most, Handle)
        values = await engine.gather(x, y, part)
        assert_type(values, list[np.ndarray[Any, Any]])
        async for handle in engine.as_completed([x, y]):
            print(handle.is_ready())
        assert_type(y.cancel(), engine.CancelOutcome)
        with engine.device("CPU:1"):
            there = ops.add(x, np.ones(5))
        total: float = float(await ops.sum(there.to_device("CPU:0")))
        print(total, executor.statistics())
        try:
            await ops.linalg.inv(ops.zeros((2, 2)))
        except np.linalg.LinAlgError as error:
            print(error.__notes__)
        await engine.drain()
        await engine.synchronize()
    print(isinstance(x, AsyncHandle))


if __name__ == "__main__":
    asyncio.run(main())
